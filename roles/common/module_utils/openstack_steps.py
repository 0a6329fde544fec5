"""Do the steps of a plan for machines on OpenStack: what does not wait for each other is done at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from ansible.module_utils import openstack_plan as op
from ansible.module_utils import openstack_storage as storage
from ansible.module_utils.openstack_cloud import Cloud, Failure, VolumesFailed, in_parallel

#: Kind of thing to the name of its list in the network service.
PLURAL = {
    "network": "networks",
    "subnet": "subnets",
    "router": "routers",
    "security group": "security-groups",
    "address": "floatingips",
}


def do(
    cloud: Cloud,
    desired: op.Desired,
    steps: Sequence[op.Step],
    user_data: Callable[[], tuple[str, str]],
    seconds: float,
) -> None:
    """Do the steps of `openstack_plan.plan`; `user_data` gives a new machine's, and its host key's public part.

    Raises:
        Failure: where the cloud says no or takes too long; the next run goes on from there.
    """
    by_action: dict[str, list[op.Step]] = {}
    for step in steps:
        by_action.setdefault(step.action, []).append(step)

    def of(action: str) -> list[op.Step]:
        return by_action.get(action, [])

    # What must go goes first, and is waited for: its part of the quota is needed.
    _delete_servers(cloud, of("delete server"), seconds)
    # Then only what servers are made with; the way to the outside and the rules come while they are being built.
    in_parallel(
        [
            lambda: _network(cloud, desired, of),
            *(partial(_security_group, cloud, desired, step) for step in of("create security group")),
            lambda: _key_pair(cloud, desired, of),
            *(partial(_compute, cloud, desired, step) for step in steps),
            *(partial(storage.make, cloud, step.subject, step.data["size_gb"]) for step in of("create volume")),
        ]
    )
    _wait_for_volumes(cloud, desired, of, seconds)
    turns = op.in_turn(desired, of("create server"))
    outcomes = in_parallel(
        [
            *(partial(_create_servers, cloud, desired, turn, user_data, seconds) for turn in turns),
            lambda: _outside(cloud, desired, of),
            *_rules(cloud, of),
            *(partial(_change, cloud, step) for step in steps),
            *(partial(cloud.tag, kind, ident) for kind, ident in cloud.untagged),
        ]
    )
    made = [ident for idents in outcomes[: len(turns)] for ident in idents]
    started = [step.data["id"] for step in of("start server")]
    getting = [step.data["server"] for step in of("attach volume") if "server" in step.data]
    if made or started or getting:
        cloud.wait_for_servers([*made, *started, *getting], seconds)
    machines = [step.subject for turn in turns for step in turn]
    _attach(cloud, of("attach volume"), dict(zip(machines, made, strict=False)), seconds)
    if of("rebuild server"):
        in_parallel(partial(_rebuild_server, cloud, desired, step, user_data) for step in of("rebuild server"))
        cloud.wait_for_servers([step.data["id"] for step in of("rebuild server")], seconds)


def _wait_for_volumes(cloud: Cloud, desired: op.Desired, of: Callable[[str], list[op.Step]], seconds: float) -> None:
    """Wait until the volumes of state that servers are to get are nobody's."""
    getting = {step.subject for step in of("create server")} & desired.state_gb.keys() if cloud.block_storage else set()
    getting |= {step.subject for step in of("attach volume") if "volume" not in step.data}
    try:
        storage.wait(cloud, [cloud.ids["volume", name] for name in getting], seconds, ("available",))
    except VolumesFailed as error:
        # What was just made and failed holds nothing; the next run makes it anew.
        made = {cloud.ids["volume", step.subject] for step in of("create volume")}
        in_parallel(partial(storage.delete, cloud, ident) for ident in sorted(error.idents & made))
        raise


def _attach(cloud: Cloud, steps: Sequence[op.Step], made: Mapping[str, str], seconds: float) -> None:
    idents = []
    for step in steps:
        ident = step.data.get("volume") or cloud.ids["volume", step.subject]
        server = step.data.get("server") or made[step.subject]
        storage.attach(cloud, server, ident)
        idents += [ident] if "volume" not in step.data else []
    storage.wait(cloud, idents, seconds, ("in-use",))


