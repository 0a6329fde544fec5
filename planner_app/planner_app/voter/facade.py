"""Jobs of caesar-rest, which takes the voter for a Slurm: each is voted on behind the answer to its submission.

A job is on record before caesar-rest is told its number, and its ballot's id follows from the job and the number
of the attempt: a voter that was killed at any instant finds on its next start which ballots were held already,
and goes on where it was. What an ended ballot means for its job `judge.py` decides.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID, uuid4, uuid5

import structlog

from planner_app.execution_broker.times import parse_instant
from planner_app.voter.ballots import State, now_text
from planner_app.voter.config import Amount, Slurmrestd, VoterConfig
from planner_app.voter.deliver import NotDelivered, deliver, leave, prepare
from planner_app.voter.explain import explain
from planner_app.voter.jobs import Job, Jobs, JobState
from planner_app.voter.judge import Judgement, judge
from planner_app.voter.policy import Policy
from planner_app.voter.requests import Wish
from planner_app.voter.service import Order, Voter
from planner_app.voter.slurm_script import Refused, Submission, read_submission

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_BALLOTS = UUID("5b0c3c1e-8f0e-4a51-9f52-0b8f0e6d1d7a")
"""Namespace of the ids of jobs' ballots."""
_LONGEST_WAIT = 60.0
_DELIVERIES = 20
"""Attempts to bring outputs home before the job fails."""
MOST_LIVE = 20_000
"""Jobs that may wait and run at once; more are refused, since each takes memory."""
_BURST, _BURST_SECONDS, _HELD_BACK = 10, 0.25, 2.0
"""So many submissions in so many seconds are a burst: then votes begin this many seconds later at most. Whoever
submits waits for the answer, and nobody for the vote."""
_RUNS = frozenset({"AVAILABLE", "RUNNING", "RELEASING"})


