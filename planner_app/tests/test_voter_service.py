"""The voter against planners that do every wrong thing there is, over real sockets."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from planner_app.execution_broker.models import OfferSet
from planner_app.execution_broker.times import format_instant
from planner_app.voter.ballots import Ballots
from planner_app.voter.uploads import safe_name
from tests.voter_stubs import (
    HOUR,
    Behaviour,
    StubPlanner,
    VoterUnderTest,
    gives,
    http,
    running,
    until,
    uploaded,
    vote,
    why,
)


async def hangs(stub: StubPlanner, method: str, path: str, body: bytes) -> bytes | None:
    if path == "/requests":
        await asyncio.sleep(60)
    return None


def twice(stub: StubPlanner) -> bytes:
    return http(200, stub.offer_set(stub.offer(uuid=str(UUID(int=7))), stub.offer(uuid=str(UUID(int=7)))))


def an_hour_ahead(stub: StubPlanner) -> bytes:
    wrong = datetime.now(UTC) + HOUR
    offer = stub.offer(start=wrong, expires=wrong + timedelta(minutes=1))
    return http(200, stub.offer_set(offer, meta={"created": format_instant(wrong)}))


def an_hour_off(stub: StubPlanner) -> bytes:
    wrong = datetime.now(UTC) - HOUR
    offer = stub.offer(start=wrong, expires=wrong + timedelta(minutes=1))
    return http(200, stub.offer_set(offer, meta={"created": format_instant(wrong)}))


def negative(stub: StubPlanner) -> bytes:
    return http(200, stub.offer_set(stub.offer(cores=-4)))


def without_expiry(stub: StubPlanner) -> bytes:
    offer = stub.offer()
    del offer["expires"]
    return http(200, stub.offer_set(offer))


NO = {
    "result": "NO",
    "meta": {"messages": [{"message": "8 cores asked,\x1b[31m 4 allowed\nper job"}, {"message": "1 GiB left"}]},
}
FAULTS: list[tuple[str, Behaviour, str, str]] = [
    ("html", gives(http(200, b"<html>hello", "text/html")), "NONSENSE", "answered text/html, not JSON"),
    ("no-type", gives(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\n{}"), "NONSENSE", "a body of no stated type"),
    ("half", gives(b"HTTP/1.1 200 X\r\nContent-Length: 900\r\n\r\n{ #half"), "NONSENSE", "broke off its answer"),
    ("garbage", gives(b"\x00\x01\x02\r\n\r\n#half"), "NONSENSE", "broke off its answer"),
    ("closes", gives(b"close"), "NONSENSE", "broke off its answer: Server disconnected"),
    ("broken-json", gives(http(200, b"{")), "NONSENSE", "line 1, column 2"),
    ("a-list", gives(http(200, [])), "NONSENSE", "answered something that is no offer set"),
    ("empty", gives(http(200, {})), "NONSENSE", "says neither YES nor NO"),
    ("yes-nothing", gives(http(200, {"result": "YES"})), "NONSENSE", "says YES without an offer"),
    ("maybe", gives(http(200, {"result": "MAYBE"})), "NONSENSE", "result: Input should be 'YES' or 'NO'"),
    ("offers-text", gives(http(200, {"result": "YES", "offers": "many"})), "NONSENSE", "offers: must be a list"),
    ("a-number", gives(http(200, {"result": "YES", "offers": [1]})), "OFFERS", "offers[0].meta.uuid: missing"),
    ("huge", gives(http(200, b" " * 1_000_001)), "NONSENSE", "answered more than 1000000 bytes"),
    ("error", gives(http(500, {"detail": "boom"}, "application/problem+json")), "ERROR", "answered 500: boom"),
    ("refused", gives(http(401, {"title": "Unauthorized"})), "REFUSED", "refused with 401: Unauthorized"),
    ("elsewhere", gives(http(303, b"", Location="http://evil.example/")), "NONSENSE", "redirects to somewhere else"),
    ("teapot", gives(http(299, {})), "NONSENSE", "answered status 299"),
    ("drips", gives(b"drip"), "TIMEOUT", "no answer within 1 s"),
    ("ahead", gives(an_hour_ahead), "OFFERS", "its clock is 60 min ahead of ours"),
    ("hangs", hangs, "TIMEOUT", "no answer within 1 s"),
    ("no", gives(http(200, NO)), "NO", "8 cores asked, [31m 4 allowed per job; 1 GiB left"),
    ("no-why", gives(http(200, {"result": "NO"})), "NO", "gave no reason"),
    ("twice", gives(twice), "OFFERS", "gives the id 00000000-0000-0000-0000-000000000007 to 2 offers"),
    ("clock", gives(an_hour_off), "OFFERS", "its clock is 60 min behind ours"),
    ("negative", gives(negative), "OFFERS", "offers[0].compute.cores.min: Input should be greater than 0"),
    ("eternal", gives(without_expiry), "OFFERS", "offers[0].expires: missing"),
    (
        "greedy",
        gives(lambda stub: http(200, stub.offer_set(stub.offer(cores=64)))),
        "OFFERS",
        "offers 64 cores, at most 4 asked",
    ),
]


@pytest.mark.parametrize(("name", "fault", "verdict", "reason"), FAULTS, ids=[fault[0] for fault in FAULTS])
async def test_a_faulty_planner_costs_its_own_vote_only(
    tmp_path: Path, name: str, fault: Behaviour, verdict: str, reason: str
) -> None:
    bad, good = StubPlanner("bad", fault), StubPlanner("good")
    async with running(bad, good), VoterUnderTest(tmp_path, bad, good).up() as client:
        began = time.monotonic()
        ballot = await vote(client)
        assert time.monotonic() - began < 10  # it hangs for a minute
        assert ballot["state"] == "RUNNING"
        assert ballot["winner"]["planner"] == "good"
        line = next(c for c in ballot["candidates"] if c["planner"] == "bad")
        assert line["verdict"] == verdict
        assert reason in line["reason"]
        assert line["reason"].isprintable()
        # What it offered all the same is not left reserved.
        await until(lambda: "OFFERED" not in bad.phases())
        assert "ACCEPTED" not in bad.phases()


async def test_all_faults_at_once_leave_the_best_of_the_rest(tmp_path: Path) -> None:
    """The vote ends by its deadline, the cheaper of the two good ones wins, and the ballot says what the others did."""
    bad = [StubPlanner(f"bad-{name}", fault, monetary=0.001) for name, fault, _, _ in FAULTS]
    refuses = StubPlanner("bad-refuses", gives(http(409, {"detail": "gone"}), "POST session"), monetary=0.002)
    good, dear = StubPlanner("good", monetary=0.1), StubPlanner("dear", monetary=0.2)
    everybody = [*bad, refuses, dear, good]
    async with running(*everybody), VoterUnderTest(tmp_path, *everybody).up() as client:
        ballot = await vote(client)
        assert ballot["winner"]["planner"] == "good"
        assert ballot["timings"]["collect_ms"] < 10_000  # one of them hangs for a minute
        reasons = why(ballot)
        assert set(reasons) == {planner.name for planner in everybody}
        for name, _, _, reason in FAULTS:
            assert reason in reasons[f"bad-{name}"]
        assert reasons["bad-refuses"] == "offered, then refused with 409: gone"
        await until(lambda: not any("ACCEPTED" in planner.phases() for planner in (*bad, refuses, dear)))


async def test_a_planner_that_is_down_costs_its_own_vote_only(tmp_path: Path) -> None:
    down, good = StubPlanner("down"), StubPlanner("good")
    async with running(down):
        pass
    async with running(good), VoterUnderTest(tmp_path, down, good).up() as client:
        ballot = await vote(client)
        assert why(ballot) == {"good": "the only one that can", "down": "can not be reached: Connection refused"}


async def test_a_redirect_to_the_offer_set_is_followed(tmp_path: Path) -> None:
    async def behaviour(stub: StubPlanner, method: str, path: str, body: bytes) -> bytes | None:
        if path == "/requests":
            return http(303, b"", Location="/offersets/1")
        return http(200, stub.offer_set(stub.offer())) if path == "/offersets/1" else None

    planner = StubPlanner("one", behaviour)
    async with running(planner), VoterUnderTest(tmp_path, planner).up() as client:
        assert (await vote(client))["winner"]["planner"] == "one"


async def test_accept_then_reject_the_rest_then_follow(tmp_path: Path) -> None:
    cheap, dear = StubPlanner("cheap", monetary=0.01), StubPlanner("dear", monetary=0.2)
    async with running(cheap, dear), VoterUnderTest(tmp_path, cheap, dear).up() as client:
        ballot = await vote(client)
        assert (ballot["state"], ballot["phase"]) == ("RUNNING", "ACCEPTED")
        assert why(ballot) == {
            "cheap": "cheapest of those that finish first",
            "dear": "monetary 0.2, cheap 0.01",
        }
        assert [c["chosen"] for c in ballot["candidates"]] == [True, False]
        await until(lambda: dear.phases() == ["REJECTED"])
        # The address that an offer claims is not where our token goes.
        assert all("evil" not in path for _, path, _ in cheap.calls)

        (session,) = cheap.sessions
        cheap.sessions[session] = "AVAILABLE"
        await until(lambda: state_is(client, ballot, "RUNNING", "AVAILABLE"))
        cheap.sessions[session] = "COMPLETED"
        await until(lambda: state_is(client, ballot, "COMPLETED", "COMPLETED"))
        done = (await client.get(f"/ballots/{ballot['id'][:8]}")).json()
        assert [line["phase"] for line in done["history"]] == ["VOTING", "ACCEPTED", "AVAILABLE", "COMPLETED"]
        assert (await client.get(f"/ballots/{ballot['id']}/stdout")).text == "found 58 islands\n"
        assert (await client.get(f"/ballots/{ballot['id']}/outputs")).json()[0]["name"] == "catalog-x.json"
        assert (await client.get(f"/ballots/{ballot['id']}/outputs/catalog-x.json")).json() == {"sources": []}
        metrics = (await client.get("/metrics")).text
        assert 'caesar_voter_wins_total{planner="cheap"} 1.0' in metrics


async def test_all_that_is_not_wanted_is_rejected_whatever_one_planner_does(tmp_path: Path) -> None:
    refused: list[str] = []

    async def several(stub: StubPlanner, method: str, path: str, body: bytes) -> bytes | None:
        return http(200, stub.offer_set(*(stub.offer() for _ in range(3)))) if path == "/requests" else None

    async def refuses_once(stub: StubPlanner, method: str, path: str, body: bytes) -> bytes | None:
        if method == "POST" and path.startswith("/sessions") and path not in refused:
            refused.append(path)
            return http(503, {})
        return await several(stub, method, path, body)

    async def hangs_then(stub: StubPlanner, method: str, path: str, body: bytes) -> bytes | None:
        if path.startswith("/sessions"):
            await asyncio.sleep(60)
        return None

    planners = [StubPlanner(f"good-{number}", several) for number in range(4)]
    unwilling, hanging = StubPlanner("unwilling", refuses_once), StubPlanner("hanging", hangs_then)
    voter = VoterUnderTest(tmp_path, *planners, unwilling, hanging)
    async with running(*planners, unwilling, hanging), voter.up() as client:

        async def unwanted() -> float:
            lines = (await client.get("/metrics")).text.splitlines()
            return next(float(line.split()[1]) for line in lines if line.startswith("caesar_voter_unwanted"))

        await vote(client, accept=False)
        await until(lambda: all(each.phases() == ["REJECTED"] * 3 for each in planners))

        async def settled_but(count: int) -> bool:
            return await unwanted() == count

        # Recorded at once, and those of others gone on with.
        await until(lambda: settled_but(4))
        await until(lambda: unwilling.phases() == ["REJECTED"] * 3)
        await until(lambda: settled_but(1))
        assert len(refused) == 3


async def state_is(client: httpx.AsyncClient, ballot: dict[str, Any], state: str, phase: str | None = None) -> bool:
    seen = (await client.get(f"/ballots/{ballot['id']}")).json()
    return bool(seen["state"] == state and phase in (None, seen["phase"]))


async def test_the_request_carries_what_the_job_needs(tmp_path: Path) -> None:
    planner = StubPlanner("one")
    async with running(planner), VoterUnderTest(tmp_path, planner).up() as client:
        upload = await uploaded(client, "../my map.fits")
        await vote(client, upload=upload, options=["--seedthr=6"], max_costs={"monetary": 1}, cores={"min": 2})
        request = planner.calls[0][2]
        environment = request["executable"]["environment"]
        assert environment.pop("TRACEPARENT") == planner.traces[0]
        assert environment == {
            "JOB_OPTIONS": "--run --seedthr=6",
            "JOB_OUTDIR": "/output",
            "INPUTFILE": "/data/my_map.fits",
        }
        assert request["data"][0]["location"] == f"file://{tmp_path}/data/{upload}/my_map.fits"
        assert request["compute"]["cores"] == {"min": 2}
        assert request["costs"][0]["max"] == 1
        assert (tmp_path / "data" / upload / "my_map.fits").read_bytes() == b"SIMPLE  = T"


REFUSALS: list[tuple[str, Behaviour, str, str]] = [
    (
        "conflict",
        gives(http(409, {"detail": "the offer has expired"}), "POST session"),
        "offered, then refused with 409: the offer has expired",
        "OFFERED",
    ),
    (
        "forgotten",  # as by a planner whose machine lost its power since
        gives(http(403, {"detail": "no session of yours"}), "POST session"),
        "offered, then refused with 403: no session of yours",
        "OFFERED",
    ),
    (
        "still-offered",
        gives(http(200, {"phase": "OFFERED"}), "POST session"),
        "offered, then left it OFFERED",
        "OFFERED",
    ),
    ("phaseless", gives(http(200, {}), "POST session"), "offered, then gave no phase", "OFFERED"),
    ("failing", gives(http(500, {}), "POST session"), "offered, then answered 500", "OFFERED"),
]


@pytest.mark.parametrize(("name", "refusal", "reason", "phase"), REFUSALS, ids=[r[0] for r in REFUSALS])
async def test_where_the_winner_is_not_given_the_next_is_taken(
    tmp_path: Path, name: str, refusal: Behaviour, reason: str, phase: str
) -> None:
    best, next_best = StubPlanner("best", refusal, monetary=0.01), StubPlanner("next", monetary=0.5)
    async with running(best, next_best), VoterUnderTest(tmp_path, best, next_best).up() as client:
        ballot = await vote(client)
        assert ballot["winner"]["planner"] == "next"
        assert why(ballot)["best"] == reason
        assert [c["planner"] for c in ballot["candidates"] if c["chosen"]] == ["next"]


async def test_an_accept_whose_reply_is_lost_is_looked_up(tmp_path: Path) -> None:
    """The planner accepted, then the connection broke: the session is ours, and nobody else's is taken."""

    async def behaviour(stub: StubPlanner, method: str, path: str, body: bytes) -> bytes | None:
        if method == "POST" and path.startswith("/sessions/"):
            stub.normal(method, path, body)
            return b"close"
        return None

    best, other = StubPlanner("best", behaviour, monetary=0.01), StubPlanner("other", monetary=0.5)
    async with running(best, other), VoterUnderTest(tmp_path, best, other).up() as client:
        ballot = await vote(client)
        assert ballot["winner"]["planner"] == "best"
        await until(lambda: other.phases() == ["REJECTED"])


