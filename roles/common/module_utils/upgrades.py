"""What an upgrade would change, and whether the makers of the software support it: pure, no cluster is asked here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

#: Major releases of Slurm in their order. From 24.05 on there are two a year, in May and in November.
SLURM_RELEASES = ("20.02", "20.11", "21.08", "22.05", "23.02", "23.11", "24.05")
#: The state of so many releases before its own does a release read, and of more since 24.11 (Slurm's upgrades.html).
SLURM_WINDOW = 2
SLURM_WIDER_SINCE, SLURM_WIDER_WINDOW = "24.11", 3
DEBIAN = {"bullseye": 11, "bookworm": 12, "trixie": 13, "forky": 14}
#: Which major release of Slurm a release of Debian brings; of 14, which is not released yet, as of November 2026.
DEBIAN_SLURM = {11: "20.11", 12: "22.05", 13: "24.11", 14: "26.05"}

SLURM = "Slurm"
KUBERNETES = "Kubernetes"
PROGRAMS = "programs of Kubernetes' nodes"
IMAGE = "machine image"
LEDGER = "ledger"
MONGODB = "mongodb"


@dataclass(frozen=True)
class Row:
    """A part of the testbed on a machine: what is there and what will be."""

    part: str
    machine: str
    has: str
    wants: str

    @property
    def changes(self) -> bool:
        """Whether there is something to do."""
        return bool(self.wants) and self.has != self.wants


def _order(character: str) -> int:
    # dpkg: a tilde comes before the end of the text, letters before everything else.
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256


def _compare_part(one: str, other: str) -> int:
    """Compare upstream versions or revisions as dpkg does: texts and numbers in turn."""
    parts = re.compile(r"(\D*)(\d*)")
    for (a, number_a), (b, number_b) in zip_longest(parts.findall(one), parts.findall(other), fillvalue=("", "")):
        for c, d in zip_longest(a, b):
            left, right = (_order(c) if c else 0), (_order(d) if d else 0)
            if left != right:
                return -1 if left < right else 1
        if int(number_a or 0) != int(number_b or 0):
            return -1 if int(number_a or 0) < int(number_b or 0) else 1
    return 0


def compare_debian(one: str, other: str) -> int:
    """Compare two versions of Debian packages: -1, 0 or 1.

    >>> compare_debian("22.05.8-4+deb12u2", "22.05.8-4+deb12u3")
    -1
    >>> compare_debian("24.11.5-4", "24.11.5-4~old1")
    1
    """

    def split(version: str) -> tuple[int, str, str]:
        epoch, colon, rest = version.partition(":")
        if not colon:
            epoch, rest = "0", version
        upstream, dash, revision = rest.rpartition("-")
        return int(epoch), upstream if dash else rest, revision if dash else ""

    (epoch, upstream, revision), (epoch_b, upstream_b, revision_b) = split(one), split(other)
    if epoch != epoch_b:
        return -1 if epoch < epoch_b else 1
    return _compare_part(upstream, upstream_b) or _compare_part(revision, revision_b)


def slurm_release(version: str) -> str:
    """Name the major release of a version: 24.11 of 24.11.5-4.

    Raises ValueError where there is none.
    """
    found = re.match(r"(?:\d+:)?(\d\d\.\d\d)\.", version + ".")
    if not found:
        raise ValueError(f"'{version}' is no version of Slurm")
    return found[1]


def slurm_place(release: str) -> int:
    """Number the major releases through, so that those between two can be counted."""
    if release in SLURM_RELEASES:
        return SLURM_RELEASES.index(release)
    year, month = (int(word) for word in release.split("."))
    if year < 24:
        # Older than all that are listed.
        return -1
    return SLURM_RELEASES.index("24.05") + 2 * (year - 24) + (1 if month >= 11 else 0)


def slurm_fault(has: str, wants: str) -> str:
    """Say why Slurm does not go from one version to the other; nothing where it does."""
    if not has or not wants or has == wants:
        return ""
    if compare_debian(wants, has) < 0:
        return f"has {has} and would go back to {wants}, which does not read what the newer one wrote"
    old, new = slurm_place(slurm_release(has)), slurm_place(slurm_release(wants))
    wider = new >= slurm_place(SLURM_WIDER_SINCE)
    window = SLURM_WIDER_WINDOW if wider else SLURM_WINDOW
    if new - old <= window:
        return ""
    oldest = next(
        (name for name in _releases() if slurm_place(name) == new - window),
        "a later one",
    )
    return (
        f"has {slurm_release(has)}, and {slurm_release(wants)} takes over from {oldest} or later only, as its makers "
        f"say: {new - old} major releases at once, where {window} are possible. Go over a release between them, or put "
        "up another testbed"
    )


def _releases() -> Iterable[str]:
    yield from SLURM_RELEASES
    for year in range(24, 100):
        yield from (f"{year}.{month}" for month in ("05", "11") if f"{year}.{month}" not in SLURM_RELEASES)


def kubernetes_numbers(version: str) -> tuple[int, int, int]:
    """Read v1.36.3 as three numbers.

    Raises ValueError where it is something else.
    """
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    if not found:
        raise ValueError(f"'{version}' is no version of Kubernetes")
    return int(found[1]), int(found[2]), int(found[3])


def kubernetes_fault(has: str, wants: str) -> str:
    """Say why Kubernetes does not go from one version to the other; nothing where it does."""
    if not has or not wants or has == wants:
        return ""
    old, new = kubernetes_numbers(has), kubernetes_numbers(wants)
    if new < old:
        return f"has {has} and would go back to {wants}, which kubeadm does not do"
    if new[0] != old[0] or new[1] - old[1] > 1:
        return f"has {has}, and kubeadm goes one minor at a time: to v{old[0]}.{old[1] + 1} first, not to {wants}"
    return ""


def ledger_fault(has: str, wants: str) -> str:
    """Say why a planner's ledger cannot be taken over; nothing where it can."""
    if has and wants and has > wants:
        return (
            f"has revision {has}, which this checkout does not know (its latest is {wants}): a newer planner wrote it"
        )
    return ""


