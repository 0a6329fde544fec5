"""caesar-rest's jobs, from the submission to the outputs, over planners that behave and others."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from planner_app.voter.jobs import JobState
from planner_app.voter.judge import judge
from planner_app.voter.slurm_token import make_token
from tests.voter_stubs import Behaviour, StubPlanner, VoterUnderTest, gives, http, running, submission, until

KEY = b"a key that both of them have, 40 bytes.."
SLURM = "/slurm/v0.0.36"
UNDERSTOOD = {"PENDING", "RUNNING", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


def runs(looks: int = 3, *, fail: str = "", before: bool = False) -> Behaviour:
    """A planner whose jobs are done, or fail, after some looks at them; `before` they have started."""
    seen: dict[str, int] = {}

    async def behaviour(stub: StubPlanner, method: str, path: str, body: bytes) -> bytes | None:
        session = path.removeprefix("/sessions/")
        if method == "GET" and session in stub.sessions and stub.sessions[session] in ("ACCEPTED", "AVAILABLE"):
            seen[session] = seen.get(session, 0) + 1
            if seen[session] >= looks:
                stub.sessions[session] = "FAILED" if fail else "COMPLETED"
                stub.messages = [fail] if fail else []
            elif not before:
                stub.sessions[session] = "AVAILABLE"
            if not before:
                stub.ran.add(session)
        return None

    return behaviour


class CaesarRest:
    """What caesar-rest is to the facade: three calls, and two directories."""

    def __init__(self, directory: Path, *planners: StubPlanner, **changes: Any) -> None:
        self.data, self.jobs = directory / "data" / "caesar-rest", directory / "jobs"
        self.jobs.mkdir(exist_ok=True)
        (directory / "key").write_bytes(KEY)
        slurmrestd = {
            "key_file": str(directory / "key"),
            "user": "cirasa",
            "data": str(self.data),
            "jobs": str(self.jobs),
            "images": {"aegean-job_latest.sif": "aegean"},
            "try_again": "PT0.1S",
        }
        more = {name: changes.pop(name) for name in list(changes) if name in ("attempts", "votes_at_once")}
        self.voter = VoterUnderTest(directory, *planners, slurmrestd=slurmrestd | more, slurm_key=KEY, **changes)

    @asynccontextmanager
    async def up(self) -> AsyncIterator[httpx.AsyncClient]:
        async with self.voter.up() as client:
            del client.headers["Authorization"]
            token = make_token(KEY, "cirasa", time.time())
            client.headers.update({"X-SLURM-USER-NAME": "cirasa", "X-SLURM-USER-TOKEN": token})
            yield client

    def body(self, number: int, **changes: Any) -> dict[str, Any]:
        # The planners here offer two cores.
        return submission(f"{number:032x}", data=str(self.data), jobs=str(self.jobs), **{"cpus_per_task": 2} | changes)

    async def submit(self, client: httpx.AsyncClient, number: int, **changes: Any) -> int:
        reply = await client.post(f"{SLURM}/job/submit", json=self.body(number, **changes))
        assert reply.status_code == 200, reply.text
        assert reply.json()["errors"] == []
        return int(reply.json()["job_id"])

    def outputs(self, number: int) -> dict[str, str]:
        directory = self.jobs / "anonymous" / f"job_{number:032x}"
        return {path.name: path.read_text() for path in directory.iterdir()}


async def states(client: httpx.AsyncClient, *numbers: int) -> list[str]:
    """As caesar-rest asks: the numbers as names."""
    reply = await client.get(f"{SLURM}/jobs", params={"job_name": ",".join(map(str, numbers))})
    shown = {job["job_id"]: job for job in reply.json()["jobs"]}
    for job in shown.values():
        assert job["job_state"] in UNDERSTOOD
        assert all(isinstance(job[field], int) for field in ("start_time", "end_time", "exit_code"))
        assert job["end_time"] - job["start_time"] in range(60)
    return [shown[number]["job_state"] for number in numbers if number in shown]


async def has_state(client: httpx.AsyncClient, number: int, state: str) -> bool:
    return await states(client, number) == [state]


async def shown(client: httpx.AsyncClient, number: int) -> dict[str, Any]:
    return dict((await client.get(f"{SLURM}/job/{number}")).json()["jobs"][0])


async def test_a_job_from_the_submission_to_the_outputs(tmp_path: Path) -> None:
    cheap, dear = StubPlanner("cheap", runs(), monetary=0.01), StubPlanner("dear", runs())
    rest = CaesarRest(tmp_path, cheap, dear)
    async with running(cheap, dear), rest.up() as client:
        number = await rest.submit(client, 1)
        assert await states(client, number) in (["PENDING"], ["RUNNING"])
        await until(lambda: has_state(client, number, "RUNNING"))
        await until(lambda: has_state(client, number, "COMPLETED"))
        # Once it is said to be done, caesar-rest packs what is there.
        outputs = rest.outputs(1)
        assert json.loads(outputs["catalog-x.json"]) == {"sources": []}
        assert outputs[f"job_{1:032x}.log"] == "found 58 islands\n"
        explained = json.loads(outputs[f"job_{1:032x}.ballot.json"])
        assert explained["winner"]["planner"] == "cheap"
        request = next(body for _, path, body in cheap.calls if path == "/requests")
        assert request["executable"]["environment"] == {
            "JOB_OPTIONS": "--run --save-summaryplot --save-regions --save-catalog-to-json --seedthr=5.0 "
            "--inputfile=/data/0a1b.fits",
            "JOB_OUTDIR": "/output",
            "INPUTFILE": "/data/0a1b.fits",
            "TRACEPARENT": f"00-{1:032x}-{0:015x}1-01",
        }
        assert request["data"][0]["location"] == f"file://{rest.data}/anonymous/0a1b.fits"
        assert request["compute"]["cores"] == {"min": 2, "max": 2}
        # caesar-rest's own id of the job is the trace, in the request and everywhere.
        assert f"{1:032x}" in cheap.traces[0]
        assert request["executable"]["meta"]["name"] == f"aegean-{1:032x}"
        assert (await shown(client, number))["comment"] == f"{1:032x}"
        assert (await shown(client, number))["partition"] == "cheap"
        ballot = (await client.get(f"/ballots/{1:032x}", headers={"Authorization": "Bearer secret"})).json()
        assert (ballot["user"], ballot["job"]) == ("anonymous", {"id": number, "name": f"{1:032x}", "attempt": 1})
        await until(lambda: dear.phases() == ["REJECTED"])


async def test_what_is_refused_is_told_in_errors(tmp_path: Path) -> None:
    planner = StubPlanner("one")
    rest = CaesarRest(tmp_path, planner)
    async with running(planner), rest.up() as client:
        unknown = rest.body(1)
        unknown["script"] = unknown["script"].replace("aegean-job", "caesar-job")
        for content, status, error in (
            (json.dumps(unknown), 400, "caesar-job_latest.sif is not known here; known are aegean-job_latest.sif"),
            (json.dumps(rest.body(1, tasks=2)), 400, "job.tasks is 2: jobs here have one task"),
            ("{", 400, "the body is no JSON"),
            (" " * 100_001, 413, "at most 100000 bytes are read"),
        ):
            reply = await client.post(f"{SLURM}/job/submit", content=content)
            assert reply.status_code == status
            assert "job_id" not in reply.json()
            assert error in reply.json()["errors"][0]["error"]
        assert planner.calls == []


async def test_nobody_passes_without_the_key(tmp_path: Path) -> None:
    planner = StubPlanner("one")
    rest = CaesarRest(tmp_path, planner)
    async with running(planner), rest.up() as client:
        for headers in (
            {"X-SLURM-USER-TOKEN": ""},
            {"X-SLURM-USER-TOKEN": make_token(b"k" * 40, "cirasa", time.time())},
            {"X-SLURM-USER-NAME": "root"},
            {"X-SLURM-USER-NAME": "root", "X-SLURM-USER-TOKEN": make_token(KEY, "root", time.time())},
        ):
            for method, path in (("POST", "job/submit"), ("GET", "jobs"), ("GET", "job/1"), ("DELETE", "job/1")):
                reply = await client.request(method, f"{SLURM}/{path}", headers=headers)
                assert reply.status_code == 401, (method, path)
                assert reply.json()["errors"]
        # And the token of Slurm opens nothing else.
        assert (await client.get("/ballots")).status_code == 401


async def test_without_a_facade_there_are_no_such_calls(tmp_path: Path) -> None:
    async with VoterUnderTest(tmp_path).up() as client:
        assert (await client.get(f"{SLURM}/jobs")).status_code == 404


async def test_the_same_submission_again_is_the_same_job(tmp_path: Path) -> None:
    planner = StubPlanner("one", runs())
    rest = CaesarRest(tmp_path, planner)
    async with running(planner), rest.up() as client:
        first = await rest.submit(client, 1)
        assert await rest.submit(client, 1) == first
        other = await client.post(f"{SLURM}/job/submit", json=rest.body(1, cpus_per_task=3))
        assert other.status_code == 409
        assert await rest.submit(client, 2) == first + 1
        await until(lambda: has_state(client, first, "COMPLETED"))
        await until(lambda: has_state(client, first + 1, "COMPLETED"))
        assert planner.phases() == ["COMPLETED", "COMPLETED"]


async def test_a_session_that_fails_before_it_starts_is_voted_on_again(tmp_path: Path) -> None:
    bad = StubPlanner("bad", runs(2, fail="the platform refused the job: no", before=True), monetary=0.01)
    good = StubPlanner("good", runs())
    rest = CaesarRest(tmp_path, bad, good)
    async with running(bad, good), rest.up() as client:
        number = await rest.submit(client, 1)
        await until(lambda: has_state(client, number, "COMPLETED"))
        job = await shown(client, number)
        assert (job["partition"], job["exit_code"]) == ("good", 0)
        # The one that failed was not asked again, since there was another.
        assert sum(path == "/requests" for _, path, _ in bad.calls) == 1
        latest = (await client.get(f"/ballots/{1:032x}", headers={"Authorization": "Bearer secret"})).json()
        assert latest["job"]["attempt"] == 2


async def test_the_votes_on_a_job_have_a_limit(tmp_path: Path) -> None:
    planners = [StubPlanner(f"p{n}", runs(2, fail="refused", before=True)) for n in range(3)]
    rest = CaesarRest(tmp_path, *planners, attempts=2)
    async with running(*planners), rest.up() as client:
        number = await rest.submit(client, 1)
        await until(lambda: has_state(client, number, "FAILED"))
        assert sum(planner.phases().count("FAILED") for planner in planners) == 2
        assert (await shown(client, number))["exit_code"] == 256


@pytest.mark.parametrize(
    ("message", "state", "exit_code"),
    [
        ("the session failed: FAILED 3:0", "FAILED", 3 << 8),
        ("the session failed: OUT_OF_MEMORY 0:125", "OUT_OF_MEMORY", 125),
        ("the session failed: OOMKilled", "OUT_OF_MEMORY", 256),
        ("the session failed: TIMEOUT 0:15", "TIMEOUT", 15),
        ("the session failed: DeadlineExceeded", "TIMEOUT", 256),
        ("the session failed: NODE_FAIL 1:0", "NODE_FAIL", 256),
    ],
)
async def test_what_has_run_and_failed_is_not_run_again(
    tmp_path: Path, message: str, state: str, exit_code: int
) -> None:
    planner, other = StubPlanner("one", runs(3, fail=message), monetary=0.01), StubPlanner("other")
    rest = CaesarRest(tmp_path, planner, other)
    async with running(planner, other), rest.up() as client:
        number = await rest.submit(client, 1)
        await until(lambda: has_state(client, number, state))
        job = await shown(client, number)
        assert (job["exit_code"], job["state_reason"]) == (exit_code, message)
        assert "found 58 islands" in rest.outputs(1)[f"job_{1:032x}.log"]
        assert sum(path == "/requests" for _, path, _ in other.calls) == 1


async def test_none_can(tmp_path: Path) -> None:
    """What nobody can is not asked again, and the reasons are where caesar-rest's user gets them."""
    planner = StubPlanner("one", gives(http(200, {"result": "NO", "meta": {"messages": [{"message": "too big"}]}})))
    rest = CaesarRest(tmp_path, planner)
    async with running(planner), rest.up() as client:
        number = await rest.submit(client, 1)
        await until(lambda: has_state(client, number, "FAILED"))
        assert (await shown(client, number))["state_reason"] == "none of 1 planners can; one: too big"
        assert len(planner.calls) == 1
        assert "too big" in rest.outputs(1)[f"job_{1:032x}.ballot.json"]


