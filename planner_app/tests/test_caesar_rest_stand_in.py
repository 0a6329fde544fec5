"""The stand-in of caesar-rest: what it sends to Slurm, what it makes of the answers, and its HTTP API.

The database is a dictionary here; the real one, and the real caesar-rest, are in molecule/testbed/tests.
"""

from __future__ import annotations

import json
import tarfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planner_app.caesar_rest import accounter, accounts, api, monitor, states
from planner_app.caesar_rest.apps import APPS, BadInputs
from planner_app.caesar_rest.script import Elsewhere, submission
from planner_app.caesar_rest.settings import Settings
from planner_app.caesar_rest.slurm import NotTaken, Slurm, SlurmDown
from planner_app.caesar_rest.store import Store, StoreDown
from planner_app.voter.slurm_script import Refused, read_submission
from planner_app.voter.slurm_token import check_token

KEY = b"k" * 48
HERE, THERE = PurePosixPath("/opt/caesar-rest"), "/mnt/storage/data/caesar-rest"
PREFIX = api.PREFIX

# As caesar-rest 6c34a9c sent them, word for word; its job's id is ID and the file's u.fits.
RECORDED = {
    "aegean": (
        {"seedthr": 5, "mergethr": 4},
        "#!/bin/bash \n sleep 10 \n singularity run --containall --no-home --scratch /home/caesar/ID "
        f"-B {THERE}/jobs/anonymous/job_ID:{HERE}/jobs/anonymous/job_ID "
        f"-B {THERE}/data/anonymous/u.fits:{HERE}/data/anonymous/u.fits "
        "--env CHANGE_RUNUSER=0 --env JOB_DIR=/home/caesar/ID --env JOB_OPTIONS='--run --save-summaryplot "
        f"--save-regions  --save-catalog-to-json  --seedthr=5.0 --mergethr=4.0 "
        f"--inputfile={HERE}/data/anonymous/u.fits' "
        f"--env JOB_OUTDIR={HERE}/jobs/anonymous/job_ID /opt/containers/aegean/aegean-job_latest.sif",
        (1, 1),
    ),
    "caesar": (
        {"nproc": 2, "nthreads": 2},
        "#!/bin/bash \n sleep 10 \n mpirun --report-bindings --np 2 --map-by ppr:2:node:pe=2 --bind-to core "
        "singularity run --containall --no-home --scratch /home/caesar/ID "
        f"-B {THERE}/jobs/anonymous/job_ID:{HERE}/jobs/anonymous/job_ID "
        f"-B {THERE}/data/anonymous/u.fits:{HERE}/data/anonymous/u.fits -B /etc/libibverbs.d "
        "--env CHANGE_RUNUSER=0 --env JOB_DIR=/home/caesar/ID --env JOB_OPTIONS='--run --save-summaryplot "
        f"--save-regions  --save-catalog-to-json  --nproc=2 --nthreads=2 --inputfile={HERE}/data/anonymous/u.fits' "
        f"--env JOB_OUTDIR={HERE}/jobs/anonymous/job_ID /opt/containers/caesar/caesar-job_latest.sif",
        (2, 2),
    ),
    "cutex": (
        {"seedthr": 5},
        "#!/bin/bash \n sleep 10 \n singularity run --containall --no-home --scratch /home/caesar/ID "
        f"-B {THERE}/jobs/anonymous/job_ID:{HERE}/jobs/anonymous/job_ID "
        f"-B {THERE}/data/anonymous/u.fits:{HERE}/data/anonymous/u.fits "
        "--env CHANGE_RUNUSER=0 --env JOB_DIR=/home/caesar/ID --env JOB_OPTIONS='--run --save-summaryplot "
        f"--save-catalog-to-json  --seedthr=5.0 --inputfile={HERE}/data/anonymous/u.fits' "
        f"--env JOB_OUTDIR={HERE}/jobs/anonymous/job_ID /opt/containers/cutex/cutex-job_latest.sif",
        (1, 1),
    ),
    "mrcnn": (
        {"scoreThr": 1},
        "#!/bin/bash \n sleep 10 \n singularity run --containall --no-home --scratch /home/caesar/ID "
        f"-B {THERE}/jobs/anonymous/job_ID:{HERE}/jobs/anonymous/job_ID "
        f"-B {THERE}/data/anonymous/u.fits:{HERE}/data/anonymous/u.fits "
        "--env CHANGE_RUNUSER=0 --env JOB_DIR=/home/caesar/ID "
        f"--env JOB_OPTIONS='--scoreThr=1.0 --image={HERE}/data/anonymous/u.fits' "
        f"--env JOB_OUTDIR={HERE}/jobs/anonymous/job_ID /opt/containers/mrcnn/mrcnn-detect_latest.sif",
        (1, 1),
    ),
}


