"""The choice: a table of cases, and properties that hold for any answers."""

import itertools
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planner_app.voter.answers import Answer, Candidate, Choice, Demand, Left, Offer, Range, Unusable, Verdict
from planner_app.voter.choose import choose
from planner_app.voter.policy import DEFAULT_KEYS, Criterion, Key, Policy, Term, alone, measure_of_key, weigh
from planner_app.voter.reasons import objection
from planner_app.voter.text import amount_of_time

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
# Drawing an example takes long on a machine that has other things to do, which is no fault of the code.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
TOLERANCE = timedelta(seconds=5)
numbers = itertools.count(1)


def offer(planner: str = "one", **changes: Any) -> Offer:
    fields: dict[str, Any] = {
        "planner": planner,
        "uuid": str(UUID(int=next(numbers))),
        "url": f"http://{planner}/sessions/x",
        "cores": 2,
        "memory_gib": 4,
        "start": NOW,
        "duration": HOUR,
        "expires": NOW + HOUR,
        "costs": {"monetary": 0.1, "energy": 0.1, "carbon": 1.0},
        "metrics": {"compute-performance": 100.0},
    }
    return Offer(**(fields | changes))


def answer(*offers: Offer, **changes: Any) -> Answer:
    return Answer(offers[0].planner, Verdict.OFFERS, offers=offers, **changes)


DEMAND = Demand(cores=Range(1, 4), memory_gib=Range(2, 8), duration=HOUR)


def reasons(choice: Choice) -> dict[str, str]:
    return {c.planner: c.reason for c in choice.candidates}


@pytest.mark.parametrize(
    ("policy", "winner", "why"),
    [
        ("default", "cheap", "cheapest of those that finish first"),
        ("monetary", "cheap", "cheapest"),
        ("earliest-start", "cheap", "cheapest of those that start first and finish first"),
        ("energy", "green", "least energy"),
        ("carbon", "green", "least carbon"),
        ("performance", "fast", "fastest"),
        ("performance,carbon", "fast", "fastest"),
        ("cheapest", "cheap", "cheapest"),
        ("greenest", "green", "least carbon"),
        ("fastest", "fast", "fastest"),
        ("least-loaded", "late", "least loaded"),
        ("energy,least-loaded", "green", "least energy"),
        ("monetary+performance/1000", "cheap", "least weighted sum"),
        ("monetary/0.1+3*performance/50", "fast", "least weighted sum"),
        ("earliest-start,monetary/0.01+carbon/0.1", "green", "least weighted sum of those that start first"),
    ],
)
def test_each_policy_takes_its_own_winner(policy: str, winner: str, why: str) -> None:
    answers = [
        answer(offer("cheap", costs={"monetary": 0.01, "energy": 0.2, "carbon": 2.0})),
        answer(offer("green", costs={"monetary": 0.02, "energy": 0.1, "carbon": 0.1})),
        answer(
            offer(
                "fast",
                costs={"monetary": 0.9, "energy": 0.9, "carbon": 9.0},
                metrics={"compute-performance": 250.0},
            )
        ),
        answer(offer("late", start=NOW + HOUR, costs={"monetary": 0.5, "energy": 0.5, "carbon": 5.0}, load=0.1)),
    ]
    choice = choose(Policy.parse(policy), DEMAND, answers, NOW)
    assert choice.winner is not None
    assert choice.winner.planner == winner
    assert choice.candidates[0].reason == why


def test_a_loser_is_told_by_how_much() -> None:
    answers = [
        answer(offer("b", costs={"monetary": 0.24})),
        answer(offer("a", costs={"monetary": 0.02})),
        answer(offer("late", start=NOW + timedelta(minutes=5), costs={"monetary": 0.01})),
        answer(offer("silent", costs={})),
        answer(offer("c", costs={"monetary": 0.02})),
    ]
    assert reasons(choose(Policy(), DEMAND, answers, NOW)) == {
        "a": "first by name of equals",
        "c": "equal to a, first by name",
        "b": "monetary 0.24, a 0.02",
        "silent": "states no monetary, a does",
        "late": "finishes 5 min later than a",
    }


