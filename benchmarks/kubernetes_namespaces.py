#!/usr/bin/env python3
"""Many namespaces at once: how long the module takes for new ones, changed ones and none, and what it writes.

Works on namespaces `bench-NUMBER` with labels of their own (instance `bench`), which are deleted at the end. The module
is run through Ansible, so a figure is what an operator waits for. Writes are counted in the API server's audit log. Use
a testbed that nobody works on.

Usage: benchmarks/kubernetes_namespaces.py --testbed NAME [--inventory DIRECTORY] [--namespaces 300]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from no_change import PROJECT, kubernetes_writes

PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - name: Set the namespaces
      kubernetes_namespaces:
        kubeconfig: "{{ testbed_state_dir }}/kubeconfig"
        instance: bench
        storage_path: /mnt/storage
        namespaces: "{{ bench_namespaces }}"
        max_deletions: 100000
"""


def namespaces(count: int, sets: int, step: int = 0) -> list[dict[str, Any]]:
    """A list of namespaces whose quotas are of so many different sets."""
    return [
        {
            "name": f"bench-{number:04}",
            "uid": 30000 + number,
            "quota": {"cores": 4 + number % sets + step, "memory_gib": 16 + number % sets + step, "disc_gb": 250},
            "limits": {
                "cores": 4,
                "memory_gib": 8 + number % sets,
                "walltime_minutes": 60 * (1 + number % sets + step),
                "jobs": 4 + step,
            },
            "cpu_allocation_ratio": 32,
        }
        for number in range(count)
    ]


class Bench:
    """Runs the module on the Kubernetes of one testbed."""

    def __init__(self, testbed: str, inventory: str) -> None:
        self.testbed, self.inventory = testbed, inventory
        self.state = Path.home() / ".local/state/caesar-testbed" / testbed

    def module(self, wanted: list[dict[str, Any]]) -> float:
        """Seconds that a run with this list takes, Ansible's own start included."""
        with tempfile.TemporaryDirectory() as directory:
            playbook, variables = Path(directory, "bench.yml"), Path(directory, "vars.json")
            playbook.write_text(PLAYBOOK)
            variables.write_text(json.dumps({"testbed_name": self.testbed, "bench_namespaces": wanted}))
            command = [PROJECT / ".venv/bin/ansible-playbook", "-i", self.inventory, "-e", f"@{variables}", playbook]
            start = time.monotonic()
            run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
            if run.returncode:
                sys.exit(run.stdout[-3000:] + run.stderr[-1000:])
            return time.monotonic() - start

    def row(self, what: str, wanted: list[dict[str, Any]]) -> None:
        """Run, and print what it took and how much was written meanwhile to the benchmark's objects."""
        before = len(self.writes())
        seconds = self.module(wanted)
        print(f"{what:36} {seconds:6.1f} s {len(self.writes()) - before:6} writes", flush=True)

    def writes(self) -> list[str]:
        """What was written to the benchmark's objects, as far as the audit log goes."""
        return [line for line in kubernetes_writes(self.state) if "bench-" in line and "system:" not in line]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time namespaces by the hundred.")
    parser.add_argument("--testbed", required=True)
    parser.add_argument("--inventory", default="inventories/local")
    parser.add_argument("--namespaces", type=int, default=300)
    arguments = parser.parse_args()
    bench = Bench(arguments.testbed, arguments.inventory)
    new, changed = namespaces(arguments.namespaces, 97), namespaces(arguments.namespaces, 10, step=100)
    few = new[:6]
    try:
        bench.row(f"{len(few)} new", few)
        bench.row(f"{len(few)} no change", few)
        bench.module([])
        bench.row(f"{len(new)} new, with all their objects", new)
        bench.row(f"{len(new)} no change", new)
        bench.row(f"{len(new)} all changed to one of ten sets", changed)
        bench.row(f"{len(new)} deleted", [])
    finally:
        bench.module([])
    return 0


if __name__ == "__main__":
    sys.exit(main())
