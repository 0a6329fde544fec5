"""Slurm goes three major releases up with its machines' Debian, and back to the copies from before.

It runs after the others of this scenario, by its name, and leaves the release that it has found.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from handles import STATE, members
from rebuilding import ASSOCIATIONS, MINUTES, made_at, play
from slurm_program import driver, winner
from testinfra.host import Host

Command = Callable[..., subprocess.CompletedProcess[str]]
NEWER = ("-e", "local_machines_suite=forky")
ACCOUNTING = "sacct -aXnP -S now-7days -o jobid,jobname,account,state,exitcode,alloctres"
pytestmark = [MINUTES, pytest.mark.timeout(2400)]


@dataclass(frozen=True)
class Before:
    """What was recorded before the upgrade."""

    ballot: str
    smoke: str
    accounting: str
    associations: str
    copies: Path


def well(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    return run.stdout


def smoke_job() -> str:
    return str(json.loads((STATE / "smoke" / "ballot.json").read_text())["winner"]["session"])


def nothing_to_do(*arguments: str) -> None:
    recap = well(play("site.yml", *arguments)).partition("PLAY RECAP")[2]
    assert recap.count("changed=0") == 1 + len(members("local_machines")), recap


@pytest.fixture(scope="module")
def before(slurm: Host, caesar_vote: Command, fits: Path, tmp_path_factory: pytest.TempPathFactory) -> Before:
    """A testbed that was upgraded, and what it had."""
    outdir = str(tmp_path_factory.mktemp("outputs"))
    ballot = json.loads(
        well(caesar_vote("run", "--json", "--only", "slurm-account-001", "--outdir", outdir, str(fits)))
    )
    accounting, associations = slurm.check_output(ACCOUNTING), slurm.check_output(ASSOCIATIONS)
    assert slurm.check_output("sacctmgr --version").split()[1].startswith("24.11.")
    machines, smoke = {name: made_at(name) for name in members("local_machines")}, smoke_job()
    well(play("playbooks/upgrade.yml", *NEWER, "-e", "confirm=yes"))
    assert not [name for name, was in machines.items() if made_at(name) == was]
    return Before(ballot["id"], smoke, accounting, associations, max((STATE / "backups").glob("upgrade-*")))


def test_slurm_goes_three_majors_up_with_all_that_was_recorded(
    before: Before, slurm: Host, planner: Host, caesar_vote: Command, fits: Path, tmp_path: Path
) -> None:
    assert slurm.check_output("sacctmgr --version").split()[1].startswith("26.05.")
    assert slurm.check_output(ASSOCIATIONS) == before.associations
    # The smoke job ran once more, since its machines are others.
    later = slurm.check_output(ACCOUNTING)
    assert later.startswith(before.accounting)
    assert smoke_job() != before.smoke
    assert set(slurm.check_output("sinfo -h -N -o %t").split()) == {"idle"}
    well(caesar_vote("outputs", "--outdir", str(tmp_path / "old"), before.ballot))
    only = ["--only", "slurm-account-001"]
    run = caesar_vote("run", "--json", *only, "--outdir", str(tmp_path / "new"), str(fits))
    _, account, session = winner(run)
    assert driver(planner, account, session).endswith("; ".join(["COMPLETED 1"] * 2))
    nothing_to_do(*NEWER)


def test_a_way_back_that_nobody_asked_for_is_refused(before: Before) -> None:
    machines = {name: made_at(name) for name in members("local_machines")}
    for name in ("site.yml", "playbooks/upgrade.yml"):
        run = play(name, "-e", "confirm=yes")
        assert run.returncode != 0
        assert "Nothing was changed" in run.stdout
        assert "is 14 and would go back to 13" in " ".join(run.stdout.split())
    # Nor are the copies put on what is newer than they are.
    run = play("playbooks/revert.yml", *NEWER, "-e", f"copies={before.copies}", "-e", "confirm=yes")
    assert run.returncode != 0
    assert "copied from Debian 13, and the machine would have Debian 14" in " ".join(run.stdout.split())
    assert {name: made_at(name) for name in machines} == machines


def test_the_copies_from_before_are_put_back(
    before: Before, slurm: Host, caesar_vote: Command, fits: Path, tmp_path: Path
) -> None:
    only = ["--only", "slurm-account-001"]
    later, _, session = winner(caesar_vote("run", "--json", *only, "--outdir", str(tmp_path / "later"), str(fits)))
    well(play("playbooks/revert.yml", "-e", f"copies={before.copies}", "-e", "confirm=yes"))
    assert slurm.check_output("sacctmgr --version").split()[1].startswith("24.11.")
    assert slurm.check_output(ASSOCIATIONS) == before.associations
    assert slurm.check_output(ACCOUNTING).startswith(before.accounting)
    assert session not in slurm.check_output(ACCOUNTING)
    # What came after the copies is known to nobody, and lies beside them.
    assert caesar_vote("outputs", "--outdir", str(tmp_path / "gone"), later["id"]).returncode != 0
    kept = max((STATE / "backups").glob("revert-*"))
    assert {"planner-ledgers.tar", "slurm-slurm.tar"} <= {file.name for file in kept.iterdir()}
    well(caesar_vote("outputs", "--outdir", str(tmp_path / "old"), before.ballot))
    well(caesar_vote("run", "--json", *only, "--outdir", str(tmp_path / "new"), str(fits)))
    nothing_to_do()