async def test_planners_that_are_away_are_asked_again(tmp_path: Path) -> None:
    away = 2

    async def behaviour(stub: StubPlanner, method: str, path: str, body: bytes) -> bytes | None:
        nonlocal away
        if path == "/requests" and away:
            away -= 1
            return http(503, {"title": "not yet"})
        return await runs(1)(stub, method, path, body)

    planner = StubPlanner("one", behaviour)
    rest = CaesarRest(tmp_path, planner)
    async with running(planner), rest.up() as client:
        number = await rest.submit(client, 1)
        await until(lambda: has_state(client, number, "COMPLETED"))


async def test_cancel_while_it_runs_while_it_waits_and_when_it_is_over(tmp_path: Path) -> None:
    planner = StubPlanner("one", runs(10**9))
    rest = CaesarRest(tmp_path, planner, votes_at_once=1)
    async with running(planner), rest.up() as client:
        number = await rest.submit(client, 1)
        await until(lambda: has_state(client, number, "RUNNING"))
        assert (await client.delete(f"{SLURM}/job/{number}")).status_code == 200
        await until(lambda: has_state(client, number, "CANCELLED"))
        assert planner.phases() == ["CANCELLED"]
        # Once more: it stays what it is.
        assert (await client.delete(f"{SLURM}/job/{number}")).status_code == 200
        assert await states(client, number) == ["CANCELLED"]
        assert (await client.delete(f"{SLURM}/job/999")).status_code == 404
        assert (await client.delete(f"{SLURM}/job/x")).status_code == 404
        # At once after the submission, whatever the vote is doing.
        numbers = [await rest.submit(client, 10 + n) for n in range(5)]
        for each in numbers:
            await client.delete(f"{SLURM}/job/{each}")
        for each in numbers:
            await until(lambda each=each: has_state(client, each, "CANCELLED"))  # type: ignore[misc]
        await until(lambda: not {"ACCEPTED", "AVAILABLE", "OFFERED"} & set(planner.phases()))


