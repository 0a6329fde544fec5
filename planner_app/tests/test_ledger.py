"""The ledger: what is written together, and what a restart finds."""

import contextlib
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import RFC_4122, UUID, uuid4

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from planner_app.execution_broker.models import Phase
from planner_app.execution_broker.times import Interval
from planner_app.planner.ledger import Ask, IllegalChange, Ledger, Note, SessionRow
from planner_app.planner.ledger.database import version_of
from planner_app.planner.ledger.ids import new_uuid
from planner_app.planner.ledger.migrate import upgrade
from planner_app.planner.ledger.schema import HEAD, is_live, metadata, sessions
from planner_app.planner.ledger.store import LOGGED
from planner_app.planner.quoting import Amount, Book, Offer, Quote, Reason, Reservation
from tests.fakes import NINE

HOUR = timedelta(hours=1)
NOTE = Note("urn:test", "${who} did it", {"who": "the test"})


@pytest.fixture
def ledger(database: str) -> Iterator[Ledger]:
    opened = Ledger(database)
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


def test_what_was_written_is_read_again(database: str, ledger: Ledger) -> None:
    (row,) = reserve(ledger, offer())
    accept(ledger, row)
    ledger.note(row.uuid, NINE, NOTE, job_id="42", submitted=NINE)
    again = Ledger(database)
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

    def make(book: Book) -> Quote:
        seen.append(list(book))
        return Quote(reasons=(Reason("urn:no", "no ${left}", {"left": "0"}),))

    refused, rows = ledger.reserve(client="voter", request={}, program=None, now=NINE, make=make)
    assert rows == []
    assert sorted(each.amount.cores for each in seen[0]) == [2, 4]
    found = ledger.offerset(refused.uuid)
    assert found is not None
    assert found[0].reasons == [{"kind": "urn:no", "template": "no ${left}", "values": {"left": "0"}}]


def test_nothing_is_reserved_where_the_quote_fails(ledger: Ledger) -> None:
    def make(_: Book) -> Quote:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ledger.reserve(client="voter", request={}, program=None, now=NINE, make=make)
    assert ledger.count_by_phase() == {}


def test_quotes_at_once_do_not_see_the_same_room(database: str, ledger: Ledger) -> None:
    """Two connections, as two threads or two processes have them; only one of eight may have the last room."""

    def make(book: Book) -> Quote:
        return Quote(() if len(book) else (offer(),))

    barrier = threading.Barrier(8)
    given: list[SessionRow] = []

    def ask() -> None:
        own = Ledger(database)
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


def test_a_request_takes_room_that_an_offer_had_and_leaves_the_record_to_others(database: str, ledger: Ledger) -> None:
    over = NINE + timedelta(seconds=60)
    (row,) = reserve(ledger, offer())
    held: list[int] = []

    def make(book: Book) -> Quote:
        held.append(len(book))
        return Quote((replace(offer(), expires=over + HOUR),))

    for now in (over - timedelta(seconds=1), over):
        ledger.reserve(client="voter", request={}, program=None, now=now, make=make)
    assert held == [1, 1]  # of two that were reserved by then
    assert phase(ledger, row) is Phase.OFFERED
    assert ledger.next_expiry() == over
    with pytest.raises(IllegalChange, match="expired"):
        accept(ledger, row, seconds=60)
    assert phase(ledger, row) is Phase.EXPIRED
    assert ledger.next_expiry() == over + HOUR
    assert ledger.expire(over) == 0
    # A planner that was killed in between finds it, and so does one that shares the ledger.
    again = Ledger(database)
    assert len(again.live()) == 2
    again.close()


def test_an_offer_that_was_rejected_after_its_time_does_not_expire_as_well(ledger: Ledger) -> None:
    (row,) = reserve(ledger, offer())
    ledger.reserve(client="voter", request={}, program=None, now=NINE + HOUR, make=lambda _: Quote())
    assert ledger.change(row.uuid, NINE + HOUR, [Phase.OFFERED], Phase.REJECTED, NOTE)
    assert ledger.expire(NINE + HOUR) == 0
    assert ledger.count_by_phase() == {"REJECTED": 1}


def test_a_request_that_cannot_be_quoted_on_holds_up_no_other(ledger: Ledger) -> None:
    def fail(_: Book) -> Quote:
        raise ZeroDivisionError

    asks = [Ask("voter", {}, None, NINE, make) for make in (fail, lambda _: Quote((offer(),)))]
    failed, made = ledger.reserve_all(asks)
    assert isinstance(failed, ZeroDivisionError)
    assert not isinstance(made, Exception)
    assert phase(ledger, made[1][0]) is Phase.OFFERED


def test_later_names_are_greater_and_no_two_are_the_same() -> None:
    made: list[UUID] = []
    for _ in range(50):
        made.append(new_uuid())
        time.sleep(1e-6)
    assert made == sorted(made)
    assert all(each.bytes[6] >> 4 == 7 and each.variant == RFC_4122 for each in made)
    assert abs((made[0].int >> 80) / 1000 - time.time()) < 60
    assert len({new_uuid() for _ in range(10_000)}) == 10_000


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


@pytest.mark.parametrize(
    ("table", "column", "version"), [("alembic_version", "version_num", "'9999'"), ("schema_version", "version", "3")]
)
def test_a_later_schema_is_not_touched(database: str, table: str, column: str, version: str) -> None:
    Ledger(database).close()
    engine = sa.create_engine(database)
    with engine.begin() as connection:
        if table == "schema_version":
            connection.execute(sa.text("DROP TABLE alembic_version"))
        connection.execute(sa.text(f"UPDATE {table} SET {column} = {version}"))
    with pytest.raises(RuntimeError, match=version.strip("'")):
        Ledger(database)
    with engine.begin() as connection:
        assert str(connection.scalar(sa.text(f"SELECT {column} FROM {table}"))) == version.strip("'")
    engine.dispose()


