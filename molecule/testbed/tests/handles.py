"""Where the tests' testbed is and what it is to have."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import testinfra
import yaml
from testinfra.host import Host

PROJECT = Path(__file__).parents[3]
NAME = os.environ.get("CAESAR_TESTBED", "caesar-test")
STATE = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "caesar-testbed" / NAME
INVENTORY = PROJECT / "inventories" / os.environ.get("CAESAR_INVENTORY", "local")
_DESCRIBED: dict[str, Any] = yaml.safe_load((INVENTORY / "group_vars/all/platforms.yml").read_text())
SIZES: dict[str, dict[str, int]] = _DESCRIBED["desktop_sizes"]
PHYSICAL: dict[str, dict[str, Any]] = _DESCRIBED["physical_platforms"]
PLATFORMS: list[dict[str, Any]] = _DESCRIBED["virtual_platforms"]


def members(group: str) -> list[str]:
    """Name the machines of a group of the inventory."""
    groups = yaml.safe_load((INVENTORY / "hosts.yml").read_text())["all"]["children"]
    return [str(name) for name in groups[group]["hosts"]]


def of_group(group: str) -> str:
    """Name the first machine of a group of the inventory."""
    return members(group)[0]


def as_operator() -> dict[str, str]:
    """The environment of somebody who types ansible-playbook: without the colours and more that molecule sets."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))}


def machine(name: str) -> Host:
    """A machine by ssh, with the testbed's own keys."""
    return testinfra.get_host(f"ssh://{name}", ssh_config=str(STATE / "ssh_config"))


def answering(address: dict[str, str], name: str, timeout: float = 60) -> None:
    """Wait until a planner answers: systemd starts one anew a second after it was killed."""
    port = next(platform["port"] for platform in PLATFORMS if platform["name"] == name)
    deadline = time.monotonic() + timeout
    while True:
        try:
            httpx.get(f"http://{address['planner']}:{port}/health", timeout=5).raise_for_status()
        except httpx.HTTPError:
            assert time.monotonic() < deadline, f"planner {name} did not come back"
            time.sleep(0.2)  # nothing tells when a killed service is back
        else:
            return


@contextmanager
def stopped(planner: Host, address: dict[str, str], kind: str) -> Iterator[None]:
    """Without the planners of one kind of platform, which are back afterwards."""
    names = [each["name"] for each in PLATFORMS if PHYSICAL[each["physical_platform"]]["kind"] == kind]
    units = " ".join(f"planner@{name}.service" for name in names)
    planner.check_output(f"systemctl stop {units}")
    try:
        yield
    finally:
        planner.check_output(f"systemctl start {units}")
        for name in names:
            answering(address, name)


def playbook(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook on the tests' testbed, as its operator would."""
    return subprocess.run(
        [PROJECT / ".venv/bin/ansible-playbook", "-i", INVENTORY, "-e", f"testbed_name={NAME}", name, *arguments],
        cwd=PROJECT,
        env=as_operator(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
