#!/usr/bin/env python3
"""Many planners in one process, each on a port of its own, which answer after a set time. For other benchmarks.

    .venv/bin/python benchmarks/stub_planners.py --count 30 --answer-ms 20 [--hang 1] [--run-ms 200]

Writes the ports as JSON on the first line of its output, then serves until its input ends. `GET /slowest` on the
first port tells how long the slowest of the planners took since it was last asked, from the request read to the
answer written: what they took themselves, however busy the machine is.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import uvloop
from planner_app.execution_broker import kinds


class Planners:
    """The sessions of all planners, and how long answers took."""

    def __init__(self, answer_s: float, run_s: float) -> None:
        self.answer_s, self.run_s = answer_s, run_s
        self.accepted: dict[str, float] = {}
        self.rejected: set[str] = set()
        self.slowest = 0.0
        self.base = int(time.time() * 1e6) << 48
        self.count = 0

    def offer_set(self, price: float) -> dict[str, Any]:
        """One offer of two cores."""
        now = datetime.now(UTC)
        self.count += 1
        number = f"{self.base + self.count:032x}"
        uuid = f"{number[:8]}-{number[8:12]}-4{number[13:16]}-8{number[17:20]}-{number[20:]}"
        stamp = now.isoformat()[:26] + "Z"
        offer = {
            "kind": kinds.SCHEDULED_SESSION,
            "meta": {"uuid": uuid},
            "phase": "OFFERED",
            "expires": (now + timedelta(minutes=5)).isoformat().replace("+00:00", "Z"),
            "compute": {
                "kind": kinds.SIMPLE_COMPUTE,
                "cores": {"min": 1, "max": 1},
                "memory": {"min": 4, "max": 4},
            },
            "schedule": {"available": {"start": f"{stamp}/PT0S", "duration": "PT1H"}},
            "costs": [{"kind": kinds.SIMPLE_COST, "type": kinds.COST_TYPE_PREFIX + "monetary", "max": price}],
            "metrics": [],
        }
        return {"kind": kinds.OFFERSET, "meta": {"created": stamp}, "result": "YES", "offers": [offer]}

    def session(self, uuid: str, body: bytes) -> dict[str, Any]:
        """A session after an update, or as it is now; what was accepted runs for a while."""
        if b'"ACCEPTED"' in body:
            self.accepted[uuid] = time.monotonic()
        elif body:
            self.rejected.add(uuid)
        began = self.accepted.get(uuid)
        phase = "OFFERED" if began is None else "AVAILABLE"
        if uuid in self.rejected:
            phase = "REJECTED" if began is None else "CANCELLED"
        elif began is not None and time.monotonic() - began >= self.run_s:
            phase = "COMPLETED"
        return {"meta": {"uuid": uuid}, "phase": phase}


class Connection(asyncio.Protocol):
    """One connection of the voter."""

    def __init__(self, planners: Planners, price: float, hangs: bool) -> None:
        self.planners, self.price, self.hangs = planners, price, hangs
        self.buffer = b""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, sign, rest = self.buffer.partition(b"\r\n\r\n")
        if not sign:
            return
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n")[0]) if at >= 0 else 0
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        began = time.monotonic()
        method, path, _ = head.split(b"\r\n")[0].decode().split()
        if path == "/slowest":
            self.answer({"slowest_ms": 1000 * self.planners.slowest}, None)
            self.planners.slowest = 0.0
        elif path == "/requests":
            if not self.hangs:
                later = asyncio.get_running_loop().call_later
                later(self.planners.answer_s, lambda: self.answer(self.planners.offer_set(self.price), began))
        elif path.endswith("/outputs"):
            self.answer([], None)
        else:
            uuid = path.split("/")[2]
            self.answer(self.planners.session(uuid, rest[:length] if method == "POST" else b""), None)

    def answer(self, document: Any, began: float | None) -> None:
        body = orjson.dumps(document)  # as the planners write it
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)
        if began is not None:
            self.planners.slowest = max(self.planners.slowest, time.monotonic() - began)


async def serve(count: int, answer_ms: float, hang: int, run_ms: float) -> None:
    planners = Planners(answer_ms / 1000, run_ms / 1000)
    loop, ports = asyncio.get_running_loop(), []
    for number in range(count):
        price = 0.1 + number / 1000
        hangs = number >= count - hang
        server = await loop.create_server(
            lambda price=price, hangs=hangs: Connection(planners, price, hangs), "127.0.0.1", 0, backlog=1024
        )
        ports.append(server.sockets[0].getsockname()[1])
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.buffer.read)
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--answer-ms", type=float, default=20)
    parser.add_argument("--hang", type=int, default=0)
    parser.add_argument("--run-ms", type=float, default=200)
    chosen = parser.parse_args()
    uvloop.run(serve(chosen.count, chosen.answer_ms, chosen.hang, chosen.run_ms))


if __name__ == "__main__":
    main()
