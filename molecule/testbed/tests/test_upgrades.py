"""What would upgrade a testbed that is up although nobody asked for it is refused before anything is changed."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from handles import STATE, machine, members, of_group
from rebuilding import made_at, play

IMAGES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "caesar-testbed/machine-image"


@pytest.fixture
def other_release() -> tuple[str, str, str]:
    """The machines' release of Debian, and the name and number of another."""
    here = str(machine(of_group("slurm_controllers")).system_info.release).partition(".")[0]
    return (here, "bookworm", "12") if here == "13" else (here, "trixie", "13")


@pytest.mark.parametrize("arguments", [["site.yml"], ["playbooks/rebuild.yml", "-e", "machine=planner"]])
def test_another_release_of_debian_is_not_put_under_what_is_recorded(
    arguments: list[str], other_release: tuple[str, str, str]
) -> None:
    here, suite, number = other_release
    names = members("local_machines")
    before = {name: made_at(name) for name in names}
    # Those that are about machines: others may be written by somebody else meanwhile.
    handles = {STATE / name for name in ("machines.json", "ssh_config", "known_hosts", "containers.conf")}
    written = {path: path.stat().st_mtime_ns for path in handles}
    cached = sorted(IMAGES.iterdir())
    slurm = machine(of_group("slurm_controllers")).package("slurmctld").version

    run = play(*arguments, "-e", f"local_machines_suite={suite}", "-e", "confirm=yes")

    assert run.returncode != 0
    said = " ".join(run.stdout.split())
    assert "Nothing was changed: this upgrade was not asked for" in said
    assert (
        f"{', '.join(sorted(names))} would be made anew with Debian {number}, and have Debian {here}: Slurm {slurm}"
        in said
    )
    assert "playbooks/upgrade.yml refuses it too" in said
    assert "-e testbed_name=other" in said
    assert not re.search(r"changed=[1-9]", run.stdout)
    assert {name: made_at(name) for name in names} == before
    assert {path: path.stat().st_mtime_ns for path in handles} == written
    assert sorted(IMAGES.iterdir()) == cached
    assert "drain" not in machine(of_group("slurm_controllers")).check_output("sinfo -h -N -o %T")
