"""The file system that machines share: what is wrong with how the inventory wants it, and what a look at it found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ansible.module_utils

# Ansible gives modules the path of module_utils in ansible.cfg, but not the plugins that run on the controller.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.sentences import listed  # noqa: E402

KINDS = {
    "volume": "a podman volume, for machines made on this host",
    "nfs": "served by the machine of storage_servers to the others",
    "existing": "mounted on all of them by whoever runs them",
}
SERVERS = ("kernel", "ganesha")
#: What systemd's names of mounts, exports and shells all take as it is.
PATH = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9._-]*)+")
OPTION = re.compile(r"[a-z_]+(=[A-Za-z0-9./:_-]+)?")
#: Groups whose machines use it.
USERS = (
    "storage_servers",
    "slurm_controllers",
    "slurm_nodes",
    "kubernetes_control_planes",
    "kubernetes_nodes",
    "slurm_submit_hosts",
    "planners",
    "voters",
)
#: Groups where root writes on it: on machines of planners and voter directories are made and given to their users;
#: kubelet enters, as root, directories that only their user may.
ROOT = ("storage_servers", "kubernetes_control_planes", "kubernetes_nodes", "planners", "voters")


def storage_machines(groups: Mapping[str, Sequence[str]], which: str = "users") -> list[str]:
    """Name machines, each once: the `users` of the storage, its `writers`, or those where `root` writes on it."""
    chosen = {"users": USERS, "writers": tuple(group for group in USERS if group != "slurm_submit_hosts"), "root": ROOT}
    return list(dict.fromkeys(host for group in chosen[which] for host in groups.get(group, ())))


def storage_users(platforms: Iterable[Mapping[str, Any]], voter: int) -> list[dict[str, Any]]:
    """Who owns files on the storage: the platforms' users, and the voter by its number."""
    users = [{"name": platform["name"], "uid": platform["uid"]} for platform in platforms]
    return [*users, {"name": "the voter", "uid": voter}]


def mount_unit(path: str) -> str:
    """Name the unit of what is mounted there, as systemd-escape --path does.

    >>> mount_unit("/mnt/my-storage")
    'mnt-my\\\\x2dstorage.mount'
    """
    escaped = re.sub(r"[^A-Za-z0-9:_./]", lambda odd: f"\\x{ord(odd[0]):02x}", path.strip("/"))
    return escaped.replace("/", "-") + ".mount"


