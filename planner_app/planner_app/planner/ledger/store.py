"""The ledger: quotes, reservations and changes of phase, each in one transaction with its record."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa

from planner_app.execution_broker.models import Phase
from planner_app.execution_broker.times import Interval
from planner_app.planner.ledger.database import open_database, reading, writing
from planner_app.planner.ledger.keys import Keys
from planner_app.planner.ledger.lists import Lists
from planner_app.planner.ledger.rows import (
    Event,
    Level,
    Note,
    OfferSetRow,
    SessionRow,
    event_columns,
    event_of,
    offered,
    offerset_columns,
    offerset_of,
    session_columns,
    session_of,
)
from planner_app.planner.ledger.schema import events, is_live, offersets, sessions
from planner_app.planner.quoting import Quote, Reservation


class IllegalChange(Exception):
    """A session's phase does not allow this change; nothing was changed."""

    def __init__(self, phase: Phase, why: str) -> None:
        super().__init__(why)
        self.phase = phase


class Ledger:
    """The database of one planner."""

    def __init__(self, url: str) -> None:
        """Open the database, make its tables where it is new and bring them up to date where they are old.

        Raises RuntimeError where another program or a later version of this one made it.
        """
        self._engine = open_database(url)
        self.keys = Keys(self._engine)
        self.lists = Lists(self._engine)

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
        uuid: UUID | None = None,
    ) -> tuple[OfferSetRow, list[SessionRow]]:
        """Quote on what is reserved now and reserve what is offered, in one transaction."""
        with self._transaction() as connection:
            self._expire(connection, now)
            quote = make([row.reservation() for row in _rows(connection, is_live)])
            offerset = OfferSetRow(
                uuid=uuid or uuid4(),
                client=client,
                created=now,
                request=request,
                program=program,
                reasons=[
                    {"kind": reason.kind, "template": reason.template, "values": dict(reason.values)}
                    for reason in quote.reasons
                ],
            )
            connection.execute(sa.insert(offersets).values(offerset_columns(offerset)))
            rows = [offered(offerset, number, offer) for number, offer in enumerate(quote.offers)]
            if rows:
                connection.execute(sa.insert(sessions), [session_columns(row) for row in rows])
        return offerset, rows

    def offerset(self, uuid: UUID) -> tuple[OfferSetRow, list[SessionRow]] | None:
        """Read a request with its offers as they are now."""
        with reading(self._engine) as connection:
            found = connection.execute(sa.select(offersets).where(offersets.c.uuid == uuid)).first()
            if found is None:
                return None
            rows = _rows(connection, sessions.c.offerset == uuid, order=sessions.c.name)
        return offerset_of(found), rows

    def session(self, uuid: UUID) -> tuple[SessionRow, OfferSetRow, list[Event]] | None:
        """Read a session, the request it came from and what happened to it."""
        with reading(self._engine) as connection:
            rows = _rows(connection, sessions.c.uuid == uuid)
            if not rows:
                return None
            found = connection.execute(sa.select(offersets).where(offersets.c.uuid == rows[0].offerset)).one()
            happened = connection.execute(sa.select(events).where(events.c.session == uuid).order_by(events.c.id))
            return rows[0], offerset_of(found), [event_of(each) for each in happened]

    def live(self) -> list[SessionRow]:
        """Read all sessions that have not ended, offers among them."""
        with reading(self._engine) as connection:
            return _rows(connection, is_live, order=sessions.c.created)

    def reservations(self) -> list[Reservation]:
        """Read what is kept for all sessions that have not ended."""
        return [row.reservation() for row in self.live()]

    def count_by_phase(self) -> dict[str, int]:
        """Count the sessions in each phase that has any."""
        statement = sa.select(sessions.c.phase, sa.func.count()).group_by(sessions.c.phase)
        with reading(self._engine) as connection:
            return {row[0].value: row[1] for row in connection.execute(statement)}

    def expire(self, now: datetime) -> int:
        """End the offers whose time is over; returns how many."""
        with self._transaction() as connection:
            return self._expire(connection, now)

    def _expire(self, connection: sa.Connection, now: datetime) -> int:
        over = sa.and_(is_live, sessions.c.phase == Phase.OFFERED, sessions.c.expires <= now)
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
                    sessions.c.offerset == row.offerset, sessions.c.uuid != uuid, sessions.c.phase == Phase.OFFERED
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
    def _transaction(self) -> Iterator[sa.Connection]:
        with writing(self._engine) as (connection, _revision):
            yield connection


_SELECT = sa.select(sessions, offersets.c.client).join(offersets, offersets.c.uuid == sessions.c.offerset)


def _rows(
    connection: sa.Connection, condition: sa.ColumnElement[bool], order: sa.Column[Any] | None = None
) -> list[SessionRow]:
    statement = _SELECT.where(condition)
    if order is not None:
        statement = statement.order_by(order)
    return [session_of(each) for each in connection.execute(statement)]


def _the(connection: sa.Connection, uuid: UUID) -> SessionRow:
    rows = _rows(connection, sessions.c.uuid == uuid)
    if not rows:
        raise LookupError(f"no session {uuid}")
    return rows[0]


def _said(kind: str, template: str, level: Level = "INFO", **values: str) -> Note:
    return Note(f"urn:caesar:planner:{kind}", template, values, level)


def _record(connection: sa.Connection, uuid: UUID, now: datetime, phase: Phase, note: Note, **columns: Any) -> None:
    connection.execute(sa.update(sessions).where(sessions.c.uuid == uuid).values(phase=phase, modified=now, **columns))
    connection.execute(sa.insert(events).values(event_columns(uuid, now, phase, note)))