def mongodb_fault(has: str, wants: str) -> str:
    """Say why MongoDB's own image does not go from one version to the other; nothing where it does, or is another's."""
    found = [re.search(r"(?:^|/)mongo:v?(\d+)", image) for image in (has, wants)]
    if not found[0] or not found[1]:
        kinds = [bool(each) for each in found]
        if wants and kinds[0] != kinds[1]:
            return "would be another database: backup.yml, another testbed, restore.yml take the documents there"
        return ""
    old, new = int(found[0][1]), int(found[1][1])
    if new < old:
        return f"has MongoDB {old} and would go back to {new}, which does not read what the newer one wrote"
    return (
        f"has MongoDB {old}, which goes one major at a time: to {old + 1} first, not to {new}" if new > old + 1 else ""
    )


def debian_fault(has: str, wants: str) -> str:
    """Say why machines do not go from one release of Debian to the other; nothing where they do."""
    numbers = [int(number) for number in re.findall(r"Debian (\d+)", f"{has} {wants}")]
    if len(numbers) == 2 and numbers[1] < numbers[0]:
        return f"is {numbers[0]} and would go back to {numbers[1]}, whose databases do not read what newer ones wrote"
    return ""


def release_fault(has: str, wants: str) -> str:
    """Say why a machine does not take over what another release of Debian has left; nothing where it does.

    Args:
        has: release whose state lies on the volume, 12; nothing where none does.
        wants: the machine's.
    """
    if not has or has == wants:
        return ""
    told = (
        f"the volume holds what Debian {has} has left, and this machine has Debian {wants}: give an image of Debian "
        f"{has} (openstack_machines_image) and rebuild"
    )
    if debian_fault(f"Debian {has}", f"Debian {wants}"):
        return f"{told}. Its databases do not read what newer ones wrote"
    slurm = slurm_fault(*slurm_of(has, wants))
    if slurm:
        return f"{told}. For another release is asked by nobody, and Slurm {slurm}"
    return (
        f"{told}; or, where its MariaDB and Slurm are meant to take it over for good, give "
        "-e openstack_machines_state_other_release=true"
    )


def unasked(there: Mapping[str, Mapping[str, Any]], suite: str, kubernetes: str) -> list[str]:
    """Say which upgrades machines would get that are made anew around their volumes, a sentence for each.

    A point release of what a machine has is none: that comes with each new image.

    Args:
        there: such machines by name, each with any of `debian`, `slurm` (package to version) and `kubernetes`.
        suite: the release of Debian that they would get.
        kubernetes: the version that they would get.
    """
    return [*_unasked_debian(there, suite), *_unasked_kubernetes(there, kubernetes)]


