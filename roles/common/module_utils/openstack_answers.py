"""What the services of an OpenStack cloud answer, read: pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils import openstack_plan as op

NETWORK_LIMITS = {
    "network": "networks",
    "subnet": "subnets",
    "router": "routers",
    "port": "ports",
    "floatingip": "floating addresses",
    "security_group": "security groups",
    "security_group_rule": "security group rules",
}


def active(server: Mapping[str, Any]) -> bool:
    """Tell whether a server is up and nothing is being done to it; a rebuild begins while it is still ACTIVE."""
    return server.get("status") == "ACTIVE" and not server.get("OS-EXT-STS:task_state")


def fault_of(server: Mapping[str, Any]) -> str:
    """Give what the cloud says of a server in ERROR."""
    return str((server.get("fault") or {}).get("message") or "it is in ERROR, and the cloud does not say why")


def said(text: str) -> str:
    """Take the message out of an error's body."""
    try:
        body = json.loads(text)
    except ValueError:
        return text[:300]
    inner = next(iter(body.values()), body) if isinstance(body, dict) else body
    return str(inner.get("message", inner) if isinstance(inner, dict) else inner)[:600]


def short_name(name: str, testbed: str) -> str:
    """Give a security group's short name."""
    return name.removeprefix(f"{testbed}-")


def rules_of(group: Mapping[str, Any], names: Mapping[str, str]) -> dict[op.Rule, str]:
    """Read what a security group lets in."""
    found = {}
    for rule in group["security_group_rules"]:
        if rule["direction"] == "ingress":
            source = names.get(rule["remote_group_id"] or "", rule["remote_group_id"] or "")
            low, high = rule["port_range_min"] or 0, rule["port_range_max"] or 0
            cidr = rule["remote_ip_prefix"] or ""
            found[op.Rule(rule["protocol"] or "any", low, high, cidr, source)] = rule["id"]
    return found


def limits_of(found: Mapping[str, Any], key_pairs: int) -> dict[str, op.Limit]:
    """Read the project's limits and what is used of them."""

    def limit(most: int, used: int) -> op.Limit:
        return op.Limit(None if most < 0 else most, used)

    compute = found["limits"]["limits"]["absolute"]
    limits = {
        "instances": limit(compute["maxTotalInstances"], compute["totalInstancesUsed"]),
        "cores": limit(compute["maxTotalCores"], compute["totalCoresUsed"]),
        "memory in MiB": limit(compute["maxTotalRAMSize"], compute["totalRAMUsed"]),
        "server groups": limit(compute["maxServerGroups"], compute.get("totalServerGroupsUsed", 0)),
        "key pairs": limit(compute["maxTotalKeypairs"], key_pairs),
    }
    for name, shown in NETWORK_LIMITS.items():
        quota = found["quota"]["quota"].get(name)
        if quota:
            limits[shown] = limit(quota["limit"], quota["used"] + quota.get("reserved", 0))
    if "volumes" in found:
        volumes = found["volumes"]["limits"]["absolute"]
        limits["volumes"] = limit(volumes["maxTotalVolumes"], volumes["totalVolumesUsed"])
        limits["volume gigabytes"] = limit(volumes["maxTotalVolumeGigabytes"], volumes["totalGigabytesUsed"])
    return limits


def volumes_of(volumes: Iterable[Mapping[str, Any]], testbed: str) -> tuple[op.Volume, ...]:
    """Read a testbed's volumes of state; the list may have others, where a cloud does not look for metadata."""
    return tuple(
        op.Volume(
            id=volume["id"],
            machine=volume["metadata"].get(op.MACHINE, volume["name"]),
            status=volume["status"],
            size_gb=volume["size"],
            servers=tuple(one["server_id"] for one in volume["attachments"] if one.get("server_id")),
        )
        for volume in volumes
        if volume["metadata"].get(op.MARK) == testbed and volume["status"] != "deleting"
    )
