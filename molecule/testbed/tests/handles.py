"""Where the tests' testbed is and what it is to have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import testinfra
import yaml
from testinfra.host import Host

PROJECT = Path(__file__).parents[3]
NAME = os.environ.get("CAESAR_TESTBED", "caesar-test")
STATE = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "caesar-testbed" / NAME
INVENTORY = PROJECT / "inventories/local/group_vars/all/platforms.yml"
PLATFORMS: list[dict[str, Any]] = yaml.safe_load(INVENTORY.read_text())["virtual_platforms"]


def machine(name: str) -> Host:
    """A machine by ssh, with the testbed's own keys."""
    return testinfra.get_host(f"ssh://{name}", ssh_config=str(STATE / "ssh_config"))