def body(app: str, inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    places: dict[str, Any] = {
        "name": "ID",
        "user": "caesar",
        "source": HERE / "data/anonymous/u.fits",
        "directory": HERE / "jobs/anonymous/job_ID",
        "data": (HERE / "data", f"{THERE}/data"),
        "jobs": (HERE / "jobs", f"{THERE}/jobs"),
    }
    return submission(APPS[app], inputs, **places | more)


def understood(submitted: dict[str, Any]) -> Any:
    return read_submission(submitted, PurePosixPath(f"{THERE}/data"), PurePosixPath(f"{THERE}/jobs"))


@pytest.mark.parametrize("app", RECORDED)
def test_what_is_submitted_is_what_caesar_rest_submits(app: str) -> None:
    inputs, script, (threads, tasks) = RECORDED[app]
    assert body(app, inputs) == {
        "script": script,
        "job": {
            "name": "ID",
            "environment": {"PATH": "/bin:/usr/bin/:/usr/local/bin/"},
            "current_working_directory": "/home/caesar",
            "cpus_per_task": threads,
            "tasks": tasks,
        },
    }


@pytest.mark.parametrize("app", ["aegean", "cutex", "mrcnn"])
def test_the_voter_understands_it(app: str) -> None:
    found = understood(body(app, RECORDED[app][0]))
    assert (found.name, found.user, found.cores) == ("ID", "anonymous", 1)


def test_the_voter_refuses_several_processes() -> None:
    with pytest.raises(Refused, match="runs several processes with mpirun"):
        understood(body("caesar", {"nproc": 2}))


@given(
    st.fixed_dictionaries(
        {"seedthr": st.floats(0, 1e4, allow_nan=False)},
        optional={
            "ncores": st.integers(1, 64),
            "bkgbox": st.integers(5, 10000),
            "save-rmsmap": st.booleans(),
            "unknown": st.text(),
        },
    )
)
def test_the_voter_understands_whatever_options_there_are(inputs: dict[str, Any]) -> None:
    found = understood(body("aegean", inputs))
    assert found.cores == inputs.get("ncores", 1)
    assert f"--seedthr={inputs['seedthr']}" in found.options
    assert ("--save-rmsmap" in found.options) == inputs.get("save-rmsmap", False)


def test_more_cores_than_one_job_may_have_are_cut() -> None:
    assert body("caesar", {"nthreads": 64})["job"]["cpus_per_task"] == 4
    assert body("caesar", {"nproc": 64})["job"]["tasks"] == 1


@pytest.mark.parametrize("inputs", [{}, [], "x", None, {"seedthr": "high"}, {"save-rmsmap": "yes"}, {"ncores": None}])
def test_inputs_that_an_application_does_not_take(inputs: Any) -> None:
    with pytest.raises(BadInputs):
        APPS["aegean"].arguments(inputs, "/x")


def test_a_path_that_slurm_does_not_see() -> None:
    with pytest.raises(Elsewhere):
        body("aegean", {"seedthr": 5}, source=PurePosixPath("/etc/passwd"))


@pytest.mark.parametrize(
    ("slurm", "state"),
    [
        ("PENDING", "PENDING"), ("SUSPENDED", "PENDING"), ("RUNNING", "RUNNING"), ("COMPLETED", "SUCCESS"),
        ("CANCELLED", "CANCELED"), ("TIMEOUT", "TIMED-OUT"), ("FAILED", "FAILURE"), ("NODE_FAIL", "FAILURE"),
        ("PREEMPTED", "FAILURE"), ("BOOT_FAIL", "FAILURE"), ("DEADLINE", "FAILURE"), ("OUT_OF_MEMORY", "FAILURE"),
        ("COMPLETING", "UNKNOWN"),
    ],
)  # fmt: skip
def test_states(slurm: str, state: str) -> None:
    assert states.state_of(slurm)[0] == state


def test_what_becomes_of_a_job_that_slurm_does_not_know() -> None:
    assert monitor.outcome({"state": "RUNNING", "elapsed_time": 3}, None)["state"] == "CLEARED"
    assert monitor.outcome({"state": "PENDING", "elapsed_time": "0"}, None) == {}
    found = {"job_state": "COMPLETED", "exit_code": 0, "start_time": 100, "end_time": 107}
    assert monitor.outcome({"state": "RUNNING"}, found) == {
        "state": "SUCCESS", "status": "done", "exit_code": 0, "elapsed_time": 7,
    }  # fmt: skip


class Remembered(Store):
    """The documents in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, list[dict[str, Any]]] = {"anonymous.files": [], "anonymous.jobs": []}
        self.down = False

    def _all(self, name: str) -> list[dict[str, Any]]:
        if self.down:
            raise StoreDown("nobody listens at mongodb:27017")
        return self.kept.setdefault(name, [])

    def keep(self, collection: str, document: dict[str, Any]) -> None:
        self.kept.setdefault(collection, [])
        self._all(collection)[:] = [document]

    def only(self, collection: str) -> dict[str, Any] | None:
        self.kept.setdefault(collection, [])
        return next(iter(self._all(collection)), None)

    def add_file(self, user: str, document: dict[str, Any]) -> None:
        self._all(f"{user}.files").append(document)

    def files(self, user: str) -> list[dict[str, Any]]:
        return [{key: each[key] for key in each if key != "filepath"} for each in self._all(f"{user}.files")]

    def file(self, user: str, number: str) -> dict[str, Any] | None:
        return next((each for each in self._all(f"{user}.files") if each["fileid"] == number), None)

    def forget_file(self, user: str, number: str) -> bool:
        found = self.file(user, number)
        if found:
            self.kept[f"{user}.files"].remove(found)
        return bool(found)

    def add_job(self, user: str, document: dict[str, Any]) -> None:
        self._all(f"{user}.jobs").append(document)

    def jobs(self, user: str) -> list[dict[str, Any]]:
        return self._all(f"{user}.jobs")

    def job(self, user: str, number: str) -> dict[str, Any] | None:
        return next((each for each in self._all(f"{user}.jobs") if each["job_id"] == number), None)

    def change_job(self, collection: str, number: str, **fields: Any) -> None:
        for each in self._all(collection):
            if each["job_id"] == number:
                each.update(fields)

    def live(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        yield "anonymous.jobs", [each for each in self._all("anonymous.jobs") if each["state"] in states.LIVE]


class Rest:
    """The stand-in with a Slurm that does what it is told, and understands scripts as the voter does."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.jobs: dict[int, dict[str, Any]] = {}
        self.answer: httpx.Response | None = None
        (directory / "key").write_bytes(KEY)
        (directory / "app").write_text("caesar:x@localhost")
        settings = Settings.of_environment(
            {
                "DATADIR": str(directory / "data"), "JOBDIR": str(directory / "jobs"), "SLURM_HOST": "s",
                "SLURM_PORT": "1", "SLURM_USER": "caesar", "SLURM_KEYFILE": str(directory / "key"),
                "SLURM_DATADIR": f"{THERE}/data", "SLURM_JOBDIR": f"{THERE}/jobs",
                "MONGO_APP_FILE": str(directory / "app"),
            }
        )  # fmt: skip
        self.store = Remembered()
        monkeypatch.setattr(Store, "of_file", classmethod(lambda cls, path, timeout: self.store))
        self.slurm = Slurm(settings.slurm_url, "caesar", directory / "key")
        self.slurm._client = httpx.Client(base_url=settings.slurm_url, transport=httpx.MockTransport(self.call))
        monkeypatch.setattr(api, "Slurm", lambda *_: self.slurm)
        app = api.make_app(settings)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://rest{PREFIX}")

    def call(self, request: httpx.Request) -> httpx.Response:
        check_token(request.headers["X-SLURM-USER-TOKEN"], KEY, "caesar", time.time())
        if self.answer:
            return self.answer
        if request.method == "POST":
            submitted = json.loads(request.content)
            found = understood(submitted)
            number = 100 + len(self.jobs)
            self.jobs[number] = {
                "job_id": number, "job_state": "PENDING", "exit_code": 0, "start_time": 0, "end_time": 0,
                "found": found,
            }  # fmt: skip
            return httpx.Response(200, json={"job_id": number, "errors": []})
        if request.method == "DELETE":
            return httpx.Response(200, json={})
        asked = request.url.params["job_name"].split(",")
        told = [{k: v for k, v in self.jobs[int(n)].items() if k != "found"} for n in asked if int(n) in self.jobs]
        return httpx.Response(200, json={"jobs": told})

    async def upload(self, name: str = "map.fits") -> str:
        answer = await self.client.post("/upload", files={"file": (name, b"SIMPLE")}, data={"tag": "t"})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["uuid"])

    async def submit(self, **more: Any) -> httpx.Response:
        asked = {"app": "aegean", "data_inputs": await self.upload(), "job_inputs": {"seedthr": 5}}
        return await self.client.post("/job", json=asked | more)


