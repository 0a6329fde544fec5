"""What the ledger's rows mean, to and from Python."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import orjson
import sqlalchemy as sa

from planner_app.execution_broker.models import Phase
from planner_app.execution_broker.times import Interval
from planner_app.planner.ledger.ids import new_uuid
from planner_app.planner.quoting import Amount, Offer, Reservation, fill

Level = Literal["DEBUG", "INFO", "WARN", "ERROR"]


@dataclass(frozen=True)
class Note:
    """Something that happened to a session: what kind, in words with values in ``${}``, how grave."""

    kind: str
    template: str
    values: Mapping[str, str]
    level: Level = "INFO"

    @property
    def message(self) -> str:
        """The template with its values in place."""
        return fill(self.template, self.values)


@dataclass(frozen=True)
class Event:
    """A note as it was recorded."""

    time: datetime
    phase: Phase
    note: Note


@dataclass(frozen=True)
class SessionRow:
    """An offer and what became of it."""

    uuid: UUID
    offerset: UUID
    client: str
    name: str
    phase: Phase
    created: datetime
    modified: datetime
    expires: datetime
    start: Interval
    duration: timedelta
    amount: Amount
    reserved: Interval
    costs: Mapping[str, float]
    metrics: Mapping[str, float]
    job_id: str | None
    outcome: Phase | None
    """How the session will end, once it is being released."""
    submitted: datetime | None
    started: datetime | None
    ended: datetime | None

    def reservation(self) -> Reservation:
        """What is kept for it while it has not ended."""
        return Reservation(
            session=self.uuid,
            offerset=self.offerset,
            phase=self.phase,
            amount=self.amount,
            reserved=self.reserved,
            duration=self.duration,
            expires=self.expires,
            ended=self.ended is not None,
            client=self.client,
        )

    def changed(self, now: datetime, phase: Phase, columns: Mapping[str, Any]) -> "SessionRow":
        """The session after an update of its phase and of these columns."""
        changes = dict(columns)
        start = Interval(changes.pop("start_from", self.start.start), changes.pop("start_until", self.start.end))
        reserved = Interval(
            changes.pop("reserved_from", self.reserved.start), changes.pop("reserved_until", self.reserved.end)
        )
        return replace(self, phase=phase, modified=now, start=start, reserved=reserved, **changes)


@dataclass(frozen=True)
class OfferSetRow:
    """A request and its answer."""

    uuid: UUID
    client: str
    created: datetime
    request: Mapping[str, Any]
    program: Mapping[str, Any] | None
    reasons: Sequence[Mapping[str, Any]]


def offered(offerset: OfferSetRow, number: int, offer: Offer) -> SessionRow:
    """Make the session of a new offer."""
    return SessionRow(
        uuid=new_uuid(),
        offerset=offerset.uuid,
        client=offerset.client,
        name=f"offer-{number}",
        phase=Phase.OFFERED,
        created=offerset.created,
        modified=offerset.created,
        expires=offer.expires,
        start=offer.start,
        duration=offer.duration,
        amount=offer.amount,
        reserved=offer.reserved,
        costs=offer.costs,
        metrics=offer.metrics,
        job_id=None,
        outcome=None,
        submitted=None,
        started=None,
        ended=None,
    )


def _text(document: Mapping[str, Any] | Sequence[Any]) -> str:
    try:
        return orjson.dumps(document).decode()
    except TypeError:  # a client's number of more than 64 bits, for one
        return json.dumps(document)


def _value(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)  # which knows Infinity, and once was all that wrote here


SESSION_COLUMNS = (
    "uuid", "offerset", "name", "phase", "created", "modified", "expires", "start_from", "start_until", "duration",
    "cores", "memory_gib", "disc_gb", "reserved_from", "reserved_until", "costs", "metrics",
)  # fmt: skip
"""The columns that a new session has."""
OFFERSET_COLUMNS = ("uuid", "client", "created", "request", "program", "reasons")
EVENT_COLUMNS = ("session", "time", "phase", "level", "kind", "template", "values")


def session_columns(row: SessionRow) -> dict[str, Any]:
    """The columns of a new session."""
    return {
        "uuid": row.uuid,
        "offerset": row.offerset,
        "name": row.name,
        "phase": row.phase,
        "created": row.created,
        "modified": row.modified,
        "expires": row.expires,
        "start_from": row.start.start,
        "start_until": row.start.end,
        "duration": row.duration,
        "cores": row.amount.cores,
        "memory_gib": row.amount.memory_gib,
        "disc_gb": row.amount.disc_gb,
        "reserved_from": row.reserved.start,
        "reserved_until": row.reserved.end,
        "costs": _text(row.costs),
        "metrics": _text(row.metrics),
    }


def session_of(row: sa.Row[Any]) -> SessionRow:
    """Read a session's columns, its client among them."""
    return SessionRow(
        uuid=row.uuid,
        offerset=row.offerset,
        client=row.client,
        name=row.name,
        phase=row.phase,
        created=row.created,
        modified=row.modified,
        expires=row.expires,
        start=Interval(row.start_from, row.start_until),
        duration=row.duration,
        amount=Amount(row.cores, row.memory_gib, row.disc_gb, 1),
        reserved=Interval(row.reserved_from, row.reserved_until),
        costs=_value(row.costs),
        metrics=_value(row.metrics),
        job_id=row.job_id,
        outcome=row.outcome,
        submitted=row.submitted,
        started=row.started,
        ended=row.ended,
    )


def offerset_columns(row: OfferSetRow) -> dict[str, Any]:
    """The columns of a new offer set."""
    return {
        "uuid": row.uuid,
        "client": row.client,
        "created": row.created,
        "request": _text(row.request),
        "program": None if row.program is None else _text(row.program),
        "reasons": _text(row.reasons),
    }


def offerset_of(row: sa.Row[Any]) -> OfferSetRow:
    """Read an offer set's columns."""
    return OfferSetRow(
        uuid=row.uuid,
        client=row.client,
        created=row.created,
        request=_value(row.request),
        program=None if row.program is None else _value(row.program),
        reasons=_value(row.reasons),
    )


def event_columns(session: UUID, time: datetime, phase: Phase, note: Note) -> dict[str, Any]:
    """The columns of a new event."""
    return {
        "session": session,
        "time": time,
        "phase": phase,
        "level": note.level,
        "kind": note.kind,
        "template": note.template,
        "values": _text(note.values),
    }


def event_of(row: sa.Row[Any]) -> Event:
    """Read an event's columns."""
    note = Note(row.kind, row.template, _value(row._mapping["values"]), row.level)
    return Event(row.time, row.phase, note)