async def test_a_session_that_was_perhaps_accepted_is_cancelled(tmp_path: Path) -> None:
    """The planner accepts and hangs: the next one is taken, and the first is cancelled once it answers."""
    silent = True

    async def behaviour(stub: StubPlanner, method: str, path: str, body: bytes) -> bytes | None:
        if path.startswith("/sessions/") and silent:
            if method == "POST":
                stub.normal(method, path, body)
            await asyncio.sleep(4)
        return None

    best, other = StubPlanner("best", behaviour, monetary=0.01), StubPlanner("other", monetary=0.5)
    async with running(best, other), VoterUnderTest(tmp_path, best, other).up() as client:
        ballot = await vote(client)
        assert ballot["winner"]["planner"] == "other"
        assert best.phases() == ["ACCEPTED"]
        silent = False
        await until(lambda: best.phases() == ["CANCELLED"])


async def test_a_question_reserves_nothing(tmp_path: Path) -> None:
    one, two = StubPlanner("one"), StubPlanner("two")
    async with running(one, two), VoterUnderTest(tmp_path, one, two).up() as client:
        ballot = await vote(client, accept=False)
        assert ballot["state"] == "ASKED"
        assert ballot["message"] == "one would win; 2 offers can"
        await until(lambda: one.phases() + two.phases() == ["REJECTED", "REJECTED"])


