"""Slurm's accounts as a declared list: read sacctmgr's text, normalise, compare, plan. Pure, nothing is run here.

Limits are flat mappings from sacctmgr's own words to whole numbers, `{"GrpTRES=cpu": 8, "GrpTRES=mem": 32768,
"GrpJobs": 4, "MaxWall": 60}`: memory in MiB, walltime in minutes, counts otherwise. A key that is absent means
that there is no limit. This form is the same whatever notation sacctmgr printed or the operator wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

#: What sacctmgr may call a name without changing it (it lower-cases account names silently).
NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
TRES = re.compile(r"cpu|mem|node|billing|energy|vmem|pages|(gres|license|bb|fs)/[A-Za-z0-9_:.-]+")
#: Slurm keeps counts in 32 bits and takes the last two values for "none" and "unlimited".
LARGEST = 2**31 - 1

#: Columns of `show assoc`, the words of `modify ... set` and of load files for the same limit, and what it holds.
#: All limits that Slurm 22.05 to 24.11 have on associations, so that a limit somebody else set is seen too.
COLUMNS: tuple[tuple[str, str, str, str], ...] = (
    ("GrpTRES", "GrpTRES", "GrpTRES", "tres"),
    ("GrpTRESMins", "GrpTRESMins", "GrpTRESMins", "tres"),
    ("GrpTRESRunMins", "GrpTRESRunMins", "GrpTRESRunMins", "tres"),
    ("GrpJobs", "GrpJobs", "GrpJobs", "count"),
    ("GrpJobsAccrue", "GrpJobsAccrue", "GrpJobsAccrue", "count"),
    ("GrpSubmit", "GrpSubmitJobs", "GrpSubmitJobs", "count"),
    ("GrpWall", "GrpWall", "GrpWall", "minutes"),
    ("MaxTRES", "MaxTRESPerJob", "MaxTRESPerJob", "tres"),
    ("MaxTRESPerNode", "MaxTRESPerNode", "MaxTRESPerNode", "tres"),
    ("MaxTRESMins", "MaxTRESMinsPerJob", "MaxTRESMinsPerJob", "tres"),
    ("MaxJobs", "MaxJobs", "MaxJobs", "count"),
    ("MaxJobsAccrue", "MaxJobsAccrue", "MaxJobsAccrue", "count"),
    ("MaxSubmit", "MaxSubmitJobs", "MaxSubmitJobs", "count"),
    ("MaxWall", "MaxWall", "MaxWallDurationPerJob", "minutes"),
)
WORDS: Mapping[str, str] = {word: kind for _, word, _, kind in COLUMNS}
LOAD_WORDS: Mapping[str, str] = {word: load for _, word, load, _ in COLUMNS}
ASSOCIATION_FORMAT = ",".join(
    ("Cluster", "Account", "ParentName", "User", "DefaultQOS", "QOS", *(column for column, _, _, _ in COLUMNS))
)
USER_FORMAT = "User,DefaultAccount"
QOS_FORMAT = "Name,Flags"

#: Kinds of steps that take accounts away.
DELETE_ACCOUNTS = ("delete_accounts", "delete_account_rows")

Limits = Mapping[str, int]


class Invalid(ValueError):
    """A value that Slurm would refuse or, worse, misread; the text names it and says what would be right."""


class Conflict(Exception):
    """The cluster is in a state that the plan must not touch; the text says which and what to do."""


@dataclass(frozen=True)
class Row:
    """One association: an account, or a user in it."""

    limits: Limits = field(default_factory=dict)
    default_qos: str = ""
    qos: tuple[str, ...] = ()


@dataclass(frozen=True)
class Account:
    """An account of one cluster: its parent, its own row, its users' rows."""

    parent: str
    row: Row
    users: Mapping[str, Row] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """What Slurm's database says of one cluster."""

    accounts: Mapping[str, Account] = field(default_factory=dict)
    #: Default account of every user that there is, also of those without an association here.
    defaults: Mapping[str, str] = field(default_factory=dict)
    qos: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: Users and accounts that have associations in other clusters of the same database.
    users_elsewhere: frozenset[str] = frozenset()
    accounts_elsewhere: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Wanted:
    """One account of the desired list."""

    limits: Limits
    users: tuple[str, ...]


