"""The objects of one kind in a namespace, kept as the API tells of them: one list, then a watch.

What ends a watch is followed by another from where it stopped; where the API does not remember that far
(410), by another list. What is kept may be used as long as something was heard lately.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import structlog

from planner_app.platforms.kubernetes.api import Api, Expired, Forbidden, Silent
from planner_app.platforms.kubernetes.objects import Object
from planner_app.platforms.protocol import PlatformDown

log = structlog.get_logger(__name__)

LEAST_PAUSE = 0.25
"""Seconds before a failed watch is begun again, even where somebody waits for it."""
LONGEST_PAUSE = 10.0
PATIENCE, LONG_PATIENCE = 3.0, 60.0
"""Seconds for which a watch is tried that is forbidden, if it never was allowed, and if it was."""


class Mirror:
    """Objects by their uid."""

    def __init__(self, api: Api, path: str, changed: Callable[[], None], **selectors: str) -> None:
        self.objects: dict[str, Object] = {}
        self.changes = 0
        """Counts what was heard that changes something."""
        self.heard = 0.0
        """Monotonic time of the last sign of life, 0 where there was none."""
        self.failure = ""
        """Why nothing is heard now; empty while something is."""
        self._api = api
        self._path = path
        self._changed = changed
        self._selectors = selectors
        self._version = ""
        self._settled = asyncio.Event()
        self._wanted = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._watched = False

    async def run(self) -> None:
        """Keep the objects up to date until cancelled; raises Forbidden where the token may not watch."""
        pause, forbidden = LEAST_PAUSE, 0.0
        while True:
            self._wanted.clear()
            try:
                if not self._version:
                    await self._list()
                self._watching = asyncio.create_task(self._watch(), name=f"watch {self._path}")
                await self._watching
                pause, forbidden = LEAST_PAUSE, 0.0
                await asyncio.sleep(pause)  # for an API that ends every watch at once
            except Expired:
                self._version = ""
            except Silent:
                pass  # of what has no bookmarks, such as events: another watch shows whether there is anybody
            except Forbidden as error:
                # An API server that has just started does not know yet who may do what.
                forbidden = forbidden or time.monotonic()
                if time.monotonic() - forbidden > (LONG_PATIENCE if self._watched else PATIENCE):
                    raise
                self._fail(str(error))
                await asyncio.sleep(LEAST_PAUSE)
            except asyncio.CancelledError:
                if self._cancelled():
                    raise
            except Exception as error:
                if not isinstance(error, PlatformDown):
                    log.exception("watch")  # what cannot be understood is no answer
                self._fail(str(error))
                await asyncio.sleep(LEAST_PAUSE)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wanted.wait()
                pause = min(pause * 2, LONGEST_PAUSE)

    @staticmethod
    def _cancelled() -> bool:
        """Whether it was `run` itself, and not only the watch that `refresh` ends."""
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0

    async def ready(self, age: float) -> None:
        """Return once what is kept was right less than `age` seconds ago; raises PlatformDown where it cannot be."""
        if not self.failure and self.heard and time.monotonic() - self.heard > age:
            self.refresh()
        if self.failure:
            self._wanted.set()  # the next attempt begins now, and is for who asks next
            raise PlatformDown(self.failure)
        await self._settled.wait()
        if self.failure:
            raise PlatformDown(self.failure)

    def refresh(self) -> None:
        """List everything anew: the watch has been silent for long, and nobody knows whether it still works."""
        if self._version and self._watching is not None and not self._watching.done():
            self._version = ""
            self._settled.clear()
            self._watching.cancel()

    def give_up(self) -> None:
        """Let go who waits: nothing will be heard."""
        self._settled.set()

    async def _list(self) -> None:
        items, version = await self._api.list(self._path, **self._selectors)
        objects = {str(each["metadata"]["uid"]): _trimmed(each) for each in items}
        if not version:
            raise PlatformDown(f"GET {self._path}: the list has no version")
        if _versions(objects) != _versions(self.objects):
            self.changes += 1
        self.objects, self._version = objects, version
        self._hear()

    async def _watch(self) -> None:
        async with contextlib.aclosing(self._api.watch(self._path, self._version, **self._selectors)) as events:
            async for event in events:
                if event is None:
                    self._watched = True
                else:
                    self._take(event)
                self._hear()

    def _take(self, event: Object) -> None:
        subject = event["object"]
        self._version = str(subject["metadata"]["resourceVersion"])
        if event["type"] == "BOOKMARK":
            return
        if event["type"] == "DELETED":
            self.objects.pop(str(subject["metadata"]["uid"]), None)
        else:
            self.objects[str(subject["metadata"]["uid"])] = _trimmed(subject)
        self.changes += 1
        self._changed()

    def _hear(self) -> None:
        self.heard = time.monotonic()
        if self.failure or not self._settled.is_set():
            if self.failure:
                log.info("watch works again", path=self._path)
            self.failure = ""
            self._settled.set()
            self._changed()

    def _fail(self, why: str) -> None:
        if not self.failure:
            log.warning("watch broke off", path=self._path, why=why)
        self.failure = why
        self._settled.set()


def _trimmed(subject: Object) -> Object:
    """An object without what nobody reads, which is a third of it."""
    return {**subject, "metadata": {k: v for k, v in subject["metadata"].items() if k != "managedFields"}}


def _versions(objects: dict[str, Object]) -> dict[str, str]:
    return {uid: each["metadata"].get("resourceVersion", "") for uid, each in objects.items()}
