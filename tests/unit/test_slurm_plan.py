"""Slurm's accounts as a list: what is planned, by whom, and what comes out of it. No Slurm is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from ansible.module_utils import slurm_limits, slurm_plan, slurm_state, slurm_steps
from hypothesis import given, settings
from hypothesis import strategies as st

DATA = Path(__file__).parents[1] / "data" / "slurm"
VERSIONS = sorted(path.name for path in DATA.iterdir() if path.is_dir())
QOS = frozenset({"DenyOnLimit"})
OPERATOR = slurm_state.Rights("olga", "operator")
COORDINATOR = slurm_state.Rights("carl", "none", frozenset({"labtest", "ours"}))


def recorded(version: str = "22.05.8") -> slurm_state.State:
    text = {name: (DATA / version / f"{name}.txt").read_text() for name in ("cluster", "assoc", "user", "qos")}
    [cluster] = slurm_state.parse_clusters(text["cluster"])
    return slurm_state.parse_state(cluster, text["assoc"], text["user"], text["qos"])


def desired(accounts: dict[str, slurm_plan.Wanted], parent: str = "caesar", qos: str = "caesar") -> slurm_plan.Desired:
    return slurm_plan.Desired(parent, qos, QOS, accounts)


LAB = desired(
    {
        "lab-a": slurm_plan.Wanted(
            slurm_limits.limits_of(
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
        "lab-b": slurm_plan.Wanted(
            slurm_limits.limits_of(
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


@pytest.mark.parametrize("version", VERSIONS)
def test_what_slurm_printed_is_what_was_asked_of_it(version: str) -> None:
    """Slurm was given LAB; its printed form means the same, in every version."""
    assert slurm_plan.plan(LAB, recorded(version)) == []


# --- Planning --------------------------------------------------------------------------------------------------


def kinds(steps: list[slurm_plan.Step]) -> list[str]:
    return [step.kind for step in steps]


def test_from_nothing_in_three_calls() -> None:
    steps = slurm_plan.plan(LAB, slurm_state.State())
    assert kinds(steps) == ["add_qos", "load", "modify_accounts"]
    assert slurm_steps.load_file(steps[1], "cirasa").splitlines()[:3] == [
        "Cluster - 'cirasa'",
        "Parent - 'root'",
        "Account - 'labtest':Description='labtest':Organization='caesar-testbed'",
    ]
    assert "User - 'labb':DefaultAccount='lab-b'" in slurm_steps.load_file(steps[1], "cirasa")
    assert ":MaxWallDurationPerJob=4380" in slurm_steps.load_file(steps[1], "cirasa")
    assert slurm_steps.arguments(steps[2], "cirasa") == [
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
    before = {name: slurm_plan.Wanted({"GrpJobs": 1}, ()) for name in names}
    state = slurm_steps.apply(slurm_plan.plan(desired(before), slurm_state.State()), slurm_state.State())
    after = {name: slurm_plan.Wanted({"GrpJobs": 2 if name < "a5" else 3}, ()) for name in names}
    steps = slurm_plan.plan(desired(after), state)
    assert kinds(steps) == ["modify_accounts", "modify_accounts"]


def test_dropped_limits_are_removed_part_by_part() -> None:
    state = recorded()
    wanted = replace(LAB.accounts["lab-a"], limits={"GrpTRES=cpu": 5, "GrpJobs": 4})
    step, *rest = slurm_plan.plan(replace(LAB, accounts=dict(LAB.accounts) | {"lab-a": wanted}), state)
    assert rest == []
    assert set(slurm_steps.arguments(step, "cirasa")[6:]) == {
        "GrpTRES=gres/disk=-1,mem=-1",
        "MaxTRESPerJob=cpu=-1,mem=-1",
        "MaxWall=-1",
    }


def test_inherited_limits_are_nobodys_drift() -> None:
    """A limit of one job that an administrator set above shows in every row beneath."""
    state = recorded()
    accounts = dict(state.accounts)
    slurm_steps._show(accounts, "labtest", slurm_state.Row({"MaxSubmitJobs": 999}, "labqos", ("labqos",)))
    assert accounts["lab-a"].users["laba"].limits["MaxSubmitJobs"] == 999
    assert slurm_plan.plan(LAB, replace(state, accounts=accounts)) == []


def test_prune_takes_what_is_ours_and_nothing_else() -> None:
    steps = slurm_plan.plan(desired({}, "labtest", "labqos"), recorded())
    assert kinds(steps) == ["delete_users", "delete_accounts"]
    assert steps[1].names == ("lab-a", "lab-b")
    assert slurm_plan.plan(desired({}, "labtest", "labqos"), recorded(), prune=False) == []
    assert slurm_steps.deletions(steps, recorded()) == ["account lab-a", "account lab-b"]


def test_protected_names_are_found_in_what_would_be_deleted() -> None:
    for rights in (slurm_plan.ADMINISTRATOR, COORDINATOR):
        steps = slurm_plan.plan(desired({}, "labtest", "labqos"), recorded(), rights=rights)
        assert slurm_steps.protected(steps, ["lab-a", "laba", "labother"], recorded()) == ["lab-a", "laba"]
    assert slurm_steps.protected(slurm_plan.plan(LAB, slurm_state.State()), ["lab-a"], slurm_state.State()) == []


def test_default_account_moves_before_its_account_goes() -> None:
    """A user with an association of somebody else's keeps that one, and is pointed to it first."""
    state = recorded()
    other = replace(state.accounts["labother"], users={"labb": slurm_state.Row()})
    state = replace(state, accounts=dict(state.accounts) | {"labother": other})
    steps = slurm_plan.plan(desired({}, "labtest", "labqos"), state)
    assert [(step.kind, step.names, step.account) for step in steps] == [
        ("set_default", ("labb",), "labother"),
        ("delete_association", ("labb",), "lab-b"),
        ("delete_users", ("laba",), ""),
        ("delete_accounts", ("lab-a", "lab-b"), ""),
    ]


