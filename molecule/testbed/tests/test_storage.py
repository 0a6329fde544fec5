"""One file system for all machines: what is not is found, and NFS from one machine gives it to the others.

NFS is tried under a path of its own beside the testbed's volume, with a server and a client that need nothing of the
kernel: nfs-ganesha, and fuse_nfs4.py in the place of mount.nfs4. All else is what a cloud has.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from discs import file_as_disc
from handles import STATE, machine, playbook
from testinfra.host import Host

NFS = "/mnt/nfs"
UNIT = "mnt-nfs.mount"
MAKES = "caesar-storage-makefs.service"
CLIENTS = ("slurm", "kube")
#: What the server has there: its own root directory is an overlay, whose files have no handles. By a path outside /dev,
#: for inside systemd waits until udev tells of it, which no machine has that is made here.
DEVICE = "/run/test-nfs"
HELPER = "/sbin/mount.nfs4"


def told(run: subprocess.CompletedProcess[str]) -> str:
    """What a playbook printed, as one line."""
    return re.sub(r"\s+", " ", run.stdout + run.stderr)


def left(host: Host, root: str) -> str:
    return host.run(f"find {root} -maxdepth 1 -name '.preflight*'").stdout


def test_a_machine_with_another_file_system_is_named(slurm: Host, planner: Host) -> None:
    slurm.check_output("mount -t tmpfs none /mnt/storage")
    try:
        run = playbook("playbooks/storage.yml")
        assert left(slurm, "/mnt/storage") == ""
    finally:
        slurm.check_output("umount /mnt/storage")
    assert run.returncode != 0
    assert "1 thing is wrong with the shared storage" in told(run)
    assert "slurm does not see what planner wrote under /mnt/storage: not the same file system?" in told(run)
    assert "on slurm it is none (tmpfs)" in told(run)
    assert left(planner, "/mnt/storage") == ""


# NFS.


@pytest.fixture(scope="module")
def device(planner: Host) -> Iterator[str]:
    """An empty disc on the server."""
    with file_as_disc(planner, "/var/tmp/test-nfs.disc", "256M") as made:
        planner.check_output(f"ln -s {made} {DEVICE}")
        try:
            yield made
        finally:
            planner.check_output(f"rm {DEVICE}")


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("nfs") / "storage.yml"
    file.write_text("storage_servers:\n  hosts:\n    planner:\n")
    return file


def over_nfs(inventory: Path, *more: str) -> subprocess.CompletedProcess[str]:
    chosen = {
        "shared_storage_kind": "nfs",
        "testbed_storage_root": NFS,
        "shared_storage_nfs_server": "ganesha",
        "shared_storage_device": DEVICE,
    }
    given = (*(f"{name}={value}" for name, value in chosen.items()), *more)
    return playbook("playbooks/storage.yml", "-i", str(inventory), *(f"-e{each}" for each in given))


@pytest.fixture(scope="module")
def nfs(inventory: Path, device: str) -> Iterator[None]:
    """The storage served and mounted by the role."""

    def ready(name: str) -> None:
        host = machine(name)
        host.check_output(f"dpkg-divert --quiet --local --rename --divert {HELPER}.kernel --add {HELPER}")
        host.check_output("apt-get -qq install --no-install-recommends python3-fusepy >/dev/null")
        source = Path(__file__).with_name("fuse_nfs4.py")
        subprocess.run(
            ["ssh", "-F", STATE / "ssh_config", name, f"cat >{HELPER} && chmod 0755 {HELPER}"],
            stdin=source.open(),
            check=True,
        )

    def away(name: str) -> None:
        host = machine(name)
        host.run(f"systemctl disable --now {UNIT}; umount -l {NFS}; rm -f /etc/systemd/system/{UNIT}")
        host.run(f"systemctl stop {MAKES}; rm -f /etc/systemd/system/{MAKES}")
        host.run("apt-get -qq purge nfs-ganesha nfs-ganesha-vfs nfs-common rpcbind python3-fusepy >/dev/null")
        host.run(f"rm -f {HELPER}; dpkg-divert --quiet --local --rename --remove {HELPER}; rmdir {NFS}")
        host.run("cd /etc/systemd/system && rm -rf nfs-ganesha* rpcbind.* rpc-statd.* run-rpc_pipefs.mount")
        host.run("systemctl daemon-reload; systemctl reset-failed")

    names = ("planner", *CLIENTS)
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(ready, names))
        try:
            run = over_nfs(inventory)
            assert run.returncode == 0, told(run)
            yield
        finally:
            list(pool.map(away, reversed(names)))


def test_a_server_made_anew_finds_what_is_on_its_device(
    nfs: None, device: str, inventory: Path, slurm: Host, planner: Host
) -> None:
    identity = f"findmnt --noheadings --output SOURCE,FSTYPE,UUID {NFS}"
    made = planner.check_output(identity)
    assert made.split()[:2] == [device, "ext4"]
    planner.check_output(f"echo kept >{NFS}/data/kept")
    # All of the machine is gone but the device.
    planner.check_output(
        f"systemctl stop nfs-ganesha {UNIT} {MAKES}; systemctl disable --quiet nfs-ganesha {UNIT}; "
        f"rm -r /etc/ganesha/ganesha.conf /etc/systemd/system/nfs-ganesha.service.d /etc/systemd/system/{UNIT} "
        f"/etc/systemd/system/{MAKES}; rmdir {NFS}; systemctl daemon-reload"
    )
    run = over_nfs(inventory)
    assert run.returncode == 0, told(run)
    assert planner.check_output(identity) == made
    assert slurm.check_output(f"cat {NFS}/data/kept") == "kept"
    planner.check_output(f"rm {NFS}/data/kept")


@pytest.mark.parametrize("name", CLIENTS)
def test_the_mount_is_a_unit_that_a_machine_comes_up_without(nfs: None, name: str, address: dict[str, str]) -> None:
    host = machine(name)
    assert host.check_output(f"findmnt -n -o SOURCE {NFS}") == f"{address['planner']}:{NFS}"
    shown = host.check_output(f"systemctl show -p ActiveState,UnitFileState,After,Before,WantedBy,RequiredBy {UNIT}")
    seen = dict(line.split("=", 1) for line in shown.splitlines())
    assert (seen["ActiveState"], seen["UnitFileState"]) == ("active", "enabled")
    assert "network-online.target" in seen["After"]
    assert seen["WantedBy"] == "remote-fs.target"
    assert seen["RequiredBy"] == ""
    assert "remote-fs.target" not in seen["Before"]  # which would wait for a server that is away


def test_what_a_user_writes_is_his_on_every_machine(nfs: None, slurm: Host, kube: Host, planner: Host) -> None:
    planner.check_output(f"install -d -o 20001 -g 20001 -m 0700 {NFS}/jobs/own")
    user = "setpriv --reuid 20001 --regid 20001 --clear-groups"
    slurm.check_output(f"{user} sh -c 'umask 077; echo mine > {NFS}/jobs/own/file'")
    for host in (slurm, kube, planner):
        assert host.check_output(f"{user} stat -c '%u %g %a' {NFS}/jobs/own/file") == "20001 20001 600"
    assert kube.check_output(f"{user} cat {NFS}/jobs/own/file") == "mine"
    other = user.replace("20001", "20002")
    for host in (slurm, kube):
        assert host.run(f"{other} cat {NFS}/jobs/own/file").rc != 0


def test_root_is_root_only_where_it_has_to_be(nfs: None, slurm: Host, kube: Host) -> None:
    """Slurm's nodes have nothing to write as root; kubelet enters directories that are their users' alone."""
    kube.check_output(f"mkdir {NFS}/given && chown 20003:20003 {NFS}/given && chmod 0700 {NFS}/given && ls {NFS}/given")
    refused = slurm.run(f"ls {NFS}/given")
    assert refused.rc != 0
    assert "Permission denied" in refused.stderr
    assert slurm.run(f"touch {NFS}/mine").rc != 0
    kube.check_output(f"rmdir {NFS}/given")


def test_nobody_else_is_let_in(nfs: None, planner: Host, address: dict[str, str]) -> None:
    """The server's own address is none of the clients'."""
    refused = planner.run(f"mkdir -p /tmp/else && {HELPER} {address['planner']}:{NFS} /tmp/else")
    assert refused.rc != 0
    assert "while mounting" in refused.stderr
    assert planner.run("findmnt /tmp/else").rc != 0
    listening = re.findall(r"([0-9.]+)\]?:2049\b", planner.check_output("ss -Hltn 'sport = :2049'"))
    assert listening == [address["planner"]]
    assert planner.check_output("ss -Hltn 'sport = :111'") == ""


def test_writers_wait_while_the_server_is_away_and_lose_nothing(nfs: None, slurm: Host, planner: Host) -> None:
    planner.check_output(f"install -d -o 20001 -g 20001 -m 0700 {NFS}/jobs/lines")
    lines = f"for i in $(seq 40); do echo $i >>{NFS}/jobs/lines/all || exit 1; sleep 0.1; done"
    with ThreadPoolExecutor(1) as pool:
        wrote = pool.submit(slurm.run, f"setpriv --reuid 20001 --regid 20001 --clear-groups sh -c '{lines}'")
        # Root of slurm is nobody there.
        planner.check_output(f"timeout 30 sh -c 'until [ -s {NFS}/jobs/lines/all ]; do sleep 0.1; done'")
        planner.check_output("systemctl kill --signal=KILL nfs-ganesha; sleep 1; systemctl restart nfs-ganesha")
        assert wrote.result().rc == 0, wrote.result().stderr
    assert planner.check_output(f"cat {NFS}/jobs/lines/all").split() == [str(number) for number in range(1, 41)]


def test_a_server_that_hangs_is_named_in_time(nfs: None, inventory: Path, planner: Host) -> None:
    planner.check_output("systemctl kill --signal=STOP nfs-ganesha")
    try:
        run = over_nfs(inventory, "shared_storage_timeout=3")
    finally:
        planner.check_output("systemctl kill --signal=CONT nfs-ganesha")
    assert run.returncode != 0
    assert re.search(rf"{NFS} does not answer on (slurm and kube|kube and slurm) within 3 s", told(run)), told(run)
    assert f"{NFS} (fuse.nfs4)" in told(run)


def test_a_server_that_is_not_reached_is_named_and_what_was_unmounted_comes_back(
    nfs: None, inventory: Path, kube: Host
) -> None:
    kube.check_output(f"systemctl stop {UNIT} && iptables -I OUTPUT -p tcp --dport 2049 -j REJECT")
    try:
        run = over_nfs(inventory, "shared_storage_timeout=3")
    finally:
        kube.check_output("iptables -D OUTPUT -p tcp --dport 2049 -j REJECT")
    assert run.returncode != 0
    assert "kube does not reach the storage server planner at" in told(run)
    mended = over_nfs(inventory)
    assert mended.returncode == 0, told(mended)
    assert {name: int(changes) for name, changes in re.findall(r"(\w+) +: ok=\d+ +changed=(\d+)", mended.stdout)} == {
        "kube": 1,
        "slurm": 0,
        "planner": 0,
    }
    assert kube.check_output(f"systemctl is-active {UNIT}") == "active"
    assert left(kube, NFS) == ""