def test_a_database_of_something_else_is_not_touched(database: str) -> None:
    engine = sa.create_engine(database)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE accounts (name TEXT)"))
    with pytest.raises(RuntimeError, match="something else: accounts"):
        Ledger(database)
    assert sa.inspect(engine).get_table_names() == ["accounts"]
    engine.dispose()


def test_what_was_written_is_taken_over_beside_the_writing(tmp_path: Path) -> None:
    path, alone = tmp_path / "ledger.sqlite", tmp_path / "alone.sqlite"

    def in_the_file_itself() -> int:
        alone.write_bytes(path.read_bytes())
        with contextlib.closing(sqlite3.connect(f"file:{alone}?immutable=1", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM sessions").fetchone()[0])

    ledger = Ledger(f"sqlite:///{path}")
    ledger.checkpoint()
    for _ in range(LOGGED):
        assert not ledger.wants_checkpoint
        reserve(ledger, offer())
    assert ledger.wants_checkpoint
    assert in_the_file_itself() == 0
    # In another thread, in the middle of a transaction: it waits for nobody, and nobody for it.
    with ThreadPoolExecutor(1) as pool:

        def make(_: Book) -> Quote:
            pool.submit(ledger.checkpoint).result(10)
            return Quote((offer(),))

        ledger.reserve(client="voter", request={}, program=None, now=NINE, make=make)
    assert in_the_file_itself() == LOGGED
    ledger.close()


def test_two_that_start_at_once_make_one_ledger(database: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for opened in list(pool.map(lambda _: Ledger(database), range(4))):
            assert opened.count_by_phase() == {}
            opened.close()


def differences(engine: sa.Engine) -> list[object]:
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)
    # Kept to stop planners of version 1, and no table of ours.
    return [each for each in found if getattr(each[1], "name", "") != "schema_version"]


def test_a_new_ledger_and_a_migrated_one_have_the_same_tables(database: str) -> None:
    upgrade(database)
    engine = sa.create_engine(database)
    assert version_of(engine) == HEAD
    assert differences(engine) == []
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT version FROM schema_version")) == 2
        assert connection.scalar(sa.text("SELECT written FROM revision")) == 0
    engine.dispose()


def test_a_new_ledger_has_the_tables_that_are_described(ledger: Ledger) -> None:
    assert differences(ledger._engine) == []


def old_ledger(tmp_path: Path) -> Path:
    """A ledger as a planner of version 1 left it: written by one, in sqlite3's own text form."""
    path = tmp_path / "old.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript((Path(__file__).parent / "data/ledger_v1.sql").read_text(encoding="utf-8"))
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    return path


def everything(path: Path, table: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    found = connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
    connection.close()
    return found


def test_a_ledger_of_version_1_goes_on(tmp_path: Path) -> None:
    path = old_ledger(tmp_path)
    before = {table: everything(path, table) for table in ("offersets", "sessions", "events")}
    opened = Ledger(f"sqlite:///{path}")
    for table, rows in before.items():
        assert len(rows) >= 5
        assert everything(path, table) == rows
    assert opened.count_by_phase() == {"ACCEPTED": 1, "AVAILABLE": 1, "FAILED": 1, "OFFERED": 1, "REJECTED": 1}
    running = next(row for row in opened.live() if row.phase is Phase.AVAILABLE)
    assert (running.job_id, running.started) == ("42", NINE + timedelta(seconds=2))
    found = opened.session(running.uuid)
    assert found is not None
    assert found[1].program is not None
    assert found[1].program["command"] == ["--run", "grün"]
    assert [each.phase for each in found[2]] == [
        Phase.ACCEPTED,
        Phase.PREPARING,
        Phase.PREPARING,
        Phase.AVAILABLE,
    ]
    (waiting,) = (row for row in opened.live() if row.phase is Phase.OFFERED)
    accept(opened, waiting)
    assert sorted(each.amount.cores for each in opened.reservations()) == [1, 3, 4]
    opened.close()
    assert everything(path, "schema_version") == [(2,)]  # on which a planner of version 1 stops


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = old_ledger(tmp_path)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE revision (something TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(RuntimeError, match=r"brought up to date: table revision already exists"):
        Ledger(f"sqlite:///{path}")
    assert everything(path, "schema_version") == [(1,)]
    assert everything(path, "sqlite_master WHERE name = 'alembic_version'") == []


def test_a_ledger_up_to_date_needs_no_migrations_loaded(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    program = (
        "import sys; from planner_app.planner.ledger import Ledger; Ledger(sys.argv[1]).close();"
        "print([name for name in ('alembic', 'mako', 'psycopg') if name in sys.modules])"
    )
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", program, url], check=True, capture_output=True, text=True)
        assert run.stdout == "[]\n"


def test_what_is_live_is_found_by_its_index(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    statement = str(
        sa.select(sessions.c.uuid)
        .where(is_live)
        .compile(dialect=ledger._engine.dialect, compile_kwargs={"literal_binds": True})
    )
    with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
        plan = " ".join(str(row) for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}"))
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    connection.close()
    ledger.close()
    assert "ix_sessions_live" in plan
    assert mode == "wal"