def _unasked_debian(there: Mapping[str, Mapping[str, Any]], suite: str) -> Iterable[str]:
    by_release: dict[str, list[str]] = {}
    for name, machine in sorted(there.items()):
        if machine.get("debian"):
            by_release.setdefault(str(machine["debian"]).partition(".")[0], []).append(name)
    new = str(DEBIAN.get(suite, suite))
    for old, names in sorted(by_release.items()):
        if old == new:
            continue
        own = next((name for name, number in DEBIAN.items() if str(number) == old), old)
        found = {version for name in names for version in (there[name].get("slurm") or {}).values()}
        has = sorted(found)[0] if found else slurm_of(old)[0]
        wants = slurm_of(new)[0]
        told = f"Slurm {has} would become {slurm_release(wants)}" if has and wants else "other databases come with it"
        back, jump = debian_fault(f"Debian {old}", f"Debian {new}"), slurm_fault(has, wants)
        refused = f"Debian {back}" if back else f"Slurm {jump}" if jump else ""
        way = (
            f"playbooks/upgrade.yml refuses it too: {refused}"
            if refused
            else f"playbooks/upgrade.yml -e local_machines_suite={suite} says what it changes, and asks"
        )
        yield (
            f"{', '.join(names)} would be made anew with Debian {new}, and have Debian {old}: {told}, for good. With "
            f"-e local_machines_suite={own} they stay as they are, with -e testbed_name=other there is another testbed "
            f"beside this one; {way}"
        )


def _unasked_kubernetes(there: Mapping[str, Mapping[str, Any]], wants: str) -> Iterable[str]:
    for name, machine in sorted(there.items()):
        has = str(machine.get("kubernetes") or "")
        if has and has != wants:
            refused = kubernetes_fault(has, wants)
            way = f"refuses it too: it {refused}" if refused else "takes it there, and asks first"
            yield (
                f"{name} would be made anew with Kubernetes {wants}, and has a control plane of {has}: "
                f"playbooks/upgrade.yml {way}"
            )


def debian_of(text: str) -> str:
    """Read what /etc/debian_version has: the number of a release, also of one that is not released yet.

    >>> debian_of("13.1"), debian_of("forky/sid")
    ('13.1', '14')
    """
    name = text.strip().partition("/")[0]
    return str(DEBIAN.get(name, name))


def slurm_of(*debians: str) -> tuple[str, ...]:
    """Name the Slurm of releases of Debian, as a version; nothing for any where one is not known.

    >>> slurm_of("12.5", "13")
    ('22.05.0', '24.11.0')
    """
    found = [DEBIAN_SLURM.get(int(one.partition(".")[0] or 0)) for one in debians if one.partition(".")[0].isdecimal()]
    return tuple(f"{one}.0" for one in found) if len(found) == len(debians) and all(found) else ("",) * len(debians)


def rows(machines: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Any]) -> list[Row]:
    """Put side by side what there is and what there will be.

    Args:
        machines: by name what there is, each with any of `image`, `debian`, `slurm` (package to version), `kubernetes`
            (version of the control plane), `kubelet` (of a node), `programs`, `bundle`, `ledgers` (platform to
            revision) and `images` (what it is to image).
        wanted: `image`, `suite`, `slurm`, `kubernetes`, `programs`, `bundle`, `ledger`, `images`; what is not known is
            missing or empty, and changes nothing.
    """
    found: list[Row] = []

    def add(part: str, machine: str, has: Any, wants: Any) -> None:
        if has:
            found.append(Row(part, machine, str(has), str(wants or has)))

    for name, there in machines.items():
        if there.get("image"):
            new = wanted.get("image") or there["image"]
            suite = DEBIAN.get(str(wanted.get("suite", "")))
            debian = str(there.get("debian") or "?").partition(".")[0]
            add(IMAGE, name, f"Debian {debian}, {there['image']}", f"Debian {suite or debian}, {new}")
        if packages := there.get("slurm") or {}:
            daemons = [daemon for daemon in ("slurmdbd", "slurmctld", "slurmd") if daemon in packages]
            versions = sorted(set(packages.values()))
            add(f"{SLURM}: {', '.join(daemons) or 'commands'}", name, " and ".join(versions), wanted.get("slurm"))
        add(f"{KUBERNETES}: control plane", name, there.get("kubernetes"), wanted.get("kubernetes"))
        add(f"{KUBERNETES}: kubelet", name, there.get("kubelet"), wanted.get("kubernetes"))
        add(PROGRAMS, name, (there.get("programs") or "")[:12], (wanted.get("programs") or "")[:12])
        add("planners and voter", name, there.get("bundle"), wanted.get("bundle"))
        for revision in sorted(set((there.get("ledgers") or {}).values())):
            platforms = sorted(key for key, value in there["ledgers"].items() if value == revision)
            named = platforms[0] if len(platforms) == 1 else f"{len(platforms)} platforms"
            add(f"{LEDGER} of {named}", name, revision, wanted.get("ledger"))
        for what, image in sorted((there.get("images") or {}).items()):
            # Several deployments may run one image: caesar-rest and caesar-rest-monitor.
            named = [
                new for key, new in (wanted.get("images") or {}).items() if what == key or what.startswith(f"{key}-")
            ]
            add(what, name, image, named[0] if named else "")
    return found


