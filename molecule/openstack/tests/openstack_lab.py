"""Playbooks run on a control plane of OpenStack as an operator runs them, and what they asked of it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import select
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import openstack
import pytest
import yaml

PROJECT = Path(__file__).parents[3]
TESTBED = "caesar-os"
INVENTORY = yaml.safe_load((PROJECT / "inventories/openstack/hosts.yml").read_text())["all"]
HOSTS, HOSTS_LOCAL = INVENTORY["children"], INVENTORY["hosts"]
MACHINES = set(HOSTS["openstack_machines"]["hosts"])


def load(path: Path) -> ModuleType:
    """Import a program by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plane = load(PROJECT / "molecule/openstack/control_plane/plane.py")


@dataclass
class Run:
    """A playbook's run."""

    returncode: int
    stdout: str

    @property
    def changed(self) -> int:
        return sum(int(count) for count in re.findall(r"changed=(\d+)", self.stdout))


@dataclass
class Lab:
    """The control plane and a state directory."""

    directory: Path
    handles: Path
    member: openstack.connection.Connection
    admin: openstack.connection.Connection

    def command(self, playbook: str, *arguments: str) -> list[str]:
        chosen = any(one.startswith("--inventory") for one in arguments)
        variables = {
            "testbed_name": TESTBED,
            "testbed_state_dir": str(self.handles),
            "openstack_machines_cloud": "member",
            "openstack_machines_ssh_from": ["192.0.2.0/24"],
            # Nothing boots.
            "openstack_machines_reach": False,
            # The control plane has two hosts, the example two machines that compute.
            "openstack_machines_policy": "anti-affinity",
        }
        return [
            str(PROJECT / ".venv/bin/ansible-playbook"),
            *([] if chosen else [f"--inventory={PROJECT}/inventories/openstack"]),
            f"playbooks/{playbook}.yml",
            f"--extra-vars={json.dumps(variables)}",
            *arguments,
        ]

    @property
    def environment(self) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
        return clean | {"OS_CLIENT_CONFIG_FILE": str(self.directory / "clouds.yaml"), "ANSIBLE_NOCOLOR": "1"}

    def run(self, playbook: str, *arguments: str) -> Run:
        environment = self.environment
        environment.pop("ANSIBLE_FORCE_COLOR", None)
        done = subprocess.run(
            self.command(playbook, *arguments),
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=400,
            check=False,
        )
        return Run(done.returncode, done.stdout)

    def asked(self, answer: str, playbook: str, *arguments: str) -> Run:
        """Run a playbook at a terminal, and give this answer to the question that it ends with."""
        ours, theirs = os.openpty()
        process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *self.command(playbook, *arguments)],
            cwd=PROJECT,
            env=self.environment | {"TERM": "dumb"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # which is how a terminal ends
            while True:
                if select.select([ours], [], [], 0.3)[0]:
                    said += os.read(ours, 65536)
                elif said.rstrip().endswith(b"Type yes to go on:"):
                    # Again where it came too early: what is typed before the question is thrown away.
                    os.write(ours, answer.encode() + b"\r")
        os.close(ours)
        return Run(process.wait(), said.decode())

    def run_until(self, wanted: str, *arguments: str) -> None:
        """Run the stage machines and kill it, all its processes at once, when a request of this kind was answered."""
        seen = len(self.writes())
        process = subprocess.Popen(
            self.command("machines", *arguments),
            cwd=PROJECT,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            while not any(re.fullmatch(wanted, one) for one in self.writes()[seen:]):
                if process.poll() is not None:
                    pytest.fail(f"the run ended before {wanted}")
        finally:
            # Modules are in sessions of their own no more than their parents: one group each, found by its leader.
            for group in groups_of(process.pid):
                os.killpg(group, signal.SIGKILL)
            process.wait()

    def writes(self) -> list[str]:
        """What was asked to be changed so far, but for logins: "POST /servers"."""
        return [
            f"{one['method']} {one['path']}"
            for one in plane.requests(self.directory)
            if one["method"] not in ("GET", "HEAD", "OPTIONS")
            and one["service"] in ("nova", "neutron", "glance", "cinder")
            and "caesar-testbed" in str(one["agent"])
        ]

    def servers(self) -> dict[str, dict[str, Any]]:
        found = self.member.compute.get("/servers/detail", microversion="2.64").json()["servers"]
        return {server["metadata"].get("caesar-machine", server["name"]): server for server in found}

    def volumes(self) -> dict[str, dict[str, Any]]:
        """Volumes of the project that are no machine's state, by the machine that has them, or else by their id."""
        names = {server["id"]: name for name, server in self.servers().items()}
        return {
            next((names[one["server_id"]] for one in volume["attachments"]), volume["id"]): volume
            for volume in self._all_volumes()
            if "caesar-testbed" not in volume["metadata"]
        }

    def state(self) -> dict[str, dict[str, Any]]:
        """Volumes of the machines' state, by machine."""
        found = [volume for volume in self._all_volumes() if volume["metadata"].get("caesar-testbed") == TESTBED]
        assert len({volume["metadata"]["caesar-machine"] for volume in found}) == len(found)
        return {volume["metadata"]["caesar-machine"]: volume for volume in found}

    def held(self) -> dict[str, tuple[str, str, list[str]]]:
        """Of the volumes of state: id, status, and who has them."""
        names = {server["id"]: name for name, server in self.servers().items()}
        return {
            name: (one["id"], one["status"], [names.get(a["server_id"], a["server_id"]) for a in one["attachments"]])
            for name, one in self.state().items()
        }

    def _all_volumes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.member.block_storage.get("/volumes/detail").json()["volumes"]
        return found

    def usage(self) -> dict[str, int]:
        """What the project uses of its limits."""
        volumes = self.member.block_storage.get("/limits").json()["limits"]["absolute"]
        limits = self.member.compute.get("/limits").json()["limits"]["absolute"]
        quota = self.member.network.get(f"/quotas/{self.member.current_project_id}/details").json()["quota"]
        return (
            {name: limits[name] for name in ("totalCoresUsed", "totalInstancesUsed", "totalRAMUsed")}
            | {name: volumes[name] for name in ("totalVolumesUsed", "totalGigabytesUsed")}
            | {name: one["used"] for name, one in quota.items() if isinstance(one, dict)}
        )


def set_quota(lab: Lab, project: str, **limits: int) -> None:
    answer = lab.admin.compute.put(f"/os-quota-sets/{project}", json={"quota_set": limits})
    assert answer.status_code == 200, answer.text


def set_volume_quota(lab: Lab, project: str, gigabytes: int, volumes: int = 60) -> None:
    path = f"/os-quota-sets/{project}"
    quota = {"gigabytes": gigabytes, "volumes": volumes}
    lab.admin.block_storage.put(path, json={"quota_set": quota}).raise_for_status()


def groups_of(pid: int) -> set[int]:
    """Process groups of a process and all that come from it."""
    found = {os.getpgid(pid)}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
            parent, group = int(fields[1]), int(fields[2])
        except (OSError, IndexError):
            continue
        if parent == pid:
            found |= {group} | groups_of(int(path.parent.name))
    return found - {os.getpgid(0)}
