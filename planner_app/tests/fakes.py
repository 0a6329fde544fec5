"""A platform in memory, a clock that is set by hand, and a planner made of both."""

import asyncio
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from planner_app.execution_broker import kinds
from planner_app.planner.api import create_app
from planner_app.planner.config import PlannerConfig
from planner_app.planner.ledger import Ledger
from planner_app.planner.lifecycle import Lifecycle
from planner_app.planner.service import Service
from planner_app.planner.tokens import Tokens
from planner_app.platforms.images import ImageTable
from planner_app.platforms.protocol import (
    Image,
    JobSpec,
    JobState,
    JobStatus,
    PlatformDown,
    Snapshot,
    SubmissionRefused,
)
from tests.published import check_reply

NINE = datetime(2026, 11, 24, 9, tzinfo=UTC)
IMAGE = Image(
    "caesar/aegean-job:2.3.5", "sha256:" + "a" * 64, "docker.io/caesar/aegean-job:2.3.5", Path("/images/a.sqfs")
)
TOKENS = {"voter": "secret-of-the-voter", "other": "secret-of-another"}


class Clock:
    """The time, as the test says."""

    def __init__(self, now: datetime = NINE) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class FakePlatform:
    """Jobs in memory; they start and end when the test says so."""

    separates_stderr = True
    tells = False
    foretells = False

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.jobs: dict[str, JobStatus] = {}
        self.specs: list[JobSpec] = []
        self.down = ""
        self.refuses = ""
        self.loses_answer = False
        self.observations = 0
        self.submissions = 0
        self.starts: datetime | None = None
        self.foretold: list[tuple[int, int, int, timedelta]] = []
        self.news = asyncio.Event()
        self.collected: list[str] = []
        self.hangs = False

    def _answer(self) -> None:
        if self.down:
            raise PlatformDown(self.down)

    async def changed(self) -> None:
        await self.news.wait()
        self.news.clear()

    async def observe(self) -> Snapshot:
        self.observations += 1
        if self.hangs:
            await asyncio.sleep(3600)
        self._answer()
        return Snapshot(self.clock(), tuple(self.jobs.values()))

    async def earliest(self, cores: int, memory_gib: int, disc_gb: int, walltime: timedelta) -> datetime | None:
        self.foretold.append((cores, memory_gib, disc_gb, walltime))
        self._answer()
        return self.starts

    async def submit(self, job: JobSpec) -> str:
        self.submissions += 1
        self._answer()
        if self.refuses:
            raise SubmissionRefused(self.refuses)
        there = await self.find(job.session)
        if there is not None:
            return there.job_id
        self.specs.append(job)
        job_id = self.add(job.session, job.cores, job.memory_gib, job.disc_gb)
        if self.loses_answer:
            self.loses_answer = False
            raise PlatformDown("the answer was lost")
        return job_id

    async def find(self, session: UUID) -> JobStatus | None:
        self._answer()
        return next((job for job in self.jobs.values() if job.session == session), None)

    async def cancel(self, job_id: str) -> None:
        self._answer()
        if not self.jobs[job_id].state.ended:
            self.end(job_id, JobState.CANCELLED, None, "CANCELLED by 20001")

    async def peek(self, job_id: str, directory: Path) -> None:
        self._answer()
        (directory / "stdout.log").write_text("58 isl")

    async def collect(self, job_id: str, directory: Path) -> None:
        self._answer()
        self.collected.append(job_id)
        (directory / "stdout.log").write_text("58 islands\n")

    async def close(self) -> None:
        return None

    def add(self, session: UUID | None, cores: int, memory_gib: int, disc_gb: int = 0) -> str:
        """A job that waits."""
        job_id = str(100 + len(self.jobs))
        self.jobs[job_id] = JobStatus(
            job_id, session, JobState.PENDING, "", cores, memory_gib, disc_gb, self.clock(), None, None, None, None
        )
        return job_id

    def run(self, job_id: str, walltime: timedelta | None = timedelta(hours=1)) -> None:
        ends_by = None if walltime is None else self.clock() + walltime
        self.jobs[job_id] = replace(self.jobs[job_id], state=JobState.RUNNING, started=self.clock(), ends_by=ends_by)

    def end(self, job_id: str, state: JobState, exit_code: int | None, reason: str = "") -> None:
        self.jobs[job_id] = replace(
            self.jobs[job_id], state=state, exit_code=exit_code, reason=reason, ended=self.clock()
        )

    def only(self) -> str:
        """The id of the one job of a session."""
        (job,) = (job for job in self.jobs.values() if job.session is not None)
        return job.job_id


