#!/usr/bin/env python3
"""A run of site.yml with nothing to do: how long it takes, what it changes, and which writes reach the clusters.

Writes are not asked of Ansible but of the clusters: the audit log of the API server (every write verb by anyone who is
not one of Kubernetes' own components) and slurmdbd's list of transactions.

Usage: benchmarks/no_change.py [--testbed caesar] [--runs 3]
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
#: Kubernetes' own components write all the time: leases, the node's status, events.
OWN = re.compile(r"system:(node:|kube-|apiserver|serviceaccount:kube-system:)")
WRITES = {"create", "update", "patch", "delete", "deletecollection"}


def on(machine: str, state: Path, command: str) -> str:
    """Standard output of a command on a machine of the testbed."""
    run = ["ssh", "-F", str(state / "ssh_config"), machine, command]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout


def kubernetes_writes(state: Path) -> list[str]:
    """Every write that somebody else than Kubernetes itself sent to the API server, as far as its audit log goes."""
    written = []
    for line in on("kube", state, "cat /var/log/kubernetes/audit.log").splitlines():
        event = json.loads(line)
        user = event["user"].get("username", "")
        if event["verb"] in WRITES and not OWN.match(user) and event["stage"] == "ResponseComplete":
            written.append(f"{event['verb']} {event['requestURI']} by {user}")
    return written


def slurm_writes(state: Path) -> list[str]:
    """Every transaction that slurmdbd has recorded."""
    return on("slurm", state, "sacctmgr -nP show transactions").splitlines()


def run_site(testbed: str) -> tuple[float, int]:
    """Seconds and the sum of changed tasks of one run of site.yml."""
    start = time.monotonic()
    command = [PROJECT / ".venv/bin/ansible-playbook", "site.yml", "-e", f"testbed_name={testbed}"]
    run = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)
    return time.monotonic() - start, sum(int(count) for count in re.findall(r"changed=(\d+)", run.stdout))


def main() -> int:
    """Measure and print; the exit code is 1 where anything was changed or written."""
    parser = argparse.ArgumentParser(description="Time a run of site.yml with nothing to do and count what it writes.")
    parser.add_argument("--testbed", default="caesar")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    state = Path.home() / ".local/state/caesar-testbed" / arguments.testbed
    before = kubernetes_writes(state), slurm_writes(state)
    runs = [run_site(arguments.testbed) for _ in range(arguments.runs)]
    after = kubernetes_writes(state), slurm_writes(state)
    new = after[0][len(before[0]) :], after[1][len(before[1]) :]
    seconds = [elapsed for elapsed, _ in runs]
    print(f"runs                      {arguments.runs}")
    print(
        f"seconds                   median {statistics.median(seconds):.1f}, {min(seconds):.1f} to {max(seconds):.1f}"
    )
    print(f"changed tasks             {sum(changed for _, changed in runs)}")
    print(f"writes to Kubernetes      {len(new[0])}")
    print(f"transactions of slurmdbd  {len(new[1])}")
    for line in [*new[0], *new[1]]:
        print(f"  {line}")
    return 1 if any(new) or any(changed for _, changed in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