def storage_faults(said: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """One sentence for each fault, with what would be right.

    Args:
        said: `kind` and `root`; `device`, `server` and `options`, empty where the role says; the local machines'
            `definitions`; `database`, where caesar-rest's keeps its files, none where there is none.
        groups: the inventory's groups.
    """
    return list(_faults(said, groups))


def _faults(said: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    kind, root = said.get("kind"), said.get("root")
    if not isinstance(root, str) or not PATH.fullmatch(root):
        yield (
            f"testbed_storage_root is {root!r}: give the absolute path under which machines see the shared storage, of "
            "letters, digits, '.', '_' and '-', as /mnt/storage"
        )
    if not isinstance(kind, str) or kind not in KINDS:
        yield f"shared_storage_kind is {kind!r}: give {'; or '.join(f'{each} ({KINDS[each]})' for each in KINDS)}"
        return
    servers = list(groups.get("storage_servers", ()))
    made = [*groups.get("local_machines", ()), *groups.get("openstack_machines", ())]
    if groups.get("site_hosts") and kind != "existing":
        yield (
            f"shared_storage_kind is {kind}, but site_hosts are machines that exist already, where nothing is mounted: "
            "give existing"
        )
    elif kind == "volume" and not groups.get("local_machines"):
        yield (
            "shared_storage_kind is volume, which only machines made on this host have (local_machines): give nfs or "
            "existing"
        )
    if kind != "nfs":
        if servers:
            yield (
                f"storage_servers has {listed(servers)}, but shared_storage_kind is {kind}: give nfs, or take it out "
                "of the group"
            )
    elif len(servers) != 1:
        there = f"has {listed(servers)}" if servers else "has no machine"
        yield f"storage_servers {there}: give exactly one, which serves the shared storage to the others by NFS"
    elif servers[0] not in made:
        [server] = servers
        yield f"storage_servers has {server}, which is no machine that the testbed makes: give one of {listed(made)}"
    yield from _volumes(said.get("definitions") or {}, kind, groups)
    database = said.get("database")
    if kind == "nfs" and database is not None:
        path = database.get("host_path") if isinstance(database, Mapping) else None
        if not database or (isinstance(path, str) and isinstance(root, str) and f"{path}/".startswith(f"{root}/")):
            yield (
                f"mongodb_storage is {path or f'not given, which means {root}/mongodb'}, on shared storage, which is "
                "NFS, where a database does not keep its files: give {host_path: /var/lib/caesar-mongodb} or "
                '{storage_class: NAME}, or caesar_rest_platform: "" for no caesar-rest'
            )
    yield from _nfs(said, kind)


def _volumes(definitions: Any, kind: str, groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Machines made here, where the inventory itself describes them."""
    if not isinstance(definitions, Mapping):
        return  # somebody else's to say
    for name in storage_machines(groups):
        if name not in definitions or not isinstance(definitions[name], Mapping):
            continue
        there = "storage" in (definitions[name].get("volumes") or {})
        where = f"local_machines_definitions.{name}.volumes"
        if kind == "volume" and not there:
            yield f'{where} has no storage, and the machine uses it: add storage: "{{{{ testbed_storage_root }}}}"'
        if kind == "nfs" and there and name not in groups.get("storage_servers", ()):
            yield f"{where} has storage, where NFS is to be mounted: take it out, or give shared_storage_kind: volume"


def _nfs(said: Mapping[str, Any], kind: str) -> Iterator[str]:
    device, server, options = said.get("device"), said.get("server"), said.get("options")
    if device and (not isinstance(device, str) or not device.startswith("/dev/")):
        yield (
            f"shared_storage_device is {device!r}: give a block device of the storage server, as /dev/vdb or better "
            "/dev/disk/by-id/..., or '' for a directory on its own disc"
        )
    if device and kind != "nfs":
        yield f"shared_storage_device is {device!r}, which is for NFS, but shared_storage_kind is {kind}: take it out"
    if server and server not in SERVERS:
        yield f"shared_storage_nfs_server is {server!r}: give {' or '.join(SERVERS)}"
    if options and (not isinstance(options, list | tuple) or not all(_option(one) for one in options)):
        yield (f"shared_storage_mount_options is {options!r}: give a list of options of mount, as [vers=4.2, hard]")
    elif options and "soft" in options:
        yield (
            "shared_storage_mount_options has soft, by which writes are lost where the server is away for a while: "
            "give hard"
        )


def _option(one: Any) -> bool:
    return isinstance(one, str) and bool(OPTION.fullmatch(one))


def storage_findings(machines: Iterable[Mapping[str, Any]], first: str) -> list[dict[str, Any]]:
    """What the preflight's machines found, by their variables, with what each writer has mounted beside it."""
    answers = [
        machine[step]
        for machine in machines
        for step in ("shared_storage_prepared", "shared_storage_written", "shared_storage_read")
        if "findings" in machine.get(step, {})
    ]
    mounted = {answer["machine"]: answer["mounted"] for answer in answers}
    return [
        {**finding, "theirs": mounted.get(finding.get("writer", first))}
        for answer in answers
        for finding in answer["findings"]
    ]


def storage_sentences(findings: Iterable[Mapping[str, Any]], root: str) -> list[str]:
    """What the preflight's machines found, a sentence for each fault: who, where, what, and what to do.

    Machines that found the same of the same writer share one.
    """
    alike: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for finding in findings:
        key = (finding["what"], finding.get("writer"), finding.get("seen"), finding.get("user"), finding.get("why"))
        alike.setdefault(key, []).append(finding)
    return [_sentence(found[0], [str(each["machine"]) for each in found], found, root) for found in alike.values()]


def _sentence(first: Mapping[str, Any], machines: Sequence[str], found: Sequence[Mapping[str, Any]], root: str) -> str:
    who, writer, several = listed(machines), first.get("writer"), len(machines) > 1
    do = "do" if several else "does"
    if first["what"] == "unseen":
        there = "; ".join(f"on {each['machine']} it is {each['mounted']}" for each in found)
        return (
            f"{who} {do} not see what {writer} wrote under {root}: not the same file system? {there}; on {writer} it "
            f"is {first['theirs']}. Mount the shared one, or take away what lies over it: findmnt {root}"
        )
    if first["what"] == "unread":
        return f"{who} cannot read what {writer} wrote under {root}, for all to read: {first['why']}"
    if first["what"] == "content":
        return (
            f"{who} {'read' if several else 'reads'} something else than {writer} wrote under {root} ({first['why']}): "
            "is it a copy, or does a client keep what others have changed (nocto, actimeo)?"
        )
    if first["what"] == "owner":
        return (
            f"what {first['user']} wrote on {writer} under {root} belongs to {first['seen']} on {who}: numbers must be "
            "the same everywhere. NFS with all_squash, or with names instead of numbers (nfs4_disable_idmapping)?"
        )
    if first["what"] == "mode":
        return (
            f"what {first['user']} wrote on {writer} under {root} has mode {first['seen']} on {who}, not 0644: a mask "
            "or an access control list of the file system changes it"
        )
    if first["what"] == "silent":
        return (
            f"{root} does not answer on {who} within {first['why']} s, where it is {first['mounted']}: is its server "
            "up, and reached from there (NFS: TCP port 2049)?"
        )
    squashed = " Is it exported with root_squash, where root has to write?" if first.get("user") == "root" else ""
    return (
        f"{first['user']} cannot write under {root} on {who}, where it is {first['mounted']}: {first['why']}.{squashed}"
    )


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters of this file."""
        return {
            "mount_unit": mount_unit,
            "storage_faults": storage_faults,
            "storage_findings": storage_findings,
            "storage_machines": storage_machines,
            "storage_sentences": storage_sentences,
            "storage_users": storage_users,
        }
