"""The voter's own HTTP client, against servers that write bytes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from planner_app.voter.at_once import exchange_all
from planner_app.voter.heads import Head, Origin, request_bytes
from planner_app.voter.wire import Connection, Unreached, Wire, WireError

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(talk: Talk) -> AsyncIterator[tuple[Wire, Origin]]:
    wire = Wire()
    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield wire, Origin.of(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/below")
    finally:
        wire.close()
        listening.close()


def says(*parts: bytes, close: bool = False) -> Talk:
    """A server that answers each request with the same bytes, part after part."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0.001)
                if close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    return talk


async def fetch(wire: Wire, origin: Origin, limit: int = 1000) -> tuple[int, bytes]:
    head, body = await wire.exchange(origin, "GET", "/x", {"A": "b"}, None, limit)
    return head.status, body


@pytest.mark.parametrize(
    ("parts", "close", "expected"),
    [
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"], False, (200, b"ab")),
        ([b"HTTP/1.1 2", b"00 OK\r\nContent-Le", b"ngth: 2\r\n\r\na", b"b"], False, (200, b"ab")),
        (
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", b"1\r\nb\r\n0\r\n\r\n"],
            False,
            (200, b"ab"),
        ),
        ([b"HTTP/1.1 200 OK\r\n\r\na", b"b"], True, (200, b"ab")),
        ([b"HTTP/1.0 404 No\r\nContent-Length: 0\r\n\r\n"], False, (404, b"")),
        ([b"HTTP/1.1 204 No\r\n\r\n"], False, (204, b"")),
        ([b"HTTP/1.1 100 Go\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"], False, (200, b"a")),
    ],
)
async def test_replies(parts: list[bytes], close: bool, expected: tuple[int, bytes]) -> None:
    async with server(says(*parts, close=close)) as (wire, origin):
        for _ in range(3):
            assert await fetch(wire, origin) == expected


@pytest.mark.parametrize(
    ("parts", "message", "cut"),
    [
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"], "Server disconnected in the middle of it", True),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"], "in the middle of it", True),
        ([b"HTTP/1.1 200"], "in the middle of it", True),
        ([b"\x00\x01\x02 nonsense\r\n\r\n"], "it is no HTTP", True),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"], "it is no HTTP", True),
        ([b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001], "answered more than 1000 bytes", True),
        ([], "Server disconnected without sending a response", True),
    ],
)
async def test_replies_that_are_none(parts: list[bytes], message: str, cut: bool) -> None:
    async with server(says(*parts, close=True)) as (wire, origin):
        with pytest.raises(WireError, match=message) as raised:
            await fetch(wire, origin)
        assert raised.value.cut is cut


async def test_nobody_listens() -> None:
    async with server(says()) as (_, origin):
        pass
    with pytest.raises(Unreached, match="Connection refused"):
        await fetch(Wire(), origin)


async def test_connections_are_used_again_and_never_for_two_at_once() -> None:
    opened, heads = 0, []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                heads.append(head)
                await asyncio.sleep(0.01)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with server(talk) as (wire, origin):
        for _ in range(3):
            await fetch(wire, origin)
        assert opened == 1
        assert heads[0].startswith(b"GET /below/x HTTP/1.1\r\nHost: 127.0.0.1:")
        await asyncio.gather(*(fetch(wire, origin) for _ in range(5)))
        assert opened == 5
        # Whoever gives up takes the connection with him: the late answer is nobody else's.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await fetch(wire, origin)
        assert await fetch(wire, origin) == (200, b"a")


async def test_a_stream_is_not_held_in_memory() -> None:
    sent = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        try:
            for _ in range(1000):
                writer.write(b"x" * 100_000)
                sent += 100_000
                await writer.drain()
        except ConnectionError:
            pass

    async with server(talk) as (wire, origin), wire.stream(origin, "/x", {}, 5) as reply:
        assert (reply.status_code, reply.headers["content-length"]) == (200, "100000000")
        await asyncio.sleep(0.2)
        assert sent < 50_000_000, "nobody takes it, and it is read all the same"
        total = 0
        async for part in reply.aiter_raw():
            total += len(part)
        assert total == 100_000_000


async def test_a_stream_that_stalls_or_breaks_off_is_told() -> None:
    async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")
        await asyncio.sleep(1)
        writer.close()

    async with server(stalls) as (wire, origin):
        for patience, error in ((0.2, TimeoutError), (10, WireError)):
            async with wire.stream(origin, "/x", {}, patience) as reply:
                with pytest.raises(error):
                    async for _ in reply.aiter_raw():
                        pass


async def test_no_line_can_be_slipped_into_a_head() -> None:
    async with server(says()) as (wire, origin):
        with pytest.raises(ValueError, match="line break"):
            await wire.exchange(origin, "GET", "/x\r\nEvil: yes", {}, None, 10)


Outcomes = dict[int, tuple[int, bytes] | str]


async def all_of(wire: Wire, origins: list[Origin], seconds: float = 5) -> Outcomes:
    """Ask all at once; what each was told."""
    told: Outcomes = {}

    def took(index: int, head: Head | None, body: bytes, failure: WireError | None) -> None:
        assert index not in told, "told twice"
        told[index] = (head.status, body) if head is not None else str(failure)

    requests = [(origin, request_bytes(origin, "GET", "/x", {}, None)) for origin in origins]
    await exchange_all(wire, requests, 1000, seconds, took)
    return told