async def test_none_can(tmp_path: Path) -> None:
    planners = [StubPlanner(f"p{n}", gives(http(200, NO))) for n in range(6)]
    async with running(*planners), VoterUnderTest(tmp_path, *planners).up() as client:
        ballot = await vote(client)
        assert (ballot["state"], ballot["message"]) == ("NO_OFFER", "none of 6 planners can")
        assert len(why(ballot)) == 6


async def test_only_those_named_are_asked(tmp_path: Path) -> None:
    one, two = StubPlanner("one"), StubPlanner("two")
    async with running(one, two), VoterUnderTest(tmp_path, one, two).up() as client:
        assert (await vote(client, only=["two"]))["winner"]["planner"] == "two"
        assert one.calls == []


async def test_a_job_that_fails_says_why(tmp_path: Path) -> None:
    planner = StubPlanner("one")
    async with running(planner), VoterUnderTest(tmp_path, planner).up() as client:
        ballot = await vote(client)
        (session,) = planner.sessions
        planner.messages, planner.sessions[session] = ["queued", "OUT_OF_MEMORY 0:125"], "FAILED"
        await until(lambda: state_is(client, ballot, "FAILED"))
        seen = (await client.get(f"/ballots/{ballot['id']}")).json()
        assert seen["message"] == "OUT_OF_MEMORY 0:125"


