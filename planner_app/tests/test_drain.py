"""A drained planner: no offers from that moment on, none left to accept, and what runs goes on or is cancelled."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from planner_app.planner.drain import Drained, read_drained
from tests.fakes import FakePlanner

DRAINED = {"by": "root@site", "since": "2026-11-24T09:00:00Z", "reason": "a new disc", "cancel": False}


def drained_at(directory: Path, **changes: Any) -> Path:
    path = directory / "drained.json"
    path.write_text(json.dumps(DRAINED | changes))
    return path


async def test_there_are_no_offers_and_the_reason_says_who_when_and_why(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path, drain_file=str(drained_at(tmp_path))) as planner:
        answer = await planner.ask()
        assert answer["result"] == "NO"
        (message,) = answer["meta"]["messages"]
        assert message["kind"] == "urn:caesar:planner:drained"
        assert message["message"] == (
            "slurm-account-001: the platform is drained by root@site since 2026-11-24T09:00:00Z: a new disc"
        )


async def test_offers_are_withdrawn_and_what_was_accepted_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "drained.json"
    async with FakePlanner(tmp_path, drain_file=str(path)) as planner:
        accepted = await planner.accepted()
        offer = str((await planner.ask())["offers"][0]["meta"]["uuid"])
        drained_at(tmp_path)
        await planner.service.drain.reread()
        assert await planner.phase(offer) == "REJECTED"
        assert (await planner.update(offer, "ACCEPTED")).status_code == 409
        said = (await planner.session(offer))["meta"]["messages"][-1]["message"]
        assert said.startswith("the platform is drained by root@site")
        await planner.look()
        assert await planner.phase(accepted) == "PREPARING"


@pytest.mark.parametrize("submitted", [False, True])
async def test_what_was_accepted_is_cancelled_where_that_is_asked(tmp_path: Path, submitted: bool) -> None:
    async with FakePlanner(tmp_path, drain_file=str(tmp_path / "drained.json")) as planner:
        session = await planner.accepted()
        if submitted:
            await planner.look()
            planner.platform.run(planner.platform.only())
        drained_at(tmp_path, cancel=True)
        await planner.service.drain.reread()
        for _ in range(4):
            planner.clock.forward(3)
            await planner.look()
        assert await planner.phase(session) == "CANCELLED"
        assert all(job.state.ended for job in planner.platform.jobs.values())


async def test_it_makes_offers_again(tmp_path: Path) -> None:
    path = drained_at(tmp_path)
    async with FakePlanner(tmp_path, drain_file=str(path)) as planner:
        assert (await planner.ask())["result"] == "NO"
        path.unlink()
        await planner.service.drain.reread()
        assert (await planner.ask())["result"] == "YES"


async def test_capabilities_and_metrics_tell_of_it(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path, drain_file=str(tmp_path / "drained.json")) as planner:
        assert "drained" not in (await planner.client.get("/capabilities")).json()
        assert "planner_drained 0.0" in (await planner.client.get("/metrics")).text
        session = await planner.accepted()
        await planner.look()
        planner.platform.add(None, 2, 4)
        drained_at(tmp_path)
        await planner.service.drain.reread()
        planner.clock.forward(10)
        said = (await planner.client.get("/capabilities")).json()
        assert said["drained"]["by"] == "root@site"
        assert [each["session"] for each in said["live"]["sessions"]] == [session]
        assert [(each["job"], each["cores"]) for each in said["live"]["others"]] == [("101", 2)]
        assert "planner_drained 1.0" in (await planner.client.get("/metrics")).text
        planner.platform.down = "maintenance"
        planner.clock.forward(10)
        assert (await planner.client.get("/capabilities")).json()["live"]["others"] is None


async def test_a_hangup_is_the_word_to_read_the_file(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path, drain_file=str(tmp_path / "drained.json")) as planner:
        planner.service.drain.start()
        try:
            offer = str((await planner.ask())["offers"][0]["meta"]["uuid"])
            drained_at(tmp_path)
            os.kill(os.getpid(), signal.SIGHUP)
            async with asyncio.timeout(5):
                while await planner.phase(offer) != "REJECTED":
                    await asyncio.sleep(0)
        finally:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)


@pytest.mark.parametrize("content", ["", "[]", "{", '"x"'])
def test_a_file_that_says_nothing_drains_all_the_same(tmp_path: Path, content: str) -> None:
    path = tmp_path / "drained.json"
    path.write_text(content)
    assert read_drained(path) == Drained()
    assert read_drained(path).words == "drained"  # type: ignore[union-attr]


def test_no_file_drains_nothing(tmp_path: Path) -> None:
    assert read_drained(tmp_path / "drained.json") is None
    assert read_drained(None) is None
