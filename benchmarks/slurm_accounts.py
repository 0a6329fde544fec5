#!/usr/bin/env python3
"""Many Slurm accounts at once: how long the module takes for new ones, changed ones and none, and without it.

Works on a parent account of its own, `bench`, in the Slurm of a testbed, with users of its own. The module is run
through Ansible, so a figure is what an operator waits for. One process for each entity, as other modules do it, is
measured beside it on a few accounts, both with quick acknowledgements and without them, as Slurm comes. Everything made
is deleted at the end. Use a testbed that nobody works on.

Usage: benchmarks/slurm_accounts.py --testbed NAME [--inventory DIRECTORY] [--accounts 1000] [--singly 20]
       [--only-singly]
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


#: Takes the mark of roles/slurm_cluster/files/quick-acknowledgements from every route.
PLAIN = r"""
for table in "table local type local" "table main scope link"; do
  ip -4 route show $table | sed -e 's/ linkdown//' -e 's/ quickack 1//' | while read -r route; do
    ip route replace $route $(echo "$table" | sed -n 's/^table local.*/table local/p') quickack 0
  done
done
"""


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


def singly(bench: Bench, wanted: list[dict[str, Any]], how: str) -> None:
    """Make some accounts by the module, and by one process for each account and each user; print both."""
    print(f"{len(wanted)} new by the module, {how:24} {bench.module(wanted):6.1f} s")
    bench.module([])
    script = "".join(
        f"sacctmgr -iQ add account {one['name']} parent=bench cluster={bench.cluster} GrpTRES=cpu=4,mem=8G GrpJobs=4\n"
        f"sacctmgr -iQ add user {one['name']} account={one['name']} cluster={bench.cluster}\n"
        for one in wanted
    )
    print(f"{len(wanted)} new, a process an entity, {how:20} {bench.shell(script):6.1f} s")
    print(f"{len(wanted)} deleted by the module, {how:20} {bench.module([]):6.1f} s", flush=True)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time Slurm's accounts by the hundred.")
    parser.add_argument("--testbed", required=True)
    parser.add_argument("--inventory", default="inventories/local")
    parser.add_argument("--cluster", default="cirasa")
    parser.add_argument("--accounts", type=int, default=1000)
    parser.add_argument("--singly", type=int, default=20)
    parser.add_argument("--only-singly", action="store_true", help="only compare with one process for each entity")
    arguments = parser.parse_args()
    bench = Bench(arguments.testbed, arguments.inventory, arguments.cluster)
    new, changed = accounts(arguments.accounts, 97), accounts(arguments.accounts, 10, step=100)
    few, many = new[:6], new[:300]
    bench.module(new, users=True)
    try:
        if not arguments.only_singly:
            bench.module(few)
            print(f"no change, 6 accounts                 {bench.module(few):6.1f} s")
            bench.module(many)
            print(f"no change, 300 accounts               {bench.module(many):6.1f} s")
            bench.module([])
            print(f"{len(new)} new, users, mixed limits         {bench.module(new):6.1f} s")
            print(f"{len(new)} no change                        {bench.module(new):6.1f} s")
            print(f"{len(new)} all changed to one of ten sets   {bench.module(changed):6.1f} s")
            print(f"{len(new)} deleted                          {bench.module([]):6.1f} s", flush=True)
        singly(bench, new[: arguments.singly], "quick acknowledgements")
        bench.shell(PLAIN)
        singly(bench, new[: arguments.singly], "Slurm as it comes")
    finally:
        bench.module([])
        bench.shell(
            "sacctmgr -iQ delete account bench; sacctmgr -iQ delete qos bench\n"
            "sed -n 's/^u \\(bench-[0-9]*\\) .*/\\1/p' /etc/sysusers.d/bench.conf | xargs -n1 userdel\n"
            "rm /etc/sysusers.d/bench.conf; systemctl restart quick-acknowledgements\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