def test_a_user_that_moves_is_not_deleted() -> None:
    wish = desired({"lab-c": slurm_plan.Wanted({}, ("labb",))}, "labtest", "labqos")
    steps = slurm_plan.plan(wish, recorded())
    assert [(step.kind, step.names, step.account) for step in steps] == [
        ("load", ("lab-c",), ""),
        ("set_default", ("labb",), "lab-c"),
        ("delete_association", ("labb",), "lab-b"),
        ("delete_users", ("laba",), ""),
        ("delete_accounts", ("lab-a", "lab-b"), ""),
    ]
    assert slurm_plan.plan(wish, slurm_steps.apply(steps, recorded())) == []


def test_users_and_accounts_of_other_clusters_keep_their_records() -> None:
    state = replace(recorded(), users_elsewhere=frozenset({"laba"}), accounts_elsewhere=frozenset({"lab-a"}))
    steps = slurm_plan.plan(desired({}, "labtest", "labqos"), state)
    assert [(step.kind, step.names) for step in steps if step.kind.startswith("delete")] == [
        ("delete_association", ("laba",)),
        ("delete_association", ("laba",)),
        ("delete_users", ("labb",)),
        ("delete_accounts", ("lab-b",)),
        ("delete_account_rows", ("lab-a",)),
    ]
    assert slurm_steps.arguments(steps[-1], "cirasa")[-1] == "cluster=cirasa"


def test_an_account_under_another_parent_is_not_ours() -> None:
    with pytest.raises(slurm_plan.Conflict, match="labother exists under root"):
        slurm_plan.plan(desired({"labother": slurm_plan.Wanted({}, ())}), recorded())


def test_an_orphan_is_made_whole() -> None:
    """Concurrent writers were seen to leave users of accounts that are not there."""
    row = "cirasa|lost||eve|||" + "|" * 13 + "\n"
    state = slurm_state.parse_state("cirasa", row, "eve|lost\n", "caesar|DenyOnLimit\n")
    wanted = desired({"lost": slurm_plan.Wanted({}, ("eve",))})
    steps = slurm_plan.plan(wanted, state)
    assert steps[0].load[-1] == ("caesar", "lost", (), ())
    assert slurm_plan.plan(wanted, slurm_steps.apply(steps, state)) == []


