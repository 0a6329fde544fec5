#!/usr/bin/python
"""Ansible module: whether this host can carry the local machines, and which image they need."""

# ruff: noqa: S607 - programs are found where the operator finds them.

from __future__ import annotations

DOCUMENTATION = r"""
module: local_machines_preflight
short_description: Say what this host lacks to carry the local machines, and which image they need
description:
  - Changes nothing. What the kernel can do is tried in namespaces that are gone with the trial.
  - Fails with one message for everything that is missing, each with the command that brings it.
options:
  testbed:
    description:
      - The testbed's name. Where its machines were made from another image than they would be now, they are looked
        into.
    type: str
    required: true
  state_dir:
    description: Where the operator's handles lie. Where there are machines already, memory and disc are not looked at.
    type: path
    required: true
  host_packages:
    description: The file that lists the controller's packages, each with the command or file that proves it.
    type: path
    required: true
  cache_dir:
    description: Where the caches lie.
    type: path
    required: true
  memory_gib:
    description: Memory that must be free, in GiB.
    type: float
    required: true
  disc_gb:
    description: Disc space that must be free for machines, volumes and caches together, in GB.
    type: float
    required: true
  inotify_instances:
    description: Instances of inotify that must be free.
    type: int
    default: 0
  subnet_pools:
    description: Networks that the testbed's /24 is chosen from.
    type: list
    elements: str
    required: true
  nameservers:
    description: Name servers of the machines; the controller's where empty.
    type: list
    elements: str
    default: []
  packages:
    description: Packages of the image.
    type: list
    elements: str
    required: true
  suite:
    description: Release of the machines; the controller's where empty.
    type: str
    default: ""
  sources:
    description: Lines of sources.list for the machines; the controller's own where empty.
    type: list
    elements: str
    default: []
  customize:
    description: The script that completes the image when its packages are in.
    type: path
    required: true
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: See what this host lacks
  local_machines_preflight:
    testbed: caesar
    state_dir: /root/.local/state/caesar-testbed/caesar
    host_packages: roles/local_machines/files/host-packages.txt
    cache_dir: /root/.cache/caesar-testbed
    memory_gib: 8
    disc_gb: 15
    subnet_pools: [10.89.0.0/16]
    packages: [systemd]
    customize: roles/local_machines/files/customize_machine_image.sh
"""

RETURN = r"""
image_key: {description: Names the image., type: str, returned: success}
suite: {description: The image's release of Debian., type: str, returned: success}
sources: {description: Its package sources., type: list, returned: success}
there:
  description:
    - Machines made from another image, with any of C(debian), C(slurm) (package to version) and C(kubernetes).
  type: dict
  returned: success
"""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils import host_preflight as hp
from ansible.module_utils import machine_image, machine_plan, machine_software
from ansible.module_utils.basic import AnsibleModule