async def test_cancel(tmp_path: Path) -> None:
    planner = StubPlanner("one")
    async with running(planner), VoterUnderTest(tmp_path, planner).up() as client:
        ballot = await vote(client)
        reply = await client.post(f"/ballots/{ballot['id']}", json={"phase": "CANCELLED"})
        assert reply.json()["state"] == "CANCELLED"
        again = await client.post(f"/ballots/{ballot['id']}", json={"phase": "CANCELLED"})
        assert again.status_code == 409
        assert again.json()["detail"] == "the ballot is CANCELLED, only one that is RUNNING can be cancelled"


async def test_the_same_id_again_is_the_same_ballot(tmp_path: Path) -> None:
    planner = StubPlanner("one")
    async with running(planner), VoterUnderTest(tmp_path, planner).up() as client:
        ballot = await vote(client, id=str(UUID(int=5)))
        body = {"app": "aegean", "id": str(UUID(int=5)), "upload": ballot["upload"]}
        again = await client.post("/ballots", json=body)
        assert again.status_code == 200
        assert again.json()["winner"] == ballot["winner"]
        assert sum(path == "/requests" for _, path, _ in planner.calls) == 1


class Killed(BaseException):
    """The voter is gone in this instant."""


INSTANTS = ["create", "decide", "accepted"]


