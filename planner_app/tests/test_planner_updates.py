"""What can be done with a session in each of its phases, and what cannot: the whole table."""

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from planner_app.execution_broker import kinds
from planner_app.execution_broker.models import Phase
from planner_app.platforms.protocol import JobState
from tests.fakes import FakePlanner, start_in


async def offered(planner: FakePlanner) -> str:
    return str((await planner.ask())["offers"][0]["meta"]["uuid"])


async def rejected(planner: FakePlanner) -> str:
    session = await offered(planner)
    await planner.update(session, "REJECTED")
    return session


async def expired_and_seen(planner: FakePlanner) -> str:
    session = await offered(planner)
    planner.clock.forward(60)
    await planner.look()
    return session


async def expired_just_now(planner: FakePlanner) -> str:
    session = await offered(planner)
    planner.clock.forward(60)
    return session


async def accepted(planner: FakePlanner) -> str:
    return await planner.accepted()


async def waiting(planner: FakePlanner) -> str:
    session = await planner.accepted(schedule=start_in(1800))
    await planner.look()
    return session


async def preparing(planner: FakePlanner) -> str:
    session = await planner.accepted()
    await planner.look()
    return session


async def available(planner: FakePlanner) -> str:
    session = await preparing(planner)
    planner.platform.run(planner.platform.only())
    planner.clock.forward(3)
    await planner.look()
    return session


async def releasing(planner: FakePlanner) -> str:
    session = await available(planner)
    planner.platform.end(planner.platform.only(), JobState.COMPLETED, 0)
    planner.clock.forward(3)
    await planner.look()
    return session


async def completed(planner: FakePlanner) -> str:
    session = await releasing(planner)
    await planner.look()
    return session


async def failed(planner: FakePlanner) -> str:
    session = await available(planner)
    planner.platform.end(planner.platform.only(), JobState.FAILED, 1, "FAILED 1:0")
    planner.clock.forward(3)
    await planner.look(2)
    return session


async def cancelled(planner: FakePlanner) -> str:
    session = await waiting(planner)
    await planner.update(session, "CANCELLED")
    return session


CHOICE = ["ACCEPTED", "REJECTED"]
PHASES: list[tuple[Callable[[FakePlanner], Awaitable[str]], Phase, list[str]]] = [
    (offered, Phase.OFFERED, CHOICE),
    (rejected, Phase.REJECTED, []),
    (expired_and_seen, Phase.EXPIRED, []),
    (expired_just_now, Phase.EXPIRED, []),
    (accepted, Phase.ACCEPTED, ["CANCELLED"]),
    (waiting, Phase.WAITING, ["CANCELLED"]),
    (preparing, Phase.PREPARING, ["CANCELLED"]),
    (available, Phase.AVAILABLE, ["CANCELLED"]),
    (releasing, Phase.RELEASING, []),
    (completed, Phase.COMPLETED, []),
    (failed, Phase.FAILED, []),
    (cancelled, Phase.CANCELLED, []),
]
BECOMES = {
    ("OFFERED", "ACCEPTED"): "ACCEPTED",
    ("OFFERED", "REJECTED"): "REJECTED",
    ("ACCEPTED", "CANCELLED"): "CANCELLED",
    ("WAITING", "CANCELLED"): "CANCELLED",
    # What has a job is released first.
    ("PREPARING", "CANCELLED"): "RELEASING",
    ("AVAILABLE", "CANCELLED"): "RELEASING",
}


def to(value: Any, kind: str = kinds.ENUM_VALUE_UPDATE, path: str = "/phase") -> dict[str, Any]:
    return {"kind": kind, "path": path, "value": value}


