"""Many requests in the same moment, without a task, a timer and a future for each.

With hundreds of planners those are most of what a question costs. Here each request is one write, each reply is told
of as soon as it is whole, and one timer bounds all. Only what needs a new connection has a task until it has one.
"""

import asyncio
from collections.abc import Callable, Sequence

from planner_app.voter.wire import Connection, Head, Origin, Wire, WireError

Took = Callable[[int, Head | None, bytes, WireError | None], None]
"""Told of one request: which, its reply's head and body or None and nothing, and what went wrong, if so."""


async def exchange_all(
    wire: Wire, requests: Sequence[tuple[Origin, bytes]], limit: int, seconds: float, took: Took
) -> None:
    """Make all requests; return when `took` was told of all, or `seconds` have passed.

    Replies are of at most `limit` bytes. What is left at the end is given up, and `took` is not told of it; what it
    raises is raised here, after all others were told.
    """
    if requests:
        await _AtOnce(wire, requests, limit, took).run(seconds)


class _AtOnce:
    """The requests that are under way."""

    def __init__(self, wire: Wire, requests: Sequence[tuple[Origin, bytes]], limit: int, took: Took) -> None:
        self._wire, self._requests, self._limit, self._took = wire, requests, limit, took
        self._open: dict[int, Connection] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._left = len(requests)
        self._over = asyncio.Event()
        self._error: Exception | None = None

    async def run(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds, self._over.set)
        try:
            for index, (origin, _) in enumerate(self._requests):
                if (connection := self._wire.take(origin)) is not None:
                    self._begin(index, connection)
                else:
                    self._connecting.add(loop.create_task(self._connect(index)))
            await self._over.wait()
        finally:
            timer.cancel()
            for task in self._connecting:
                task.cancel()
            for connection in self._open.values():
                connection.on_end = None
                connection.abort()
        if self._error is not None:
            raise self._error

    async def _connect(self, index: int) -> None:
        try:
            connection = await self._wire.connect(self._requests[index][0])
        except WireError as error:
            self._told(index, None, b"", error)
        else:
            self._begin(index, connection)

    def _begin(self, index: int, connection: Connection) -> None:
        self._open[index] = connection
        connection.on_end = lambda: self._end(index, connection)
        connection.send(self._requests[index][1], self._limit)

    def _end(self, index: int, connection: Connection) -> None:
        del self._open[index]
        # Before anybody is told, so that who asks again at once finds it.
        self._wire.give_back(self._requests[index][0], connection)
        try:
            head, body = connection.reply()
        except WireError as error:
            self._told(index, None, b"", error)
        else:
            self._told(index, head, body, None)

    def _told(self, index: int, head: Head | None, body: bytes, failure: WireError | None) -> None:
        self._left -= 1
        try:
            self._took(index, head, body, failure)
        except Exception as error:  # noqa: BLE001 - it is raised where all are waited for
            self._error = error
        if not self._left:
            self._over.set()
