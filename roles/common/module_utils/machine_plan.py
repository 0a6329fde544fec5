"""What must be done to have the local machines of one testbed: pure, nothing here touches the host.

A machine is a podman container that runs systemd and is reached by ssh. Containers, the network and the
volumes carry the testbed's name in their own and in a label, so that testbeds can live side by side.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

LABEL = "caesar-testbed.name"
DEFINITION_LABEL = "caesar-testbed.definition"
IMAGE_LABEL = "caesar-testbed.image"
IMAGE_NAME = "localhost/caesar-testbed-machine"
#: Raised when machines must be made anew because of what this code does.
GENERATION = 1

#: States in which podman believes that a container has processes.
BUSY = frozenset({"running", "paused", "stopping"})

Network = ipaddress.IPv4Network


class Conflict(Exception):
    """Something on the host stands in the way, and is not this testbed's to remove."""


@dataclass(frozen=True)
class Machine:
    """A machine as it should be."""

    name: str
    #: Last part of its address.
    host_number: int
    #: Volume's short name to the path where it is mounted.
    volumes: Mapping[str, str] = field(default_factory=dict)
    #: Directory on the controller to the path where it is mounted.
    binds: Mapping[str, str] = field(default_factory=dict)
    #: At most so much memory, in GiB; None for all that the host has.
    memory_gib: float | None = None


@dataclass(frozen=True)
class Wanted:
    """A testbed's machines as they should be."""

    testbed: str
    machines: tuple[Machine, ...]
    image_key: str
    subnet_pools: tuple[str, ...]
    #: Name servers of the machines; the controller's own where there are none.
    nameservers: tuple[str, ...] = ()
    cgroup: str = "v2"
    #: Public keys, which are part of a machine: host keys by machine, and the one that may log in.
    host_keys: Mapping[str, str] = field(default_factory=dict)
    authorized_key: str = ""
    #: Machines that are made anew although nothing about them changed.
    anew: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Container:
    """A container as it is."""

    id: str
    state: str
    definition: str
    #: Its first process exists and belongs to it; podman's word alone is worth nothing after a crash.
    alive: bool
    #: sshd greets on its address.
    answers: bool


@dataclass(frozen=True)
class Seen:
    """What the host has of a testbed."""

    image: bool
    #: The testbed's network's subnet.
    subnet: str | None
    containers: Mapping[str, Container]
    volumes: frozenset[str]
    #: Subnets and addresses that are in use by others.
    used: tuple[str, ...] = ()
    #: The testbed's network's name, which is the testbed's unless it had to be made anew.
    network: str | None = None


@dataclass(frozen=True)
class Step:
    """One thing to do, to what, and why."""

    action: str
    subject: str
    why: str


def container_name(testbed: str, machine: str) -> str:
    """Give the container's name of a machine."""
    return f"{testbed}-{machine}"


def volume_name(testbed: str, machine: Machine, volume: str) -> str:
    """Give the podman volume's name; `storage` is one for all machines."""
    return f"{testbed}-storage" if volume == "storage" else f"{testbed}-{machine.name}-{volume}"


def free_subnet(pools: Iterable[str], used: Iterable[str]) -> Network | None:
    """Choose the first /24 of the pools that overlaps nothing in use; None where there is none."""
    taken = [ipaddress.ip_network(item, strict=False) for item in used]
    taken = [net for net in taken if net.version == 4 and net.prefixlen > 0]
    for pool in pools:
        for candidate in Network(pool).subnets(new_prefix=24):
            if not any(candidate.overlaps(net) for net in taken if isinstance(net, Network)):
                return candidate
    return None


def routed_networks(routes: Iterable[Mapping[str, Any]]) -> list[str]:
    """List the destinations of `ip -json -4 route show table all`, without the default route and broadcast."""
    chosen = []
    for route in routes:
        destination = str(route.get("dst", "default"))
        if destination != "default" and route.get("type") not in ("broadcast", "multicast"):
            chosen.append(destination)
    return chosen


def addresses(subnet: Network, machines: Iterable[Machine]) -> dict[str, str]:
    """Give each machine's address."""
    return {machine.name: str(subnet.network_address + machine.host_number) for machine in machines}


def gateway(subnet: Network) -> str:
    """Give the controller's own address on the network."""
    return str(subnet.network_address + 1)


def start_command(cgroup: str) -> list[str]:
    """Give what a container runs: systemd, after the container's own mounts are put right.

    podman's `--systemd=always` binds the *host's* systemd hierarchy into every container where cgroups are
    version 1, so that all machines would share one tree; the container's own, which is namespaced, is below.
    A real host's mounts are shared, and Kubernetes relies on that.
    """
    steps = ["mount --make-rshared /"]
    if cgroup != "v2":
        steps = ["umount /sys/fs/cgroup/systemd/release_agent", "umount /sys/fs/cgroup/systemd", *steps]
    return ["sh", "-c", "; ".join([*steps, "exec /sbin/init"])]


