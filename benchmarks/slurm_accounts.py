#!/usr/bin/env python3
"""Many Slurm accounts at once: how long the module takes for new ones, changed ones and none, and without it.

Works on a parent account of its own, `bench`, in the Slurm of a testbed, with users that no machine has. The module is
run through Ansible, so a figure is what an operator waits for. Everything made is deleted at the end. Use a testbed
that nobody works on.

Usage: benchmarks/slurm_accounts.py --testbed NAME [--inventory DIRECTORY] [--accounts 1000] [--singly 20]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
PLAYBOOK = """
- hosts: slurm_controllers
  gather_facts: false
  tasks:
    - name: Unix users first, as the role does
      ansible.builtin.copy:
        content: |
          {% for account in bench_accounts %}
          u {{ account.name }} {{ 30000 + loop.index }}
          {% endfor %}
        dest: /etc/sysusers.d/bench.conf
        mode: "0644"
      when: bench_users
    - name: Make them
      ansible.builtin.command: systemd-sysusers /etc/sysusers.d/bench.conf
      when: bench_users
    - name: Set the accounts
      slurm_accounts:
        cluster: "{{ bench_cluster }}"
        parent: bench
        qos: bench
        accounts: "{{ bench_accounts }}"
        max_deletions: 100000
      when: not bench_users
"""


def accounts(count: int, sets: int, step: int = 0) -> list[dict[str, Any]]:
    """A list of accounts with one user each, whose limits are of so many different sets."""
    return [
        {
            "name": f"bench-{number:04}",
            "users": [f"bench-{number:04}"],
            "limits": {
                "GrpTRES": {
                    "cpu": 1 + number % sets + step,
                    "mem": 1024 * (1 + number % sets + step),
                    "gres/disk": 10 + number % sets,
                },
                "GrpJobs": 1 + number % sets + step,
                "MaxTRESPerJob": {"cpu": 1 + number % sets},
                "MaxWall": 60 * (1 + number % sets + step),
            },
        }
        for number in range(count)
    ]


class Bench:
    """Runs the module on the Slurm of one testbed."""

    def __init__(self, testbed: str, inventory: str, cluster: str) -> None:
        self.testbed, self.inventory, self.cluster = testbed, inventory, cluster
        base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
        self.ssh = ["ssh", "-F", str(base / "caesar-testbed" / testbed / "ssh_config"), "slurm"]

    def module(self, wanted: list[dict[str, Any]], users: bool = False) -> float:
        """Seconds that a run with this list takes, Ansible's own start included."""
        with tempfile.TemporaryDirectory() as directory:
            playbook, variables = Path(directory, "bench.yml"), Path(directory, "vars.json")
            playbook.write_text(PLAYBOOK)
            values = {
                "testbed_name": self.testbed,
                "bench_accounts": wanted,
                "bench_cluster": self.cluster,
                "bench_users": users,
            }
            variables.write_text(json.dumps(values))
            command = [PROJECT / ".venv/bin/ansible-playbook", "-i", self.inventory, "-e", f"@{variables}", playbook]
            start = time.monotonic()
            run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
            if run.returncode:
                sys.exit(run.stdout[-3000:] + run.stderr[-1000:])
            return time.monotonic() - start

    def shell(self, script: str) -> float:
        """Seconds that a script takes on the machine."""
        start = time.monotonic()
        subprocess.run([*self.ssh, "bash -e"], input=script, text=True, check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - start


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time Slurm's accounts by the hundred.")
    parser.add_argument("--testbed", required=True)
    parser.add_argument("--inventory", default="inventories/local")
    parser.add_argument("--cluster", default="cirasa")
    parser.add_argument("--accounts", type=int, default=1000)
    parser.add_argument("--singly", type=int, default=20)
    arguments = parser.parse_args()
    bench = Bench(arguments.testbed, arguments.inventory, arguments.cluster)
    new, changed = accounts(arguments.accounts, 97), accounts(arguments.accounts, 10, step=100)
    few, many = new[:6], new[:300]
    bench.module(new, users=True)
    try:
        bench.module(few)
        print(f"no change, 6 accounts                 {bench.module(few):6.1f} s")
        bench.module(many)
        print(f"no change, 300 accounts               {bench.module(many):6.1f} s")
        bench.module([])
        print(f"{len(new)} new, users, mixed limits         {bench.module(new):6.1f} s")
        print(f"{len(new)} no change                        {bench.module(new):6.1f} s")
        print(f"{len(new)} all changed to one of ten sets   {bench.module(changed):6.1f} s")
        print(f"{len(new)} deleted                          {bench.module([]):6.1f} s")
        script = "".join(
            f"sacctmgr -iQ add account one-{number} parent=bench cluster={bench.cluster} "
            "GrpTRES=cpu=4,mem=8G GrpJobs=4\n"
            f"sacctmgr -iQ add user one-{number} account=one-{number} cluster={bench.cluster}\n"
            for number in range(arguments.singly)
        )
        print(f"{arguments.singly} new, one process for each entity    {bench.shell(script):6.1f} s")
        print(f"{arguments.singly} deleted                            {bench.module([]):6.1f} s")
    finally:
        bench.module([])
        bench.shell(
            "sacctmgr -iQ delete account bench; sacctmgr -iQ delete qos bench\n"
            "sed -n 's/^u \\(bench-[0-9]*\\) .*/\\1/p' /etc/sysusers.d/bench.conf | xargs -n1 userdel\n"
            "rm /etc/sysusers.d/bench.conf\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
