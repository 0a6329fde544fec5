"""Machines are made anew around their volumes: what was recorded stays, and what runs there is waited for.

It runs after the others of this scenario, by its name.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from handles import INVENTORY, NAME, PROJECT, as_operator, machine, of_group
from test_slurm import ended, submit
from testinfra.host import Host

Command = Callable[..., subprocess.CompletedProcess[str]]
COMPUTE = "compute1"


def rebuild(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROJECT / ".venv/bin/ansible-playbook", "playbooks/rebuild.yml", "-i", INVENTORY, "-e", f"testbed_name={NAME}",
         *arguments],
        cwd=PROJECT, env=as_operator(), capture_output=True, text=True, check=False, timeout=900,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def made_at(name: str) -> str:
    """When a machine was made: its host key is written then."""
    return machine(name).check_output("stat --format=%y /etc/ssh/ssh_host_ed25519_key")


def test_what_cannot_be_made_anew_is_said_first() -> None:
    for named, said in (("nope", "no machine and no group called nope"), ("localhost", "is not made by this testbed")):
        run = rebuild("-e", f"machine={named}", "-e", "confirm=yes")
        assert run.returncode != 0
        assert said in " ".join(run.stdout.split())
    before = made_at(COMPUTE)
    assert rebuild("-e", f"machine={COMPUTE}", "-e", "confirm=no").returncode != 0
    assert made_at(COMPUTE) == before


@pytest.mark.skipif("CAESAR_REBUILD" not in os.environ, reason="takes minutes: CAESAR_REBUILD=1 runs it")
@pytest.mark.timeout(1200)
def test_rebuilt_machines_keep_what_was_recorded(
    planner: Host, slurm: Host, caesar_vote: Command, fits: Path, tmp_path: Path
) -> None:
    services = of_group("planners")
    first = caesar_vote("run", "--json", "--only", "slurm-account-001", "--outdir", str(tmp_path / "a"), str(fits))
    assert first.returncode == 0, first.stdout + first.stderr
    job = submit(planner, "slurm-account-002", "--mem=100M --time=5 --nodelist=desktop-1", "sleep 20")
    associations = slurm.check_output("sacctmgr -nP show assoc format=account,user,grptres,maxtres,maxwall")
    before = {name: made_at(name) for name in (COMPUTE, services)}
    run = rebuild("-e", f"machine={COMPUTE},{services}", "-e", "confirm=yes", "-e", "drain_timeout=120")
    assert run.returncode == 0, run.stdout[-6000:]
    for name, was in before.items():
        assert made_at(name) != was, f"{name} is the old one"
    # What ran there was let end.
    assert ended(planner, job) == "COMPLETED"
    assert slurm.check_output("sacctmgr -nP show assoc format=account,user,grptres,maxtres,maxwall") == associations
    states = set(slurm.check_output("sinfo -h -N -o %t").split())
    assert states == {"idle"}, states
    # Ballots, ledgers and outputs are known to the new voter and the new planners.
    ballot = json.loads(first.stdout)["id"]
    again = caesar_vote("outputs", "--outdir", str(tmp_path / "b"), ballot)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {file.name for file in (tmp_path / "a").iterdir()} == {file.name for file in (tmp_path / "b").iterdir()}
