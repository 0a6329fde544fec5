"""What was asked, offered and promised, in one database.

A quote and its reservation are one transaction, and so are every change of phase and its record, so that two
requests never get the same core and a killed planner finds everything it has promised. The calls block for
the length of a short transaction.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy import event

from planner_app.execution_broker.models import Phase
from planner_app.execution_broker.times import Interval
from planner_app.planner.quoting import Amount, Offer, Quote, Reservation, fill

SCHEMA_VERSION = 1
Level = Literal["DEBUG", "INFO", "WARN", "ERROR"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class _Instant(sa.types.TypeDecorator[datetime]):
    """An instant as microseconds since 1970 UTC: exact, and sorts as it should in every database."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else _EPOCH + value * _MICROSECOND


class _Span(sa.types.TypeDecorator[timedelta]):
    """A duration as microseconds."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: timedelta | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else value // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> timedelta | None:
        return None if value is None else value * _MICROSECOND


_metadata = sa.MetaData()

_schema = sa.Table("schema_version", _metadata, sa.Column("version", sa.Integer, primary_key=True))

_offersets = sa.Table(
    "offersets",
    _metadata,
    sa.Column("uuid", sa.Uuid, primary_key=True),
    sa.Column("client", sa.String, nullable=False),
    sa.Column("created", _Instant, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("program", sa.Text, nullable=True),
    sa.Column("reasons", sa.Text, nullable=False),
)

_sessions = sa.Table(
    "sessions",
    _metadata,
    sa.Column("uuid", sa.Uuid, primary_key=True),
    sa.Column("offerset", sa.Uuid, sa.ForeignKey("offersets.uuid"), nullable=False, index=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("phase", sa.String, nullable=False),
    sa.Column("created", _Instant, nullable=False),
    sa.Column("modified", _Instant, nullable=False),
    sa.Column("expires", _Instant, nullable=False),
    sa.Column("start_from", _Instant, nullable=False),
    sa.Column("start_until", _Instant, nullable=False),
    sa.Column("duration", _Span, nullable=False),
    sa.Column("cores", sa.Integer, nullable=False),
    sa.Column("memory_gib", sa.Integer, nullable=False),
    sa.Column("disc_gb", sa.Integer, nullable=False),
    sa.Column("reserved_from", _Instant, nullable=False),
    sa.Column("reserved_until", _Instant, nullable=False),
    sa.Column("costs", sa.Text, nullable=False),
    sa.Column("metrics", sa.Text, nullable=False),
    sa.Column("job_id", sa.String),
    sa.Column("outcome", sa.String),
    sa.Column("submitted", _Instant),
    sa.Column("started", _Instant),
    sa.Column("ended", _Instant),
)

# Few rows of many live at a time; the index holds these alone.
_LIVE = (Phase.OFFERED, Phase.ACCEPTED, Phase.WAITING, Phase.PREPARING, Phase.AVAILABLE, Phase.RELEASING)
_is_live = _sessions.c.phase.in_(sa.literal_column(f"'{phase}'") for phase in _LIVE)
sa.Index("ix_sessions_live", _sessions.c.phase, sqlite_where=_is_live)

_events = sa.Table(
    "events",
    _metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("session", sa.Uuid, sa.ForeignKey("sessions.uuid"), nullable=False, index=True),
    sa.Column("time", _Instant, nullable=False),
    sa.Column("phase", sa.String, nullable=False),
    sa.Column("level", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("template", sa.Text, nullable=False),
    sa.Column("values", sa.Text, nullable=False),
)


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


@dataclass(frozen=True)
class OfferSetRow:
    """A request and its answer."""

    uuid: UUID
    client: str
    created: datetime
    request: Mapping[str, Any]
    program: Mapping[str, Any] | None
    reasons: Sequence[Mapping[str, Any]]


class IllegalChange(Exception):
    """A session's phase does not allow this change; nothing was changed."""

    def __init__(self, phase: Phase, why: str) -> None:
        super().__init__(why)
        self.phase = phase


