"""What a host lacks: every lack is one message with the command that brings it, all at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from ansible.module_utils import host_preflight as hp

PACKAGES = Path(__file__).parents[2] / "roles/local_machines/files/host-packages.txt"
NEEDS = hp.Needs(
    packages={"podman": "podman", "netavark": "/usr/lib/podman/netavark"}, memory_gib=8, disc_gb=15, inotify=48
)
GOOD = hp.Host(present=frozenset(NEEDS.packages.values()), discs={"/var/lib/containers": (80 * hp.GB, 0)})


def test_a_good_host_lacks_nothing() -> None:
    assert hp.lacks(NEEDS, GOOD) == []


@pytest.mark.parametrize(
    ("changes", "what", "remedy"),
    [
        ({"root": False}, "not root", "sudo"),
        (
            {"present": frozenset()},
            "missing programs: podman, netavark",
            "apt-get install --no-install-recommends podman netavark",
        ),
        ({"present": frozenset(), "apt": False}, "missing programs", "on Debian: apt-get install"),
        ({"sources": ()}, "no archive of Debian", "apt-get update"),
        ({"cgroup": "none"}, "no cgroups", "mount -t cgroup2"),
        ({"cgroup": "hybrid", "systemd_hierarchy": False}, "version 1 without systemd", "name=systemd"),
        ({"controllers": frozenset({"cpu", "pids"})}, "controllers are off: memory", "cgroup_enable=memory"),
        ({"failures": {"overlay": "unknown filesystem type"}}, "unknown filesystem type", "modprobe overlay"),
        ({"failures": {"bridge": "Not supported"}}, "Not supported", "modprobe -a bridge veth"),
        ({"failures": {"nat": "No chain"}}, "No chain", "modprobe"),
        ({"fuse": False}, "/dev/fuse", "modprobe fuse"),
        ({"nameservers": ()}, "loopback", "local_machines_nameservers"),
        ({"subnet": False}, "no subnet is free", "local_machines_subnet_pools"),
        ({"memory_available": 7 * hp.GIB}, "7.0 GiB of memory are free, 8 are needed", "ps "),
        ({"inotify_free": 47}, "47 instances of inotify are free, 48 are needed", "sysctl -w fs.inotify"),
        ({"discs": {"/d": (14 * hp.GB, 0)}}, "14.0 GB are free where /d lies, 15.0 are needed", "df -h /d"),
    ],
)
def test_each_lack_has_one_message_and_its_remedy(changes: dict[str, object], what: str, remedy: str) -> None:
    (lack,) = hp.lacks(NEEDS, replace(GOOD, **changes))
    assert what in lack.what
    assert remedy in lack.remedy


def test_all_lacks_come_at_once() -> None:
    host = hp.Host(root=False, sources=(), cgroup="none", fuse=False, nameservers=(), subnet=False, memory_available=0)
    assert len(hp.lacks(NEEDS, host)) == 8


def test_a_running_testbed_does_not_ask_for_its_own_memory_again() -> None:
    host = replace(GOOD, has_machines=True, memory_available=0, inotify_free=0, discs={"/d": (0, 0)})
    assert hp.lacks(NEEDS, host) == []


def test_caches_that_are_there_need_no_room_any_more() -> None:
    assert hp.lacks(NEEDS, replace(GOOD, discs={"/d": (12 * hp.GB, 4 * hp.GB)})) == []


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0", "v2"),
        ("tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw 0 0", "v1"),
        (
            "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n"
            "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0",
            "hybrid",
        ),
        ("proc /proc proc rw 0 0", "none"),
    ],
)
def test_cgroup_kind(mounts: str, kind: str) -> None:
    assert hp.cgroup_kind(mounts) == kind


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("nameserver 127.0.0.53\noptions edns0\n", ()),
        ("# none\nnameserver 192.0.2.53\nnameserver ::1\n", ("192.0.2.53",)),
        ("nameserver fe80::1%eth0\n", ("fe80::1%eth0",)),
    ],
)
def test_name_servers_that_machines_reach(text: str, servers: tuple[str, ...]) -> None:
    assert hp.usable_nameservers(text) == servers


def test_the_list_of_packages_can_be_read() -> None:
    packages = hp.parse_packages(PACKAGES.read_text())
    assert packages["podman"] == "podman"
    assert packages["netavark"].startswith("/")
