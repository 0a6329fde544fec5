"""What a host lacks to carry the local machines: pure, the module local_machines_preflight reads the facts."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

GIB = 2**30
GB = 10**9


@dataclass(frozen=True)
class Needs:
    """What a testbed needs of a host."""

    #: Package to the command or file that proves it.
    packages: Mapping[str, str]
    #: Memory that is free before it is brought up, in GiB.
    memory_gib: float
    #: Disc space for machines, volumes and caches together, in GB.
    disc_gb: float
    #: Instances of inotify that its services open.
    inotify: int = 0


@dataclass(frozen=True)
class Host:
    """A host as it is."""

    root: bool = True
    #: Commands and files of `Needs.packages` that are there.
    present: frozenset[str] = frozenset()
    #: Whether packages come by apt, from Debian.
    apt: bool = True
    #: Sources of the machines' packages.
    sources: tuple[str, ...] = ("deb http://deb.debian.org/debian bookworm main",)
    suite: str = "bookworm"
    #: `v1`, `hybrid`, `v2` or `none`.
    cgroup: str = "v2"
    controllers: frozenset[str] = frozenset({"cpu", "memory", "pids"})
    #: Whether systemd's own hierarchy is mounted, which version 1 needs.
    systemd_hierarchy: bool = True
    fuse: bool = True
    #: What was tried in namespaces of its own, and the error where it failed: `overlay`, `bridge`, `nat`.
    failures: Mapping[str, str] = field(default_factory=dict)
    memory_available: int = 64 * GIB
    #: Directory to the bytes that are free where it lies and the bytes that the testbed's caches already take there.
    discs: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    #: Instances of inotify that root may still open, on all machines together.
    inotify_free: int = 8192
    nameservers: tuple[str, ...] = ("192.0.2.1",)
    #: Whether a subnet is free, or the testbed has one.
    subnet: bool = True
    #: Whether the testbed has machines already, so that memory and disc are in use by itself.
    has_machines: bool = False


@dataclass(frozen=True)
class Lack:
    """What is missing, and what brings it."""

    what: str
    remedy: str

    def __str__(self) -> str:
        """One message."""
        return f"{self.what}\n    {self.remedy}"


_PROBES = {
    "overlay": (
        "the kernel cannot mount overlay file systems here ({error})",
        "modprobe overlay     (where /var/lib/containers lies on an overlay itself, mount a disc there)",
    ),
    "bridge": (
        "the kernel cannot make a bridge and a pair of virtual interfaces ({error})",
        "modprobe -a bridge veth",
    ),
    "nat": (
        "the kernel cannot translate addresses ({error})",
        "modprobe -a nf_tables nft_compat nf_nat xt_MASQUERADE xt_conntrack xt_comment",
    ),
}


def usable_nameservers(resolv_conf: str) -> tuple[str, ...]:
    """List the name servers of a resolv.conf that a machine can reach too: none on the loopback interface."""
    lines = (line.split() for line in resolv_conf.splitlines())
    servers = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    return tuple(server for server in servers if not ipaddress.ip_address(server.partition("%")[0]).is_loopback)


def cgroup_kind(mounts: str) -> str:
    """Say which cgroups a host has, from its /proc/self/mounts: `v1`, `hybrid`, `v2` or `none`."""
    kinds = {}
    for line in mounts.splitlines():
        _, where, kind = line.split()[:3]
        if where.startswith("/sys/fs/cgroup"):
            kinds[where] = kind
    if kinds.get("/sys/fs/cgroup") == "cgroup2":
        return "v2"
    if "cgroup" not in kinds.values():
        return "none"
    return "hybrid" if "cgroup2" in kinds.values() else "v1"


def parse_packages(text: str) -> dict[str, str]:
    """Parse the list of the controller's packages: package and proof on each line."""
    lines = (line.split("#")[0].split() for line in text.splitlines())
    return {words[0]: words[1] for words in lines if words}


def lacks(needs: Needs, host: Host) -> list[Lack]:
    """List everything that a host lacks, each with the command that brings it."""
    return list(_lacks(needs, host))


def _lacks(needs: Needs, host: Host) -> Iterable[Lack]:
    if not host.root:
        yield Lack("this is not root, and machines need mounts, cgroups and a network", "sudo -E make testbed")
    missing = [package for package, proof in needs.packages.items() if proof not in host.present]
    if missing:
        proofs = ", ".join(needs.packages[package].rpartition("/")[2] for package in missing)
        command = f"apt-get install --no-install-recommends {' '.join(missing)}"
        if not host.apt:
            command = f"install what provides it; on Debian: {command}"
        yield Lack(f"missing programs: {proofs}", command)
    if not host.sources or not host.suite:
        yield Lack(
            "no archive of Debian is among this host's package sources (apt-get indextargets)",
            "apt-get update, or set local_machines_suite and local_machines_apt_sources in the inventory",
        )
    yield from _cgroup(host)
    for probe, (what, remedy) in _PROBES.items():
        if probe in host.failures:
            yield Lack(what.format(error=host.failures[probe]), remedy)
    if not host.fuse:
        yield Lack("/dev/fuse is missing, by which jobs mount their images", "modprobe fuse")
    if not host.nameservers:
        yield Lack(
            "all name servers in /etc/resolv.conf are on this host's loopback interface, which no machine reaches",
            "set local_machines_nameservers in the inventory to servers that are reached from outside this host",
        )
    if not host.subnet:
        yield Lack(
            "no subnet is free: every /24 of local_machines_subnet_pools overlaps a route or a network of this host",
            "ip route; then set local_machines_subnet_pools in the inventory to a network that is not in use",
        )
    if not host.has_machines:
        yield from _room(needs, host)


def _cgroup(host: Host) -> Iterable[Lack]:
    if host.cgroup == "none":
        yield Lack("no cgroups are mounted at /sys/fs/cgroup", "mount -t cgroup2 cgroup2 /sys/fs/cgroup")
        return
    if host.cgroup != "v2" and not host.systemd_hierarchy:
        yield Lack(
            "cgroups are version 1 without systemd's hierarchy, in which machines run their services",
            "mkdir -p /sys/fs/cgroup/systemd && mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd",
        )
    missing = sorted({"cpu", "memory", "pids"} - host.controllers)
    if missing:
        yield Lack(
            f"cgroup controllers are off: {', '.join(missing)}; limits of jobs would not hold",
            f"add to the kernel's command line and reboot: {' '.join(f'cgroup_enable={name}' for name in missing)}",
        )


def _room(needs: Needs, host: Host) -> Iterable[Lack]:
    if host.memory_available < needs.memory_gib * GIB:
        yield Lack(
            f"{host.memory_available / GIB:.1f} GiB of memory are free, {needs.memory_gib:g} are needed",
            "ps --sort=-rss -eo rss,pid,args | head     (stop what is not needed, or tear another testbed down)",
        )
    if host.inotify_free < needs.inotify:
        yield Lack(
            f"{host.inotify_free} instances of inotify are free, {needs.inotify} are needed; services would fail "
            "with 'too many open files'",
            "sysctl -w fs.inotify.max_user_instances=1024     (in /etc/sysctl.d for good)",
        )
    for directory, (free, cached) in host.discs.items():
        if free + cached < needs.disc_gb * GB:
            yield Lack(
                f"{free / GB:.1f} GB are free where {directory} lies, {needs.disc_gb - cached / GB:.1f} are needed",
                f"df -h {directory}     (free some; XDG_CACHE_HOME moves the caches to another disc)",
            )