@dataclass(frozen=True)
class Desired:
    """The whole desired list: accounts under one managed parent, and the QOS that they all use."""

    parent: str
    qos: str
    qos_flags: frozenset[str]
    accounts: Mapping[str, Wanted]


@dataclass(frozen=True)
class Step:
    """One call of sacctmgr.

    `kind` is one of add_qos, set_qos_flags, load, modify_accounts, modify_user, set_default, delete_association,
    delete_users, delete_accounts, delete_account_rows (those of this cluster only). `names` says what it acts on,
    `values` what it sets, `load` what a load file brings: parent (empty for users of an account that exists),
    account, limits, users.
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
        return {
            "add_qos": f"add QOS {names} ({values})",
            "set_qos_flags": f"QOS {names}: set {values}",
            "modify_accounts": f"account {names}: set {values}",
            "modify_user": f"user {names} in {self.account}: set {values}",
            "set_default": f"user {names}: set DefaultAccount={self.account}",
            "delete_association": f"remove user {names} from {self.account}",
            "delete_users": f"delete user {names}",
            "delete_accounts": f"delete account {names}",
            "delete_account_rows": f"delete account {names} from this cluster",
        }[self.kind]


# --- Values as people write them -------------------------------------------------------------------------------


def whole(where: str, value: Any) -> int:
    """Give a count above zero that Slurm can keep; text, fractions and negative numbers are refused."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST:
        raise Invalid(f"{where} is {value!r}: give a whole number from 1 to {LARGEST}")
    return value


def memory_mib(where: str, value: Any) -> int:
    """Give MiB of a number of MiB, or of a text of a whole number and one of K, M, G, T, P (powers of 1024)."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d{1,15})([KMGTP]?)", value)
        if match is None:
            raise Invalid(f"{where} is {value!r}: give MiB as a number, or a whole number with K, M, G, T or P")
        kib = int(match[1]) * 1024 ** "KMGTP".index(match[2] or "M")
        if kib % 1024:
            raise Invalid(f"{where} is {value!r}: Slurm counts whole MiB")
        value = kib // 1024
    return whole(where, value)


def minutes(where: str, value: Any) -> int:
    """Give minutes of a number of minutes, or of Slurm's `[days-]hours:minutes:seconds`."""
    if isinstance(value, str):
        match = re.fullmatch(r"(?:(\d{1,6})-)?(\d{1,6}):([0-5]\d):00", value)
        if match is None:
            raise Invalid(f"{where} is {value!r}: give minutes as a number, or [days-]hours:minutes:00")
        value = (int(match[1] or 0) * 24 + int(match[2])) * 60 + int(match[3])
    return whole(where, value)


def name(where: str, value: Any) -> str:
    """Give the name where Slurm keeps it as it is."""
    if not isinstance(value, str) or NAME.fullmatch(value) is None:
        raise Invalid(f"{where} is {value!r}: give up to 32 lower-case letters, digits, - and _, a letter or _ first")
    return value


def limits_of(where: str, given: Mapping[str, Any]) -> dict[str, int]:
    """Normalise limits, `{"GrpTRES": {"cpu": 8, "mem": "32G"}, "GrpJobs": 4, "MaxWall": "1-00:00:00"}`.

    None means no limit. Raises Invalid for the first value that is not understood.
    """
    found: dict[str, int] = {}
    for word, value in given.items():
        kind = WORDS.get(word)
        if kind is None:
            raise Invalid(f"{where} has the unknown limit {word!r}: known are {', '.join(WORDS)}")
        if value is None:
            continue
        if kind == "tres":
            if not isinstance(value, Mapping):
                raise Invalid(f"{where}.{word} is {value!r}: give a mapping such as {{cpu: 8, mem: 32G}}")
            for tres, amount in value.items():
                if not isinstance(tres, str) or TRES.fullmatch(tres) is None:
                    raise Invalid(f"{where}.{word} has the unknown resource {tres!r}: cpu, mem, gres/NAME ...")
                if amount is not None:
                    parse = memory_mib if tres == "mem" else whole
                    found[f"{word}={tres}"] = parse(f"{where}.{word}.{tres}", amount)
        else:
            parse = minutes if kind == "minutes" else whole
            found[word] = parse(f"{where}.{word}", value)
    return found


