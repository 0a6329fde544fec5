"""Jinja filters over the machines that an inventory wants on a cloud: faults are said before the cloud is asked."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

#: Names of servers are host names.
NAME = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")
USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
PREFIX = "openstack_machines_"
POLICIES = ("soft-anti-affinity", "anti-affinity")
PROTOCOLS = ("tcp", "udp", "icmp", "any")
RULE_KEYS = ("to", "from", "protocol", "ports")
#: Groups that rules may speak of though an inventory has none of them; `inside` is all machines, `entry` one.
GROUPS = {
    *("inside", "entry", "slurm_controllers", "slurm_nodes", "kubernetes_control_planes", "kubernetes_nodes"),
    *("planners", "voters", "storage_servers"),
}
#: Addresses of a network that no machine gets: its own, the gateway, the cloud's DHCP (two at most), broadcast.
TAKEN = 5
#: What a machine may have of its own.
OWN = ("openstack_size", "openstack_state_gb", "openstack_state_device")
#: What a path may consist of that systemd and shells take as it is.
PATH = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9._-]*)+")
#: What the role itself has or registers.
REGISTERED = {"made", "answer", "first_start", "state_units"}


def cloud_faults(
    groups: Mapping[str, Sequence[str]],
    hostvars: Mapping[str, Any],
    sizes: Any,
    said: Mapping[str, Any],
) -> list[str]:
    """Say what is wrong with the machines wanted on a cloud, a sentence for each; nothing where none are wanted.

    Args:
        groups: the inventory's groups.
        hostvars: the variables of each host.
        sizes: desktop_sizes.
        said: testbed_name and the variables openstack_machines_... that the inventory or the command line sets.
    """
    machines = list(groups.get("openstack_machines", []))
    if not machines:
        return []
    sizes = sizes if isinstance(sizes, Mapping) else {}
    found = [*_machines(machines, groups, hostvars, sizes), *_unknown(said)]
    for name, look in CHECKS.items():
        if PREFIX + name in said:
            found += look(PREFIX + name, said[PREFIX + name], machines, groups)
    found += _flavors(said.get(PREFIX + "flavors", {}), sizes)
    found += _ssh_from(said.get(PREFIX + "ssh_from"))
    if said.get(PREFIX + "policy") == "anti-affinity":
        found += _apart_twice(said.get(PREFIX + "apart", ["slurm_nodes", "kubernetes_nodes"]), machines, groups)
    testbed = said.get("testbed_name")
    if testbed is not None and not NAME.fullmatch(str(testbed)):
        found.append(
            f"testbed_name is {testbed!r}: it is the beginning of the names of servers, so give lower-case letters, "
            "digits and hyphens, 32 at most"
        )
    return found


def _machines(
    machines: list[str], groups: Mapping[str, Sequence[str]], hostvars: Mapping[str, Any], sizes: Mapping[str, Any]
) -> Iterator[str]:
    if groups.get("local_machines"):
        yield "local_machines and openstack_machines both have machines: a testbed's are on this host or on a cloud"
    for name in machines:
        if not NAME.fullmatch(name):
            yield f"machine {name}: on a cloud it is a host name: lower-case letters, digits and hyphens, 32 at most"
        # Once: all variables of a machine are put together anew each time.
        its = hostvars[name]
        size = its.get("openstack_size", "desktop")
        if size not in sizes:
            there = ", ".join(sizes) or "there are none"
            yield f"machine {name}: openstack_size is {size}, which is none of desktop_sizes: {there}"
        for key in its:
            if key.startswith("openstack_") and not key.startswith((PREFIX, "openstack_server")) and key not in OWN:
                yield f"machine {name}: there is no variable {key}; a machine may have {', '.join(OWN)}"
        if "openstack_state_gb" in its and not whole(its["openstack_state_gb"]):
            has = its["openstack_state_gb"]
            yield f"machine {name}: openstack_state_gb is {has!r}: give the whole gigabytes of its volume, as 500"
        if not PATH.fullmatch(str(its.get("openstack_state_device", "/dev/vdb"))):
            has = its["openstack_state_device"]
            yield f"machine {name}: openstack_state_device is {has!r}: give the volume's disc, as /dev/vdb"


def _unknown(said: Mapping[str, Any]) -> Iterator[str]:
    known = {PREFIX + name for name in (*CHECKS, "flavors", "ssh_from")}
    for name in sorted(said.keys() - known - {PREFIX + name for name in REGISTERED} - {"testbed_name"}):
        near = difflib.get_close_matches(name, sorted(known), 1)
        hint = f"; {near[0]} is meant?" if near else "; roles/openstack_machines/README.md lists those that there are"
        yield f"there is no variable {name}{hint}"


def _text(name: str, value: Any, what: str) -> Iterator[str]:
    if not isinstance(value, str) or not value.strip() or value != value.strip():
        yield f"{name} is {value!r}: give {what}"


def _image(name: str, value: Any, *_: Any) -> Iterator[str]:
    yield from _text(name, value, "the name or id of an image of the cloud, as debian-12")


def _external_network(name: str, value: Any, *_: Any) -> Iterator[str]:
    yield from _text(name, value, "the name of the cloud's network that floating addresses come from, as public")


def _cloud(name: str, value: Any, *_: Any) -> Iterator[str]:
    # Empty: OS_CLOUD.
    if value != "":
        yield from _text(name, value, "the cloud's name in clouds.yaml")


def _user(name: str, value: Any, *_: Any) -> Iterator[str]:
    if not isinstance(value, str) or not USER.fullmatch(value):
        yield f"{name} is {value!r}: give the user of the image that may log in, as debian"


def _cidr(name: str, value: Any, machines: list[str], _groups: Any) -> Iterator[str]:
    try:
        network = ipaddress.IPv4Network(str(value))
    except ValueError as error:
        yield f"{name} is {value!r}: give a network of IPv4, as 10.20.0.0/24 ({error})"
        return
    if network.num_addresses < len(machines) + TAKEN:
        most, wanted = max(network.num_addresses - TAKEN, 0), len(machines)
        yield f"{name} is {value}, which has addresses for {most} machines, and there are {wanted}: give a larger one"
    elif not network.is_private:
        yield f"{name} is {value}: give private addresses, as 10.20.0.0/24, for others on the internet have these"


def _nameservers(name: str, value: Any, *_: Any) -> Iterator[str]:
    if not isinstance(value, list | tuple):
        yield f"{name} is {value!r}: give a list of addresses, as ['192.0.2.53'], or [] for the cloud's"
        return
    for one in value:
        try:
            ipaddress.ip_address(str(one))
        except ValueError:
            yield f"{name}: {one!r} is no address; 192.0.2.53 would be"


def _entry(name: str, value: Any, machines: list[str], _groups: Any) -> Iterator[str]:
    if value not in machines:
        yield f"{name} is {value}, which is none of openstack_machines: {', '.join(machines)}"


def _boolean(name: str, value: Any, *_: Any) -> Iterator[str]:
    if not isinstance(value, bool) and str(value).lower() not in ("true", "false", "yes", "no"):
        yield f"{name} is {value!r}: give true or false"


def _control_prefix(name: str, value: Any, *_: Any) -> Iterator[str]:
    # A socket's name has 107 characters at most, and ssh makes one of 17 more beside it first.
    if not isinstance(value, str) or not value.startswith("/") or len(value) > 58:
        yield f"{name} is {value!r}: give an absolute path of 58 characters at most, as /tmp/.ssh-of/caesar-"


def _apart(name: str, value: Any, _machines: Any, groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if not isinstance(value, list | tuple):
        yield f"{name} is {value!r}: give a list of groups, as [slurm_nodes], or [] for none"
        return
    for one in value:
        if one not in groups and one not in GROUPS - {"inside", "entry"}:
            yield f"{name}: {one!r} is no group of the inventory; those that are: {', '.join(_own(groups))}"


def _policy(name: str, value: Any, *_: Any) -> Iterator[str]:
    if value not in POLICIES:
        yield f"{name} is {value!r}: give one of {', '.join(POLICIES)}"


def machine_state(state: Mapping[str, Any], names: Sequence[str], size_gb: Any = 0) -> dict[str, Any]:
    """Say what a machine of these groups keeps on its volume.

    Args:
        state: openstack_machines_state.
        names: the machine's groups.
        size_gb: its openstack_state_gb; 0 for the sum of its groups' sizes.

    Returns:
        `paths`, by name of the directory on the volume, and `size_gb`, 0 where there is nothing to keep.
    """
    paths: dict[str, str] = {}
    total = 0
    for group, kept in state.items():
        there = {name: path for name, path in kept["paths"].items() if path}
        if group in names and there:
            paths |= there
            total += int(kept["size_gb"])
    return {"paths": paths, "size_gb": (int(size_gb) or total) if paths else 0}


def whole(value: Any) -> bool:
    """Tell whether something is a whole number that is more than 0."""
    return not isinstance(value, bool) and str(value).isdecimal() and int(value) > 0


def _state(name: str, value: Any, _machines: Any, groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{name} is {value!r}: give what outlives machines by group, as in roles/openstack_machines/defaults"
        return
    used: dict[str, str] = {}
    for group, kept in value.items():
        where = f"{name}.{group}"
        if group not in GROUPS - {"inside", "entry"} and group not in groups:
            yield f"{where}: that is no group of the inventory; those that are: {', '.join(_own(groups))}"
        if not isinstance(kept, Mapping) or set(kept) != {"size_gb", "paths"} or not isinstance(kept["paths"], Mapping):
            yield f"{where} is {kept!r}: give size_gb and paths, as {{size_gb: 20, paths: {{mysql: /var/lib/mysql}}}}"
            continue
        if not whole(kept["size_gb"]):
            yield f"{where}.size_gb is {kept['size_gb']!r}: give whole gigabytes, as 20"
        for short, path in kept["paths"].items():
            if not re.fullmatch(r"[a-z][a-z0-9_-]*", str(short)):
                yield f"{where}.paths: {short!r} is a directory on the volume: lower-case letters, digits, - and _"
            if path and not PATH.fullmatch(str(path)):
                yield f"{where}.paths.{short} is {path!r}: give an absolute path, as /var/lib/mysql, or '' for none"
            if path and used.setdefault(str(short), str(path)) != path:
                yield f"{where}.paths.{short} is {path}, and another group has {used[str(short)]} under that name"


def _state_root(name: str, value: Any, *_: Any) -> Iterator[str]:
    if not isinstance(value, str) or not PATH.fullmatch(value):
        yield f"{name} is {value!r}: give an absolute path, as /srv/caesar-state"


def _timeout(name: str, value: Any, *_: Any) -> Iterator[str]:
    if not whole(value) or int(value) > 86400:
        yield f"{name} is {value!r}: give whole seconds, 1 to 86400, as 600"


def _rebuild(name: str, value: Any, machines: list[str], _groups: Any) -> Iterator[str]:
    if not isinstance(value, list | tuple):
        yield f"{name} is {value!r}: give a list of machines, as [{machines[0]}]"
        return
    for one in value:
        if one not in machines:
            yield f"{name}: {one!r} is none of openstack_machines: {', '.join(machines)}"


def _rules(name: str, value: Any, _machines: Any, groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if not isinstance(value, list | tuple):
        yield f"{name} is {value!r}: give a list, as [{{to: planners, from: [voters], ports: 8101-8399}}]"
        return
    for index, rule in enumerate(value):
        where = f"{name}[{index}]"
        if not isinstance(rule, Mapping):
            yield f"{where} is {rule!r}: give a mapping with to, from, protocol and ports"
            continue
        yield from _rule(where, rule, groups)


def _rule(where: str, rule: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for key in rule:
        if key not in RULE_KEYS:
            yield f"{where} has {key!r}: known are {', '.join(RULE_KEYS)}"
    sources = rule.get("from")
    if not isinstance(sources, list | tuple) or not sources:
        yield f"{where}.from is {sources!r}: give a list of groups, as [planners]"
        sources = []
    for key, group in (("to", rule.get("to")), *(("from", source) for source in sources)):
        if group not in GROUPS and group not in groups:
            there = ", ".join(sorted(GROUPS | set(_own(groups))))
            yield f"{where}.{key} is {group!r}, which is no group: give one of {there}"
    protocol, ports = rule.get("protocol", "tcp"), rule.get("ports")
    if protocol not in PROTOCOLS:
        yield f"{where}.protocol is {protocol!r}: give one of {', '.join(PROTOCOLS)}"
    elif ports is None:
        return
    elif protocol in ("icmp", "any"):
        yield f"{where}.ports is {ports!r}, but {protocol} has no ports: leave them out, or give protocol tcp or udp"
    else:
        match = PORTS.fullmatch(str(ports))
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= low <= high <= 65535:
            yield f"{where}.ports is {ports!r}: give a port or a range of 1 to 65535, as 6817 or 8101-8399"


def _flavors(value: Any, sizes: Mapping[str, Any]) -> Iterator[str]:
    name = PREFIX + "flavors"
    if not isinstance(value, Mapping):
        yield f"{name} is {value!r}: give the cloud's names of sizes that have others there, as {{desktop: m1.xlarge}}"
        return
    for size, flavor in value.items():
        if size not in sizes:
            yield f"{name}.{size} is of no size: desktop_sizes are {', '.join(sizes) or 'none'}"
        yield from _text(f"{name}.{size}", flavor, "the name of a flavor of the cloud, as m1.xlarge")


def _ssh_from(value: Any) -> Iterator[str]:
    name = PREFIX + "ssh_from"
    if not isinstance(value, list | tuple) or not value:
        yield f"{name} is {value!r}: say from which addresses you reach the cloud, as ['192.0.2.17/32']"
        return
    for one in value:
        try:
            ipaddress.ip_network(str(one))
        except ValueError as error:
            yield f"{name}: {one} is no network ({error}); ['192.0.2.17/32'] would be"


def _apart_twice(apart: Any, machines: list[str], groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A server is in one server group at most: with soft-anti-affinity the first counts, else it cannot be kept."""
    for name in machines:
        of = [group for group in apart if name in groups.get(group, [])] if isinstance(apart, list | tuple) else []
        if len(of) > 1:
            yield (
                f"machine {name} is in {' and '.join(of)}, and a cloud keeps it apart from the machines of one group "
                f"only: take one out of {PREFIX}apart, or give {PREFIX}policy: soft-anti-affinity"
            )


def _own(groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Groups of the inventory that say what runs on machines."""
    return sorted(set(groups) - {"all", "ungrouped", "openstack_machines", "openstack_servers"})


#: Variable of the role, without its prefix, to what finds its faults; `flavors` and `ssh_from` are looked at apart.
CHECKS: dict[str, Callable[..., Iterator[str]]] = {
    "cloud": _cloud,
    "image": _image,
    "user": _user,
    "external_network": _external_network,
    "cidr": _cidr,
    "nameservers": _nameservers,
    "entry": _entry,
    "boot_volumes": _boolean,
    "reach": _boolean,
    "control_prefix": _control_prefix,
    "apart": _apart,
    "policy": _policy,
    "state": _state,
    "state_root": _state_root,
    "state_other_release": _boolean,
    "timeout": _timeout,
    "rules": _rules,
    "rebuild": _rebuild,
}


class FilterModule:
    """The filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as Jinja knows them."""
        return {"cloud_faults": cloud_faults, "machine_state": machine_state}
