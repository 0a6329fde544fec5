"""What ballots keep, budgets, traces, and the one thread that writes."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from planner_app.voter import database
from planner_app.voter.budgets import Budget, Budgets
from planner_app.voter.collect import read_load
from planner_app.voter.config import VoterConfig
from planner_app.voter.database import Database
from planner_app.voter.explain import explain
from pydantic import ValidationError
from sqlalchemy import insert, select, text
from tests.voter_stubs import StubPlanner, VoterUnderTest, gives, http, running, until, vote, why

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
DAY = timedelta(days=1)


async def test_a_ballot_keeps_answers_times_and_scores(tmp_path: Path) -> None:
    good, bad = StubPlanner("good"), StubPlanner("bad", gives(http(500, {"detail": "boom"})))
    async with running(good, bad), VoterUnderTest(tmp_path, good, bad).up() as client:
        ballot = await vote(client, policy="2*monetary+earliest-finish", max_costs={"monetary": 0.4})
        assert ballot["policy"] == "2*monetary/0.4+earliest-finish/PT1H,earliest-finish,monetary"
        # Twice a quarter of the most that was allowed, and once the duration that was asked.
        assert ballot["candidates"][0]["scores"] == {
            "2*monetary/0.4+earliest-finish/PT1H": pytest.approx(1.5),
            "earliest-finish": 3600,
            "monetary": 0.1,
        }
        answers = {answer["planner"]: answer for answer in ballot["answers"]}
        assert answers["bad"]["verdict"] == "ERROR"
        assert answers["bad"]["excerpt"] == '{"detail": "boom"}'
        assert 0 < answers["good"]["elapsed_ms"] < 1000
        explained = explain((await client.get(f"/ballots/{ballot['id']}")).json())
        assert [fault["planner"] for fault in explained["faults"]] == ["bad"]
        assert explained["winner"]["planner"] == "good"


async def test_a_trace_is_found_in_request_and_ballot(tmp_path: Path) -> None:
    planner = StubPlanner("one")
    async with running(planner), VoterUnderTest(tmp_path, planner).up() as client:
        client.headers["traceparent"] = f"00-{TRACE}-00f067aa0ba902b7-01"
        first, second = await vote(client), await vote(client)
        assert (first["trace"], second["trace"]) == (TRACE, TRACE)
        assert planner.traces[0].split("-")[1] == TRACE
        assert planner.calls[0][2]["executable"]["meta"]["name"] == f"aegean-{TRACE}"
        assert (await client.get(f"/ballots/{TRACE}")).json()["id"] == second["id"]
        del client.headers["traceparent"]
        alone = await vote(client)
        assert alone["trace"] == UUID(alone["id"]).hex


async def test_the_least_loaded_platform_is_asked_for_before_the_question(tmp_path: Path) -> None:
    full, empty, silent = StubPlanner("a-full"), StubPlanner("b-empty"), StubPlanner("silent", monetary=0.01)
    quota = {"cores": 8, "memory_gib": 32}
    full.capabilities = {"quota": quota, "free": {"cores": 4, "memory_gib": 4}}
    empty.capabilities = {"quota": quota, "free": {"cores": 6, "memory_gib": 32}}
    # Whoever is slow to say how busy it is, or says nonsense, can offer all the same.
    slow, wrong = (StubPlanner(name, gives(answer, "/capabilities"))
                   for name, answer in (("slow", b"drip"), ("wrong", http(200, b"{", "text/html"))))  # fmt: skip
    planners = (full, empty, silent, slow, wrong)
    async with running(*planners), VoterUnderTest(tmp_path, *planners).up() as client:
        ballot = await vote(client, policy="least-loaded")
        assert why(ballot) == {
            "b-empty": "least loaded",
            "a-full": "load 0.875, b-empty 0.25",
            "silent": "states no load, b-empty does",
            "slow": "states no load, b-empty does",
            "wrong": "states no load, b-empty does",
        }
        took = {answer["planner"]: answer["elapsed_ms"] for answer in ballot["answers"]}
        slowest = took.pop("slow")
        assert slowest > 330  # a third of the deadline, which the others did not wait for
        assert max(took.values()) < slowest
        assert [call[1] for call in full.calls[:2]] == ["/capabilities", "/requests"]
        await vote(client)
        assert [call[1] for call in silent.calls].count("/capabilities") == 1


@pytest.mark.parametrize(
    ("document", "load"),
    [
        ({"quota": {"cores": 4, "memory_gib": 8}, "free": {"cores": 4, "memory_gib": 8}}, 0.0),
        ({"quota": {"cores": 4, "memory_gib": 8}, "free": {"cores": -2, "memory_gib": 8}}, 1.0),
        ({"quota": {"cores": 0, "memory_gib": 8}, "free": {"cores": 0, "memory_gib": 8}}, None),
        ({"quota": {"cores": 4}}, None),
        ([], None),
    ],
)
def test_loads(document: Any, load: float | None) -> None:
    assert read_load(document) == load


# --- budgets --------------------------------------------------------------------------------------------

TEN = {"user": "*", "cost": "monetary", "amount": 1, "period": "P1D"}


async def left(client: httpx.AsyncClient, user: str) -> float:
    (row,) = (await client.get("/budgets", params={"user": user})).json()["budgets"]
    return float(row["left"])


async def test_a_budget_is_spent_refused_and_given_back(tmp_path: Path) -> None:
    planner = StubPlanner("one", monetary=0.6)
    async with running(planner), VoterUnderTest(tmp_path, planner, budgets=[TEN]).up() as client:
        first = await vote(client, user="lee")
        assert first["state"] == "RUNNING"
        assert await left(client, "lee") == pytest.approx(0.4)
        second = await vote(client, user="lee")
        assert second["state"] == "NO_OFFER"
        assert why(second) == {"one": "monetary cost is 0.6, 0.4 is left of 1 of lee in 24 h"}
        # Everybody has a budget of his own.
        assert (await vote(client, user="kim"))["state"] == "RUNNING"
        # What ended before it ran costs nothing; what ran is paid, however it ended.
        planner.sessions[first["winner"]["session"]] = "CANCELLED"
        await until(lambda: _left_is(client, "lee", 1.0))
        third = await vote(client, user="lee")
        planner.sessions[third["winner"]["session"]] = "AVAILABLE"
        await until(lambda: _phase_is(client, third["id"], "AVAILABLE"))
        planner.sessions[third["winner"]["session"]] = "FAILED"
        await until(lambda: _phase_is(client, third["id"], "FAILED"))
        assert await left(client, "lee") == pytest.approx(0.4)


async def _left_is(client: httpx.AsyncClient, user: str, amount: float) -> bool:
    return await left(client, user) == pytest.approx(amount)


async def _phase_is(client: httpx.AsyncClient, ballot: str, phase: str) -> bool:
    return bool((await client.get(f"/ballots/{ballot}")).json()["phase"] == phase)


async def test_two_votes_at_once_cannot_spend_the_same(tmp_path: Path) -> None:
    planner = StubPlanner("one", monetary=0.6)
    async with running(planner), VoterUnderTest(tmp_path, planner, budgets=[TEN]).up() as client:
        ballots = await asyncio.gather(*(vote(client, user="lee") for _ in range(5)))
        assert [ballot["state"] for ballot in ballots].count("RUNNING") == 1
        await until(lambda: planner.phases().count("OFFERED") == 0)


async def test_budgets_bind_whom_they_name(tmp_path: Path) -> None:
    store = Database(f"sqlite:///{tmp_path}/x.sqlite")
    budgets = Budgets(
        store,
        [
            Budget("*", "monetary", 1, DAY),
            Budget("*", "carbon", 50, DAY),
            Budget("lee", "monetary", 9, DAY),
            Budget("lee", "monetary", 5, timedelta(hours=1)),
        ],
    )
    assert [(b.user, b.cost) for b in budgets.of("kim")] == [("*", "monetary"), ("*", "carbon")]
    assert [(b.user, b.cost, b.amount) for b in budgets.of("lee")] == [
        ("lee", "monetary", 9),
        ("lee", "monetary", 5),
        ("*", "carbon", 50),
    ]
    await store.do(lambda c: c.execute(insert(database.ballots), [_row("a"), _row("b")]))
    assert await budgets.take("a", "lee", {"monetary": 4.5, "carbon": 1}) is None
    # Asked again for the same ballot, it takes the place of what was taken.
    assert await budgets.take("a", "lee", {"monetary": 4.9, "carbon": 1}) is None
    assert await budgets.take("b", "lee", {"monetary": 0.2}) == (
        "monetary cost is 0.2, 0.1 is left of 5 of lee in 60 min"
    )
    await budgets.give_back("a")
    assert [each.left for each in await budgets.left("lee")] == [50, 5, 9]
    store.close()


def _row(ballot: str) -> dict[str, Any]:
    return {"id": ballot, "created": "", "state": "VOTING", "document": "{}"}


# --- the one thread that writes ---------------------------------------------------------------------------


async def test_one_that_fails_spoils_nothing_for_the_others(tmp_path: Path) -> None:
    store = Database(f"sqlite:///{tmp_path}/x.sqlite")

    def add(name: str) -> Any:
        return store.do(lambda connection: connection.execute(insert(database.ballots), _row(name)))

    results = await asyncio.gather(
        *(add(f"b{number}") for number in range(100)),
        add("b7"),
        store.do(lambda connection: connection.execute(text("nonsense"))),
        *(add(f"c{number}") for number in range(100)),
        return_exceptions=True,
    )
    assert [index for index, result in enumerate(results) if isinstance(result, Exception)] == [100, 101]
    count = await store.do(lambda connection: len(connection.execute(select(database.ballots.c.id)).all()))
    assert count == 200
    store.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "nicest"}, "no policy 'nicest'"),
        ({"policies": {"ours": "monetary+"}}, "policies.ours: no policy ''"),
        ({"policies": {"carbon": "monetary"}}, "policies: carbon is the name of a key"),
        ({"references": {"monetary": 0}}, "references.monetary"),
        ({"budgets": [TEN | {"period": "1 day"}]}, "ISO 8601 duration"),
    ],
)
def test_a_wrong_configuration_is_told(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    right = VoterUnderTest(tmp_path).config.model_dump(mode="json", exclude_none=True)
    for name in ("deadline", "accept_timeout", "poll_every", "clock_tolerance"):
        right.pop(name)
    right["apps"]["aegean"].pop("duration")
    right["apps"]["aegean"]["duration"] = "PT1H"
    VoterConfig.model_validate(right)
    with pytest.raises(ValidationError) as raised:
        VoterConfig.model_validate(right | changes)
    assert message in str(raised.value)