def desired_of(parent: Any, qos: Any, qos_flags: Iterable[str], accounts: Sequence[Mapping[str, Any]]) -> Desired:
    """Check and normalise a desired list; raises Invalid with every fault found, one a line."""
    faults: list[str] = []
    wanted: dict[str, Wanted] = {}
    for checked, value in (("parent", parent), ("qos", qos)):
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


# --- Text as sacctmgr prints it --------------------------------------------------------------------------------


def table(text: str, columns: str) -> list[dict[str, str]]:
    """Parse the output of `sacctmgr -nP show ... format=COLUMNS`; raises ValueError where it does not fit."""
    names = columns.split(",")
    rows = []
    for line in text.splitlines():
        if not line.strip():
            continue
        values = line.split("|")
        if len(values) != len(names):
            raise ValueError(f"sacctmgr printed {len(values)} columns where {len(names)} were asked for: {line!r}")
        rows.append(dict(zip(names, (value.strip() for value in values), strict=True)))
    return rows


def printed_amount(text: str, memory: bool) -> int:
    """Give the number of a printed amount; `1.50T` and `16G` of memory in MiB, `2K` of anything else as 2048."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTPE]?)", text)
    if match is None:
        raise ValueError(f"sacctmgr printed an amount that is no number: {text!r}")
    power = "KMGTPE".index(match[2]) + 1 if match[2] else 0
    if memory:
        power = power - 2 if match[2] else 0
    return round(float(match[1]) * 1024.0**power)


def printed_minutes(text: str) -> int:
    """Give minutes, rounded up, of `[days-]hours:minutes:seconds` or of a bare number of minutes."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if match is None:
        return int(text)
    days, hours, rest, seconds = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + rest + (1 if seconds else 0)


def printed_limits(row: Mapping[str, str]) -> dict[str, int]:
    """Give the limits of one printed row."""
    found: dict[str, int] = {}
    for column, word, _, kind in COLUMNS:
        text = row.get(column, "")
        if not text:
            continue
        if kind == "tres":
            for part in text.split(","):
                tres, _, amount = part.partition("=")
                found[f"{word}={tres}"] = printed_amount(amount, memory=tres == "mem")
        else:
            found[word] = printed_minutes(text) if kind == "minutes" else int(text)
    return found


def parse_state(cluster: str, associations: str, users: str, qos: str) -> State:
    """Read the outputs of `show assoc`, `show user` and `show qos` in the formats of this module."""
    rows = table(associations, ASSOCIATION_FORMAT)
    here = [row for row in rows if row["Cluster"] == cluster]
    members: dict[str, dict[str, Row]] = {}
    for row in here:
        if row["User"]:
            members.setdefault(row["Account"], {})[row["User"]] = _row(row)
    accounts = {
        row["Account"]: Account(row["ParentName"], _row(row), members.get(row["Account"], {}))
        for row in here
        if not row["User"]
    }
    # An association whose account's own row is missing: left by concurrent writers. A load makes it whole.
    for account, orphans in members.items():
        accounts.setdefault(account, Account("", Row(), orphans))
    return State(
        accounts=accounts,
        defaults={row["User"]: row["DefaultAccount"] for row in table(users, USER_FORMAT)},
        qos={
            row["Name"]: frozenset(flag for flag in row["Flags"].split(",") if flag) for row in table(qos, QOS_FORMAT)
        },
        users_elsewhere=frozenset(row["User"] for row in rows if row["User"] and row["Cluster"] != cluster),
        accounts_elsewhere=frozenset(row["Account"] for row in rows if row["Cluster"] != cluster),
    )


def _row(row: Mapping[str, str]) -> Row:
    qos = tuple(sorted(part for part in row["QOS"].split(",") if part))
    return Row(printed_limits(row), row["DefaultQOS"], qos)


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


def inheritable(limits: Limits) -> dict[str, int]:
    """Give those limits of a row that the rows beneath it show too."""
    return {key: value for key, value in limits.items() if key.startswith("Max")}


