"""What an existing Slurm lacks for the virtual platforms, and what the user at hand may not do. Pure.

Each fault is one sentence with the next step; commands in it are for the site's administrator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ansible.module_utils.slurm_state import Rights, State

#: What accounts' limits need of the cluster's configuration.
ENFORCED = ("associations", "limits", "qos")


@dataclass(frozen=True)
class Wanted:
    """What the inventory wants of the cluster."""

    platform: str
    parent: str
    qos: str
    partition: str
    users: Mapping[str, int]
    """Unix users and their numbers; each has an account of its own name."""
    qos_flags: frozenset[str] = frozenset({"DenyOnLimit"})
    tres: frozenset[str] = frozenset({"cpu", "mem"})
    storage: str = ""


@dataclass(frozen=True)
class Seen:
    """What there is, as the submit host shows it."""

    state: State
    rights: Rights
    tres: frozenset[str]
    partitions: frozenset[str]
    enforced: frozenset[str]
    users: Mapping[str, int] = field(default_factory=dict)
    storage_there: bool = True


def faults(wanted: Wanted, seen: Seen) -> list[str]:
    """All that stands in the way."""
    where = f"physical_platforms.{wanted.platform}"
    return [
        *_parent(where, wanted, seen),
        *_qos(where, wanted, seen),
        *_cluster(where, wanted, seen),
        *_accounts(wanted, seen),
        *_users(wanted, seen),
    ]


def _coordinates(wanted: Wanted, seen: Seen) -> bool:
    return wanted.parent in seen.rights.coordinates


def _parent(where: str, wanted: Wanted, seen: Seen) -> Iterator[str]:
    who, parent = seen.rights.user, wanted.parent
    if seen.rights.level != "none":
        return
    if parent not in seen.state.accounts:
        yield (
            f"{where}.parent_account: there is no account {parent}, and {who}, who is no operator of Slurm, cannot "
            f"make it. Ask for: sacctmgr add account {parent}; sacctmgr add coordinator account={parent} "
            f"names={who}"
        )
    elif not _coordinates(wanted, seen):
        yield (
            f"{where}.parent_account: {who} is neither an operator of Slurm nor a coordinator of {parent}. Ask "
            f"for: sacctmgr add coordinator account={parent} names={who}"
        )


def _qos(where: str, wanted: Wanted, seen: Seen) -> Iterator[str]:
    if seen.rights.level == "administrator":
        return
    who, qos = seen.rights.user, wanted.qos
    flags = ",".join(sorted(wanted.qos_flags))
    if qos not in seen.state.qos:
        yield (
            f"{where}.qos: there is no QOS {qos}, and only an administrator of Slurm makes one; {who} is none. Ask the "
            f"site for: sacctmgr add qos {qos} flags={flags}; or name one that there is"
        )
    elif not wanted.qos_flags <= seen.state.qos[qos]:
        lacking = ",".join(sorted(wanted.qos_flags - seen.state.qos[qos]))
        yield (
            f"{where}.qos: QOS {qos} lacks {lacking}, and jobs that can never run would wait for ever; {who} cannot "
            f"set it. Ask for: sacctmgr modify qos {qos} set flags+={lacking}"
        )
    parent = seen.state.accounts.get(wanted.parent)
    # A coordinator hands on what the parent has, and nothing else.
    if seen.rights.level == "none" and parent is not None and (parent.row.qos, parent.row.default_qos) != ((qos,), qos):
        yield (
            f"{where}.parent_account: {wanted.parent} does not have {qos} as its only QOS, which its accounts would "
            f"take over. Ask for: sacctmgr modify account {wanted.parent} set qos={qos} defaultqos={qos}"
        )


def _cluster(where: str, wanted: Wanted, seen: Seen) -> Iterator[str]:
    lacking = sorted(wanted.tres - seen.tres)
    if lacking:
        disc = "; or set disc_tres to '' there, and discs are counted by the planners alone"
        yield (
            f"{where}: Slurm does not count {', '.join(lacking)}. Ask for AccountingStorageTRES="
            f"{','.join(lacking)}{disc if any(tres.startswith('gres/') for tres in lacking) else ''}"
        )
    if wanted.partition not in seen.partitions:
        known = ", ".join(sorted(seen.partitions)) or "none that this user sees"
        yield f"{where}.partition is {wanted.partition!r}: known are {known}"
    weak = [word for word in ENFORCED if word not in seen.enforced]
    # `limits` brings `associations` with it.
    if "limits" in seen.enforced and "associations" in weak:
        weak.remove("associations")
    if weak:
        yield (
            f"{where}: Slurm does not enforce {', '.join(weak)}, so quotas would be words only. Ask for "
            f"AccountingStorageEnforce={','.join(ENFORCED)},safe"
        )
    if wanted.storage and not seen.storage_there:
        yield (
            f"testbed_storage_root: the submit host has no directory {wanted.storage}. Ask for the shared storage "
            "to be mounted there, on the nodes too, or name where it is"
        )


def _accounts(wanted: Wanted, seen: Seen) -> Iterator[str]:
    for account in wanted.users:
        found = seen.state.accounts.get(account)
        if found is not None and found.parent and found.parent != wanted.parent:
            yield (
                f"virtual_platforms: Slurm has an account {account} under {found.parent}, which is not the testbed's; "
                "give the platform another name"
            )


def _users(wanted: Wanted, seen: Seen) -> Iterator[str]:
    missing = [user for user in wanted.users if user not in seen.users]
    if missing:
        yield (
            f"virtual_platforms: the site has no unix user {', '.join(missing)}; they cannot be made from here. Ask "
            f"for them on all of the cluster's machines, with the numbers {_numbers(missing, wanted.users)}"
        )
    for user, number in wanted.users.items():
        if user in seen.users and seen.users[user] != number:
            yield (
                f"virtual_platforms: user {user} has the number {seen.users[user]} on the submit host, and {number} in "
                f"the list: write uid: {seen.users[user]}"
            )
    yield from _strangers(wanted, seen)


def _numbers(names: Sequence[str], users: Mapping[str, int]) -> str:
    return ", ".join(str(users[name]) for name in names)


def _strangers(wanted: Wanted, seen: Seen) -> Iterator[str]:
    """Users that belong to somebody: their default account would be changed."""
    for user in wanted.users:
        theirs = sorted(
            account
            for account, described in seen.state.accounts.items()
            if user in described.users and account not in wanted.users and described.parent != wanted.parent
        )
        if theirs:
            yield (
                f"virtual_platforms: user {user} is in the accounts {', '.join(theirs)} already; a platform needs a "
                "user of its own"
            )
