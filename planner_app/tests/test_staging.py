"""Fetching a session's data, from real servers on the loopback that behave well and badly."""

import asyncio
import hashlib
import ipaddress
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planner_app.execution_broker import kinds
from planner_app.planner import staging
from planner_app.planner.config import Staging
from planner_app.planner.staging import Download, Stager, Unfetchable, may_fetch_from, read_location
from tests.fakes import FakePlanner, request_of

MAP = b"SIMPLE  =                    T" * 100_000
DIGEST = hashlib.sha256(MAP).hexdigest()
LOOPBACK = {"allow": ["127.0.0.0/8"]}
Write = Callable[[bytes], Awaitable[None]]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "PAUSE", 0.01)


class Server:
    """An HTTP server by hand, so that it can be as bad as it must."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refuse_first = 0
        self.base = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            self.asked.append(path)
            await self.answer(path, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        async def write(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        def whole(length: int | str = len(MAP)) -> bytes:
            return f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode()

        name = path.rpartition("/")[2]
        if self.refuse_first and name != "loop":
            self.refuse_first -= 1
            await write(b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n")
        elif name == "map.fits":
            await write(whole() + MAP)
        elif name == "unsized":
            await write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + MAP)
        elif name == "closed":
            await write(whole() + MAP[:1000])
        elif name == "slow":
            await write(whole())
            while True:
                await write(b"x")
                await asyncio.sleep(0.05)
        elif name == "silent":
            await asyncio.sleep(60)
        elif name == "endless":
            await write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                await write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        elif name == "nonsense":
            await write(b"220 mail.example.org ESMTP\r\n")
        elif name == "gone":
            await write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        elif name.startswith("to-"):
            where = bytes.fromhex(name.removeprefix("to-"))
            await write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + where + b"\r\n\r\n")
        else:
            await write(f"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\nLocation: {path}\r\n\r\n".encode())

    def to(self, location: str) -> str:
        return f"{self.base}/to-{location.encode().hex()}"


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.base = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        listening.close()


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


async def fetch(directory: Path, location: str, **config: Any) -> Path:
    limits = Staging.model_validate(LOOPBACK | config)
    download = read_location(location, 0, limits)
    await Stager(limits).stage([download], directory)
    return directory / download.directory / download.name


async def test_a_file_is_fetched_and_checked(tmp_path: Path) -> None:
    async with serving() as server:
        file = await fetch(tmp_path, f"{server.base}/a/map.fits#sha256={DIGEST.upper()}")
    assert file == tmp_path / "inputs/0/map.fits"
    assert file.read_bytes() == MAP
    assert names(tmp_path) == ["inputs"]


async def test_one_without_a_length_ends_where_the_connection_does(tmp_path: Path) -> None:
    async with serving() as server:
        assert (await fetch(tmp_path, f"{server.base}/unsized")).read_bytes() == MAP


@pytest.mark.parametrize(
    ("path", "config", "why"),
    [
        ("map.fits#sha256=" + "0" * 64, {}, f"has the SHA-256 {DIGEST}, not 0000"),
        ("map.fits", {"max_bytes": len(MAP) - 1}, "has 3000000 bytes, 2999999 of 2999999 are left"),
        ("unsized", {"max_bytes": len(MAP) - 1}, "has more than the 2999999 bytes"),
        ("endless", {"max_bytes": 10**7}, "has more than the 10000000 bytes"),
        ("slow", {"timeout": "PT0.5S"}, "not fetched within 0.5 s"),
        ("silent", {"timeout": "PT0.5S"}, "not fetched within 0.5 s"),
        ("closed", {}, "broke off: peer closed connection"),
        ("nonsense", {}, "broke off: "),
        ("gone", {}, "is answered with 404"),
        ("loop", {}, "leads on more than 5 times"),
    ],
)
async def test_what_goes_wrong_is_said_and_leaves_nothing(
    tmp_path: Path, path: str, config: dict[str, Any], why: str
) -> None:
    async with serving() as server:
        with pytest.raises(Unfetchable) as failure:
            await fetch(tmp_path, f"{server.base}/{path}", **config)
    assert why in str(failure.value)
    assert names(tmp_path) == []


async def test_what_breaks_off_is_tried_again(tmp_path: Path) -> None:
    async with serving() as server:
        server.refuse_first = 2
        await fetch(tmp_path, f"{server.base}/map.fits")
        assert server.asked == ["/map.fits"] * 3
        server.refuse_first = 3
        with pytest.raises(Unfetchable, match="is answered with 503"):
            await fetch(tmp_path / "other", f"{server.base}/map.fits")


async def test_nobody_listens(tmp_path: Path) -> None:
    async with serving() as server:
        base = server.base
    with pytest.raises(Unfetchable, match="broke off"):
        await fetch(tmp_path, f"{base}/map.fits")


async def test_redirects_are_followed(tmp_path: Path) -> None:
    async with serving() as server:
        location = server.to(server.to("/map.fits"))
        assert (await fetch(tmp_path, location, redirects=2)).read_bytes() == MAP
        with pytest.raises(Unfetchable, match="leads on more than 1 times"):
            await fetch(tmp_path / "again", location, redirects=1)


@pytest.mark.parametrize(
    "onward",
    [
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "http://[::1]/",
        "gopher://127.0.0.1/",
    ],
)
async def test_a_redirect_leads_nowhere_that_a_request_could_not(tmp_path: Path, onward: str) -> None:
    async with serving() as server:
        with pytest.raises(Unfetchable, match="leads to a location that"):
            await fetch(tmp_path, server.to(onward))


async def test_a_name_is_what_its_address_is(tmp_path: Path) -> None:
    """The address is looked at when it is connected to: a name may stand for this machine."""
    async with serving() as server:
        location = server.base.replace("127.0.0.1", "localhost") + "/map.fits"
        with pytest.raises(Unfetchable, match="nothing is fetched from there"):
            await fetch(tmp_path, location, allow=[])
        assert server.asked == []
        assert (await fetch(tmp_path, location)).read_bytes() == MAP


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("http://127.0.0.1/x", "is at 127.0.0.1"),
        ("http://[::ffff:10.0.0.1]/x", "is at ::ffff:a00:1|is at ::ffff:10.0.0.1"),
        ("http://169.254.169.254/", "is at 169.254.169.254"),
        ("http://user:secret@example.org/x", "user name or password"),
        ("http:///x", "names no host"),
        ("http://example.org:port/", "is no URL"),
        ("http://example.org/a b", "characters"),
        ("http://example.org\\@127.0.0.1/", "characters"),
        ("http://example.org/\r\nX-Evil: 1", "characters"),
        ("https://example.org/x#md5=1", "no checksum"),
        ("https://example.org/x#sha256=12", "no checksum"),
    ],
)
def test_what_can_be_seen_at_once(location: str, why: str) -> None:
    with pytest.raises(Unfetchable, match=why):
        read_location(location, 0, Staging())


@pytest.mark.parametrize(
    ("address", "may"),
    [
        ("8.8.8.8", True), ("2001:4860:4860::8888", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("192.168.0.1", False), ("100.64.0.1", False), ("169.254.169.254", False), ("0.0.0.0", False),
        ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False), ("::", False), ("fe80::1", False),
        ("fd00:ec2::254", False), ("::ffff:127.0.0.1", False), ("64:ff9b::7f00:1", False), ("64:ff9b::808:808", True),
        ("2002:7f00:1::", False), ("ff02::1", False),
    ],
)  # fmt: skip
def test_addresses(address: str, may: bool) -> None:
    assert may_fetch_from(ipaddress.ip_address(address), []) is may


def test_a_network_can_be_allowed() -> None:
    allowed = Staging.model_validate({"allow": ["10.1.0.0/16"]}).allow
    assert may_fetch_from(ipaddress.ip_address("10.1.2.3"), allowed)
    assert may_fetch_from(ipaddress.ip_address("::ffff:10.1.2.3"), allowed)
    assert not may_fetch_from(ipaddress.ip_address("10.2.0.1"), allowed)


@given(st.text(max_size=60))
def test_a_name_never_leads_out_of_its_directory(tail: str) -> None:
    try:
        download = read_location(f"http://example.org/{tail}", 3, Staging())
    except Unfetchable:
        return
    assert "/" not in download.name
    assert not download.name.startswith(".")
    assert 0 < len(download.name) <= 128
    assert download.directory == "inputs/3"


async def test_nothing_is_fetched_where_that_is_off() -> None:
    with pytest.raises(Unfetchable, match="nothing is fetched here"):
        read_location("http://example.org/x", 0, Staging(max_bytes=0))


async def test_all_data_of_a_session_has_one_limit(tmp_path: Path) -> None:
    limits = Staging.model_validate(LOOPBACK | {"max_bytes": len(MAP) + 10})
    async with serving() as server:
        downloads = [Download(f"{server.base}/map.fits", None, f"inputs/{number}", "m") for number in range(2)]
        with pytest.raises(Unfetchable, match="10 of 3000010 are left"):
            await Stager(limits).stage(downloads, tmp_path)


FETCH = """
import asyncio, pathlib, sys
from planner_app.planner.config import Staging
from planner_app.planner.staging import Stager, read_location
limits = Staging.model_validate({"allow": ["127.0.0.0/8"]})
downloads = [read_location(location, number, limits) for number, location in enumerate(sys.argv[2:])]
asyncio.run(Stager(limits).stage(downloads, pathlib.Path(sys.argv[1])))
"""


async def test_a_killed_fetch_is_done_over_and_a_finished_one_is_not(tmp_path: Path) -> None:
    async with serving() as server:
        files = [f"{server.base}/map.fits", f"{server.base}/slow"]
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", FETCH, str(tmp_path), *files)
        async with asyncio.timeout(20):
            while len(server.asked) < 2:
                await asyncio.sleep(0.01)  # the server tells nobody that it was asked
        process.send_signal(signal.SIGKILL)
        await process.wait()
        assert names(tmp_path) == ["inputs.part"]
        (tmp_path / "inputs.part/0/map.fits").chmod(0o644)
        (tmp_path / "inputs.part/0/map.fits").write_bytes(b"half")
        file = await fetch(tmp_path, f"{server.base}/map.fits")
        assert file.read_bytes() == MAP
        assert names(tmp_path) == ["inputs"]
        asked = len(server.asked)
        await fetch(tmp_path, f"{server.base}/map.fits")
        assert len(server.asked) == asked


# With a planner around it.


def data_request(location: str, **more: Any) -> dict[str, Any]:
    parts = request_of()
    volume = {"kind": kinds.SIMPLE_VOLUME_MOUNT, "path": "/data", "mode": "READONLY", "resource": "sky"}
    data = [{"kind": kinds.SIMPLE_DATA, "meta": {"name": "sky"}, "location": location}]
    return {"compute": parts["compute"] | {"volumes": [volume]}, "data": data} | more


async def test_a_session_gets_its_data_before_its_job(tmp_path: Path) -> None:
    async with serving() as server, FakePlanner(tmp_path, staging=LOOPBACK) as planner:
        session = await planner.accepted(**data_request(f"{server.base}/map.fits#sha256={DIGEST}"))
        await planner.look()
        (job,) = planner.platform.specs
        (mount,) = job.mounts
        assert (mount.source, mount.target, mount.read_only) == (job.directory / "inputs/0", "/data", True)
        assert (mount.source / "map.fits").read_bytes() == MAP
        said = [message["message"] for message in (await planner.session(session))["meta"]["messages"]]
        assert any(message.startswith("3000000 bytes fetched in") for message in said)


async def test_a_session_whose_data_cannot_be_had_fails_with_the_reason(tmp_path: Path) -> None:
    async with serving() as server, FakePlanner(tmp_path, staging=LOOPBACK) as planner:
        session = await planner.accepted(**data_request(f"{server.base}/gone"))
        await planner.look()
        document = await planner.session(session)
        assert document["phase"] == "FAILED"
        assert document["meta"]["messages"][-1]["message"] == (
            f"data could not be fetched: {server.base}/gone is answered with 404"
        )
        assert not planner.platform.specs
        assert (await planner.client.get("/capabilities")).json()["free"]["cores"] == 8


async def test_a_session_can_be_cancelled_while_its_data_comes(tmp_path: Path) -> None:
    async with serving() as server, FakePlanner(tmp_path, staging=LOOPBACK) as planner:
        session = await planner.accepted(**data_request(f"{server.base}/slow"))
        await planner.lifecycle.look()
        async with asyncio.timeout(20):
            while not server.asked:
                await asyncio.sleep(0.01)
        assert (await planner.update(session, "CANCELLED")).json()["phase"] == "RELEASING"
        async with asyncio.timeout(20):
            await planner.look(2)
        assert await planner.phase(session) == "CANCELLED"
        assert not planner.platform.specs
        assert not list((tmp_path / "storage/jobs" / session).glob("inputs*"))


async def test_a_planner_that_stops_meanwhile_fetches_anew_when_it_starts(tmp_path: Path) -> None:
    async with serving() as server:
        async with FakePlanner(tmp_path, staging=LOOPBACK) as planner:
            session = await planner.accepted(**data_request(f"{server.base}/slow"))
            await planner.lifecycle.look()
            async with asyncio.timeout(20):
                while not server.asked:
                    await asyncio.sleep(0.01)
        async with FakePlanner(tmp_path, planner.platform, staging=LOOPBACK) as planner:
            assert await planner.phase(session) == "PREPARING"
            await planner.lifecycle.look()
            async with asyncio.timeout(20):
                while len(server.asked) < 2:
                    await asyncio.sleep(0.01)


async def test_an_address_that_is_refused_is_a_no(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        reply = await planner.ask(**data_request("http://169.254.169.254/latest/meta-data"))
        assert reply["result"] == "NO"
        assert "is at 169.254.169.254, and nothing is fetched from there" in reply["meta"]["messages"][0]["message"]