def test_milliseconds_are_no_merit() -> None:
    soon = answer(offer("soon", start=NOW - timedelta(milliseconds=90), costs={"monetary": 0.2}))
    cheap = answer(offer("cheap", start=NOW + timedelta(milliseconds=40), costs={"monetary": 0.1}))
    winner = choose(Policy(), DEMAND, [soon, cheap], NOW).winner
    assert winner is not None
    assert winner.planner == "cheap"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cores": 8}, "offers 8 cores, at most 4 asked"),
        ({"cores": 0}, "offers 0 cores, at least 1 asked"),
        ({"memory_gib": 1}, "offers 1 GiB of memory, at least 2 asked"),
        ({"memory_gib": 9}, "offers 9 GiB of memory, at most 8 asked"),
        ({"duration": timedelta(minutes=30)}, "offers 30 min, 60 min asked"),
        ({"expires": NOW - timedelta(hours=1)}, "expired 60 min before it could be accepted"),
        ({"start": NOW + 3 * HOUR}, "starts 60 min after the time asked for"),
        ({"start": NOW - HOUR}, "starts 60 min before the time asked for"),
        ({"costs": {"monetary": 0.6, "carbon": 1}}, "monetary cost is 0.6, at most 0.5 asked"),
        ({"costs": {"monetary": 0.1}}, "states no carbon cost, at most 2 asked"),
        ({"metrics": {}}, "states no compute-performance, at least 50 asked"),
        ({"metrics": {"compute-performance": 40}}, "compute-performance is 40, at least 50 asked"),
        ({}, None),
    ],
)
def test_hard_limits(changes: dict[str, Any], expected: str | None) -> None:
    demand = Demand(
        cores=Range(1, 4),
        memory_gib=Range(2, 8),
        duration=HOUR,
        start=(NOW, NOW + 2 * HOUR),
        max_costs={"monetary": 0.5, "carbon": 2},
        min_metrics={"compute-performance": 50},
    )
    assert objection(offer(**changes), demand, NOW, None, TOLERANCE) == expected


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (HOUR, "its clock is 60 min ahead of ours"),
        (-HOUR, "its clock is 60 min behind ours"),
        (timedelta(seconds=4), None),
    ],
)
def test_a_wrong_clock_is_named(offset: timedelta, expected: str | None) -> None:
    assert objection(offer(), DEMAND, NOW, offset, TOLERANCE) == expected


def test_who_gives_no_offer_is_a_candidate_with_a_reason() -> None:
    choice = choose(
        Policy(),
        DEMAND,
        [
            Answer("slow", Verdict.TIMEOUT, ("no answer within 3 s",)),
            Answer("full", Verdict.NO, ("8 cores asked, 4 allowed per job", "3 GiB left")),
            Answer("odd", Verdict.OFFERS, unusable=(Unusable("offers[0].expires: missing"),)),
            Answer("mute", Verdict.NO),
        ],
        NOW,
    )
    assert choice.winner is None
    assert choice.ranked == ()
    assert reasons(choice) == {
        "slow": "no answer within 3 s",
        "full": "8 cores asked, 4 allowed per job; 3 GiB left",
        "odd": "offers[0].expires: missing",
        "mute": "gave no reason",
    }


def test_what_is_equal_in_the_policy_is_won_by_who_is_worse_in_nothing() -> None:
    """`a` is first by name, and everything else is equal but the energy, which the policy does not name."""
    answers = [
        answer(offer("a", costs={"monetary": 0.1, "energy": 0.3})),
        answer(offer("b", costs={"monetary": 0.1, "energy": 0.2})),
    ]
    choice = choose(Policy(), DEMAND, answers, NOW)
    assert reasons(choice) == {"b": "least energy of those that are equal before", "a": "energy 0.3, b 0.2"}


def test_a_budget_is_a_hard_limit() -> None:
    demand = Demand(Range(1, 4), Range(2, 8), HOUR, budgets=(Left("monetary", 0.2, "10 of lee in 1 d"),))
    choice = choose(
        Policy.parse("fastest"),
        demand,
        [
            answer(offer("dear", costs={"monetary": 0.3}, metrics={"compute-performance": 250.0})),
            answer(offer("free", costs={})),
            answer(offer("just", costs={"monetary": 0.2})),
        ],
        NOW,
    )
    assert reasons(choice) == {
        "just": "the only one that can",
        "dear": "monetary cost is 0.3, 0.2 is left of 10 of lee in 1 d",
        "free": "states no monetary cost, which is to come out of a budget of 10 of lee in 1 d",
    }