def test_a_listing_shows_the_managed_part_only() -> None:
    text = slurm_steps.listing(LAB, recorded())
    assert "account lab-a: GrpTRES mem = 16385 MiB" in text
    assert "account lab-a: MaxWall = 4380 min" in text
    assert "user laba: in lab-a, by default" in text
    assert not [line for line in text if "slurm-account" in line or "labother" in line]


def test_a_difference_is_what_differs() -> None:
    state = recorded()
    steps = slurm_plan.plan(replace(LAB, accounts={"lab-a": replace(LAB.accounts["lab-a"], limits={})}), state)
    before, after = slurm_steps.difference(LAB, state, slurm_steps.apply(steps, state))
    assert after == ""
    assert "account lab-a: GrpJobs = 4\n" in before
    assert "user labb: in lab-b, by default\n" in before
    assert "under labtest" not in before.replace("account lab-b: under labtest\n", "")


# --- By whom ---------------------------------------------------------------------------------------------------


def told(steps: list[slurm_plan.Step], rights: slurm_state.Rights, wish: slurm_plan.Desired, state: slurm_state.State):
    return slurm_steps.denied(steps, rights, wish, state, "cirasa")


def by(rights: slurm_state.Rights, wish: slurm_plan.Desired, state: slurm_state.State) -> list[slurm_plan.Step]:
    return slurm_plan.plan(wish, state, rights=rights)


def test_who_may_not_load_files_adds_with_a_call_for_each_set_of_limits() -> None:
    names = [f"n{number}" for number in range(6)]
    more = {name: slurm_plan.Wanted({"GrpJobs": 1 + index % 2}, (name,)) for index, name in enumerate(names)}
    wish = replace(LAB, accounts=dict(LAB.accounts) | more)
    for rights in (OPERATOR, COORDINATOR):
        steps = by(rights, wish, recorded())
        assert kinds(steps) == ["add_accounts"] * 2 + ["add_users"] * 6
        assert told(steps, rights, wish, recorded()) == []
        assert slurm_steps.arguments(steps[0], "cirasa") == [
            *("add", "account", "name=n0,n2,n4", "cluster=cirasa", "parent=labtest"),
            *("Description=caesar-testbed", "Organization=caesar-testbed", "GrpJobs=1"),
        ]
        after = slurm_steps.apply(steps, recorded())
        assert after == slurm_steps.apply(by(slurm_plan.ADMINISTRATOR, wish, recorded()), recorded())
        assert by(rights, wish, after) == []


def test_a_coordinator_takes_away_by_association_the_default_account_last() -> None:
    steps = by(COORDINATOR, desired({}, "labtest", "labqos"), recorded())
    assert [(step.kind, step.names, step.account) for step in steps] == [
        ("delete_association", ("laba",), "lab-b"),
        ("delete_association", ("laba",), "lab-a"),
        ("delete_association", ("labb",), "lab-b"),
        ("delete_account_rows", ("lab-a", "lab-b"), ""),
    ]
    after = slurm_steps.apply(steps, recorded())
    assert {"laba", "labb"}.isdisjoint(after.defaults)
    assert told(steps, COORDINATOR, LAB, recorded()) == []


def test_what_an_operator_cannot_is_said_with_the_command() -> None:
    for wish, command in (
        (replace(LAB, qos="new"), "sacctmgr add qos name=new Flags=DenyOnLimit"),
        (replace(LAB, qos_flags=QOS | {"NoReserve"}), "sacctmgr modify qos where name=labqos set Flags+=NoReserve"),
    ):
        [fault] = told(by(OPERATOR, wish, recorded()), OPERATOR, wish, recorded())
        assert fault.startswith("olga is an operator only, and only an administrator can")
        assert fault.endswith(command)