def _create_servers(
    cloud: Cloud,
    desired: op.Desired,
    steps: Sequence[op.Step],
    user_data: Callable[[], tuple[str, str]],
    seconds: float,
) -> list[str]:
    made: list[str] = []
    for step in steps:
        # Where one finds no host the next will not either.
        if made and not cloud.is_placed(made[-1], seconds):
            break
        text, key = user_data()
        made.append(cloud.create_server(desired, step.data["machine"], step.data["address"], text, key))
    return made


def _rebuild_server(cloud: Cloud, desired: op.Desired, step: op.Step, user_data: Callable[[], tuple[str, str]]) -> None:
    text, key = user_data()
    cloud.rebuild_server(desired, step, text, key)


def _delete_servers(cloud: Cloud, steps: Sequence[op.Step], seconds: float) -> None:
    if not steps:
        return
    idents = [step.data["id"] for step in steps]
    in_parallel(partial(cloud.call, "compute", "DELETE", f"/servers/{ident}", ok=(404,)) for ident in idents)
    cloud.wait_for_servers(idents, seconds, gone=True)


def _network(cloud: Cloud, desired: op.Desired, of: Callable[[str], list[op.Step]]) -> None:
    ids, name = cloud.ids, desired.testbed
    if of("create network"):
        ids["network", name] = cloud.make("network")
    if of("create subnet"):
        values: dict[str, Any] = {"network_id": ids["network", name], "ip_version": 4, "cidr": desired.cidr}
        if desired.nameservers:
            values["dns_nameservers"] = list(desired.nameservers)
        ids["subnet", name] = cloud.make("subnet", **values)


def _outside(cloud: Cloud, desired: op.Desired, of: Callable[[str], list[op.Step]]) -> None:
    ids, name = cloud.ids, desired.testbed
    made: list[tuple[str, str]] = cloud.untagged
    before = len(made)
    if of("create router"):
        gateway = {"network_id": ids["outside", desired.external_network]}
        ids["router", name] = cloud.make("router", external_gateway_info=gateway)
    if of("join subnet"):
        body = {"subnet_id": ids["subnet", name]}
        cloud.call("network", "PUT", f"/routers/{ids['router', name]}/add_router_interface", body)
    for step in of("delete address"):
        cloud.call("network", "DELETE", f"/floatingips/{step.data['id']}", ok=(404,))
    if of("create address"):
        cloud.make("floatingip", floating_network_id=ids["outside", desired.external_network])
    for kind, ident in made[before:]:
        cloud.tag(kind, ident)


def _security_group(cloud: Cloud, desired: op.Desired, step: op.Step) -> None:
    name = f"{desired.testbed}-{step.subject}"
    cloud.ids["security group", step.subject] = cloud.make("security_group", name=name)


def _rules(cloud: Cloud, of: Callable[[str], list[op.Step]]) -> Iterator[Callable[[], Any]]:
    # The network service takes many rules at once, but of one group only.
    made: dict[str, list[dict[str, Any]]] = {}
    for step in of("create rule"):
        made.setdefault(step.data["in"], []).append(_rule(cloud, step.data["in"], step.data["rule"]))
    for rules in made.values():
        yield partial(cloud.call, "network", "POST", "/security-group-rules", {"security_group_rules": rules})
    for step in of("delete rule"):
        yield partial(cloud.call, "network", "DELETE", f"/security-group-rules/{step.data['id']}", ok=(404,))


def _rule(cloud: Cloud, group: str, rule: op.Rule) -> dict[str, Any]:
    return {
        "security_group_id": cloud.ids["security group", group],
        "direction": "ingress",
        "ethertype": "IPv6" if ":" in rule.cidr else "IPv4",
        "protocol": None if rule.protocol == "any" else rule.protocol,
        "port_range_min": rule.low or None,
        "port_range_max": rule.high or None,
        "remote_ip_prefix": rule.cidr or None,
        "remote_group_id": cloud.ids["security group", rule.group] if rule.group else None,
    }


def _key_pair(cloud: Cloud, desired: op.Desired, of: Callable[[str], list[op.Step]]) -> None:
    for step in of("delete key pair"):
        cloud.call("compute", "DELETE", f"/os-keypairs/{step.subject}", ok=(404,))
    for step in of("create key pair"):
        body = {"name": step.subject, "public_key": desired.public_key, "type": "ssh"}
        cloud.call("compute", "POST", "/os-keypairs", {"keypair": body})


