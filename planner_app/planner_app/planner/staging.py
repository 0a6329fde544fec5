"""Data at http(s) locations, brought into a session's directory before its job starts.

Whoever can send a request names the location, so what is fetched is bounded in bytes, time and redirects, and
only from where everybody may fetch: addresses of this machine, its networks and the cloud's metadata are refused
unless the configuration allows them, after each redirect anew, and the address that was checked is the one that
is connected to. What was fetched appears in ``inputs`` all at once: a planner that is killed on the way starts
over and leaves nothing half.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import os
import re
import shutil
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote, urljoin, urlsplit

from planner_app.planner.config import Staging

if TYPE_CHECKING:
    import httpcore

INPUTS = "inputs"
"""Where a session's fetched data lies, one directory for each resource, in the session's directory."""
_PART = "inputs.part"
ATTEMPTS = 3
"""A connection that breaks and a server that is overloaded may do better the next time."""
PAUSE = 1.0
"""Seconds before the second attempt, and twice that before the third."""
STALL = 30.0
"""Seconds without a byte after which a connection counts as broken."""
_CHUNK = 1 << 20

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Unfetchable(Exception):
    """A location cannot be fetched, and never will be; the message says why."""


class _Interrupted(Exception):
    """A fetch broke off; another attempt may succeed."""


@dataclass(frozen=True)
class Download:
    """One file to fetch."""

    url: str
    sha256: str | None
    """What it must hash to, in hexadecimal; None where the request does not say."""
    directory: str
    """Below the session's directory."""
    name: str


def read_location(location: str, number: int, staging: Staging) -> Download:
    """Read the http(s) location of a request's data resource, whose checksum may follow as ``#sha256=HEX``.

    Raises Unfetchable where it can be seen without asking anybody that it will not be fetched.
    """
    if not staging.max_bytes:
        raise Unfetchable("is not on the shared storage, and nothing is fetched here")
    url, _, fragment = location.partition("#")
    _checked(url, staging)
    sha256 = None
    if fragment:
        matched = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
        if matched is None:
            raise Unfetchable("ends in what is no checksum: #sha256= and 64 hexadecimal digits are understood")
        sha256 = matched[1].lower()
    last = unquote(urlsplit(url).path.rpartition("/")[2])
    name = re.sub(r"[^A-Za-z0-9._+-]", "_", last).lstrip(".")[:128] or "data"
    return Download(url, sha256, f"{INPUTS}/{number}", name)