GRAPH_ROOT = Path("/var/lib/containers")
# Tried in namespaces of their own: nothing of them is left, and nothing of the host is touched.
PROBES = {
    "bridge": ("--net", "ip link add br0 type bridge && ip link add v0 type veth peer name v1"),
    "nat": (
        "--net",
        "iptables -t nat -A POSTROUTING -m comment --comment probe -j MASQUERADE"
        " && iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ),
    "overlay": (
        "--mount",
        'work=$(mktemp -d "$1/probe.XXXXXX") && trap "rm -rf $work" EXIT && cd "$work" && mkdir l u w m'
        " && mount -t overlay -o lowerdir=l,upperdir=u,workdir=w overlay m && touch m/x && umount m",
    ),
}


def existing(path: Path) -> Path:
    """Give the nearest directory above `path` that exists."""
    while not path.exists():
        path = path.parent
    return path


def size(directory: Path) -> int:
    """Add up the bytes that a directory takes on its disc."""
    total = 0
    for where, _, names in os.walk(directory):
        for name in names:
            total += os.lstat(Path(where) / name).st_blocks * 512
    return total


def probe(host_present: frozenset[str]) -> dict[str, str]:
    """Try what the kernel must be able to do; give the errors."""
    failures = {}
    for name, (namespace, script) in PROBES.items():
        if (name == "bridge" and "ip" not in host_present) or (name == "nat" and "iptables" not in host_present):
            continue
        done = subprocess.run(
            ["unshare", namespace, "sh", "-ec", script, "probe", str(existing(GRAPH_ROOT))],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            failures[name] = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return failures


def inotify_free() -> int:
    """Count the instances of inotify that root may still open: one number for this host and all its machines."""
    limit = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
    used = 0
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):  # it may end meanwhile
                if process.stat().st_uid == 0:
                    used += sum(os.readlink(file) == "anon_inode:inotify" for file in (process / "fd").iterdir())
    return limit - used


def podman_subnets() -> list[str]:
    """Ask podman which subnets its networks have."""
    text = subprocess.run(
        ["podman", "network", "ls", "--format=json"], check=True, capture_output=True, text=True
    ).stdout
    networks: list[dict[str, Any]] = json.loads(text or "null") or []
    return [subnet["subnet"] for network in networks for subnet in network.get("subnets") or []]


def controllers(kind: str) -> frozenset[str]:
    """List the cgroup controllers that can be used."""
    if kind == "v2":
        return frozenset(Path("/sys/fs/cgroup/cgroup.controllers").read_text().split())
    rows = (line.split() for line in Path("/proc/cgroups").read_text().splitlines() if not line.startswith("#"))
    return frozenset(row[0] for row in rows if row[1] != "0" or kind == "none")


def resolv_conf() -> str:
    """Read the name servers; those behind systemd-resolved where it stands in front of them."""
    text = Path("/etc/resolv.conf").read_text() if Path("/etc/resolv.conf").exists() else ""
    behind = Path("/run/systemd/resolve/resolv.conf")
    return behind.read_text() if not hp.usable_nameservers(text) and behind.exists() else text


def look(parameters: Mapping[str, Any], needs: hp.Needs, recipe: machine_image.Recipe) -> hp.Host:
    """Read the host's facts."""
    # Where root came by plain su, its path lacks the directories of the system's programs.
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    present = frozenset(
        proof for proof in needs.packages.values() if (Path(proof).exists() if "/" in proof else shutil.which(proof))
    )
    kind = hp.cgroup_kind(Path("/proc/self/mounts").read_text())
    root = os.geteuid() == 0
    # The file, not podman: after a crash podman may list nothing until the next task has repaired it.
    has_machines = (Path(parameters["state_dir"]) / "machines.json").is_file()
    # What a running testbed proves need not be tried again at every run.
    failures = probe(present) if root and not has_machines else {}
    free = True
    if not has_machines and "ip" in present:
        routes = json.loads(
            subprocess.run(
                ["ip", "-json", "-4", "route", "show", "table", "all"], check=True, capture_output=True
            ).stdout
        )
        used = [*machine_plan.routed_networks(routes), *(podman_subnets() if root and "podman" in present else [])]
        free = machine_plan.free_subnet(parameters["subnet_pools"], used) is not None
    memory = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    )
    discs: dict[str, tuple[int, int]] = {}
    cache = Path(parameters["cache_dir"])
    devices = set()
    if not has_machines:
        for directory in (GRAPH_ROOT, cache):
            device = existing(directory).stat().st_dev
            if device in devices:
                continue
            devices.add(device)
            bytes_free = shutil.disk_usage(existing(directory)).free
            cached = size(cache) if bytes_free < needs.disc_gb * hp.GB and cache.is_dir() else 0
            discs[str(directory)] = (bytes_free, cached)
    return hp.Host(
        root=root,
        present=present,
        apt=shutil.which("apt-get") is not None,
        sources=recipe.sources,
        suite=recipe.suite,
        cgroup=kind,
        controllers=controllers(kind),
        systemd_hierarchy=Path("/sys/fs/cgroup/systemd/cgroup.procs").exists(),
        fuse=Path("/dev/fuse").exists(),
        failures=failures,
        memory_available=memory,
        inotify_free=inotify_free() if root and not has_machines else needs.inotify,
        discs=discs,
        nameservers=tuple(parameters["nameservers"]) or hp.usable_nameservers(resolv_conf()),
        subnet=free,
        has_machines=has_machines,
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "testbed": {"type": "str", "required": True},
            "state_dir": {"type": "path", "required": True},
            "host_packages": {"type": "path", "required": True},
            "cache_dir": {"type": "path", "required": True},
            "memory_gib": {"type": "float", "required": True},
            "disc_gb": {"type": "float", "required": True},
            "inotify_instances": {"type": "int", "default": 0},
            "subnet_pools": {"type": "list", "elements": "str", "required": True},
            "nameservers": {"type": "list", "elements": "str", "default": []},
            "packages": {"type": "list", "elements": "str", "required": True},
            "suite": {"type": "str", "default": ""},
            "sources": {"type": "list", "elements": "str", "default": []},
            "customize": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    try:
        recipe = machine_image.read_controller(
            parameters["packages"], parameters["suite"], parameters["sources"], Path(parameters["customize"])
        )
    except subprocess.CalledProcessError as error:
        module.fail_json(msg=f"apt cannot say where packages come from: {error.stderr.strip()}")
    needs = hp.Needs(
        packages=hp.parse_packages(Path(parameters["host_packages"]).read_text()),
        memory_gib=parameters["memory_gib"],
        disc_gb=parameters["disc_gb"],
        inotify=parameters["inotify_instances"],
    )
    lacks = hp.lacks(needs, look(parameters, needs, recipe))
    if lacks:
        lines = "\n".join(f"  - {lack}" for lack in lacks)
        module.fail_json(msg=f"This host cannot carry the testbed yet; nothing was changed. Missing:\n{lines}")
    there: dict[str, dict[str, Any]] = {}
    handle = Path(parameters["state_dir"], "machines.json")
    # podman takes its time; the machines' image is known from their last run.
    if handle.is_file() and machine_software.image_of(handle) != recipe.key:
        try:
            there = machine_software.made_anew(parameters["testbed"], handle.parent, recipe.key)
        except subprocess.CalledProcessError as error:
            module.fail_json(
                msg="Machines would be made anew from another image, and podman does not say what they have; nothing "
                f"was changed. A run with the image that they have brings podman back: {error.stderr.strip()}"
            )
    told = {"image_key": recipe.key, "suite": recipe.suite, "sources": list(recipe.sources), "there": there}
    module.exit_json(changed=False, **told)


if __name__ == "__main__":
    main()
