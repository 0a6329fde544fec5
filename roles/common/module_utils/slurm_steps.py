"""The steps of a plan for Slurm's accounts: who may take them, what they take away, what Slurm has after them, the
calls that they are, and how they are shown. Pure, nothing is run here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ansible.module_utils.slurm_limits import Limits, in_words, inheritable, load_word, settings
from ansible.module_utils.slurm_plan import DELETE_ACCOUNTS, Desired, Step, managed
from ansible.module_utils.slurm_state import Account, Job, Rights, Row, State

# --- What must not be done -------------------------------------------------------------------------------------


def standing(rights: Rights, parent: str, current: State) -> str:
    """Give administrator, operator, coordinator (of the parent or an account above it) or none."""
    if rights.level != "none":
        return str(rights.level)
    account, seen = parent, set()
    while account and account not in seen:
        if account in rights.coordinates:
            return "coordinator"
        seen.add(account)
        account = current.accounts[account].parent if account in current.accounts else ""
    return "none"


def denied(steps: Sequence[Step], rights: Rights, desired: Desired, current: State, cluster: str) -> list[str]:
    """Say what Slurm would not let the user do, a sentence for each fault, with the command that an administrator runs.

    As seen on Slurm 22.05 and 24.11 (`tests/data/slurm`): operators may all but QOS and load files; coordinators may
    add, change and take away accounts and users under theirs, but not touch theirs itself, QOS that it does not have,
    or default accounts of others.
    """
    level, parent = standing(rights, desired.parent, current), desired.parent
    if level == "administrator" or not steps:
        return []
    who = f"{rights.user} is {'an operator' if level == 'operator' else f'coordinator of {parent}'} only"
    if level == "none":
        who = f"{rights.user} is neither administrator nor operator of Slurm, nor coordinator of {parent}"
    faults = []
    missing = parent not in current.accounts
    for step in steps:
        command = " ".join(["sacctmgr", *arguments(step, cluster)]) if step.kind not in ("load", "empty") else ""
        names = ", ".join(step.names)
        if step.kind in ("add_qos", "set_qos_flags"):
            faults.append(f"{who}, and only an administrator can {step.describe()}: {command}")
        elif level == "operator":
            continue
        elif step.kind == "add_accounts" and parent in step.names:
            faults.append(f"{who}, and there is no account {parent}: {command}")
        elif step.kind == "modify_accounts" and parent in step.names and not missing:
            fix = " ".join(["sacctmgr", *arguments(replace(step, names=(parent,)), cluster)])
            faults.append(f"{who}, and cannot change {parent} itself, whose QOS is not {desired.qos} alone: {fix}")
        elif step.kind == "set_default":
            theirs = current.defaults.get(step.names[0]) or "none"
            faults.append(
                f"{who}, and cannot change the default account of {names}, which is {theirs}: give the account a user "
                f"of its own, or ask for: {command}"
            )
    if level == "none" and not faults:
        faults.append(f"{who}: sacctmgr add coordinator account={parent} names={rights.user}")
    return faults


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


def protected(steps: Sequence[Step], names: Iterable[str], current: State) -> list[str]:
    """Name what the steps would delete although it is protected: accounts, and users as a whole."""
    after = apply(steps, current)
    gone = (set(current.accounts) - set(after.accounts)) | (set(current.defaults) - set(after.defaults))
    return sorted(gone & set(names))


def taken(steps: Iterable[Step], current: State) -> tuple[set[str], set[tuple[str, str]]]:
    """Give the accounts that the steps take away, and the pairs of account and user."""
    accounts: set[str] = set()
    pairs: set[tuple[str, str]] = set()
    for step in steps:
        if step.kind in DELETE_ACCOUNTS:
            accounts.update(step.names)
        elif step.kind == "delete_association":
            pairs.update((step.account, user) for user in step.names)
        elif step.kind == "delete_users":
            gone = set(step.names)
            pairs.update((account, user) for account, its in current.accounts.items() for user in gone & set(its.users))
    return accounts, pairs


def in_the_way(steps: Iterable[Step], jobs: Iterable[Job], current: State) -> list[Job]:
    """Give those jobs whose account or user the steps take away; Slurm would refuse that in mid-plan."""
    accounts, pairs = taken(steps, current)
    return [job for job in jobs if job.account in accounts or (job.account, job.user) in pairs]


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
                _add(accounts, defaults, parent, account, dict(limits), users)
        elif step.kind == "add_accounts":
            for account in step.names:
                limits_of = {key: int(value) for key, value in step.values}
                _add(accounts, defaults, step.account, account, limits_of, ())
        elif step.kind == "add_users":
            _add(accounts, defaults, "", step.account, {}, step.names)
        elif step.kind in ("modify_accounts", "close_accounts"):
            for account in step.names:
                before = accounts[account]
                above = accounts[before.parent].row if before.parent in accounts else Row()
                _show(accounts, account, _set(before.row, values, above))
        elif step.kind in ("modify_user", "close_users"):
            before = accounts[step.account]
            row = _set(before.users[step.names[0]], values, before.row)
            accounts[step.account] = replace(before, users=dict(before.users) | {step.names[0]: row})
        elif step.kind == "set_default":
            defaults[step.names[0]] = step.account
        elif step.kind == "delete_association":
            before = accounts[step.account]
            left = {user: row for user, row in before.users.items() if user not in step.names}
            accounts[step.account] = replace(before, users=left)
            for user in step.names:
                # Whoever has no association left goes too.
                used = any(user in described.users for described in accounts.values())
                if not used and user not in state.users_elsewhere:
                    defaults.pop(user, None)
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
        elif step.kind != "empty":
            raise ValueError(f"no such step: {step.kind}")
    return replace(state, accounts=accounts, defaults=defaults, qos=qos)


def _add(
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
    """Give the arguments of sacctmgr for a step; a load reads `load_file` from its standard input."""
    names, here = f"name={','.join(step.names)}", f"cluster={cluster}"
    values: list[str] = settings(step.values)
    if step.kind == "add_qos":
        return ["add", "qos", names, *values]
    if step.kind == "set_qos_flags":
        return ["modify", "qos", "where", names, "set", *values]
    if step.kind == "load":
        return ["load", "file=/dev/stdin"]
    if step.kind == "add_accounts":
        about = ["Description=caesar-testbed", "Organization=caesar-testbed"]
        return ["add", "account", names, here, f"parent={step.account}", *about, *values]
    if step.kind == "add_users":
        return ["add", "user", names, here, f"account={step.account}"]
    if step.kind in ("modify_accounts", "close_accounts"):
        return ["modify", "account", "where", names, here, "set", *values]
    if step.kind in ("modify_user", "close_users"):
        return ["modify", "user", "where", names, f"account={step.account}", here, "set", *values]
    if step.kind == "set_default":
        return ["modify", "user", "where", names, here, "set", f"DefaultAccount={step.account}"]
    if step.kind == "delete_association":
        return ["delete", "user", "where", names, f"account={step.account}", here]
    if step.kind == "delete_users":
        return ["delete", "user", "where", names]
    if step.kind == "delete_accounts":
        return ["delete", "account", "where", names]
    if step.kind == "delete_account_rows":
        return ["delete", "account", "where", names, here]
    raise ValueError(f"a {step.kind} is no call of sacctmgr")


def load_file(step: Step, cluster: str) -> str:
    """Give the file that `sacctmgr load` reads for a step of that kind."""
    # The cluster's own line carries no limits: those it would set on everyone's root.
    lines = [f"Cluster - '{cluster}'"]
    for parent, account, limits, _ in step.load:
        if parent:
            values = settings((load_word(key), value) for key, value in limits)
            words_of = [f"Description='{account}'", "Organization='caesar-testbed'", *values]
            lines += [f"Parent - '{parent}'", f"Account - '{account}':{':'.join(words_of)}"]
    for _, account, _, users in step.load:
        if users:
            lines += [f"Parent - '{account}'", *(f"User - '{user}':DefaultAccount='{account}'" for user in users)]
    return "\n".join(lines) + "\n"


def described(steps: Iterable[Step]) -> list[dict[str, object]]:
    """Give steps in a form that programs can read."""
    return [
        {
            "kind": step.kind,
            "names": list(step.names),
            "values": dict(step.values),
            "account": step.account,
            "says": step.describe(),
        }
        for step in steps
    ]


def listing(desired: Desired, state: State) -> list[str]:
    """Give the managed part for people, a line for each thing that can differ, sorted."""
    lines = []
    if desired.qos in state.qos:
        lines += [f"QOS {desired.qos}: {flag}" for flag in state.qos[desired.qos] & desired.qos_flags or ["no flags"]]
    own = {account for account in desired.accounts if account in state.accounts}
    for account in {*managed(desired.parent, state), *own, *({desired.parent} & set(state.accounts))}:
        shown = state.accounts[account]
        lines.append(f"account {account}: under {shown.parent or 'nothing'}")
        if desired.qos:
            lines.append(f"account {account}: {_qos_words(shown.row)}")
        if account == desired.parent:
            continue  # its limits and users are its owner's
        lines += [f"account {account}: {limit} = {value}" for limit, value in in_words(shown.row.limits).items()]
        for user, row in shown.users.items():
            default = ", by default" if state.defaults.get(user) == account else ""
            lines.append(f"user {user}: in {account}{default}")
            # What a user has of its own; the rest is the account's.
            if desired.qos and (row.qos, row.default_qos) != (shown.row.qos, shown.row.default_qos):
                lines.append(f"user {user} in {account}: {_qos_words(row)}")
            above = inheritable(shown.row.limits)
            its = {key: value for key, value in row.limits.items() if above.get(key) != value}
            lines += [f"user {user} in {account}: {limit} = {value}" for limit, value in in_words(its).items()]
    return sorted(lines)


def _qos_words(row: Row) -> str:
    return f"QOS {','.join(row.qos) or 'none'}, by default {row.default_qos or 'none'}"


def difference(desired: Desired, before: State, after: State) -> tuple[str, str]:
    """Give the lines of `listing` that only one of two states has."""
    old, new = listing(desired, before), listing(desired, after)
    only_old, only_new = sorted(set(old) - set(new)), sorted(set(new) - set(old))
    return "".join(f"{line}\n" for line in only_old), "".join(f"{line}\n" for line in only_new)
