"""Slurm goes three major releases up with its machines' Debian, and back to the copies from before.

It runs after the others of this scenario, by its name, and leaves the release that it has found.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import astronomer
import httpx
import pytest
from astronomer import CAESAR_REST, Astronomer, arrive
from handles import STATE, members
from rebuilding import ASSOCIATIONS, MINUTES, kubernetes_records, made_at, play, write_down
from slurm_program import driver, winner
from testinfra.host import Host

Command = Callable[..., subprocess.CompletedProcess[str]]
rest = astronomer.rest
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
    objects: dict[str, Any]
    somebody: Astronomer
    documents: dict[str, Any]


def well(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    return run.stdout


def smoke_job() -> str:
    return str(json.loads((STATE / "smoke" / "ballot.json").read_text())["winner"]["session"])


def number_of(voter: httpx.Client, job: str) -> int:
    """The number by which caesar-rest asks the voter for one of its jobs."""
    return int(voter.get(f"/ballots/{job}").raise_for_status().json()["job"]["id"])


def nothing_to_do(*arguments: str) -> None:
    recap = well(play("site.yml", *CAESAR_REST, *arguments)).partition("PLAY RECAP")[2]
    assert recap.count("changed=0") == 1 + len(members("local_machines")), recap


@pytest.fixture(scope="module")
def before(
    slurm: Host, kube: Host, kubectl: Callable[[str], Any], rest: httpx.Client, caesar_vote: Command, fits: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Before:  # fmt: skip
    """A testbed that was upgraded, and what it had."""
    outdir = str(tmp_path_factory.mktemp("outputs"))
    ballot = json.loads(
        well(caesar_vote("run", "--json", "--only", "slurm-account-001", "--outdir", outdir, str(fits)))
    )
    write_down(kube, "before-majors")
    somebody = arrive(rest, fits)
    objects, documents = kubernetes_records(kubectl), somebody.documents()
    accounting, associations = slurm.check_output(ACCOUNTING), slurm.check_output(ASSOCIATIONS)
    assert slurm.check_output("sacctmgr --version").split()[1].startswith("24.11.")
    machines, smoke = {name: made_at(name) for name in members("local_machines")}, smoke_job()
    well(play("playbooks/upgrade.yml", *CAESAR_REST, *NEWER, "-e", "confirm=yes"))
    assert not [name for name, was in machines.items() if made_at(name) == was]
    copies = max((STATE / "backups").glob("upgrade-*"))
    return Before(ballot["id"], smoke, accounting, associations, copies, objects, somebody, documents)


def test_slurm_goes_three_majors_up_with_all_that_was_recorded(
    before: Before, slurm: Host, planner: Host, kubectl: Callable[[str], Any], caesar_vote: Command, fits: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
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
    assert kubernetes_records(kubectl).items() >= before.objects.items()
    assert before.somebody.documents() == before.documents
    before.somebody.await_end(before.somebody.submit())
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
    before: Before, slurm: Host, kube: Host, kubectl: Callable[[str], Any], rest: httpx.Client, voter: httpx.Client,
    caesar_vote: Command, fits: Path, tmp_path: Path,
) -> None:  # fmt: skip
    only = ["--only", "slurm-account-001"]
    later, _, session = winner(caesar_vote("run", "--json", *only, "--outdir", str(tmp_path / "later"), str(fits)))
    write_down(kube, "after-majors")
    later_one = arrive(rest, fits)
    objects, documents, number = kubernetes_records(kubectl), later_one.documents(), number_of(voter, later_one.job)
    well(play("playbooks/revert.yml", *CAESAR_REST, "-e", f"copies={before.copies}", "-e", "confirm=yes"))
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
    # Kubernetes and documents are no part of them: what came after them is there, but for the voter's ballot of it.
    assert kubernetes_records(kubectl).items() >= objects.items() > before.objects.items()
    assert before.somebody.documents() == before.documents
    assert later_one.documents() == documents
    assert voter.get(f"/ballots/{before.somebody.job}").status_code == 200
    assert voter.get(f"/ballots/{later_one.job}").status_code == 404
    # Nor are its numbers given again, by which caesar-rest knows its jobs.
    again = later_one.submit()
    later_one.await_end(again)
    assert number_of(voter, again) > number
    nothing_to_do()
