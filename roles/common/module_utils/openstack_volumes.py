"""Volumes for what must outlive a machine on a cloud: one for each machine that keeps state. Pure.

One is made where there is none, given to a new server when that is made, and attached to one that is there already. It
outlives its server whatever happens to that, and goes with the testbed alone: that of a machine which the inventory has
no more stays until then too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ansible.module_utils.openstack_things import Current, Desired, Server, Step, Volume

#: States of a volume that a server is getting, or has.
TAKEN = frozenset({"reserved", "attaching", "in-use"})
#: States of a server to which a volume can be attached, once it is started or built.
TAKES = frozenset({"ACTIVE", "BUILD", "SHUTOFF", "PAUSED", "SUSPENDED", "RESCUE", "SHELVED", "SHELVED_OFFLOADED"})


def by_machine(volumes: Iterable[Volume]) -> dict[str, list[Volume]]:
    """Give each machine's volumes; more than one is a fault."""
    found: dict[str, list[Volume]] = {}
    for volume in volumes:
        found.setdefault(volume.machine, []).append(volume)
    return found


def wanted(desired: Desired, current: Current) -> dict[str, int]:
    """Give the gigabytes of each machine's volume, none where the cloud has no block storage."""
    return dict(desired.state_gb) if current.block_storage else {}


def created(desired: Desired, current: Current) -> list[Step]:
    """Say which volumes must be made."""
    there = by_machine(current.volumes)
    return [
        Step("create volume", name, "its state has none", {"size_gb": size})
        for name, size in sorted(wanted(desired, current).items())
        if name not in there
    ]


def attached(desired: Desired, current: Current, stay: Mapping[str, Server]) -> list[Step]:
    """Say which servers that are there must get their volume; a new one gets it when it is made."""
    there, steps = by_machine(current.volumes), []
    for name in sorted(wanted(desired, current).keys() & stay.keys()):
        server, volume = stay[name], there.get(name, [None])[0]
        if server.status not in TAKES or (volume and volume.status in TAKEN and server.id in volume.servers):
            continue
        # Whose it will be is not told yet; a server that is going to be deleted has it until then.
        if volume and volume.status in TAKEN and not volume.servers:
            continue
        steps.append(Step("attach volume", name, "its state is to lie on it", {"server": server.id}))
    return steps


def faults(desired: Desired, current: Current) -> list[str]:
    """Say why what is on the volumes of state cannot be kept, or used, a sentence for each."""
    found = []
    sizes, machine_of = wanted(desired, current), {server.id: server.machine for server in current.servers}
    for name, volumes in sorted(by_machine(current.volumes).items()):
        if name not in sizes:
            continue
        if len(volumes) > 1:
            listed = " and ".join(sorted(volume.id for volume in volumes))
            found.append(
                f"machine {name} has {len(volumes)} volumes of state, {listed}, and only you know which is the right "
                "one: delete the other, or take its metadata away"
            )
            continue
        [volume] = volumes
        strangers = [server for server in volume.servers if machine_of.get(server) != name]
        if volume.status.startswith("error"):
            found.append(
                f"the volume of machine {name}, {volume.id}, is in state {volume.status}: the cloud's people can say "
                "why; delete it only where nothing on it is needed, and the next run makes another"
            )
        elif strangers:
            found.append(
                f"the volume of machine {name}, {volume.id}, is attached to {strangers[0]}, which is not that machine: "
                "detach it there"
            )
        elif volume.size_gb < sizes[name]:
            found.append(
                f"the volume of machine {name} has {volume.size_gb} GB and should have {sizes[name]}: one in use is "
                f"not made larger by itself; extend it (cinder extend {volume.id} {sizes[name]}, then resize2fs on the "
                f"machine), or give the machine openstack_state_gb: {volume.size_gb}"
            )
    return found
