"""What a planner does for its clients."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Literal, TypeVar
from uuid import UUID

import structlog

from planner_app.execution_broker import codecs, kinds
from planner_app.execution_broker.models import EnumValueUpdate, ExecutionRequest, Phase
from planner_app.execution_broker.times import Interval, format_instant
from planner_app.planner.allowance import held_by, within_allowance
from planner_app.planner.batches import Batches
from planner_app.planner.capabilities import capabilities, use
from planner_app.planner.config import PlannerConfig
from planner_app.planner.demand import Reading, read_request
from planner_app.planner.documents import Document, legal_changes, offerset_document, session_document
from planner_app.planner.drain import Drain
from planner_app.planner.files import OpenFile, list_below, open_below
from planner_app.planner.idempotency import Once
from planner_app.planner.ledger import Ask, Event, Found, IllegalChange, Note, OfferSetRow, SessionRow
from planner_app.planner.lifecycle import Lifecycle, program_document
from planner_app.planner.listing import Page, Position
from planner_app.planner.quoting import (
    PREPARING,
    RELEASING,
    Book,
    Profile,
    Quote,
    quote,
    refusal,
)
from planner_app.platforms.images import ImageTable
from planner_app.platforms.protocol import PlatformDown, Snapshot

log = structlog.get_logger(__name__)
_T = TypeVar("_T")

ANSWER_WITHIN = 2.0
"""Seconds that a request waits for the platform; clients that ask many planners do not wait longer."""

KEPT = 500
"""Written sessions that are kept: some kB each."""


class NotYours(LookupError):
    """It is somebody else's, or there is no such thing: who asks is not told which."""


class IllegalUpdate(Exception):
    """The update cannot be made now; nothing was changed."""

    def __init__(self, why: str, phase: Phase) -> None:
        super().__init__(why)
        self.phase = phase
        self.legal = legal_changes(phase)


class BadUpdate(ValueError):
    """The update can never be made; names the field, and says what could be made now instead."""

    def __init__(self, field: str, why: str, phase: Phase) -> None:
        super().__init__(why)
        self.field = field
        self.phase = phase
        self.legal = legal_changes(phase)


