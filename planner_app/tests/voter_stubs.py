"""Planners that answer as they are told, over real sockets, and a voter to ask them."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from planner_app.execution_broker import kinds
from planner_app.execution_broker.codecs import JSON, acceptable
from planner_app.execution_broker.models import ExecutionRequest
from planner_app.execution_broker.times import format_duration, format_instant
from planner_app.voter.api import create_app
from planner_app.voter.ballots import Ballots
from planner_app.voter.config import VoterConfig
from planner_app.voter.planners import Planner, Planners

HOUR = timedelta(hours=1)
Behaviour = Callable[["StubPlanner", str, str, bytes], Awaitable[bytes | None]]


def http(status: int, body: Any, content_type: str = "application/json", **headers: str) -> bytes:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {content_type}", f"Content-Length: {len(payload)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + payload


class StubPlanner:
    """A planner that answers as it is told; what it was asked is kept."""

    def __init__(self, name: str, behaviour: Behaviour | None = None, **offer: Any) -> None:
        self.name = name
        self.behaviour = behaviour
        self.offer_changes = offer
        self.sessions: dict[str, str] = {}
        self.messages: list[str] = []
        self.capabilities: dict[str, Any] = {}
        self.calls: list[tuple[str, str, Any]] = []
        self.traces: list[str] = []
        self.named: dict[str, str] = {}
        """Names of the sessions' requests."""
        self.ran: set[str] = set()
        self.url = ""
        self.accept = ""
        """The header of the last call."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                method, path, _ = lines[0].split()
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                assert headers["authorization"] == f"bearer token-of-{self.name}"
                self.calls.append((method, path, json.loads(body) if body else None))
                self.traces.append(headers.get("traceparent", ""))
                self.accept = headers.get("accept", "")
                answer = await self.behaviour(self, method, path, body) if self.behaviour else None
                if answer == b"close":
                    break
                if answer == b"drip":
                    # Something comes all the time, and never all of it.
                    writer.write(b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n{")
                    while True:
                        writer.write(b" ")
                        await writer.drain()
                        await asyncio.sleep(0.05)
                writer.write(self.normal(method, path, body) if answer is None else answer)
                await writer.drain()
                if answer is not None and answer.endswith(b"#half"):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def normal(self, method: str, path: str, body: bytes) -> bytes:
        if path == "/requests":
            request = ExecutionRequest.model_validate_json(body)
            offer = self.offer()
            self.named[offer["meta"]["uuid"]] = str(request.executable.meta.name)  # type: ignore[union-attr]
            return http(200, self.offer_set(offer))
        if path == "/capabilities":
            return http(200, {"name": "somebody else", "quota": {"cores": 4}} | self.capabilities)
        session, _, rest = path.removeprefix("/sessions/").partition("/")
        # As planners do: who takes JSON only gets no bytes.
        kind = {"stdout": "text/plain", "outputs/catalog-x.json": "application/octet-stream"}.get(rest, JSON)
        if acceptable(self.accept, [kind]) is None:
            return http(406, {"title": "Not Acceptable"}, "application/problem+json")
        if rest == "stdout":
            return http(200, b"found 58 islands\n", "text/plain")
        if rest == "outputs":
            return http(200, [{"name": "catalog-x.json", "size": 12}])
        if rest == "outputs/catalog-x.json":
            return http(200, {"sources": []}, kind)
        if session not in self.sessions:
            return http(404, {"title": "Not Found"}, "application/problem+json")
        if method == "POST":
            self.sessions[session] = json.loads(body)["value"]
        return http(200, self.session(session))

    def session(self, session: str) -> dict[str, Any]:
        messages = [{"message": message} for message in self.messages]
        return {"meta": {"uuid": session, "messages": messages}, "phase": self.sessions[session]}

    def offer(self, **changes: Any) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "uuid": str(uuid4()),
            "cores": 2,
            "memory": 4,
            "start": datetime.now(UTC),
            "duration": HOUR,
            "expires": datetime.now(UTC) + timedelta(minutes=1),
            "monetary": 0.1,
        }
        fields |= self.offer_changes | changes
        self.sessions[fields["uuid"]] = "OFFERED"
        return {
            "kind": kinds.SCHEDULED_SESSION,
            "meta": {"uuid": fields["uuid"], "url": "http://evil.example/sessions/1"},
            "phase": "OFFERED",
            "expires": format_instant(fields["expires"]),
            "compute": {
                "kind": kinds.SIMPLE_COMPUTE,
                "cores": {"min": fields["cores"], "max": fields["cores"]},
                "memory": {"min": fields["memory"], "max": fields["memory"]},
            },
            "schedule": {
                "available": {
                    "start": format_instant(fields["start"]) + "/PT0S",
                    "duration": format_duration(fields["duration"]),
                }
            },
            "costs": [
                {"kind": kinds.SIMPLE_COST, "type": kinds.COST_TYPE_PREFIX + "monetary", "max": fields["monetary"]}
            ],
            "metrics": [],
        }

    @staticmethod
    def offer_set(*offers: dict[str, Any], **changes: Any) -> dict[str, Any]:
        meta = {"uuid": str(uuid4()), "created": format_instant(datetime.now(UTC))}
        return {"kind": kinds.OFFERSET, "meta": meta, "result": "YES", "offers": list(offers)} | changes

    def phases(self) -> list[str]:
        return list(self.sessions.values())


@asynccontextmanager
async def running(*planners: StubPlanner) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for planner in planners:
            server = await asyncio.start_server(planner.serve, "127.0.0.1", 0)
            planner.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            stack.callback(server.close)
        yield


class VoterUnderTest:
    """A voter with a client to talk to it; may be killed and started again on the same database."""

    def __init__(self, directory: Path, *planners: StubPlanner, slurm_key: bytes = b"", **changes: Any) -> None:
        self.slurm_key = slurm_key
        self.directory = directory
        self.planners = planners
        (directory / "data").mkdir(exist_ok=True)
        self.document = {
            "listen": {"host": "127.0.0.1", "port": 8100},
            "url": "http://voter",
            "database": f"sqlite:///{directory}/ballots.sqlite",
            "storage": {"data": str(directory / "data"), "max_upload_bytes": 1000, "keep_free_bytes": 0},
            "deadline": "PT1S",
            "accept_timeout": "PT1S",
            "poll_every": "PT0.05S",
            "clients_file": "/unused",
            "planners_file": "/unused",
            "apps": {
                "aegean": {
                    "image": "caesar/aegean-job:2.3.5",
                    "cores": {"min": 1, "max": 4},
                    "memory_gib": {"min": 2, "max": 8},
                    "duration": "PT1H",
                    "options": ["--run"],
                }
            },
        } | changes
        self.config = VoterConfig.model_validate(self.document)

    def app(self) -> Any:
        planners = Planners([Planner(p.name, p.url, f"token-of-{p.name}") for p in self.planners])
        clients = {hashlib.sha256(b"secret").hexdigest(): "tester"}
        return create_app(self.config, planners, Ballots(self.config.database), clients, self.slurm_key)

    @asynccontextmanager
    async def up(self) -> AsyncIterator[httpx.AsyncClient]:
        app = self.app()
        async with lifespan_of(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://voter", headers={"Authorization": "Bearer secret"}
            ) as client:
                yield client


@asynccontextmanager
async def lifespan_of(app: Any) -> AsyncIterator[None]:
    """Start and stop an application as a server does, in the same task group as the test."""
    inbox: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    outbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}}, inbox.get, outbox.put))
    await inbox.put({"type": "lifespan.startup"})
    assert (await outbox.get())["type"] == "lifespan.startup.complete"
    try:
        yield
    finally:
        await inbox.put({"type": "lifespan.shutdown"})
        await task


async def uploaded(client: httpx.AsyncClient, name: str = "image.fits") -> str:
    reply = await client.post("/uploads", params={"name": name}, content=b"SIMPLE  = T")
    assert reply.status_code == 201, reply.text
    return str(reply.json()["uuid"])


async def vote(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    body = {"app": "aegean"} | changes
    if body.get("accept", True):
        body.setdefault("upload", await uploaded(client))
    reply = await client.post("/ballots", json=body)
    assert reply.status_code == 201, reply.text
    result: dict[str, Any] = reply.json()
    return result


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result if isinstance(result, bool) else await result:
            return
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


def why(ballot: dict[str, Any]) -> dict[str, str]:
    return {candidate["planner"]: candidate["reason"] for candidate in ballot["candidates"]}


def gives(answer: bytes | Callable[[StubPlanner], bytes], path: str = "/requests") -> Behaviour:
    async def behaviour(stub: StubPlanner, method: str, called: str, body: bytes) -> bytes | None:
        if called != path and not (path == "POST session" and method == "POST" and "/sessions/" in called):
            return None
        return answer if isinstance(answer, bytes) else answer(stub)

    return behaviour


# --- what caesar-rest submits -----------------------------------------------------------------------------

NAME = "0123456789abcdef0123456789abcdef"
JOBS = "/mnt/storage/caesar-rest/jobs"


def submission(
    name: str = NAME,
    options: str = "--run --save-summaryplot --save-regions  --save-catalog-to-json  --seedthr=5.0",
    *,
    data: str = "/mnt/storage/data/caesar-rest",
    jobs: str = JOBS,
    app_data: str = "/opt/caesar-rest/data",
    app_jobs: str = "/opt/caesar-rest/jobs",
    user: str = "anonymous",
    file: str = "0a1b.fits",
    **job: Any,
) -> dict[str, Any]:
    """The body of a submission for app aegean, word for word as caesar-rest 6c34a9c writes it."""
    inside, outdir = f"{app_data}/{user}/{file}", f"{app_jobs}/{user}/job_{name}"
    script = (
        "#!/bin/bash \n sleep 10 \n singularity run --containall --no-home "
        f"--scratch /home/cirasa/{name} -B {jobs}/{user}/job_{name}:{outdir} -B {data}/{user}/{file}:{inside} "
        f"--env CHANGE_RUNUSER=0 --env JOB_DIR=/home/cirasa/{name} --env JOB_OPTIONS='{options} --inputfile={inside}' "
        f"--env JOB_OUTDIR={outdir} /opt/containers/aegean/aegean-job_latest.sif"
    )
    described = {
        "name": name,
        "environment": {"PATH": "/bin:/usr/bin/:/usr/local/bin/"},
        "current_working_directory": "/home/cirasa",
        "cpus_per_task": 1,
        "tasks": 1,
    }
    return {"script": script, "job": described | job}
