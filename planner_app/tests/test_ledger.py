"""The ledger: what is written together, and what a restart finds."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from planner_app.execution_broker.models import Phase
from planner_app.execution_broker.times import Interval
from planner_app.planner import ledger as module
from planner_app.planner.ledger import IllegalChange, Ledger, Note, SessionRow
from planner_app.planner.quoting import Amount, Offer, Quote, Reason, Reservation
from tests.fakes import NINE

HOUR = timedelta(hours=1)
NOTE = Note("urn:test", "${who} did it", {"who": "the test"})


def url_of(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.sqlite'}"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(url_of(tmp_path))
    yield opened
    opened.close()


def offer(cores: int = 2) -> Offer:
    return Offer(
        amount=Amount(cores, 4, 11, 1),
        start=Interval(NINE, NINE + timedelta(seconds=65)),
        duration=HOUR,
        expires=NINE + timedelta(seconds=60),
        reserved=Interval(NINE, NINE + HOUR),
        costs={"monetary": 0.02},
        metrics={"compute-performance": 90.0},
    )


def reserve(ledger: Ledger, *offers: Offer) -> list[SessionRow]:
    return ledger.reserve(
        client="voter", request={"compute": None}, program={"command": []}, now=NINE, make=lambda _: Quote(offers)
    )[1]


def accept(ledger: Ledger, row: SessionRow, seconds: float = 1) -> None:
    now = NINE + timedelta(seconds=seconds)
    ledger.accept(row.uuid, now, Interval(now, now), Interval(now, now + HOUR), NOTE)


def phase(ledger: Ledger, row: SessionRow) -> Phase:
    found = ledger.session(row.uuid)
    assert found is not None
    return found[0].phase


def test_what_was_written_is_read_again(tmp_path: Path, ledger: Ledger) -> None:
    (row,) = reserve(ledger, offer())
    accept(ledger, row)
    ledger.note(row.uuid, NINE, NOTE, job_id="42", submitted=NINE)
    again = Ledger(url_of(tmp_path))
    found = again.session(row.uuid)
    again.close()
    assert found is not None
    read, offerset, events = found
    assert (read.phase, read.job_id, read.submitted) == (Phase.ACCEPTED, "42", NINE)
    assert (read.amount, read.duration, read.costs, read.metrics) == (row.amount, HOUR, row.costs, row.metrics)
    assert (offerset.client, offerset.request, offerset.program) == ("voter", {"compute": None}, {"command": []})
    assert [(event.phase, event.note.message) for event in events] == [(Phase.ACCEPTED, "the test did it")] * 2


def test_a_quote_sees_what_was_reserved_before(ledger: Ledger) -> None:
    reserve(ledger, offer(), offer(4))
    seen: list[Sequence[Reservation]] = []

    def make(reservations: Sequence[Reservation]) -> Quote:
        seen.append(reservations)
        return Quote(reasons=(Reason("urn:no", "no ${left}", {"left": "0"}),))

    refused, rows = ledger.reserve(client="voter", request={}, program=None, now=NINE, make=make)
    assert rows == []
    assert sorted(each.amount.cores for each in seen[0]) == [2, 4]
    found = ledger.offerset(refused.uuid)
    assert found is not None
    assert found[0].reasons == [{"kind": "urn:no", "template": "no ${left}", "values": {"left": "0"}}]


def test_nothing_is_reserved_where_the_quote_fails(ledger: Ledger) -> None:
    def make(_: Sequence[Reservation]) -> Quote:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ledger.reserve(client="voter", request={}, program=None, now=NINE, make=make)
    assert ledger.count_by_phase() == {}


def test_quotes_at_once_do_not_see_the_same_room(tmp_path: Path, ledger: Ledger) -> None:
    """Two connections, as two threads or two processes have them; only one of eight may have the last room."""

    def make(reservations: Sequence[Reservation]) -> Quote:
        return Quote(() if reservations else (offer(),))

    barrier = threading.Barrier(8)
    given: list[SessionRow] = []

    def ask() -> None:
        own = Ledger(url_of(tmp_path))
        barrier.wait()
        given.extend(own.reserve(client="voter", request={}, program=None, now=NINE, make=make)[1])
        own.close()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given) == 1


def test_accepting_rejects_siblings(ledger: Ledger) -> None:
    first, second = reserve(ledger, offer(), offer(4))
    (stranger,) = reserve(ledger, offer())
    accept(ledger, second)
    assert [phase(ledger, each) for each in (first, second, stranger)] == [
        Phase.REJECTED,
        Phase.ACCEPTED,
        Phase.OFFERED,
    ]
    with pytest.raises(IllegalChange) as caught:
        accept(ledger, first)
    assert caught.value.phase is Phase.REJECTED
    with pytest.raises(IllegalChange):
        accept(ledger, second)


def test_an_offer_cannot_be_accepted_when_its_time_is_over(ledger: Ledger) -> None:
    (row,) = reserve(ledger, offer())
    with pytest.raises(IllegalChange) as caught:
        accept(ledger, row, seconds=60)
    assert caught.value.phase is Phase.EXPIRED
    assert phase(ledger, row) is Phase.EXPIRED


def test_expiry(ledger: Ledger) -> None:
    reserve(ledger, offer(), offer(4))
    assert ledger.expire(NINE + timedelta(seconds=59)) == 0
    assert ledger.expire(NINE + timedelta(seconds=60)) == 2
    assert ledger.live() == []
    assert ledger.count_by_phase() == {"EXPIRED": 2}


def test_a_change_from_another_phase_is_none(ledger: Ledger) -> None:
    (row,) = reserve(ledger, offer())
    assert not ledger.change(row.uuid, NINE, [Phase.ACCEPTED], Phase.WAITING, NOTE)
    assert phase(ledger, row) is Phase.OFFERED
    assert ledger.change(row.uuid, NINE, [Phase.OFFERED], Phase.REJECTED, NOTE)
    assert phase(ledger, row) is Phase.REJECTED


def test_unknown(ledger: Ledger) -> None:
    assert ledger.session(uuid4()) is None
    assert ledger.offerset(uuid4()) is None
    with pytest.raises(LookupError):
        ledger.change(uuid4(), NINE, [Phase.OFFERED], Phase.REJECTED, NOTE)


def test_another_schema_is_not_touched(tmp_path: Path) -> None:
    Ledger(url_of(tmp_path)).close()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    connection.close()
    with pytest.raises(RuntimeError, match="schema 99"):
        Ledger(url_of(tmp_path))


def test_what_is_live_is_found_by_its_index(tmp_path: Path, ledger: Ledger) -> None:
    statement = str(
        sa.select(module._sessions.c.uuid)
        .where(module._is_live)
        .compile(dialect=ledger._engine.dialect, compile_kwargs={"literal_binds": True})
    )
    with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
        plan = " ".join(str(row) for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}"))
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    connection.close()
    assert "ix_sessions_live" in plan
    assert mode == "wal"
