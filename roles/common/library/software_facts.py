#!/usr/bin/python
"""Ansible module: which versions of the testbed's software a machine has, and what its archive offers of Slurm."""

from __future__ import annotations

DOCUMENTATION = r"""
module: software_facts
short_description: Versions of the testbed's software on a machine
description:
  - Reads the installed packages of Slurm, the planners' program and the revisions of their ledgers, the programs of a
    node of Kubernetes and, on a control plane, what its API server says of versions and images.
  - Changes nothing. The archive is asked with lists in a directory of its own, so that the machine's stay as they are.
options:
  ledgers:
    description: The directory with a ledger (C(NAME/ledger.sqlite)) for each planner.
    type: path
    default: /var/lib/caesar-planner
  control_plane:
    description: Whether the machine is Kubernetes' control plane, and is asked for versions.
    type: bool
    default: false
  namespace:
    description: The namespace whose images are listed by what runs them; none where empty.
    type: str
    default: ""
  archive:
    description: Whether the archive is asked which Slurm it has.
    type: bool
    default: false
  sources:
    description: Sources (lines of sources.list) to ask; the machine's own where empty.
    type: list
    elements: str
    default: []
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: See what there is
  software_facts: {control_plane: true, namespace: caesar-rest}
  register: upgrade_seen
"""

RETURN = r"""
software:
  description:
    - C(debian), C(slurm) (package to version), C(programs) (key of a node's programs), C(bundle), C(ledgers) (platform
      to revision); of a control plane C(kubernetes), C(kubelets) (node to version) and C(images).
    - C(offered), the archive's Slurm, or C(archive), why it is not known; C(faults), what could not be read.
  type: dict
  returned: always
"""

import json
import re
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.upgrades import debian_of

SOURCE = "slurm-wlm"
KUBECTL = ["kubectl", "--kubeconfig=/etc/kubernetes/admin.conf", "--request-timeout=10s"]
UNITS = ("/etc/systemd/system/planner@.service", "/etc/systemd/system/caesar-voter.service")


def slurm_packages(report: str) -> dict[str, str]:
    """Read lines of `source package version status`: the packages of Slurm that are installed."""
    words = (line.split() for line in report.splitlines())
    return {line[1]: line[2] for line in words if len(line) == 4 and line[0] == SOURCE and line[3] == "installed"}


def candidate(policy: str) -> str:
    """Read what `apt-cache policy` would install."""
    found = re.search(r"^  Candidate: (\S+)$", policy, re.MULTILINE)
    return found[1] if found and found[1] != "(none)" else ""


def cluster_version(configuration: str) -> str:
    """Read the version in what kubeadm keeps of its cluster."""
    found = re.search(r"^kubernetesVersion: (\S+)$", configuration, re.MULTILINE)
    return found[1] if found else ""


def workload_images(listed: dict[str, Any]) -> dict[str, str]:
    """Name each deployment's and stateful set's image, its first container's."""
    return {
        str(item["metadata"]["name"]): str(item["spec"]["template"]["spec"]["containers"][0]["image"])
        for item in listed.get("items") or []
    }


def bundle(unit: str) -> str:
    """Read from a unit which bundle it runs."""
    found = re.search(r"^Environment=PYTHONPATH=\S*/([0-9a-f]{16})$", unit, re.MULTILINE)
    return found[1] if found else ""


def revision(ledger: Path) -> str:
    """Read which migration a ledger has seen last; those from before there were any are the first.

    Raises sqlite3.Error where it cannot be read.
    """
    connection = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=10)
    try:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "alembic_version" in tables:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            return str(row[0]) if row else ""
        return "0001" if "schema_version" in tables else ""
    finally:
        connection.close()


