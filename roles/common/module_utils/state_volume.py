"""The volume for what must outlive its machine, seen from that machine: what must be done to have it in place. Pure.

The volume is mounted at one place, and each path of the state is bound to a directory on it. A file system is made
where there is none, and nothing that lies on the volume or in a path's way is ever overwritten or hidden.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.upgrades import release_fault

#: So much of a volume's id do discs of virtio have as their serial number.
SERIAL = 20
UNITS = "/etc/systemd/system"
WANTS = f"{UNITS}/local-fs.target.wants"
LABEL = "caesar-state"
WRITTEN = "# Written by roles/openstack_machines.\n"


@dataclass(frozen=True)
class Wanted:
    """What a machine keeps on its volume."""

    #: The cloud's id of it, which becomes the file system's too.
    volume: str
    #: Where it is mounted.
    root: str
    #: Name of the directory on it to the path that is bound to that.
    paths: Mapping[str, str]
    #: Name to the units that must not start without it.
    units: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: Whether another release of Debian may take over what lies on it.
    other_release: bool = False


@dataclass(frozen=True)
class Mount:
    """A line of /proc/self/mountinfo: where, which device (major:minor), and which directory on it."""

    where: str
    device: str
    directory: str


@dataclass(frozen=True)
class Disc:
    """The device as it is."""

    path: str
    #: major:minor.
    device: str
    #: What blkid finds on it; None where it finds several things at once.
    signature: Mapping[str, str] | None = field(default_factory=dict)
    partitions: bool = False


@dataclass(frozen=True)
class Place:
    """What is in a path's place on the machine, and what in its directory on the volume."""

    #: `none`, `directory` or `other`.
    kind: str = "none"
    #: Names in it, below whatever is mounted there.
    files: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One thing to do."""

    action: str
    subject: str
    why: str


def unit_name(path: str) -> str:
    """Name the unit of what is mounted there, as systemd-escape --path does.

    >>> unit_name("/srv/caesar-state")
    'srv-caesar\\\\x2dstate.mount'
    """
    escaped = re.sub(r"[^A-Za-z0-9:_./]", lambda odd: f"\\x{ord(odd[0]):02x}", path.strip("/"))
    return escaped.replace("/", "-") + ".mount"


def choose(discs: Iterable[Mapping[str, Any]], volume: str) -> str | None:
    """Give the path of the disc that a volume is, by its serial number; None where there is none, or more than one.

    Args:
        discs: `path`, `type` and `serial` of each, as lsblk says.
        volume: the cloud's id.
    """
    found = [
        str(disc["path"])
        for disc in discs
        if disc.get("type") in ("disk", "loop") and str(disc.get("serial") or "-")[:SERIAL] == volume[:SERIAL]
    ]
    return found[0] if len(found) == 1 else None


def parse_mounts(text: str) -> list[Mount]:
    """Read /proc/self/mountinfo, the last mount of a place only, for it hides the others."""

    def plain(word: str) -> str:
        return re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), word)

    lines = (line.split() for line in text.splitlines())
    return list(
        {plain(line[4]): Mount(plain(line[4]), line[2], plain(line[3])) for line in lines if len(line) > 4}.values()
    )


def uuid_of(disc: Disc, wanted: Wanted) -> str:
    """Name the file system that is on the volume, or will be."""
    return (disc.signature or {}).get("UUID", "") or wanted.volume


def volume_steps(wanted: Wanted, disc: Disc, mounts: Sequence[Mount]) -> tuple[list[Step], list[str]]:
    """Say what must be done to have the volume mounted at its place, and what stands in the way."""
    at = {mount.where: mount for mount in mounts}.get(wanted.root)
    if at is not None:
        if at.device == disc.device:
            return [], []
        return [], [f"{wanted.root}, where the volume belongs, has another mount already: unmount that"]
    what = f"{disc.path} (volume {wanted.volume})"
    if disc.signature is None:
        return [], [
            f"{what} has signatures of several things at once, and is left as it is: wipefs {disc.path} lists them"
        ]
    kind = disc.signature.get("TYPE") or disc.signature.get("PTTYPE", "")
    if disc.partitions or disc.signature.get("PTTYPE"):
        return [], [
            f"{what} has partitions, and is left as it is: the volume of a machine's state has a file system alone"
        ]
    if kind and disc.signature.get("USAGE", "filesystem") != "filesystem":
        return [], [f"{what} has something on it that is no file system ({kind}), and is left as it is"]
    steps = [] if kind else [Step("make file system", disc.path, "it has none")]
    return [*steps, Step("mount", wanted.root, f"{disc.path} is not there yet")], []


def path_steps(
    wanted: Wanted, disc: Disc, mounts: Sequence[Mount], places: Mapping[str, Place], releases: tuple[str, str]
) -> tuple[list[Step], list[str]]:
    """Say which paths must be bound to the volume, and what stands in the way.

    Args:
        wanted: what the machine keeps.
        disc: the volume, which is mounted.
        mounts: all of the machine.
        places: by name of the directory, what is there.
        releases: of Debian, whose state lies on the volume ("" where none does), and which the machine has.
    """
    at = {mount.where: mount for mount in mounts}
    steps, faults = [], []
    fault = release_fault(*releases)
    if fault and not wanted.other_release:
        faults.append(fault)
    for name, path in sorted(wanted.paths.items(), key=lambda item: item[1]):
        mount, place, directory = at.get(path), places.get(name, Place()), f"{wanted.root}/{name}"
        if mount is not None:
            if (mount.device, mount.directory) != (disc.device, f"/{name}"):
                faults.append(f"{path} has another mount already, and should be bound to {directory}: unmount that")
            continue
        if place.kind == "other":
            faults.append(f"{path} is no directory, so that it cannot be bound to {directory}")
        elif place.files and place.kept:
            faults.append(
                f"{path} and {directory} on the volume both have files, and only you know which are right: move those "
                "that are not needed out of the way"
            )
        elif place.files:
            faults.append(
                f"{path} has files from before there was a volume: stop what uses them, then "
                f"mkdir -p {directory} && cp -a {path}/. {directory} && mv {path} {path}.before"
            )
        else:
            steps.append(Step("bind", path, f"to {directory}"))
    return ([] if faults else steps), faults


def unit_files(wanted: Wanted, uuid: str) -> dict[str, str]:
    """Write the units by which all of it is there after a boot, and that keep others from starting without."""
    # The machine comes up without the volume, so that somebody can look; what needs it does not start.
    install = "\n[Install]\nWantedBy=local-fs.target\n"
    files = {
        f"{UNITS}/{unit_name(wanted.root)}": f"{WRITTEN}[Unit]\nDescription=What outlives this machine\n\n[Mount]\n"
        f"What=/dev/disk/by-uuid/{uuid}\nWhere={wanted.root}\nType=auto\nOptions=noatime\n{install}"
    }
    needed: dict[str, list[str]] = {}
    for name, path in sorted(wanted.paths.items()):
        files[f"{UNITS}/{unit_name(path)}"] = (
            f"{WRITTEN}[Unit]\nDescription=What outlives this machine: {name}\n"
            f"RequiresMountsFor={wanted.root}\n\n[Mount]\nWhat={wanted.root}/{name}\nWhere={path}\nType=none\nOptions=bind\n{install}"
        )
        for unit in wanted.units.get(name, ()):
            needed.setdefault(unit, []).append(path)
    for unit, paths in sorted(needed.items()):
        files[f"{UNITS}/{unit}.d/caesar-state.conf"] = (
            f"{WRITTEN}# Else it would start with nothing.\n[Unit]\nRequiresMountsFor={' '.join(sorted(paths))}\n"
        )
    return files


def links(wanted: Wanted) -> dict[str, str]:
    """Name the links that enable the mounts, each with what it leads to."""
    names = [unit_name(path) for path in (wanted.root, *wanted.paths.values())]
    return {f"{WANTS}/{name}": f"{UNITS}/{name}" for name in sorted(names)}
