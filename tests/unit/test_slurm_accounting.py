"""Slurm's accounts as a list: what is read, what is refused, what is planned. No Slurm is needed."""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path

import pytest
from ansible.module_utils import slurm_accounting as sa
from hypothesis import given, settings
from hypothesis import strategies as st

RECORDED = Path(__file__).parent / "recorded" / "sacctmgr-22.05.8"
QOS = frozenset({"DenyOnLimit"})


def recorded() -> sa.State:
    texts = [(RECORDED / f"{name}.txt").read_text() for name in ("assoc", "user", "qos")]
    return sa.parse_state("cirasa", *texts)


def desired(accounts: dict[str, sa.Wanted], parent: str = "caesar", qos: str = "caesar") -> sa.Desired:
    return sa.Desired(parent, qos, QOS, accounts)


LAB = desired(
    {
        "lab-a": sa.Wanted(
            sa.limits_of(
                "a",
                {
                    "GrpTRES": {"cpu": 5, "mem": 16385, "gres/disk": 2048},
                    "MaxWall": "3-01:00:00",
                    "GrpJobs": 4,
                    "MaxTRESPerJob": {"cpu": 1024, "mem": "1536G"},
                },
            ),
            ("laba",),
        ),
        "lab-b": sa.Wanted(
            sa.limits_of(
                "b",
                {
                    "GrpWall": 90,
                    "GrpTRESMins": {"cpu": 100000},
                    "MaxJobs": 3,
                    "MaxSubmitJobs": 7,
                    "MaxTRESPerNode": {"cpu": 2},
                    "GrpTRESRunMins": {"cpu": 5000},
                    "MaxTRESMinsPerJob": {"cpu": 77},
                    "GrpJobsAccrue": 9,
                    "MaxJobsAccrue": 8,
                },
            ),
            ("laba", "labb"),
        ),
    },
    parent="labtest",
    qos="labqos",
)


# --- Reading ---------------------------------------------------------------------------------------------------


def test_what_slurm_printed_is_what_was_asked_of_it() -> None:
    """Slurm 22.05 was given LAB by the module; its printed form means the same."""
    assert sa.plan(LAB, recorded()) == []


def test_recorded_rows() -> None:
    state = recorded()
    account = state.accounts["slurm-account-002"]
    assert account.parent == "caesar"
    assert account.row == sa.Row(
        {
            "GrpTRES=cpu": 8,
            "GrpTRES=gres/disk": 512,
            "GrpTRES=mem": 32768,
            "GrpJobs": 8,
            "GrpSubmitJobs": 40,
            "MaxTRESPerJob=cpu": 8,
            "MaxTRESPerJob=mem": 32768,
            "MaxWall": 1440,
        },
        "caesar",
        ("caesar",),
    )
    assert list(account.users) == ["slurm-account-002"]
    assert state.accounts["lab-a"].row.limits["MaxTRESPerJob=mem"] == 1536 * 1024
    assert state.defaults["labb"] == "lab-b"
    assert state.qos == {"normal": frozenset(), "caesar": QOS, "labqos": QOS}


@pytest.mark.parametrize(
    ("text", "memory", "amount"),
    [
        ("16G", True, 16384),
        ("16385M", True, 16385),
        ("16385", True, 16385),
        ("1.50T", True, 1572864),
        ("2048K", True, 2),
        ("2048", False, 2048),
        ("2K", False, 2048),
    ],
)
def test_printed_amounts(text: str, memory: bool, amount: int) -> None:
    assert sa.printed_amount(text, memory) == amount


@pytest.mark.parametrize(
    ("text", "minutes"), [("01:00:00", 60), ("1-00:00:00", 1440), ("3-01:00:30", 4381), ("90", 90)]
)
def test_printed_times(text: str, minutes: int) -> None:
    assert sa.printed_minutes(text) == minutes


@pytest.mark.parametrize("text", ["a|b|c\n", "sacctmgr: error: something\n"])
def test_output_of_another_shape_is_no_state(text: str) -> None:
    with pytest.raises(ValueError, match="columns"):
        sa.table(text, "Name,Flags")