class Facade:
    """The voter as caesar-rest sees it."""

    def __init__(self, config: VoterConfig, slurmrestd: Slurmrestd, voter: Voter) -> None:
        self._config = config
        self._slurm = slurmrestd
        self._voter = voter
        self._jobs = Jobs(voter.ballots.database)
        self._live: dict[int, Job] = {}
        self._seen: dict[int, tuple[str, str | None]] = {}
        """Phase and start of the sessions of live jobs."""
        self._votes = asyncio.Semaphore(slurmrestd.votes_at_once)
        self._latest: deque[float] = deque(maxlen=_BURST)
        """When the last submissions came."""
        self._wakes: dict[int, asyncio.Event] = {}
        voter.on_change = self._look

    async def load(self) -> None:
        """Read what is unfinished; to be called before the voter starts, which tells of the ballots then."""
        for job in await self._jobs.unfinished():
            self._keep(job)

    def start(self) -> None:
        """Go on with all jobs; to be called after the voter took up its ballots, so that none is held twice."""
        for job in self._live.values():
            self._voter.spawn(self._drive(job))

    def _keep(self, job: Job) -> None:
        self._live[job.id] = job
        self._wakes[job.id] = asyncio.Event()

    def _look(self, ballot: dict[str, Any]) -> None:
        if (of := ballot.get("job")) is not None and of["id"] in self._live:
            self._seen[of["id"]] = (str(ballot["phase"]), ballot.get("started"))

    # --- the three calls ------------------------------------------------------------------------------

    async def submit(self, body: Any) -> int:
        """Take a job and return its number, which is on disc then.

        Raises Refused.
        """
        self._latest.append(time.monotonic())
        submission = read_submission(body, PurePosixPath(self._slurm.data), PurePosixPath(self._slurm.jobs))
        images = self._slurm.images
        app = images.get(submission.image) or images.get(PurePosixPath(submission.image).name)
        if app is None:
            raise Refused(f"the image {submission.image} is not known here; known are {', '.join(sorted(images))}")
        if len(self._live) >= MOST_LIVE:
            raise Refused(f"{MOST_LIVE} jobs wait or run already")
        name = submission.name
        document = {
            "submission": _submission_document(submission),
            "app": app,
            "trace": name if re.fullmatch("[0-9a-f]{32}", name) else uuid4().hex,
            "submitted": now_text(),
            "avoid": [],
            "reason": "",
        }
        job, new = await self._jobs.add(name, document)
        if new:
            log.info("submitted", job=job.id, name=name, user=submission.user, trace=document["trace"])
            self._keep(job)
            self._voter.spawn(self._drive(job, new=True))
        return job.id

    async def list(self, ids: Sequence[int] | None) -> list[dict[str, Any]]:
        """Show jobs as Slurm does: those of the numbers given, else all live ones and the last hundred."""
        if ids is not None:
            found = {job.id: job for job in await self._jobs.get(ids)}
        else:
            found = {job.id: job for job in await self._jobs.latest(100)} | self._live
        return [self._show(self._live.get(number, job)) for number, job in sorted(found.items())]

    async def cancel(self, number: int) -> bool:
        """Cancel a job; whether there is one of that number. What has ended stays as it is."""
        job = self._live.get(number)
        if job is None:
            return bool(await self._jobs.get([number]))
        job.cancelled = True
        await self._jobs.save(job)
        if (wake := self._wakes.get(number)) is not None:
            wake.set()
        return True

    def _show(self, job: Job) -> dict[str, Any]:
        document, state = job.document, job.state
        started, ended = document.get("started"), document.get("ended")
        if not state.ended:
            phase, started = self._seen.get(job.id, ("", None))
            if phase in _RUNS and started is not None:
                state, ended = JobState.RUNNING, now_text()
            else:
                started = None
        start = _epoch(started)
        end = _epoch(ended) if start or job.state.ended else 0
        return {
            "job_id": job.id,
            "name": job.name,
            "user_name": self._slurm.user,
            "job_state": state,
            "state_reason": document["reason"] or "None",
            "submit_time": _epoch(document["submitted"]),
            # caesar-rest takes the end less the start for the time that it ran, also while it runs.
            "start_time": start or end,
            "end_time": end,
            "exit_code": document.get("exit_code", 0),
            "cpus": document["submission"]["cores"],
            "partition": document.get("planner", ""),
            "comment": document["trace"],
        }

    # --- what happens behind the answer -----------------------------------------------------------------

    async def _drive(self, job: Job, *, new: bool = False) -> None:
        pause = 1.0
        while True:
            try:
                await self._run(job, new=new)
            except Exception as error:
                log.error("job held up", job=job.id, exc_info=error)
                new = False
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_WAIT)
            else:
                return

    async def _run(self, job: Job, *, new: bool) -> None:
        """Vote on a job, and again, until it has ended."""
        pause = self._slurm.try_again.total_seconds()
        while True:
            ballot = await self._vote(job, new=new)
            new = False
            if ballot is None:
                await self._finish(job, Judgement(JobState.CANCELLED, "cancelled before the vote"), None)
                return
            judgement = judge(ballot, job.cancelled, self._slurm.attempts - job.attempt)
            if judgement.state.ended:
                await self._finish(job, judgement, ballot)
                return
            log.warning("voting again", job=job.id, trace=job.document["trace"], reason=judgement.reason)
            job.attempt += 1
            job.document["reason"] = judgement.reason
            self._seen.pop(job.id, None)
            if judgement.avoid is not None:
                job.document["avoid"] = [*job.document["avoid"], judgement.avoid]
            await self._jobs.save(job)
            if judgement.avoid is None:
                await self._pause(job, pause)
                pause = min(2 * pause, _LONGEST_WAIT)

    async def _pause(self, job: Job, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wakes[job.id].wait()
        except TimeoutError:
            pass

    async def _vote(self, job: Job, *, new: bool) -> dict[str, Any] | None:
        """Hold the ballot of the present attempt, or find it held; wait for its end. None where it is not wanted.

        That of a job that came just now nobody can have held.
        """
        ballot = str(uuid5(_BALLOTS, f"{job.id}/{job.name}/{job.attempt}"))
        if new or await self._voter.ballots.get(ballot) is None:
            turn = asyncio.ensure_future(self._votes.acquire())
            wake = asyncio.ensure_future(self._wakes[job.id].wait())
            try:
                await asyncio.wait({turn, wake}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                wake.cancel()
                if not turn.done():
                    turn.cancel()
            if job.cancelled:
                if turn.done() and not turn.cancelled():
                    self._votes.release()
                return None
            try:
                await self._calm()
                await self._voter.vote(self._order(job, ballot))
            finally:
                self._votes.release()
        cancelling = asyncio.create_task(self._cancel_when_asked(job, ballot))
        try:
            return await self._voter.wait(ballot)
        finally:
            cancelling.cancel()

    async def _calm(self) -> None:
        """Let a burst of submissions go first, for a while."""
        until = time.monotonic() + _HELD_BACK
        while (
            len(self._latest) == _BURST and (now := time.monotonic()) - self._latest[0] < _BURST_SECONDS and now < until
        ):
            await asyncio.sleep(_BURST_SECONDS / 5)

    async def _cancel_when_asked(self, job: Job, ballot: str) -> None:
        """Cancel the session once caesar-rest wants that, until its planner takes it."""
        if not job.cancelled:
            await self._wakes[job.id].wait()
        wait = 0.5
        while True:
            found = await self._voter.ballots.get(ballot)
            if found is not None and found["state"] == State.RUNNING:
                done, reason = await self._voter.cancel(found)
                if done:
                    return
                log.warning("not cancelled yet", job=job.id, reason=reason)
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _order(self, job: Job, ballot: str) -> Order:
        said, name = job.document["submission"], job.document["app"]
        avoid = set(job.document["avoid"])
        others = tuple(each for each in self._voter.planners.names() if each not in avoid) if avoid else ()
        return Order(
            ballot=ballot,
            app_name=name,
            # The script has all the words; ours would come on top of them.
            app=self._config.apps[name].model_copy(update={"options": []}),
            wish=Wish(cores=Amount(min=said["cores"], max=said["cores"]), options=tuple(said["options"])),
            policy=Policy.parse(self._config.policy, self._config.policies),
            only=others,
            accept=True,
            input_path=said["input"],
            upload=None,
            client="caesar-rest",
            user=said["user"],
            trace=job.document["trace"],
            job={"id": job.id, "name": job.name, "attempt": job.attempt},
        )

    async def _finish(self, job: Job, judgement: Judgement, ballot: dict[str, Any] | None) -> None:
        """Bring the outputs, then record the end: whoever reads that it has ended finds them."""
        if ballot is not None:
            judgement = await self._deliver(job, judgement, ballot)
        document = job.document
        document["reason"], document["exit_code"] = judgement.reason[:1000], judgement.exit_code
        document["ended"] = (ballot or {}).get("ended") or now_text()
        if ballot is not None and ballot.get("started"):
            document["started"] = ballot["started"]
        if ballot is not None and ballot["winner"]:
            document["planner"], document["session"] = ballot["winner"]["planner"], ballot["winner"]["session"]
        job.state = judgement.state
        await self._jobs.save(job)
        for table in (self._live, self._seen, self._wakes):
            table.pop(job.id, None)
        self._voter.metrics.jobs.labels(judgement.state).inc()
        log.info("job ended", job=job.id, trace=document["trace"], state=judgement.state, reason=document["reason"])

    async def _deliver(self, job: Job, judgement: Judgement, ballot: dict[str, Any]) -> Judgement:
        """Put outputs and explanation into the job's directory; a job whose outputs can not be had has failed."""
        directory = Path(job.document["submission"]["directory"])
        planner = self._voter.planners.get(ballot["winner"]["planner"]) if ballot["winner"] else None
        wait, reason = 1.0, ""
        for _ in range(_DELIVERIES):
            try:
                await asyncio.to_thread(prepare, self._slurm.jobs, directory)
                if planner is not None and ballot.get("started"):
                    await deliver(
                        self._voter.planners,
                        planner,
                        ballot["winner"]["session"],
                        directory,
                        f"job_{job.name}.log",
                        self._config.accept_timeout,
                    )
                leave(directory, f"job_{job.name}.ballot.json", explain(ballot))
            except NotDelivered as error:
                reason = str(error)
                log.warning("outputs not delivered yet", job=job.id, reason=reason)
                if judgement.state is not JobState.COMPLETED:
                    break  # nobody waits for the outputs of what failed
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
            else:
                return judgement
        if judgement.state is JobState.COMPLETED:
            return Judgement(JobState.FAILED, f"done, and the outputs can not be had: {reason}", 1 << 8)
        return judgement


def _submission_document(submission: Submission) -> dict[str, Any]:
    return {
        "user": submission.user,
        "image": submission.image,
        "cores": submission.cores,
        "options": list(submission.options),
        "input": submission.input_path,
        "directory": submission.directory,
    }


def _epoch(text: str | None) -> int:
    if not text:
        return 0
    try:
        moment: datetime = parse_instant(text)
    except ValueError:
        return int(time.time())
    return int(moment.timestamp())