NEVER: list[tuple[Any, str]] = [
    *((to(str(phase)), "value") for phase in Phase if phase not in ("ACCEPTED", "REJECTED", "CANCELLED")),
    (to("accepted"), "value"),
    (to(""), "value"),
    (to(None), "value"),
    (to(7), "value"),
    (to("ACCEPTED", path="/compute/cores/min"), "path"),
    (to("ACCEPTED", path="//phase"), "path"),
    (to("ACCEPTED", path=""), "path"),
    (to("ACCEPTED", kind=kinds.STRING_VALUE_UPDATE), "kind"),
    (to(1, kind=kinds.INTEGER_VALUE_UPDATE), "kind"),
    ({"kind": kinds.INTEGER_DELTA_UPDATE, "path": "/phase", "delta": 1}, "kind"),
    (to("ACCEPTED", kind="uri:another-update"), "body"),
    ({"kind": kinds.ENUM_VALUE_UPDATE, "value": "ACCEPTED"}, "path"),
    ({"kind": kinds.ENUM_VALUE_UPDATE, "path": "/phase"}, "value"),
    (to("ACCEPTED") | {"when": "now"}, "when"),
    ({"update": to("ACCEPTED")}, "body"),
    ([], "body"),
    ("ACCEPTED", "body"),
]


@pytest.mark.parametrize(("reach", "phase", "legal"), PHASES, ids=lambda each: getattr(each, "__name__", ""))
async def test_what_is_legal(
    tmp_path: Path, reach: Callable[[FakePlanner], Awaitable[str]], phase: Phase, legal: list[str]
) -> None:
    async with FakePlanner(tmp_path) as planner:
        session = await reach(planner)
        before = await planner.session(session)
        assert before["phase"] == phase
        options = before["meta"].get("options", [])
        assert options == ([{"kind": kinds.ENUM_VALUE_OPTION, "path": "/phase", "values": legal}] if legal else [])

        for update, field in NEVER:
            reply = await planner.client.post(f"/sessions/{session}", json=update)
            problem = reply.json()
            assert (reply.status_code, problem["phase"], problem["legal"]) == (400, phase, legal), update
            assert [each["field"] for each in problem["errors"]] == [field], update
        for value in {"ACCEPTED", "REJECTED", "CANCELLED"} - set(legal):
            reply = await planner.update(session, value)
            problem = reply.json()
            assert (reply.status_code, problem["phase"], problem["legal"]) == (409, phase, legal)
            assert phase in problem["detail"] or "expired" in problem["detail"]
        assert await planner.session(session) == before, "something illegal changed the session"


LEGAL = [(reach, phase, value) for reach, phase, legal in PHASES for value in legal]


@pytest.mark.parametrize(("reach", "phase", "value"), LEGAL, ids=lambda each: getattr(each, "__name__", str(each)))
async def test_what_is_said_to_be_legal_is_done(
    tmp_path: Path, reach: Callable[[FakePlanner], Awaitable[str]], phase: Phase, value: str
) -> None:
    async with FakePlanner(tmp_path) as planner:
        session = await reach(planner)
        reply = await planner.update(session, value)
        assert reply.status_code == 200, reply.text
        assert reply.json()["phase"] == await planner.phase(session) == BECOMES[phase, value]


async def test_an_offer_set_shows_what_is_over(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        answer = await planner.ask()
        planner.clock.forward(60)
        shown = (await planner.client.get(f"/offersets/{answer['meta']['uuid']}")).json()
        assert {offer["phase"] for offer in shown["offers"]} == {"EXPIRED"}
        assert all("options" not in offer["meta"] for offer in shown["offers"])


async def test_an_offer_that_a_power_cut_took_is_refused(tmp_path: Path) -> None:
    """The database's power: the planner is on another machine, and has the offer in memory still."""
    async with FakePlanner(tmp_path) as planner:
        session = await offered(planner)
        assert await planner.phase(session) == "OFFERED"
        with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
            connection.execute("DELETE FROM sessions")
            connection.execute("DELETE FROM offersets")
            connection.execute("UPDATE revision SET written = written - 1")
        reply = await planner.update(session, "ACCEPTED")
        assert reply.status_code == 403, reply.text
        assert await planner.accepted()