def mac_address(address: str) -> str:
    """Give the hardware address of an IPv4 address, locally administered (IEEE 802, second bit of the first byte).

    Podman draws another one at every start, and the neighbours keep the old one for half a minute, in which the
    restarted machine cannot be reached.

    >>> mac_address("10.89.0.11")
    '02:42:0a:59:00:0b'
    """
    return ":".join(("02", "42", *(f"{int(part):02x}" for part in address.split("."))))


def create_options(wanted: Wanted, machine: Machine, subnet: Network, network: str) -> list[str]:
    """Give podman's options for a machine on the podman network `network`, its image and its command."""
    address = addresses(subnet, wanted.machines)
    options = [
        f"--name={container_name(wanted.testbed, machine.name)}",
        f"--hostname={machine.name}",
        f"--network={network}",
        f"--ip={address[machine.name]}",
        f"--mac-address={mac_address(str(address[machine.name]))}",
        "--privileged",
        "--systemd=always",
        "--cgroupns=private",
        "--stop-timeout=15",
        f"--label={LABEL}={wanted.testbed}",
        *(f"--dns={server}" for server in wanted.nameservers),
        *(f"--add-host={name}:{where}" for name, where in sorted(address.items())),
        *(f"--volume={volume_name(wanted.testbed, machine, v)}:{p}" for v, p in sorted(machine.volumes.items())),
        *(f"--volume={source}:{path}" for source, path in sorted(machine.binds.items())),
    ]
    if machine.memory_gib is not None:
        options.append(f"--memory={int(machine.memory_gib * 1024)}m")
    return [*options, f"{IMAGE_NAME}:{wanted.image_key}", *start_command(wanted.cgroup)]