async def test_many_at_once_each_is_told_its_own() -> None:
    good = says(b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 2\r\n\r\nab")
    large = says(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001)
    async with (
        server(good) as (wire, one),
        server(says(b"nonsense")) as (_, two),
        server(large) as (_, three),
        server(says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", close=True)) as (_, four),
        server(says()) as (_, silent),
    ):
        async with server(says()) as (_, gone):
            pass
        expected: Outcomes = {0: (200, b"ab"), 4: (200, b"ab"), 1: "it is no HTTP", 2: "answered more", 3: "middle"}
        for _ in range(3):  # the second time over the same connections
            told = await all_of(wire, [one, two, three, four, one, silent, gone], seconds=1)
            assert sorted(told) == [0, 1, 2, 3, 4, 6]
            for index, what in expected.items():
                assert told[index] == what or str(what) in str(told[index])
            assert "refused" in str(told[6])


async def test_many_at_once_is_over_with_the_last_and_at_the_latest_by_the_time_given() -> None:
    loop = asyncio.get_running_loop()
    async with server(says(b"HTTP/1.1 204 No\r\n\r\n")) as (wire, good), server(says()) as (_, silent):
        began = loop.time()
        assert await all_of(wire, [good] * 5, seconds=60) == dict.fromkeys(range(5), (204, b""))
        assert await all_of(wire, []) == {}
        assert await all_of(wire, [silent, good], seconds=0.2) == {1: (204, b"")}
        assert loop.time() - began < 30


async def test_a_connection_that_its_server_closed_meanwhile_is_told() -> None:
    async with server(says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", close=True)) as (wire, origin):
        assert (await all_of(wire, [origin])) == {0: (200, b"")}
        connection = wire.take(origin)
        assert connection is not None
        while not connection.closed:
            await asyncio.sleep(0.01)
        told: list[str] = []
        connection.on_end = lambda: told.append(str(connection.failure))
        connection.send(b"x", 10)
        assert told == ["Server disconnected without sending a response"]


async def test_what_whoever_is_told_raises_is_raised_where_all_are_waited_for() -> None:
    async with server(says(b"HTTP/1.1 204 No\r\n\r\n")) as (wire, origin):

        def took(index: int, *_: object) -> bytes | None:
            if index == 1:
                raise RuntimeError("one of them")
            return None

        requests = [(origin, request_bytes(origin, "GET", "/x", {}, None))] * 3
        with pytest.raises(RuntimeError, match="one of them"):
            await exchange_all(wire, requests, 10, 5, took)


async def test_what_whoever_is_told_wants_next_is_asked_next() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := (await reader.readuntil(b"\r\n\r\n")).split()[1]:
                if line == b"/below/never":
                    await reader.read()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(line), line))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with server(talk) as (wire, origin):
        first, second, never = (request_bytes(origin, "GET", path, {}, None) for path in ("/1", "/2", "/never"))
        told: list[tuple[int, str]] = []
        asked_again: set[int] = set()

        def took(index: int, head: Head | None, body: bytes, failure: WireError | None) -> bytes | None:
            told.append((index, body.decode() or type(failure).__name__))
            if index == 2 and index not in asked_again:
                asked_again.add(index)
                return first  # is still the first
            return second if len([each for each, _ in told if each == index]) - (index in asked_again) == 1 else None

        # Each goes on by itself: who does not answer the first in time is asked the second all the same.
        await exchange_all(wire, [(origin, first), (origin, never), (origin, first)], 100, 60, took, patience=1)
        assert sorted(told) == [
            (0, "/below/1"), (0, "/below/2"),
            (1, "/below/2"), (1, "Impatient"),
            (2, "/below/1"), (2, "/below/1"), (2, "/below/2"),
        ]  # fmt: skip
        assert told.index((0, "/below/2")) < told.index((1, "Impatient"))


async def test_a_second_request_has_all_the_time_there_is() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.2)
        writer.write(b"HTTP/1.1 201 OK\r\nContent-Length: 0\r\n\r\n")

    async with server(talk) as (wire, origin):
        first, second = (request_bytes(origin, "GET", path, {}, None) for path in ("/1", "/2"))
        told: list[int] = []

        def took(_index: int, head: Head | None, _body: bytes, _failure: WireError | None) -> bytes | None:
            told.append(head.status if head is not None else 0)
            return second if len(told) == 1 else None

        await exchange_all(wire, [(origin, first)], 100, 60, took, patience=0.1)
        assert told == [204, 201]


HEADS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ndate: x\r\ncontent-length: 2\r\nContent-Type: a/b\r\n\r\n",
    b"HTTP/1.1 404 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 02\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 304 No\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 100 Go\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 101 Go\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 2000 + b"\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length : 2\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/9.1 200 OK\r\nContent-Length: 2\r\n\r\n",
]


class Nowhere(asyncio.Transport):
    """Takes what is written, and lets no one hear of it."""

    def write(self, data: object) -> None:
        pass

    def abort(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass


@pytest.mark.parametrize("rest", [b"ab", b"a", b"", b"abc", b"2\r\nab\r\n0\r\n\r\n"])
@pytest.mark.parametrize("head", HEADS)
async def test_a_reply_in_one_piece_is_read_as_one_that_comes_in_two(head: bytes, rest: bytes) -> None:
    def told(pieces: list[bytes], limit: int) -> tuple[object, ...]:
        connection = Connection()
        connection.connection_made(Nowhere())
        connection.send(b"x", limit)
        for piece in pieces:
            connection.data_received(piece)
        failure = str(connection.failure) if connection.failure else ""
        if not connection.done or failure:
            return connection.done, failure
        return (*connection.reply(), connection.reusable)

    whole = head + rest
    for limit in (1, 1000):
        for _ in range(2):  # the second time the head is known
            assert told([whole], limit) == told([whole[:1], whole[1:]], limit)