async def test_jobs_survive_a_restart_and_numbers_are_never_given_twice(tmp_path: Path) -> None:
    planner = StubPlanner("one", runs(10**9))
    rest = CaesarRest(tmp_path, planner)
    async with running(planner):
        async with rest.up() as client:
            first = await rest.submit(client, 1)
            await until(lambda: has_state(client, first, "RUNNING"))
        async with rest.up() as client:
            assert await states(client, first) == ["RUNNING"]
            second = await rest.submit(client, 2)
            assert second > first
            planner.behaviour = runs(1)
            await until(lambda: has_state(client, first, "COMPLETED"))
            await until(lambda: has_state(client, second, "COMPLETED"))
        async with rest.up() as client:
            # Long over, and still there for who asks by its number.
            assert await states(client, first, second, 77) == ["COMPLETED", "COMPLETED"]
        assert planner.phases() == ["COMPLETED", "COMPLETED"]


async def test_outputs_that_come_late_hold_the_end_back(tmp_path: Path) -> None:
    away = True

    async def behaviour(stub: StubPlanner, method: str, path: str, body: bytes) -> bytes | None:
        if path.endswith("/outputs") and away:
            return http(503, {})
        return await runs(1)(stub, method, path, body)

    planner = StubPlanner("one", behaviour)
    rest = CaesarRest(tmp_path, planner)
    async with running(planner), rest.up() as client:
        number = await rest.submit(client, 1)
        await until(lambda: "COMPLETED" in planner.phases())
        await asyncio.sleep(0.3)
        assert (await states(client, number))[0] in ("PENDING", "RUNNING")
        away = False
        await until(lambda: has_state(client, number, "COMPLETED"), 10)
        assert "catalog-x.json" in rest.outputs(1)


