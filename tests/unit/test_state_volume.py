"""The volume of a machine's state on that machine: what is done, and above all what is not."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from ansible.module_utils import state_volume as sv

VOLUME = "4f2c6b0e-8f5d-4f6e-9a53-0d7d6a1f4c11"
WANTED = sv.Wanted(
    VOLUME,
    "/srv/caesar-state",
    {"mysql": "/var/lib/mysql", "slurm": "/var/lib/slurm"},
    {"mysql": ["mariadb.service"], "slurm": ["slurmdbd.service", "slurmctld.service"]},
)
EXT4 = {"TYPE": "ext4", "USAGE": "filesystem", "UUID": VOLUME}
DISC = sv.Disc("/dev/vdb", "254:16", EXT4)
ROOT = sv.Mount("/srv/caesar-state", "254:16", "/")
BOUND = [ROOT, sv.Mount("/var/lib/mysql", "254:16", "/mysql"), sv.Mount("/var/lib/slurm", "254:16", "/slurm")]
SAME = ("12", "12")


def done(steps: list[sv.Step]) -> list[str]:
    return [f"{step.action} {step.subject}" for step in steps]


@pytest.mark.parametrize(
    ("discs", "found"),
    [
        ([("/dev/vda", "disk", ""), ("/dev/vdb", "disk", VOLUME[:20])], "/dev/vdb"),
        ([("/dev/sda", "disk", None), ("/dev/sdb", "disk", VOLUME)], "/dev/sdb"),
        ([("/dev/vda", "disk", ""), ("/dev/vdb", "disk", "4f2c6b0e-0000-4f6e-9")], None),
        ([("/dev/vdb", "part", VOLUME[:20])], None),
        # By two ways to the same volume only its people know which is to be taken.
        ([("/dev/sdb", "disk", VOLUME), ("/dev/sdc", "disk", VOLUME)], None),
        ([], None),
    ],
)
def test_the_disc_is_known_by_its_serial_number(discs: list[tuple[str, str, str | None]], found: str | None) -> None:
    listed = [{"path": path, "type": kind, "serial": serial} for path, kind, serial in discs]
    assert sv.choose(listed, VOLUME) == found


def test_an_empty_volume_gets_a_file_system_and_one_that_has_one_does_not() -> None:
    steps, faults = sv.volume_steps(WANTED, replace(DISC, signature={}), [])
    assert (done(steps), faults) == (["make file system /dev/vdb", "mount /srv/caesar-state"], [])
    for kind in ("ext4", "xfs", "btrfs"):
        steps, faults = sv.volume_steps(WANTED, replace(DISC, signature=EXT4 | {"TYPE": kind}), [])
        assert (done(steps), faults) == (["mount /srv/caesar-state"], [])
    assert sv.volume_steps(WANTED, DISC, [ROOT]) == ([], [])


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"signature": None}, "signatures of several things"),
        ({"signature": {"PTTYPE": "gpt"}, "partitions": True}, "has partitions"),
        ({"signature": {"PTTYPE": "dos"}}, "has partitions"),
        ({"signature": {"TYPE": "LVM2_member", "USAGE": "raid"}}, "no file system (LVM2_member)"),
        ({"signature": {"TYPE": "crypto_LUKS", "USAGE": "crypto"}}, "no file system (crypto_LUKS)"),
        ({"signature": {"TYPE": "swap", "USAGE": "other"}}, "no file system (swap)"),
    ],
)
def test_anything_else_on_a_volume_is_left_as_it_is(change: dict[str, object], part: str) -> None:
    steps, faults = sv.volume_steps(WANTED, replace(DISC, **change), [])  # type: ignore[arg-type]
    assert steps == []
    assert len(faults) == 1
    assert part in faults[0]


def test_another_mount_in_the_volumes_place_is_told() -> None:
    steps, faults = sv.volume_steps(WANTED, replace(DISC, signature={}), [replace(ROOT, device="8:1")])
    assert steps == []
    assert faults == ["/srv/caesar-state, where the volume belongs, has another mount already: unmount that"]


def test_what_is_in_place_stays() -> None:
    assert sv.path_steps(WANTED, DISC, BOUND, {}, SAME) == ([], [])


@pytest.mark.parametrize(
    ("place", "steps", "part"),
    [
        (sv.Place(), ["bind /var/lib/mysql"], ""),
        (sv.Place("directory"), ["bind /var/lib/mysql"], ""),
        # A rebuilt machine: its disc is new, the volume is not.
        (sv.Place("none", (), ("ibdata1",)), ["bind /var/lib/mysql"], ""),
        (sv.Place("directory", (), ("ibdata1",)), ["bind /var/lib/mysql"], ""),
        # A machine from before there were volumes: what lies on its disc must not vanish below a mount.
        (sv.Place("directory", ("ibdata1",)), [], "cp -a /var/lib/mysql/. /srv/caesar-state/mysql"),
        (sv.Place("directory", ("ibdata1",), ("ibdata1",)), [], "both have files"),
        (sv.Place("other"), [], "/var/lib/mysql is no directory"),
    ],
)
def test_a_path_is_bound_where_that_hides_nothing(place: sv.Place, steps: list[str], part: str) -> None:
    mounts = [one for one in BOUND if one.where != "/var/lib/mysql"]
    found, faults = sv.path_steps(WANTED, DISC, mounts, {"mysql": place}, SAME)
    assert done(found) == steps
    assert (len(faults) == 1 and part in faults[0]) if part else faults == []


def test_one_path_in_the_way_keeps_all_from_being_bound() -> None:
    places = {"mysql": sv.Place("directory", ("ibdata1",)), "slurm": sv.Place()}
    steps, faults = sv.path_steps(WANTED, DISC, [ROOT], places, SAME)
    assert steps == []
    assert len(faults) == 1


@pytest.mark.parametrize("other", [{"device": "8:1"}, {"directory": "/slurm"}])
def test_another_mount_in_a_paths_place_is_told(other: dict[str, str]) -> None:
    mounts = [replace(one, **other) if one.where == "/var/lib/mysql" else one for one in BOUND]
    steps, faults = sv.path_steps(WANTED, DISC, mounts, {}, SAME)
    assert steps == []
    assert faults == [
        "/var/lib/mysql has another mount already, and should be bound to /srv/caesar-state/mysql: unmount that"
    ]


def test_another_debian_takes_over_only_where_that_is_asked() -> None:
    steps, faults = sv.path_steps(WANTED, DISC, [ROOT], {}, ("12", "13"))
    assert steps == []
    assert "holds what Debian 12 has left, and this machine has Debian 13" in faults[0]
    steps, faults = sv.path_steps(replace(WANTED, other_release=True), DISC, [ROOT], {}, ("12", "13"))
    assert (len(steps), faults) == (2, [])
    assert sv.path_steps(WANTED, DISC, [ROOT], {}, ("", "13"))[1] == []


def test_the_last_mount_of_a_place_is_the_one_that_is_seen() -> None:
    text = (
        "36 25 254:1 / / rw - ext4 /dev/vda1 rw\n"
        "37 36 254:1 /var/lib/x /srv/my\\040state rw - ext4 /dev/vda1 rw\n"
        "38 36 254:16 / /srv/my\\040state rw - ext4 /dev/vdb rw\n"
    )
    assert sv.parse_mounts(text) == [sv.Mount("/", "254:1", "/"), sv.Mount("/srv/my state", "254:16", "/")]


def test_units_bring_it_back_at_each_boot_and_keep_services_from_starting_without() -> None:
    files = sv.unit_files(WANTED, VOLUME)
    root = files[r"/etc/systemd/system/srv-caesar\x2dstate.mount"]
    assert f"What=/dev/disk/by-uuid/{VOLUME}\nWhere=/srv/caesar-state\n" in root
    bound = files["/etc/systemd/system/var-lib-mysql.mount"]
    assert "What=/srv/caesar-state/mysql\nWhere=/var/lib/mysql\n" in bound
    assert "RequiresMountsFor=/srv/caesar-state\n" in bound
    assert files["/etc/systemd/system/mariadb.service.d/caesar-state.conf"].endswith(
        "RequiresMountsFor=/var/lib/mysql\n"
    )
    mounts = {path for path in files if path.endswith(".mount")}
    assert set(sv.links(WANTED).values()) == mounts
    assert all("WantedBy=local-fs.target" in files[path] for path in mounts)


@pytest.mark.skipif(not shutil.which("systemd-escape"), reason="systemd-escape is what it is compared with")
@pytest.mark.parametrize("path", ["/srv/caesar-state", "/var/lib/mysql", "/etc/kubernetes", "/mnt/my.st_rage"])
def test_units_are_named_as_systemd_does(path: str) -> None:
    said = subprocess.run(
        ["systemd-escape", "--path", "--suffix=mount", path], capture_output=True, text=True, check=True
    )
    assert sv.unit_name(path) == said.stdout.strip()
    assert re.fullmatch(r"[\w:.\\-]+", sv.unit_name(path))