def test_rows_of_other_clusters_are_no_accounts_of_this_one() -> None:
    line = "elsewhere|theirs|root|bob|||" + "|" * 13 + "\n"
    state = sa.parse_state("cirasa", line, "", "")
    assert state.accounts == {}
    assert state.users_elsewhere == {"bob"}
    assert state.accounts_elsewhere == {"theirs"}


# --- Values as people write them -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_limits", "limits"),
    [
        ({"GrpTRES": {"mem": "32G"}}, {"GrpTRES=mem": 32768}),
        ({"GrpTRES": {"mem": 32768}}, {"GrpTRES=mem": 32768}),
        ({"GrpTRES": {"mem": "2048K", "cpu": None}}, {"GrpTRES=mem": 2}),
        ({"MaxWall": "1-00:00:00"}, {"MaxWall": 1440}),
        ({"MaxWall": "24:00:00"}, {"MaxWall": 1440}),
        ({"MaxWall": 1440, "GrpJobs": None}, {"MaxWall": 1440}),
        ({"GrpTRES": {"gres/disk": 250, "license/matlab@site": 1}}, None),
    ],
)
def test_equal_limits_in_different_notations(given_limits: dict, limits: dict | None) -> None:
    if limits is None:
        with pytest.raises(sa.Invalid, match="unknown resource"):
            sa.limits_of("x", given_limits)
    else:
        assert sa.limits_of("x", given_limits) == limits


@pytest.mark.parametrize(
    "bad",
    [
        {"GrpTRES": {"cpu": "abc"}},  # Slurm would store 0
        {"GrpTRES": {"cpu": "8"}},
        {"GrpTRES": {"cpu": 8.5}},
        {"GrpTRES": {"cpu": True}},
        {"GrpTRES": {"cpu": 0}},
        {"GrpTRES": {"cpu": -1}},
        {"GrpTRES": {"cpu": 10**20}},  # would be no limit
        {"GrpTRES": {"cpuu": 8}},
        {"GrpTRES": {"mem": "32Gi"}},  # would be 32 GB
        {"GrpTRES": {"mem": "32GB"}},
        {"GrpTRES": {"mem": "1.5G"}},  # would be 1 MB
        {"GrpTRES": {"mem": "1K"}},
        {"GrpTRES": {"mem": "-1"}},
        {"GrpTRES": "cpu=8"},
        {"GrpJobs": -5},  # would be no limit
        {"GrpJobs": "4"},
        {"MaxWall": "abc"},
        {"MaxWall": "01:00"},
        {"MaxWall": "01:00:30"},
        {"Wall": 5},
    ],
)
def test_what_slurm_would_misread_is_refused(bad: dict) -> None:
    with pytest.raises(sa.Invalid):
        sa.limits_of("account x", bad)


@pytest.mark.parametrize("name", ["Upper", "a b", "", "1st", "x" * 33, "a,b", "a=b", "a'b", "ä", None])
def test_names_that_slurm_would_change_are_refused(name: object) -> None:
    with pytest.raises(sa.Invalid):
        sa.name("name", name)


def test_all_faults_are_told_at_once() -> None:
    accounts = [{"name": "a", "limits": {"GrpJobs": -1}}, {"name": "b"}, {"name": "b"}, {"name": "C"}]
    with pytest.raises(sa.Invalid) as caught:
        sa.desired_of("root", "q", [], accounts)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "root" in lines[0]
    assert "GrpJobs is -1" in lines[1]
    assert "twice" in lines[2]
    assert "'C'" in lines[3]


# --- Planning --------------------------------------------------------------------------------------------------


def kinds(steps: list[sa.Step]) -> list[str]:
    return [step.kind for step in steps]


def test_from_nothing_in_three_calls() -> None:
    steps = sa.plan(LAB, sa.State())
    assert kinds(steps) == ["add_qos", "load", "modify_accounts"]
    assert sa.load_file(steps[1], "cirasa").splitlines()[:3] == [
        "Cluster - 'cirasa'",
        "Parent - 'root'",
        "Account - 'labtest':Description='labtest':Organization='caesar-testbed'",
    ]
    assert "User - 'labb':DefaultAccount='lab-b'" in sa.load_file(steps[1], "cirasa")
    assert ":MaxWallDurationPerJob=4380" in sa.load_file(steps[1], "cirasa")
    assert sa.arguments(steps[2], "cirasa") == [
        "modify",
        "account",
        "where",
        "name=labtest,lab-a,lab-b",
        "cluster=cirasa",
        "set",
        "DefaultQOS=labqos",
        "QOS=labqos",
    ]


