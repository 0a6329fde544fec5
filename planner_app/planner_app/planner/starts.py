"""When the platform itself would start a job: asked beside the requests, never before their answer for long.

What is free in the account, by the ledger and the account's own jobs, says when a job may start; whether the
machines underneath have room then, only the platform knows. Slurm tells (sbatch --test-only), rightly as long as
none of the account's jobs waits, and without looking at what the account has used up: so an offer starts at the
later of both (see "Earliest start" in docs/planner.md).
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from planner_app.planner.quoting import Amount
from planner_app.platforms.protocol import JobState, Platform, PlatformDown, Snapshot

log = structlog.get_logger(__name__)

WAIT = 0.25
"""Seconds that the first request for a shape waits for the platform's answer."""
FRESH = timedelta(seconds=10)
"""An answer older than this is asked for again, beside the request."""
USABLE = timedelta(seconds=60)
"""An answer older than this is none."""
SHAPES = 64
"""So many shapes of jobs are remembered."""

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Answer:
    asked: datetime
    start: datetime | None


class Starts:
    """The platform's answers, by the shape of the job."""

    def __init__(self, platform: Platform, clock: Callable[[], datetime]) -> None:
        self._platform = platform
        self._clock = clock
        self._answers: OrderedDict[Shape, _Answer] = OrderedDict()
        self._asking: asyncio.Task[None] | None = None

    async def not_before(self, amount: Amount, duration: timedelta, snapshot: Snapshot) -> datetime | None:
        """Tell when the platform would start such a job at the earliest; None where it does not say."""
        if not self._platform.foretells or any(job.state is JobState.PENDING for job in snapshot.jobs):
            return None
        shape = (amount.cores, amount.memory_gib, amount.disc_gb, math.ceil(duration / timedelta(minutes=1)))
        answer = self._answers.get(shape)
        age = None if answer is None else self._clock() - answer.asked
        if age is None or age > FRESH:
            # One question at a time, whatever is asked of the planner: others do without.
            mine = self._asking is None
            if mine:
                self._asking = asyncio.create_task(self._ask(shape), name="earliest start")
            if mine and (age is None or age > USABLE) and self._asking is not None:
                await asyncio.wait([self._asking], timeout=WAIT)
                answer = self._answers.get(shape)
        if answer is None or self._clock() - answer.asked > USABLE:
            return None
        return answer.start

    async def stop(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self, shape: Shape) -> None:
        cores, memory_gib, disc_gb, minutes = shape
        asked = self._clock()
        try:
            start = await self._platform.earliest(cores, memory_gib, disc_gb, timedelta(minutes=minutes))
        except PlatformDown as error:
            log.info("no earliest start", why=str(error))
            return
        finally:
            self._asking = None
        self._answers[shape] = _Answer(asked, start)
        self._answers.move_to_end(shape)
        while len(self._answers) > SHAPES:
            self._answers.popitem(last=False)