def plan(desired: Desired, current: State, prune: bool = True) -> list[Step]:
    """Decide which calls make the current state the desired one, in the order in which they must be made.

    QOS before the accounts that use it, accounts before their users, default accounts before what they pointed
    to is deleted, users before their accounts, deepest accounts first. Accounts outside the managed parent appear
    in no step. Raises Conflict where a wanted account belongs to somebody else.
    """
    under = managed(desired.parent, current)
    for account in desired.accounts:
        found = current.accounts.get(account)
        if found is not None and found.parent not in ("", desired.parent):
            raise Conflict(
                f"account {account} exists under {found.parent}, not under {desired.parent}: it is not ours to change; "
                "give the platform another name, or move the account with sacctmgr"
            )
    steps = [
        *_qos_steps(desired, current),
        *_load_steps(desired, current),
        *_account_steps(desired, current),
        *_user_steps(desired, current),
    ]
    if not prune:
        return steps + _default_steps(desired, current, {})
    doomed = {account: depth for account, depth in under.items() if account not in desired.accounts}
    leaving = _leaving(desired, current, doomed)
    return steps + _default_steps(desired, current, leaving) + _delete_steps(desired, current, doomed, leaving)


def _qos_steps(desired: Desired, current: State) -> list[Step]:
    flags = ",".join(sorted(desired.qos_flags))
    if desired.qos not in current.qos:
        return [Step("add_qos", (desired.qos,), (("Flags", flags),))]
    missing = desired.qos_flags - current.qos[desired.qos]
    if missing:
        return [Step("set_qos_flags", (desired.qos,), (("Flags+", ",".join(sorted(missing))),))]
    return []


def _load_steps(desired: Desired, current: State) -> list[Step]:
    entries: list[tuple[str, str, tuple[tuple[str, int], ...], tuple[str, ...]]] = []
    if desired.parent not in current.accounts:
        entries.append(("root", desired.parent, (), ()))
    for account, wanted in desired.accounts.items():
        found = current.accounts.get(account)
        if found is None or not found.parent:
            known = found.users if found else {}
            users = tuple(user for user in wanted.users if user not in known)
            entries.append((desired.parent, account, tuple(sorted(wanted.limits.items())), users))
        else:
            users = tuple(user for user in wanted.users if user not in found.users)
            if users:
                entries.append(("", account, (), users))
    if not entries:
        return []
    return [Step("load", tuple(account for _, account, _, _ in entries), load=tuple(entries))]


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
        if not right:
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
            if not _uses(row, desired.qos) and not inherits:
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
        # A user that the load makes gets its first account there.
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


def _delete_steps(
    desired: Desired, current: State, doomed: Mapping[str, int], leaving: Mapping[str, set[str]]
) -> list[Step]:
    steps: list[Step] = []
    whole_users: list[str] = []
    stays = {user for wanted in desired.accounts.values() for user in wanted.users}
    for user, accounts in sorted(leaving.items()):
        elsewhere = any(
            user in described.users for account, described in current.accounts.items() if account not in accounts
        )
        if not elsewhere and user not in stays and user not in current.users_elsewhere:
            whole_users.append(user)
        else:
            steps += [Step("delete_association", (user,), account=account) for account in sorted(accounts)]
    if whole_users:
        steps.append(Step("delete_users", tuple(whole_users)))
    for depth in sorted(set(doomed.values()), reverse=True):
        here = sorted(account for account, at in doomed.items() if at == depth)
        for kind, shared in (("delete_accounts", False), ("delete_account_rows", True)):
            names = tuple(account for account in here if (account in current.accounts_elsewhere) == shared)
            if names:
                steps.append(Step(kind, names))
    return steps


def _uses(row: Row, qos: str) -> bool:
    return row.qos == (qos,) and row.default_qos == qos


def deletions(steps: Iterable[Step], current: State) -> list[str]:
    """Name what the steps take away: accounts, and users that leave accounts which stay."""
    found: list[str] = []
    steps = list(steps)
    doomed = {account for step in steps if step.kind in DELETE_ACCOUNTS for account in step.names}
    for step in steps:
        if step.kind in DELETE_ACCOUNTS:
            found += [f"account {account}" for account in step.names]
        elif step.kind == "delete_association" and step.account not in doomed:
            found += [f"user {user} in {step.account}" for user in step.names]
        elif step.kind == "delete_users":
            places = {
                user: {account for account, described in current.accounts.items() if user in described.users}
                for user in step.names
            }
            found += [f"user {user}" for user, accounts in places.items() if accounts - doomed]
    return found


def protected(steps: Iterable[Step], names: Iterable[str]) -> list[str]:
    """Name what the steps would delete although it is protected: accounts, and users as a whole."""
    kept = set(names)
    kinds = (*DELETE_ACCOUNTS, "delete_users")
    return sorted({deleted for step in steps if step.kind in kinds for deleted in step.names if deleted in kept})


