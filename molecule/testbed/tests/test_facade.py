"""What caesar-rest sends to its Slurm, sent to the voter: real jobs, and their outputs where it looks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml
from handles import STATE, stopped
from planner_app.voter.slurm_token import make_token
from testinfra.host import Host

SLURM = "/slurm/v0.0.36"
ROOT = "/mnt/storage/data/caesar-rest"
APP = "/opt/caesar-rest"
USER = "anonymous"


@pytest.fixture(scope="module")
def rest() -> Iterator[httpx.Client]:
    """A client with a token that it made itself, as caesar-rest's Slurm client does."""
    handle = yaml.safe_load((STATE / "voter.yml").read_text())
    key = (STATE / "secrets/slurmrestd-key").read_text().strip().encode()
    headers = {"X-SLURM-USER-NAME": "caesar", "X-SLURM-USER-TOKEN": make_token(key, "caesar", time.time())}
    with httpx.Client(base_url=handle["url"], headers=headers, timeout=10) as client:
        yield client


@pytest.fixture(scope="module")
def image(voter: httpx.Client, planner: Host, fits: Path) -> str:
    """The map, where caesar-rest keeps what its user uploaded."""
    stored = voter.post("/uploads", params={"name": "map.fits"}, content=fits.read_bytes()).json()["uuid"]
    name = f"{uuid4().hex}.fits"
    planner.check_output(f"install -d -o 20000 -g 20000 {ROOT}/data/{USER}")
    planner.check_output(f"cp /mnt/storage/data/{stored}/map.fits {ROOT}/data/{USER}/{name}")
    planner.check_output(f"chmod 644 {ROOT}/data/{USER}/{name}")
    return name


def body(name: str, file: str, **job: Any) -> dict[str, Any]:
    """A submission for app aegean, word for word as caesar-rest 6c34a9c writes it."""
    inside, outdir = f"{APP}/data/{USER}/{file}", f"{APP}/jobs/{USER}/job_{name}"
    script = (
        f"#!/bin/bash \n sleep 10 \n singularity run --containall --no-home --scratch /home/caesar/{name} "
        f"-B {ROOT}/jobs/{USER}/job_{name}:{outdir} -B {ROOT}/data/{USER}/{file}:{inside} --env CHANGE_RUNUSER=0 "
        f"--env JOB_DIR=/home/caesar/{name} --env JOB_OPTIONS='--run --save-summaryplot --save-regions  "
        f"--save-catalog-to-json  --seedthr=5.0 --mergethr=4.0 --inputfile={inside}' --env JOB_OUTDIR={outdir} "
        "/opt/containers/aegean/aegean-job_latest.sif"
    )
    described = {
        "name": name,
        "environment": {"PATH": "/bin:/usr/bin/:/usr/local/bin/"},
        "current_working_directory": "/home/caesar",
        "cpus_per_task": 1,
        "tasks": 1,
    }
    return {"script": script, "job": described | job}


def look(rest: httpx.Client, number: int) -> dict[str, Any]:
    jobs = rest.get(f"{SLURM}/jobs", params={"job_name": str(number)}).json()["jobs"]
    assert [job["job_id"] for job in jobs] == [number]
    return dict(jobs[0])


def ended(rest: httpx.Client, number: int, timeout: float = 120) -> tuple[dict[str, Any], list[str]]:
    """Poll as the job monitor does, until the job has ended; give it, and the states it had."""
    deadline, states = time.monotonic() + timeout, []
    while True:
        job = look(rest, number)
        if job["job_state"] not in states:
            states.append(job["job_state"])
        if job["job_state"] not in ("PENDING", "RUNNING"):
            return job, states
        assert time.monotonic() < deadline, job
        time.sleep(0.1)  # as nothing tells


