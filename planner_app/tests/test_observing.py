"""What a planner knows of its platform: how old it may be, and what is made of it while nobody answers."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from planner_app.planner import service
from planner_app.platforms.protocol import PlatformDown
from tests.fakes import NINE, FakePlanner, FakePlatform, start_in


async def asked(planner: FakePlanner) -> tuple[str, str]:
    reply = await planner.ask(cores=(1, None))
    said = " ".join(message["message"] for message in reply["meta"].get("messages", ()))
    return str(reply["result"]), said


async def test_a_platform_that_goes_is_remembered_for_a_while(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path, offers={"snapshot_age": "PT30S", "share": 1}) as planner:
        assert (await asked(planner))[0] == "YES"
        planner.platform.down = "connection refused"
        planner.clock.forward(29)
        assert (await asked(planner))[0] == "YES"
        planner.clock.forward(2)
        result, said = await asked(planner)
        assert result == "NO"
        assert "the platform does not answer: connection refused" in said
        planner.platform.down = ""
        planner.clock.forward(3)
        assert (await asked(planner))[0] == "YES"


async def test_what_ran_when_the_platform_went_still_counts(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        job = planner.platform.add(None, 7, 8)
        planner.platform.run(job)
        await planner.lifecycle.snapshot(timedelta(0))
        planner.platform.down = "gone"
        planner.clock.forward(10)
        reply = await planner.ask(cores=(2, 2), schedule=start_in(20))
        assert reply["result"] == "NO"


async def test_a_platform_that_was_never_seen_gets_no_offers(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        planner.platform.down = "gone"
        assert (await asked(planner))[0] == "NO"


async def test_who_asks_while_the_platform_hangs_waits_no_longer_than_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ANSWER_WITHIN", 0.2)
    async with FakePlanner(tmp_path) as planner:
        await planner.lifecycle.snapshot(timedelta(0))
        planner.platform.hangs = True
        planner.clock.forward(10)
        assert (await asked(planner))[0] == "YES"
        began = asyncio.get_running_loop().time()
        results = await asyncio.gather(*(asked(planner) for _ in range(3)))
        assert [result for result, _ in results] == ["YES"] * 3
        assert asyncio.get_running_loop().time() - began < 5
        planner.clock.forward(60)
        assert "no answer within" in (await asked(planner))[1]
        assert planner.platform.observations == 2, "one question hangs, and no second is put"


async def test_a_warm_snapshot_is_renewed_beside_the_requests(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path, observe_every="PT2S") as planner:
        await planner.ask()
        planner.clock.forward(1.5)
        planner.platform.hangs = True
        async with asyncio.timeout(20):
            assert (await asked(planner))[0] == "YES"
        await asyncio.sleep(0)
        assert planner.platform.observations == 2


async def test_the_same_jobs_are_the_same_object(tmp_path: Path) -> None:
    """Who keeps a sum over them need not sum again."""
    async with FakePlanner(tmp_path) as planner:
        planner.platform.add(None, 1, 1)
        first = await planner.lifecycle.snapshot(timedelta(0))
        planner.clock.forward(5)
        second = await planner.lifecycle.snapshot(timedelta(0))
        assert second.taken > first.taken
        assert second.jobs is first.jobs


# When the platform itself would start a job.


def telling(planner: FakePlanner, minutes: float) -> FakePlatform:
    planner.platform.foretells = True
    planner.platform.starts = NINE + timedelta(minutes=minutes)
    return planner.platform


async def start_of(planner: FakePlanner, **parts: Any) -> str:
    reply = await planner.ask(**parts)
    assert reply["result"] == "YES", reply
    return str(reply["offers"][0]["schedule"]["available"]["start"])


async def test_an_offer_starts_when_the_platform_would(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        platform = telling(planner, 20)
        assert (await start_of(planner)).startswith("2026-11-24T09:20:00Z")
        assert platform.foretold == [(2, 4, 0, timedelta(hours=1))]
        assert (await start_of(planner)).startswith("2026-11-24T09:20:00Z")
        assert len(platform.foretold) == 1, "the same shape is not asked for again at once"


async def test_the_account_itself_may_be_busy_for_longer(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        telling(planner, 0)
        job = planner.platform.add(None, 7, 8)
        planner.platform.run(job, timedelta(minutes=30))
        assert (await start_of(planner)).startswith("2026-11-24T09:30")


async def test_a_platform_that_starts_it_too_late_is_a_no_with_the_reason(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        telling(planner, 20)
        reply = await planner.ask(schedule=start_in(60, 300))
        assert reply["result"] == "NO"
        assert "the platform would start it at 2026-11-24T09:20:00Z" in reply["meta"]["messages"][0]["message"]


async def test_with_jobs_that_wait_the_answer_is_wrong_and_not_asked_for(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        platform = telling(planner, 20)
        platform.add(None, 1, 1)
        assert (await start_of(planner)).startswith("2026-11-24T09:00")
        assert not platform.foretold


async def test_an_old_answer_is_renewed_and_then_forgotten(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        platform = telling(planner, 20)
        await start_of(planner)
        planner.clock.forward(11)
        platform.starts = None
        assert (await start_of(planner)).startswith("2026-11-24T09:20:00Z")
        await asyncio.sleep(0)
        assert len(platform.foretold) == 2
        assert (await start_of(planner)).startswith("2026-11-24T09:00")


async def test_a_platform_that_does_not_foretell_in_time_is_not_waited_for(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        platform = telling(planner, 20)

        async def hang(*_: object) -> None:
            await asyncio.sleep(3600)

        platform.earliest = hang  # type: ignore[method-assign, assignment]
        async with asyncio.timeout(20):
            assert (await start_of(planner)).startswith("2026-11-24T09:00")


async def test_down_is_down(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        planner.platform.down = "x"
        with pytest.raises(PlatformDown, match="x"):
            await planner.lifecycle.snapshot(timedelta(seconds=1))
