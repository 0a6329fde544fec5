#!/usr/bin/env python3
"""How quick one planner is: requests, sessions, a sequential client, a full ledger, and its idle memory.

The planner is a process of its own with the real API, lifecycle and ledger on disc; only its platform is a stub
that runs every job at once, so that nothing but the planner is measured. The client is another process, which
shares the machine's cores with it; only loopback is used. Each request asks for storage that somebody else's job
holds for ten minutes more, so that all three kinds of offer are made, and nobody accepts: offers expire.

Usage: benchmarks/planner.py [--live 200] [--seconds 10] [--database URL] [--profile FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import hashlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

sys.path.insert(0, str(Path(__file__).parents[1] / "planner_app"))

from planner_app.execution_broker import codecs, kinds

TOKEN = "benchmark"
IMAGE = "caesar/aegean-job:2.3.5"
PEER = "peer, as published: 10 to 13 requests/s from a sequential client (Calycopis, 2026-05-26, stress test)"


def configuration(directory: Path, port: int, database: str) -> dict[str, Any]:
    """Room for everything that is offered at once; offers that nobody accepts are over after two seconds."""
    return {
        "name": "benchmark",
        "kind": "slurm",
        "listen": {"host": "127.0.0.1", "port": port},
        "url": f"http://127.0.0.1:{port}",
        "database": database,
        "quota": {"cores": 10**6, "memory_gib": 10**6, "disc_gb": 10**6},
        "limits": {"cores": 8, "memory_gib": 64, "walltime": "PT24H", "jobs": 10**6},
        "costs": {"monetary": 0.01, "energy": 0.012, "carbon": 3.1},
        "metrics": {"compute-performance": 90},
        "offers": {"expire_after": "PT2S", "shares": {"voter": 1}},
        "storage": {"root": str(directory), "data": str(directory / "data"), "jobs": str(directory / "jobs")},
        "images_file": "/nowhere",
        "tokens_file": "/nowhere",
        "slurm": {"account": "benchmark", "partition": "vp"},
    }


def serve(directory: Path, port: int, database: str, profile: str | None) -> None:
    """Run the planner until SIGTERM."""
    sys.modules["rich"] = None  # type: ignore[assignment]  # as the service does
    from planner_app.logs import log_json_lines
    from planner_app.planner import server
    from planner_app.planner.api import create_app
    from planner_app.planner.config import PlannerConfig
    from planner_app.planner.ledger import Ledger
    from planner_app.planner.lifecycle import Lifecycle
    from planner_app.planner.service import Service
    from planner_app.planner.tokens import Tokens
    from planner_app.platforms.images import ImageTable
    from planner_app.platforms.protocol import Image, JobSpec, JobState, JobStatus, Snapshot

    class Stub:
        """Every job runs as soon as it is submitted."""

        separates_stderr, tells, foretells = True, False, False

        def __init__(self) -> None:
            now = datetime.now(UTC)
            other = JobStatus("1", None, JobState.RUNNING, "", 1, 1, 10**6, now, now, None, now + timedelta(600), None)
            self.jobs = {"1": replace(other, ends_by=now + timedelta(minutes=10))}

        async def changed(self) -> None:
            await asyncio.Event().wait()

        async def observe(self) -> Snapshot:
            return Snapshot(datetime.now(UTC), tuple(self.jobs.values()))

        async def submit(self, job: JobSpec) -> str:
            found, now = await self.find(job.session), datetime.now(UTC)
            if found is None:
                found = JobStatus(
                    str(len(self.jobs) + 1), job.session, JobState.RUNNING, "", job.cores, job.memory_gib, job.disc_gb,
                    now, now, None, now + job.walltime, None,
                )  # fmt: skip
                self.jobs[found.job_id] = found
            return found.job_id

        async def find(self, session: UUID) -> JobStatus | None:
            return next((job for job in self.jobs.values() if job.session == session), None)

        async def cancel(self, job_id: str) -> None:
            del self.jobs[job_id]

        async def peek(self, job_id: str, directory: Path) -> None:
            return None

        async def collect(self, job_id: str, directory: Path) -> None:
            return None

        async def close(self) -> None:
            return None

    config = PlannerConfig.model_validate(configuration(directory, port, database))
    for path in (config.storage.data, config.storage.jobs):
        path.mkdir(exist_ok=True)
    log_json_lines()
    image = Image(IMAGE, "sha256:" + "a" * 64, "docker.io/" + IMAGE, Path("/images/a.sqfs"))
    service = Service(config, ImageTable((image,)), Lifecycle(config, Ledger(database), Stub()))
    app = create_app(service, Tokens({"voter": hashlib.sha256(TOKEN.encode()).hexdigest()}))
    if profile is None:
        server._listen(app, config)
    else:
        cProfile.runctx("listen(app, config)", {"listen": server._listen, "app": app, "config": config}, {}, profile)


class Connection(asyncio.Protocol):
    """One connection to the planner, one request at a time; no HTTP library is as cheap."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._reply: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._data[:end]).lower()
        at = head.index(b"content-length:") + 15
        length = int(head[at : head.find(b"\r\n", at) if head.find(b"\r\n", at) > 0 else len(head)])
        if len(self._data) >= end + 4 + length and self._reply is not None:
            reply, self._reply = self._reply, None
            body = bytes(self._data[end + 4 :])
            self._data.clear()
            reply.set_result((int(head[9:12]), body))

    def connection_lost(self, error: Exception | None) -> None:
        if self._reply is not None:
            self._reply.set_exception(error or ConnectionResetError())

    async def send(self, request: bytes) -> tuple[int, bytes]:
        self._reply = asyncio.get_running_loop().create_future()
        self.transport.write(request)  # type: ignore[attr-defined]
        return await self._reply