def _compute(cloud: Cloud, desired: op.Desired, step: op.Step) -> None:
    if step.action == "create flavor":
        size = desired.sizes[step.data["size"]]
        body: dict[str, Any] = {"name": step.subject, "vcpus": size.cores, "disk": size.disc_gb}
        body["ram"] = round(size.memory_gib * 1024)
        made = cloud.call("compute", "POST", "/flavors", {"flavor": body})
        cloud.ids["flavor", step.subject] = made["flavor"]["id"]
    elif step.action == "create server group":
        body = {"name": f"{desired.own}-{step.subject}", "policy": desired.policy}
        made = cloud.call("compute", "POST", "/os-server-groups", {"server_group": body})
        cloud.ids["server group", step.subject] = made["server_group"]["id"]


def _change(cloud: Cloud, step: op.Step) -> None:
    action, data = step.action, step.data
    if action == "start server":
        cloud.call("compute", "POST", f"/servers/{data['id']}/action", {data["action"]: None})
    elif action == "set groups":
        cloud.call("compute", "POST", f"/servers/{data['id']}/metadata", {"metadata": {op.GROUPS: data["groups"]}})
    elif action == "set security groups":
        groups = [cloud.ids["security group", name] for name in data["groups"]]
        cloud.call("network", "PUT", f"/ports/{data['port']}", {"port": {"security_groups": groups}})
    elif action.startswith("tag "):
        cloud.tag(PLURAL[action.removeprefix("tag ")], data["id"])


def give_address(cloud: Cloud, desired: op.Desired, current: op.Current) -> None:
    """Give the floating address to the entry machine, where it has not got it.

    Raises:
        Failure: where the machine has no port.
    """
    address = current.floating[0]
    ports = [server.port for server in current.servers if server.machine == desired.entry and server.port]
    if not ports:
        raise Failure(f"machine {desired.entry} has no port that a floating address could be given to")
    if address.port != ports[0]:
        cloud.call("network", "PUT", f"/floatingips/{address.id}", {"floatingip": {"port_id": ports[0]}})


def undo(cloud: Cloud, current: op.Current, steps: Sequence[op.Step], seconds: float) -> None:
    """Do the steps of `openstack_plan.plan_removal`, and wait until all is gone.

    Raises:
        Failure: where the cloud says no or takes too long; the next run goes on from there.
    """
    in_parallel(
        partial(cloud.call, "network", "DELETE", f"/floatingips/{step.data['id']}", ok=(404,))
        for step in steps
        if step.action == "delete address"
    )
    _delete_servers(cloud, [step for step in steps if step.action == "delete server"], seconds)
    volumes = [step.data["id"] for step in steps if step.action == "delete volume"]
    # The cloud takes its time to see that the server which had it is gone.
    storage.wait(cloud, volumes, seconds, storage.LOOSE)
    in_parallel([partial(_undo_network, cloud, current, steps), *(partial(_undo, cloud, step) for step in steps)])
    storage.wait(cloud, volumes, seconds, (storage.GONE,))


def _undo_network(cloud: Cloud, current: op.Current, steps: Sequence[op.Step]) -> None:
    for step in steps:
        if step.action == "delete router":
            for subnet in sorted(current.joined):
                path = f"/routers/{step.data['id']}/remove_router_interface"
                cloud.call("network", "PUT", path, {"subnet_id": subnet}, ok=(404,))
            cloud.call("network", "DELETE", f"/routers/{step.data['id']}", ok=(404,))
    # Ports of servers are gone with them, and subnets go with their network.
    for step in steps:
        if step.action == "delete network":
            cloud.call("network", "DELETE", f"/networks/{step.data['id']}", ok=(404,))


def _undo(cloud: Cloud, step: op.Step) -> None:
    if step.action == "delete security group":
        # Rules of others that speak of it go with it.
        cloud.call("network", "DELETE", f"/security-groups/{step.data['id']}", ok=(404,))
    elif step.action == "delete server group":
        cloud.call("compute", "DELETE", f"/os-server-groups/{step.data['id']}", ok=(404,))
    elif step.action == "delete key pair":
        cloud.call("compute", "DELETE", f"/os-keypairs/{step.subject}", ok=(404,))
    elif step.action == "delete volume":
        storage.delete(cloud, step.data["id"])
