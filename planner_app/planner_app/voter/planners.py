"""The voter's connection to the planners: one pooled client, every call bounded in time and size."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx

from planner_app.execution_broker import kinds
from planner_app.execution_broker.codecs import JSON, MalformedBody, decode, encode, media_type
from planner_app.voter.text import one_line

MAX_BODY = 1_000_000


@dataclass(frozen=True, slots=True)
class Planner:
    """A planner to ask: its name, its address without a slash at the end, and our token there."""

    name: str
    url: str
    token: str

    def session_url(self, session: UUID | str) -> str:
        """Tell where a session of this planner is, whatever the planner says its address is."""
        return f"{self.url}/sessions/{session}"


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply."""

    status: int
    headers: httpx.Headers
    body: bytes

    def document(self) -> Any:
        """Decode the body.

        Raises MalformedBody that says what came instead of JSON or YAML.
        """
        header = self.headers.get("content-type")
        media = media_type(header)
        if media is None:
            media = JSON if (header or "").startswith("application/problem+json") else None
        if media is None:
            what = header.partition(";")[0].strip() if header else "a body of no stated type"
            raise MalformedBody(f"answered {one_line(what, 60)}, not JSON")
        return decode(self.body, media)


class NoReply(Exception):
    """No whole reply came; the message is one line that says why."""

    def __init__(self, reason: str, *, timeout: bool = False, never_sent: bool = False, cut: bool = False) -> None:
        super().__init__(reason)
        self.timeout = timeout
        self.never_sent = never_sent
        """The request can not have arrived, so nothing can have come of it."""
        self.cut = cut
        """A reply began and broke off."""


class Planners:
    """All planners and the client that asks them."""

    def __init__(self, planners: list[Planner], transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._planners = {planner.name: planner for planner in planners}
        # Certificate authorities take a megabyte and twenty milliseconds to read: only where one is needed.
        secure = any(planner.url.startswith("https:") for planner in planners)
        verify: ssl.SSLContext | bool = True if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._client = httpx.AsyncClient(
            transport=transport,
            verify=verify,
            trust_env=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "caesar-voter"},
            # Below the five seconds after which uvicorn closes an idle connection, so that none is used
            # that its planner is just closing.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=4),
            timeout=None,  # noqa: S113 - each call has a deadline of its own, for the whole of it
        )

    def __len__(self) -> int:
        return len(self._planners)

    def names(self) -> list[str]:
        """Name all planners in order."""
        return sorted(self._planners)

    def get(self, name: str) -> Planner | None:
        """Find a planner by name."""
        return self._planners.get(name)

    async def call(
        self,
        planner: Planner,
        method: str,
        path: str,
        timeout: timedelta,
        body: bytes | None = None,
        more_headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Make one call and read the whole reply within `timeout`.

        Raises NoReply where that does not happen.
        """
        headers = {"Authorization": f"Bearer {planner.token}", "Accept": JSON, **(more_headers or {})}
        if body is not None:
            headers["Content-Type"] = JSON
        seconds = timeout.total_seconds()
        try:
            async with (
                asyncio.timeout(seconds),
                self._client.stream(method, planner.url + path, headers=headers, content=body) as response,
            ):
                parts, size = [], 0
                async for part in response.aiter_raw():
                    size += len(part)
                    if size > MAX_BODY:
                        raise NoReply(f"answered more than {MAX_BODY} bytes", cut=True)
                    parts.append(part)
                return Reply(response.status_code, response.headers, b"".join(parts))
        except TimeoutError:
            raise NoReply(f"no answer within {seconds:g} s", timeout=True) from None
        except httpx.ConnectError as error:
            raise NoReply(f"can not be reached: {_cause(error)}", never_sent=True) from None
        except httpx.RemoteProtocolError as error:
            raise NoReply(f"broke off its answer: {_cause(error)}", cut=True) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NoReply(f"connection lost: {_cause(error)}") from None

    async def update_phase(self, planner: Planner, session: UUID | str, phase: str, timeout: timedelta) -> Reply:
        """Ask for a phase of a session: ACCEPTED, REJECTED or CANCELLED. Raises NoReply."""
        body = encode({"kind": kinds.ENUM_VALUE_UPDATE, "path": "/phase", "value": phase}, JSON)
        return await self.call(planner, "POST", f"/sessions/{session}", timeout, body)

    @asynccontextmanager
    async def stream(self, planner: Planner, path: str, timeout: timedelta) -> AsyncIterator[httpx.Response]:
        """Open a reply of any size, such as a job's output; each wait for more of it is bounded.

        Raises NoReply where the reply does not begin.
        """
        headers = {"Authorization": f"Bearer {planner.token}"}
        request = self._client.build_request(
            "GET", planner.url + quote(path), headers=headers, timeout=httpx.Timeout(timeout.total_seconds())
        )
        try:
            response = await self._client.send(request, stream=True)
        except httpx.TimeoutException:
            raise NoReply(f"no answer within {timeout.total_seconds():g} s", timeout=True) from None
        except httpx.HTTPError as error:
            raise NoReply(f"can not be reached: {_cause(error)}") from None
        try:
            yield response
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def _cause(error: Exception) -> str:
    deepest: BaseException = error
    while (below := deepest.__cause__ or deepest.__context__) is not None:
        deepest = below
    if isinstance(deepest, OSError) and deepest.errno is not None and deepest.errno > 0:
        return os.strerror(deepest.errno)
    return one_line(str(error) or type(error).__name__)
