"""What the tests share that make machines anew or upgrade them."""

from __future__ import annotations

import os
import subprocess

import pytest
from handles import INVENTORY, NAME, PROJECT, as_operator, machine

ASSOCIATIONS = "sacctmgr -nP show assoc format=account,user,grptres,maxtres,maxwall"
MINUTES = pytest.mark.skipif("CAESAR_REBUILD" not in os.environ, reason="takes minutes: CAESAR_REBUILD=1 runs it")
#: Ends when somebody says so, so that it spans whatever is done meanwhile.
UNTIL_TOLD = "until [ -e stop-$SLURM_JOB_ID ]; do sleep 0.5; done"


def play(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook that may take minutes, as the operator would who answers no question."""
    return subprocess.run(
        [PROJECT / ".venv/bin/ansible-playbook", name, "-i", INVENTORY, "-e", f"testbed_name={NAME}", *arguments],
        cwd=PROJECT,
        env=as_operator(),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        stdin=subprocess.DEVNULL,
    )


def made_at(name: str) -> str:
    """When a machine was made: its host key is written then."""
    return machine(name).check_output("stat --format=%y /etc/ssh/ssh_host_ed25519_key")