def test_an_unknown_policy_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no policy 'nicest'; there are: default, earliest-start,.* greenest,"):
        Policy.parse("nicest")
    assert Policy.parse("default") == Policy()
    assert str(Policy.parse("carbon")) == "carbon,earliest-finish,monetary"
    assert str(Policy.parse("greenest,cheapest")) == "carbon,energy,monetary,earliest-finish"
    assert str(Policy.parse("ours", {"ours": "2*monetary/0.5+carbon/40, load"})) == (
        "2*monetary/0.5+carbon/40,load,earliest-finish,monetary"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0*monetary+carbon", "'0' in '0*monetary' must be a number above 0"),
        ("1.2.3*monetary", "'1.2.3' in '1.2.3*monetary' must be a number above 0"),
        ("monetary/0+carbon", "'0' in 'monetary/0' must be a number above 0"),
        ("earliest-start/60+carbon", "'60' in 'earliest-start/60' must be an ISO 8601 duration"),
        ("monetary+2*monetary", "monetary comes twice in the sum"),
        ("monetary-carbon", "no policy 'monetary-carbon'"),
        ("monetary,", "no policy ''"),
        ("cheapest+carbon", "no policy 'cheapest'"),
    ],
)
def test_a_policy_that_is_wrong_is_told_so(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Policy.parse(text)


def test_a_reference_is_the_text_s_else_the_request_s_else_the_configuration_s() -> None:
    policy = Policy.parse("monetary/0.5+carbon+energy+earliest-finish,load")
    filled = policy.with_references({Key.CARBON: 40, Key.MONETARY: 7, Key.EARLIEST_FINISH: 3600}, {Key.ENERGY: 0.2})
    assert str(filled).startswith("monetary/0.5+carbon/40+energy/0.2+earliest-finish/PT1H,load,")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.3, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (8400, "2 h 20 min"), (86400 * 2, "2 d")],
)
def test_amounts_of_time(seconds: float, text: str) -> None:
    assert amount_of_time(timedelta(seconds=seconds)) == text


# Few values, so that ties and broken limits are common.
few = st.sampled_from
planners = few(["a", "b", "c", "d"])
offers = st.builds(
    Offer,
    planner=planners,
    uuid=st.uuids().map(str),
    url=st.just("http://x"),
    cores=st.integers(0, 6),
    memory_gib=st.integers(1, 10),
    start=few([NOW + timedelta(minutes=m) for m in (-90, -1, 0, 0, 0, 1, 30, 300)]),
    duration=few([HOUR, HOUR, 2 * HOUR, HOUR / 2]),
    expires=few([NOW + HOUR, NOW + HOUR, NOW, NOW - HOUR]),
    costs=st.dictionaries(few(["monetary", "energy", "carbon"]), few([0.0, 0.1, 0.2, 5.0])),
    metrics=st.dictionaries(few(["compute-performance"]), few([0.0, 90.0, 120.0])),
    load=few([None, 0.0, 0.25, 0.9]),
)


@st.composite
def some_answers(draw: st.DrawFn) -> list[Answer]:
    by_planner: dict[str, list[Offer]] = {}
    some = draw(st.lists(offers, max_size=6, unique_by=lambda o: o.uuid))
    # Some are equal in everything but planner and id, which chance alone would hardly give.
    twins = [
        draw(few(some))._replace(planner=draw(planners), uuid=str(draw(st.uuids()))) for _ in range(2 if some else 0)
    ]
    for one in [*some, *twins]:
        by_planner.setdefault(one.planner, []).append(one)
    clocks = draw(st.dictionaries(planners, few([None, timedelta(0), timedelta(seconds=2), HOUR])))
    answers = [
        Answer(name, Verdict.OFFERS, offers=tuple(found), clock_offset=clocks.get(name))
        for name, found in by_planner.items()
    ]
    answers += draw(
        st.lists(
            # Not by `builds`, which fills in all the rest of a tuple too.
            st.tuples(
                few(["x", "y", "z"]),
                few([v for v in Verdict if v is not Verdict.OFFERS]),
                st.lists(few(["no", "never"]), max_size=2).map(tuple),
            ).map(lambda some: Answer(*some)),
            max_size=3,
            unique_by=lambda a: a.planner,
        )
    )
    return answers


terms = st.builds(Term, few(list(Key)), few([1.0, 0.5, 3.0]), few([0.1, 60.0, 3600.0]))
criteria = few(list(Key)).map(alone) | st.lists(terms, min_size=1, max_size=4, unique_by=lambda term: term.key).map(
    lambda some: Criterion(tuple(some))
)
policies = st.lists(criteria, min_size=1, max_size=4, unique=True).map(lambda some: Policy(tuple(some)))
demands = st.builds(
    Demand,
    cores=few([Range(1, 4), Range(2, 2), Range(0)]),
    memory_gib=few([Range(1, 8), Range(1)]),
    duration=st.just(HOUR),
    start=few([None, (NOW, NOW + 2 * HOUR)]),
    max_costs=st.dictionaries(few(["monetary", "carbon"]), few([0.1, 1.0])),
    min_metrics=st.dictionaries(few(["compute-performance"]), few([90.0])),
    budgets=few([(), (), (Left("monetary", 0.15, "1 of lee in 1 d"),)]),
)


