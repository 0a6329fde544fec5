"""What the platform says, asked once for everybody.

A platform that tells of changes by itself is listened to; any other is asked, and those who want to know at the
same time share one question.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from planner_app.platforms.protocol import Platform, PlatformDown, Snapshot

log = structlog.get_logger(__name__)

BREATH = 0.1
"""Seconds between two looks at a platform that tells of much at once."""


@dataclass
class Observation:
    """The latest news of the platform."""

    snapshot: Snapshot | None = None
    failed: datetime | None = None
    """When it last did not answer; None since it answered."""
    why: str = ""
    seconds: float = 0.0
    count: int = 0


class Observer:
    """Keeps the latest snapshot of one platform."""

    def __init__(self, platform: Platform, clock: Callable[[], datetime], changed: Callable[[], None]) -> None:
        """`changed` is called where other jobs are seen than before, whoever asked."""
        self.platform = platform
        self._changed = changed
        self.clock = clock
        self.latest = Observation()
        self._asking: asyncio.Task[Snapshot] | None = None
        self._asked_at = 0.0

    async def snapshot(self, max_age: timedelta) -> Snapshot:
        """Give a snapshot no older than `max_age`.

        Raises PlatformDown where the platform does not answer, at once where it did not just before.
        """
        if self.platform.tells:
            return await self._observe()  # from memory, and newer than any kept
        failed, now = self.latest.failed, self.clock()
        if failed is not None and now - failed < max_age and self._asking is None:
            raise PlatformDown(self.latest.why)
        if failed is None and self._younger(max_age):
            return self.latest.snapshot  # type: ignore[return-value]
        return await asyncio.shield(self._ask())

    async def for_offers(self, max_age: timedelta, within: float, bound: timedelta) -> Snapshot:
        """Give a snapshot to make offers from, after `within` seconds at most.

        It is no older than `max_age`; while the platform does not answer, no older than `bound`.
        Raises PlatformDown where there is none.
        """
        if not self.platform.tells and self.latest.failed is None and self._younger(max_age):
            if not self._younger(max_age / 2):
                self._ask()  # so that nobody has to wait for the next one
            return self.latest.snapshot  # type: ignore[return-value]
        if self._asking is not None:
            # Who comes while the platform hangs does not wait as long as the first.
            within = max(within - (asyncio.get_running_loop().time() - self._asked_at), 0.05)
        try:
            async with asyncio.timeout(within):
                return await self.snapshot(max_age)
        except PlatformDown as error:
            why = str(error)
        except TimeoutError:
            why = f"no answer within {within:.2g} s"
        if self.latest.snapshot is not None and self._younger(bound):
            return self.latest.snapshot
        raise PlatformDown(why)

    async def follow(self, changed: Callable[[], None]) -> None:
        """Call `changed` for what the platform tells, until cancelled."""
        while True:
            await self.platform.changed()
            changed()
            await asyncio.sleep(BREATH)

    async def stop(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        with suppress(PlatformDown):
            await self.platform.close()

    def _younger(self, age: timedelta) -> bool:
        return self.latest.snapshot is not None and self.clock() - self.latest.snapshot.taken <= age

    def _ask(self) -> asyncio.Task[Snapshot]:
        if self._asking is None:
            self._asked_at = asyncio.get_running_loop().time()
            self._asking = asyncio.create_task(self._observe(), name="observe")
            self._asking.add_done_callback(self._answered)
        return self._asking

    def _answered(self, task: asyncio.Task[Snapshot]) -> None:
        self._asking = None
        # Whoever waited may have gone: the outcome is then nobody's, and is kept all the same.
        if not task.cancelled():
            task.exception()

    async def _observe(self) -> Snapshot:
        began = asyncio.get_running_loop().time()
        try:
            snapshot = await self.platform.observe()
        except Exception as error:
            if not isinstance(error, PlatformDown):
                log.exception("observation")  # an answer that the driver does not understand is none
            if self.latest.failed is None:
                log.warning("platform does not answer", why=str(error))
            self.latest.failed, self.latest.why = self.clock(), str(error)
            raise PlatformDown(str(error)) from error
        finally:
            self.latest.count += 1
            self.latest.seconds = asyncio.get_running_loop().time() - began
        if self.latest.failed is not None:
            log.info("platform answers again")
        before = self.latest.snapshot
        if before is not None and before.jobs == snapshot.jobs:
            snapshot = replace(snapshot, jobs=before.jobs)  # so that who looked at them already sees that
        self.latest.failed, self.latest.snapshot = None, snapshot
        if before is not None and before.jobs is not snapshot.jobs:
            self._changed()
        return snapshot
