"""The voter's tables, and the one thread that writes them.

What waits to be written when a transaction ends goes into the next one together, so that a burst of two hundred
writes waits for a few of the disc's confirmations, not for two hundred. Nobody is told that something is on
record before it is.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
)

_T = TypeVar("_T")
_TOGETHER = 64
"""Writes in one transaction at most."""

schema = MetaData()

ballots = Table(
    "ballots",
    schema,
    Column("id", String(36), primary_key=True),
    Column("created", String(32), nullable=False, index=True),
    Column("state", String(16), nullable=False, index=True),
    Column("planner", String(64)),
    Column("session", String(36)),
    Column("phase", String(16)),
    # What is only ever read together, as JSON: question, answers, history.
    Column("document", Text, nullable=False),
)

offers = Table(
    "offers",
    schema,
    Column("ballot", ForeignKey("ballots.id"), primary_key=True),
    Column("planner", String(64), primary_key=True),
    Column("session", String(36), primary_key=True),
    Column("rank", Integer),
    Column("expires", String(32)),
    Column("fate", String(16), nullable=False, index=True),
)

uploads = Table(
    "uploads",
    schema,
    Column("uuid", String(36), primary_key=True),
    Column("created", String(32), nullable=False),
    Column("name", String(255), nullable=False),
    Column("size", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
)

traces = Table(
    "traces",
    schema,
    # A job that is voted on again has several ballots under one trace.
    Column("trace", String(32), primary_key=True),
    Column("ballot", ForeignKey("ballots.id"), primary_key=True),
)

spending = Table(
    "spending",
    schema,
    # What an accepted offer costs its user; taken back where the job never ran.
    Column("ballot", ForeignKey("ballots.id"), primary_key=True),
    Column("cost", String(64), primary_key=True),
    Column("user", String(255), nullable=False, index=True),
    Column("time", String(32), nullable=False),
    Column("amount", Float, nullable=False),
)

jobs = Table(
    "jobs",
    schema,
    # Never given twice, also where the last ones were deleted: caesar-rest knows a job by nothing else.
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("state", String(16), nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
    Column("cancelled", Integer, nullable=False),
    # What was submitted and what became of it, as JSON.
    Column("document", Text, nullable=False),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, slots=True)
class _Work:
    do: Callable[[Connection], Any]
    future: "asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop


class Database:
    """The database; all its work is done by one thread, so a slow disc does not stop the voter."""

    def __init__(self, url: str) -> None:
        """Open the database and make the tables that are missing."""
        self._engine = _engine(url)
        schema.create_all(self._engine)
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="ballots", daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[Connection], _T]) -> _T:
        """Run work in a transaction and return when that is committed.

        The work may share its transaction with others, and is run again alone where one of them failed: it must
        do nothing but read and write the database. Raises what it raises.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        self._queue.put(_Work(work, future, loop))
        return await future

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, last = [first], False
            try:
                while len(batch) < _TOGETHER:
                    more = self._queue.get_nowait()
                    if last := more is None:
                        break
                    batch.append(more)
            except Empty:
                pass
            try:
                self._together(batch)
            except Exception:  # noqa: BLE001 - each is told its own below
                for work in batch:
                    try:
                        self._together([work])
                    except Exception as error:  # noqa: BLE001 - it is told to who asked
                        work.loop.call_soon_threadsafe(_tell, [(work.future, None, error)])
            if last:
                return

    def _together(self, batch: Sequence[_Work]) -> None:
        with self._engine.begin() as connection:
            results = [(work.future, work.do(connection), None) for work in batch]
        batch[0].loop.call_soon_threadsafe(_tell, results)

    def close(self) -> None:
        """Finish what is being written and close the database."""
        self._queue.put(None)
        self._thread.join()
        self._engine.dispose()


def _tell(results: "Sequence[tuple[asyncio.Future[Any], Any, Exception | None]]") -> None:
    for future, result, error in results:
        if future.done():
            continue  # whoever asked was cancelled
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)


def _engine(url: str) -> Engine:
    engine = create_engine(url, pool_size=1, max_overflow=0)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _set_up(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            # Readers do not wait for the writer, and what is committed survives a loss of power.
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.execute("PRAGMA busy_timeout=5000")
            cursor.close()

    return engine