@pytest.fixture
def rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rest:
    return Rest(tmp_path, monkeypatch)


async def test_files_come_and_go(rest: Rest) -> None:
    number = await rest.upload("a map.FITS")
    [listed] = (await rest.client.get("/fileids")).json()
    assert (listed["fileid"], listed["fileext"], listed["tag"]) == (number, "fits", "t")
    assert "filepath" not in listed
    assert (await rest.client.get(f"/download/{number}")).content == b"SIMPLE"
    assert (await rest.client.post(f"/delete/{number}")).status_code == 200
    assert (await rest.client.get(f"/download/{number}")).status_code == 404
    assert (await rest.client.get("/fileids")).json() == []
    assert not list((rest.directory / "data/anonymous").iterdir())


@pytest.mark.parametrize(("name", "status"), [("map.txt", 415), ("map", 415), ("../../map.exe", 415)])
async def test_files_that_are_not_taken(rest: Rest, name: str, status: int) -> None:
    assert (await rest.client.post("/upload", files={"file": (name, b"x")})).status_code == status
    assert (await rest.client.post("/upload", data={"tag": "t"})).status_code == 400


async def test_a_job_from_submission_to_catalogue(rest: Rest) -> None:
    answer = await rest.submit(tag="mine")
    assert (answer.status_code, answer.json()["state"]) == (202, "PENDING")
    name = answer.json()["job_id"]
    assert (await rest.client.get(f"/job/{name}/output")).status_code == 202
    [number] = rest.jobs
    directory = rest.directory / f"jobs/anonymous/job_{name}"
    assert rest.jobs[number]["found"].directory == f"{THERE}/jobs/anonymous/job_{name}"
    rest.jobs[number] |= {"job_state": "RUNNING"}
    assert monitor.look_once(rest.store, rest.slurm) == 1
    assert (await rest.client.get(f"/job/{name}/status")).json()["state"] == "RUNNING"
    (directory / "catalog-map.json").write_text('{"sources": []}')
    rest.jobs[number] |= {"job_state": "COMPLETED", "start_time": 1, "end_time": 5}
    monitor.look_once(rest.store, rest.slurm)
    about = (await rest.client.get(f"/job/{name}/status")).json()
    assert (about["state"], about["exit_code"], about["elapsed_time"], about["tag"]) == ("SUCCESS", 0, 4, "mine")
    assert (await rest.client.get(f"/job/{name}/sources")).json() == {"sources": []}
    packed = await rest.client.get(f"/job/{name}/output")
    (rest.directory / "out.tar.gz").write_bytes(packed.content)
    with tarfile.open(rest.directory / "out.tar.gz") as archive:
        assert archive.getnames() == [f"job_{name}/catalog-map.json"]
    assert (await rest.client.get(f"/job/{name}/preview")).status_code == 500
    assert monitor.look_once(rest.store, rest.slurm) == 0
    assert [each["job_id"] for each in (await rest.client.get("/jobs")).json()] == [name]


