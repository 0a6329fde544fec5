#!/usr/bin/env python3
"""How a run with nothing to do grows with the list of platforms, and whether it writes anything.

Two rows: the stage `quotas` with 6 and with 300 platforms, and all of site.yml with 6 and with 60. Those above the
inventory's own are half Slurm accounts, half Kubernetes namespaces, have no planner (`planner: false`), and are taken
away again at the end. The list stands where people have it, in an inventory, here a copy of inventories/local; what is
given by `-e @FILE` Ansible copies at its start, which takes longer than to read it. Writes are asked of the clusters,
as in no_change.py. Use a testbed that nobody works on: other work shows in the times, and other people's writes in the
counts.

Usage: benchmarks/growth.py --testbed NAME [--runs 5] [--stage 300] [--site 60] [--keep]
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from no_change import PROJECT, kubernetes_writes, slurm_writes

INVENTORY = PROJECT / "inventories/local"
PLATFORMS = "group_vars/all/platforms.yml"
QUOTAS = ["--tags", "quotas"]
#: The list is made shorter on purpose here.
MANY = ["-e", "slurm_accounts_max_deletions=100000", "-e", "kubernetes_namespaces_max_deletions=100000"]


class Testbed:
    """A testbed whose list of platforms is made longer and shorter."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.state = Path.home() / ".local/state/caesar-testbed" / name
        self.inventory = directory / "inventory"
        shutil.copytree(INVENTORY, self.inventory)
        self.described: dict[str, Any] = yaml.safe_load((INVENTORY / PLATFORMS).read_text())
        self.count = len(self.described["virtual_platforms"])

    def platforms(self, count: int) -> list[dict[str, Any]]:
        """The inventory's platforms and so many more that there are `count`, without planners."""
        own: list[dict[str, Any]] = self.described["virtual_platforms"]
        kinds = {
            kind: next(
                name for name, cluster in self.described["physical_platforms"].items() if cluster["kind"] == kind
            )
            for kind in ("slurm", "kubernetes")
        }
        return own + [
            {
                "name": f"bench-{number:04}",
                "physical_platform": kinds["slurm" if number % 2 else "kubernetes"],
                "uid": 30000 + number,
                "port": 30000 + number,
                "planner": False,
                "quota": ("desktop", "desktop-x2", "desktop-x4")[number % 3],
                "limits": {"cores": 1 + number % 4, "memory_gib": 8, "walltime": f"PT{1 + number % 5}H", "jobs": 4},
            }
            for number in range(count - len(own))
        ]

    def run(self, count: int, *arguments: str) -> tuple[float, int]:
        """Seconds and changed tasks of a run of site.yml with so many platforms."""
        described = self.described | {"virtual_platforms": self.platforms(count)}
        (self.inventory / PLATFORMS).write_text(yaml.safe_dump(described))
        command = [PROJECT / ".venv/bin/ansible-playbook", "-i", self.inventory, "site.yml"]
        start = time.monotonic()
        run = subprocess.run(
            [*command, "-e", f"testbed_name={self.name}", *MANY, *arguments],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - start
        if run.returncode != 0:
            sys.exit(f"site.yml with {count} platforms failed:\n{run.stdout[-3000:]}{run.stderr[-2000:]}")
        return seconds, sum(int(changed) for changed in re.findall(r"changed=(\d+)", run.stdout))

    def measure(self, what: str, count: int, runs: int, arguments: Sequence[str]) -> tuple[float, bool]:
        """The median of some runs with nothing to do, and whether nothing was changed or written; prints a row."""
        before = kubernetes_writes(self.state), slurm_writes(self.state)
        results = [self.run(count, *arguments) for _ in range(runs)]
        after = kubernetes_writes(self.state), slurm_writes(self.state)
        written = [line for old, new in zip(before, after, strict=True) for line in new[len(old) :]]
        seconds = [each for each, _ in results]
        changed = sum(each for _, each in results)
        print(
            f"{what:<8} {count:>4} platforms  median {statistics.median(seconds):6.1f} s, {min(seconds):.1f} to "
            f"{max(seconds):.1f}; changed {changed}, written {len(written)}",
            flush=True,
        )
        for line in written:
            print(f"  {line}")
        return statistics.median(seconds), not changed and not written


def main() -> int:
    """Measure and print; the exit code is 1 where anything was written or grows faster than it may."""
    parser = argparse.ArgumentParser(description="Time runs with nothing to do, with few platforms and with many.")
    parser.add_argument("--testbed", required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--stage", type=int, default=300, help="platforms for the stage quotas")
    parser.add_argument("--site", type=int, default=60, help="platforms for the whole of site.yml")
    parser.add_argument("--keep", action="store_true", help="leave the last list in place")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        testbed = Testbed(arguments.testbed, Path(directory))
        few, good = testbed.count, True
        try:
            ratios = []
            testbed.run(few)
            for what, many, stage, most in (
                ("quotas", arguments.stage, QUOTAS, 1.5),
                ("site.yml", arguments.site, [], 1.2),
            ):
                if many <= few:
                    continue
                testbed.run(few, *stage)
                one, quiet = testbed.measure(what, few, arguments.runs, stage)
                seconds, _ = testbed.run(many, *stage)
                print(f"{what:<8} {many:>4} platforms  the first time {seconds:.1f} s", flush=True)
                other, silent = testbed.measure(what, many, arguments.runs, stage)
                ratios.append((what, other / one, most))
                good = good and quiet and silent
        finally:
            if not arguments.keep:
                testbed.run(few)
    for what, ratio, most in ratios:
        print(f"{what:<8} ratio {ratio:.2f}, may be {most}")
    return 0 if good and all(ratio <= most for _, ratio, most in ratios) else 1


if __name__ == "__main__":
    sys.exit(main())
