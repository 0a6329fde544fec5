"""Heads of HTTP/1.1 messages: of requests as they are written, of replies as they are read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

import httptools

_LENGTH = re.compile("[1-9][0-9]{0,8}")
_UNPLAIN = frozenset({b"transfer-encoding", b"upgrade"})
LONGEST_PLAIN = 1000
"""Bytes of a head that is kept."""


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a reply; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """Where requests go; the same one for the same URL, so that it is told apart without a look at its parts."""

    host: str
    port: int
    secure: bool
    prefix: str
    """Of all paths."""
    name: str
    """The header `Host`."""

    @staticmethod
    @lru_cache(maxsize=4096)
    def of(url: str) -> "Origin":
        """Read a URL of the scheme http or https."""
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        return Origin(parts.hostname or "", port, secure, parts.path, parts.netloc.rpartition("@")[2])


class _Parsed:
    """What httptools says of a head."""

    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.values: dict[str, str] = {}
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self.names.append(name.lower())
        self.values[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """It is whole."""
        self.complete = True


@lru_cache(maxsize=256)
def plain_head(data: bytes) -> tuple[Head, int, bool] | None:
    """Read a head that many replies share, as planners that are asked at once answer with the same one.

    It has an end and a length of its body and nothing that makes the body another one. Returned is the head too, and
    whether another request may follow; None for what is to be parsed as it comes.
    """
    parsed = _Parsed()
    parser = httptools.HttpResponseParser(parsed)
    try:
        parser.feed_data(data)
    except httptools.HttpParserError:
        return None
    length = parsed.values.get("content-length", "")
    if (
        not parsed.complete
        or not _LENGTH.fullmatch(length)
        or parsed.names.count(b"content-length") != 1
        or not _UNPLAIN.isdisjoint(parsed.names)
        or (status := parser.get_status_code()) < 200
        or status in (204, 304)
    ):
        return None
    return Head(status, parsed.values), int(length), parser.should_keep_alive()


def request_bytes(origin: Origin, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """Write a request. Raises ValueError where a line break would make more lines of one."""
    if body is not None:
        headers = {**headers, "Content-Length": str(len(body))}
    return request_line(origin, method, path) + head_bytes(headers) + b"\r\n" + (body or b"")


def request_line(origin: Origin, method: str, path: str) -> bytes:
    """Write the first line of a request, and to whom it is. Raises ValueError as `head_bytes` does."""
    return _lines(f"{method} {origin.prefix}{path} HTTP/1.1", f"Host: {origin.name}")


def head_bytes(headers: Mapping[str, str]) -> bytes:
    """Write headers. Raises ValueError where a line break would make more lines of one."""
    return _lines(*(f"{name}: {value}" for name, value in headers.items()))


def _lines(*lines: str) -> bytes:
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a line break in a request's head")
    return "".join(line + "\r\n" for line in lines).encode("latin-1")