def config_at(directory: Path, **changes: Any) -> PlannerConfig:
    storage = directory / "storage"
    document: dict[str, Any] = {
        "name": "slurm-account-001",
        "kind": "slurm",
        "listen": {"host": "127.0.0.1", "port": 8101},
        "url": "http://planner:8101",
        "database": f"sqlite:///{directory / 'ledger.sqlite'}",
        "quota": {"cores": 8, "memory_gib": 32, "disc_gb": 250},
        "limits": {"cores": 4, "memory_gib": 16, "walltime": "PT2H", "jobs": 4},
        "costs": {"monetary": 0.01, "energy": 0.012, "carbon": 3.1},
        "metrics": {"compute-performance": 90},
        "storage": {"root": str(storage), "data": str(storage / "data"), "jobs": str(storage / "jobs")},
        "images_file": "/etc/images.yml",
        "tokens_file": "/etc/tokens",
        "offers": {"shares": {"voter": 1}},
        "slurm": {"account": "slurm-account-001", "partition": "vp"},
    }
    return PlannerConfig.model_validate(document | changes)


class FakePlanner:
    """A planner with its API, on a fake platform and with a clock of its own. Use as async context."""

    def __init__(self, directory: Path, platform: FakePlatform | None = None, **changes: Any) -> None:
        self.directory = directory
        self.config = config_at(directory, **changes)
        (self.config.storage.data / "one").mkdir(parents=True, exist_ok=True)
        (self.config.storage.data / "one" / "map.fits").write_bytes(b"SIMPLE")
        self.config.storage.jobs.mkdir(exist_ok=True)
        self.clock = platform.clock if platform is not None else Clock()
        self.platform = platform or FakePlatform(self.clock)
        self.lifecycle = Lifecycle(self.config, Ledger(self.config.database), self.platform, self.clock)
        self.service = Service(self.config, ImageTable((IMAGE,)), self.lifecycle)
        hashes = {name: hashlib.sha256(token.encode()).hexdigest() for name, token in TOKENS.items()}
        app = create_app(self.service, Tokens(hashes))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(
            transport=transport,
            base_url="http://planner",
            headers={"Authorization": f"Bearer {TOKENS['voter']}"},
            event_hooks={"response": [check_reply]},
        )

    async def __aenter__(self) -> "FakePlanner":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await self.lifecycle.stop()

    async def look(self, times: int = 1) -> None:
        """Let the lifecycle look, and finish what it then begins."""
        for _ in range(times):
            await self.lifecycle.look()
            while tasks := list(self.lifecycle._busy.values()):
                await asyncio.gather(*tasks)

    async def ask(self, **parts: Any) -> dict[str, Any]:
        reply = await self.client.post("/requests", json=request_of(**parts))
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    async def update(self, session: str, value: str) -> httpx.Response:
        return await self.client.post(
            f"/sessions/{session}", json={"kind": kinds.ENUM_VALUE_UPDATE, "path": "/phase", "value": value}
        )

    async def accepted(self, **parts: Any) -> str:
        """Ask and accept the first offer; returns the session's uuid."""
        session = str((await self.ask(**parts))["offers"][0]["meta"]["uuid"])
        reply = await self.update(session, "ACCEPTED")
        assert reply.status_code == 200, reply.text
        assert reply.json()["phase"] == "ACCEPTED"
        return session

    async def phase(self, session: str) -> str:
        return str((await self.session(session))["phase"])

    async def session(self, session: str) -> dict[str, Any]:
        reply = await self.client.get(f"/sessions/{session}")
        assert reply.status_code == 200, reply.text
        return dict(reply.json())


def request_of(
    cores: tuple[int, int | None] = (2, None),
    memory: tuple[int, int | None] = (4, None),
    **parts: Any,
) -> dict[str, Any]:
    """A request of the usual kind."""
    return {
        "executable": {
            "kind": kinds.DOCKER_CONTAINER,
            "meta": {"name": "caesar-job"},
            "image": {"locations": [IMAGE.name]},
            "command": ["--run"],
            "environment": {"JOB_OUTDIR": "/output"},
        },
        "compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": _range(cores), "memory": _range(memory)},
        **parts,
    }


def _range(asked: tuple[int, int | None]) -> dict[str, int]:
    low, high = asked
    return {"min": low} if high is None else {"min": low, "max": high}


def start_in(seconds: float, window: float = 0) -> dict[str, Any]:
    """A schedule that asks for a start so many seconds after nine."""
    start = NINE + timedelta(seconds=seconds)
    return {"requested": {"start": f"{start.isoformat()}/PT{window:g}S", "duration": "PT1H"}}
