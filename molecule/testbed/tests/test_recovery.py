"""What happens to machines that go away: all comes back, and what was recorded is still there.

They run last, since they take the machines away under everything else (see conftest.py).
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from handles import NAME, PROJECT, STATE, as_operator, machine
from sessions import ended as session_ended
from sessions import planner_client, python_request, started, stdout, update

MACHINES = ["slurm", "kube", "planner"]
ON_SLURM = "slurm-account-003"
Command = Callable[..., subprocess.CompletedProcess[str]]
#: slurmctld writes a job's change into its StateSaveLocation up to five seconds later (SAVE_MAX_WAIT in its source).
#: One that is killed before takes the job up in the state before the change and tells accounting so.
SAVED = 8.0


def podman(*arguments: str) -> str:
    """Run podman with the testbed's own settings."""
    return subprocess.run(
        ["podman", *arguments],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "CONTAINERS_CONF": str(STATE / "containers.conf")},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout


def records(caesar_vote: Command) -> dict[str, Any]:
    """What must survive: accounting, and the voter's ballots, which name the planners' sessions."""
    accounted = machine("slurm").check_output("sacct -XnP -a -S now-1day -o jobid,account,state")
    associations = machine("slurm").check_output("sacctmgr -nP show assoc format=account,user,grptres,maxtres,maxwall")
    ballots = json.loads(caesar_vote("ballots", "--json", "--limit", "1000").stdout)
    # A job that has not ended yet may do so meanwhile: accounting hears of an end a second or two later.
    # A slurmctld that starts again tells of the ends of the last five minutes once more, without who cancelled (22.05).
    rows = {row.partition(" by ")[0] for row in accounted.splitlines()}
    ended_jobs = {row for row in rows if not row.endswith(("|RUNNING", "|PENDING", "|COMPLETING"))}
    return {"accounted": ended_jobs, "associations": associations, "ballots": ballots}


def uploaded(timeout: float = 240) -> set[str]:
    """The files that caesar-rest's database knows, once it answers."""
    url = yaml.safe_load((STATE / "caesar-rest.yml").read_text())["url"]
    deadline = time.monotonic() + timeout
    while True:
        try:
            answer = httpx.get(f"{url}/fileids", timeout=40, trust_env=False)
            if answer.status_code == 200:
                return {str(each["fileid"]) for each in answer.json()}
            said = f"{answer.status_code} {answer.text}"
        except httpx.HTTPError as error:
            said = repr(error)
        assert time.monotonic() < deadline, said
        time.sleep(0.3)  # its pods have no single end to wait for either


def upload(fits: Path) -> str:
    """Leave a document in that database."""
    url = yaml.safe_load((STATE / "caesar-rest.yml").read_text())["url"]
    with fits.open("rb") as file:
        answer = httpx.post(f"{url}/upload", files={"file": (fits.name, file)}, timeout=40, trust_env=False)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["uuid"])


def usable(caesar_vote: Command, timeout: float = 240) -> None:
    """Wait until all six planners make offers again."""
    deadline = time.monotonic() + timeout
    while True:
        run = caesar_vote("ask", "--json")
        if run.returncode == 0:
            refused = [c["planner"] for c in json.loads(run.stdout)["candidates"] if c["offer"] is None]
            if not refused:
                return
        assert time.monotonic() < deadline, run.stdout + run.stderr
        time.sleep(0.3)  # a machine's start has no single end to wait for


def ended(caesar_vote: Command, ballot: str, timeout: float = 240) -> dict[str, Any]:
    """A ballot once its job has ended, however."""
    deadline = time.monotonic() + timeout
    while True:
        shown: dict[str, Any] = json.loads(caesar_vote("show", "--json", ballot).stdout)
        if shown["state"] in ("COMPLETED", "FAILED", "CANCELLED"):
            return shown
        assert time.monotonic() < deadline, shown
        time.sleep(0.3)  # the voter itself polls once a second


def submitted(caesar_vote: Command, fits: Path) -> dict[str, Any]:
    """The ballot of a job that runs in a namespace."""
    run = caesar_vote("run", "--json", "--no-wait", "--only", "k8s-namespace-003", str(fits))
    ballot: dict[str, Any] = json.loads(run.stdout)
    return ballot


def has_ended(caesar_vote: Command, ballot: dict[str, Any]) -> None:
    """See that what ran when machines went away has an end, and goes on nowhere behind its planner's back."""
    ended(caesar_vote, ballot["id"])
    session = ballot["winner"]["session"]
    assert machine("kube").check_output(f"kubectl get jobs -A -l caesar-testbed/session={session} -o name") == ""


