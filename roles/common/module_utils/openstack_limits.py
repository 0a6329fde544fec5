"""What a cloud lacks for a testbed's machines, and which limits of the project are too low: said before all else.

Pure, nothing here asks a cloud.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence

from ansible.module_utils import openstack_volumes
from ansible.module_utils.openstack_plan import (
    DEFAULT_RULES,
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


def faults(desired: Desired, current: Current, steps: Sequence[Step]) -> list[str]:
    """Say what the cloud lacks for these steps, and what of the testbed cannot be as it should, a sentence for each."""
    return [*_flavors(desired, current, steps), *_image(desired, current, steps), *_things(desired, current)]


def _flavors(desired: Desired, current: Current, steps: Sequence[Step]) -> Iterator[str]:
    volumes = desired.boot_volumes and current.block_storage
    for size_name in sorted({step.data["machine"].size for step in steps if step.action == "create server"}):
        size, name = desired.sizes[size_name], desired.flavors[size_name]
        flavor = current.flavors.get(name)
        means = f"{size.cores} cores, {size.memory_gib:g} GiB, {size.disc_gb} GB"
        if flavor is not None and not matches(size, flavor, volumes):
            has = f"{flavor.cores} cores, {flavor.memory_mib / 1024:g} GiB, {flavor.disc_gb} GB"
            yield f"flavor {name} has {has}, but {size_name} means {means}" + fitting(size, current, volumes)
        elif flavor is None and not current.may_make_flavors:
            yield (
                f"there is no flavor {name} ({means}), and this credential may not make one"
                + fitting(size, current, volumes)
            )


def _image(desired: Desired, current: Current, steps: Sequence[Step]) -> Iterator[str]:
    made = {step.data["machine"].size for step in steps if step.action in ("create server", "rebuild server")}
    if not made:
        return
    if desired.image not in current.images:
        there = sorted(current.images)
        near = difflib.get_close_matches(desired.image, there, 8, 0.3) or there[:8]
        known = f"those that are: {', '.join(near)}" if near else "the project sees none"
        yield f"there is no image {desired.image} (openstack_machines_image); {known}"
        return
    for name in sorted(made):
        size = desired.sizes[name]
        if size.disc_gb < current.image_disc_gb or round(size.memory_gib * 1024) < current.image_memory_mib:
            wants = f"{current.image_memory_mib / 1024:g} GiB of memory and {current.image_disc_gb} GB of disc"
            yield (
                f"image {desired.image} wants {wants} at least, and {name} has {size.memory_gib:g} GiB and "
                f"{size.disc_gb} GB: give its machines another openstack_size, or another image"
            )


def _things(desired: Desired, current: Current) -> Iterator[str]:
    if desired.external_network not in current.external_networks:
        there = ", ".join(sorted(current.external_networks)) or "none"
        yield (
            f"there is no network {desired.external_network} to the outside (openstack_machines_external_network); "
            f"those that are: {there}"
        )
    for subnet in current.subnets:
        if subnet.cidr and subnet.cidr != desired.cidr:
            yield (
                f"the machines' network is {subnet.cidr}, and openstack_machines_cidr is {desired.cidr}: a network "
                "in use keeps its addresses; change it back, or take the testbed down first"
            )
    for group in sorted(desired.apart.keys() & current.policies.keys()):
        if current.policies[group] != desired.policy:
            yield (
                f"the machines of {group} are kept apart by {current.policies[group]}, and openstack_machines_policy "
                f"is {desired.policy}: a cloud cannot change that later; change it back, or take the testbed down first"
            )
    yield from openstack_volumes.faults(desired, current)
    stay = chosen(desired, current)[0]
    key = current.key_pairs.get(desired.own, "")
    if key and desired.public_key and not same_key(key, desired.public_key) and stay:
        yield (
            f"the machines let in another key than the state directory's, {key.split()[1][-12:]}: they were made from "
            "another state directory; run from where that is, or take them down first"
        )
    for machine in desired.machines:
        server = stay.get(machine.name)
        if server and server.flavor != desired.flavors[machine.size]:
            yield (
                f"machine {machine.name} is of flavor {server.flavor} and should be {desired.flavors[machine.size]}: "
                "a machine in use is not made anew by itself; remove it, or change its size back"
            )


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
            gone_too = set(server.volumes) - set(server.kept_volumes)
            for size_gb in (current.volume_gb[one] for one in gone_too if one in current.volume_gb):
                take("volumes", -1)
                take("volume gigabytes", -size_gb)
        elif step.action == "create volume":
            take("volumes")
            take("volume gigabytes", step.data["size_gb"])
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


def not_apart(desired: Desired, why: Mapping[str, str]) -> str:
    """Say which machines could not be kept apart, and what would help."""
    told = "".join(f"\n- {name}: {fault}" for name, fault in sorted(why.items()))
    groups = [group for group, members in sorted(desired.apart.items()) if set(members) & why.keys()]
    sizes = " and ".join(f"{len(desired.apart[group])} of {group}" for group in groups)
    return (
        f"the cloud has no host of its own for each of the {sizes} (openstack_machines_policy: anti-affinity); what "
        "this run made has been taken back. Have fewer of them, or openstack_machines_policy: soft-anti-affinity. The "
        f"cloud says:{told}"
    )