async def test_a_job_is_cancelled(rest: Rest) -> None:
    name = (await rest.submit()).json()["job_id"]
    assert (await rest.client.post(f"/job/{name}/cancel")).status_code == 200
    assert (await rest.client.get(f"/job/{name}/status")).json()["state"] == "CANCELED"
    assert (await rest.client.get("/job/0/status")).status_code == 404


async def test_slurm_s_reason_is_told(rest: Rest) -> None:
    rest.answer = httpx.Response(400, json={"errors": [{"error": "no such image"}]})
    answer = await rest.submit()
    assert (answer.status_code, answer.json()["state"]) == (500, "ABORTED")
    assert "no such image" in answer.json()["status"]
    rest.answer = httpx.Response(502, text="<html>")
    assert "no JSON" in (await rest.submit()).json()["status"]
    assert rest.store.kept["anonymous.jobs"] == []


@pytest.mark.parametrize("more", [{"app": "x"}, {"data_inputs": "x"}, {"job_inputs": {}}, {"job_inputs": "x"}])
async def test_submissions_that_are_not_taken(rest: Rest, more: dict[str, Any]) -> None:
    answer = await rest.submit(**more)
    assert (answer.status_code, answer.json()["state"]) == (400, "ABORTED")
    assert rest.jobs == {}


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_an_account_counts_every_job_once() -> None:
    jobs: list[dict[str, Any]] = [
        {"state": "SUCCESS", "elapsed_time": 10},
        {"state": "SUCCESS", "elapsed_time": "2.5"},
        {"state": "FAILURE", "elapsed_time": -1},
        {"state": "ABORTED", "elapsed_time": ""},
        {"state": "PENDING", "elapsed_time": "0"},
        {"state": "STARTED"},
        {"state": "RUNNING", "elapsed_time": 4},
        {"state": "CANCELED", "elapsed_time": 1},
        {"elapsed_time": "soon"},
    ]
    assert accounts.account(jobs, 8, 4, NOW) == {
        "timestamp": NOW, "datasize": 8, "jobsize": 4, "njobs": 9, "njobs_completed": 2, "njobs_failed": 1,
        "njobs_aborted": 1, "njobs_pending": 1, "njobs_running": 2, "njobs_unknown": 2, "job_runtime": 17.5,
        "job_completed_runtime": 12.5,
    }  # fmt: skip