# --- What the steps do -----------------------------------------------------------------------------------------


def apply(steps: Iterable[Step], state: State) -> State:
    """Give the state that Slurm has after the steps: for check mode, diffs and tests."""
    accounts = dict(state.accounts)
    defaults = dict(state.defaults)
    qos = dict(state.qos)
    for step in steps:
        values = dict(step.values)
        if step.kind == "add_qos":
            qos[step.names[0]] = frozenset(str(values["Flags"]).split(",")) - {""}
        elif step.kind == "set_qos_flags":
            qos[step.names[0]] |= frozenset(str(values["Flags+"]).split(","))
        elif step.kind == "load":
            for parent, account, limits, users in step.load:
                _load(accounts, defaults, parent, account, dict(limits), users)
        elif step.kind == "modify_accounts":
            for account in step.names:
                before = accounts[account]
                above = accounts[before.parent].row if before.parent in accounts else Row()
                _show(accounts, account, _set(before.row, values, above))
        elif step.kind == "modify_user":
            before = accounts[step.account]
            row = _set(before.users[step.names[0]], values, before.row)
            accounts[step.account] = replace(before, users=dict(before.users) | {step.names[0]: row})
        elif step.kind == "set_default":
            defaults[step.names[0]] = step.account
        elif step.kind == "delete_association":
            before = accounts[step.account]
            left = {user: row for user, row in before.users.items() if user not in step.names}
            accounts[step.account] = replace(before, users=left)
        elif step.kind == "delete_users":
            for user in step.names:
                defaults.pop(user, None)
            for account, before in list(accounts.items()):
                left = {user: row for user, row in before.users.items() if user not in step.names}
                accounts[account] = replace(before, users=left)
        elif step.kind in DELETE_ACCOUNTS:
            for account in step.names:
                if accounts[account].users or any(other.parent == account for other in accounts.values()):
                    raise ValueError(f"account {account} is not empty: Slurm refuses to delete it")
                del accounts[account]
        else:
            raise ValueError(f"no such step: {step.kind}")
    return replace(state, accounts=accounts, defaults=defaults, qos=qos)


def _load(
    accounts: dict[str, Account],
    defaults: dict[str, str],
    parent: str,
    account: str,
    limits: Limits,
    users: Sequence[str],
) -> None:
    if parent:
        above = accounts[parent].row if parent in accounts else Row()
        kept = accounts[account].users if account in accounts else {}
        row = Row(inheritable(above.limits) | dict(limits), above.default_qos, above.qos)
        accounts[account] = Account(parent, row, kept)
    described = accounts[account]
    row = replace(described.row, limits=inheritable(described.row.limits))
    accounts[account] = replace(described, users=dict(described.users) | dict.fromkeys(users, row))
    for user in users:
        defaults.setdefault(user, account)


def _set(row: Row, values: Mapping[str, int | str], above: Row) -> Row:
    """Give the row after `set`; where a limit is removed the one above shows."""
    limits = dict(row.limits)
    for key, value in values.items():
        if key in ("QOS", "DefaultQOS"):
            continue
        if value != -1:
            limits[key] = int(value)
        else:
            limits.pop(key, None)
            if key in inheritable(above.limits):
                limits[key] = above.limits[key]
    row = replace(row, limits=limits)
    if "QOS" in values:
        row = replace(row, qos=(str(values["QOS"]),), default_qos=str(values["DefaultQOS"]))
    return row


def _show(accounts: dict[str, Account], account: str, row: Row) -> None:
    """Put an account's new row in place, and let the rows beneath show what they inherit of it."""
    before = accounts[account]
    users = {user: _beneath(shown, before.row, row) for user, shown in before.users.items()}
    accounts[account] = replace(before, row=row, users=users)
    for child, described in list(accounts.items()):
        if described.parent == account:
            _show(accounts, child, _beneath(described.row, before.row, row))


def _beneath(shown: Row, before: Row, after: Row) -> Row:
    old, new = inheritable(before.limits), inheritable(after.limits)
    own = {key: value for key, value in shown.limits.items() if old.get(key) != value}
    shown_now = replace(shown, limits=new | own)
    if (shown.qos, shown.default_qos) == (before.qos, before.default_qos):
        shown_now = replace(shown_now, qos=after.qos, default_qos=after.default_qos)
    return shown_now


