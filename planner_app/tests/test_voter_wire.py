"""The voter's own HTTP client, against servers that write bytes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from planner_app.voter.wire import Origin, Unreached, Wire, WireError

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
