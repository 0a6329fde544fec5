"""What must be done to have the machines of one testbed on an OpenStack cloud: pure, nothing here asks a cloud.

What belongs to a testbed carries its mark: servers in their metadata, networks and their kin in their description, from
the first moment, and as a tag, key pairs and server groups, which have neither, in their name. Nothing without the mark
is changed or deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils import openstack_volumes
from ansible.module_utils.openstack_things import (
    MARK,
    Current,
    Desired,
    Flavor,
    Floating,
    Group,
    Limit,
    Machine,
    Rule,
    Server,
    Size,
    Step,
    Thing,
    Volume,
)

__all__ = [
    "MARK",
    "Current",
    "Desired",
    "Flavor",
    "Floating",
    "Group",
    "Limit",
    "Machine",
    "Rule",
    "Server",
    "Size",
    "Step",
    "Thing",
    "Volume",
]

MACHINE = "caesar-machine"
GROUPS = "caesar-groups"
#: States of a server that there is nothing to save of. In all others it may have what somebody needs.
BROKEN = frozenset({"ERROR", "DELETED", "SOFT_DELETED"})
#: States of a server that does not run, and what the compute service calls the way out of it.
STOPPED = {
    "SHUTOFF": "os-start",
    "PAUSED": "unpause",
    "SUSPENDED": "resume",
    "RESCUE": "unrescue",
    "SHELVED": "unshelve",
    "SHELVED_OFFLOADED": "unshelve",
}
#: What every new security group has by itself: everything may go out, for IPv4 and IPv6.
DEFAULT_RULES = 2


def same_key(one: str, other: str) -> bool:
    """Tell whether two public keys are the same, whatever their comments."""
    return one.split()[:2] == other.split()[:2]


def chosen(desired: Desired, current: Current) -> tuple[dict[str, Server], list[tuple[Server, str]]]:
    """Divide the servers into those that stay, by machine, and those that go, with the reason."""
    stay: dict[str, Server] = {}
    go: list[tuple[Server, str]] = []
    wanted = {machine.name for machine in desired.machines}
    order = sorted(current.servers, key=lambda server: (server.status != "ACTIVE", server.id))
    for server in order:
        if server.machine not in wanted:
            go.append((server, "the inventory has no such machine"))
        elif server.status in BROKEN:
            go.append((server, f"it is {server.status}" + (f": {server.fault}" if server.fault else "")))
        elif server.machine in stay:
            go.append((server, "it is there twice"))
        elif server.machine in desired.rebuild and server.volume and not current.rewrites_volumes:
            go.append((server, "a rebuild was asked for, and this cloud cannot write its boot volume anew"))
        else:
            stay[server.machine] = server
    return stay, go


def plan(desired: Desired, current: Current) -> list[Step]:
    """Say what must be done, in this order, so that the testbed is as it should be."""
    stay, go = chosen(desired, current)
    steps = [Step("delete server", s.machine, why, {"id": s.id}) for s, why in sorted(go, key=lambda item: item[0].id)]
    for size in sorted({machine.size for machine in desired.machines if machine.name not in stay}):
        if desired.flavors[size] not in current.flavors:
            steps.append(Step("create flavor", desired.flavors[size], "there is none", {"size": size}))
    key = current.key_pairs.get(desired.own)
    if key is not None and not same_key(key, desired.public_key):
        steps.append(Step("delete key pair", desired.own, "it is of another key"))
    if key is None or steps[-1:] == [Step("delete key pair", desired.own, "it is of another key")]:
        steps.append(Step("create key pair", desired.own, "there is none"))
    steps += _network(desired, current)
    steps += _security(desired, current)
    for group in sorted(desired.apart):
        if group not in current.server_groups:
            steps.append(Step("create server group", group, "there is none"))
    steps += openstack_volumes.created(desired, current)
    steps += _servers(desired, current, stay, go)
    steps += openstack_volumes.attached(desired, current, stay)
    steps += _floating(desired, current, stay)
    return steps


def _network(desired: Desired, current: Current) -> list[Step]:
    steps = []
    for kind, things in (("network", current.networks), ("subnet", current.subnets), ("router", current.routers)):
        if not things:
            steps.append(Step(f"create {kind}", desired.testbed, "there is none"))
        steps += [Step(f"tag {kind}", desired.testbed, "it has no tag", {"id": t.id}) for t in things if not t.tagged]
    if not current.subnets or not current.routers or current.subnets[0].id not in current.joined:
        steps.append(Step("join subnet", desired.testbed, "the router has no interface in it"))
    return steps


def _security(desired: Desired, current: Current) -> list[Step]:
    steps = []
    for name in sorted(desired.security_groups):
        group = current.security_groups.get(name)
        if group is None:
            steps.append(Step("create security group", name, "there is none"))
        elif not group.tagged:
            steps.append(Step("tag security group", name, "it has no tag", {"id": group.id}))
    # Groups first, for rules speak of groups.
    for name, rules in sorted(desired.security_groups.items()):
        group = current.security_groups.get(name)
        have = dict(group.rules) if group else {}
        for rule in sorted(rules - have.keys()):
            steps.append(
                Step("create rule", f"{name}: {in_words(rule)}", "it is not let in", {"in": name, "rule": rule})
            )
        for rule in sorted(have.keys() - rules):
            steps.append(Step("delete rule", f"{name}: {in_words(rule)}", "nothing here needs it", {"id": have[rule]}))
    return steps


def groups_of(desired: Desired, machine: Machine) -> frozenset[str]:
    """Give the security groups of a machine, by their short names."""
    wanted = {"inside", *machine.groups, *(["entry"] if machine.name == desired.entry else [])}
    return frozenset(wanted & desired.security_groups.keys())


def apart_of(desired: Desired, machine: Machine) -> str | None:
    """Name the server group of a machine; it is in one at most."""
    return next((name for name, members in sorted(desired.apart.items()) if machine.name in members), None)


def in_turn(desired: Desired, steps: Iterable[Step]) -> list[list[Step]]:
    """Divide steps that make servers into lists that may go side by side, each of them one after the other.

    Where machines must be apart the cloud's scheduler must know where one is before it places the next: it places those
    that come at once on the same host, sees that too late, and gives up after a few tries.
    """
    found: dict[str, list[Step]] = {}
    for step in steps:
        group = apart_of(desired, step.data["machine"]) if desired.policy == "anti-affinity" else None
        found.setdefault(f"of {group}" if group else f"alone {step.subject}", []).append(step)
    return list(found.values())


def _servers(
    desired: Desired, current: Current, stay: Mapping[str, Server], go: Iterable[tuple[Server, str]]
) -> list[Step]:
    made, steps = [], []
    state = {volume.id for volume in current.volumes}
    in_use = {server.address for server in stay.values()} | current.others
    for machine in desired.machines:
        server, listed = stay.get(machine.name), ",".join(sorted(machine.groups))
        if server is None:
            address = desired.addresses.get(machine.name, "")
            data: dict[str, Any] = {"machine": machine, "address": "" if address in in_use else address}
            made.append(Step("create server", machine.name, "there is none", data))
            volumes = {volume for gone, _ in go if gone.machine == machine.name for volume in gone.kept_volumes}
            # That of its state comes with it.
            for volume in sorted(volumes - state):
                steps.append(Step("attach volume", machine.name, f"it had {volume} before", {"volume": volume}))
            continue
        if server.status in STOPPED:
            data = {"id": server.id, "action": STOPPED[server.status]}
            steps.append(Step("start server", machine.name, f"it is {server.status}", data))
        # After the start, for a stopped server is stopped after it too.
        if machine.name in desired.rebuild:
            data = {"id": server.id, "machine": machine, "volume": server.volume}
            steps.append(Step("rebuild server", machine.name, "it was asked for", data))
        if server.groups != listed:
            why = f"it has {server.groups or 'none'}"
            steps.append(Step("set groups", machine.name, why, {"id": server.id, "groups": listed}))
        if server.port and server.security_groups != groups_of(desired, machine):
            has = ", ".join(sorted(server.security_groups)) or "none"
            data = {"port": server.port, "groups": sorted(groups_of(desired, machine))}
            steps.append(Step("set security groups", machine.name, f"it has {has}", data))
    return [*made, *steps]


def _floating(desired: Desired, current: Current, stay: Mapping[str, Server]) -> list[Step]:
    steps: list[Step] = []
    keep, *extra = current.floating or (None,)
    steps += [Step("delete address", item.address, "one is enough", {"id": item.id}) for item in extra if item]
    entry = stay.get(desired.entry)
    if keep is None:
        steps.append(Step("create address", desired.entry, "there is none"))
    elif not keep.tagged:
        steps.append(Step("tag address", keep.address, "it has no tag", {"id": keep.id}))
    if keep and (entry is None or keep.port != entry.port or not entry.port):
        steps.append(Step("give address", desired.entry, f"{keep.address} is not its own", {"id": keep.id}))
    return steps


#: Actions for which it must be known what the cloud offers and what the project may have.
TAKES = ("create ", "join ", "rebuild ")


def takes(steps: Iterable[Step]) -> bool:
    """Tell whether steps take anything of the cloud that the testbed does not have yet."""
    return any(step.action.startswith(TAKES) for step in steps)


def since(before: Current, after: Current) -> Current:
    """Give what is there now and was not before: what a run made.

    The network stays where a part of it was there: it is in nobody's way, and the next run uses it.
    """
    had = {server.id for server in before.servers} | {item.id for item in before.floating}
    had |= {volume.id for volume in before.volumes}
    network = not (before.networks or before.subnets or before.routers)
    return Current(
        key_pairs={} if before.key_pairs else after.key_pairs,
        networks=after.networks if network else (),
        subnets=after.subnets if network else (),
        routers=after.routers if network else (),
        joined=after.joined if network else frozenset(),
        security_groups={n: g for n, g in after.security_groups.items() if n not in before.security_groups},
        server_groups={n: i for n, i in after.server_groups.items() if n not in before.server_groups},
        servers=tuple(server for server in after.servers if server.id not in had),
        floating=tuple(item for item in after.floating if item.id not in had),
        volumes=tuple(volume for volume in after.volumes if volume.id not in had),
    )


def plan_removal(current: Current, testbed: str) -> list[Step]:
    """Say what must be done, in this order, so that nothing of the testbed is left."""
    steps = [Step("delete address", item.address, "it is the testbed's", {"id": item.id}) for item in current.floating]
    for server in sorted(current.servers, key=lambda item: item.id):
        steps.append(Step("delete server", server.machine, "it is the testbed's", {"id": server.id}))
    why = "it is the testbed's"
    steps += [Step("delete volume", v.machine, why, {"id": v.id}) for v in sorted(current.volumes, key=lambda v: v.id)]
    steps += [Step("delete server group", n, why, {"id": i}) for n, i in sorted(current.server_groups.items())]
    steps += [Step("delete router", testbed, why, {"id": item.id}) for item in current.routers]
    steps += [Step("delete network", testbed, why, {"id": item.id}) for item in current.networks]
    for name, group in sorted(current.security_groups.items()):
        steps.append(Step("delete security group", name, why, {"id": group.id}))
    steps += [Step("delete key pair", name, why) for name in sorted(current.key_pairs)]
    return steps


def in_words(rule: Rule) -> str:
    """Say what a rule lets in."""
    ports = "" if not rule.high else f" {rule.low}" if rule.low == rule.high else f" {rule.low}-{rule.high}"
    return f"{rule.protocol}{ports} from {rule.group or rule.cidr}"


def security_groups(
    machines: Iterable[Machine], wanted: Iterable[Mapping[str, Any]], ssh_from: Iterable[str]
) -> dict[str, frozenset[Rule]]:
    """Make the security groups of the parts that there are.

    Each of `wanted` says to: group, from: groups, protocol and ports ("6817" or "6800-6899", none for all). `inside` is
    all machines; ssh goes from `ssh_from` to the entry machine, and from there to all.
    """
    there = {group for machine in machines for group in machine.groups} | {"inside", "entry"}
    made: dict[str, set[Rule]] = {
        "entry": {Rule("tcp", 22, 22, cidr=cidr) for cidr in ssh_from},
        "inside": {Rule("tcp", 22, 22, group="entry"), Rule("icmp", group="inside")},
    }
    for one in wanted:
        low, _, high = str(one.get("ports", "0")).partition("-")
        for source in one["from"]:
            if one["to"] in there and source in there:
                rule = Rule(str(one.get("protocol", "tcp")), int(low), int(high or low), group=source)
                made.setdefault(one["to"], set()).add(rule)
    # A group that others let in must exist, though it lets in nothing itself.
    for rules in list(made.values()):
        for rule in list(rules):
            if rule.group:
                made.setdefault(rule.group, set())
    return {name: frozenset(rules) for name, rules in made.items()}
