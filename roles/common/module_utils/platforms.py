"""The inventory's list of virtual platforms: what it means, and what is wrong with it.

Pure: nothing here reads a file or asks a cluster. Memory is in GiB, disc in GB, walltime in minutes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from ansible.module_utils.site_inventory import SITE_KEYS

KINDS = ("slurm", "kubernetes")
SIZE_KEYS = ("cores", "memory_gib", "disc_gb")
LIMIT_KEYS = ("cores", "memory_gib", "walltime", "jobs")
COST_KEYS = ("monetary", "energy", "carbon")
PLATFORM_KEYS = ("name", "physical_platform", "uid", "port", "quota", "limits", "costs", "metrics", "planner")
PHYSICAL_KEYS = {
    "slurm": ("kind", "parent_account", "nodes", *SITE_KEYS["slurm"]),
    "kubernetes": ("kind", "cpu_allocation_ratio", *SITE_KEYS["kubernetes"]),
}
#: What Slurm keeps unchanged as an account's name and Kubernetes takes as a namespace's.
NAME = re.compile(r"[a-z]([-a-z0-9]{0,30}[a-z0-9])?")
#: ISO 8601, section 5.5.2.2, without years and months, whose length is not fixed.
DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?=\d)(?:(\d+)H)?(?:(\d+)M)?)?")
#: Uids below are Debian's own, those from 60000 on systemd's; ports below 1024 are root's.
UIDS = range(1000, 60000)
PORTS = range(1024, 65536)


def walltime_minutes(text: Any) -> int:
    """Minutes of an ISO 8601 duration of days, hours and minutes.

    Raises:
        ValueError: where the text is no such duration or a duration of nothing.

    >>> walltime_minutes("P1DT2H30M")
    1590
    """
    match = DURATION.fullmatch(text) if isinstance(text, str) else None
    minutes = 0
    if match:
        days, hours, rest = (int(part or 0) for part in match.groups())
        minutes = (days * 24 + hours) * 60 + rest
    if not minutes:
        raise ValueError(f"{text!r} is no duration such as PT2H, PT90M or P1D")
    return minutes


def resolve(
    virtual: Sequence[Mapping[str, Any]],
    physical: Mapping[str, Mapping[str, Any]],
    sizes: Mapping[str, Mapping[str, int]],
) -> list[dict[str, Any]]:
    """The list with sizes in place of their names and the physical platform's kind beside each.

    Expects a list that `faults` finds nothing wrong with.
    """
    return [
        {
            **platform,
            "kind": physical[platform["physical_platform"]]["kind"],
            "physical": dict(physical[platform["physical_platform"]], name=platform["physical_platform"]),
            "quota": dict(sizes[platform["quota"]] if isinstance(platform["quota"], str) else platform["quota"]),
            "limits": {
                **platform["limits"],
                "walltime_minutes": walltime_minutes(platform["limits"]["walltime"]),
            },
            "costs": dict(platform.get("costs") or {}),
            "metrics": dict(platform.get("metrics") or {}),
            "planner": platform.get("planner", True),
        }
        for platform in virtual
    ]


def faults(virtual: Any, physical: Any, sizes: Any, reserved_ports: Mapping[int, str] | None = None) -> list[str]:
    """Everything that is wrong with the inventory, one sentence each: variable, value, what would be right."""
    found = [*_sizes(sizes), *_physical(physical, sizes if isinstance(sizes, Mapping) else {})]
    if not isinstance(virtual, Sequence) or isinstance(virtual, str):
        return [*found, f"virtual_platforms is {_shown(virtual)}: give a list of platforms"]
    found += _names(virtual)
    for index, platform in enumerate(virtual):
        found += _platform(f"virtual_platforms[{index}]", platform, physical, sizes)
    for key, what in (("uid", "unix user"), ("port", "planner")):
        found += _duplicates(virtual, key, f"each {what} needs one of its own")
    return [*found, *_reserved(virtual, reserved_ports or {})]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _amounts(where: str, amounts: Any, keys: Sequence[str]) -> Iterator[str]:
    """Faults of a mapping from each key to a positive whole number."""
    if not isinstance(amounts, Mapping):
        yield f"{where} is {_shown(amounts)}: give a mapping with {', '.join(keys)}"
        return
    for key in keys:
        if key not in amounts:
            yield f"{where}.{key} is missing: give a whole number above zero"
        elif not _whole(amounts[key]):
            unit = {"memory_gib": " of GiB", "disc_gb": " of GB"}.get(key, "")
            yield f"{where}.{key} is {_shown(amounts[key])}: give a whole number{unit}, without quotes or unit"
        elif amounts[key] <= 0:
            yield f"{where}.{key} is {amounts[key]}: give a whole number above zero"


def _unknown(where: str, mapping: Mapping[str, Any], known: Sequence[str]) -> Iterator[str]:
    for key in mapping:
        if key not in known:
            yield f"{where} has the unknown key {key!r}: known are {', '.join(known)}"


def _sizes(sizes: Any) -> Iterator[str]:
    if not isinstance(sizes, Mapping) or not sizes:
        yield f"desktop_sizes is {_shown(sizes)}: give a mapping from a size's name to {', '.join(SIZE_KEYS)}"
        return
    for name, size in sizes.items():
        yield from _amounts(f"desktop_sizes.{name}", size, SIZE_KEYS)
        if isinstance(size, Mapping):
            yield from _unknown(f"desktop_sizes.{name}", size, SIZE_KEYS)


def _physical(physical: Any, sizes: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(physical, Mapping) or not physical:
        yield f"physical_platforms is {_shown(physical)}: give a mapping from a cluster's name to its kind"
        return
    for name, cluster in physical.items():
        where = f"physical_platforms.{name}"
        kind = cluster.get("kind") if isinstance(cluster, Mapping) else None
        if kind not in KINDS:
            yield f"{where}.kind is {_shown(kind)}: give {' or '.join(KINDS)}"
            continue
        yield from _unknown(where, cluster, PHYSICAL_KEYS[kind])
        yield from (_slurm if kind == "slurm" else _kubernetes)(where, cluster, sizes)


def _slurm(where: str, cluster: Mapping[str, Any], sizes: Mapping[str, Any]) -> Iterator[str]:
    parent = cluster.get("parent_account")
    if not isinstance(parent, str) or not NAME.fullmatch(parent):
        yield f"{where}.parent_account is {_shown(parent)}: give a name of lower-case letters, digits and hyphens"
    if "partition" in cluster and "nodes" not in cluster:
        return  # a site's; see site_inventory
    nodes = cluster.get("nodes")
    if not isinstance(nodes, Mapping) or not nodes:
        yield f"{where}.nodes is {_shown(nodes)}: give a mapping from a size to a number of nodes"
        return
    for size, count in nodes.items():
        if size not in sizes:
            yield f"{where}.nodes names the unknown size {size!r}: known are {', '.join(sizes)}"
        if not _whole(count) or count <= 0:
            yield f"{where}.nodes.{size} is {_shown(count)}: give a whole number above zero"


def _kubernetes(where: str, cluster: Mapping[str, Any], sizes: Mapping[str, Any]) -> Iterator[str]:
    ratio = cluster.get("cpu_allocation_ratio", 1)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or ratio < 1:
        yield f"{where}.cpu_allocation_ratio is {_shown(ratio)}: give a number of at least 1"


def _names(virtual: Sequence[Any]) -> Iterator[str]:
    for index, platform in enumerate(virtual):
        name = platform.get("name") if isinstance(platform, Mapping) else None
        if not isinstance(name, str) or not NAME.fullmatch(name):
            yield (
                f"virtual_platforms[{index}].name is {_shown(name)}: give 1 to 32 lower-case letters, digits and "
                "hyphens, a letter first"
            )
    yield from _duplicates(virtual, "name", "give each platform a name of its own")


def _duplicates(virtual: Sequence[Any], key: str, advice: str) -> Iterator[str]:
    first: dict[Any, int] = {}
    for index, platform in enumerate(virtual):
        value = platform.get(key) if isinstance(platform, Mapping) else None
        if not isinstance(value, str | int):
            continue
        if value in first:
            yield (
                f"virtual_platforms[{index}].{key} is {value!r}, as that of virtual_platforms[{first[value]}]: {advice}"
            )
        first.setdefault(value, index)


def _reserved(virtual: Sequence[Any], reserved: Mapping[int, str]) -> Iterator[str]:
    for index, platform in enumerate(virtual):
        port = platform.get("port") if isinstance(platform, Mapping) else None
        if isinstance(port, int) and port in reserved:
            yield f"virtual_platforms[{index}].port is {port}, where the {reserved[port]} listens: give another"


def _platform(where: str, platform: Any, physical: Any, sizes: Any) -> Iterator[str]:
    if not isinstance(platform, Mapping):
        yield f"{where} is {_shown(platform)}: give a mapping with {', '.join(PLATFORM_KEYS)}"
        return
    yield from _unknown(where, platform, PLATFORM_KEYS)
    for key, allowed in (("uid", UIDS), ("port", PORTS)):
        value: Any = platform.get(key)
        # Not `in`: Ansible's numbers are a subclass, and a range looks for those one by one.
        if not _whole(value) or not allowed.start <= value < allowed.stop:
            yield f"{where}.{key} is {_shown(value)}: give a whole number from {allowed.start} to {allowed.stop - 1}"
    on = platform.get("physical_platform")
    cluster = physical.get(on) if isinstance(physical, Mapping) and isinstance(on, str) else None
    if cluster is None:
        known = ", ".join(physical) if isinstance(physical, Mapping) else "none"
        yield f"{where}.physical_platform is {_shown(on)}: known are {known}"
    quota = platform.get("quota")
    if isinstance(quota, str):
        if not isinstance(sizes, Mapping) or quota not in sizes:
            known = ", ".join(sizes) if isinstance(sizes, Mapping) else "none"
            keys = ", ".join(SIZE_KEYS)
            yield f"{where}.quota is {quota!r}, which is no size: known are {known}; or give a mapping with {keys}"
        else:
            quota = sizes[quota]
    else:
        yield from _amounts(f"{where}.quota", quota, SIZE_KEYS)
        if isinstance(quota, Mapping):
            yield from _unknown(f"{where}.quota", quota, SIZE_KEYS)
    yield from _limits(where, platform.get("limits"), quota)
    yield from _rates(f"{where}.costs", platform.get("costs"), COST_KEYS)
    yield from _rates(f"{where}.metrics", platform.get("metrics"), None)
    if not isinstance(platform.get("planner", True), bool):
        yield (
            f"{where}.planner is {_shown(platform['planner'])}: give true, or false for an account or namespace that "
            "nobody makes offers for"
        )
    if isinstance(cluster, Mapping) and cluster.get("kind") == "slurm":
        yield from _held(where, on, quota, platform.get("limits"), cluster, sizes)


def _limits(where: str, limits: Any, quota: Any) -> Iterator[str]:
    yield from _amounts(f"{where}.limits", limits, ("cores", "memory_gib", "jobs"))
    if not isinstance(limits, Mapping):
        return
    yield from _unknown(f"{where}.limits", limits, LIMIT_KEYS)
    try:
        walltime_minutes(limits.get("walltime"))
    except ValueError as error:
        yield f"{where}.limits.walltime is {_shown(limits.get('walltime'))}: {error}"
    for key in ("cores", "memory_gib"):
        limit, total = limits.get(key), quota.get(key) if isinstance(quota, Mapping) else None
        if isinstance(limit, int) and isinstance(total, int) and limit > total:
            yield f"{where}.limits.{key} is {limit}, above its quota of {total}: give at most {total}"


def _rates(where: str, rates: Any, known: Sequence[str] | None) -> Iterator[str]:
    if rates is None:
        return
    if not isinstance(rates, Mapping):
        yield f"{where} is {_shown(rates)}: give a mapping from a name to a number"
        return
    if known:
        yield from _unknown(where, rates, known)
    for key, value in rates.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            yield f"{where}.{key} is {_shown(value)}: give a number, zero or more"


def _held(where: str, on: Any, quota: Any, limits: Any, cluster: Mapping[str, Any], sizes: Any) -> Iterator[str]:
    """A quota must fit on the cluster's nodes together, a limit on one of them."""
    nodes = cluster.get("nodes")
    if not isinstance(nodes, Mapping) or not isinstance(sizes, Mapping):
        return
    held = [
        (sizes[size], count)
        for size, count in nodes.items()
        if isinstance(sizes.get(size), Mapping) and _whole(count) and all(_whole(sizes[size].get(k)) for k in SIZE_KEYS)
    ]
    if not held:
        return
    for key in SIZE_KEYS:
        total = sum(size[key] * count for size, count in held)
        asked = quota.get(key) if isinstance(quota, Mapping) else None
        if _whole(asked) and asked > total:
            yield f"{where}.quota.{key} is {asked}, but all nodes of {on} together hold {total}: give at most {total}"
    for key in ("cores", "memory_gib"):
        largest = max(size[key] for size, _ in held)
        asked = limits.get(key) if isinstance(limits, Mapping) else None
        if _whole(asked) and asked > largest:
            yield f"{where}.limits.{key} is {asked}, but the largest node of {on} has {largest}: give at most {largest}"
