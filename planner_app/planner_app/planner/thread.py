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
        self._thread = Thread(target=_work, args=(self._calls,), name=name, daemon=True)
        # Also where nobody stops it: then the thread would be there for good.
        self._end = weakref.finalize(self, self._calls.put, None)
        self._thread.start()

    async def call(self, function: Callable[..., _T], *arguments: Any, **named: Any) -> _T:
        """Call a function there; one that is cancelled before its turn comes is not called."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        self._calls.put((loop, future, partial(function, *arguments, **named)))
        return await future

    def stop(self) -> None:
        """End the thread after all that was asked of it; waits for that."""
        self._end()
        self._thread.join()


def _work(calls: SimpleQueue[_Call | None]) -> None:
    while (call := calls.get()) is not None:
        loop, future, function = call
        if not future.cancelled():
            try:
                done = partial(future.set_result, function())
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is for who waits
                done = partial(future.set_exception, error)
            loop.call_soon_threadsafe(_tell, future, done)
        # What was called and what came of it is not kept until the next call.
        del call, loop, future, function


def _tell(future: "asyncio.Future[Any]", done: Callable[[], None]) -> None:
    if not future.cancelled():
        done()
