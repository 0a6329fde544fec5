"""What happens to accepted sessions, from the submission of their job to its outputs.

`next_step` decides, from the ledger and one snapshot of the platform; `Lifecycle` does it. Each change is in
the ledger before it is acted on, so a planner that was killed continues where it was: the job of a session
carries the session's uuid, is looked for before it is submitted again, and never runs twice. While nothing
is live the loop sleeps.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import structlog

from planner_app.execution_broker.models import Phase
from planner_app.planner.config import PlannerConfig
from planner_app.planner.demand import OUTPUTS, DataMissing, check_mount
from planner_app.planner.ledger import Ask, Ledger, Level, Note, Reserved, SessionRow
from planner_app.planner.observing import Observation, Observer
from planner_app.planner.quoting import Demand
from planner_app.planner.staging import Download, Stager, Unfetchable, discard, downloads_of
from planner_app.planner.starts import Starts
from planner_app.planner.steps import Step, job_of, next_step, outcome_of, program_document
from planner_app.planner.thread import OneThread
from planner_app.platforms.protocol import JobSpec, JobStatus, Platform, PlatformDown, Snapshot, SubmissionRefused

__all__ = ["Lifecycle", "now_utc", "program_document"]

log = structlog.get_logger(__name__)

SUBMISSIONS_AT_ONCE = 4
AT_ONCE = 8
"""Requests that are quoted on before others have their turn: some milliseconds."""
TRY_AGAIN = timedelta(seconds=10)
"""Pause after something that should not have happened."""
LOOK_AGAIN = timedelta(seconds=30)
"""Longest pause while sessions live on a platform that tells of changes: what it did not tell is seen then."""
EXPIRE_TOGETHER = timedelta(seconds=0.2)
"""Offers whose time is over so soon one after the other are ended in one look; till then nobody can accept them."""
_AWAKE = datetime.min.replace(tzinfo=UTC)
ORPHANS_EVERY = timedelta(seconds=10)
"""Time between two attempts to cancel a job whose session is over."""
_T = TypeVar("_T")


def now_utc() -> datetime:
    """The present."""
    return datetime.now(UTC)


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
        self.observer = Observer(platform, clock, self.wake)
        self._starts = Starts(platform, clock)
        self._stager = Stager(config.staging)
        # One thread: the ledger is written by one at a time, and the loop never waits for a disc.
        self._thread = OneThread("ledger")
        self._wake = asyncio.Event()
        self._sleeps_until: datetime | None = None
        self._busy: dict[UUID, asyncio.Task[None]] = {}
        self._not_before: dict[UUID, datetime] = {}
        self._staging: dict[UUID, asyncio.Task[int]] = {}
        self._submissions = asyncio.Semaphore(SUBMISSIONS_AT_ONCE)
        self._orphans: dict[str, datetime] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._checkpoint: asyncio.Task[None] | None = None

    @property
    def observation(self) -> Observation:
        """The latest news of the platform."""
        return self.observer.latest

    async def in_thread(self, call: Callable[..., _T], *arguments: Any, **named: Any) -> _T:
        """Call the ledger without holding up everybody else."""
        done = await self._thread.call(call, *arguments, **named)
        self._look_at_log()
        return done

    async def reserve(self, asks: Sequence[Ask]) -> list[Reserved | Exception]:
        """Quote on requests and reserve what is offered.

        Offers wait for no disc: where nothing else is being written they are made here and now, a few at a time. On
        its way to the thread and back a request would spend a fifth of what it costs.
        """
        done: list[Reserved | Exception] = []
        while len(done) < len(asks) and self._thread.idle:
            if done:
                await asyncio.sleep(0)  # others have their turn, who may give the thread something to do
                if not self._thread.idle:
                    break
            made = self.ledger.reserve_now(asks[len(done) : len(done) + AT_ONCE])
            if made is None:
                break
            done += made
        if len(done) < len(asks):
            done += await self._thread.call(self.ledger.reserve_all, asks[len(done) :])
        self._look_at_log()
        return done

    def _look_at_log(self) -> None:
        if self.ledger.wants_checkpoint and (self._checkpoint is None or self._checkpoint.done()):
            self._checkpoint = asyncio.create_task(self._take_over(), name="checkpoint")

    async def _take_over(self) -> None:
        try:
            await asyncio.to_thread(self.ledger.checkpoint)
        except Exception as error:  # noqa: BLE001 - what is on disc is safe, and the next one may do it
            log.warning("no checkpoint of the ledger", why=str(error))

    def directory(self, session: UUID) -> Path:
        """The directory of a session on the shared storage."""
        return self.config.storage.jobs / str(session)

    def wake(self) -> None:
        """Look at the sessions now: something has changed."""
        self._wake.set()

    def wake_by(self, time: datetime) -> None:
        """Look no later than then; who looks already sees for itself what there is to wait for."""
        if self._sleeps_until is None or time < self._sleeps_until:
            self.wake()

    def start(self) -> None:
        """Start the loop."""
        self._loops = [
            asyncio.create_task(self._run(), name="lifecycle"),
            asyncio.create_task(self.observer.follow(self.wake), name="follow"),
        ]

    async def stop(self) -> None:
        """Stop; what is under way is left to the next start, which finds it in the ledger."""
        tasks = [*self._loops, *self._busy.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._starts.stop()
        await self.observer.stop()
        if self._checkpoint is not None:
            await self._checkpoint
        self._thread.stop()
        self.ledger.close()

    async def snapshot(self, max_age: timedelta) -> Snapshot:
        """Give a snapshot no older than `max_age`; raises PlatformDown where the platform does not answer."""
        return await self.observer.snapshot(max_age)

    async def foretold(self, demand: Demand, snapshot: Snapshot) -> Demand:
        """Say with a demand when the platform itself would start such a job, where it can be had quickly."""
        if not self.platform.foretells:
            return demand
        duration = demand.duration or min(timedelta(hours=1), self.config.limits.walltime)
        return replace(demand, not_before=await self._starts.not_before(demand.minimum, duration, snapshot))

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            self._sleeps_until = _AWAKE
            try:
                pause = await self.look()
            except Exception:
                log.exception("lifecycle")
                pause = TRY_AGAIN.total_seconds()
            self._sleeps_until = None if pause is None else self.clock() + timedelta(seconds=pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def look(self) -> float | None:
        """Look at all sessions once; returns the seconds until the next look, None where nothing is live."""
        await self.in_thread(self.ledger.expire, self.clock())
        rows = await self.in_thread(self.ledger.accepted)
        for row in rows:
            if row.phase is Phase.RELEASING and row.uuid in self._staging:
                self._staging[row.uuid].cancel()  # cancelled while its data is being fetched
        now, waiting = self.clock(), self._not_before
        self._not_before = {row.uuid: waiting[row.uuid] for row in rows if waiting.get(row.uuid, now) > now}
        # Submissions need no news of the platform and do not wait for it.
        new = [row for row in rows if row.job_id is None]
        self._take_steps(new, self.observation.snapshot)
        if len(new) < len(rows):
            # While the platform is down sessions stay as they are, and catch up later.
            with suppress(PlatformDown):
                await self.observer.snapshot(self.config.observe_every * 0.9)
                self._take_steps([row for row in rows if row.job_id is not None], self.observation.snapshot)
        await self._end_orphans({row.uuid for row in rows})
        return self._pause(rows)

    async def _end_orphans(self, live: set[UUID]) -> None:
        """Cancel jobs whose session is over.

        A slurmctld that was killed brings back jobs that ended in its last seconds, and keeps their share until their
        walltime is over; and a submission that was given up may have arrived after all.
        """
        snapshot, now = self.observation.snapshot, self.clock()
        orphans = [
            job
            for job in (snapshot.jobs if snapshot is not None else ())
            if job.session is not None and job.session not in live and not job.state.ended
        ]
        self._orphans = {job.job_id: due for job in orphans if (due := self._orphans.get(job.job_id)) and due > now}
        for job in orphans:
            if job.job_id in self._orphans or job.session is None:
                continue
            self._orphans[job.job_id] = now + ORPHANS_EVERY
            found = await self.in_thread(self.ledger.session, job.session)
            if found is not None and found[0].phase in (Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED):
                log.warning("job without a session", session=str(job.session), job=job.job_id)
                with suppress(PlatformDown):
                    await self.platform.cancel(job.job_id)

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
        finally:
            del self._busy[row.uuid]
            self.wake()

    def _pause(self, rows: list[SessionRow]) -> float | None:
        now = self.clock()
        due: list[datetime] = []
        if (expiry := self.ledger.next_expiry()) is not None:
            due.append(max(expiry, now + EXPIRE_TOGETHER))
        for row in rows:
            if row.uuid in self._busy:
                continue  # the end of its step wakes
            if row.phase is Phase.WAITING:
                due.append(max(row.reserved.start, self._not_before.get(row.uuid, row.reserved.start)))
            elif row.uuid in self._not_before:
                due.append(self._not_before[row.uuid])
            else:
                due.append(now + (LOOK_AGAIN if self.platform.tells else self.config.observe_every))
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
            job = job_of(row, offerset.program, directory)
            await asyncio.to_thread(self._make_ready, job)
            if (downloads := downloads_of(offerset.program)) and not await self._stage(row, downloads):
                return
            async with self._submissions:
                job_id = await self.platform.submit(job)  # or the id of the one that an earlier attempt left
        except (SubmissionRefused, DataMissing) as error:
            await self._change(
                row, Phase.FAILED, _note("refused", "the platform refused the job: ${why}", "ERROR", why=str(error))
            )
            await asyncio.to_thread(discard, directory)
        except (PlatformDown, OSError) as error:
            if self.clock() > row.start.end + row.duration:
                await self._change(
                    row, Phase.FAILED,
                    _note("not-submitted", "the job could not be submitted in time: ${why}", "ERROR", why=str(error)),
                )  # fmt: skip
                await asyncio.to_thread(discard, directory)
                return
            raise PlatformDown(str(error)) from error
        else:
            note = _note("submitted", "the platform calls the job ${job}", job=job_id)
            # Not only while PREPARING: whoever cancelled meanwhile needs the job's id as well.
            await self.in_thread(self.ledger.note, row.uuid, self.clock(), note, job_id=job_id, submitted=self.clock())
            log.info("submitted", session=str(row.uuid), job=job_id)

    def _make_ready(self, job: JobSpec) -> None:
        (job.directory / OUTPUTS).mkdir(parents=True, exist_ok=True)
        for mount in job.mounts:
            if not mount.source.is_relative_to(job.directory):
                # Looked at when it was asked for; what lies there may have become a symbolic link since.
                check_mount(mount.source, self.config.storage)

    async def _stage(self, row: SessionRow, downloads: list[Download]) -> bool:
        """Fetch a session's data; returns False where its job is not to be submitted."""
        began = self.clock()
        task = asyncio.create_task(self._stager.stage(downloads, self.directory(row.uuid)), name=f"stage {row.uuid}")
        self._staging[row.uuid] = task
        try:
            fetched = await task
        except Unfetchable as error:
            note = _note("not-fetched", "data could not be fetched: ${why}", "ERROR", why=str(error))
            await self._change(row, Phase.FAILED, note)
            return False
        except asyncio.CancelledError:
            if not task.cancelled() or (this := asyncio.current_task()) is None or this.cancelling():
                raise  # the planner stops, and fetches anew when it starts
            return False
        finally:
            del self._staging[row.uuid]
            task.cancel()
        if fetched:
            seconds = f"{(self.clock() - began).total_seconds():.1f}"
            note = _note("fetched", "${bytes} bytes fetched in ${seconds} s", bytes=str(fetched), seconds=seconds)
            await self.in_thread(self.ledger.note, row.uuid, self.clock(), note)
        return True

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
            await asyncio.to_thread(discard, self.directory(row.uuid))
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
        await asyncio.to_thread(discard, self.directory(row.uuid))
        await self._change(row, phase, await self._epitaph(row, phase))

    async def _epitaph(self, row: SessionRow, phase: Phase) -> Note:
        """What is said last, for who reads no more than that: where it failed, why."""
        if phase is not Phase.FAILED:
            return _note("over", "the session is over")
        found = await self.in_thread(self.ledger.session, row.uuid)
        errors = [event.note.message for event in found[2] if event.note.level == "ERROR"] if found else []
        return _note("failed", "the session failed: ${why}", "ERROR", why=errors[-1] if errors else "nobody knows")


_URN = "urn:caesar:planner:"


def _note(kind: str, template: str, level: Level = "INFO", **values: str) -> Note:
    return Note(_URN + kind, template, values, level)