def test_a_job_of_caesar_rest_runs_and_its_outputs_are_where_it_looks(
    rest: httpx.Client, voter: httpx.Client, image: str, planner: Host, slurm: Host
) -> None:
    name = uuid4().hex
    reply = rest.post(f"{SLURM}/job/submit", json=body(name, image)).json()
    assert reply["errors"] == []
    job, states = ended(rest, reply["job_id"])
    assert (job["job_state"], job["exit_code"]) == ("COMPLETED", 0), job
    assert set(states) <= {"PENDING", "RUNNING", "COMPLETED"}
    listed = planner.check_output(f"ls {ROOT}/jobs/{USER}/job_{name}").split()
    for beginning in ("catalog-", "catalog_fitcomp-", "plot_", "ds9-", f"job_{name}.log", f"job_{name}.ballot.json"):
        assert any(each.startswith(beginning) for each in listed), (beginning, listed)
    assert planner.check_output(f"grep -c . {ROOT}/jobs/{USER}/job_{name}/job_{name}.log") != "0"
    # caesar-rest's own id of the job leads to its ballot, and from there to the planner's session and the job.
    ballot = voter.get(f"/ballots/{name}").json()
    assert (ballot["trace"], ballot["user"], ballot["state"]) == (name, USER, "COMPLETED")
    assert ballot["request"]["executable"]["meta"]["name"] == f"aegean-{name}"
    if ballot["winner"]["planner"].startswith("slurm-"):
        session = ballot["winner"]["session"]
        assert f"Comment={name}" in slurm.check_output(f"scontrol -o show job | grep JobName={session}")


def test_a_job_of_caesar_rest_is_cancelled(rest: httpx.Client, voter: httpx.Client, image: str) -> None:
    name = uuid4().hex
    number = rest.post(f"{SLURM}/job/submit", json=body(name, image)).json()["job_id"]
    assert rest.delete(f"{SLURM}/job/{number}").status_code == 200
    assert ended(rest, number)[0]["job_state"] == "CANCELLED"


def test_what_no_platform_can_fails_and_says_why(rest: httpx.Client, image: str, planner: Host) -> None:
    name = uuid4().hex
    number = rest.post(f"{SLURM}/job/submit", json=body(name, image, cpus_per_task=32)).json()["job_id"]
    job, _ = ended(rest, number)
    assert job["job_state"] == "FAILED"
    assert job["state_reason"].count("32 cores asked") == 6
    assert "32 cores asked" in planner.check_output(f"cat {ROOT}/jobs/{USER}/job_{name}/job_{name}.ballot.json")


def test_a_restarted_voter_knows_the_jobs(rest: httpx.Client, image: str, planner: Host) -> None:
    """Killed with a job on its way: the job ends as if nothing had been, under the same number."""
    number = rest.post(f"{SLURM}/job/submit", json=body(uuid4().hex, image)).json()["job_id"]
    planner.check_output("systemctl kill -s KILL caesar-voter.service")
    deadline = time.monotonic() + 60
    while True:
        try:
            rest.get("/health").raise_for_status()
        except httpx.HTTPError:
            assert time.monotonic() < deadline, "the voter did not come back"
            time.sleep(0.2)  # nothing tells when a killed service is back
        else:
            break
    assert ended(rest, number)[0]["job_state"] == "COMPLETED"


@pytest.fixture
def only_namespaces(planner: Host, address: dict[str, str]) -> Iterator[None]:
    """The planners of Slurm's accounts are stopped: only namespaces can win."""
    with stopped(planner, address, "slurm"):
        yield


def test_a_job_of_caesar_rest_is_won_by_a_namespace(
    only_namespaces: None,
    rest: httpx.Client,
    voter: httpx.Client,
    image: str,
    planner: Host,
) -> None:
    """Same script, same paths, same outputs: caesar-rest can not tell that its Slurm was a Kubernetes."""
    name = uuid4().hex
    number = rest.post(f"{SLURM}/job/submit", json=body(name, image)).json()["job_id"]
    job, _ = ended(rest, number)
    assert (job["job_state"], job["exit_code"]) == ("COMPLETED", 0), job
    ballot = voter.get(f"/ballots/{name}").json()
    assert ballot["winner"]["planner"].startswith("k8s-namespace-")
    assert {each["verdict"] for each in ballot["answers"] if each["planner"].startswith("slurm-")} == {"UNREACHABLE"}
    assert (ballot["trace"], ballot["state"]) == (name, "COMPLETED")
    listed = planner.check_output(f"ls {ROOT}/jobs/{USER}/job_{name}").split()
    for beginning in ("catalog-", "catalog_fitcomp-", "plot_", "ds9-", f"job_{name}.log", f"job_{name}.ballot.json"):
        assert any(each.startswith(beginning) for each in listed), (beginning, listed)
    assert planner.check_output(f"grep -c . {ROOT}/jobs/{USER}/job_{name}/job_{name}.log") != "0"
