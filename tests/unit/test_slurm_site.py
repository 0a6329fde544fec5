"""What an existing Slurm is found to lack, for each kind of rights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible.module_utils.slurm_site import Seen, Wanted, faults
from ansible.module_utils.slurm_state import Account, Rights, Row, State

WANTED = Wanted(
    platform="cirasa",
    parent="site",
    qos="caesar",
    partition="batch",
    users={"vp-1": 20001, "vp-2": 20002},
    tres=frozenset({"cpu", "mem", "gres/disk"}),
    storage="/mnt/storage",
)
PARENT = Account("root", Row(qos=("caesar",), default_qos="caesar"))
ACCOUNTS = {"root": Account("", Row()), "site": PARENT}
GOOD = Seen(
    state=State(accounts=ACCOUNTS, qos={"caesar": frozenset({"DenyOnLimit"}), "normal": frozenset()}),
    rights=Rights("ops", "none", frozenset({"site"})),
    tres=frozenset({"cpu", "mem", "gres/disk"}),
    partitions=frozenset({"batch"}),
    enforced=frozenset({"associations", "limits", "qos", "safe"}),
    users=dict(WANTED.users),
)
COORDINATOR, OPERATOR, ADMINISTRATOR = GOOD.rights, Rights("ops", "operator"), Rights("root", "administrator")


def seen(rights: Rights = COORDINATOR, *, state: dict[str, Any] | None = None, **changes: Any) -> Seen:
    return replace(GOOD, rights=rights, state=replace(GOOD.state, **(state or {})), **changes)


@pytest.mark.parametrize("rights", [COORDINATOR, OPERATOR, ADMINISTRATOR])
def test_nothing_is_wrong(rights: Rights) -> None:
    assert faults(WANTED, seen(rights)) == []


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (seen(Rights("ops", "none")), "sacctmgr add coordinator account=site names=ops"),
        (seen(state={"accounts": {}}), "sacctmgr add account site"),
        (seen(OPERATOR, state={"qos": {}}), "sacctmgr add qos caesar flags=DenyOnLimit"),
        (seen(OPERATOR, state={"qos": {"caesar": frozenset()}}), "modify qos caesar set flags+=DenyOnLimit"),
        (
            seen(state={"accounts": ACCOUNTS | {"site": Account("root", Row(qos=("normal",)))}}),
            "sacctmgr modify account site set qos=caesar defaultqos=caesar",
        ),
        (seen(tres=frozenset({"cpu", "mem"})), "disc_tres"),
        (seen(partitions=frozenset({"long", "short"})), "known are long, short"),
        (seen(enforced=frozenset({"associations"})), "does not enforce limits, qos"),
        (seen(storage_there=False), "no directory /mnt/storage"),
        (seen(users={}), "with the numbers 20001, 20002"),
        (seen(users={"vp-1": 7, "vp-2": 20002}), "write uid: 7"),
        (seen(state={"accounts": ACCOUNTS | {"vp-2": Account("people", Row())}}), "account vp-2 under people"),
        (
            seen(state={"accounts": ACCOUNTS | {"people": Account("root", Row(), {"vp-1": Row()})}}),
            "a platform needs a user of its own",
        ),
    ],
)
def test_one_fault_and_the_next_step(found: Seen, words: str) -> None:
    [fault] = faults(WANTED, found)
    assert words in fault


def test_who_may_make_things_is_not_asked_to_have_them_made() -> None:
    nothing: dict[str, Any] = {"accounts": {}, "qos": {}}
    assert faults(WANTED, seen(ADMINISTRATOR, state=nothing)) == []
    assert faults(WANTED, seen(OPERATOR, state={"accounts": {}})) == []


def test_limits_bring_associations() -> None:
    assert faults(WANTED, seen(enforced=frozenset({"limits", "qos"}))) == []


def test_accounts_of_an_earlier_run_are_no_strangers() -> None:
    ours = ACCOUNTS | {"vp-1": Account("site", Row(), {"vp-1": Row()}), "old": Account("site", Row(), {"vp-2": Row()})}
    assert faults(WANTED, seen(state={"accounts": ours})) == []


def test_all_faults_at_once() -> None:
    found = faults(WANTED, seen(Rights("ops", "none"), state={"accounts": {}, "qos": {}}, users={}, tres=frozenset()))
    assert len(found) == 4
