#!/usr/bin/env python3
"""Machines on OpenStack: how long, and how many requests, it takes to make them, to change nothing, to take them down.

Puts up the control plane of molecule/openstack (OpenStack's services as published, with a fake hypervisor and fake
volumes) and runs playbooks/machines.yml and playbooks/teardown.yml on it as a plain member, as an operator does, with
Ansible's start in the figures. Nothing boots, so what is measured is this side and the services of the control plane,
which share the processors: `theirs` is the processor seconds of the services, for on two cores that is most of it.

Requests are counted in the services' own logs: all that this side sent, logins too, without those that the services
send each other.

Usage: benchmarks/openstack_machines.py [--servers 10] [--few 3] [--many 50] [--runs 3] [--requests]
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openstack
import yaml

PROJECT = Path(__file__).resolve().parents[1]
TESTBED = "caesar-bench"
#: Of a path, what names one thing, so that requests for many of a kind count as one kind.
IDENT = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}|(?<=/tags/).*|(?<=keypairs/).+")

sys.path.insert(0, str(PROJECT / "molecule/openstack/tests"))
from openstack_lab import plane  # noqa: E402


@dataclass
class Run:
    """What one run of a playbook took."""

    seconds: float
    #: Processor seconds of the control plane meanwhile.
    theirs: float
    #: How often each kind of request was sent: "nova GET /servers/detail".
    requests: collections.Counter[str]
    changed: int


def machines(count: int) -> dict[str, Any]:
    """An inventory's hosts: so many machines, and what runs on them as on a testbed of that size."""
    names = [f"m{number:02}" for number in range(count)]
    # Each role that has security groups of its own is somewhere; half of the machines compute.
    groups = {
        "openstack_machines": names,
        "storage_servers": names[:1],
        "planners": names[:1],
        "voters": names[:1],
        "slurm_controllers": names[1:2],
        "kubernetes_nodes": names[2 : max(3, count // 2)],
        "slurm_nodes": names[max(3, count // 2) :] or names[1:2],
    }
    local = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    children = {group: {"hosts": {host: {} for host in hosts}} for group, hosts in groups.items()}
    return {"all": {"hosts": {"localhost": local}, "children": children}}


class Bench:
    """Runs playbooks on one control plane."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.plane = directory, directory / "control-plane"
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
        self.environment |= {"OS_CLIENT_CONFIG_FILE": str(self.plane / "clouds.yaml"), "ANSIBLE_NOCOLOR": "1"}
        self.environment.pop("ANSIBLE_FORCE_COLOR", None)

    def room(self, count: int) -> None:
        """Raise the project's quota to so many machines of the smallest size, as the cloud's administrator."""
        configuration = openstack.config.OpenStackConfig(config_files=[str(self.plane / "clouds.yaml")])
        admin = openstack.connection.Connection(config=configuration.get_one("admin"))
        quota = {"instances": count, "cores": 4 * count, "ram": 16384 * count, "server_group_members": count}
        project = admin.identity.find_project("lab").id
        admin.compute.put(f"/os-quota-sets/{project}", json={"quota_set": quota}).raise_for_status()
        # A disc for each, and for some what outlives them.
        volumes = {"volumes": 2 * count, "gigabytes": 600 * count}
        admin.block_storage.put(f"/os-quota-sets/{project}", json={"quota_set": volumes}).raise_for_status()

    def run(self, playbook: str, count: int, *arguments: str) -> Run:
        """Run a playbook for so many machines.

        Raises:
            SystemExit: where it fails, with what it said.
        """
        inventory = self.directory / f"inventory-{count}"
        if not inventory.exists():
            shutil.copytree(PROJECT / "inventories/openstack", inventory)
            (inventory / "openstack.yml").unlink()
            (inventory / "hosts.yml").write_text(yaml.safe_dump(machines(count)))
        variables = {
            "testbed_name": TESTBED,
            "testbed_state_dir": str(self.directory / "state"),
            "openstack_machines_cloud": "member",
            "openstack_machines_ssh_from": ["192.0.2.0/24"],
            # Nothing boots.
            "openstack_machines_reach": False,
        }
        command = [PROJECT / ".venv/bin/ansible-playbook", "-i", inventory, f"playbooks/{playbook}.yml"]
        seen, used, start = len(plane.requests(self.plane)), self.processor(), time.monotonic()
        done = subprocess.run(
            [*command, "-e", json.dumps(variables), *arguments],
            cwd=PROJECT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - start
        if done.returncode:
            sys.exit(done.stdout[-3000:] + done.stderr[-1000:])
        sent = collections.Counter(
            f"{one['service']} {one['method']} {IDENT.sub('ID', one['path'])}"
            for one in plane.requests(self.plane)[seen:]
            if "caesar-testbed" in str(one["agent"])
        )
        changed = sum(int(number) for number in re.findall(r"changed=(\d+)", done.stdout))
        return Run(seconds, self.processor() - used, sent, changed)

    def processor(self) -> float:
        """Processor seconds that the control plane has used since it started."""
        ticks = 0
        for pid, _since in json.loads((self.plane / "processes.json").read_text()).values():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def shown(what: str, runs: list[Run], requests: bool) -> None:
    """Print a row."""
    seconds = [run.seconds for run in runs]
    sent = [run.requests.total() for run in runs]
    writes = [
        sum(n for kind, n in run.requests.items() if kind.split()[1] not in ("GET", "HEAD") and "keystone" not in kind)
        for run in runs
    ]
    print(
        f"{what:34} {statistics.median(seconds):6.1f} s {min(seconds):6.1f} to {max(seconds):5.1f}"
        f" {statistics.median(run.theirs for run in runs):8.1f} s {spread(sent):>10} {spread(writes):>8}"
        f" {spread([run.changed for run in runs]):>8}",
        flush=True,
    )
    if requests:
        for kind, number in sorted(runs[-1].requests.items()):
            print(f"    {number:4} {kind}", flush=True)


def spread(numbers: list[int]) -> str:
    """Write numbers as the least to the most."""
    return f"{min(numbers)}" if min(numbers) == max(numbers) else f"{min(numbers)}-{max(numbers)}"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time machines on an OpenStack control plane on loopback.")
    parser.add_argument("--servers", type=int, default=10, help="how many are made and taken down (10)")
    parser.add_argument("--few", type=int, default=3, help="how many there are in runs with nothing to do (3)")
    parser.add_argument("--many", type=int, default=50, help="and how many more, to see that time does not grow (50)")
    parser.add_argument("--runs", type=int, default=3, help="runs for each row (3)")
    parser.add_argument("--requests", action="store_true", help="print the requests of each row's last run by kind")
    arguments = parser.parse_args()
    # Else its control plane would stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary))
        with plane.running(bench.plane):
            bench.room(max(arguments.servers, arguments.few, arguments.many))
            print(
                f"{'':34} {'median':>8} {'spread':>15} {'theirs':>10} {'requests':>10} {'writes':>8} {'changed':>8}",
                flush=True,
            )
            made, gone = [], []
            for _ in range(arguments.runs):
                made.append(bench.run("machines", arguments.servers))
                gone.append(bench.run("teardown", arguments.servers, "-e", "confirm=yes"))
            shown(f"{arguments.servers} servers, empty project", made, arguments.requests)
            shown(f"teardown of {arguments.servers}", gone, arguments.requests)
            medians = []
            for count in (arguments.few, arguments.many):
                shown(f"{count} servers, empty project", [bench.run("machines", count)], arguments.requests)
                same = [bench.run("machines", count) for _ in range(arguments.runs)]
                shown(f"no change, {count} servers", same, arguments.requests)
                medians.append(statistics.median(run.seconds for run in same))
                gone = [bench.run("teardown", count, "-e", "confirm=yes")]
                shown(f"teardown of {count}", gone, arguments.requests)
            print(f"no change, {arguments.many} against {arguments.few}: {medians[1] / medians[0]:.2f} times")
    return 0


if __name__ == "__main__":
    sys.exit(main())
