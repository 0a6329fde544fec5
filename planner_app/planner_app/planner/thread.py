"""A thread of its own for what is done one after the other, such as writing the ledger."""

import asyncio
import weakref
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

_T = TypeVar("_T")
_Call = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], Any]]


class OneThread:
    """Calls functions in one thread, in the order in which they come.

    An executor of one thread does so too, but has a second future and several locks for each call: half of the time
    that lies between a request and the ledger.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._counts = _Counts()
        self._thread = Thread(target=_work, args=(self._calls, self._counts), name=name, daemon=True)
        # Also where nobody stops it: then the thread would be there for good.
        self._end = weakref.finalize(self, self._calls.put, None)
        self._thread.start()

    async def call(self, function: Callable[..., _T], *arguments: Any, **named: Any) -> _T:
        """Call a function there; one that is cancelled before its turn comes is not called."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        self._counts.asked += 1
        self._calls.put((loop, future, partial(function, *arguments, **named)))
        return await future

    @property
    def idle(self) -> bool:
        """Whether all that was asked of it is done: then the loop is alone with what it uses until it awaits."""
        return self._counts.asked == self._counts.done

    def stop(self) -> None:
        """End the thread after all that was asked of it; waits for that."""
        self._end()
        self._thread.join()


class _Counts:
    """How much was asked, which only the loop counts, and how much is done, which only the thread does."""

    __slots__ = ("asked", "done")

    def __init__(self) -> None:
        self.asked = self.done = 0


def _work(calls: SimpleQueue[_Call | None], counts: _Counts) -> None:
    while (call := calls.get()) is not None:
        loop, future, function = call
        told = None
        if not future.cancelled():
            try:
                told = partial(future.set_result, function())
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is for who waits
                told = partial(future.set_exception, error)
        counts.done += 1
        if told is not None:
            loop.call_soon_threadsafe(_tell, future, told)
        # What was called and what came of it is not kept until the next call.
        del call, loop, future, function, told


def _tell(future: "asyncio.Future[Any]", done: Callable[[], None]) -> None:
    if not future.cancelled():
        done()
