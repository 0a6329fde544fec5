"""What a cloud lacks for a testbed's machines, and which limits of the project are too low: said before all else.

Pure, nothing here asks a cloud.
"""

from __future__ import annotations

from collections.abc import Sequence

from ansible.module_utils.openstack_plan import (
    DEFAULT_RULES,
    GOOD,
    STOPPED,
    Current,
    Desired,
    Flavor,
    Size,
    Step,
    chosen,
    same_key,
)


def matches(size: Size, flavor: Flavor, volumes: bool) -> bool:
    """Tell whether a flavor is of a size; where discs are volumes, the flavor's own disc does not matter."""
    disc = volumes or flavor.disc_gb >= size.disc_gb
    return flavor.cores == size.cores and flavor.memory_mib == round(size.memory_gib * 1024) and disc


def faults(desired: Desired, current: Current) -> list[str]:
    """Say what the cloud lacks that a testbed cannot do without, a sentence for each."""
    found = []
    volumes = desired.boot_volumes and current.block_storage
    for size_name in sorted({machine.size for machine in desired.machines}):
        size, name = desired.sizes[size_name], desired.flavors[size_name]
        flavor = current.flavors.get(name)
        means = f"{size.cores} cores, {size.memory_gib:g} GiB, {size.disc_gb} GB"
        if flavor is not None and not matches(size, flavor, volumes):
            has = f"{flavor.cores} cores, {flavor.memory_mib / 1024:g} GiB, {flavor.disc_gb} GB"
            found.append(f"flavor {name} has {has}, but {size_name} means {means}" + fitting(size, current, volumes))
        elif flavor is None and not current.may_make_flavors:
            found.append(
                f"there is no flavor {name} ({means}), and this credential may not make one"
                + fitting(size, current, volumes)
            )
    if desired.image not in current.images:
        found.append(f"there is no image {desired.image}")
    if desired.external_network not in current.external_networks:
        there = ", ".join(sorted(current.external_networks)) or "none"
        found.append(f"there is no network {desired.external_network} to the outside; those that are: {there}")
    key = current.key_pairs.get(desired.own, "")
    if key and desired.public_key and not same_key(key, desired.public_key) and chosen(desired, current)[0]:
        found.append(
            f"the machines let in another key than the state directory's, {key.split()[1][-12:]}: they were made from "
            "another state directory; run from where that is, or take them down first"
        )
    wanted = {machine.name: machine for machine in desired.machines}
    for server in current.servers:
        machine = wanted.get(server.machine)
        if machine and server.status in GOOD | STOPPED and server.flavor != desired.flavors[machine.size]:
            found.append(
                f"machine {machine.name} is of flavor {server.flavor} and should be {desired.flavors[machine.size]}: "
                "a machine in use is not made anew by itself; remove it, or change its size back"
            )
    return found


def fitting(size: Size, current: Current, volumes: bool) -> str:
    """Say which of the cloud's flavors would do."""
    names = sorted(name for name, flavor in current.flavors.items() if matches(size, flavor, volumes))
    if not names:
        return "; none of the cloud's flavors is of this size"
    return f"; of this size: {', '.join(names)} (openstack_machines_flavors)"


def needs(desired: Desired, current: Current, steps: Sequence[Step]) -> dict[str, int]:
    """Count what the steps take of the project's limits, minus what they give back."""
    taken: dict[str, int] = {}

    def take(limit: str, amount: int = 1) -> None:
        taken[limit] = taken.get(limit, 0) + amount

    volumes = desired.boot_volumes and current.block_storage
    gone = {server.id: server for server in current.servers}
    for step in steps:
        if step.action == "create server":
            size = desired.sizes[step.data["machine"].size]
            take("instances")
            take("cores", size.cores)
            take("memory in MiB", round(size.memory_gib * 1024))
            take("ports")
            if volumes:
                take("volumes")
                take("volume gigabytes", size.disc_gb)
        elif step.action == "delete server" and step.data["id"] in gone:
            server = gone[step.data["id"]]
            take("instances", -1)
            take("cores", -server.cores)
            take("memory in MiB", -server.memory_mib)
            if server.port:
                take("ports", -1)
        elif step.action == "create security group":
            take("security groups")
            take("security group rules", DEFAULT_RULES)
        elif step.action in LIMITED:
            take(LIMITED[step.action])
        elif step.action in GIVEN_BACK:
            take(GIVEN_BACK[step.action], -1)
    return taken


LIMITED = {
    "create network": "networks",
    "create subnet": "subnets",
    "create router": "routers",
    "join subnet": "ports",
    "create rule": "security group rules",
    "create server group": "server groups",
    "create key pair": "key pairs",
    "create address": "floating addresses",
}
GIVEN_BACK = {
    "delete rule": "security group rules",
    "delete key pair": "key pairs",
    "delete address": "floating addresses",
}


def short(desired: Desired, current: Current, steps: Sequence[Step]) -> list[str]:
    """Say which limits of the project are too low for these steps, and by how much."""
    found = []
    for name, amount in needs(desired, current, steps).items():
        limit = current.limits.get(name)
        if limit is None or limit.limit is None or amount <= 0:
            continue
        left = limit.limit - limit.used
        if amount > left:
            found.append(
                f"{name}: {amount} needed, {max(left, 0)} left of {limit.limit}, short by {amount - max(left, 0)}"
            )
    return found
