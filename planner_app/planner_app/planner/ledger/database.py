"""Opening a ledger's database, and bringing its tables up to date."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from planner_app.planner.ledger.schema import HEAD, metadata, revision

_version = sa.table("alembic_version", sa.column("version_num", sa.String))

LOG_AT_MOST = 5_000
"""Pages of SQLite's log (20 MB) after which whoever writes takes over into the database what nobody did before."""


class Prepared:
    """A statement whose SQL is made once for each kind of database.

    What is written with each request is executed in half the time so, without SQLAlchemy's look at each parameter.
    """

    def __init__(self, statement: sa.UpdateBase, *names: str) -> None:
        self._statement = statement
        self._names = names
        self._made: dict[str, tuple[str, Callable[[Mapping[str, Any]], Any]]] = {}

    def run(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute it for each row of named parameters, if there are any."""
        if not rows:
            return
        sql, values = self._for(connection.dialect)
        cursor = connection.connection.cursor()
        try:
            cursor.executemany(sql, [values(row) for row in rows])
        finally:
            cursor.close()

    def scalar(self, connection: sa.Connection) -> Any:
        """Execute it without parameters, and give the one value that it returns."""
        cursor = connection.connection.cursor()
        try:
            cursor.execute(self._for(connection.dialect)[0])
            return cursor.fetchone()[0]  # type: ignore[index]
        finally:
            cursor.close()

    def _for(self, dialect: sa.Dialect) -> tuple[str, Callable[[Mapping[str, Any]], Any]]:
        if dialect.name not in self._made:
            compiled = self._statement.compile(dialect=dialect, column_keys=self._names or None)
            converted = [
                (name, compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect) or _as_it_is)
                for name in (compiled.positiontup or compiled.binds)
            ]

            def named(row: Mapping[str, Any]) -> Any:
                return {name: convert(row[name]) for name, convert in converted}

            def in_order(row: Mapping[str, Any]) -> Any:
                return [convert(row[name]) for name, convert in converted]

            self._made[dialect.name] = str(compiled), in_order if compiled.positional else named
        return self._made[dialect.name]


def _as_it_is(value: Any) -> Any:
    return value


def open_database(url: str) -> sa.Engine:
    """Open a database, make its tables where it is new and bring them up to date where they are old.

    Raises RuntimeError where another program or a later version of this one made it.
    """
    # The latest used first: its cache is of what the database holds now.
    engine = sa.create_engine(url, pool_size=2, max_overflow=2, pool_use_lifo=True)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    found = version_of(engine)
    if found is None:
        _make(engine)
        found = version_of(engine)
    if found != HEAD:
        _migrate(engine)
        found = version_of(engine)
    if found != HEAD:
        raise RuntimeError(f"the ledger has schema {found}, this planner writes {HEAD}")
    return engine


def version_of(engine: sa.Engine) -> str | None:
    """Tell which migration a database has; None where it is empty, ``1`` where it is older than migrations."""
    with reading(engine) as connection:
        names = sa.inspect(connection).get_table_names()
        if "alembic_version" in names:
            return connection.scalar(sa.select(_version.c.version_num))
        if "schema_version" in names:
            return str(connection.scalar(sa.text("SELECT version FROM schema_version")))
        if names:
            raise RuntimeError(f"the database holds tables of something else: {', '.join(sorted(names)[:5])}")
    return None


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """All that is read in here is of one moment."""
    options = {"reads": True} if engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
    with engine.connect().execution_options(**options) as connection:
        yield connection


@contextmanager
def writing(connection: sa.Connection, *, waits: bool = True, patient: bool = True) -> Iterator[int]:
    """Write all or nothing, one after the other with everybody else; gives the ledger's new revision.

    Whoever else wants to write waits here until this is over, and then reads what was written. It ends when that is
    on disc, or with `waits` off before: a killed process loses nothing of it all the same, but a power cut may. It
    loses no more than the latest of such transactions, none before one that is there: a later one that waits takes all
    before it to disc (https://www.sqlite.org/pragma.html#pragma_synchronous,
    https://www.postgresql.org/docs/current/wal-async-commit.html).

    With `patient` off SQLite waits for nobody: where somebody else writes, `is_locked` is true of what is raised.
    """
    on_sqlite = connection.dialect.name == "sqlite"
    if on_sqlite and connection.info["waits"] is not waits:
        # On one connection: each of two would find its cache out of date. Inside of a transaction it cannot be set.
        _set_sqlite_waits(connection.connection.driver_connection, waits)  # type: ignore[arg-type]
        connection.info["waits"] = waits
    if on_sqlite and connection.info["patient"] is not patient:
        _set_sqlite_patience(connection.connection.driver_connection, patient)  # type: ignore[arg-type]
        connection.info["patient"] = patient
    with connection.begin():
        if not on_sqlite and not waits:
            connection.exec_driver_sql("SET LOCAL synchronous_commit TO OFF")
        yield _RAISE.scalar(connection)


def is_locked(error: Exception) -> bool:
    """Whether this is SQLite's word that somebody else writes."""
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def checkpoint(engine: sa.Engine) -> None:
    """Take what SQLite's log holds over into the database, while others write on.

    Whoever commits would do it else, each thousand pages, and the request that it is for would wait for that. Who
    writes next begins the log anew, unless more was written meanwhile.
    """
    connection = engine.raw_connection()
    try:
        connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)")
    finally:
        connection.close()


_RAISE = Prepared(
    sa.update(revision).values(written=revision.c.written + sa.literal_column("1")).returning(revision.c.written)
)


def _make(engine: sa.Engine) -> None:
    """Make the tables of a new ledger as they are now, without the way there; two at once make them once."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(5718302)"))
        if sa.inspect(connection).has_table("alembic_version"):
            return
        metadata.create_all(connection)
        connection.execute(sa.insert(revision).values(written=0))
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
        connection.execute(sa.insert(_version).values(version_num=HEAD))
        # Planners of version 1 look here, and stop.
        connection.execute(sa.text("CREATE TABLE schema_version (version INTEGER NOT NULL PRIMARY KEY)"))
        connection.execute(sa.text("INSERT INTO schema_version (version) VALUES (2)"))


def _migrate(engine: sa.Engine) -> None:
    # In a process of its own: what migrations load would stay in the planner's memory until its next start.
    run = subprocess.run(
        [sys.executable, "-m", "planner_app.planner.ledger.migrate"],
        input=engine.url.render_as_string(hide_password=False),
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    if run.returncode != 0:
        why = run.stderr.strip().splitlines()[-1:] or ["it does not say why"]
        raise RuntimeError(f"the ledger cannot be brought up to date: {why[0]}")


def _set_up_sqlite(connection: sqlite3.Connection, record: sa.pool.ConnectionPoolEntry) -> None:
    # Transactions begin where the "begin" event says, not where the driver guesses.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA cache_size=-2000")
    cursor.execute(f"PRAGMA wal_autocheckpoint={LOG_AT_MOST}")
    cursor.close()
    _set_sqlite_waits(connection, True)
    _set_sqlite_patience(connection, True)
    record.info.update(waits=True, patient=True)


def _set_sqlite_waits(connection: sqlite3.Connection, waits: bool) -> None:
    connection.execute("PRAGMA synchronous=FULL" if waits else "PRAGMA synchronous=NORMAL")


def _set_sqlite_patience(connection: sqlite3.Connection, patient: bool) -> None:
    connection.execute(f"PRAGMA busy_timeout={5000 if patient else 0}")


def _begin_sqlite(connection: sa.Connection) -> None:
    # What will write takes the lock before it reads: what it read is then still so when it writes.
    reads = connection.get_execution_options().get("reads", False)
    driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
    driver.execute("BEGIN" if reads else "BEGIN IMMEDIATE")