def test_what_a_coordinator_cannot_is_said_with_the_command() -> None:
    state = recorded()
    state = replace(state, qos=dict(state.qos) | {"new": QOS}, defaults=dict(state.defaults) | {"labb": "labother"})
    wish = replace(LAB, qos="new")
    parent, default = told(by(COORDINATOR, wish, state), COORDINATOR, wish, state)
    assert "cannot change labtest itself, whose QOS is not new alone" in parent
    assert parent.endswith("sacctmgr modify account where name=labtest cluster=cirasa set DefaultQOS=new QOS=new")
    assert "cannot change the default account of labb, which is labother" in default
    assert told(by(COORDINATOR, LAB, recorded()), COORDINATOR, LAB, recorded()) == []


def test_who_has_no_rights_is_told_so_unless_there_is_nothing_to_do() -> None:
    nobody = slurm_state.Rights("nina", "none", frozenset({"labother"}))
    wish = replace(LAB, accounts={})
    [fault] = told(by(nobody, wish, recorded()), nobody, wish, recorded())
    assert fault.endswith("sacctmgr add coordinator account=labtest names=nina")
    assert told(by(nobody, LAB, recorded()), nobody, LAB, recorded()) == []
    [*_, fault] = told(by(nobody, LAB, slurm_state.State()), nobody, LAB, slurm_state.State())
    assert "there is no account labtest" in fault


def test_a_coordinator_of_an_account_above_is_one() -> None:
    above = slurm_state.Rights("carl", "none", frozenset({"root"}))
    assert slurm_steps.standing(above, "labtest", recorded()) == "coordinator"
    assert slurm_steps.standing(above, "nowhere", recorded()) == "none"


def test_qos_may_be_left_to_the_site() -> None:
    wish = desired({"n": slurm_plan.Wanted({"GrpJobs": 1}, ("n",))}, "labother", "")
    steps = by(OPERATOR, wish, recorded())
    assert kinds(steps) == ["add_accounts", "add_users"]
    assert by(OPERATOR, wish, slurm_steps.apply(steps, recorded())) == []


def test_resources_that_slurm_does_not_count_are_named() -> None:
    assert slurm_plan.unknown_resources(LAB, {"cpu", "mem", "node"}) == ["gres/disk"]
    assert slurm_plan.unknown_resources(LAB, {"cpu", "mem", "gres/disk"}) == []


# --- Jobs of what goes -----------------------------------------------------------------------------------------


def job(account: str, user: str) -> slurm_state.Job:
    return slurm_state.Job("1", account, user, "RUNNING")


def test_jobs_of_accounts_and_users_that_go_are_in_the_way() -> None:
    state = recorded()
    wish = replace(LAB, accounts={"lab-b": replace(LAB.accounts["lab-b"], users=("labb",))})
    for rights in (slurm_plan.ADMINISTRATOR, COORDINATOR):
        steps = slurm_plan.plan(wish, state, rights=rights)
        jobs = [job("lab-a", "laba"), job("lab-b", "laba"), job("lab-b", "labb"), job("caesar", "laba")]
        assert slurm_steps.in_the_way(steps, jobs, state) == jobs[:2]


@pytest.mark.parametrize("drain", ["wait", "cancel"])
def test_draining_closes_first_and_opens_again_what_comes_back(drain: str) -> None:
    state = recorded()
    wish = replace(LAB, accounts={"lab-b": replace(LAB.accounts["lab-b"], users=("labb",))})
    steps = slurm_plan.plan(wish, state, drain=drain)
    assert [step.describe() for step in steps] == [
        "account lab-a: let no new jobs in (GrpSubmitJobs=0)",
        "user laba in lab-b: let no new jobs in (MaxSubmitJobs=0)",
        f"{'cancel' if drain == 'cancel' else 'wait for'} the jobs in lab-a, lab-b",
        "delete user laba",
        "delete account lab-a",
    ]
    closed = slurm_steps.apply(steps[:2], state)
    assert slurm_plan.plan(wish, closed, drain=drain) == steps[2:]
    opened = slurm_plan.plan(LAB, closed)
    assert [step.kind for step in opened] == ["modify_accounts", "modify_user"]
    assert slurm_plan.plan(LAB, slurm_steps.apply(opened, closed)) == []


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
    names, st.builds(slurm_plan.Wanted, limits, st.lists(user_names, max_size=3, unique=True).map(tuple))
)
desires = wanted_accounts.map(lambda accounts: desired(accounts, parent="ours", qos="q"))
qos_rows = st.sampled_from([("q", ("q",)), ("", ("normal",)), ("q", ("normal", "q")), ("normal", ("normal",))])