def test_one_call_for_all_accounts_with_the_same_change() -> None:
    names = [f"a{number}" for number in range(10)]
    before = {name: sa.Wanted({"GrpJobs": 1}, ()) for name in names}
    state = sa.apply(sa.plan(desired(before), sa.State()), sa.State())
    after = {name: sa.Wanted({"GrpJobs": 2 if name < "a5" else 3}, ()) for name in names}
    steps = sa.plan(desired(after), state)
    assert kinds(steps) == ["modify_accounts", "modify_accounts"]


def test_dropped_limits_are_removed_part_by_part() -> None:
    state = recorded()
    wanted = replace(LAB.accounts["lab-a"], limits={"GrpTRES=cpu": 5, "GrpJobs": 4})
    step, *rest = sa.plan(replace(LAB, accounts=dict(LAB.accounts) | {"lab-a": wanted}), state)
    assert rest == []
    assert set(sa.arguments(step, "cirasa")[6:]) == {
        "GrpTRES=gres/disk=-1,mem=-1",
        "MaxTRESPerJob=cpu=-1,mem=-1",
        "MaxWall=-1",
    }


def test_inherited_limits_are_nobodys_drift() -> None:
    """A limit of one job that an administrator set above shows in every row beneath."""
    state = recorded()
    accounts = dict(state.accounts)
    sa._show(accounts, "labtest", sa.Row({"MaxSubmitJobs": 999}, "labqos", ("labqos",)))
    assert accounts["lab-a"].users["laba"].limits["MaxSubmitJobs"] == 999
    assert sa.plan(LAB, replace(state, accounts=accounts)) == []


def test_prune_takes_what_is_ours_and_nothing_else() -> None:
    steps = sa.plan(desired({}, "labtest", "labqos"), recorded())
    assert kinds(steps) == ["delete_users", "delete_accounts"]
    assert steps[1].names == ("lab-a", "lab-b")
    assert sa.plan(desired({}, "labtest", "labqos"), recorded(), prune=False) == []
    assert sa.deletions(steps, recorded()) == ["account lab-a", "account lab-b"]


def test_protected_names_are_found_in_what_would_be_deleted() -> None:
    steps = sa.plan(desired({}, "labtest", "labqos"), recorded())
    assert sa.protected(steps, ["lab-a", "laba", "other"]) == ["lab-a", "laba"]
    assert sa.protected(sa.plan(LAB, sa.State()), ["lab-a"]) == []


def test_default_account_moves_before_its_account_goes() -> None:
    """A user with an association of somebody else's keeps that one, and is pointed to it first."""
    state = recorded()
    other = replace(state.accounts["other"], users={"labb": sa.Row()})
    state = replace(state, accounts=dict(state.accounts) | {"other": other})
    steps = sa.plan(desired({}, "labtest", "labqos"), state)
    assert [(step.kind, step.names, step.account) for step in steps] == [
        ("set_default", ("labb",), "other"),
        ("delete_association", ("labb",), "lab-b"),
        ("delete_users", ("laba",), ""),
        ("delete_accounts", ("lab-a", "lab-b"), ""),
    ]


def test_a_user_that_moves_is_not_deleted() -> None:
    wish = desired({"lab-c": sa.Wanted({}, ("labb",))}, "labtest", "labqos")
    steps = sa.plan(wish, recorded())
    assert [(step.kind, step.names, step.account) for step in steps] == [
        ("load", ("lab-c",), ""),
        ("set_default", ("labb",), "lab-c"),
        ("delete_association", ("labb",), "lab-b"),
        ("delete_users", ("laba",), ""),
        ("delete_accounts", ("lab-a", "lab-b"), ""),
    ]
    assert sa.plan(wish, sa.apply(steps, recorded())) == []


