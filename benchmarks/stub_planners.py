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

# What an answer consists of; only these few are written anew each time. Three hundred planners have three hundred
# machines where the stubs have a part of one, which they share with the voter: what they compute is not theirs.
_ANSWER = orjson.dumps(
    {
        "kind": kinds.OFFERSET,
        "meta": {"created": "%(created)s"},
        "result": "YES",
        "offers": [
            {
                "kind": kinds.SCHEDULED_SESSION,
                "meta": {"uuid": "%(uuid)s"},
                "phase": "OFFERED",
                "expires": "%(expires)s",
                "compute": {
                    "kind": kinds.SIMPLE_COMPUTE,
                    "cores": {"min": 1, "max": 1},
                    "memory": {"min": 4, "max": 4},
                },
                "schedule": {"available": {"start": "%(created)s/PT0S", "duration": "PT1H"}},
                "costs": [{"kind": kinds.SIMPLE_COST, "type": kinds.COST_TYPE_PREFIX + "monetary", "max": "%(price)s"}],
                "metrics": [],
            }
        ],
    }
).replace(b'"%(price)s"', b"%(price)s")
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


def _stamp(instant: datetime) -> bytes:
    return (instant.isoformat(timespec="microseconds")[:26] + "Z").encode()


class Planners:
    """The sessions of all planners, and how long answers took."""

    def __init__(self, answer_s: float, run_s: float) -> None:
        self.answer_s, self.run_s = answer_s, run_s
        self.accepted: dict[str, float] = {}
        self.rejected: set[str] = set()
        self.slowest = 0.0
        self.base = int(time.time() * 1e6) << 48
        self.count = 0

    def offer_set(self, price: bytes) -> bytes:
        """One offer of one core."""
        now = datetime.now(UTC)
        self.count += 1
        number = f"{self.base + self.count:032x}"
        body = _ANSWER % {
            b"uuid": f"{number[:8]}-{number[8:12]}-4{number[13:16]}-8{number[17:20]}-{number[20:]}".encode(),
            b"created": _stamp(now),
            b"expires": _stamp(now + timedelta(minutes=5)),
            b"price": price,
        }
        return _HEAD % len(body) + body

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
        self.planners, self.price, self.hangs = planners, b"%g" % price, hangs
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
        if head.startswith(b"POST /requests "):
            if not self.hangs:
                asyncio.get_running_loop().call_later(self.planners.answer_s, self.offer, began)
            return
        method, path, _ = head.split(b"\r\n")[0].decode().split()
        if path == "/slowest":
            self.answer({"slowest_ms": 1000 * self.planners.slowest})
            self.planners.slowest = 0.0
        elif path == "/capabilities":
            quota = {"cores": 8, "memory_gib": 64}
            self.answer({"quota": quota, "free": {"cores": 4, "memory_gib": 32}})
        elif path.endswith("/outputs"):
            self.answer([])
        else:
            uuid = path.split("/")[2]
            self.answer(self.planners.session(uuid, rest[:length] if method == "POST" else b""))

    def offer(self, began: float) -> None:
        """Answer a request that was read then."""
        self.transport.write(self.planners.offer_set(self.price))
        self.planners.slowest = max(self.planners.slowest, time.monotonic() - began)

    def answer(self, document: Any) -> None:
        body = orjson.dumps(document)
        self.transport.write(_HEAD % len(body) + body)


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