def definition(wanted: Wanted, machine: Machine, subnet: Network) -> str:
    """Give a hash of all that a machine is made from: where it differs, the machine is made anew.

    The network's name is none of it: only its addresses matter.
    """
    parts = [
        GENERATION,
        create_options(wanted, machine, subnet, wanted.testbed),
        wanted.host_keys.get(machine.name, ""),
        wanted.authorized_key,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def plan(wanted: Wanted, seen: Seen) -> tuple[Network, list[Step]]:
    """Decide which subnet the testbed has and what must be done, in this order.

    Raises:
        Conflict: no subnet is free.
    """
    steps: list[Step] = []
    subnet = Network(seen.subnet) if seen.subnet else free_subnet(wanted.subnet_pools, seen.used)
    if subnet is None:
        raise Conflict(
            f"no subnet is free: every /24 of {', '.join(wanted.subnet_pools)} overlaps a route, a podman network or "
            "a name server of this host; name a free one in local_machines_subnet_pools"
        )
    if not seen.subnet:
        steps.append(Step("create network", wanted.testbed, f"{subnet} is free"))
    names = {container_name(wanted.testbed, machine.name): machine for machine in wanted.machines}
    steps += [
        Step("remove machine", name, "the inventory has it no more") for name in sorted(seen.containers.keys() - names)
    ]
    needed = {volume_name(wanted.testbed, m, v): None for m in wanted.machines for v in m.volumes}
    steps += [Step("create volume", name, "missing") for name in needed if name not in seen.volumes]
    making = False
    later: list[Step] = []
    for name, machine in names.items():
        container = seen.containers.get(name)
        if container and container.definition != definition(wanted, machine, subnet):
            steps.append(Step("remove machine", name, "its definition changed; its volumes stay"))
            container = None
        elif container and machine.name in wanted.anew:
            steps.append(Step("remove machine", name, "it is to be made anew; its volumes stay"))
            container = None
        elif container and container.state == "created":
            # It may lack its keys, or cannot start at all; nothing is on it yet.
            steps.append(Step("remove machine", name, "it was made but never started"))
            container = None
        if container is None:
            making = True
            later += [Step("create machine", name, "missing"), Step("start machine", name, "new")]
        elif container.state in BUSY and not container.alive:
            later += [
                Step("clear machine", name, "podman believes that it runs, but its processes are gone"),
                Step("start machine", name, "its processes are gone"),
            ]
        elif container.state not in BUSY:
            later.append(Step("start machine", name, f"it is {container.state}"))
        elif not container.answers:
            later += [
                Step("stop machine", name, f"it is {container.state}, but sshd does not answer"),
                Step("start machine", name, "stopped"),
            ]
    if making and not seen.image:
        steps.append(Step("import image", f"{IMAGE_NAME}:{wanted.image_key}", "podman does not have it"))
    return subnet, steps + later


def plan_removal(seen: Seen) -> list[Step]:
    """Decide what must be done so that nothing of a testbed is left on the host."""
    steps = [Step("discard machine", name, "teardown") for name in sorted(seen.containers)]
    steps += [Step("remove volume", name, "teardown") for name in sorted(seen.volumes)]
    if seen.network:
        steps.append(Step("remove network", seen.network, "teardown"))
    return steps


def leftover_rules(saved: str, subnet: str) -> list[list[str]]:
    """List the arguments of iptables that remove a network's rules and its own chain.

    Args:
        saved: one table as `iptables-save` prints it.
        subnet: the network, which exists no more.
    """
    own: list[list[str]] = []
    chains: list[str] = []
    for line in saved.splitlines():
        words = shlex.split(line)
        if words[:1] != ["-A"] or not {("-s", subnet), ("-d", subnet)} & set(pairwise(words)):
            continue
        target = words[words.index("-j") + 1] if "-j" in words else ""
        if re.fullmatch(r"NETAVARK-[0-9A-F]+", target) and target not in chains:
            chains.append(target)
        own.append(["-D", *words[1:]])
    inside = [rule for rule in own if rule[1] in chains]
    return [rule for rule in own if rule not in inside] + [[verb, chain] for chain in chains for verb in ("-F", "-X")]


def containers_conf(cgroup: str, systemd: bool, nofile: int, nproc: int, runtime: str) -> str:
    """Write podman's configuration for the testbed; the host's own is neither read nor changed.

    Args:
        cgroup: `v1`, `hybrid` or `v2`.
        systemd: whether the host itself runs systemd.
        nofile: hard limit of open files of this process, which cannot be exceeded.
        nproc: hard limit of processes.
        runtime: `runc` or `crun`.
    """
    manager = "systemd" if systemd and cgroup == "v2" else "cgroupfs"
    return f"""\
# Written by roles/local_machines.
[containers]
default_ulimits = ["nofile={nofile}:{nofile}", "nproc={nproc}:{nproc}"]
# Machines hold whole clusters: no limit on the number of processes.
pids_limit = 0
# Else the controller's /etc/hosts is copied into every machine.
base_hosts_file = "none"
log_driver = "k8s-file"
log_size_max = 10485760

[engine]
runtime = "{runtime}"
cgroup_manager = "{manager}"
events_logger = "file"

[network]
network_backend = "netavark"
"""


def ssh_config(wanted: Wanted, address: Mapping[str, str], state_dir: str) -> str:
    """Write the ssh configuration that reaches the machines by name."""
    hosts = [
        f"Host {name}\n  HostName {where}\n  HostKeyAlias {container_name(wanted.testbed, name)}\n"
        for name, where in sorted(address.items())
    ]
    common = f"""\
Host *
  User root
  IdentityFile "{state_dir}/secrets/ssh_ed25519"
  IdentitiesOnly yes
  UserKnownHostsFile "{state_dir}/known_hosts"
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  UpdateHostKeys no
  # The network is this host's own: nothing to wait long for.
  ConnectTimeout 10
  LogLevel ERROR
"""
    return "# Written by roles/local_machines: ssh -F THIS-FILE slurm\n" + "".join(hosts) + common


def known_hosts(wanted: Wanted) -> str:
    """Write the machines' host keys, which are known before the first connection."""
    return "".join(
        f"{container_name(wanted.testbed, machine.name)} {' '.join(wanted.host_keys[machine.name].split()[:2])}\n"
        for machine in wanted.machines
    )


def machines_json(subnet: Network, address: Mapping[str, str], image_key: str) -> str:
    """Write the machines' addresses for whoever needs them, and which image all of them were made from."""
    content = {
        "image": image_key,
        "subnet": str(subnet),
        "gateway": gateway(subnet),
        "machines": {name: {"address": where} for name, where in sorted(address.items())},
    }
    return json.dumps(content, indent=2) + "\n"


def describe(seen: Seen) -> dict[str, Any]:
    """Say what there is, for a diff."""
    return {
        "network": seen.subnet,
        "machines": {
            name: {key: value for key, value in asdict(container).items() if key not in ("id",)}
            for name, container in sorted(seen.containers.items())
        },
        "volumes": sorted(seen.volumes),
    }


def foreseen(wanted: Wanted, seen: Seen, subnet: Network, steps: Sequence[Step]) -> dict[str, Any]:
    """Say what there will be after the steps, for a diff."""
    result = describe(seen)
    result["network"] = str(subnet)
    made = {step.subject for step in steps if step.action == "create volume"}
    result["volumes"] = sorted(seen.volumes | made)
    machines = {
        container_name(wanted.testbed, machine.name): {
            "state": "running",
            "definition": definition(wanted, machine, subnet),
            "alive": True,
            "answers": True,
        }
        for machine in wanted.machines
    }
    result["machines"] = dict(sorted(machines.items()))
    return result
