"""Jinja filter over the machines that an inventory wants on a cloud."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

#: Names of servers are host names.
NAME = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")


def cloud_faults(
    groups: Mapping[str, Sequence[str]],
    hostvars: Mapping[str, Any],
    sizes: Mapping[str, Any] | None,
    ssh_from: Any = None,
    entry: Any = None,
) -> list[str]:
    """Say what is wrong with the machines wanted on a cloud, a sentence for each; nothing where none are wanted."""
    machines = list(groups.get("openstack_machines", []))
    return list(_faults(machines, groups, hostvars, sizes or {}, ssh_from, entry)) if machines else []


def _faults(
    machines: list[str],
    groups: Mapping[str, Sequence[str]],
    hostvars: Mapping[str, Any],
    sizes: Mapping[str, Any],
    ssh_from: Any,
    entry: Any,
) -> Iterator[str]:
    if groups.get("local_machines"):
        yield "local_machines and openstack_machines both have machines: a testbed's are on this host or on a cloud"
    for name in machines:
        if not NAME.fullmatch(name):
            yield f"machine {name}: on a cloud it is a host name: lower-case letters, digits and hyphens, 32 at most"
        size = hostvars[name].get("openstack_size", "desktop")
        if size not in sizes:
            there = ", ".join(sizes) or "there are none"
            yield f"machine {name}: openstack_size is {size}, which is none of desktop_sizes: {there}"
    if entry and entry not in machines:
        yield f"openstack_machines_entry is {entry}, which is none of openstack_machines: {', '.join(machines)}"
    if not isinstance(ssh_from, list | tuple) or not ssh_from:
        yield "openstack_machines_ssh_from is empty: say from which addresses you reach the cloud, as ['192.0.2.17/32']"
        return
    for one in ssh_from:
        try:
            ipaddress.ip_network(str(one))
        except ValueError as error:
            yield f"openstack_machines_ssh_from: {one} is no network ({error}); ['192.0.2.17/32'] would be"


class FilterModule:
    """The filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as Jinja knows them."""
        return {"cloud_faults": cloud_faults}
