"""Run the project's modules as Ansible does, many tasks in one run, and see each result."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ansible.module_utils
import yaml
from handles import INVENTORY, NAME, PROJECT, as_operator

# What Ansible puts together at run time.
ansible.module_utils.__path__.append(str(PROJECT / "roles/common/module_utils"))
from ansible.module_utils import kubernetes_api  # noqa: E402

__all__ = ["Result", "Run", "kubernetes_api", "play", "says", "shell", "worked"]

Result = dict[str, Any]


class Run:
    """A run of ansible-playbook with one play; started at once, so that several can go on side by side."""

    def __init__(self, hosts: str, tasks: Sequence[Mapping[str, Any]]) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="batch-")
        results, playbook = Path(self._directory.name, "results.json"), Path(self._directory.name, "play.yml")
        names = [f"result_{number}" for number in range(len(tasks))]
        keep = {
            "ansible.builtin.copy": {
                "content": "{{ [" + ", ".join(names) + "] | to_json }}",
                "dest": str(results),
                "mode": "0600",
            },
            "delegate_to": "localhost",
            "check_mode": False,
            "diff": False,
        }
        described = [
            {"name": name, "register": name, "ignore_errors": True} | dict(task)
            for name, task in zip(names, tasks, strict=True)
        ]
        playbook.write_text(
            yaml.safe_dump([{"hosts": hosts, "gather_facts": False, "tasks": [*described, {"name": "keep"} | keep]}])
        )
        command = [PROJECT / ".venv/bin/ansible-playbook", "-i", INVENTORY, "-e", f"testbed_name={NAME}", playbook]
        self._results = results
        self._process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=as_operator() | {"ANSIBLE_CALLBACKS_ENABLED": "ansible.builtin.default"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def results(self, timeout: float = 240) -> list[Result]:
        """Wait for the end; the result of each task, in order."""
        out, _ = self._process.communicate(timeout=timeout)
        assert self._results.exists(), out[-4000:]
        found: list[Result] = json.loads(self._results.read_text())
        self._directory.cleanup()
        return found


def play(hosts: str, tasks: Sequence[Mapping[str, Any]]) -> list[Result]:
    """Run tasks on hosts one after the other, whatever becomes of them; the result of each."""
    return Run(hosts, tasks).results()


def shell(script: str) -> dict[str, Any]:
    """A task that runs a script in which every command must succeed."""
    return {"ansible.builtin.shell": {"cmd": f"set -e\n{script}", "executable": "/bin/bash"}}


def worked(*results: Result) -> None:
    """Every one of these results is that of a task that went well."""
    for result in results:
        assert not result.get("failed"), result


def says(result: Result) -> list[str]:
    """What a module's plan says, and nothing where it failed before it had one."""
    return [step["says"] for step in result.get("plan", [])]
