"""The voter's connection to the planners: one pooled client, every call bounded in time and size."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import UUID

from planner_app.execution_broker import kinds
from planner_app.execution_broker.codecs import JSON, MalformedBody, decode, encode, media_type
from planner_app.voter.at_once import exchange_all
from planner_app.voter.heads import Head, Origin, head_bytes, request_line
from planner_app.voter.text import one_line
from planner_app.voter.wire import Streamed, Unreached, Wire, WireError

MAX_BODY = 1_000_000


@dataclass(frozen=True, slots=True)
class Planner:
    """A planner to ask: its name, its address without a slash at the end, and our token there."""

    name: str
    url: str
    token: str
    sessions_url: str = field(init=False, repr=False)
    """Where this planner's sessions are."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sessions_url", f"{self.url}/sessions")

    def session_url(self, session: UUID | str) -> str:
        """Tell where a session of this planner is, whatever the planner says its address is."""
        return f"{self.url}/sessions/{session}"


class Reply(NamedTuple):
    """A whole reply."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    def document(self) -> Any:
        """Decode the body.

        Raises MalformedBody that says what came instead of JSON or YAML.
        """
        header = self.headers.get("content-type")
        media = JSON if header == JSON else media_type(header)
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

    @property
    def closed_idle(self) -> bool:
        """Whether an idle connection was closed just then: what may be asked again was perhaps never read."""
        return self.cut and "without sending" in str(self)


@dataclass(frozen=True, slots=True)
class Before:
    """What each planner is asked before the question itself."""

    path: str
    patience: timedelta
    """How long its answer is waited for."""
    took: "Callable[[Planner, Reply | NoReply], None]"


class Planners:
    """All planners and the connections to them."""

    def __init__(self, planners: list[Planner], wire: Wire | None = None) -> None:
        self._planners = {planner.name: planner for planner in planners}
        self._origins = {planner.name: Origin.of(planner.url) for planner in planners}
        self._headers = {
            planner.name: {
                "Authorization": f"Bearer {planner.token}",
                "Accept": JSON,
                "Accept-Encoding": "identity",
                "User-Agent": "caesar-voter",
            }
            for planner in planners
        }
        self._own_heads: dict[tuple[str, str, str], bytes] = {}
        self._wire = wire or Wire()

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
        headers = self._headers[planner.name]
        if body is not None or more_headers:
            headers = {**headers, "Content-Type": JSON, **(more_headers or {})}
        seconds = timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                head, whole = await self._wire.exchange(
                    self._origins[planner.name], method, path, headers, body, MAX_BODY
                )
        except TimeoutError:
            raise NoReply(f"no answer within {seconds:g} s", timeout=True) from None
        except WireError as error:
            raise _no_reply(error) from None
        return Reply(head.status, head.headers, whole)

    async def call_all(
        self,
        planners: Sequence[Planner],
        path: str,
        timeout: timedelta,
        body: bytes,
        more_headers: Mapping[str, str],
        took: "Callable[[Planner, Reply | NoReply], None]",
        before: Before | None = None,
    ) -> None:
        """Post the same body to many planners at once.

        `took` is told of each reply when it is there; who has not answered within `timeout` it is not told of.
        `before` is what each planner is asked before that, by itself: nobody waits for another's answer to it.
        """
        # What is the same for all is written once, after what is each planner's own.
        rest = head_bytes({"Content-Type": JSON, **more_headers, "Content-Length": str(len(body))}) + b"\r\n" + body
        posts = [self._own_head(planner, "POST", path) + rest for planner in planners]
        first = posts
        if before is not None:
            first = [self._own_head(planner, "GET", before.path) + b"\r\n" for planner in planners]
        waiting = set(range(len(planners))) if before is not None else set()

        def told(index: int, head: Head | None, whole: bytes, failure: WireError | None) -> bytes | None:
            outcome = _outcome(head, whole, failure)
            if index not in waiting or before is None:
                took(planners[index], outcome)
                return None
            if isinstance(outcome, NoReply) and outcome.closed_idle and index not in again:
                again.add(index)
                return first[index]
            waiting.discard(index)
            before.took(planners[index], outcome)
            return posts[index]

        again: set[int] = set()
        requests = [(self._origins[planner.name], each) for planner, each in zip(planners, first, strict=True)]
        patience = None if before is None else before.patience.total_seconds()
        await exchange_all(self._wire, requests, MAX_BODY, timeout.total_seconds(), told, patience)

    async def update_phases(
        self,
        sessions: Mapping[Planner, Sequence[str]],
        phase: str,
        timeout: timedelta,
        took: "Callable[[Planner, str, Reply | NoReply], None]",
    ) -> None:
        """Ask for the same phase of many sessions: all planners at once, each for one session after the other.

        `took` is told of each; of those that were not answered within `timeout` it is not told.
        """
        planners, body = list(sessions), _phase_update(phase)
        rest = head_bytes({"Content-Type": JSON, "Content-Length": str(len(body))}) + b"\r\n" + body
        left = [list(reversed(sessions[planner])) for planner in planners]

        def request(index: int) -> bytes:
            planner = planners[index]
            line = request_line(self._origins[planner.name], "POST", f"/sessions/{left[index][-1]}")
            return line + head_bytes(self._headers[planner.name]) + rest

        def told(index: int, head: Head | None, whole: bytes, failure: WireError | None) -> bytes | None:
            took(planners[index], left[index].pop(), _outcome(head, whole, failure))
            return request(index) if left[index] else None

        requests = [(self._origins[planner.name], request(index)) for index, planner in enumerate(planners)]
        await exchange_all(self._wire, requests, MAX_BODY, timeout.total_seconds(), told)

    def _own_head(self, planner: Planner, method: str, path: str) -> bytes:
        """The beginning of a request that is each planner's own and always the same."""
        key = (planner.name, method, path)
        if key not in self._own_heads:
            origin, headers = self._origins[planner.name], self._headers[planner.name]
            self._own_heads[key] = request_line(origin, method, path) + head_bytes(headers)
        return self._own_heads[key]

    async def update_phase(self, planner: Planner, session: UUID | str, phase: str, timeout: timedelta) -> Reply:
        """Ask for a phase of a session: ACCEPTED, REJECTED or CANCELLED. Raises NoReply."""
        return await self.call(planner, "POST", f"/sessions/{session}", timeout, _phase_update(phase))

    @asynccontextmanager
    async def stream(self, planner: Planner, path: str, timeout: timedelta) -> AsyncIterator[Streamed]:
        """Open a reply of any size, such as a job's output; each wait for more of it is bounded.

        Raises NoReply where the reply does not begin, or breaks off.
        """
        seconds = timeout.total_seconds()
        # A job's output is bytes, and its log is text: neither is JSON.
        headers = {**self._headers[planner.name], "Accept": f"{JSON}, */*;q=0.5"}
        try:
            async with self._wire.stream(self._origins[planner.name], quote(path), headers, seconds) as reply:
                yield reply
        except TimeoutError:
            raise NoReply(f"no answer within {seconds:g} s", timeout=True) from None
        except WireError as error:
            raise _no_reply(error) from None

    async def close(self) -> None:
        """Close all connections."""
        self._wire.close()


def _phase_update(phase: str) -> bytes:
    return encode({"kind": kinds.ENUM_VALUE_UPDATE, "path": "/phase", "value": phase}, JSON)


def _outcome(head: Head | None, whole: bytes, failure: WireError | None) -> Reply | NoReply:
    if head is None:
        return _no_reply(failure or WireError("no head", cut=True))
    return Reply(head.status, head.headers, whole)


def _no_reply(error: WireError) -> NoReply:
    if isinstance(error, Unreached):
        return NoReply(f"can not be reached: {one_line(str(error))}", never_sent=True)
    if error.cut and str(error).startswith("answered more"):
        return NoReply(str(error), cut=True)
    return NoReply(
        f"{'broke off its answer' if error.cut else 'connection lost'}: {one_line(str(error))}", cut=error.cut
    )
