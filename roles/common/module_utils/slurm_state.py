"""What Slurm's commands print, read into plain values: the only place that knows their text. Pure, nothing is run here.

Columns are always asked for by name, so that Slurm 22.05 and 24.11 print the same; `tests/data/slurm` holds what
each of them printed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible.module_utils.slurm_limits import COLUMNS, Limits, printed_limits

ASSOCIATION_FORMAT = ",".join(
    ("Cluster", "Account", "ParentName", "User", "DefaultQOS", "QOS", *(column for column, _, _, _ in COLUMNS))
)
USER_FORMAT = "User,DefaultAccount"
RIGHTS_FORMAT = "User,AdminLevel,Coordinators"
QOS_FORMAT = "Name,Flags"
CLUSTER_FORMAT = "Cluster,ControlHost"
TRES_FORMAT = "Type,Name"
#: The last may hold anything, the separator too.
JOBS_FORMAT = "%A|%a|%u|%T|%j"


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
class Rights:
    """What Slurm lets somebody do with accounts.

    `level` is `administrator` (all), `operator` (all but QOS and load files) or `none` (what is under the accounts
    that the user coordinates).
    """

    user: str = "root"
    level: str = "administrator"
    coordinates: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Job:
    """A job that has not ended."""

    number: str
    account: str
    user: str
    state: str
    name: str = ""

    def __str__(self) -> str:
        return f"job {self.number} ({self.state}) of {self.user} in {self.account}"


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
    # An association whose account's own row is missing: left by concurrent writers. Adding the account makes it whole.
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


def parse_rights(user: str, number: int, users: str, configuration: str) -> Rights:
    """Read who may do what.

    Args:
        user: the unix user that runs the commands.
        number: its uid; Slurm takes 0 and its own user for administrators.
        users: the output of `show user withcoord` for that user; empty where Slurm does not know it.
        configuration: the output of `scontrol show config`.
    """
    own = re.search(r"^SlurmUser\s*=\s*\S+\((\d+)\)", configuration, re.MULTILINE)
    if number == 0 or (own is not None and int(own[1]) == number):
        return Rights(user)
    for row in table(users, RIGHTS_FORMAT):
        if row["User"] == user:
            level = {"Administrator": "administrator", "Operator": "operator"}.get(row["AdminLevel"], "none")
            return Rights(user, level, frozenset(part for part in row["Coordinators"].split(",") if part))
    return Rights(user, "none")


def parse_clusters(text: str) -> dict[str, str]:
    """Read `show cluster`: the host of each cluster's controller, empty while it has not registered."""
    return {row["Cluster"]: row["ControlHost"] for row in table(text, CLUSTER_FORMAT)}


def parse_tres(text: str) -> frozenset[str]:
    """Read `show tres`: the resources that can be limited, `cpu`, `gres/disk`."""
    rows = table(text, TRES_FORMAT)
    return frozenset("/".join(part for part in (row["Type"], row["Name"]) if part) for row in rows)


def parse_jobs(text: str) -> list[Job]:
    """Read `squeue --noheader` in this module's format."""
    return [Job(*line.split("|", 4)) for line in text.splitlines() if line.strip()]


def parse_numbers(text: str) -> dict[str, set[int]]:
    """Read `scontrol -o show assoc_mgr`: the unix numbers under which slurmctld knows each user."""
    numbers: dict[str, set[int]] = {}
    for user, number in re.findall(r"UserName=([^\s(]+)\((\d+)\)", text):
        numbers.setdefault(user, set()).add(int(number))
    return numbers