def _checked(url: str, staging: Staging) -> None:
    """Raise Unfetchable for what is no plain http(s) URL, or names an address that nothing is fetched from."""
    if re.fullmatch(r"[!-\[\]-~]+", url) is None:
        raise Unfetchable("holds characters that no URL has")
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        raise Unfetchable(f"is no URL: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise Unfetchable("must be an http or https location")
    if parts.username is not None or parts.password is not None:
        raise Unfetchable("holds a user name or password")
    if not host:
        raise Unfetchable("names no host")
    with suppress(ValueError):  # a name: what it stands for is looked at when it is connected to
        address = ipaddress.ip_address(host)
        if not may_fetch_from(address, staging.allow):
            raise Unfetchable(f"is at {address}, and nothing is fetched from there")


def may_fetch_from(address: Address, allowed: Iterable[Network]) -> bool:
    """Whether an address is the public internet's, or allowed.

    An IPv4 address within an IPv6 one (mapped, 6to4, NAT64, Teredo) decides for it.
    """
    if any(address in network for network in allowed):
        return True
    inner = _within(address)
    if inner is not None:
        return may_fetch_from(inner, allowed)
    # is_global alone holds for some of these.
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _within(address: Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def downloads_document(downloads: Iterable[Download]) -> list[dict[str, Any]]:
    """Give downloads as plain values, for the ledger."""
    return [
        {"url": each.url, "sha256": each.sha256, "directory": each.directory, "name": each.name} for each in downloads
    ]


def downloads_of(program: Mapping[str, Any]) -> list[Download]:
    """Read what `downloads_document` gave."""
    return [Download(**each) for each in program.get("downloads") or ()]


def discard(directory: Path) -> None:
    """Remove what was fetched for a session, whole or half."""
    for name in (INPUTS, _PART):
        shutil.rmtree(directory / name, ignore_errors=True)


class Stager:
    """Fetches the data of sessions."""

    def __init__(self, config: Staging) -> None:
        self.config = config

    async def stage(self, downloads: Sequence[Download], directory: Path) -> int:
        """Fetch all data of a session into its directory, unless that was done before; returns the bytes.

        Raises Unfetchable, after removing what was fetched.
        """
        if await asyncio.to_thread((directory / INPUTS).is_dir):
            return 0
        try:
            async with asyncio.timeout(self.config.timeout / timedelta(seconds=1)):
                fetched = await self._fetch_all(downloads, directory)
            await asyncio.to_thread(os.rename, directory / _PART, directory / INPUTS)
        except TimeoutError:
            raise Unfetchable(f"not fetched within {self.config.timeout / timedelta(seconds=1):g} s") from None
        except OSError as error:
            raise Unfetchable(f"cannot be kept: {error.strerror}") from error
        finally:
            await asyncio.to_thread(shutil.rmtree, directory / _PART, ignore_errors=True)
        return fetched

    async def _fetch_all(self, downloads: Sequence[Download], directory: Path) -> int:
        # Half of what an earlier planner fetched is no use: whether it is still the same, nobody can tell.
        await asyncio.to_thread(shutil.rmtree, directory / _PART, ignore_errors=True)
        total = 0
        for each in downloads:
            path = directory / _PART / Path(each.directory).relative_to(INPUTS) / each.name
            await asyncio.to_thread(path.parent.mkdir, parents=True)
            try:
                total += await self._fetch(each, path, self.config.max_bytes - total)
            except Unfetchable as error:
                raise Unfetchable(f"{each.url} {error}") from error.__cause__
        return total

    async def _fetch(self, download: Download, path: Path, most: int) -> int:
        attempt = 1
        while True:
            try:
                return await self._follow(download, path, most)
            except _Interrupted as error:
                if attempt == ATTEMPTS:
                    raise Unfetchable(str(error)) from error
            await asyncio.sleep(PAUSE * attempt)
            attempt += 1

    async def _follow(self, download: Download, path: Path, most: int) -> int:
        """Follow redirects to a file, and keep it."""
        # Loaded here: most planners never fetch anything, and need not hold the libraries in memory.
        import httpcore

        url = download.url
        async with httpcore.AsyncConnectionPool(network_backend=_backend(self.config), max_connections=2) as pool:
            for _ in range(self.config.redirects + 1):
                try:
                    onward = await self._get(pool, url, download, path, most)
                except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
                    raise _Interrupted(f"broke off: {str(error) or type(error).__name__}") from error
                if isinstance(onward, int):
                    return onward
                following = urljoin(url, onward)
                if urlsplit(url).scheme == "https" and urlsplit(following).scheme == "http":
                    raise Unfetchable("leads from https to http")
                url = following.partition("#")[0]
                try:
                    _checked(url, self.config)
                except Unfetchable as error:
                    raise Unfetchable(f"leads to a location that {error}") from None
        raise Unfetchable(f"leads on more than {self.config.redirects} times")

    async def _get(
        self, pool: httpcore.AsyncConnectionPool, url: str, download: Download, path: Path, most: int
    ) -> int | str:
        """Ask for one URL: keep what comes and return its bytes, or return where to ask instead."""
        headers: dict[bytes | str, bytes | str] = {
            "Host": urlsplit(url).netloc,
            "User-Agent": "caesar-planner",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
        }
        timeouts = {"connect": 10.0, "read": STALL, "write": STALL, "pool": STALL}
        async with pool.stream("GET", url, headers=headers, extensions={"timeout": timeouts}) as reply:
            fields = {name.lower(): value.decode("latin-1") for name, value in reply.headers}
            if reply.status in (301, 302, 303, 307, 308) and b"location" in fields:
                return fields[b"location"]
            if reply.status >= 500 or reply.status in (408, 429):
                raise _Interrupted(f"is answered with {reply.status}")
            if reply.status != 200:
                raise Unfetchable(f"is answered with {reply.status}")
            length = fields.get(b"content-length", "")
            if length.isdigit() and int(length) > most:
                raise Unfetchable(f"has {length} bytes, {most} of {self.config.max_bytes} are left")
            with await asyncio.to_thread(path.open, "wb") as file:
                return await self._keep(reply.aiter_stream(), file, download, most)

    async def _keep(self, chunks: Any, file: BinaryIO, download: Download, most: int) -> int:
        digest = hashlib.sha256()
        kept, waiting = 0, bytearray()

        def write(data: bytes) -> None:
            digest.update(data)
            file.write(data)

        async for chunk in chunks:
            kept += len(chunk)
            if kept > most:
                raise Unfetchable(f"has more than the {most} bytes that are left of {self.config.max_bytes}")
            waiting += chunk
            if len(waiting) >= _CHUNK:
                await asyncio.to_thread(write, bytes(waiting))
                waiting.clear()
        await asyncio.to_thread(write, bytes(waiting))
        await asyncio.to_thread(_settle, file)
        if download.sha256 is not None and digest.hexdigest() != download.sha256:
            raise Unfetchable(f"has the SHA-256 {digest.hexdigest()}, not {download.sha256}")
        return kept


def _settle(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    os.fchmod(file.fileno(), 0o444)


def _backend(staging: Staging) -> httpcore.AsyncNetworkBackend:
    """Make what opens connections: to addresses that were looked at, and no others."""
    import httpcore

    class Guarded(httpcore.AnyIOBackend):
        async def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,
            local_address: str | None = None,
            socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
        ) -> httpcore.AsyncNetworkStream:
            found = await _addresses(host, port)
            allowed = [each for each in found if may_fetch_from(each, staging.allow)]
            if not allowed:
                raise Unfetchable(f"is at {found[0]}, and nothing is fetched from there")
            for address in allowed[:-1]:
                with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                    return await super().connect_tcp(str(address), port, timeout, local_address, socket_options)
            return await super().connect_tcp(str(allowed[-1]), port, timeout, local_address, socket_options)

    return Guarded()


async def _addresses(host: str, port: int) -> list[Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _Interrupted(f"is at a host that is not known: {error}") from error
    # A scope (fe80::1%eth0) is of no matter for what kind of address it is.
    return [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
