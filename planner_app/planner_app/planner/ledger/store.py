"""The ledger: quotes, reservations and changes of phase, each in one transaction with its record."""

import heapq
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from planner_app.execution_broker.models import Phase
from planner_app.execution_broker.times import Interval
from planner_app.planner.ledger.database import Prepared, checkpoint, is_locked, open_database, reading, writing
from planner_app.planner.ledger.ids import new_uuid
from planner_app.planner.ledger.keys import Keys
from planner_app.planner.ledger.lists import Lists
from planner_app.planner.ledger.rows import (
    EVENT_COLUMNS,
    OFFERSET_COLUMNS,
    SESSION_COLUMNS,
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
from planner_app.planner.ledger.schema import events, is_live, offersets, revision, sessions
from planner_app.planner.quoting import Book, Quote, Reservation

KEPT = 2000
"""Sessions that were read lately and are kept in memory: who follows one asks for it often."""
LOGGED = 50
"""Transactions after which SQLite's log is to be taken over: some twenty pages each."""
_UNKNOWN = -1
_PASSING = (Phase.OFFERED, Phase.REJECTED, Phase.EXPIRED)
"""Phases of what nobody has accepted, and no job hangs on: they are not waited for until they are on disc."""

Reserved = tuple[OfferSetRow, list[SessionRow]]
Found = tuple[SessionRow, OfferSetRow, list[Event]]


class IllegalChange(Exception):
    """A session's phase does not allow this change; nothing was changed."""

    def __init__(self, phase: Phase, why: str) -> None:
        super().__init__(why)
        self.phase = phase


@dataclass(frozen=True)
class Ask:
    """A request to quote on: `make` is called with what is held when its turn comes."""

    client: str
    request: Mapping[str, Any]
    program: Mapping[str, Any] | None
    now: datetime
    make: Callable[[Book], Quote]
    uuid: UUID | None = None
    """For the offer set, where it has one before it is made."""


class Ledger:
    """The database of one planner.

    What is live is held in memory as well, so that a quote reads nothing. Each transaction compares the
    database's revision with the one that memory is of: where somebody else wrote, or an earlier transaction
    failed, memory is read anew before anything is decided on it.
    """

    def __init__(self, url: str) -> None:
        """Open the database, make its tables where it is new and bring them up to date where they are old.

        Raises RuntimeError where another program or a later version of this one made it.
        """
        self._engine = open_database(url)
        self._writer = self._engine.connect()
        self.keys = Keys(self._engine)
        self.lists = Lists(self._engine)
        self._read: dict[UUID, Found] = {}
        self._lapsed: list[SessionRow] = []
        self._logged = 0
        with reading(self._engine) as connection:
            self._revision: int = connection.execute(sa.select(revision.c.written)).scalar_one()
            self._load(connection)

    def close(self) -> None:
        """Close all connections."""
        self._writer.close()
        self._engine.dispose()

    def reserve(
        self,
        *,
        client: str,
        request: Mapping[str, Any],
        program: Mapping[str, Any] | None,
        now: datetime,
        make: Callable[[Book], Quote],
        uuid: UUID | None = None,
    ) -> Reserved:
        """Quote on what is reserved now and reserve what is offered, in one transaction."""
        (done,) = self.reserve_all([Ask(client, request, program, now, make, uuid)])
        if isinstance(done, Exception):
            raise done
        return done

    def reserve_now(self, asks: Sequence[Ask]) -> list[Reserved | Exception] | None:
        """Do as `reserve_all` where that waits for nothing but the processor; else do nothing, and return None.

        It would wait for a database that is no file here, or where another program writes it.
        """
        if self._engine.dialect.name != "sqlite":
            return None
        try:
            return self.reserve_all(asks, patient=False)
        except sqlite3.OperationalError as error:
            if not is_locked(error):
                raise
            return None

    def reserve_all(self, asks: Sequence[Ask], *, patient: bool = True) -> list[Reserved | Exception]:
        """Quote on each request in turn and reserve what is offered, all in one transaction.

        Each sees what was reserved for those before it; one that cannot be quoted on gets its error in place
        of an answer, and holds up nobody.
        """
        answers: list[Reserved | Exception] = []
        with self._transaction(Phase.OFFERED, patient=patient) as connection:
            for ask in asks:
                self._lapse(ask.now)
                try:
                    quote = ask.make(self._book)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is for who asked
                    answers.append(error)
                    continue
                answer = _answer(ask, quote)
                answers.append(answer)
                for row in answer[1]:
                    self._enter(row)
            made = [answer for answer in answers if not isinstance(answer, Exception)]
            _NEW_OFFERSET.run(connection, [offerset_columns(offerset) for offerset, _ in made])
            _NEW_SESSION.run(connection, [session_columns(row) for _, rows in made for row in rows])
        return answers

    def offerset(self, uuid: UUID) -> Reserved | None:
        """Read a request with its offers as they are now."""
        with reading(self._engine) as connection:
            found = connection.execute(sa.select(offersets).where(offersets.c.uuid == uuid)).first()
            if found is None:
                return None
            rows = _rows(connection, sessions.c.offerset == uuid, order=sessions.c.name)
        return offerset_of(found), rows

    def session(self, uuid: UUID) -> Found | None:
        """Read a session, the request it came from and what happened to it."""
        if (known := self._read.get(uuid)) is not None:
            return known
        with reading(self._engine) as connection:
            rows = _rows(connection, sessions.c.uuid == uuid)
            if not rows:
                return None
            found = connection.execute(sa.select(offersets).where(offersets.c.uuid == rows[0].offerset)).one()
            happened = connection.execute(sa.select(events).where(events.c.session == uuid).order_by(events.c.id))
            known = rows[0], offerset_of(found), [event_of(each) for each in happened]
        if len(self._read) >= KEPT:
            del self._read[next(iter(self._read))]
        self._read[uuid] = known
        return known

    def known(self, uuid: UUID) -> Found | None:
        """Tell what `session` would, where it is in memory; unlike all else here, callable from any thread."""
        return self._read.get(uuid)

    def live(self) -> list[SessionRow]:
        """All sessions that have not ended, offers among them, the oldest first."""
        return list(self._live.values())

    def accepted(self) -> list[SessionRow]:
        """The sessions that were accepted and have not ended, the oldest first."""
        return [row for row in self._live.values() if row.phase is not Phase.OFFERED]

    def next_expiry(self) -> datetime | None:
        """When the next offer's time is over, at the earliest; callable from any thread."""
        with suppress(IndexError):
            return self._lapsed[0].expires
        with suppress(IndexError):
            return self._due[0][0]
        return None

    def reservations(self) -> list[Reservation]:
        """What is kept for all sessions that have not ended."""
        return list(self._book)

    def count_by_phase(self) -> dict[str, int]:
        """Count the sessions in each phase that has any."""
        statement = sa.select(sessions.c.phase, sa.func.count()).group_by(sessions.c.phase)
        with reading(self._engine) as connection:
            return {row[0].value: row[1] for row in connection.execute(statement)}

    def expire(self, now: datetime) -> int:
        """End the offers whose time is over; returns how many."""
        self._lapse(now)
        if not self._lapsed:
            return 0
        with self._transaction(Phase.EXPIRED) as connection:
            return self._expire(connection, now)

    def _lapse(self, now: datetime) -> None:
        """Keep nothing any more for offers whose time is over. That they are, `_expire` puts on record.

        A request needs only the former, and many expire together for the price of one.
        """
        while self._due and self._due[0][0] <= now:
            row = self._live.get(heapq.heappop(self._due)[1])
            if row is not None and row.phase is Phase.OFFERED:
                self._book.drop(row.uuid)
                self._lapsed.append(row)

    def _expire(self, connection: sa.Connection, now: datetime) -> int:
        self._lapse(now)
        # Some may have been rejected since.
        over = [row for row in self._lapsed if self._live.get(row.uuid) is row]
        self._lapsed.clear()
        self._end(connection, over, now, Phase.EXPIRED, _said("expired", "nobody accepted in time"))
        return len(over)

    def accept(self, uuid: UUID, now: datetime, start: Interval, reserved: Interval, note: Note) -> None:
        """Accept an offer and reject its siblings, whose reservations end with that.

        Raises IllegalChange where the session is no offer or its time is over.
        """
        with self._transaction(Phase.ACCEPTED) as connection:
            self._expire(connection, now)
            row = self._the(connection, uuid)
            if row.phase is Phase.OFFERED:
                self._record(
                    connection, row, now, Phase.ACCEPTED, note,
                    start_from=start.start, start_until=start.end,
                    reserved_from=reserved.start, reserved_until=reserved.end,
                )  # fmt: skip
                siblings = [
                    each
                    for each in self._live.values()
                    if each.offerset == row.offerset and each.phase is Phase.OFFERED
                ]
                why = _said("sibling-accepted", "${session} of the same set was accepted", session=str(uuid))
                self._end(connection, siblings, now, Phase.REJECTED, why)
        if row.phase is Phase.EXPIRED:
            raise IllegalChange(row.phase, "the offer has expired")
        if row.phase is not Phase.OFFERED:
            raise IllegalChange(row.phase, f"the session is {row.phase}")

    def change(
        self, uuid: UUID, now: datetime, allowed: Sequence[Phase], phase: Phase, note: Note, **columns: Any
    ) -> bool:
        """Move a session from one of the allowed phases to another; returns False where it is in none of them."""
        with self._transaction(phase) as connection:
            row = self._the(connection, uuid)
            if row.phase not in allowed:
                return False
            self._record(connection, row, now, phase, note, **columns)
            return True

    def note(self, uuid: UUID, now: datetime, note: Note, **columns: Any) -> None:
        """Record something of a session, and columns of it, that does not change its phase."""
        with self._transaction() as connection:
            row = self._the(connection, uuid)
            self._record(connection, row, now, row.phase, note, **columns)

    @contextmanager
    def _transaction(self, phase: Phase | None = None, *, patient: bool = True) -> Iterator[sa.Connection]:
        """Write what brings sessions to this phase, or what leaves them where they are."""
        try:
            with writing(self._writer, waits=phase not in _PASSING, patient=patient) as written:
                if written != self._revision + 1:
                    self._load(self._writer)
                yield self._writer
        except BaseException:
            self._revision = _UNKNOWN  # memory may have what the database has not
            raise
        self._revision = written
        self._logged += 1

    @property
    def wants_checkpoint(self) -> bool:
        """Whether enough was written since the latest `checkpoint` for another; callable from any thread."""
        return self._logged >= LOGGED

    def checkpoint(self) -> None:
        """Take over what was written, for a quick start and a short log; callable from any thread."""
        self._logged = 0
        if self._engine.dialect.name == "sqlite":
            checkpoint(self._engine)

    def _load(self, connection: sa.Connection) -> None:
        self._live = {row.uuid: row for row in _rows(connection, is_live, order=sessions.c.created)}
        self._book = Book(row.reservation() for row in self._live.values())
        self._due = [(row.expires, row.uuid) for row in self._live.values() if row.phase is Phase.OFFERED]
        heapq.heapify(self._due)
        self._lapsed.clear()
        self._read.clear()

    def _enter(self, row: SessionRow) -> None:
        """Take a session as it will be after this transaction."""
        if row.phase.ended:
            self._leave(row.uuid)
            return
        self._read.pop(row.uuid, None)
        self._live[row.uuid] = row
        self._book.put(row.reservation())
        if row.phase is Phase.OFFERED:
            heapq.heappush(self._due, (row.expires, row.uuid))

    def _the(self, connection: sa.Connection, uuid: UUID) -> SessionRow:
        if (row := self._live.get(uuid)) is not None:
            return row
        rows = _rows(connection, sessions.c.uuid == uuid)
        if not rows:
            raise LookupError(f"no session {uuid}")
        return rows[0]

    def _record(
        self, connection: sa.Connection, row: SessionRow, now: datetime, phase: Phase, note: Note, **columns: Any
    ) -> None:
        connection.execute(
            sa.update(sessions).where(sessions.c.uuid == row.uuid).values(phase=phase, modified=now, **columns)
        )
        _NEW_EVENT.run(connection, [event_columns(row.uuid, now, phase, note)])
        self._enter(row.changed(now, phase, columns))

    def _end(
        self, connection: sa.Connection, rows: Sequence[SessionRow], now: datetime, phase: Phase, note: Note
    ) -> None:
        """The same for many at once, all of which end."""
        if not rows:
            return
        _NEW_PHASE.run(connection, [{"of": row.uuid, "to": phase, "at": now} for row in rows])
        columns = event_columns(rows[0].uuid, now, phase, note)
        _NEW_EVENT.run(connection, [columns | {"session": row.uuid} for row in rows])
        for row in rows:
            self._leave(row.uuid)

    def _leave(self, uuid: UUID) -> None:
        self._read.pop(uuid, None)
        self._live.pop(uuid, None)
        self._book.drop(uuid)


_NEW_OFFERSET = Prepared(sa.insert(offersets), *OFFERSET_COLUMNS)
_NEW_SESSION = Prepared(sa.insert(sessions), *SESSION_COLUMNS)
_NEW_EVENT = Prepared(sa.insert(events).inline(), *EVENT_COLUMNS)
_NEW_PHASE = Prepared(
    sa.update(sessions)
    .where(sessions.c.uuid == sa.bindparam("of"))
    .values(phase=sa.bindparam("to"), modified=sa.bindparam("at"))
)
_SELECT = sa.select(sessions, offersets.c.client).join(offersets, offersets.c.uuid == sessions.c.offerset)


def _rows(
    connection: sa.Connection, condition: sa.ColumnElement[bool], order: sa.Column[Any] | None = None
) -> list[SessionRow]:
    statement = _SELECT.where(condition)
    if order is not None:
        statement = statement.order_by(order)
    return [session_of(each) for each in connection.execute(statement)]


def _answer(ask: Ask, quote: Quote) -> Reserved:
    reasons = [
        {"kind": reason.kind, "template": reason.template, "values": dict(reason.values)} for reason in quote.reasons
    ]
    offerset = OfferSetRow(ask.uuid or new_uuid(), ask.client, ask.now, ask.request, ask.program, reasons)
    return offerset, [offered(offerset, number, offer) for number, offer in enumerate(quote.offers)]


def _said(kind: str, template: str, level: Level = "INFO", **values: str) -> Note:
    return Note(f"urn:caesar:planner:{kind}", template, values, level)