async def test_a_link_in_the_job_s_directory_leads_nowhere(tmp_path: Path) -> None:
    planner = StubPlanner("one", runs())
    rest = CaesarRest(tmp_path, planner)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (rest.jobs / "anonymous").symlink_to(elsewhere)
    async with running(planner), rest.up() as client:
        number = await rest.submit(client, 1)
        await until(lambda: "COMPLETED" in planner.phases())
        await asyncio.sleep(0.3)
        assert list(elsewhere.iterdir()) == []
        assert not await has_state(client, number, "COMPLETED")


BALLOT: dict[str, Any] = {
    "state": "FAILED",
    "message": "m",
    "winner": {"planner": "one", "session": "s"},
    "candidates": [],
    "answers": [],
}


@pytest.mark.parametrize(
    ("changes", "cancelled", "left", "state"),
    [
        ({"state": "COMPLETED", "started": "x"}, False, 2, "COMPLETED"),
        ({"state": "COMPLETED", "started": "x"}, True, 2, "COMPLETED"),
        ({}, False, 2, "PENDING"),
        ({}, False, 0, "FAILED"),
        ({}, True, 2, "CANCELLED"),
        ({"started": "x"}, False, 2, "FAILED"),
        ({"started": "x"}, True, 2, "FAILED"),
        ({"state": "CANCELLED"}, False, 2, "PENDING"),
        ({"state": "CANCELLED"}, False, 0, "CANCELLED"),
        ({"state": "CANCELLED", "cancelled": "x"}, False, 2, "CANCELLED"),
        ({"state": "CANCELLED", "started": "x"}, False, 2, "CANCELLED"),
        ({"state": "NO_OFFER", "winner": None}, False, 2, "FAILED"),
        ({"state": "NO_OFFER", "winner": None}, True, 2, "CANCELLED"),
        ({"state": "NO_OFFER", "winner": None, "answers": [{"verdict": "TIMEOUT"}]}, False, 2, "PENDING"),
        ({"state": "NO_OFFER", "winner": None, "answers": [{"verdict": "NO"}]}, False, 2, "FAILED"),
        ({"state": "NO_OFFER", "winner": None, "answers": [{"verdict": "TIMEOUT"}]}, False, 0, "FAILED"),
    ],
)
def test_what_a_ballot_s_end_means(changes: dict[str, Any], cancelled: bool, left: int, state: str) -> None:
    assert judge(BALLOT | changes, cancelled, left).state == JobState(state)