# --- Steps as calls --------------------------------------------------------------------------------------------


def arguments(step: Step, cluster: str) -> list[str]:
    """Give the arguments of sacctmgr for a step other than load."""
    names = ",".join(step.names)
    if step.kind == "add_qos":
        return ["add", "qos", names, *settings(step.values)]
    if step.kind == "set_qos_flags":
        return ["modify", "qos", "where", f"name={names}", "set", *settings(step.values)]
    if step.kind == "modify_accounts":
        where = [f"name={names}", f"cluster={cluster}"]
        return ["modify", "account", "where", *where, "set", *settings(step.values)]
    if step.kind == "modify_user":
        where = [f"name={names}", f"account={step.account}", f"cluster={cluster}"]
        return ["modify", "user", "where", *where, "set", *settings(step.values)]
    if step.kind == "set_default":
        where = [f"name={names}", f"cluster={cluster}"]
        return ["modify", "user", "where", *where, "set", f"DefaultAccount={step.account}"]
    if step.kind == "delete_association":
        return ["delete", "user", "where", f"name={names}", f"account={step.account}", f"cluster={cluster}"]
    if step.kind == "delete_users":
        return ["delete", "user", "where", f"name={names}"]
    if step.kind == "delete_accounts":
        return ["delete", "account", "where", f"name={names}"]
    if step.kind == "delete_account_rows":
        return ["delete", "account", "where", f"name={names}", f"cluster={cluster}"]
    raise ValueError(f"a {step.kind} is no call with arguments")


def settings(values: Iterable[tuple[str, int | str]]) -> list[str]:
    """Give `Word=value` for each, a resource's parts joined: `GrpTRES=cpu=8,mem=32768`."""
    parts: dict[str, list[str]] = {}
    for key, value in values:
        word, _, tres = key.partition("=")
        parts.setdefault(word, []).append(f"{tres}={value}" if tres else str(value))
    return [f"{word}={','.join(values_of)}" for word, values_of in parts.items()]


def load_file(step: Step, cluster: str) -> str:
    """Give the file that `sacctmgr load` reads for a step of that kind."""
    # The cluster's own line carries no limits: those it would set on everyone's root.
    lines = [f"Cluster - '{cluster}'"]
    for parent, account, limits, _ in step.load:
        if parent:
            values = settings((_load_word(key), value) for key, value in limits)
            words_of = [f"Description='{account}'", "Organization='caesar-testbed'", *values]
            lines += [f"Parent - '{parent}'", f"Account - '{account}':{':'.join(words_of)}"]
    for _, account, _, users in step.load:
        if users:
            lines += [f"Parent - '{account}'", *(f"User - '{user}':DefaultAccount='{account}'" for user in users)]
    return "\n".join(lines) + "\n"


def _load_word(key: str) -> str:
    word, equals, tres = key.partition("=")
    return f"{LOAD_WORDS[word]}{equals}{tres}"


def words(values: Mapping[str, int | str]) -> str:
    """Give values for people: `GrpTRES=cpu=8,mem=32768 MaxWall=60`; a removed limit is -1."""
    return " ".join(settings(values.items()))


def listing(desired: Desired, state: State) -> str:
    """Give the managed part as text, one line for each row, for a diff."""
    lines = []
    if desired.qos in state.qos:
        lines.append(f"qos {desired.qos}: {' '.join(sorted(state.qos[desired.qos] & desired.qos_flags))}")
    under = managed(desired.parent, state)
    own = {account for account in desired.accounts if account in state.accounts}
    for account in sorted({*under, *own, *({desired.parent} & set(state.accounts))}):
        described = state.accounts[account]
        # Limits of the parent itself are its owner's.
        limits = "" if account == desired.parent else words(dict(sorted(described.row.limits.items())))
        lines.append(f"account {account}: under {described.parent or 'nothing'} {_qos_words(described.row)} {limits}")
        for user, row in sorted(described.users.items()) if account != desired.parent else []:
            default = "" if state.defaults.get(user) != account else " default"
            limits = words(dict(sorted(row.limits.items())))
            lines.append(f"user {user} in {account}:{default} {_qos_words(row)} {limits}")
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _qos_words(row: Row) -> str:
    return f"qos={','.join(row.qos)} default_qos={row.default_qos}"