def message(method: str, path: str, body: Any = None) -> bytes:
    content = b"" if body is None else codecs.encode(body, codecs.JSON)  # as the voter writes it
    head = f"{method} {path} HTTP/1.1\r\nHost: planner\r\nAuthorization: Bearer {TOKEN}\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return head.encode() + b"\r\n" + content


def asked(disc: int) -> dict[str, Any]:
    return {
        "executable": {
            "kind": kinds.DOCKER_CONTAINER,
            "meta": {"name": "caesar-job"},
            "image": {"locations": [IMAGE]},
            "command": ["--run", "--threshold=5"],
            "environment": {"JOB_OUTDIR": "/output"},
        },
        "compute": {
            "kind": kinds.SIMPLE_COMPUTE,
            "cores": {"min": 1, "max": 8},
            "memory": {"min": 2, "max": 16},
            "volumes": [{"kind": kinds.SIMPLE_VOLUME_MOUNT, "path": "/output", "resource": "out"}],
        },
        "storage": [
            {
                "kind": kinds.SIMPLE_STORAGE,
                "meta": {"name": "out"},
                "size": {"min": 0, "max": disc},
            }
        ],
        "schedule": {"requested": {"duration": "PT12H"}},
    }


class Client:
    """Several connections to one planner."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def connect(self, count: int) -> list[Connection]:
        loop = asyncio.get_running_loop()
        return [(await loop.create_connection(Connection, "127.0.0.1", self.port))[1] for _ in range(count)]

    async def closed(self, connections: int, seconds: float, requests: list[bytes]) -> tuple[list[float], int]:
        """Each connection asks as soon as it has its answer; returns latencies in ms, and how many were not 200."""
        latencies: list[float] = []
        wrong = 0
        until = time.perf_counter() + seconds

        async def one(connection: Connection, number: int) -> None:
            nonlocal wrong
            while (now := time.perf_counter()) < until:
                number += 1
                status, _ = await connection.send(requests[number % len(requests)])
                latencies.append((time.perf_counter() - now) * 1000)
                wrong += status != 200

        await asyncio.gather(*(one(each, 7 * n) for n, each in enumerate(await self.connect(connections))))
        return latencies, wrong

    async def open(self, rate: float, seconds: float, request: bytes) -> tuple[list[float], int]:
        """Ask at fixed instants whatever the answers, each latency from the instant on; the same return."""
        free = await self.connect(32)
        latencies: list[float] = []
        late: list[float] = []
        wrong = 0

        async def one(due: float) -> None:
            nonlocal wrong
            while not free:
                await asyncio.sleep(0.001)
            connection = free.pop()
            late.append((time.perf_counter() - due) * 1000)
            status, _ = await connection.send(request)
            free.append(connection)
            latencies.append((time.perf_counter() - due) * 1000)
            wrong += status != 200

        begin, tasks = time.perf_counter() + 0.01, []
        for number in range(int(rate * seconds)):
            due = begin + number / rate
            # The loop's timers are a millisecond coarse and it wakes late: the last two are waited for awake.
            await asyncio.sleep(max(due - time.perf_counter() - 0.002, 0))
            while time.perf_counter() < due:
                await asyncio.sleep(0)
            tasks.append(asyncio.create_task(one(due)))
        await asyncio.gather(*tasks)
        late.sort()
        p50, p99 = late[len(late) // 2], late[int(len(late) * 0.99)]
        print(f"  of what follows the client itself was late by p50 {p50:.2f} ms, p99 {p99:.2f} ms")
        return latencies, wrong

    async def fill(self, live: int) -> list[str]:
        """Accept so many sessions; returns their uuids."""
        (connection,) = await self.connect(1)
        sessions = []
        update = {"kind": "uri:enum-value-update", "path": "/phase", "value": "ACCEPTED"}
        for _ in range(live):
            _, body = await connection.send(message("POST", "/requests", asked(0)))
            answer = json.loads(body)
            assert answer["offers"], answer
            uuid = answer["offers"][0]["meta"]["uuid"]
            status, body = await connection.send(message("POST", f"/sessions/{uuid}", update))
            assert status == 200, body
            sessions.append(uuid)
        return sessions


async def show(what: str, pid: int, measured: Awaitable[tuple[list[float], int]]) -> None:
    """Print what was measured, and the processor time that the planner itself took for each request."""
    before, begin = cpu(pid), time.perf_counter()
    latencies, wrong = await measured
    seconds, taken = time.perf_counter() - begin, cpu(pid) - before
    latencies.sort()
    p50, p99 = latencies[len(latencies) // 2], latencies[min(int(len(latencies) * 0.99), len(latencies) - 1)]
    rate, each = len(latencies) / seconds, taken / len(latencies) * 1000
    print(
        f"{what:<52} {rate:6.0f}/s  p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  processor {each:5.2f} ms each"
        + f"  not 200: {wrong}" * bool(wrong),
        flush=True,
    )


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Resident memory of a process in MB."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def age(database: str, sessions: int) -> None:
    """Put ended sessions into a ledger, by the thousand."""
    from planner_app.execution_broker.models import Phase
    from planner_app.planner.ledger import Ledger
    from planner_app.planner.ledger.schema import events, offersets
    from planner_app.planner.ledger.schema import sessions as table

    ledger, now = Ledger(database), datetime.now(UTC) - timedelta(days=1)
    with ledger._engine.begin() as connection:
        for _ in range(sessions):
            offerset, session = uuid4(), uuid4()
            connection.execute(
                offersets.insert().values(
                    uuid=offerset, client="voter", created=now, request=json.dumps(asked(10)), reasons="[]"
                )
            )
            connection.execute(
                table.insert().values(
                    uuid=session,
                    offerset=offerset,
                    name="offer-0",
                    phase=Phase.COMPLETED,
                    created=now,
                    modified=now,
                    expires=now,
                    start_from=now,
                    start_until=now,
                    duration=timedelta(hours=1),
                    cores=1,
                    memory_gib=2,
                    disc_gb=0,
                    reserved_from=now,
                    reserved_until=now,
                    costs="{}",
                    metrics="{}",
                )
            )
            for phase in (Phase.ACCEPTED, Phase.PREPARING, Phase.AVAILABLE, Phase.RELEASING, Phase.COMPLETED):
                connection.execute(
                    events.insert().values(
                        session=session, time=now, phase=phase, level="INFO", kind="urn:x", template="x", values="{}"
                    )
                )
    ledger.close()


def with_planner(
    arguments: argparse.Namespace, use: Callable[[Client, int], Awaitable[None]], ended: int = 0, profile: bool = False
) -> None:
    """Start a planner on a new ledger, use it, and stop it."""
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        database = arguments.database or f"sqlite:///{directory}/ledger.sqlite"
        if ended:
            age(database, ended)
        more = ["--profile", arguments.profile] if profile else []
        command = [sys.executable, __file__, "--serve", directory, "--port", str(port), "--database", database, *more]
        environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
        with Path(directory, "log").open("wb") as log:
            planner = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            for _ in range(300):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            asyncio.run(use(Client(port), planner.pid))  # type: ignore[arg-type]
        finally:
            planner.send_signal(signal.SIGTERM)
            planner.wait(20)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How quick one planner is.")
    parser.add_argument("--live", type=int, default=200, help="sessions that run meanwhile")
    parser.add_argument("--seconds", type=float, default=10, help="length of each measurement")
    parser.add_argument("--database", help="SQLAlchemy URL of an empty ledger; SQLite on disc by default")
    parser.add_argument("--directory", default=str(Path.home()), help="where the ledger lies: a disc, not memory")
    parser.add_argument("--profile", help="profile the planner's loop into this file while it is asked; slows it")
    parser.add_argument("--only", choices=["requests", "sessions", "ledger", "memory"], help="only this part")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(Path(arguments.serve), arguments.port, arguments.database, arguments.profile)
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    seconds, only = arguments.seconds, arguments.only
    request = message("POST", "/requests", asked(10))

    async def requests(client: Client, pid: int) -> None:
        await client.fill(arguments.live)
        (connection,) = await client.connect(1)
        answer = json.loads((await connection.send(request))[1])
        assert len(answer["offers"]) == 3, answer
        # What client, loop and sockets take at this rate, with hardly anything done in between.
        await show("GET /health, at 100/s", pid, client.open(100, seconds / 2, message("GET", "/health")))
        await show(
            f"POST /requests, 3 offers, {arguments.live} live, at 100/s", pid, client.open(100, seconds, request)
        )
        await show("the same, one after the other", pid, client.closed(1, seconds, [request]))
        print(f"  {PEER}")
        await show("the same, 32 at once", pid, client.closed(32, seconds, [request]))

    async def sessions(client: Client, pid: int) -> None:
        uuids = await client.fill(arguments.live)
        wanted = [message("GET", f"/sessions/{uuid}") for uuid in uuids]
        await client.closed(1, 1, wanted)
        await show("GET /sessions/{uuid}, 16 at once", pid, client.closed(16, seconds, wanted))

    async def quoting(client: Client, pid: int) -> None:
        await client.closed(1, 0.5, [request])
        await show(f"POST /requests, {ended} ended sessions", pid, client.closed(1, seconds, [request]))

    async def idle(_client: Client, pid: int) -> None:
        await asyncio.sleep(2)
        print(f"{'idle planner, resident':<58} {memory(pid):8.1f} MB")

    if only in (None, "memory"):
        with_planner(arguments, idle)
    if only in (None, "requests"):
        with_planner(arguments, requests, profile=arguments.profile is not None)
    if only in (None, "sessions"):
        with_planner(arguments, sessions, profile=arguments.profile is not None)
    if only in (None, "ledger"):
        for ended in (100, 10_000):
            with_planner(arguments, quoting, ended)


if __name__ == "__main__":
    main()