class Service:
    """One planner: reads requests, quotes, changes sessions and shows what became of them."""

    def __init__(self, config: PlannerConfig, images: ImageTable, lifecycle: Lifecycle) -> None:
        self.config = config
        self.images = images
        self.lifecycle = lifecycle
        self.ledger = lifecycle.ledger
        self.drain = Drain(config, lifecycle)
        self.once = Once(lifecycle, self.ledger.keys)
        self.answers = {"YES": 0, "NO": 0}
        self._reserving = Batches(lifecycle.reserve)
        self._written: dict[tuple[UUID, str], tuple[Found, bytes]] = {}

    async def request(
        self, client: str, request: ExecutionRequest, *, uuid: UUID | None = None, direct: bool = False
    ) -> Document:
        """Answer a request with offers that are reserved, or with every reason why there are none.

        The offer set gets the uuid, if there is one. What is to run directly gets one offer, to be accepted now.
        """
        if request.data:
            # Locations are looked at on the shared storage, which may be slow: not in the loop.
            reading = await asyncio.to_thread(read_request, request, self.config, self.images)
        else:
            reading = read_request(request, self.config, self.images)
        snapshot, why = await self._snapshot()
        if snapshot is not None:
            reading = replace(reading, demand=await self.lifecycle.foretold(reading.demand, snapshot))
        now = self.lifecycle.clock()

        def make(book: Book) -> Quote:
            if snapshot is None:
                down = refusal(self.config, "platform-down", "the platform does not answer: ${why}", why=why)
                return Quote(reasons=(*reading.reasons, down))
            made = self._quote(reading, book.profile(snapshot, now), now)
            if direct:
                return replace(made, offers=made.offers[:1])
            return within_allowance(self.config, client, made, lambda: held_by(client, book, now))

        program = None if reading.program is None else program_document(reading.program)
        ask = Ask(client, request.document(), program, now, make, uuid)
        offerset, rows = await self._reserving.call(ask)
        document = offerset_document(self.config, offerset, rows)
        if rows:
            self.lifecycle.wake_by(rows[0].expires)
        self.answers[document["result"]] += 1
        told = {"client": client, "offerset": str(offerset.uuid), "result": document["result"], "offers": len(rows)}
        asyncio.get_running_loop().call_soon(partial(log.info, "request", **told))  # the answer goes out first
        return document

    def _quote(self, reading: Reading, profile: Profile, now: datetime) -> Quote:
        if (drained := self.drain.refusal()) is not None:
            return Quote(reasons=(*reading.reasons, drained))
        made = quote(self.config, reading.demand, profile, now)
        if reading.reasons:
            return Quote(reasons=(*reading.reasons, *made.reasons))
        return made

    async def _snapshot(self) -> tuple[Snapshot | None, str]:
        """The platform's latest answer, to make offers from; where there is none, why."""
        every, bound = self.config.observe_every, self.config.offers.snapshot_age
        try:
            return await self.lifecycle.observer.for_offers(every, ANSWER_WITHIN, bound), ""
        except PlatformDown as error:
            return None, str(error)

    async def offerset(self, client: str, uuid: UUID) -> Document:
        """Show an offer set, its offers as they are now."""
        found = await self.lifecycle.in_thread(self.ledger.offerset, uuid)
        if found is not None and found[0].client == client and any(self._is_over(row) for row in found[1]):
            found = await self._expired(self.ledger.offerset, uuid)
        if found is None or found[0].client != client:
            raise NotYours(f"{uuid} is no offer set of yours")
        return offerset_document(self.config, *found)

    async def session(self, client: str, uuid: UUID) -> Document:
        """Show a session."""
        return session_document(self.config, *await self._found(client, uuid))

    async def session_text(self, client: str, uuid: UUID, media: str) -> bytes:
        """The same, written; who follows a session asks for the same text again and again."""
        found = self.ledger.known(uuid)
        if found is None or found[0].client != client or self._is_over(found[0]):
            found = await self._found(client, uuid)
        written, text = self._written.get((uuid, media), (None, b""))
        if written is found:
            return text
        text = codecs.encode(session_document(self.config, *found), media)
        if len(self._written) >= KEPT:
            del self._written[next(iter(self._written))]
        self._written[uuid, media] = found, text
        return text

    async def standing(self, client: str, uuid: UUID) -> Document:
        """Tell where a session stands, and what is legal there."""
        phase = (await self._found(client, uuid))[0].phase
        return {"phase": str(phase), "legal": legal_changes(phase)}

    async def update(self, client: str, uuid: UUID, update: object) -> Document:
        """Accept, reject or cancel.

        Raises BadUpdate where no session takes such an update, and IllegalUpdate where this one does not now.
        """
        row = (await self._found(client, uuid))[0]
        if not isinstance(update, EnumValueUpdate):
            raise BadUpdate("kind", f"only {kinds.ENUM_VALUE_UPDATE} is taken", row.phase)
        if update.path.removeprefix("/") != "phase":
            raise BadUpdate("path", "only /phase can be changed", row.phase)
        try:
            match update.value:
                case "ACCEPTED":
                    await self._accept(client, row)
                case "REJECTED":
                    await self._reject(client, row)
                case "CANCELLED":
                    await self._cancel(client, row)
                case _:
                    raise BadUpdate("value", "must be ACCEPTED, REJECTED or CANCELLED", row.phase)
        except IllegalChange as error:
            raise IllegalUpdate(str(error), error.phase) from error
        except LookupError as error:
            # It was there a moment ago: the database's machine has lost its power since, and the latest offers with it.
            raise NotYours(f"{uuid} is no session of yours any more") from error
        self.lifecycle.wake()
        log.info("update", client=client, session=str(uuid), value=update.value)
        return await self.session(client, uuid)

    async def _found(self, client: str, uuid: UUID) -> tuple[SessionRow, OfferSetRow, list[Event]]:
        found = await self.lifecycle.in_thread(self.ledger.session, uuid)
        if found is not None and found[0].client == client and self._is_over(found[0]):
            found = await self._expired(self.ledger.session, uuid)
        if found is None or found[0].client != client:
            raise NotYours(f"{uuid} is no session of yours")
        return found

    def _is_over(self, row: SessionRow) -> bool:
        return row.phase is Phase.OFFERED and row.expires <= self.lifecycle.clock()

    async def _expired(self, read: Callable[[UUID], _T], uuid: UUID) -> _T:
        """Read again what nobody has seen to be over yet: what is shown is what can be done with it."""
        await self._expire()
        return await self.lifecycle.in_thread(read, uuid)

    async def _accept(self, client: str, row: SessionRow) -> None:
        now = self.lifecycle.clock()
        start = max(row.start.start, now + PREPARING)
        await self.lifecycle.in_thread(
            self.ledger.accept,
            row.uuid,
            now,
            Interval(start, start),
            Interval(start - PREPARING, start + row.duration + RELEASING),
            _by(client, "accepted"),
        )

    async def _reject(self, client: str, row: SessionRow) -> None:
        if not await self._change(row, [Phase.OFFERED], Phase.REJECTED, _by(client, "rejected")):
            await self._refuse(row)

    async def _cancel(self, client: str, row: SessionRow) -> None:
        note = _by(client, "cancelled")
        # What has a job is released first; which of both it is can change until the transaction.
        if await self._change(row, [Phase.ACCEPTED, Phase.WAITING], Phase.CANCELLED, note):
            return
        running = [Phase.PREPARING, Phase.AVAILABLE]
        if not await self._change(row, running, Phase.RELEASING, note, outcome=Phase.CANCELLED):
            await self._refuse(row)

    async def _change(self, row: SessionRow, allowed: list[Phase], phase: Phase, note: Note, **columns: Any) -> bool:
        return await self.lifecycle.in_thread(
            self.ledger.change, row.uuid, self.lifecycle.clock(), allowed, phase, note, **columns
        )

    async def _refuse(self, row: SessionRow) -> None:
        phase = (await self._found(row.client, row.uuid))[0].phase
        raise IllegalChange(phase, f"the session is {phase}")

    async def log(self, client: str, uuid: UUID, name: Literal["stdout", "stderr"]) -> OpenFile:
        """Open what the job has written so far to its standard output or error.

        Raises FileNotFoundError where there is nothing yet.
        """
        row = (await self._found(client, uuid))[0]
        directory = self.lifecycle.directory(uuid)
        if row.phase is Phase.AVAILABLE and row.job_id is not None:
            # While the platform does not answer, what is there already is all there is to show.
            with suppress(PlatformDown, TimeoutError):
                async with asyncio.timeout(ANSWER_WITHIN):
                    await self.lifecycle.platform.peek(row.job_id, directory)
        return await asyncio.to_thread(open_below, directory, f"{name}.log")

    async def outputs(self, client: str, uuid: UUID) -> list[Mapping[str, object]]:
        """List the job's results."""
        await self._found(client, uuid)
        listed = await asyncio.to_thread(list_below, self.lifecycle.directory(uuid) / "outputs")
        return [{"name": name, "size": size} for name, size in listed]

    async def output(self, client: str, uuid: UUID, name: str) -> OpenFile:
        """Open one of the job's results; raises FileNotFoundError where there is none of that name."""
        await self._found(client, uuid)
        return await asyncio.to_thread(open_below, self.lifecycle.directory(uuid) / "outputs", name)

    async def offerset_if_any(self, client: str, uuid: UUID) -> Document | None:
        """Show an offer set that may never have come to be."""
        with suppress(NotYours):
            return await self.offerset(client, uuid)
        return None

    async def sessions(self, client: str, page: Page) -> Document:
        """List a client's sessions."""
        await self._expire()
        after = None if page.after is None else (page.after.created, page.after.uuid)
        found = await self.lifecycle.in_thread(self.ledger.lists.sessions, client, page.phases, after, page.limit + 1)
        document: Document = {
            "sessions": [session_document(self.config, row, asked, ()) for row, asked in found[: page.limit]]
        }
        if len(found) > page.limit:
            last = found[page.limit - 1][0]
            document["next"] = page.next(f"{self.config.url}/sessions", Position(last.created, last.uuid))
        return document

    async def offersets(self, client: str, page: Page) -> Document:
        """List a client's offer sets."""
        await self._expire()
        after = None if page.after is None else (page.after.created, page.after.uuid)
        found = await self.lifecycle.in_thread(self.ledger.lists.offersets, client, after, page.limit + 1)
        document: Document = {"offersets": [offerset_document(self.config, *each) for each in found[: page.limit]]}
        if len(found) > page.limit:
            last = found[page.limit - 1][0]
            document["next"] = page.next(f"{self.config.url}/offersets", Position(last.created, last.uuid))
        return document

    async def _expire(self) -> None:
        await self.lifecycle.in_thread(self.ledger.expire, self.lifecycle.clock())

    async def capabilities(self, client: str) -> Document:
        """Tell what the platform may use, what of it is in use, reserved and free, prices and kinds."""
        snapshot, why = await self._snapshot()
        now = self.lifecycle.clock()
        document = capabilities(self.config, self.images, client, now) | await self.drain.document(snapshot)
        if snapshot is None:
            return document | {"platform": {"answers": False, "why": why}}
        latest = self.lifecycle.observation
        # Offers are made from its last answer for a while; what is said here is that it does not answer now.
        says = {"answers": True} if latest.failed is None else {"answers": False, "why": latest.why}
        reservations = await self.lifecycle.in_thread(self.ledger.reservations)
        return (
            document
            | {"platform": says | {"observed": format_instant(snapshot.taken)}}
            | use(self.config, snapshot, reservations, now)
        )

    def health(self) -> Document:
        """Tell whether the platform answered when it was last asked."""
        observation = self.lifecycle.observation
        state = "unknown" if observation.snapshot is None else "up"
        if observation.failed is not None:
            state = "down"
        return {"name": self.config.name, "status": "ok", "platform": state}


def _by(client: str, kind: str) -> Note:
    return Note(f"urn:caesar:planner:{kind}", "${client} " + kind + " it", {"client": client})
