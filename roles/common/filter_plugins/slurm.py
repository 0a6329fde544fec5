"""Jinja filters for Slurm: virtual nodes of a cluster, accounts of the virtual platforms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ansible.module_utils

# Ansible gives modules the path of module_utils in ansible.cfg, but not the plugins that run on the controller.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.plain_values import of_cluster  # noqa: E402

# slurmd's usual port is 6818; virtual nodes share an address and differ by port.
FIRST_PORT = 17001
MIB_IN_GIB = 1024


def virtual_nodes(
    counts: Mapping[str, int], sizes: Mapping[str, Mapping[str, int]], machines: Sequence[str]
) -> list[dict[str, Any]]:
    """List a cluster's virtual nodes, dealt out to the machines in turn.

    Args:
        counts: how many nodes of each size, as in `physical_platforms`.
        sizes: cores, memory (GiB) and disc (GB) of each size, as in `desktop_sizes`.
        machines: names of the machines that run the nodes.

    Returns:
        Nodes with name (`desktop-x2-1`), size, machine, port, cores, memory_mib and disc_gb.
    """
    names = [(size, number) for size, count in counts.items() for number in range(1, count + 1)]
    return [
        {
            "name": f"{size}-{number}",
            "size": size,
            "machine": machines[index % len(machines)],
            "port": FIRST_PORT + index,
            "cores": sizes[size]["cores"],
            "memory_mib": sizes[size]["memory_gib"] * MIB_IN_GIB,
            "disc_gb": sizes[size]["disc_gb"],
        }
        for index, (size, number) in enumerate(names)
    ]


def node_units(nodes: Sequence[Mapping[str, Any]], restart_on: Sequence[str]) -> list[dict[str, Any]]:
    """Describe the nodes' systemd units for the module `services`."""
    return [
        {
            "name": f"slurmd@{node['name']}.service",
            "state": "started",
            "enabled": True,
            "restart_on": list(restart_on),
        }
        for node in nodes
    ]


def account_list(platforms: Sequence[Mapping[str, Any]], submit_factor: int) -> list[dict[str, Any]]:
    """Describe resolved platforms for the module `slurm_accounts`: one account and one user each.

    Args:
        platforms: as `resolved_platforms` gives them.
        submit_factor: jobs that may be there, running or waiting, for each one that may run.
    """
    return [
        {
            "name": platform["name"],
            "users": [platform["name"]],
            "limits": {
                "GrpTRES": {
                    "cpu": platform["quota"]["cores"],
                    "mem": platform["quota"]["memory_gib"] * MIB_IN_GIB,
                    **_disc(platform),
                },
                "GrpJobs": platform["limits"]["jobs"],
                "GrpSubmitJobs": platform["limits"]["jobs"] * submit_factor,
                "MaxTRESPerJob": {
                    "cpu": platform["limits"]["cores"],
                    "mem": platform["limits"]["memory_gib"] * MIB_IN_GIB,
                },
                "MaxWall": platform["limits"]["walltime_minutes"],
            },
        }
        for platform in platforms
    ]


def _disc(platform: Mapping[str, Any]) -> dict[str, int]:
    """Give the disc's part of the quota; nothing where the site's Slurm does not count discs."""
    tres = platform.get("physical", {}).get("disc_tres", "gres/disk")
    return {tres: platform["quota"]["disc_gb"]} if tres else {}


def account_users(platforms: Sequence[Mapping[str, Any]], jobs_root: str) -> list[dict[str, Any]]:
    """List the platforms' unix users for `platform_users`, at home where their jobs' directories are."""
    return [
        {"name": platform["name"], "uid": platform["uid"], "home": f"{jobs_root}/{platform['name']}"}
        for platform in platforms
    ]


class FilterModule:
    """Filters whose names begin with `slurm_`."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as Jinja knows them."""
        return {
            "slurm_virtual_nodes": virtual_nodes,
            "slurm_node_units": node_units,
            "slurm_account_list": of_cluster(account_list),
            "slurm_account_users": of_cluster(account_users),
        }
