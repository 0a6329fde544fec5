"""What the planners' own program says of jobs on Slurm: shared by tests of its versions."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from testinfra.host import Host

# Run as a platform's user, by the planners' own program: what is under way, and what has ended in accounting.
DRIVER = """
import asyncio, pathlib, subprocess, sys, uuid
from planner_app.planner.config import load_config
from planner_app.platforms.slurm import SACCT_FORMAT, SlurmPlatform, parse_sacct
async def main():
    platform = SlurmPlatform(load_config(pathlib.Path(f"/etc/caesar-planner/{sys.argv[1]}.yml")))
    session = uuid.UUID(sys.argv[2])
    seen = [job for job in (await platform.observe()).jobs if job.session == session]
    found = await platform.find(session)
    # The planner asks accounting only for what squeue has forgotten, after five minutes.
    sacct = ["sacct", "-XnP", f"--name={session}", f"--format={SACCT_FORMAT}"]
    accounted = parse_sacct(subprocess.check_output(sacct, text=True))
    print(*(f"{job.state} {job.cores}" for job in [*seen, found, *accounted]), sep="; ")
asyncio.run(main())
"""


def winner(run: subprocess.CompletedProcess[str]) -> tuple[dict[str, Any], str, str]:
    """The ballot, the platform that won it, and the session there."""
    assert run.returncode == 0, run.stdout + run.stderr
    ballot: dict[str, Any] = json.loads(run.stdout)
    return ballot, ballot["winner"]["planner"], ballot["winner"]["session"]


def driver(planner: Host, account: str, session: str) -> str:
    """What the planners' program says of a session's job: as it observes, as it finds, as accounting has it."""
    path = planner.check_output("readlink -f /opt/caesar/planner-app/current")
    return planner.check_output("cd /tmp && sudo -u %s env PYTHONPATH=%s python3 -c %s %s %s",
                                account, path, DRIVER, account, session)  # fmt: skip