class Ledger:
    """The database of one planner."""

    def __init__(self, url: str) -> None:
        """Open the database, and make its tables where it is new.

        Raises RuntimeError where another version of the planner made it.
        """
        self._engine = sa.create_engine(url, pool_size=2, max_overflow=2)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _set_up_sqlite)
            event.listen(self._engine, "begin", _begin)
        with self._engine.begin() as connection:
            _metadata.create_all(connection)
            version = connection.execute(sa.select(_schema.c.version)).scalar()
            if version is None:
                connection.execute(sa.insert(_schema).values(version=SCHEMA_VERSION))
            elif version != SCHEMA_VERSION:
                raise RuntimeError(f"the ledger has schema {version}, this planner writes {SCHEMA_VERSION}")

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def reserve(
        self,
        *,
        client: str,
        request: Mapping[str, Any],
        program: Mapping[str, Any] | None,
        now: datetime,
        make: Callable[[Sequence[Reservation]], Quote],
    ) -> tuple[OfferSetRow, list[SessionRow]]:
        """Quote on what is reserved now and reserve what is offered, in one transaction."""
        with self._transaction() as connection:
            self._expire(connection, now)
            quote = make(_reservations(connection))
            offerset = OfferSetRow(
                uuid=uuid4(),
                client=client,
                created=now,
                request=request,
                program=program,
                reasons=[
                    {"kind": reason.kind, "template": reason.template, "values": dict(reason.values)}
                    for reason in quote.reasons
                ],
            )
            connection.execute(
                sa.insert(_offersets).values(
                    uuid=offerset.uuid,
                    client=client,
                    created=now,
                    request=json.dumps(request),
                    program=None if program is None else json.dumps(program),
                    reasons=json.dumps(offerset.reasons),
                )
            )
            rows = [self._row_of(offerset, number, offer) for number, offer in enumerate(quote.offers)]
            if rows:
                connection.execute(sa.insert(_sessions), [_columns(row) for row in rows])
        return offerset, rows

    @staticmethod
    def _row_of(offerset: OfferSetRow, number: int, offer: Offer) -> SessionRow:
        return SessionRow(
            uuid=uuid4(),
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

    def offerset(self, uuid: UUID) -> tuple[OfferSetRow, list[SessionRow]] | None:
        """Read a request with its offers as they are now."""
        with self._reading() as connection:
            found = connection.execute(sa.select(_offersets).where(_offersets.c.uuid == uuid)).first()
            if found is None:
                return None
            rows = _rows(connection, _sessions.c.offerset == uuid, order=_sessions.c.name)
        return _offerset_of(found), rows

    def session(self, uuid: UUID) -> tuple[SessionRow, OfferSetRow, list[Event]] | None:
        """Read a session, the request it came from and what happened to it."""
        with self._reading() as connection:
            rows = _rows(connection, _sessions.c.uuid == uuid)
            if not rows:
                return None
            found = connection.execute(sa.select(_offersets).where(_offersets.c.uuid == rows[0].offerset)).one()
            events = connection.execute(sa.select(_events).where(_events.c.session == uuid).order_by(_events.c.id))
            return rows[0], _offerset_of(found), [_event_of(each) for each in events]

    def live(self) -> list[SessionRow]:
        """Read all sessions that have not ended, offers among them."""
        with self._reading() as connection:
            return _rows(connection, _is_live, order=_sessions.c.created)

    def reservations(self) -> list[Reservation]:
        """Read what is kept for all sessions that have not ended."""
        with self._reading() as connection:
            return _reservations(connection)

    def count_by_phase(self) -> dict[str, int]:
        """Count the sessions in each phase that has any."""
        statement = sa.select(_sessions.c.phase, sa.func.count()).group_by(_sessions.c.phase)
        with self._reading() as connection:
            return {row[0]: row[1] for row in connection.execute(statement)}

    def expire(self, now: datetime) -> int:
        """End the offers whose time is over; returns how many."""
        with self._transaction() as connection:
            return self._expire(connection, now)

    def _expire(self, connection: sa.Connection, now: datetime) -> int:
        over = sa.and_(_is_live, _sessions.c.phase == Phase.OFFERED, _sessions.c.expires <= now)
        rows = _rows(connection, over)
        for row in rows:
            _record(connection, row.uuid, now, Phase.EXPIRED, _said("expired", "nobody accepted in time"))
        return len(rows)

    def accept(self, uuid: UUID, now: datetime, start: Interval, reserved: Interval, note: Note) -> None:
        """Accept an offer and reject its siblings, whose reservations end with that.

        Raises IllegalChange where the session is no offer or its time is over.
        """
        with self._transaction() as connection:
            row = _the(connection, uuid)
            if row.phase is not Phase.OFFERED:
                raise IllegalChange(row.phase, f"the session is {row.phase}")
            if row.expires <= now:
                _record(connection, uuid, now, Phase.EXPIRED, _said("expired", "nobody accepted in time"))
                error: IllegalChange | None = IllegalChange(Phase.EXPIRED, "the offer has expired")
            else:
                error = None
                _record(
                    connection, uuid, now, Phase.ACCEPTED, note,
                    start_from=start.start, start_until=start.end,
                    reserved_from=reserved.start, reserved_until=reserved.end,
                )  # fmt: skip
                siblings = sa.and_(
                    _sessions.c.offerset == row.offerset, _sessions.c.uuid != uuid, _sessions.c.phase == Phase.OFFERED
                )
                for sibling in _rows(connection, siblings):
                    _record(
                        connection, sibling.uuid, now, Phase.REJECTED,
                        _said("sibling-accepted", "${session} of the same set was accepted", session=str(uuid)),
                    )  # fmt: skip
        if error is not None:
            raise error

    def change(
        self, uuid: UUID, now: datetime, allowed: Sequence[Phase], phase: Phase, note: Note, **columns: Any
    ) -> bool:
        """Move a session from one of the allowed phases to another; returns False where it is in none of them."""
        with self._transaction() as connection:
            row = _the(connection, uuid)
            if row.phase not in allowed:
                return False
            _record(connection, uuid, now, phase, note, **columns)
            return True

    def note(self, uuid: UUID, now: datetime, note: Note, **columns: Any) -> None:
        """Record something of a session, and columns of it, that does not change its phase."""
        with self._transaction() as connection:
            _record(connection, uuid, now, _the(connection, uuid).phase, note, **columns)

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._engine.connect().execution_options(reads=True) as connection:
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self._engine.begin() as connection:
            yield connection


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Transactions begin where the "begin" event says, not where the driver guesses.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # A promise survives a power cut: each commit is on disc before it is answered.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.execute("PRAGMA cache_size=-2000")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    # What will write takes the lock before it reads: what it read is then still so when it writes.
    reads = connection.get_execution_options().get("reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


_SELECT = sa.select(_sessions, _offersets.c.client).join(_offersets, _offersets.c.uuid == _sessions.c.offerset)


def _rows(
    connection: sa.Connection, condition: sa.ColumnElement[bool], order: sa.Column[Any] | None = None
) -> list[SessionRow]:
    statement = _SELECT.where(condition)
    if order is not None:
        statement = statement.order_by(order)
    return [_session_of(each) for each in connection.execute(statement)]


_RESERVATIONS = sa.select(
    _sessions.c.uuid,
    _sessions.c.offerset,
    _sessions.c.phase,
    _sessions.c.cores,
    _sessions.c.memory_gib,
    _sessions.c.disc_gb,
    _sessions.c.reserved_from,
    _sessions.c.reserved_until,
    _sessions.c.duration,
    _sessions.c.expires,
    _sessions.c.ended,
).where(_is_live)


def _reservations(connection: sa.Connection) -> list[Reservation]:
    return [
        Reservation(
            session=row.uuid,
            offerset=row.offerset,
            phase=Phase(row.phase),
            amount=Amount(row.cores, row.memory_gib, row.disc_gb, 1),
            reserved=Interval(row.reserved_from, row.reserved_until),
            duration=row.duration,
            expires=row.expires,
            ended=row.ended is not None,
        )
        for row in connection.execute(_RESERVATIONS)
    ]


def _the(connection: sa.Connection, uuid: UUID) -> SessionRow:
    rows = _rows(connection, _sessions.c.uuid == uuid)
    if not rows:
        raise LookupError(f"no session {uuid}")
    return rows[0]


def _said(kind: str, template: str, level: Level = "INFO", **values: str) -> Note:
    return Note(f"urn:caesar:planner:{kind}", template, values, level)


def _record(connection: sa.Connection, uuid: UUID, now: datetime, phase: Phase, note: Note, **columns: Any) -> None:
    connection.execute(
        sa.update(_sessions).where(_sessions.c.uuid == uuid).values(phase=phase, modified=now, **columns)
    )
    connection.execute(
        sa.insert(_events).values(
            session=uuid, time=now, phase=phase, level=note.level, kind=note.kind, template=note.template,
            values=json.dumps(dict(note.values)),
        )
    )  # fmt: skip


def _columns(row: SessionRow) -> dict[str, Any]:
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
        "costs": json.dumps(dict(row.costs)),
        "metrics": json.dumps(dict(row.metrics)),
    }


def _session_of(row: sa.Row[Any]) -> SessionRow:
    return SessionRow(
        uuid=row.uuid,
        offerset=row.offerset,
        client=row.client,
        name=row.name,
        phase=Phase(row.phase),
        created=row.created,
        modified=row.modified,
        expires=row.expires,
        start=Interval(row.start_from, row.start_until),
        duration=row.duration,
        amount=Amount(row.cores, row.memory_gib, row.disc_gb, 1),
        reserved=Interval(row.reserved_from, row.reserved_until),
        costs=json.loads(row.costs),
        metrics=json.loads(row.metrics),
        job_id=row.job_id,
        outcome=None if row.outcome is None else Phase(row.outcome),
        submitted=row.submitted,
        started=row.started,
        ended=row.ended,
    )


def _offerset_of(row: sa.Row[Any]) -> OfferSetRow:
    return OfferSetRow(
        uuid=row.uuid,
        client=row.client,
        created=row.created,
        request=json.loads(row.request),
        program=None if row.program is None else json.loads(row.program),
        reasons=json.loads(row.reasons),
    )


def _event_of(row: sa.Row[Any]) -> Event:
    note = Note(row.kind, row.template, json.loads(row._mapping["values"]), row.level)
    return Event(row.time, Phase(row.phase), note)
