"""What goes with a teardown goes wholly, and what a cleaned cache takes away is missed by nothing that runs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from handles import NAME, STATE, playbook
from test_slurm import ended, submit
from testinfra.host import Host

#: A testbed of one machine beside the tests' own.
OTHER = f"{NAME}-gone"
THEIRS = STATE.parent / OTHER
MACHINE = {"lone": {"host_number": 11, "volumes": {"storage": "/mnt/storage", "own": "/var/lib/own"}}}
ARGUMENTS = ("-e", f"testbed_name={OTHER}", "-e", json.dumps({"local_machines_definitions": MACHINE}))


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def traces(subnet: str) -> dict[str, list[str]]:
    """All that this host still has of the other testbed, by where it was found."""
    podman = {
        what: said("podman", *asked, f"--filter=label=caesar-testbed.name={OTHER}", "--format={{.Name}}").split()
        for what, asked in {"volumes": ("volume", "ls"), "networks": ("network", "ls")}.items()
    }
    containers = said("podman", "ps", "--all", f"--filter=label=caesar-testbed.name={OTHER}", "--format={{.Names}}")
    part = subnet.rpartition(".")[0] + "."
    sockets = Path("/tmp/.caesar-testbed-ssh")
    return podman | {
        "containers": containers.split(),
        "processes": [line for line in said("ps", "-eo", "args").splitlines() if "conmon" in line and OTHER in line],
        "mounts": [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if OTHER in line],
        "routes": [line for line in said("ip", "-4", "route").splitlines() if part in line],
        "rules": [line for line in said("iptables-save").splitlines() if part in line],
        "sockets": [path.name for path in sockets.glob(f"{OTHER}-*")],
        "handles": [str(THEIRS)] if THEIRS.exists() else [],
    }


@pytest.fixture
def subnet() -> Iterator[str]:
    """The network of a testbed beside this one, with one machine."""
    made = playbook("playbooks/machines.yml", *ARGUMENTS)
    try:
        assert made.returncode == 0, made.stdout[-4000:]
        yield str(json.loads((THEIRS / "machines.json").read_text())["subnet"])
    finally:
        # Where the test has failed before it did so.
        if THEIRS.exists() or said("podman", "ps", "--all", "--quiet", f"--filter=label=caesar-testbed.name={OTHER}"):
            playbook("playbooks/teardown.yml", *ARGUMENTS, "-e", "confirm=yes")


def test_nothing_is_left_of_machines_made_here(subnet: str) -> None:
    there = traces(subnet)
    assert [len(there[what]) for what in ("containers", "volumes", "networks", "handles")] == [1, 2, 1, 1]
    assert there["rules"]
    assert there["routes"]
    unasked = playbook("playbooks/teardown.yml", *ARGUMENTS, "-e", "confirm=no")
    assert unasked.returncode != 0
    assert traces(subnet)["containers"] == there["containers"]
    gone = playbook("playbooks/teardown.yml", *ARGUMENTS, "-e", "confirm=yes")
    assert gone.returncode == 0, gone.stdout[-4000:]
    assert {what: found for what, found in traces(subnet).items() if found} == {}


def test_a_testbed_goes_on_when_caches_are_cleaned(
    planner: Host, caesar_vote: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """On a cache of its own: that of this host is wanted by the next run."""
    for name in (
        "kubernetes/0123/manifest.json",
        f"apt-archives/{NAME}-slurm/partial/half.deb",
        "machine-image/1/root",
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / f"apt-archives/{NAME}-slurm/whole.deb").touch()
    cleaned = playbook("playbooks/clean_cache.yml", "-e", f"testbed_cache_dir={tmp_path}")
    assert cleaned.returncode == 0, cleaned.stdout[-4000:]
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    # Machines have these mounted.
    assert left == ["apt-archives", f"apt-archives/{NAME}-slurm", f"apt-archives/{NAME}-slurm/partial"]
    assert said("podman", "ps", f"--filter=label=caesar-testbed.name={NAME}", "--format={{.Names}}").split()
    asked = caesar_vote("ask", "--json")
    assert asked.returncode == 0, asked.stdout + asked.stderr
    job = submit(planner, "slurm-account-001", "--mem=100M --time=1", "true")
    assert ended(planner, job) == "COMPLETED"