@st.composite
def states(draw: st.DrawFn) -> slurm_state.State:
    """A cluster with somebody else's accounts and any state of ours, as sacctmgr would show it."""
    accounts: dict[str, slurm_state.Account] = {"root": slurm_state.Account("", slurm_state.Row({}, "", ("normal",)))}

    def row(above: slurm_state.Row, own: bool = True) -> slurm_state.Row:
        default, allowed = draw(qos_rows) if draw(st.booleans()) else (above.default_qos, above.qos)
        mine = draw(limits) if own else {}
        return slurm_state.Row(slurm_limits.inheritable(above.limits) | mine, default, allowed)

    def users(above: slurm_state.Row, pool: list[str]) -> dict[str, slurm_state.Row]:
        shown: dict[str, slurm_state.Row] = {}
        for user in draw(st.lists(st.sampled_from(pool), max_size=3, unique=True)):
            own = {key: value for key, value in draw(limits).items() if key.startswith("Max")}
            default, allowed = draw(qos_rows) if draw(st.booleans()) else (above.default_qos, above.qos)
            shown[user] = slurm_state.Row(slurm_limits.inheritable(above.limits) | own, default, allowed)
        return shown

    for name in ("theirs", "foreign"):
        described = row(accounts["root"].row)
        accounts[name] = slurm_state.Account("root", described, users(described, ["u1", "u2", "bob"]))
    if draw(st.booleans()):
        accounts["ours"] = slurm_state.Account("root", row(accounts["root"].row))
        for name in draw(st.lists(st.sampled_from([*"abcdef", "x", "y"]), unique=True)):
            described = row(accounts["ours"].row)
            accounts[name] = slurm_state.Account("ours", described, users(described, ["u1", "u2", "u3", "u4", "eve"]))
        for name in draw(st.lists(st.sampled_from(["x1", "y1"]), unique=True)):
            if name[0] in accounts:
                described = row(accounts[name[0]].row)
                accounts[name] = slurm_state.Account(name[0], described, users(described, ["u1", "eve"]))
    places: dict[str, list[str]] = {}
    for name, account in accounts.items():
        for user in account.users:
            places.setdefault(user, []).append(name)
    defaults = {user: draw(st.sampled_from(there)) for user, there in places.items()}
    qos = draw(st.sampled_from([{}, {"q": frozenset()}, {"q": QOS}, {"q": QOS | {"NoReserve"}}]))
    elsewhere = frozenset(draw(st.lists(st.sampled_from(["u1", "eve"]), unique=True)))
    accounts_elsewhere = frozenset(draw(st.lists(st.sampled_from(["a", "x"]), unique=True)))
    return slurm_state.State(accounts, defaults, {"normal": frozenset()} | qos, elsewhere, accounts_elsewhere)


def as_wanted(state: slurm_state.State, wish: slurm_plan.Desired) -> dict[str, tuple]:
    """What the managed part is, in the terms of the list; inherited limits of one job left out."""
    above = state.accounts["ours"].row.limits
    return {
        name: (
            {
                key: value
                for key, value in account.row.limits.items()
                if slurm_limits.inheritable(above).get(key) != value
            },
            set(account.users),
        )
        for name, account in state.accounts.items()
        if account.parent == "ours"
    }


def settle(
    wish: slurm_plan.Desired, state: slurm_state.State, rights: slurm_state.Rights = slurm_plan.ADMINISTRATOR
) -> slurm_state.State:
    """What the module does: plan and apply, and once more for a user's limit that was hidden by an equal one."""
    for _ in range(2):
        state = slurm_steps.apply(slurm_plan.plan(wish, state, rights=rights), state)
    return state


carriers = st.sampled_from([slurm_plan.ADMINISTRATOR, OPERATOR, COORDINATOR])


