"""Slurm's accounts as a declared list: check it, compare it with what is there, plan the calls. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.slurm_limits import Invalid, Limits, inheritable, limits_of, name, words
from ansible.module_utils.slurm_state import Rights, Row, State

#: Kinds of steps that take accounts away.
DELETE_ACCOUNTS = ("delete_accounts", "delete_account_rows")

ADMINISTRATOR = Rights()


class Conflict(Exception):
    """The cluster is in a state that the plan must not touch; the text says which and what to do."""


@dataclass(frozen=True)
class Wanted:
    """One account of the desired list."""

    limits: Limits
    users: tuple[str, ...]


@dataclass(frozen=True)
class Desired:
    """The whole desired list: accounts under one managed parent, and the QOS that they all use.

    An empty `qos` leaves QOS as the cluster has them.
    """

    parent: str
    qos: str
    qos_flags: frozenset[str]
    accounts: Mapping[str, Wanted]


@dataclass(frozen=True)
class Step:
    """One call of sacctmgr, or waiting for jobs.

    `kind` is one of add_qos, set_qos_flags, load, add_accounts (under `account`), add_users (to `account`),
    modify_accounts, modify_user, set_default, close_accounts, close_users (no new jobs), empty (no jobs left),
    delete_association, delete_users, delete_accounts, delete_account_rows (those of this cluster only). `names` says
    what it acts on, `values` what it sets, `load` what a load file brings: parent (empty for users of an account that
    exists), account, limits, users.
    """

    kind: str
    names: tuple[str, ...]
    values: tuple[tuple[str, int | str], ...] = ()
    account: str = ""
    load: tuple[tuple[str, str, tuple[tuple[str, int], ...], tuple[str, ...]], ...] = ()

    def describe(self) -> str:
        """Say in plain words what the step does."""
        names, values = ", ".join(self.names), words(dict(self.values))
        if self.kind == "load":
            return "; ".join(
                (f"add account {account} under {parent} ({words(dict(limits)) or 'no limits'})" if parent else "")
                + (" and " if parent and users else "")
                + (f"add user {', '.join(users)} to {account}" if users else "")
                for parent, account, limits, users in self.load
            )
        if self.kind == "empty":
            cancel = dict(self.values)["Jobs"] == "cancel"
            return f"{'cancel' if cancel else 'wait for'} the jobs in {names}"
        return {
            "add_qos": f"add QOS {names} ({values})",
            "set_qos_flags": f"QOS {names}: set {values}",
            "add_accounts": f"add account {names} under {self.account} ({values or 'no limits'})",
            "add_users": f"add user {names} to {self.account}",
            "modify_accounts": f"account {names}: set {values}",
            "modify_user": f"user {names} in {self.account}: set {values}",
            "set_default": f"user {names}: set DefaultAccount={self.account}",
            "close_accounts": f"account {names}: let no new jobs in ({values})",
            "close_users": f"user {names} in {self.account}: let no new jobs in ({values})",
            "delete_association": f"remove user {names} from {self.account}",
            "delete_users": f"delete user {names}",
            "delete_accounts": f"delete account {names}",
            "delete_account_rows": f"delete account {names} from this cluster",
        }[self.kind]


# --- The list as people write it -------------------------------------------------------------------------------


def desired_of(parent: Any, qos: Any, qos_flags: Iterable[str], accounts: Sequence[Mapping[str, Any]]) -> Desired:
    """Check and normalise a desired list; raises Invalid with every fault found, one a line."""
    faults: list[str] = []
    wanted: dict[str, Wanted] = {}
    for checked, value in (("parent", parent), ("qos", qos)):
        if checked == "qos" and value == "":
            continue
        try:
            name(checked, value)
        except Invalid as fault:
            faults.append(str(fault))
    if parent == "root":
        faults.append("parent is 'root': give an account that holds nothing else, root holds everyone's")
    for index, account in enumerate(accounts):
        where = f"accounts[{index}]"
        try:
            called = name(f"{where}.name", account.get("name"))
            where = f"account {called}"
            if called in wanted or called in (parent, "root"):
                raise Invalid(f"{where} is there twice: every account needs a name of its own")
            users = tuple(
                name(f"{where}.users[{place}]", user) for place, user in enumerate(account.get("users") or [])
            )
            wanted[called] = Wanted(limits_of(where, account.get("limits") or {}), users)
        except Invalid as fault:
            faults.append(str(fault))
    if faults:
        raise Invalid("\n".join(faults))
    return Desired(parent, qos, frozenset(qos_flags), wanted)


def unknown_resources(desired: Desired, known: Iterable[str]) -> list[str]:
    """Name resources that the list limits and Slurm does not count; sacctmgr would refuse them in mid-plan."""
    asked = {key.partition("=")[2] for wanted in desired.accounts.values() for key in wanted.limits if "=" in key}
    return sorted(asked - set(known))


# --- Compare and plan ------------------------------------------------------------------------------------------


def managed(parent: str, state: State) -> dict[str, int]:
    """Give the accounts under the parent, at any depth, each with its depth (children have 1)."""
    found: dict[str, int] = {}
    layer, depth = {parent}, 0
    while layer:
        depth += 1
        layer = {
            account
            for account, described in state.accounts.items()
            if described.parent in layer and account not in found and account != parent
        }
        found.update(dict.fromkeys(layer, depth))
    return found


def changes(wanted: Limits, current: Limits, inherited: Limits) -> dict[str, int]:
    """Give what must be set to come from one to the other; -1 removes a limit.

    A row shows the limits of one job or user that it inherits as if they were its own. What is not wanted, and is
    the same above, is left: it is not here that it can be removed.
    """
    found = {key: value for key, value in wanted.items() if current.get(key) != value}
    surplus = {key: -1 for key, value in current.items() if key not in wanted and inherited.get(key) != value}
    return found | surplus


def plan(
    desired: Desired, current: State, prune: bool = True, rights: Rights = ADMINISTRATOR, drain: str = "refuse"
) -> list[Step]:
    """Decide which calls make the current state the desired one, in the order in which they must be made.

    QOS before the accounts that use it, accounts before their users, default accounts before what they pointed
    to is deleted, jobs before their accounts, users before their accounts, deepest accounts first. Accounts outside
    the managed parent appear in no step.

    Args:
        desired: the list.
        current: what is there.
        prune: take away what the list does not have.
        rights: of those who carry it out; they decide which calls there are, not what comes out of them.
        drain: `wait` or `cancel` closes what is taken away to new jobs and lets none be left.

    Raises:
        Conflict: where a wanted account belongs to somebody else.
    """
    under = managed(desired.parent, current)
    for account in desired.accounts:
        found = current.accounts.get(account)
        if found is not None and found.parent not in ("", desired.parent):
            raise Conflict(
                f"account {account} exists under {found.parent}, not under {desired.parent}: it is not ours to change; "
                "give the platform another name, or move the account with sacctmgr"
            )
    entries = _new(desired, current)
    steps = [
        *_qos_steps(desired, current),
        *(_load_steps(entries) if rights.level == "administrator" else _add_steps(entries)),
        *_account_steps(desired, current),
        *_user_steps(desired, current),
    ]
    if not prune:
        return steps + _default_steps(desired, current, {})
    doomed = {account: depth for account, depth in under.items() if account not in desired.accounts}
    leaving = _leaving(desired, current, doomed)
    return [
        *steps,
        *_default_steps(desired, current, leaving),
        *(_drain_steps(current, doomed, leaving, drain) if drain != "refuse" else []),
        *_delete_steps(desired, current, doomed, leaving, rights),
    ]


def _qos_steps(desired: Desired, current: State) -> list[Step]:
    if not desired.qos:
        return []
    if desired.qos not in current.qos:
        return [Step("add_qos", (desired.qos,), (("Flags", ",".join(sorted(desired.qos_flags))),))]
    missing = desired.qos_flags - current.qos[desired.qos]
    if missing:
        return [Step("set_qos_flags", (desired.qos,), (("Flags+", ",".join(sorted(missing))),))]
    return []


Entry = tuple[str, str, tuple[tuple[str, int], ...], tuple[str, ...]]


def _new(desired: Desired, current: State) -> list[Entry]:
    """Give what is to be added: parent (empty where the account is there), account, its limits, users new to it."""
    entries: list[Entry] = []
    if desired.parent not in current.accounts:
        entries.append(("root", desired.parent, (), ()))
    for account, wanted in desired.accounts.items():
        found = current.accounts.get(account)
        known = found.users if found else {}
        users = tuple(user for user in wanted.users if user not in known)
        if found is None or not found.parent:
            entries.append((desired.parent, account, tuple(sorted(wanted.limits.items())), users))
        elif users:
            entries.append(("", account, (), users))
    return entries


def _load_steps(entries: list[Entry]) -> list[Step]:
    return [Step("load", tuple(account for _, account, _, _ in entries), load=tuple(entries))] if entries else []


def _add_steps(entries: list[Entry]) -> list[Step]:
    """The same without a load file, which only administrators may load: a call for each set of limits and account."""
    groups: dict[tuple[str, tuple[tuple[str, int], ...]], list[str]] = {}
    for parent, account, limits, _ in entries:
        if parent:
            groups.setdefault((parent, limits), []).append(account)
    return [
        *(Step("add_accounts", tuple(names), limits, parent) for (parent, limits), names in groups.items()),
        *(Step("add_users", users, account=account) for _, account, _, users in entries if users),
    ]


def _account_steps(desired: Desired, current: State) -> list[Step]:
    groups: dict[tuple[tuple[str, int | str], ...], list[str]] = {}
    parent = current.accounts.get(desired.parent)
    inherits = parent is not None and _uses(parent.row, desired.qos)
    for account in (desired.parent, *desired.accounts):
        found = current.accounts.get(account)
        values: dict[str, int | str] = {}
        if account != desired.parent and found is not None and found.parent:
            above = inheritable(parent.row.limits) if parent is not None else {}
            values.update(changes(desired.accounts[account].limits, found.row.limits, above))
        if found is None or not found.parent:
            right = account != desired.parent and inherits
        else:
            right = _uses(found.row, desired.qos)
        if desired.qos and not right:
            values.update({"QOS": desired.qos, "DefaultQOS": desired.qos})
        if values:
            groups.setdefault(tuple(sorted(values.items())), []).append(account)
    return [Step("modify_accounts", tuple(accounts), values) for values, accounts in groups.items()]


def _user_steps(desired: Desired, current: State) -> list[Step]:
    steps = []
    for account, wanted in desired.accounts.items():
        found = current.accounts.get(account)
        if found is None or not found.parent:
            continue
        # A row shows what it inherits. Measured against the account's limits of today a user's own ones stand out;
        # those equal to the account's cannot be seen, and do nothing until the account's change.
        inherited = inheritable(found.row.limits)
        for user in wanted.users:
            row = found.users.get(user)
            if row is None:
                continue
            values: dict[str, int | str] = dict(changes({}, row.limits, inherited))
            inherits = (row.qos, row.default_qos) == (found.row.qos, found.row.default_qos)
            if desired.qos and not _uses(row, desired.qos) and not inherits:
                values.update({"QOS": desired.qos, "DefaultQOS": desired.qos})
            if values:
                steps.append(Step("modify_user", (user,), tuple(sorted(values.items())), account))
    return steps


def _default_steps(desired: Desired, current: State, all_leaving: Mapping[str, set[str]]) -> list[Step]:
    """Point users to the first of their accounts, and strangers away from accounts that go."""
    first: dict[str, str] = {}
    for account, wanted in desired.accounts.items():
        for user in wanted.users:
            first.setdefault(user, account)
    steps = []
    for user, account in first.items():
        # A user that is added gets its first account then.
        if user in current.defaults and current.defaults[user] != account:
            steps.append(Step("set_default", (user,), account=account))
    for user, leaving in all_leaving.items():
        if user in first or current.defaults.get(user) not in leaving:
            continue
        staying = [
            account
            for account, described in current.accounts.items()
            if user in described.users and account not in leaving
        ]
        if staying:
            steps.append(Step("set_default", (user,), account=min(staying)))
    return steps


def _leaving(desired: Desired, current: State, doomed: Mapping[str, int]) -> dict[str, set[str]]:
    """Give the associations that go: from user to accounts."""
    found: dict[str, set[str]] = {}
    for account, described in current.accounts.items():
        for user in described.users:
            wanted = desired.accounts.get(account)
            if account in doomed or (wanted is not None and described.parent and user not in wanted.users):
                found.setdefault(user, set()).add(account)
    return found


def _drain_steps(current: State, doomed: Mapping[str, int], leaving: Mapping[str, set[str]], drain: str) -> list[Step]:
    steps = []
    opened = tuple(
        account for account in sorted(doomed) if current.accounts[account].row.limits.get("GrpSubmitJobs") != 0
    )
    if opened:
        steps.append(Step("close_accounts", opened, (("GrpSubmitJobs", 0),)))
    places = set(doomed)
    for user, accounts in sorted(leaving.items()):
        for account in sorted(accounts - set(doomed)):
            places.add(account)
            if current.accounts[account].users[user].limits.get("MaxSubmitJobs") != 0:
                steps.append(Step("close_users", (user,), (("MaxSubmitJobs", 0),), account))
    if places:
        steps.append(Step("empty", tuple(sorted(places)), (("Jobs", drain),)))
    return steps


def _delete_steps(
    desired: Desired, current: State, doomed: Mapping[str, int], leaving: Mapping[str, set[str]], rights: Rights
) -> list[Step]:
    whole_users: list[str] = []
    apart: list[Step] = []
    last: dict[str, list[str]] = {}
    stays = {user for wanted in desired.accounts.values() for user in wanted.users}
    for user, accounts in sorted(leaving.items()):
        elsewhere = any(
            user in described.users for account, described in current.accounts.items() if account not in accounts
        )
        whole = not elsewhere and user not in stays and user not in current.users_elsewhere
        if whole and rights.level != "none":
            whole_users.append(user)
            continue
        # A coordinator takes users away by their associations, the default account's last: the user goes with it.
        default = current.defaults.get(user)
        for account in sorted(accounts):
            if whole and (account == default or len(accounts) == 1):
                last.setdefault(account, []).append(user)
            else:
                apart.append(Step("delete_association", (user,), account=account))
    steps = apart + [Step("delete_association", tuple(users), account=account) for account, users in last.items()]
    if whole_users:
        steps.append(Step("delete_users", tuple(whole_users)))
    for depth in sorted(set(doomed.values()), reverse=True):
        here = sorted(account for account, at in doomed.items() if at == depth)
        for kind, rows in (("delete_accounts", False), ("delete_account_rows", True)):
            names = tuple(
                account for account in here if (account in current.accounts_elsewhere or rights.level == "none") == rows
            )
            if names:
                steps.append(Step(kind, names))
    return steps


def _uses(row: Row, qos: str) -> bool:
    return bool(row.qos == (qos,) and row.default_qos == qos)
