"""The calls to the Kubernetes API."""

from __future__ import annotations

import json
import random
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from planner_app.platforms.kubernetes.objects import Object
from planner_app.platforms.protocol import PlatformDown

_TIMEOUT = 15.0
_PAGE = 500

WATCH_SECONDS = 300
"""After about so long the API is to end a watch, and another begins."""
SILENCE = 90.0
"""Seconds without a word on a watch after which it counts as broken; bookmarks come once a minute."""

# A connection whose other side vanished is given up after half a minute, busy or idle.
_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
]


class Forbidden(Exception):
    """The token may not do this; the message is the API's."""


class Expired(Exception):
    """What the API remembers does not go back so far: everything has to be listed anew."""


class Silent(PlatformDown):
    """Nothing came for as long as was to be waited."""


class Api:
    """A connection with a token."""

    def __init__(self, credentials_file: Path, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._credentials_file = credentials_file
        self._transport = transport
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Ask the API; what it answers with 401, 429 and 5xx is no answer."""
        try:
            reply = await self._open().request(method, path, params=params, json=json, headers=headers)
            if reply.status_code == 401:
                # The token may have been renewed in its file since.
                await self.close()
                reply = await self._open().request(method, path, params=params, json=json, headers=headers)
        except (httpx.HTTPError, RuntimeError) as error:
            raise PlatformDown(f"{method} {path}: {error!r}") from error
        if reply.status_code in (401, 429) or reply.status_code >= 500:
            raise PlatformDown(f"{method} {path}: {message(reply)}")
        return reply

    async def list(self, path: str, **parameters: str) -> tuple[list[Object], str]:
        """List all objects; returns them and the version of the whole."""
        items: list[Object] = []
        query: dict[str, str | int] = {**parameters, "limit": _PAGE}
        while True:
            body = content(await self.call("GET", path, params=query))
            items += body["items"]
            onward = body["metadata"].get("continue")
            if not onward:
                return items, str(body["metadata"].get("resourceVersion", ""))
            query["continue"] = onward

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str | int] | None = None, silence: float = _TIMEOUT
    ) -> AsyncIterator[httpx.Response]:
        """Read a reply while it comes.

        Raises PlatformDown where nothing comes for `silence` seconds.
        """
        try:
            timeout = httpx.Timeout(_TIMEOUT, read=silence)
            async with self._open().stream("GET", path, params=params, timeout=timeout) as reply:
                yield reply
        except httpx.ReadTimeout as error:
            raise Silent(f"GET {path}: no word for {silence:g} s") from error
        # Also what closing the connections under it does (RuntimeError).
        except (httpx.HTTPError, httpx.StreamError, RuntimeError) as error:
            raise PlatformDown(f"GET {path}: {error!r}") from error

    async def watch(self, path: str, version: str, **parameters: str) -> AsyncGenerator[Object | None]:
        """Yield the events after a version of the whole, until the API ends the watch; first None, when it began.

        Raises Forbidden, Expired, and PlatformDown for whatever else ends it.
        """
        query: dict[str, str | int] = {
            **parameters,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            # Not all planners of a cluster at the same time.
            "timeoutSeconds": random.randint(WATCH_SECONDS * 4 // 5, WATCH_SECONDS * 6 // 5),  # noqa: S311
        }
        async with self.stream(path, query, SILENCE) as reply:
            if reply.status_code == 401:
                await reply.aread()
                await self.close()  # the token may have been renewed in its file since
                raise PlatformDown(f"GET {path}: {message(reply)}")
            if reply.status_code != 200:
                await reply.aread()
                _refuse(reply.status_code, f"GET {path}: {message(reply)}")
            yield None
            async for line in reply.aiter_lines():
                event: Object = _parsed(path, line)
                if event.get("type") == "ERROR":
                    status = event.get("object") or {}
                    _refuse(int(status.get("code") or 0), f"GET {path}: {status.get('message')}")
                yield event

    def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            path = self._credentials_file
            try:
                credentials = json.loads(path.read_text(encoding="utf-8"))
                limits = httpx.Limits(max_connections=16, keepalive_expiry=30)
                context = ssl.create_default_context(cadata=credentials["ca"])
                self._client = httpx.AsyncClient(
                    base_url=credentials["server"],
                    headers={"Authorization": f"Bearer {credentials['token']}", "Accept": "application/json"},
                    transport=self._transport
                    or httpx.AsyncHTTPTransport(verify=context, limits=limits, socket_options=_KEEPALIVE),
                    # Proxies of the environment are for other things than a cluster next door.
                    trust_env=False,
                    timeout=_TIMEOUT,
                )
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise PlatformDown(f"credentials in {path}: {error}") from error
        return self._client


def _parsed(path: str, line: str) -> Object:
    try:
        event = json.loads(line)
        if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
            raise ValueError("no event")
    except ValueError as error:
        raise PlatformDown(f"GET {path}: {error}") from error
    return event


def _refuse(code: int, why: str) -> None:
    if code in (403, 405):
        raise Forbidden(why)
    if code == 410:
        raise Expired(why)
    raise PlatformDown(why)


def message(reply: httpx.Response) -> str:
    """Give the API's own words."""
    try:
        return str(reply.json()["message"])
    except (ValueError, KeyError, TypeError):
        return f"{reply.status_code} {reply.reason_phrase}"


def content(reply: httpx.Response) -> Any:
    """Give the object of a reply; raises PlatformDown where there is none."""
    if reply.status_code != 200:
        raise PlatformDown(f"{reply.request.method} {reply.request.url.path}: {message(reply)}")
    return reply.json()