@given(st.lists(st.lists(st.fixed_dictionaries({"state": st.text(), "elapsed_time": st.floats(0, 1e6)}))))
def test_the_sum_is_that_of_the_accounts(users: list[list[dict[str, Any]]]) -> None:
    each = [accounts.account(jobs, 1, 2, NOW) for jobs in users]
    total = accounts.totals(each, NOW)
    assert total["njobs"] == sum(map(len, users))
    assert total["njobs"] == sum(total[key] for key in total if key.startswith("njobs_"))
    assert (total["nusers"], total["totsize"]) == (len(users), 3 * len(users))


async def test_what_was_used_is_told(rest: Rest) -> None:
    for path in ("/accounting", "/appstats"):
        answer = await rest.client.get(path)
        assert (answer.status_code, "every 60 s" in answer.json()["status"]) == (404, True)
    await rest.submit()
    (rest.directory / "jobs/other/job_1").mkdir(parents=True)
    (rest.directory / "jobs/other/job_1/out").write_bytes(b"x" * 10_000)
    for _ in range(2):
        accounter.count_once(rest.store, rest.directory / "data", rest.directory / "jobs", NOW)
    mine = (await rest.client.get("/accounting")).json()
    assert (mine["njobs"], mine["njobs_pending"], mine["job_runtime"]) == (1, 1, 0)
    assert mine["timestamp"] == "Fri, 02 Jan 2026 03:04:05 GMT"
    assert mine["datasize"] > 0
    total = (await rest.client.get("/appstats")).json()
    assert (total["nusers"], total["njobs"], total["avg_completed_job_runtime"]) == (2, 1, 0)
    assert total["jobsize"] >= mine["jobsize"] + 10
    assert len(rest.store.kept["appstats"]) == 1


async def test_a_database_that_is_down_is_said(rest: Rest) -> None:
    name = (await rest.submit()).json()["job_id"]
    rest.store.down = True
    for path in ("/fileids", "/jobs", "/accounting", "/appstats", f"/job/{name}/status", f"/job/{name}/output"):
        answer = await rest.client.get(path)
        assert (answer.status_code, "database" in answer.json()["status"]) == (503, True), path
    answer = await rest.client.post("/upload", files={"file": ("m.fits", b"x")})
    assert (answer.status_code, "database" in answer.json()["status"]) == (500, True)
    assert len(list((rest.directory / "data/anonymous").iterdir())) == 1, "what has no document is not kept"
    with pytest.raises(StoreDown):
        monitor.look_once(rest.store, rest.slurm)


def test_slurm_down(rest: Rest) -> None:
    rest.slurm._client = httpx.Client(base_url="http://127.0.0.1:1")
    with pytest.raises(SlurmDown):
        rest.slurm.look([1])
    rest.slurm._client = httpx.Client(
        base_url="http://s", transport=httpx.MockTransport(lambda _: httpx.Response(404, json={}))
    )
    with pytest.raises(NotTaken):
        rest.slurm.cancel(1)


async def test_applications_are_described(rest: Rest) -> None:
    assert (await rest.client.get("/apps")).json() == {"apps": ["caesar", "mrcnn", "aegean", "cutex"]}
    about = (await rest.client.get("/app/aegean/describe")).json()
    assert about["seedthr"] == {
        "mandatory": False, "type": "float", "description": "where a source begins, in sigma", "advanced": 0,
        "category": "COMPACT-SOURCES", "subcategory": "", "enum": False, "default": 5, "min": 0, "max": 10000,
    }  # fmt: skip
    assert (await rest.client.get("/app/x/describe")).status_code == 400
