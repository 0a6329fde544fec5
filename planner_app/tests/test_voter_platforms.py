"""The vote over the six platforms of the default inventory: real planners, on platforms in memory."""

import asyncio
import hashlib
import shlex
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from planner_app.voter.api import create_app
from planner_app.voter.arguments import make_parser, question
from planner_app.voter.ballots import Ballots
from planner_app.voter.config import VoterConfig
from planner_app.voter.heads import Head, Origin
from planner_app.voter.planners import Planner, Planners
from planner_app.voter.wire import Connection, Wire
from tests.fakes import TOKENS, Clock, FakePlanner, FakePlatform
from tests.voter_stubs import lifespan_of, until

PROJECT = Path(__file__).parents[2]
INVENTORY = yaml.safe_load((PROJECT / "inventories/local/group_vars/all/platforms.yml").read_text())
CASES = yaml.safe_load((PROJECT / "tests/data/only_one_fits.yml").read_text())
DEFAULTS = yaml.safe_load((PROJECT / "roles/voter/defaults/main.yml").read_text())


class _Routed(Connection):
    """One request to a planner in memory."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        super().__init__()
        self._client = client

    def send(self, data: bytes, limit: int | None) -> None:
        self._asking = asyncio.ensure_future(self._ask(data))

    async def _ask(self, data: bytes) -> None:
        head, _, body = data.partition(b"\r\n\r\n")
        line, *headers = head.decode().split("\r\n")
        method, path, _ = line.split(" ")
        reply = await self._client.request(method, path, headers=[h.split(": ", 1) for h in headers], content=body)
        self.head, self.done = Head(reply.status_code, dict(reply.headers)), True
        self._parts.append(reply.content)
        self._wake()


class _Router(Wire):
    """Sends each request to the planner that its host names, without a socket."""

    def __init__(self, planners: dict[str, FakePlanner]) -> None:
        super().__init__()
        self._planners = planners

    async def connect(self, origin: Origin) -> Connection:
        return _Routed(self._planners[origin.host].client)

    async def exchange(
        self, origin: Origin, method: str, path: str, headers: Mapping[str, str], body: bytes | None, limit: int
    ) -> tuple[Head, bytes]:
        client = self._planners[origin.host].client
        reply = await client.request(method, path, headers=dict(headers), content=body)
        return Head(reply.status_code, dict(reply.headers)), reply.content


@asynccontextmanager
async def six_platforms(directory: Path) -> AsyncIterator[tuple[httpx.AsyncClient, dict[str, FakePlanner]]]:
    (directory / "data").mkdir()
    async with AsyncExitStack() as stack:
        planners = {}
        for platform in INVENTORY["virtual_platforms"]:
            quota = platform["quota"]
            below = FakePlatform(Clock(datetime.now(UTC)))
            home = directory / platform["name"]
            home.mkdir()
            planners[platform["name"]] = await stack.enter_async_context(
                FakePlanner(
                    home,
                    below,
                    name=platform["name"],
                    quota=INVENTORY["desktop_sizes"][quota] if isinstance(quota, str) else quota,
                    limits=platform["limits"],
                    costs=platform["costs"],
                    metrics=platform["metrics"],
                    storage={"root": str(directory), "data": str(directory / "data"), "jobs": str(home)},
                )
            )
        config = VoterConfig.model_validate(
            {
                "listen": {"host": "127.0.0.1", "port": 8100},
                "url": "http://voter",
                "database": f"sqlite:///{directory}/ballots.sqlite",
                "storage": {"data": str(directory / "data"), "keep_free_bytes": 0},
                "deadline": "PT30S",
                "clients_file": "/unused",
                "planners_file": "/unused",
                "apps": DEFAULTS["voter_apps"],
            }
        )
        asked = [Planner(name, f"http://{name}", TOKENS["voter"]) for name in planners]
        clients = {hashlib.sha256(b"secret").hexdigest(): "tester"}
        app = create_app(config, Planners(asked, _Router(planners)), Ballots(config.database), clients)
        async with (
            lifespan_of(app),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app=app),
                base_url="http://voter",
                headers={"Authorization": "Bearer secret"},
            ) as client,
        ):
            yield client, planners


def asked_for(case: dict[str, Any]) -> dict[str, Any]:
    return question(make_parser().parse_args(["ask", *shlex.split(case["options"])]))


@pytest.mark.parametrize("case", CASES, ids=[str(case["won_by"]) for case in CASES])
async def test_only_one_fits(tmp_path: Path, case: dict[str, Any]) -> None:
    async with six_platforms(tmp_path) as (client, planners):
        ballot = (await client.post("/ballots", json=asked_for(case))).json()
        fit = [candidate["planner"] for candidate in ballot["candidates"] if candidate["rank"] is not None]
        reasons = {c["planner"]: c["reason"] for c in ballot["candidates"]}
        assert set(reasons) == set(planners)
        assert set(fit) == ({case["won_by"]} if case["won_by"] else set()), reasons
        assert ballot["state"] == ("ASKED" if case["won_by"] else "NO_OFFER")
        for name, reason in reasons.items():
            assert name not in reason, "a reason stands beside the name already"
            if name not in fit:
                assert any(character.isdigit() for character in reason), "a reason names what was asked and what is"


def test_each_platform_is_the_only_one_for_something() -> None:
    names = {platform["name"] for platform in INVENTORY["virtual_platforms"]}
    assert {case["won_by"] for case in CASES} == names | {None}


async def test_after_a_vote_only_the_winner_holds_something(tmp_path: Path) -> None:
    async with six_platforms(tmp_path) as (client, _):
        upload = (await client.post("/uploads", params={"name": "m.fits"}, content=b"SIMPLE")).json()
        body = {"app": "aegean", "upload": upload["uuid"], "policy": "carbon"}
        ballot = (await client.post("/ballots", json=body)).json()
        assert ballot["winner"]["planner"] == "k8s-namespace-001"

        async def only_the_winner_reserves() -> bool:
            rows = (await client.get("/platforms")).json()["platforms"]
            return [row["name"] for row in rows if row["reserved"]["cores"]] == ["k8s-namespace-001"]

        await until(only_the_winner_reserves)


@pytest.mark.parametrize("case", CASES, ids=[str(case["won_by"]) for case in CASES])
def test_the_docs_show_the_same_commands(case: dict[str, Any]) -> None:
    row = f"| `caesar-vote ask {case['options']}` | {case['won_by'] or 'none'}: {case['because']} |"
    assert row in (PROJECT / "docs/vote.md").read_text()
