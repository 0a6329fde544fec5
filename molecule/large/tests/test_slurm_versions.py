"""What Slurm 24.11 does otherwise than 22.05 is no matter to the module of the accounts and to the planners."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from handles import INVENTORY, NAME, PLATFORMS, PROJECT, STATE, as_operator
from slurm_program import driver, winner
from testinfra.host import Host

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_this_is_another_slurm(slurm: Host) -> None:
    assert slurm.check_output("sacctmgr --version").split()[1].startswith("24.11.")


def test_every_service_runs(slurm: Host, planner: Host) -> None:
    planners = ["munge", "caesar-voter", *(f"planner@{p['name']}" for p in PLATFORMS)]
    for where, units in ((slurm, ["munge", "mariadb", "slurmdbd", "slurmctld"]), (planner, planners)):
        assert set(where.check_output(f"systemctl is-active {' '.join(units)}").split()) == {"active"}
        # None of them came up only at a second attempt.
        assert set(where.check_output(f"systemctl show -p NRestarts --value {' '.join(units)}").split()) == {"0"}


def test_accounts_are_foretold_made_and_left_alone() -> None:
    run = subprocess.run(
        ["ansible-playbook", f"--inventory={INVENTORY}", f"--extra-vars=testbed_name={NAME}", "../accounts.yml"],
        cwd=Path(__file__).parent,
        env=as_operator() | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")},
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_job_ran_that_was_voted_on(slurm: Host, planner: Host) -> None:
    """The smoke job of the converge step: offered, submitted, followed and collected by a planner."""
    ballot = json.loads((STATE / "smoke" / "ballot.json").read_text())
    account, session = ballot["winner"]["planner"], ballot["winner"]["session"]
    assert slurm.check_output(f"sacct -XnP --name {session} -o account,state -A {account}") == f"{account}|COMPLETED"
    assert driver(planner, account, session).endswith("; ".join(["COMPLETED 1"] * 2))


def test_a_job_is_cancelled(caesar_vote: Command, fits: Path, planner: Host) -> None:
    only = ["--only", "slurm-account-001"]
    ballot, account, session = winner(caesar_vote("run", "--json", "--no-wait", *only, "--app", "aegean", str(fits)))
    assert caesar_vote("cancel", ballot["id"]).returncode == 0
    deadline = time.monotonic() + 60
    while (said := driver(planner, account, session)) != "; ".join(["CANCELLED 1"] * 3):
        assert time.monotonic() < deadline, said
        time.sleep(0.5)  # slurmctld answers before the job's processes are gone