@pytest.mark.parametrize("instant", INSTANTS)
@pytest.mark.parametrize("side", ["before", "after"])
async def test_killed_during_a_vote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instant: str, side: str) -> None:
    """Whatever the instant: on the next start one session runs, and no offer stays reserved."""
    one, two = StubPlanner("one", monetary=0.01), StubPlanner("two", monetary=0.5)
    original = getattr(Ballots, instant)

    async def dying(self: Ballots, *arguments: Any) -> None:
        if side == "after":
            await original(self, *arguments)
        raise Killed

    async with running(one, two):
        voter = VoterUnderTest(tmp_path, one, two)
        with monkeypatch.context() as patch:
            async with voter.up() as client:
                upload = await uploaded(client)
                patch.setattr(Ballots, instant, dying)
                with pytest.raises(Killed):
                    await client.post("/ballots", json={"app": "aegean", "upload": upload, "id": str(UUID(int=9))})
        async with voter.up() as client:
            if instant == "create" and side == "before":
                assert (await client.get(f"/ballots/{UUID(int=9)}")).status_code == 404
                await client.post("/ballots", json={"app": "aegean", "upload": upload, "id": str(UUID(int=9))})
            await until(lambda: state_is(client, {"id": str(UUID(int=9))}, "RUNNING"))
            assert one.phases().count("ACCEPTED") == 1
            assert "ACCEPTED" not in two.phases()
            # Offers of a round that was never recorded expire by themselves; all others are rejected.
            unrecorded = instant == "create" or (instant == "decide" and side == "before")
            await until(lambda: two.phases().count("OFFERED") <= int(unrecorded))


async def test_a_restarted_voter_goes_on_following_and_rejecting(tmp_path: Path) -> None:
    stubborn = True

    async def behaviour(stub: StubPlanner, method: str, path: str, body: bytes) -> bytes | None:
        return http(503, {}) if method == "POST" and path.startswith("/sessions") and stubborn else None

    winner, loser = StubPlanner("winner", monetary=0.01), StubPlanner("loser", behaviour, monetary=0.5)
    async with running(winner, loser):
        voter = VoterUnderTest(tmp_path, winner, loser)
        async with voter.up() as client:
            ballot = await vote(client)
        assert loser.phases() == ["OFFERED"]
        stubborn = False
        (session,) = winner.sessions
        winner.sessions[session] = "COMPLETED"
        async with voter.up() as client:
            await until(lambda: state_is(client, ballot, "COMPLETED"))
            await until(lambda: loser.phases() == ["REJECTED"])


