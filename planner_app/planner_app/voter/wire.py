"""HTTP/1.1 to many servers at once, with as little work for each reply as there can be.

A vote asks hundreds of planners in the same moment, and their replies come in the same moment: what a general
client spends on one, a third of a millisecond or more, is then a tenth of a second before the choice. Here a
request is one write, and a reply is read by httptools into its parts. Connections are kept for a few seconds.
No redirects, no proxies, no compression: planners need none of them.
"""

import asyncio
import os
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httptools

from planner_app.voter.heads import LONGEST_PLAIN, Head, Origin, plain_head, request_bytes

_IDLE = 4.0
"""Seconds after which an idle connection is not used again: uvicorn closes it after five."""
_BUFFERED = 1 << 20
"""Bytes of a stream that wait to be taken before more is read."""


class WireError(Exception):
    """No whole reply came; the message is for people."""

    def __init__(self, reason: str, *, cut: bool = False) -> None:
        super().__init__(reason)
        self.cut = cut
        """The other side broke off, or says what is no HTTP."""


class Unreached(WireError):
    """There is no connection: nothing can have arrived."""


class Connection(asyncio.Protocol):
    """One connection with one request at a time."""

    __slots__ = (
        "_anything",
        "_body",
        "_held",
        "_keep_alive",
        "_limit",
        "_names",
        "_parser",
        "_parts",
        "_waiting",
        "_whole",
        "closed",
        "done",
        "failure",
        "head",
        "idle_since",
        "loop",
        "on_end",
        "transport",
    )

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.idle_since = 0.0
        self._waiting: asyncio.Future[None] | None = None
        self.on_end: Callable[[], None] | None = None
        """Called once the reply is whole or failed; for who waits for many at once."""
        # None until something comes that is not a whole reply with a plain head.
        self._parser: Any = None
        self._names: dict[str, str] = {}
        self._parts: deque[bytes] = deque()
        self._held = 0
        self._body: bytes | None = None
        self.head: Head | None = None
        self.done = False
        self.failure: WireError | None = None
        self._anything = False
        self._whole = True
        self._limit = 0
        self._keep_alive = False

    def _begin(self) -> None:
        self.head = self._body = self.failure = None
        self.done = self._anything = self._keep_alive = False
        if self._parser is not None:
            self._parser = None
            self._names = {}
            self._parts.clear()
            self._held = 0

    # --- asyncio's calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if self.done:
            self.abort()  # nobody has asked for more
            return
        self._anything = True
        if self._parser is None:
            if self._whole and self._take_whole(data):
                self._wake()
                return
            self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(WireError(f"it is no HTTP: {error}", cut=True))
        if self._held > _BUFFERED and not self._whole and self.transport is not None:
            self.transport.pause_reading()
        if not self._whole or self.done:
            self._wake()

    def _take_whole(self, data: bytes) -> bool:
        """Take a reply that came in one piece; whether it is one, and plain."""
        end = data.find(b"\r\n\r\n", 0, LONGEST_PLAIN) + 4
        if end < 4 or (plain := plain_head(data[:end])) is None:
            return False
        self.head, length, self._keep_alive = plain
        if len(data) != end + length or length > self._limit:
            self.head = None
            return False
        self._body = data[end:]
        self.done = True
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """Say that nothing more comes."""
        self.closed = True
        if self.done or self.failure is not None:
            return
        if error is not None:
            words = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            self._fail(WireError(words))
        elif not self._anything:
            self._fail(WireError("Server disconnected without sending a response", cut=True))
        elif self.head is not None and not {"content-length", "transfer-encoding"} & set(self.head.headers):
            self.done = True  # its end is the end of the connection
            self._wake()
        else:
            self._fail(WireError("Server disconnected in the middle of it", cut=True))

    # --- the parser's calls ---

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._names[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Take the head, unless it only says to go on."""
        status = self._parser.get_status_code()
        if status >= 200:
            self.head = Head(status, self._names)
        self._names = {}

    def on_body(self, part: bytes) -> None:
        """Take a part of the body."""
        self._parts.append(part)
        self._held += len(part)
        if self._whole and self._held > self._limit:
            self._fail(WireError(f"answered more than {self._limit} bytes", cut=True))

    def on_message_complete(self) -> None:
        """The reply is whole."""
        self.done = self.head is not None
        self._keep_alive = self._parser.should_keep_alive()

    # --- for the wire ---

    def _fail(self, failure: WireError) -> None:
        if self.failure is None:
            self.failure = failure
        self.abort()
        self._wake()

    def _wake(self) -> None:
        if (on_end := self.on_end) is not None and (self.done or self.failure is not None):
            self.on_end = None
            on_end()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _wait(self) -> None:
        self._waiting = self.loop.create_future()
        await self._waiting

    def abort(self) -> None:
        """Close at once."""
        self.closed = True
        if self.transport is not None:
            self.transport.abort()

    def send(self, data: bytes, limit: int | None) -> None:
        """Begin an exchange; with a limit the reply is wanted whole, else as it comes."""
        self._begin()
        self._whole, self._limit = limit is not None, limit or 0
        if self.closed or self.transport is None:
            self._fail(WireError("Server disconnected without sending a response", cut=True))
        else:
            self.transport.write(data)

    async def whole(self) -> tuple[Head, bytes]:
        """Wait for the whole reply."""
        while not self.done and self.failure is None:
            await self._wait()
        return self.reply()

    def reply(self) -> tuple[Head, bytes]:
        """Give the whole reply that has come. Raises the failure where none has."""
        if self.failure is not None or self.head is None:
            raise self.failure or WireError("no head", cut=True)
        return self.head, b"".join(self._parts) if self._body is None else self._body

    async def begun(self) -> Head:
        """Wait for the head."""
        while self.head is None and self.failure is None:
            await self._wait()
        if self.head is None:
            raise self.failure or WireError("no head", cut=True)
        return self.head

    async def part(self) -> bytes:
        """Wait for the next part of the body; nothing at its end."""
        while not self._parts and not self.done and self.failure is None:
            await self._wait()
        if self._parts:
            part = self._parts.popleft()
            self._held -= len(part)
            if self._held <= _BUFFERED and self.transport is not None and not self.closed:
                self.transport.resume_reading()
            return part
        if self.failure is not None:
            raise self.failure
        return b""

    @property
    def reusable(self) -> bool:
        """Whether another request may follow."""
        return self.done and not self.closed and self._keep_alive


class Streamed:
    """A reply of any size, as it comes."""

    def __init__(self, head: Head, connection: Connection, patience: float) -> None:
        self.status_code = head.status
        self.headers = head.headers
        self._connection = connection
        self._patience = patience

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        """Give the body's parts. Raises WireError, or TimeoutError where more does not come in time."""
        while True:
            async with asyncio.timeout(self._patience):
                part = await self._connection.part()
            if not part:
                return
            yield part


class Wire:
    """The connections."""

    def __init__(self) -> None:
        self._idle: dict[Origin, list[Connection]] = {}
        self._context: ssl.SSLContext | None = None

    async def connect(self, origin: Origin) -> Connection:
        """Open a connection. Raises Unreached."""
        if origin.secure and self._context is None:
            # Certificate authorities take a megabyte and twenty milliseconds to read: only where one is needed.
            self._context = ssl.create_default_context()
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                Connection, origin.host, origin.port, ssl=self._context if origin.secure else None
            )
        except OSError as error:
            raise Unreached(_words(error)) from None
        return connection

    def take(self, origin: Origin) -> Connection | None:
        """Take an idle connection, if there is one that is still good."""
        idle, now = self._idle.get(origin), time.monotonic()
        while idle:
            connection = idle.pop()
            if not connection.closed and now - connection.idle_since < _IDLE:
                return connection
            connection.abort()
        return None

    def give_back(self, origin: Origin, connection: Connection) -> None:
        """Keep a connection whose reply is whole for the next request; close any other."""
        if not connection.reusable:
            connection.abort()
            return
        connection.idle_since = time.monotonic()
        if (idle := self._idle.get(origin)) is None:
            idle = self._idle[origin] = []
        idle.append(connection)

    async def exchange(
        self, origin: Origin, method: str, path: str, headers: Mapping[str, str], body: bytes | None, limit: int
    ) -> tuple[Head, bytes]:
        """Make a request and read the whole reply, of at most `limit` bytes.

        Raises WireError. Whoever bounds it in time cancels it.
        """
        data = request_bytes(origin, method, path, headers, body)
        connection = self.take(origin) or await self.connect(origin)
        try:
            connection.send(data, limit)
            return await connection.whole()
        finally:
            self.give_back(origin, connection)

    @asynccontextmanager
    async def stream(
        self, origin: Origin, path: str, headers: Mapping[str, str], patience: float
    ) -> AsyncIterator[Streamed]:
        """Fetch something of any size; each wait for more of it is bounded by `patience` seconds.

        Raises WireError, or TimeoutError, where the reply does not begin.
        """
        connection = None
        try:
            async with asyncio.timeout(patience):
                connection = self.take(origin) or await self.connect(origin)
                connection.send(request_bytes(origin, "GET", path, headers, None), None)
                head = await connection.begun()
            yield Streamed(head, connection, patience)
        finally:
            if connection is not None:
                self.give_back(origin, connection)

    def close(self) -> None:
        """Close what is idle."""
        for idle in self._idle.values():
            for connection in idle:
                connection.abort()
        self._idle.clear()


def _words(error: OSError) -> str:
    """Say what went wrong; several addresses tried may have failed together."""
    inner = getattr(error, "exceptions", None)
    error = inner[0] if inner else error
    if error.errno is not None and error.errno > 0 and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