@given(desires, states(), carriers)
@settings(max_examples=100, deadline=None)
def test_the_plan_leads_to_what_is_desired(
    wish: slurm_plan.Desired, state: slurm_state.State, rights: slurm_state.Rights
) -> None:
    after = settle(wish, state, rights)
    above = slurm_limits.inheritable(after.accounts["ours"].row.limits)
    assert as_wanted(after, wish) == {
        name: (
            {key: value for key, value in account.limits.items() if above.get(key) != value},
            set(account.users),
        )
        for name, account in wish.accounts.items()
    }
    for name, account in wish.accounts.items():
        for user, row in after.accounts[name].users.items():
            assert row.limits == slurm_limits.inheritable(after.accounts[name].row.limits), user
            assert (row.qos, row.default_qos) == (("q",), "q")
        for user in account.users:
            assert user in after.accounts[after.defaults[user]].users
    assert after.qos["q"] >= QOS
    assert slurm_plan.plan(wish, after, rights=rights) == []


@given(desires, states(), carriers, st.sampled_from(["refuse", "wait"]))
@settings(max_examples=80, deadline=None)
def test_nobody_elses_accounts_change(
    wish: slurm_plan.Desired, state: slurm_state.State, rights: slurm_state.Rights, drain: str
) -> None:
    steps = slurm_plan.plan(wish, state, rights=rights, drain=drain)
    ours = {"ours", *wish.accounts, *slurm_plan.managed("ours", state)}
    for step in steps:
        if step.kind in ("add_accounts", "modify_accounts", "close_accounts", "empty", *slurm_plan.DELETE_ACCOUNTS):
            assert set(step.names) <= ours
        if step.kind in ("add_users", "modify_user", "close_users", "delete_association"):
            assert step.account in ours
    after = settle(wish, state, rights)
    for name in ("root", "theirs", "foreign"):
        assert after.accounts[name] == state.accounts[name]
    assert after.qos["normal"] == state.qos["normal"]
    for text in slurm_steps.difference(wish, state, after):
        assert not [line for line in text.splitlines() if {"theirs", "foreign", "bob:"} & set(line.split())]


@given(desires, states(), carriers)
@settings(max_examples=80, deadline=None)
def test_whoever_is_not_refused_makes_only_calls_that_are_allowed(
    wish: slurm_plan.Desired, state: slurm_state.State, rights: slurm_state.Rights
) -> None:
    steps = slurm_plan.plan(wish, state, rights=rights)
    if rights.level == "administrator" or slurm_steps.denied(steps, rights, wish, state, "c"):
        return
    forbidden = {"load", "add_qos", "set_qos_flags"}
    if rights.level == "none":
        forbidden |= {"set_default", "delete_users", "delete_accounts"}
        assert not [step for step in steps if step.kind.endswith("accounts") and "ours" in step.names]
    assert not [step for step in steps if step.kind in forbidden]


@given(desires, states())
@settings(max_examples=50, deadline=None)
def test_without_prune_nothing_is_deleted(wish: slurm_plan.Desired, state: slurm_state.State) -> None:
    assert not [step for step in slurm_plan.plan(wish, state, prune=False) if step.kind.startswith("delete")]


@given(desires, states(), carriers, st.integers(0, 20))
@settings(max_examples=80, deadline=None)
def test_an_interrupted_plan_is_finished_by_the_next(
    wish: slurm_plan.Desired, state: slurm_state.State, rights: slurm_state.Rights, cut: int
) -> None:
    half = slurm_steps.apply(slurm_plan.plan(wish, state, rights=rights)[:cut], state)
    assert settle(wish, half, rights).accounts == settle(wish, state, rights).accounts


@given(desires, states())
@settings(max_examples=50, deadline=None)
def test_what_is_as_it_should_be_needs_no_plan(wish: slurm_plan.Desired, state: slurm_state.State) -> None:
    after = settle(wish, state)
    for rights in (OPERATOR, COORDINATOR):
        assert slurm_plan.plan(wish, after, rights=rights, drain="wait") == []