def test_users_and_accounts_of_other_clusters_keep_their_records() -> None:
    state = replace(recorded(), users_elsewhere=frozenset({"laba"}), accounts_elsewhere=frozenset({"lab-a"}))
    steps = sa.plan(desired({}, "labtest", "labqos"), state)
    assert [(step.kind, step.names) for step in steps if step.kind.startswith("delete")] == [
        ("delete_association", ("laba",)),
        ("delete_association", ("laba",)),
        ("delete_users", ("labb",)),
        ("delete_accounts", ("lab-b",)),
        ("delete_account_rows", ("lab-a",)),
    ]
    assert sa.arguments(steps[-1], "cirasa")[-1] == "cluster=cirasa"


def test_an_account_under_another_parent_is_not_ours() -> None:
    with pytest.raises(sa.Conflict, match="other exists under root"):
        sa.plan(desired({"other": sa.Wanted({}, ())}), recorded())


def test_an_orphan_is_made_whole() -> None:
    """Concurrent writers were seen to leave users of accounts that are not there."""
    row = "cirasa|lost||eve|||" + "|" * 13 + "\n"
    state = sa.parse_state("cirasa", row, "eve|lost\n", "caesar|DenyOnLimit\n")
    wanted = desired({"lost": sa.Wanted({}, ("eve",))})
    steps = sa.plan(wanted, state)
    assert steps[0].load[-1] == ("caesar", "lost", (), ())
    assert sa.plan(wanted, sa.apply(steps, state)) == []


def test_a_listing_shows_the_managed_part_only() -> None:
    text = sa.listing(LAB, recorded())
    assert "lab-a" in text
    assert "slurm-account" not in text
    assert "other" not in text


# --- Properties ------------------------------------------------------------------------------------------------

names = st.sampled_from(list("abcdef"))
user_names = st.sampled_from(["u1", "u2", "u3", "u4"])
amounts = st.integers(1, 4)
limit_keys = [
    "GrpTRES=cpu",
    "GrpTRES=mem",
    "GrpTRES=gres/disk",
    "GrpJobs",
    "GrpSubmitJobs",
    "MaxTRESPerJob=cpu",
    "MaxTRESPerJob=mem",
    "MaxWall",
    "MaxJobs",
]
limits = st.dictionaries(st.sampled_from(limit_keys), amounts)
wanted_accounts = st.dictionaries(
    names, st.builds(sa.Wanted, limits, st.lists(user_names, max_size=3, unique=True).map(tuple))
)
desires = wanted_accounts.map(lambda accounts: desired(accounts, parent="ours", qos="q"))
qos_rows = st.sampled_from([("q", ("q",)), ("", ("normal",)), ("q", ("normal", "q")), ("normal", ("normal",))])


@st.composite
def states(draw: st.DrawFn) -> sa.State:
    """A cluster with somebody else's accounts and any state of ours, as sacctmgr would show it."""
    accounts: dict[str, sa.Account] = {"root": sa.Account("", sa.Row({}, "", ("normal",)))}

    def row(above: sa.Row, own: bool = True) -> sa.Row:
        default, allowed = draw(qos_rows) if draw(st.booleans()) else (above.default_qos, above.qos)
        mine = draw(limits) if own else {}
        return sa.Row(sa.inheritable(above.limits) | mine, default, allowed)

    def users(above: sa.Row, pool: list[str]) -> dict[str, sa.Row]:
        shown: dict[str, sa.Row] = {}
        for user in draw(st.lists(st.sampled_from(pool), max_size=3, unique=True)):
            own = {key: value for key, value in draw(limits).items() if key.startswith("Max")}
            default, allowed = draw(qos_rows) if draw(st.booleans()) else (above.default_qos, above.qos)
            shown[user] = sa.Row(sa.inheritable(above.limits) | own, default, allowed)
        return shown

    for name in ("theirs", "foreign"):
        described = row(accounts["root"].row)
        accounts[name] = sa.Account("root", described, users(described, ["u1", "u2", "bob"]))
    if draw(st.booleans()):
        accounts["ours"] = sa.Account("root", row(accounts["root"].row))
        for name in draw(st.lists(st.sampled_from([*"abcdef", "x", "y"]), unique=True)):
            described = row(accounts["ours"].row)
            accounts[name] = sa.Account("ours", described, users(described, ["u1", "u2", "u3", "u4", "eve"]))
        for name in draw(st.lists(st.sampled_from(["x1", "y1"]), unique=True)):
            if name[0] in accounts:
                described = row(accounts[name[0]].row)
                accounts[name] = sa.Account(name[0], described, users(described, ["u1", "eve"]))
    places: dict[str, list[str]] = {}
    for name, account in accounts.items():
        for user in account.users:
            places.setdefault(user, []).append(name)
    defaults = {user: draw(st.sampled_from(there)) for user, there in places.items()}
    qos = draw(st.sampled_from([{}, {"q": frozenset()}, {"q": QOS}, {"q": QOS | {"NoReserve"}}]))
    elsewhere = frozenset(draw(st.lists(st.sampled_from(["u1", "eve"]), unique=True)))
    accounts_elsewhere = frozenset(draw(st.lists(st.sampled_from(["a", "x"]), unique=True)))
    return sa.State(accounts, defaults, {"normal": frozenset()} | qos, elsewhere, accounts_elsewhere)