def without(answers: Sequence[Answer], loser: Candidate) -> list[Answer]:
    if loser.offer is None:
        return [a for a in answers if a.planner != loser.planner]
    assert loser.offer is not None
    return [
        Answer(
            a.planner,
            a.verdict,
            a.reasons,
            tuple(o for o in a.offers if o is not loser.offer),
            a.unusable,
            a.clock_offset,
        )
        for a in answers
    ]


@patient
@given(policies, demands, some_answers(), st.randoms())
def test_the_order_of_the_answers_never_matters(policy, demand, answers, random) -> None:  # type: ignore[no-untyped-def]
    shuffled = [
        Answer(a.planner, a.verdict, a.reasons, tuple(random.sample(a.offers, len(a.offers))), (), a.clock_offset)
        for a in random.sample(answers, len(answers))
    ]
    assert choose(policy, demand, shuffled, NOW) == choose(policy, demand, answers, NOW)


@patient
@given(policies, demands, some_answers())
def test_removing_a_loser_never_changes_the_winner(policy: Policy, demand: Demand, answers: list[Answer]) -> None:
    choice = choose(policy, demand, answers, NOW)
    for loser in choice.candidates:
        if loser.rank != 1:
            assert choose(policy, demand, without(answers, loser), NOW).winner == choice.winner


def meets(one: Offer, demand: Demand, clock: timedelta | None) -> bool:
    """The hard limits again, in other words than the code's."""
    return all(
        [
            clock is None or abs(clock) <= TOLERANCE,
            one.expires > NOW,
            one.cores in range(demand.cores.min, (demand.cores.max or 10**9) + 1),
            one.memory_gib in range(demand.memory_gib.min, (demand.memory_gib.max or 10**9) + 1),
            one.duration >= demand.duration,
            demand.start is None or demand.start[0] - TOLERANCE <= one.start <= demand.start[1] + TOLERANCE,
            all(one.costs.get(k, float("inf")) <= most for k, most in demand.max_costs.items()),
            all(one.metrics.get(k, float("-inf")) >= least for k, least in demand.min_metrics.items()),
            all(one.costs.get(budget.cost, float("inf")) <= budget.left for budget in demand.budgets),
        ]
    )


@patient
@given(policies, demands, some_answers())
def test_brute_force_agrees(policy: Policy, demand: Demand, answers: list[Answer]) -> None:
    choice = choose(policy, demand, answers, NOW)
    able = [o for a in answers for o in a.offers if meets(o, demand, a.clock_offset)]

    def better(one: Offer, other: Offer) -> bool:
        measured = {key: measure_of_key(key, NOW, policy.granularity)([one, other]) for key in Key}
        for mine, others in [*(weigh(criterion, measured) for criterion in policy.criteria), *measured.values()]:
            if mine != others:
                return mine < others
        mine, other_one = ((o.planner, o.start, o.cores, o.memory_gib, o.uuid) for o in (one, other))
        return mine < other_one

    best = [o for o in able if all(o is other or better(o, other) for other in able)]
    assert ([choice.winner] if choice.winner else []) == best
    assert set(map(id, choice.ranked)) == set(map(id, able))


@patient
@given(policies, demands, some_answers())
def test_the_winner_is_never_dominated(policy: Policy, demand: Demand, answers: list[Answer]) -> None:
    """Nobody who can is at least as good in every key there is and better in one."""
    choice = choose(policy, demand, answers, NOW)
    measures = [measure_of_key(key, NOW, policy.granularity) for key in Key]
    for other in choice.ranked:
        best, values = zip(*(measure([choice.winner, other]) for measure in measures), strict=True)
        assert not (all(o <= b for o, b in zip(values, best, strict=True)) and values != best), (values, best)


@patient
@given(policies)
def test_a_policy_reads_back_as_it_was_written(policy: Policy) -> None:
    rest = tuple(alone(key) for key in DEFAULT_KEYS)
    assert Policy.parse(str(policy)).criteria == tuple(dict.fromkeys([*policy.criteria, *rest]))


@patient
@given(policies, demands, some_answers())
def test_every_offer_and_every_planner_has_a_line(policy: Policy, demand: Demand, answers: list[Answer]) -> None:
    choice = choose(policy, demand, answers, NOW)
    assert {c.planner for c in choice.candidates} == {a.planner for a in answers}
    assert sum(c.offer is not None for c in choice.candidates) == sum(len(a.offers) for a in answers)
    for line in choice.candidates:
        assert line.reason
        assert "\n" not in line.reason
    assert [c.rank for c in choice.candidates if c.rank] == list(range(1, len(choice.ranked) + 1))
