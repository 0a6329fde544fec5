"""Every reply, in every phase, against the published schema; which of its files say what is told by `kind`."""

from pathlib import Path
from typing import Any

import pytest
from planner_app.execution_broker import codecs, kinds
from planner_app.platforms.protocol import JobState
from tests.fakes import IMAGE, FakePlanner, request_of, start_in
from tests.published import COMPONENTS, Published, published


@pytest.fixture(scope="module", name="published")
def schema() -> Published:
    found = published()
    if found is None:
        pytest.skip("EXECUTION_BROKER_SCHEMA names no copy of the Execution Broker schema's directory v1.0")
    return found


def check(published: Published, document: dict[str, Any]) -> None:
    """Valid, and the same after a way through YAML."""
    assert list(published.errors(document)) == []
    assert codecs.decode(codecs.encode(document, codecs.YAML), codecs.YAML) == document


def full_request(planner: FakePlanner) -> dict[str, Any]:
    cost = {"kind": kinds.SIMPLE_COST, "type": kinds.COST_TYPE_PREFIX + "monetary", "max": 1.0}
    metric = {"kind": kinds.SIMPLE_METRIC, "type": kinds.METRIC_TYPE_PREFIX + "compute-performance", "min": 50}
    location = f"file://{planner.config.storage.data}/one/map.fits"
    volumes = [
        {"kind": kinds.SIMPLE_VOLUME_MOUNT, "path": "/data", "mode": "READONLY", "resource": "map"},
        {"kind": kinds.SIMPLE_VOLUME_MOUNT, "path": "/output", "mode": "READWRITE", "resource": "results"},
    ]
    return request_of(
        compute={"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 1, "max": 4}, "memory": {"min": 2}, "volumes": volumes},
        data=[{"kind": kinds.SIMPLE_DATA, "meta": {"name": "map"}, "location": location}],
        storage=[{"kind": kinds.SIMPLE_STORAGE, "meta": {"name": "results"}, "size": {"min": 1, "max": 4}}],
        costs=[cost],
        metrics=[metric],
    )


async def test_our_request_is_one(tmp_path: Path, published: Published) -> None:
    async with FakePlanner(tmp_path) as planner:
        request = full_request(planner)
        assert list(published.errors(request)) == []
        validator = published.validator(COMPONENTS, "ExecutionRequest")
        assert list(validator.iter_errors(request)) == []


async def test_a_session_in_all_its_phases(tmp_path: Path, published: Published) -> None:
    async with FakePlanner(tmp_path) as planner:
        phases: set[str] = set()

        async def see(session: str) -> None:
            document = await planner.session(session)
            phases.add(document["phase"])
            check(published, document)

        answer = await planner.ask(
            **{key: value for key, value in full_request(planner).items() if key != "executable"}
        )
        check(published, answer)
        session, sibling = (offer["meta"]["uuid"] for offer in answer["offers"])
        await see(session)
        check(published, (await planner.update(session, "ACCEPTED")).json())
        await see(session)
        await see(sibling)
        await planner.look()
        await see(session)
        job = planner.platform.only()
        planner.platform.run(job)
        planner.clock.forward(3)
        await planner.look()
        await see(session)
        planner.platform.end(job, JobState.FAILED, 137, "OUT_OF_MEMORY 0:137")
        planner.clock.forward(3)
        for _ in range(2):
            await planner.look()
            await see(session)

        later = await planner.accepted(schedule=start_in(1800))
        await planner.look()
        await see(later)
        check(published, (await planner.update(later, "CANCELLED")).json())
        await see(later)
        over = (await planner.ask())["offers"][0]["meta"]["uuid"]
        planner.clock.forward(100)
        await planner.look()
        await see(over)
        assert phases == {
            "OFFERED", "ACCEPTED", "REJECTED", "PREPARING", "AVAILABLE", "RELEASING", "FAILED", "WAITING", "CANCELLED",
            "EXPIRED",
        }  # fmt: skip


async def test_a_refusal(tmp_path: Path, published: Published) -> None:
    async with FakePlanner(tmp_path) as planner:
        answer = await planner.ask(cores=(99, None), memory=(99, None))
        assert answer["result"] == "NO"
        check(published, answer)
        planner.platform.down = "slurmctld is away"
        planner.clock.forward(10)
        check(published, await planner.ask())


async def test_odd_times_and_a_singularity_image(tmp_path: Path, published: Published) -> None:
    async with FakePlanner(tmp_path) as planner:
        planner.clock.now = planner.clock.now.replace(microsecond=123456)
        executable = {"kind": kinds.SINGULARITY_CONTAINER, "location": IMAGE.name}
        schedule = {"requested": {"duration": "PT0.5S"}}
        answer = await planner.ask(executable=executable, schedule=schedule)
        assert answer["result"] == "YES"
        check(published, answer)


async def test_the_check_can_fail(tmp_path: Path, published: Published) -> None:
    async with FakePlanner(tmp_path) as planner:
        answer = await planner.ask()
        for path, value in (("phase", "BUSY"), ("kind", "https://example.org/session.yaml"), ("colour", "red")):
            broken = answer | {"offers": [answer["offers"][0] | {path: value}]}
            assert list(published.errors(broken))
        compute = answer["offers"][0]["compute"] | {"cores": {"min": "2"}}
        assert list(published.errors(answer | {"offers": [answer["offers"][0] | {"compute": compute}]}))
        schedule = {"preparing": {"start": "now"}}
        assert list(published.errors(answer | {"offers": [answer["offers"][0] | {"schedule": schedule}]}))