def as_wanted(state: sa.State, wish: sa.Desired) -> dict[str, tuple]:
    """What the managed part is, in the terms of the list; inherited limits of one job left out."""
    above = state.accounts["ours"].row.limits
    return {
        name: (
            {key: value for key, value in account.row.limits.items() if sa.inheritable(above).get(key) != value},
            set(account.users),
        )
        for name, account in state.accounts.items()
        if account.parent == "ours"
    }


def settle(wish: sa.Desired, state: sa.State) -> sa.State:
    """What the module does: plan and apply, and once more for a user's limit that was hidden by an equal one."""
    for _ in range(2):
        state = sa.apply(sa.plan(wish, state), state)
    return state


@given(desires, states())
@settings(max_examples=150, deadline=None)
def test_the_plan_leads_to_what_is_desired(wish: sa.Desired, state: sa.State) -> None:
    after = settle(wish, state)
    above = sa.inheritable(after.accounts["ours"].row.limits)
    assert as_wanted(after, wish) == {
        name: (
            {key: value for key, value in account.limits.items() if above.get(key) != value},
            set(account.users),
        )
        for name, account in wish.accounts.items()
    }
    for name, account in wish.accounts.items():
        for user, row in after.accounts[name].users.items():
            assert row.limits == sa.inheritable(after.accounts[name].row.limits), user
            assert (row.qos, row.default_qos) == (("q",), "q")
        for user in account.users:
            assert user in after.accounts[after.defaults[user]].users
    assert after.qos["q"] >= QOS
    assert sa.plan(wish, after) == []


@given(desires, states())
@settings(max_examples=100, deadline=None)
def test_nobody_elses_accounts_change(wish: sa.Desired, state: sa.State) -> None:
    steps = sa.plan(wish, state)
    ours = {"ours", *wish.accounts, *sa.managed("ours", state)}
    for step in steps:
        if step.kind in ("modify_accounts", *sa.DELETE_ACCOUNTS):
            assert set(step.names) <= ours
        if step.kind in ("modify_user", "delete_association"):
            assert step.account in ours
    after = settle(wish, state)
    for name in ("root", "theirs", "foreign"):
        assert after.accounts[name] == state.accounts[name]
    assert after.qos["normal"] == state.qos["normal"]


@given(desires, states())
@settings(max_examples=50, deadline=None)
def test_without_prune_nothing_is_deleted(wish: sa.Desired, state: sa.State) -> None:
    assert not [step for step in sa.plan(wish, state, prune=False) if step.kind.startswith("delete")]


@given(desires, st.integers(0, 20))
@settings(max_examples=50, deadline=None)
def test_an_interrupted_plan_is_finished_by_the_next(wish: sa.Desired, cut: int) -> None:
    whole = settle(wish, sa.State({"root": sa.Account("", sa.Row())}))
    start = sa.State({"root": sa.Account("", sa.Row())})
    half = sa.apply(sa.plan(wish, start)[:cut], start)
    assert settle(wish, half) == whole


@given(st.text(string.printable, max_size=40))
def test_a_name_that_passes_is_safe_in_every_call(text: str) -> None:
    try:
        passed = sa.name("x", text)
    except sa.Invalid:
        return
    assert set(passed) <= set(string.ascii_lowercase + string.digits + "-_")
