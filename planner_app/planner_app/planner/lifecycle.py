"""What happens to accepted sessions, from the submission of their job to its outputs.

`next_step` decides, from the ledger and one snapshot of the platform; `Lifecycle` does it. Each change is in
the ledger before it is acted on, so a planner that was killed continues where it was: the job of a session
carries the session's uuid, is looked for before it is submitted again, and never runs twice. While nothing
is live the loop sleeps.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import structlog

from planner_app.execution_broker.models import Phase
from planner_app.planner.config import PlannerConfig
from planner_app.planner.demand import Program
from planner_app.planner.ledger import Ledger, Level, Note, SessionRow
from planner_app.platforms.protocol import (
    Image,
    JobSpec,
    JobState,
    JobStatus,
    Mount,
    Platform,
    PlatformDown,
    Snapshot,
    SubmissionRefused,
)

log = structlog.get_logger(__name__)

SEEN_WITHIN = timedelta(seconds=30)
"""A job that no snapshot has shown for so long after its submission is looked for by itself."""
SUBMISSIONS_AT_ONCE = 4
TRY_AGAIN = timedelta(seconds=10)
"""Pause after something that should not have happened."""
_T = TypeVar("_T")


def now_utc() -> datetime:
    """The present."""
    return datetime.now(UTC)


class Step(Enum):
    """What a session needs next."""

    NOTHING = auto()
    WAIT = auto()
    PREPARE = auto()
    SUBMIT = auto()
    LOOK = auto()
    RUNNING = auto()
    ENDED = auto()
    CANCEL = auto()
    COLLECT = auto()


def next_step(row: SessionRow, job: JobStatus | None, snapshot: Snapshot | None, now: datetime) -> Step:
    """Decide what a session needs, from what the ledger and the platform say of it."""
    match row.phase:
        case Phase.ACCEPTED | Phase.WAITING:
            if now >= row.reserved.start:
                return Step.PREPARE
            return Step.WAIT if row.phase is Phase.ACCEPTED else Step.NOTHING
        case Phase.PREPARING if row.job_id is None:
            return Step.SUBMIT
        case Phase.PREPARING | Phase.AVAILABLE:
            if job is None:
                return Step.LOOK if _should_be_seen(row, snapshot) else Step.NOTHING
            if job.state.ended:
                return Step.ENDED
            return Step.RUNNING if job.state is JobState.RUNNING and row.phase is Phase.PREPARING else Step.NOTHING
        case Phase.RELEASING:
            if row.outcome is not Phase.CANCELLED or row.ended is not None:
                return Step.COLLECT
            if row.job_id is None:
                return Step.LOOK
            if job is None:
                return Step.LOOK if _should_be_seen(row, snapshot) else Step.CANCEL
            return Step.ENDED if job.state.ended else Step.CANCEL
        case _:
            return Step.NOTHING


def _should_be_seen(row: SessionRow, snapshot: Snapshot | None) -> bool:
    return snapshot is not None and row.submitted is not None and snapshot.taken > row.submitted + SEEN_WITHIN


def outcome_of(job: JobStatus) -> Phase:
    """How the session of an ended job ends."""
    return {JobState.COMPLETED: Phase.COMPLETED, JobState.CANCELLED: Phase.CANCELLED}.get(job.state, Phase.FAILED)


def program_document(program: Program) -> dict[str, Any]:
    """Give a program as plain values, for the ledger."""
    return {
        "image": {
            "name": program.image.name,
            "digest": program.image.digest,
            "kubernetes": program.image.kubernetes,
            "slurm": str(program.image.slurm),
        },
        "entrypoint": program.entrypoint,
        "command": list(program.command),
        "environment": dict(program.environment),
        "mounts": [[str(mount.source), mount.target, mount.read_only] for mount in program.mounts],
    }


def job_of(row: SessionRow, program: Mapping[str, Any], directory: Path) -> JobSpec:
    """Make the job of a session from what the ledger holds."""
    image = program["image"]
    return JobSpec(
        session=row.uuid,
        image=Image(image["name"], image["digest"], image["kubernetes"], Path(image["slurm"])),
        entrypoint=program["entrypoint"],
        command=tuple(program["command"]),
        environment=program["environment"],
        cores=row.amount.cores,
        memory_gib=row.amount.memory_gib,
        disc_gb=row.amount.disc_gb,
        walltime=row.duration,
        begin=None,
        mounts=tuple(
            Mount(directory / source, target, read_only)  # an absolute source stays what it is
            for source, target, read_only in program["mounts"]
        ),
        directory=directory,
    )


@dataclass
class Observation:
    """The latest news of the platform."""

    snapshot: Snapshot | None = None
    failed: datetime | None = None
    """When it last did not answer; None since it answered."""
    why: str = ""
    seconds: float = 0.0
    count: int = 0


class Lifecycle:
    """Drives all sessions of one platform."""

    def __init__(
        self,
        config: PlannerConfig,
        ledger: Ledger,
        platform: Platform,
        clock: Callable[[], datetime] = now_utc,
    ) -> None:
        self.config = config
        self.ledger = ledger
        self.platform = platform
        self.clock = clock
        self.observation = Observation()
        # One thread: the ledger is written by one at a time, and the loop never waits for a disc.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._observing: asyncio.Task[Snapshot] | None = None
        self._wake = asyncio.Event()
        self._busy: dict[UUID, asyncio.Task[None]] = {}
        self._not_before: dict[UUID, datetime] = {}
        self._submissions = asyncio.Semaphore(SUBMISSIONS_AT_ONCE)
        self._loop: asyncio.Task[None] | None = None

    async def in_thread(self, call: Callable[..., _T], *arguments: Any, **named: Any) -> _T:
        """Call the ledger without holding up everybody else."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: call(*arguments, **named))

    def directory(self, session: UUID) -> Path:
        """The directory of a session on the shared storage."""
        return self.config.storage.jobs / str(session)

    def wake(self) -> None:
        """Look at the sessions now: something has changed."""
        self._wake.set()

    def start(self) -> None:
        """Start the loop."""
        self._loop = asyncio.create_task(self._run(), name="lifecycle")

    async def stop(self) -> None:
        """Stop; what is under way is left to the next start, which finds it in the ledger."""
        tasks = [task for task in (self._loop, self._observing, *self._busy.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(PlatformDown):
            await self.platform.close()
        self._thread.shutdown()
        self.ledger.close()

    async def snapshot(self, max_age: timedelta) -> Snapshot:
        """Give a snapshot no older than `max_age`; those who ask at the same time share one observation.

        Raises PlatformDown where the platform does not answer, at once where it did not just before.
        """
        latest, failed = self.observation.snapshot, self.observation.failed
        now = self.clock()
        if failed is not None and now - failed < max_age and self._observing is None:
            raise PlatformDown(self.observation.why)
        if failed is None and latest is not None and now - latest.taken <= max_age:
            return latest
        if self._observing is None or self._observing.done():
            self._observing = asyncio.create_task(self._observe(), name="observe")
            # Whoever waits may have gone: the outcome is then nobody's, and is kept all the same.
            self._observing.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._observing)

    async def _observe(self) -> Snapshot:
        began = asyncio.get_running_loop().time()
        try:
            snapshot = await self.platform.observe()
        except Exception as error:
            if not isinstance(error, PlatformDown):
                log.exception("observation")  # an answer that the driver does not understand is none
            if self.observation.failed is None:
                log.warning("platform does not answer", why=str(error))
            self.observation.failed, self.observation.why = self.clock(), str(error)
            raise PlatformDown(str(error)) from error
        finally:
            self.observation.count += 1
            self.observation.seconds = asyncio.get_running_loop().time() - began
            self._observing = None
        if self.observation.failed is not None:
            log.info("platform answers again")
        self.observation.failed, self.observation.snapshot = None, snapshot
        return snapshot

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                pause = await self.look()
            except Exception:
                log.exception("lifecycle")
                pause = TRY_AGAIN.total_seconds()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def look(self) -> float | None:
        """Look at all sessions once; returns the seconds until the next look, None where nothing is live."""
        await self.in_thread(self.ledger.expire, self.clock())
        rows = await self.in_thread(self.ledger.live)
        self._not_before = {row.uuid: self._not_before[row.uuid] for row in rows if row.uuid in self._not_before}
        # Submissions need no news of the platform and do not wait for it.
        new = [row for row in rows if row.job_id is None]
        self._take_steps(new, self.observation.snapshot)
        if len(new) < len(rows):
            # While the platform is down sessions stay as they are, and catch up later.
            with suppress(PlatformDown):
                await self.snapshot(self.config.observe_every * 0.9)
                self._take_steps([row for row in rows if row.job_id is not None], self.observation.snapshot)
        return self._pause(rows)

    def _take_steps(self, rows: list[SessionRow], snapshot: Snapshot | None) -> None:
        jobs = {job.session: job for job in snapshot.jobs} if snapshot is not None else {}
        now = self.clock()
        for row in rows:
            if row.uuid in self._busy or self._not_before.get(row.uuid, now) > now:
                continue
            job = jobs.get(row.uuid)
            step = next_step(row, job, snapshot, now)
            if step is not Step.NOTHING:
                self._busy[row.uuid] = asyncio.create_task(self._step(step, row, job), name=f"session {row.uuid}")

    async def _step(self, step: Step, row: SessionRow, job: JobStatus | None) -> None:
        try:
            await self._do(step, row, job)
        except PlatformDown as error:
            log.warning("platform does not answer", session=str(row.uuid), why=str(error))
            self._not_before[row.uuid] = self.clock() + self.config.observe_every
        except Exception:
            log.exception("session", session=str(row.uuid), step=step.name)
            self._not_before[row.uuid] = self.clock() + TRY_AGAIN
        else:
            self.wake()
        finally:
            del self._busy[row.uuid]

    def _pause(self, rows: list[SessionRow]) -> float | None:
        now = self.clock()
        due: list[datetime] = []
        for row in rows:
            if row.uuid in self._busy:
                continue  # the end of its step wakes
            if row.phase is Phase.OFFERED:
                due.append(row.expires)
            elif row.phase is Phase.WAITING:
                due.append(max(row.reserved.start, self._not_before.get(row.uuid, row.reserved.start)))
            else:
                due.append(now + self.config.observe_every)
        return max((min(due) - now).total_seconds(), 0.0) if due else None

    async def _do(self, step: Step, row: SessionRow, job: JobStatus | None) -> None:
        match step:
            case Step.WAIT:
                await self._change(row, Phase.WAITING, _note("waiting", "waiting for the start"))
            case Step.PREPARE:
                if await self._change(row, Phase.PREPARING, _note("preparing", "the job is being submitted")):
                    await self._submit(row)
            case Step.SUBMIT:
                await self._submit(row)
            case Step.RUNNING if job is not None:
                await self._running(row, job)
            case Step.ENDED if job is not None:
                await self._ended(row, job)
            case Step.LOOK:
                await self._look_for(row)
            case Step.CANCEL:
                await self.platform.cancel(str(row.job_id))
                self._not_before[row.uuid] = self.clock() + self.config.observe_every
            case Step.COLLECT:
                await self._collect(row)

    async def _change(self, row: SessionRow, phase: Phase, note: Note, **columns: Any) -> bool:
        changed = await self.in_thread(self.ledger.change, row.uuid, self.clock(), [row.phase], phase, note, **columns)
        if changed:
            log.info("session", session=str(row.uuid), phase=str(phase), why=note.message)
        return changed

    async def _submit(self, row: SessionRow) -> None:
        found = await self.in_thread(self.ledger.session, row.uuid)
        if found is None or found[0].phase is not Phase.PREPARING:
            return  # cancelled meanwhile
        row, offerset, _ = found
        if offerset.program is None:
            await self._change(row, Phase.FAILED, _note("no-program", "the ledger has no program to run", "ERROR"))
            return
        directory = self.directory(row.uuid)
        try:
            await asyncio.to_thread(_make_directories, directory)
            job = job_of(row, offerset.program, directory)
            async with self._submissions:
                job_id = await self.platform.submit(job)  # or the id of the one that an earlier attempt left
        except SubmissionRefused as error:
            await self._change(
                row, Phase.FAILED, _note("refused", "the platform refused the job: ${why}", "ERROR", why=str(error))
            )
        except (PlatformDown, OSError) as error:
            if self.clock() > row.start.end + row.duration:
                await self._change(
                    row, Phase.FAILED,
                    _note("not-submitted", "the job could not be submitted in time: ${why}", "ERROR", why=str(error)),
                )  # fmt: skip
                return
            raise PlatformDown(str(error)) from error
        else:
            note = _note("submitted", "the platform calls the job ${job}", job=job_id)
            # Not only while PREPARING: whoever cancelled meanwhile needs the job's id as well.
            await self.in_thread(self.ledger.note, row.uuid, self.clock(), note, job_id=job_id, submitted=self.clock())
            log.info("submitted", session=str(row.uuid), job=job_id)

    async def _running(self, row: SessionRow, job: JobStatus) -> None:
        await self._change(row, Phase.AVAILABLE, _note("running", "the job runs"), started=job.started or self.clock())

    async def _ended(self, row: SessionRow, job: JobStatus) -> None:
        outcome = row.outcome or outcome_of(job)
        # The platform's own words have the exit code in them, each in its way.
        values = {"state": job.reason or f"{job.state} {job.exit_code}"}
        level: Level = "ERROR" if outcome is Phase.FAILED else "INFO"
        await self._change(
            row, Phase.RELEASING, Note(f"{_URN}ended", "the job ended: ${state}", values, level),
            outcome=outcome, started=row.started or job.started, ended=job.ended or self.clock(), job_id=job.job_id,
        )  # fmt: skip

    async def _look_for(self, row: SessionRow) -> None:
        job = await self.platform.find(row.uuid)
        if job is not None and job.state.ended:
            await self._ended(row, job)
        elif job is not None:
            await self.in_thread(
                self.ledger.note, row.uuid, self.clock(),
                _note("found", "the platform calls the job ${job}", job=job.job_id),
                job_id=job.job_id, submitted=self.clock(),
            )  # fmt: skip
        elif row.phase is Phase.RELEASING:
            await self._change(row, row.outcome or Phase.CANCELLED, _note("no-job", "no job was left"))
        else:
            await self._change(
                row, Phase.RELEASING, _note("lost", "the platform does not know the job any more", "ERROR"),
                outcome=Phase.FAILED, ended=self.clock(),
            )  # fmt: skip

    async def _collect(self, row: SessionRow) -> None:
        phase = row.outcome or Phase.FAILED
        try:
            if row.job_id is not None:
                await self.platform.collect(row.job_id, self.directory(row.uuid))
        except OSError as error:
            note = _note("not-collected", "the output could not be kept: ${why}", "WARN", why=str(error))
            await self.in_thread(self.ledger.note, row.uuid, self.clock(), note)
        await self._change(row, phase, await self._epitaph(row, phase))

    async def _epitaph(self, row: SessionRow, phase: Phase) -> Note:
        """What is said last, for who reads no more than that: where it failed, why."""
        if phase is not Phase.FAILED:
            return _note("over", "the session is over")
        found = await self.in_thread(self.ledger.session, row.uuid)
        errors = [event.note.message for event in found[2] if event.note.level == "ERROR"] if found else []
        return _note("failed", "the session failed: ${why}", "ERROR", why=errors[-1] if errors else "nobody knows")


def _make_directories(directory: Path) -> None:
    (directory / "outputs").mkdir(parents=True, exist_ok=True)


_URN = "urn:caesar:planner:"


def _note(kind: str, template: str, level: Level = "INFO", **values: str) -> Note:
    return Note(_URN + kind, template, values, level)
