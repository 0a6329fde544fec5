"""Many requests in the same moment, without a task, a timer and a future for each.

With hundreds of planners those are most of what a question costs. Here each request is one write, each reply is told
of as soon as it is whole, and one timer bounds all. Only what needs a new connection has a task until it has one.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from planner_app.voter.heads import Head, Origin
from planner_app.voter.wire import Connection, Wire, WireError

Took = Callable[[int, Head | None, bytes, WireError | None], bytes | None]
"""Told of one request: which, its reply's head and body or None and nothing, and what went wrong, if so.

What it returns, if anything, is the next request to the same server; it may be the first one again.
"""


class Impatient(WireError):
    """The first reply of a server did not come in the time that it had."""


async def exchange_all(
    wire: Wire,
    requests: Sequence[tuple[Origin, bytes]],
    limit: int,
    seconds: float,
    took: Took,
    patience: float | None = None,
) -> None:
    """Make all requests; return when `took` was told of all and wants no more, or `seconds` have passed.

    Replies are of at most `limit` bytes. What is left at the end is given up, and `took` is not told of it; what it
    raises is raised here, after all others were told. First replies that are not there after `patience` seconds are
    given up too, which it is told as `Impatient`.
    """
    if requests:
        await _AtOnce(wire, requests, limit, took).run(seconds, patience)


class _AtOnce:
    """The requests that are under way."""

    def __init__(self, wire: Wire, requests: Sequence[tuple[Origin, bytes]], limit: int, took: Took) -> None:
        self._wire, self._requests, self._limit, self._took = wire, requests, limit, took
        self._open: dict[int, Connection] = {}
        self._ended: list[tuple[int, Connection]] = []
        self._connecting: dict[int, asyncio.Task[None]] = {}
        self._first = set(range(len(requests)))
        self._left = len(requests)
        self._over = asyncio.Event()
        self._error: Exception | None = None
        self._loop = asyncio.get_running_loop()

    async def run(self, seconds: float, patience: float | None) -> None:
        timers = [self._loop.call_later(seconds, self._over.set)]
        if patience is not None:
            timers.append(self._loop.call_later(patience, self._give_up_first))
        try:
            for index, (_, request) in enumerate(self._requests):
                self._start(index, request)
            await self._over.wait()
            self._read_ended()
        finally:
            for timer in timers:
                timer.cancel()
            for task in self._connecting.values():
                task.cancel()
            for connection in self._open.values():
                connection.on_end = None
                connection.abort()
        if self._error is not None:
            raise self._error

    def _start(self, index: int, request: bytes) -> None:
        if (connection := self._wire.take(self._requests[index][0])) is not None:
            self._begin(index, request, connection)
        else:
            self._connecting[index] = self._loop.create_task(self._connect(index, request))

    async def _connect(self, index: int, request: bytes) -> None:
        try:
            connection = await self._wire.connect(self._requests[index][0])
        except WireError as error:
            del self._connecting[index]
            self._told(index, None, b"", error)
        else:
            del self._connecting[index]
            self._begin(index, request, connection)

    def _begin(self, index: int, request: bytes, connection: Connection) -> None:
        self._open[index] = connection
        connection.on_end = partial(self._whole, index, connection)
        connection.send(request, self._limit)

    def _whole(self, index: int, connection: Connection) -> None:
        # Of many replies at once, all are taken from the network before the first is read: what either needs stays in
        # the processor's caches, and a vote of hundreds has a tenth less to compute.
        self._ended.append((index, connection))
        if len(self._ended) == 1:
            self._loop.call_soon(self._read_ended)

    def _read_ended(self) -> None:
        ended, self._ended = self._ended, []
        for index, connection in ended:
            if index in self._open:
                self._end(index, connection)

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

    def _give_up_first(self) -> None:
        self._read_ended()
        for index in list(self._first):
            if (task := self._connecting.pop(index, None)) is not None:
                task.cancel()
            if (connection := self._open.pop(index, None)) is not None:
                connection.on_end = None
                connection.abort()
            self._told(index, None, b"", Impatient("no answer in time"))

    def _told(self, index: int, head: Head | None, body: bytes, failure: WireError | None) -> None:
        more = None
        try:
            more = self._took(index, head, body, failure)
        except Exception as error:  # noqa: BLE001 - it is raised where all are waited for
            self._error = error
        if more is not self._requests[index][1]:
            self._first.discard(index)
        if more is not None:
            self._start(index, more)
            return
        self._left -= 1
        if not self._left:
            self._over.set()
