"""What clients get of their own: direct runs, lists, keys that make asking twice safe, and a share of the quota."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planner_app.execution_broker import kinds
from planner_app.planner.idempotency import fingerprint, read_key
from planner_app.planner.listing import BadParameter, Position, read_page
from tests.fakes import NINE, TOKENS, FakePlanner, request_of, start_in

KEY = "Idempotency-Key"


def other(planner: FakePlanner) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS['other']}"}


class TestDirect:
    async def test_it_runs_at_once(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            reply = await planner.client.post("/direct", json=request_of(cores=(2, 4)))
            session = reply.json()
            assert (reply.status_code, session["phase"]) == (200, "ACCEPTED")
            assert reply.headers["location"] == session["meta"]["url"]
            assert session["compute"]["cores"] == {"min": 2, "max": 2}
            await planner.look()
            assert await planner.phase(session["meta"]["uuid"]) == "PREPARING"
            assert len((await planner.client.get("/sessions")).json()["sessions"]) == 1

    async def test_later_if_asked(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            session = (await planner.client.post("/direct", json=request_of(schedule=start_in(1800)))).json()
            await planner.look()
            assert await planner.phase(session["meta"]["uuid"]) == "WAITING"

    async def test_what_does_not_fit_failed(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            reply = await planner.client.post("/direct", json=request_of(cores=(99, None)))
            session = reply.json()
            assert (reply.status_code, session["kind"], session["phase"]) == (400, kinds.SCHEDULED_SESSION, "FAILED")
            assert "99" in session["meta"]["messages"][0]["message"]
            assert reply.headers["content-type"] == "application/json"
            malformed = await planner.client.post("/direct", json={"compute": 1})
            assert (malformed.status_code, malformed.headers["content-type"]) == (400, "application/problem+json")
            assert (await planner.client.get("/sessions")).json() == {"sessions": []}


class TestLists:
    async def test_pages_hold_everything_once(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            asked = []
            for number in range(7):
                planner.clock.forward(number == 4)  # many in the same instant
                answer = await planner.ask(cores=(1, None), memory=(1, None))
                asked.append(answer["meta"]["uuid"])
                await planner.update(answer["offers"][0]["meta"]["uuid"], "REJECTED")
            refused = (await planner.ask(cores=(99, None)))["meta"]["uuid"]
            seen, sessions = [], []
            for path, found, key in (("/offersets", seen, "offersets"), ("/sessions", sessions, "sessions")):
                url: str | None = f"{path}?limit=3"
                while url:
                    reply = await planner.client.get(url)
                    page = reply.json()
                    found += [each["meta"] for each in page[key]]
                    url = page.get("next")
                    assert (f'<{url}>; rel="next"' == reply.headers["link"]) if url else "link" not in reply.headers
            assert sorted(each["uuid"] for each in seen) == sorted([*asked, refused])
            assert len({each["uuid"] for each in sessions}) == len(sessions) == 7
            for each in (seen, sessions):
                assert [meta["created"] for meta in each] == sorted((meta["created"] for meta in each), reverse=True)

    async def test_phases(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            accepted = await planner.accepted(cores=(1, None))
            await planner.ask(cores=(1, None))
            over = (await planner.ask(cores=(1, None), schedule=start_in(40)))["offers"][0]["meta"]["uuid"]

            async def listed(query: str) -> set[str]:
                return {
                    each["meta"]["uuid"] for each in (await planner.client.get(f"/sessions?{query}")).json()["sessions"]
                }

            assert await listed("phase=ACCEPTED") == {accepted}
            assert len(await listed("phase=ACCEPTED&phase=OFFERED")) == 3
            planner.clock.forward(61)
            # What nobody has looked at since is over all the same.
            assert over in await listed("phase=EXPIRED")
            assert await listed("phase=OFFERED") == set()
            page = (await planner.client.get("/sessions?phase=EXPIRED&phase=ACCEPTED&limit=1")).json()
            assert "phase=EXPIRED&phase=ACCEPTED" in page["next"]

    async def test_only_ones_own(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            await planner.accepted()
            for path in ("sessions", "offersets"):
                theirs = (await planner.client.get(f"/{path}", headers=other(planner))).json()
                assert theirs == {path: []}
                assert len((await planner.client.get(f"/{path}")).json()[path]) == 1

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("limit=0", "limit"), ("limit=201", "limit"), ("limit=ten", "limit"), ("limit=1&limit=2", "limit"),
            ("limit=%C2%B2", "limit"), ("phase=BUSY", "phase"), ("phase=", "phase"), ("cursor=x", "cursor"),
            ("cursor=%F0%9F%92%A5", "cursor"), ("cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5", "cursor"), ("page=2", "page"),
        ],
    )  # fmt: skip
    async def test_wrong_parameters(self, tmp_path: Path, query: str, field: str) -> None:
        async with FakePlanner(tmp_path) as planner:
            reply = await planner.client.get(f"/sessions?{query}")
            assert reply.status_code == 400
            assert [each["field"] for each in reply.json()["errors"]] == [field]
        if field == "phase":
            async with FakePlanner(tmp_path) as planner:
                assert (await planner.client.get(f"/offersets?{query}")).status_code == 400

    @given(st.datetimes(min_value=NINE.replace(tzinfo=None), timezones=st.just(NINE.tzinfo)), st.uuids())
    def test_positions_there_and_back(self, created: Any, uuid: UUID) -> None:
        assert Position.decode(Position(created, uuid).encode()) == Position(created, uuid)

    @given(st.text())
    def test_positions_that_are_none(self, text: str) -> None:
        try:
            position = Position.decode(text)
        except ValueError:
            return
        assert Position.decode(position.encode()) == position

    def test_a_misspelt_filter_is_no_filter(self) -> None:
        with pytest.raises(BadParameter, match="phases: is not known here, only phase, limit"):
            read_page([("phases", "OFFERED")], ("phase", "limit"))


def killed(*_: object, **__: object) -> None:
    """Stand in for a step that the planner does not live to take."""
    raise RuntimeError("killed")


class TestKeys:
    @pytest.mark.parametrize("path", ["/requests", "/direct"])
    async def test_the_same_again_gives_the_same(self, tmp_path: Path, path: str) -> None:
        async with FakePlanner(tmp_path) as planner:
            headers = {KEY: '"8e03978e-40d5-43e8-bc93-6894a57f9324"'}
            body = request_of(cores=(1, None))
            replies = [await planner.client.post(path, json=body, headers=headers) for _ in range(3)]
            assert {reply.status_code for reply in replies} == {200}
            assert replies[0].json() == replies[1].json() == replies[2].json()
            assert replies[1].headers["location"] == replies[0].headers["location"]
            assert len((await planner.client.get("/offersets")).json()["offersets"]) == 1
            # Unquoted, in another order, and by the older name it is the same request still.
            turned = dict(reversed(list(body.items())))
            again = path.replace("/requests", "/offersets")
            reply = await planner.client.post(again, json=turned, headers={KEY: headers[KEY].strip('"')})
            assert reply.json() == replies[0].json()

    async def test_what_it_is_of_counts(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            headers = {KEY: "one"}
            first = (await planner.client.post("/requests", json=request_of(), headers=headers)).json()
            for path, body in (("/requests", request_of(cores=(1, None))), ("/direct", request_of())):
                reply = await planner.client.post(path, json=body, headers=headers)
                assert reply.status_code == 422
                assert "Idempotency-Key" in reply.json()["detail"]
            theirs = await planner.client.post("/requests", json=request_of(), headers=headers | other(planner))
            assert theirs.json()["meta"]["uuid"] != first["meta"]["uuid"]
            malformed = await planner.client.post("/requests", json={"cores": 1}, headers={KEY: "two"})
            assert malformed.status_code == 400
            mended = await planner.client.post("/requests", json=request_of(), headers={KEY: "two"})
            assert mended.status_code == 200

    async def test_a_no_stays_a_no(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            for path, status in (("/requests", 200), ("/direct", 400)):
                replies = [
                    await planner.client.post(path, json=request_of(cores=(99, None)), headers={KEY: path})
                    for _ in range(2)
                ]
                assert [reply.status_code for reply in replies] == [status, status]
                assert replies[0].json() == replies[1].json()

    async def test_while_the_first_is_under_way(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            planner.platform.hangs = True
            first = asyncio.create_task(planner.client.post("/requests", json=request_of(), headers={KEY: "one"}))
            while not planner.platform.observations:
                await asyncio.sleep(0.01)
            second = await planner.client.post("/requests", json=request_of(), headers={KEY: "one"})
            assert (second.status_code, second.headers["retry-after"]) == (409, "1")
            another = await planner.client.post("/requests", json=request_of(cores=(1, None)), headers={KEY: "one"})
            assert another.status_code == 422
            answer = (await first).json()
            assert answer["result"] == "NO"
            third = await planner.client.post("/requests", json=request_of(), headers={KEY: "one"})
            assert third.json() == answer

    async def test_over_a_restart(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            first = (await planner.client.post("/direct", json=request_of(), headers={KEY: "one"})).json()
        async with FakePlanner(tmp_path, planner.platform) as planner:
            again = (await planner.client.post("/direct", json=request_of(), headers={KEY: "one"})).json()
            assert again == first
            await planner.look()
            assert len(planner.platform.specs) == 1
            again = (await planner.client.post("/direct", json=request_of(), headers={KEY: "one"})).json()
            assert (again["meta"]["uuid"], again["phase"]) == (first["meta"]["uuid"], "PREPARING")

    async def test_killed_after_the_key_was_taken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async with FakePlanner(tmp_path) as planner:
            monkeypatch.setattr(planner.service.ledger, "reserve_all", killed)
            reply = await planner.client.post("/requests", json=request_of(), headers={KEY: "one"})
            assert reply.status_code == 500
        async with FakePlanner(tmp_path, planner.platform) as planner:
            reply = await planner.client.post("/requests", json=request_of(), headers={KEY: "one"})
            assert reply.json()["result"] == "YES"

    async def test_killed_between_offer_and_acceptance(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async with FakePlanner(tmp_path) as planner:
            monkeypatch.setattr(planner.service.ledger, "accept", killed)
            reply = await planner.client.post("/direct", json=request_of(), headers={KEY: "one"})
            assert reply.status_code == 500
        async with FakePlanner(tmp_path, planner.platform) as planner:
            reply = await planner.client.post("/direct", json=request_of(), headers={KEY: "one"})
            assert (reply.status_code, reply.json()["phase"]) == (200, "ACCEPTED")
            assert len((await planner.client.get("/sessions")).json()["sessions"]) == 1

    async def test_they_are_forgotten(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            first = (await planner.client.post("/requests", json=request_of(), headers={KEY: "one"})).json()
            planner.clock.forward(timedelta(hours=24).total_seconds())
            second = (await planner.client.post("/requests", json=request_of(), headers={KEY: "one"})).json()
            assert first["meta"]["uuid"] != second["meta"]["uuid"]

    @pytest.mark.parametrize("header", ["", " ", '""', "a b", '"a', 'a"b"', "x" * 256, "schlüssel", '"\\a"'])
    async def test_what_is_no_key(self, tmp_path: Path, header: str) -> None:
        async with FakePlanner(tmp_path) as planner:
            headers = httpx.Headers({KEY: header}, encoding="utf-8")
            reply = await planner.client.post("/requests", json=request_of(), headers=headers)
            assert reply.status_code == 400
            assert reply.json()["errors"][0]["field"] == KEY

    def test_keys(self) -> None:
        assert read_key(None) is None
        assert read_key('"a \\"b\\" \\\\"') == 'a "b" \\'
        assert read_key(" abc ") == read_key('"abc"') == "abc"

    @given(st.dictionaries(st.text(max_size=3), st.integers(0, 3) | st.text(max_size=3)), st.text(max_size=3))
    def test_fingerprints_tell_apart(self, document: dict[str, Any], more: str) -> None:
        assert fingerprint("a", document) == fingerprint("a", dict(reversed(list(document.items()))))
        assert fingerprint("a", document) != fingerprint("b", document)
        assert (fingerprint("a", document) == fingerprint("a", document | {"x": more})) == (document.get("x") == more)


class TestShares:
    """The quota has 8 cores, 32 GiB and 4 jobs; `other` may hold half of it in outstanding offers."""

    async def asks(self, planner: FakePlanner, cores: tuple[int, int | None]) -> dict[str, Any]:
        body = request_of(cores=cores, memory=(1, None))
        return dict((await planner.client.post("/requests", json=body, headers=other(planner))).json())

    async def test_nobody_parks_the_quota(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            held = await self.asks(planner, (3, None))
            refused = await self.asks(planner, (2, None))
            (message,) = refused["meta"]["messages"]
            assert (refused["result"], message["kind"]) == ("NO", "urn:caesar:planner:client-limit")
            values = message["values"]
            assert (values["limit"], values["asked"], values["left"]) == ("4", "2", "1")
            assert (await self.asks(planner, (1, None)))["result"] == "YES"
            # Two outstanding sets of four jobs are half of them.
            assert (await self.asks(planner, (1, None)))["result"] == "NO"
            assert (await planner.ask(cores=(2, None)))["result"] == "YES"
            session = held["offers"][0]["meta"]["uuid"]
            update = {"kind": kinds.ENUM_VALUE_UPDATE, "path": "/phase", "value": "ACCEPTED"}
            await planner.client.post(f"/sessions/{session}", json=update, headers=other(planner))
            assert (await self.asks(planner, (1, None)))["result"] == "YES"

    async def test_the_first_may_hold_more(self, tmp_path: Path) -> None:
        async with FakePlanner(
            tmp_path, limits={"cores": 8, "memory_gib": 16, "walltime": "PT2H", "jobs": 4}
        ) as planner:
            assert (await self.asks(planner, (8, None)))["result"] == "YES"
            assert (await self.asks(planner, (1, None)))["result"] == "NO"
            planner.clock.forward(61)
            assert (await self.asks(planner, (8, None)))["result"] == "YES"

    async def test_larger_offers_go_first(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            assert len((await self.asks(planner, (1, 4)))["offers"]) > 1
            planner.clock.forward(61)
            await self.asks(planner, (2, None))
            answer = await self.asks(planner, (1, 4))
            assert {offer["compute"]["cores"]["max"] for offer in answer["offers"]} == {1}

    async def test_what_runs_directly_is_no_offer(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            for _ in range(4):
                body = request_of(cores=(2, None), memory=(1, None))
                reply = await planner.client.post("/direct", json=body, headers=other(planner))
                assert reply.status_code == 200

    async def test_each_is_told_its_own(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            assert (await planner.client.get("/capabilities")).json()["offers"]["share"] == 1
            theirs = (await planner.client.get("/capabilities", headers=other(planner))).json()
            assert theirs["offers"]["share"] == 0.5