def faults(all_rows: Sequence[Row], drain: str = "wait") -> list[str]:
    """Say what is not supported, one line for each fault."""
    judged: dict[tuple[str, str], list[str]] = {}

    def add(part: str, text: str, machine: str) -> None:
        if text:
            judged.setdefault((part, text), []).append(machine)

    for row in all_rows:
        if row.part.startswith(SLURM):
            for version in row.has.split(" and "):
                add(SLURM, slurm_fault(version, row.wants), row.machine)
        elif row.part.startswith(KUBERNETES):
            add(KUBERNETES, kubernetes_fault(row.has, row.wants), row.machine)
        elif row.part.startswith(LEDGER):
            add(row.part, ledger_fault(row.has, row.wants), row.machine)
        elif row.part == MONGODB:
            add(MONGODB, mongodb_fault(row.has, row.wants), row.machine)
        elif row.part == IMAGE:
            add("Debian", debian_fault(row.has, row.wants), row.machine)
    found = [f"{part} on {', '.join(dict.fromkeys(machines))} {text}." for (part, text), machines in judged.items()]
    if drain not in ("wait", "cancel", "nowait"):
        found.append(f"drain is wait, cancel or nowait, not '{drain}'.")
    return found


def steps(all_rows: Sequence[Row], anew: Sequence[str], order: Sequence[str]) -> dict[str, list[str]]:
    """Decide which machines are touched, and how.

    Args:
        all_rows: of `rows`.
        anew: machines that are made anew, since their image or their definition changed.
        order: all machines in the order in which they are to be taken: controllers and control planes first.

    Returns:
        `anew`; `slurm`, machines whose packages are upgraded in place; `kubernetes`, machines that kubeadm upgrades;
        `all`, machines where anything changes.
    """
    changing = [row for row in all_rows if row.changes]
    # A cluster is of one version: its control plane is upgraded wherever a node is, and does nothing where it need not.
    kubernetes = {row.machine for row in changing if row.part.startswith(KUBERNETES)}
    slurm = {row.machine for row in changing if row.part.startswith(SLURM)} - set(anew)
    return {
        "anew": [name for name in order if name in anew],
        "slurm": [name for name in order if name in slurm],
        "kubernetes": [name for name in order if name in kubernetes],
        "all": [name for name in order if name in {row.machine for row in changing} | set(anew)],
    }


def table(all_rows: Sequence[Row]) -> list[str]:
    """Show the rows, those together that differ in their machine only."""
    together: dict[tuple[str, str, str], list[str]] = {}
    for row in all_rows:
        together.setdefault((row.part, row.has, row.wants if row.changes else "the same"), []).append(row.machine)
    lines = [("part", "machine", "has", "will have")]
    lines += [(part, ", ".join(names), has, wants) for (part, has, wants), names in together.items()]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def plan(
    machines: Mapping[str, Mapping[str, Any]],
    wanted: Mapping[str, Any],
    anew: Sequence[str],
    order: Sequence[str],
    drain: str = "wait",
) -> dict[str, Any]:
    """Decide all of it: `table` and `faults` for people, the steps, and as `members` the playbook's groups."""
    found = rows(machines, wanted)
    decided = steps(found, anew, order)
    members = [
        {"group": f"upgrade_{step}", "machine": name}
        for step in ("slurm", "kubernetes", "anew")
        for name in decided[step]
    ]
    # Where state lies, whatever is upgraded.
    members += [
        {"group": "upgrade_kept", "machine": name}
        for name, there in machines.items()
        if "slurmdbd" in (there.get("slurm") or {}) or there.get("kubernetes") or there.get("bundle")
    ]
    return {"table": table(found), "faults": faults(found, drain), "members": members, **decided}
