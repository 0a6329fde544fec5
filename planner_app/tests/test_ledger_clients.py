"""What the ledger keeps for clients, in each kind of database: their lists and their keys."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest
from planner_app.execution_broker.models import Phase
from planner_app.planner.ledger import Ledger
from planner_app.planner.quoting import Quote
from tests.fakes import NINE
from tests.test_ledger import offer

DAY = timedelta(days=1)


@pytest.fixture
def ledger(database: str) -> Iterator[Ledger]:
    opened = Ledger(database)
    yield opened
    opened.close()


def ask(ledger: Ledger, client: str, offers: int, second: int) -> tuple[UUID, list[UUID]]:
    now = NINE + timedelta(seconds=second)
    offerset, rows = ledger.reserve(
        client=client, request={}, program=None, now=now, make=lambda _: Quote(tuple(offer() for _ in range(offers)))
    )
    return offerset.uuid, [row.uuid for row in rows]


def test_lists_are_read_in_pages(ledger: Ledger) -> None:
    asked = [ask(ledger, "voter", number % 3, number // 4) for number in range(9)]
    ask(ledger, "other", 1, 1)
    sessions, after = [], None
    while found := ledger.lists.sessions("voter", (), after, 2):
        sessions += [row for row, _ in found]
        after = sessions[-1].created, sessions[-1].uuid
        assert len(found) <= 2
        assert all(row.offerset == request.uuid for row, request in found)
    assert sorted(row.uuid for row in sessions) == sorted(uuid for _, uuids in asked for uuid in uuids)
    assert [row.created for row in sessions] == sorted((row.created for row in sessions), reverse=True)
    offersets, after = [], None
    while page := ledger.lists.offersets("voter", after, 2):
        offersets += [(offerset.uuid, sorted(row.uuid for row in rows)) for offerset, rows in page]
        after = page[-1][0].created, page[-1][0].uuid
    assert sorted(offersets) == sorted((uuid, sorted(uuids)) for uuid, uuids in asked)


def test_lists_are_of_phases(ledger: Ledger) -> None:
    _, (first, second) = ask(ledger, "voter", 2, 0)
    ledger.expire(NINE + timedelta(seconds=60))
    _, (third,) = ask(ledger, "voter", 1, 70)

    def listed(*phases: Phase) -> set[UUID]:
        return {row.uuid for row, _ in ledger.lists.sessions("voter", phases, None, 10)}

    assert listed(Phase.EXPIRED) == {first, second}
    assert listed(Phase.OFFERED) == {third}
    assert listed(Phase.OFFERED, Phase.EXPIRED) == listed() == {first, second, third}
    assert listed(Phase.FAILED) == set()


def test_a_key_is_taken_once(database: str, ledger: Ledger) -> None:
    first = ledger.keys.claim("voter", "one", "a", NINE, NINE - DAY)
    assert first.new
    again = Ledger(database)
    found = again.keys.claim("voter", "one", "b", NINE + DAY / 2, NINE - DAY / 2)
    assert (found.uuid, found.fingerprint, found.new) == (first.uuid, "a", False)
    assert again.keys.claim("other", "one", "a", NINE, NINE - DAY).new
    assert again.keys.claim("voter", "two", "a", NINE, NINE - DAY).new
    forgotten = again.keys.claim("voter", "one", "b", NINE + DAY, NINE)
    assert forgotten.new
    assert forgotten.uuid != first.uuid
    again.close()
