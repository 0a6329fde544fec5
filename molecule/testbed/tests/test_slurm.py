"""The Slurm that was put up keeps its accounts apart, its limits enforced and its nodes clean."""

from __future__ import annotations

import time

import pytest
from handles import PHYSICAL, PLATFORMS, SIZES, machine, members
from testinfra.host import Host

ACCOUNTS = [platform for platform in PLATFORMS if PHYSICAL[platform["physical_platform"]]["kind"] == "slurm"]
[CLUSTER] = [physical for physical in PHYSICAL.values() if physical["kind"] == "slurm"]


def submit(planner: Host, account: str, options: str, command: str) -> str:
    """Submit from the planner machine, as the account's own user; returns the job's id."""
    run = planner.run(
        f"cd /mnt/storage/jobs/{account} && sudo -u {account} sbatch --parsable -o %j.log {options} --wrap {command!r}"
    )
    assert run.rc == 0, run.stderr
    return run.stdout.strip().split(";")[0]


def ended(planner: Host, job: str, timeout: float = 120) -> str:
    """The state that accounting has of a job, once it is an end state."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        state = planner.check_output(f"sacct -XnP -j {job} -o state").split()
        if state and state[0] not in {"PENDING", "RUNNING", "COMPLETING"}:
            return state[0]
        time.sleep(0.2)  # accounting is told of an end by a message that has no waiter
    raise AssertionError(f"job {job} did not end within {timeout} s: {state}")


def test_every_virtual_node_is_idle(slurm: Host) -> None:
    states = slurm.check_output("sinfo -h -N -o '%N %t %c %m'").splitlines()
    assert {line.split()[1] for line in states} == {"idle"}, states
    wanted = [SIZES[size]["cores"] for size, count in CLUSTER["nodes"].items() for _ in range(count)]
    assert sorted(int(line.split()[2]) for line in states) == sorted(wanted)


@pytest.fixture(scope="module")
def jobs(planner: Host) -> dict[str, str]:
    """Jobs of the tests below by what they are for, all submitted before any is waited for."""
    account = "slurm-account-001"
    greedy = 'python3 -c "held = bytearray(400 << 20); held[::4096] = bytes([1]) * len(held[::4096])"'
    leaving = "setsid nohup sleep 4242 >/dev/null 2>&1 & sleep 1"
    own = {
        platform["name"]: submit(planner, platform["name"], "--mem=100M --time=1", "id -un") for platform in ACCOUNTS
    }
    return own | {
        "greedy": submit(planner, account, "--mem=200M --time=1", greedy),
        "leaving": submit(planner, account, "--mem=100M --time=1", leaving),
    }


@pytest.mark.parametrize("platform", ACCOUNTS, ids=lambda platform: platform["name"])
def test_an_accounts_job_runs_as_its_user_and_is_accounted(planner: Host, jobs: dict[str, str], platform: dict) -> None:
    name = platform["name"]
    job = jobs[name]
    assert ended(planner, job) == "COMPLETED"
    assert planner.check_output(f"cat /mnt/storage/jobs/{name}/{job}.log") == name
    assert planner.check_output(f"sacct -XnP -j {job} -o account") == name


@pytest.mark.parametrize("platform", ACCOUNTS, ids=lambda platform: platform["name"])
def test_what_no_job_may_ask_for_is_refused(planner: Host, platform: dict) -> None:
    name, limits = platform["name"], platform["limits"]
    asked = f"--cpus-per-task={limits['cores'] + 1} --mem=1G"
    run = planner.run(f"cd /tmp && sudo -u {name} sbatch {asked} --wrap true")
    assert run.rc != 0
    assert "violates accounting/QOS policy" in run.stderr or "More processors requested" in run.stderr
    run = planner.run(f"cd /tmp && sudo -u {name} sbatch --mem={limits['memory_gib'] + 1}G --wrap true")
    assert run.rc != 0


def test_an_account_is_closed_to_the_others(planner: Host) -> None:
    run = planner.run("cd /tmp && sudo -u slurm-account-001 sbatch -A slurm-account-002 --wrap true")
    assert run.rc != 0
    assert "Invalid account" in run.stderr


def test_memory_is_enforced(planner: Host, jobs: dict[str, str]) -> None:
    assert ended(planner, jobs["greedy"]) == "OUT_OF_MEMORY"


def test_processes_that_leave_their_session_end_with_the_job(planner: Host, jobs: dict[str, str]) -> None:
    nodes = [machine(name) for name in members("slurm_nodes")]
    assert ended(planner, jobs["leaving"]) == "COMPLETED"
    deadline = time.monotonic() + 60
    while any(node.run("pgrep -f 'sleep 4242'").rc == 0 for node in nodes):
        assert time.monotonic() < deadline, "the escaped process lives on"
        time.sleep(0.2)  # the kill follows the job's end by itself


def test_accounting_calls_are_quick(slurm: Host) -> None:
    """Without quick acknowledgements each round trip to slurmdbd waits 84 ms; the least of 9 is without noise."""
    seconds = []
    for _ in range(9):
        run = slurm.check_output("bash -c 'TIMEFORMAT=%R; time sacctmgr -nP show assoc format=account >/dev/null' 2>&1")
        seconds.append(float(run.split()[-1]))
    assert min(seconds) < 0.15