async def test_a_planner_that_is_away_for_a_while_loses_no_session(tmp_path: Path) -> None:
    planner = StubPlanner("one")
    away = False

    async def behaviour(stub: StubPlanner, method: str, path: str, body: bytes) -> bytes | None:
        return b"close" if away else None

    planner.behaviour = behaviour
    async with running(planner), VoterUnderTest(tmp_path, planner).up() as client:
        ballot = await vote(client)
        away = True
        await asyncio.sleep(0.3)
        seen = (await client.get(f"/ballots/{ballot['id']}")).json()
        assert seen["state"] == "RUNNING"
        assert "one: broke off its answer" in seen["trouble"]
        away = False
        (session,) = planner.sessions
        planner.sessions[session] = "COMPLETED"
        await until(lambda: state_is(client, ballot, "COMPLETED"))


async def test_platforms(tmp_path: Path) -> None:
    up, down = StubPlanner("up"), StubPlanner("down")
    async with running(down):
        pass
    async with running(up), VoterUnderTest(tmp_path, up, down).up() as client:
        rows = {row["name"]: row for row in (await client.get("/platforms")).json()["platforms"]}
        assert rows["up"]["quota"] == {"cores": 4}
        assert rows["down"]["reason"] == "can not be reached: Connection refused"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"{", "body: Invalid JSON: EOF while parsing an object at line 1 column 1"),
        (b'{"app": "mosaic"}', "app: no mosaic; there are: aegean"),
        (b'{"app": "aegean"}', "upload: needed to run something; upload a file first"),
        (b'{"app": "aegean", "upload": "00000000-0000-0000-0000-000000000001"}', "upload: no 00000000-"),
        (b'{"app": "aegean", "cores": {"min": 0}}', "cores.min: Input should be greater than 0"),
        (b'{"app": "aegean", "cores": {"min": 4, "max": 2}}', "cores: min 4 is above max 2"),
        (b'{"app": "aegean", "policy": "best"}', "policy: no policy 'best'; there are: default, "),
        (b'{"app": "aegean", "duration": "1 hour"}', "duration: must be an ISO 8601 duration"),
        (b'{"app": "aegean", "colour": "red"}', "colour: Extra inputs are not permitted"),
        (b'{"app": "aegean", "only": ["mars"], "accept": false}', "only: no mars; there are: one"),
        (b'{"app": "aegean", "options": ["--a --b"]}', "options[0]: String should match pattern"),
    ],
)
async def test_a_wrong_question_is_told_what_is_wrong(tmp_path: Path, body: bytes, detail: str) -> None:
    planner = StubPlanner("one")
    async with running(planner), VoterUnderTest(tmp_path, planner).up() as client:
        reply = await client.post("/ballots", content=body)
        assert reply.status_code == 400
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.json()["detail"].startswith(detail)
        assert planner.calls == []


async def test_nobody_passes_without_a_token(tmp_path: Path) -> None:
    planner = StubPlanner("one")
    async with running(planner), VoterUnderTest(tmp_path, planner).up() as client:
        for path in ("/ballots", "/platforms", "/metrics"):
            for header in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
                assert (await client.get(path, headers=header)).status_code == 401
        assert (await client.get("/health", headers={"Authorization": ""})).json() == {"status": "ok", "planners": 1}


async def test_an_upload_that_is_too_large_leaves_nothing(tmp_path: Path) -> None:
    planner = StubPlanner("one")

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 300

    async with running(planner), VoterUnderTest(tmp_path, planner).up() as client:
        for content in (b"x" * 1001, endless()):
            reply = await client.post("/uploads", params={"name": "big"}, content=content)
            assert reply.status_code == 413
            assert reply.json()["detail"] == "at most 1000 bytes are taken"
        assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("image.fits", "image.fits"),
        ("../../etc/passwd", "passwd"),
        ("C:\\maps\\m 1.fits", "m_1.fits"),
        (".hidden", "hidden"),
        ("--run", "run"),
        ("", "upload"),
        ("..", "upload"),
        ("ä\n\x00b", "_b"),
    ],
)
def test_safe_names(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_the_stub_speaks_the_api() -> None:
    """Faults are told from a normal answer only if the normal one is right."""
    stub = StubPlanner("one")
    OfferSet.model_validate(stub.offer_set(stub.offer()))
