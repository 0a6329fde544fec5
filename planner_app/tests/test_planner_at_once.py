"""Requests are answered in the loop itself where nothing has to be waited for, and behind it where something has."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from planner_app.planner.ledger import Ask, Ledger
from planner_app.planner.lifecycle import AT_ONCE
from planner_app.planner.quoting import Quote
from tests.fakes import NINE, FakePlanner

MANY = 2 * AT_ONCE + 3


def ask() -> Ask:
    return Ask("voter", {}, None, NINE, lambda _: Quote())


def where(planner: FakePlanner, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What will be written: by which thread, and for how many requests together."""
    seen: list[tuple[str, int]] = []
    reserve = planner.service.ledger.reserve_all

    def noted(asks: Any, **named: Any) -> Any:
        done = reserve(asks, **named)
        seen.append((threading.current_thread().name, len(asks)))
        return done

    monkeypatch.setattr(planner.service.ledger, "reserve_all", noted)
    return seen


async def test_requests_are_answered_in_the_loop_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakePlanner(tmp_path) as planner:
        seen = where(planner, monkeypatch)
        answers = await asyncio.gather(*(planner.ask(cores=(1, 1), memory=(1, 1)) for _ in range(MANY)))
        assert {name for name, _ in seen} == {"MainThread"}
        assert sum(count for _, count in seen) == MANY
        assert max(count for _, count in seen) <= AT_ONCE
        # The quota has eight cores and four jobs, and an offer holds its own.
        held = sum(len(answer["offers"]) for answer in answers)
        assert 0 < held < MANY


async def test_while_the_thread_writes_requests_wait_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakePlanner(tmp_path) as planner:
        seen, go = where(planner, monkeypatch), threading.Event()
        writing = asyncio.create_task(planner.lifecycle.in_thread(go.wait, 60))
        await asyncio.sleep(0)
        asked = asyncio.create_task(planner.lifecycle.reserve([ask()] * MANY))
        assert (await planner.client.get("/health")).status_code == 200
        assert seen == []
        go.set()
        assert len(await asked) == MANY
        assert seen == [("ledger", MANY)]
        assert await writing
        await planner.lifecycle.reserve([ask()])
        assert seen[-1] == ("MainThread", 1)


async def test_while_another_program_writes_only_requests_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakePlanner(tmp_path) as planner:
        seen = where(planner, monkeypatch)
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            asked = asyncio.create_task(planner.lifecycle.reserve([ask()]))
            await asyncio.sleep(0)
            assert (await planner.client.get("/health")).status_code == 200
            assert not asked.done()
            other.execute("ROLLBACK")
        assert len(await asked) == 1
        assert seen == [("ledger", 1)]
        await planner.lifecycle.reserve([ask()])
        assert seen[-1] == ("MainThread", 1)


def test_nothing_is_done_where_it_would_have_to_wait(tmp_path: Path, postgresql: Callable[[], str]) -> None:
    for url, somebody_writes in ((f"sqlite:///{tmp_path}/ledger.sqlite", True), (postgresql(), False)):
        ledger = Ledger(url)
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)) as other:
            if somebody_writes:
                other.execute("BEGIN IMMEDIATE")
            assert ledger.reserve_now([ask()]) is None
        counts = []
        for done in (False, True):
            if done:
                assert len(ledger.reserve_all([ask()])) == 1
            with ledger._engine.connect() as connection:
                counts.append(connection.exec_driver_sql("SELECT count(*) FROM offersets").scalar())
        assert counts == [0, 1]
        ledger.close()