def ask_archive(module: AnsibleModule, sources: list[str]) -> tuple[str, str]:
    """Ask which Slurm the archive has: the version, or why that is not known."""
    with tempfile.TemporaryDirectory(prefix="software-facts-") as name:
        here = Path(name)
        # apt reads its lists as another user.
        here.chmod(0o755)
        (here / "lists/partial").mkdir(parents=True)
        (here / "cache").mkdir()
        options = [f"-oDir::State::lists={here}/lists", f"-oDir::Cache={here}/cache", "-oAPT::Get::List-Cleanup=false"]
        if sources:
            (here / "sources.list").write_text("".join(f"{line}\n" for line in sources))
            options += [f"-oDir::Etc::sourcelist={here}/sources.list", "-oDir::Etc::sourceparts=/dev/null"]
            # On a machine that is made anew nothing is installed, which apt would prefer to what is older.
            options.append("-oDir::State::status=/dev/null")
        options.append("-oAcquire::Languages=none")
        code, _, err = module.run_command(["apt-get", "--quiet", "--error-on=any", "update", *options])
        if code != 0:
            return "", (err.strip().splitlines() or ["apt-get update failed"])[0]
        _, policy, _ = module.run_command(["apt-cache", "policy", "slurmctld", *options])
        found = candidate(policy)
        return found, "" if found else "the archive has no slurmctld"


def control_plane(module: AnsibleModule, namespace: str) -> tuple[dict[str, Any], str]:
    """Ask the API server: what it says, or why it does not."""

    def ask(*arguments: str) -> dict[str, Any]:
        code, out, err = module.run_command([*KUBECTL, "get", *arguments, "--output=json"])
        if code != 0:
            raise ValueError((err.strip().splitlines() or ["no message"])[-1])
        return dict(json.loads(out))

    try:
        configuration = ask("--namespace=kube-system", "configmap", "kubeadm-config")
        nodes = ask("nodes")
        return {
            "kubernetes": cluster_version(configuration["data"]["ClusterConfiguration"]),
            "kubelets": {
                node["metadata"]["name"]: node["status"]["nodeInfo"]["kubeletVersion"] for node in nodes["items"]
            },
            "images": workload_images(ask(f"--namespace={namespace}", "deployments,statefulsets")) if namespace else {},
        }, ""
    except ValueError as error:
        return {}, f"Kubernetes does not answer: {error}"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "ledgers": {"type": "path", "default": "/var/lib/caesar-planner"},
            "control_plane": {"type": "bool", "default": False},
            "namespace": {"type": "str", "default": ""},
            "archive": {"type": "bool", "default": False},
            "sources": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C"}
    form = "--showformat=${source:Package} ${Package} ${Version} ${db:Status-Status}\n"
    _, report, _ = module.run_command(["dpkg-query", "--show", form])
    found: dict[str, Any] = {"debian": "", "slurm": slurm_packages(report), "ledgers": {}, "faults": []}
    if (debian := Path("/etc/debian_version")).exists():
        found["debian"] = debian_of(debian.read_text())
    if (link := Path("/usr/local/bin/kubelet")).is_symlink():
        found["programs"] = link.readlink().parent.parent.name
    units = [Path(unit).read_text() for unit in UNITS if Path(unit).exists()]
    found["bundle"] = " and ".join(sorted({bundle(unit) for unit in units} - {""}))
    for ledger in sorted(Path(module.params["ledgers"]).glob("*/ledger.sqlite")):
        if ledger.parent.name.startswith("."):
            continue
        try:
            found["ledgers"][ledger.parent.name] = revision(ledger)
        except sqlite3.Error as error:
            found["faults"].append(f"the ledger of {ledger.parent.name} cannot be read: {error}")
    if module.params["control_plane"]:
        said, fault = control_plane(module, module.params["namespace"])
        found |= said
        found["faults"] += [fault] if fault else []
    if module.params["archive"]:
        found["offered"], found["archive"] = ask_archive(module, module.params["sources"])
    module.exit_json(changed=False, software=found)


if __name__ == "__main__":
    main()