@pytest.fixture
def on_slurm(address: dict[str, str]) -> Iterator[httpx.Client]:
    """A client of a planner in front of Slurm."""
    with planner_client(address, ON_SLURM) as client:
        yield client


def begun(client: httpx.Client) -> str:
    """A session whose job runs in Slurm, for longer than any test."""
    code = "import time; print('begun', flush=True); time.sleep(900)"
    session = started(client, python_request(code, duration="PT20M"))
    log = f"/mnt/storage/jobs/{ON_SLURM}/{session}/stdout.log"
    machine("planner").check_output(f"timeout 60 sh -c 'until grep -qs begun {log}; do sleep 0.2; done'")
    return session


def ended_as(client: httpx.Client, session: str, phase: str, state: str) -> None:
    """See that a job of Slurm ended with its machine, that all say so, and that it was not begun again."""
    over = session_ended(client, session)
    assert over["phase"] == phase
    assert [one for one in over["meta"]["messages"] if one["message"].startswith(f"the job ended: {state} ")]
    assert stdout(client, session) == "begun\n"
    said = client.get("/capabilities").raise_for_status().json()
    assert (said["live"], said["free"]) == ({"sessions": [], "others": []}, said["quota"])
    slurm = machine("slurm")
    accounted = slurm.check_output(f"sacct -XnP --starttime=now-1hour --name={session} --format=state")
    assert accounted.partition(" by ")[0] == state
    assert slurm.check_output(f"squeue --noheader --account={ON_SLURM}") == ""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MACHINES)
def test_a_restarted_machine_comes_back_by_itself(
    caesar_vote: Command, fits: Path, on_slurm: httpx.Client, name: str
) -> None:
    document = upload(fits)
    running = submitted(caesar_vote, fits) if name == "kube" else None
    session = begun(on_slurm) if name in ("slurm", "planner") else ""
    before = records(caesar_vote)
    podman("restart", f"{NAME}-{name}")
    usable(caesar_vote)
    after = records(caesar_vote)
    assert before["accounted"] <= after["accounted"]
    assert before["associations"] == after["associations"]
    assert before["ballots"]["ballots"][-1] in after["ballots"]["ballots"]
    assert document in uploaded()
    if running is not None:
        has_ended(caesar_vote, running)
    if name == "slurm":
        ended_as(on_slurm, session, "CANCELLED", "CANCELLED")
    elif name == "planner":
        # What runs elsewhere goes on, and is still its planner's.
        assert on_slurm.get(f"/sessions/{session}").raise_for_status().json()["phase"] == "AVAILABLE"
        assert update(on_slurm, session, "CANCELLED")["phase"] in ("RELEASING", "CANCELLED")
        assert session_ended(on_slurm, session)["phase"] == "CANCELLED"


@pytest.mark.timeout(900)  # its run alone may take ten minutes
def test_all_machines_killed_come_back_with_the_next_run(
    caesar_vote: Command, fits: Path, on_slurm: httpx.Client, tmp_path: Path
) -> None:
    session = begun(on_slurm)
    whole = caesar_vote("run", "--json", "--only", "slurm-account-002", "--outdir", str(tmp_path / "a"), str(fits))
    assert whole.returncode == 0, whole.stdout + whole.stderr
    time.sleep(SAVED)
    running = submitted(caesar_vote, fits)
    document = upload(fits)
    before = records(caesar_vote)
    podman("kill", *(f"{NAME}-{name}" for name in MACHINES))
    run = subprocess.run(
        [PROJECT / ".venv/bin/ansible-playbook", "site.yml", "-e", f"testbed_name={NAME}"],
        cwd=PROJECT,
        env=as_operator(),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-4000:]
    usable(caesar_vote)
    after = records(caesar_vote)
    assert before["accounted"] <= after["accounted"]
    assert before["associations"] == after["associations"]
    ids = {ballot["id"] for ballot in after["ballots"]["ballots"]}
    assert {ballot["id"] for ballot in before["ballots"]["ballots"]} <= ids
    assert document in uploaded()
    # A finished session is still known to its planner, outputs included.
    again = caesar_vote("outputs", "--outdir", str(tmp_path / "b"), json.loads(whole.stdout)["id"])
    assert again.returncode == 0, again.stdout + again.stderr
    assert {file.name for file in (tmp_path / "a").iterdir()} == {file.name for file in (tmp_path / "b").iterdir()}
    has_ended(caesar_vote, running)
    ended_as(on_slurm, session, "FAILED", "NODE_FAIL")
