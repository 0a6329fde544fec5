"""Quoting: a table of cases, and properties against brute force."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_app.execution_broker.models import Phase
from planner_app.execution_broker.times import Interval
from planner_app.planner.config import Limits, Offers, PlannerConfig, Quota
from planner_app.planner.quoting import (
    PREPARING,
    RELEASING,
    RESOURCES,
    Amount,
    Demand,
    Hold,
    Offer,
    Reservation,
    cost_of,
    holds_of,
    quote,
)
from planner_app.planner.quoting.profile import Profile
from planner_app.platforms.protocol import JobState, JobStatus, Snapshot
from tests.fakes import NINE, config_at

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
ONE, TWO = UUID(int=1), UUID(int=2)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PlannerConfig:
    """Eight cores, 32 GiB, 250 GB and four jobs; four cores, 16 GiB and two hours for each."""
    return config_at(tmp_path_factory.mktemp("planner"))


def at(seconds: float) -> datetime:
    return NINE + timedelta(seconds=seconds)


def demand(
    cores: int = 2, memory: int = 4, disc: int = 0, most: tuple[int, int, int] | None = None, **more: object
) -> Demand:
    minimum = Amount(cores, memory, disc, 1)
    maximum = minimum if most is None else Amount(*most, 1)
    return replace(Demand(minimum, maximum, duration=HOUR), **more)  # type: ignore[arg-type]


def hold(cores: int, start: float, end: float | None, memory: int = 1, jobs: int = 1) -> Hold:
    return Hold(Amount(cores, memory, 0, jobs), at(start), None if end is None else at(end))


def kinds(config: PlannerConfig, asked: Demand, holds: Sequence[Hold] = ()) -> list[str]:
    made = quote(config, asked, holds, NINE)
    assert not made.offers
    for reason in made.reasons:
        assert reason.message.startswith("slurm-account-001: ")
        assert "${" not in reason.message
        assert {"limit", "asked", "left"} <= set(reason.values)
    return [reason.kind.rpartition(":")[2] for reason in made.reasons]


class TestOffers:
    def test_an_empty_platform_starts_at_once(self, config: PlannerConfig) -> None:
        (offer,) = quote(config, demand(), [], NINE).offers
        assert offer == Offer(
            amount=Amount(2, 4, 0, 1),
            start=Interval(at(5), at(65)),
            duration=HOUR,
            expires=at(60),
            reserved=Interval(NINE, at(65) + HOUR + RELEASING),
            costs={"monetary": 0.02, "energy": 0.024, "carbon": 6.2},
            metrics={"compute-performance": 90},
        )

    def test_the_second_offer_is_the_largest(self, config: PlannerConfig) -> None:
        offers = quote(config, demand(most=(16, 12, 500)), [], NINE).offers
        assert [offer.amount for offer in offers] == [Amount(2, 4, 0, 1), Amount(4, 12, 250, 1)]
        assert offers[0].start == offers[1].start

    def test_the_largest_is_what_is_left(self, config: PlannerConfig) -> None:
        offers = quote(config, demand(most=(4, 4, 0)), [hold(5, -60, None)], NINE).offers
        assert [offer.amount.cores for offer in offers] == [2, 3]

    def test_the_third_offer_is_the_largest_that_waiting_gives(self, config: PlannerConfig) -> None:
        holds = [hold(5, -60, 600), hold(1, -60, 1200), hold(1, -60, 1800)]
        offers = quote(config, demand(cores=1, most=(4, 4, 0)), holds, NINE).offers
        assert [(offer.amount.cores, offer.start.start) for offer in offers] == [(1, at(5)), (4, at(605))]

    def test_the_three_differ_within_the_window(self, config: PlannerConfig) -> None:
        holds = [hold(5, -60, 600), hold(1, -60, 700), hold(1, -60, 1200)]
        asked = demand(cores=1, memory=1, most=(8, 40, 0), start=Interval(at(0), at(1000)))
        wide = config.model_copy(update={"limits": config.limits.model_copy(update={"cores": 8})})
        offers = quote(wide, asked, holds, NINE).offers
        assert [(offer.amount.cores, offer.start.start) for offer in offers] == [(1, at(5)), (1, at(5)), (7, at(705))]
        assert offers[1].amount.memory_gib == 16

    def test_waiting_for_nothing_more_is_not_offered(self, config: PlannerConfig) -> None:
        assert len(quote(config, demand(cores=1, most=(4, 4, 0)), [hold(4, -60, 600)], NINE).offers) == 2
        late = [hold(5, -60, 600), hold(5, 600, 900)]
        assert len(quote(config, demand(cores=1, duration=MINUTE, most=(3, 4, 0)), late, NINE).offers) == 2

    def test_the_largest_keeps_the_cost_limit(self, config: PlannerConfig) -> None:
        offers = quote(config, demand(most=(4, 4, 0), cost_maxima={"monetary": 0.035}), [], NINE).offers
        assert [offer.amount.cores for offer in offers] == [2, 3]
        assert offers[1].costs["monetary"] == 0.03

    def test_the_earliest_start_is_when_enough_is_released(self, config: PlannerConfig) -> None:
        holds = [hold(3, -60, 600), hold(3, -60, 1200), hold(1, -60, 300)]
        (offer,) = quote(config, demand(cores=4), holds, NINE).offers
        assert offer.start.start == at(600) + PREPARING

    def test_a_gap_that_is_too_short_is_passed_over(self, config: PlannerConfig) -> None:
        holds = [hold(6, -60, 600), hold(6, 1200, 3000)]
        (offer,) = quote(config, demand(cores=4), holds, NINE).offers
        assert offer.start.start == at(3000) + PREPARING

    def test_the_last_moment_to_accept_still_fits_in_the_gap(self, config: PlannerConfig) -> None:
        # The job may start at 65 s, runs an hour and is released five seconds later.
        fits = [hold(8, 3670, 9000)]
        assert quote(config, demand(), fits, NINE).offers[0].start.start == at(5)
        assert not quote(config, demand(), [hold(8, 3669, 9000)], NINE).offers

    def test_the_start_lies_in_the_window_asked(self, config: PlannerConfig) -> None:
        asked = demand(start=Interval(at(1800), at(1800)))
        (offer,) = quote(config, asked, [], NINE).offers
        assert offer.start == Interval(at(1800), at(1800))
        assert offer.expires == at(60)

    def test_a_window_that_closes_soon_makes_the_offer_short(self, config: PlannerConfig) -> None:
        (offer,) = quote(config, demand(start=Interval(at(-600), at(20))), [], NINE).offers
        assert offer.start == Interval(at(5), at(20))
        assert offer.expires == at(15)

    @pytest.mark.parametrize(("limit", "duration"), [(2 * HOUR, HOUR), (HOUR / 2, HOUR / 2)])
    def test_without_a_duration(self, config: PlannerConfig, limit: timedelta, duration: timedelta) -> None:
        limits = config.limits.model_copy(update={"walltime": limit})
        asked = replace(demand(), duration=None)
        (offer,) = quote(config.model_copy(update={"limits": limits}), asked, [], NINE).offers
        assert offer.duration == duration


class TestReasons:
    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            (demand(cores=5), ["cores-limit"]),
            (demand(cores=99), ["cores-limit"]),
            (demand(memory=17), ["memory-limit"]),
            (demand(disc=251), ["disc-limit"]),
            (demand(duration=3 * HOUR), ["walltime-limit"]),
            (demand(cores=5, memory=17, duration=3 * HOUR), ["cores-limit", "memory-limit", "walltime-limit"]),
            (demand(cost_maxima={"monetary": 0.01}), ["cost-limit"]),
            (demand(cost_maxima={"monetary": -1.0}), ["cost-limit"]),
            (demand(cost_maxima={"monetary": 0.02}, metric_minima={"compute-performance": 100.0}), ["metric-limit"]),
            (demand(cost_maxima={"water": 5.0}), ["cost-unknown"]),
            (demand(metric_minima={"io-throughput": 5.0}), ["metric-limit"]),
            (demand(start=Interval(at(-600), at(4))), ["start"]),
            (demand(start=Interval(at(-600), at(-500)), cores=5), ["cores-limit", "start"]),
        ],
    )
    def test_each(self, config: PlannerConfig, asked: Demand, said: list[str]) -> None:
        assert kinds(config, asked) == said

    def test_no_room(self, config: PlannerConfig) -> None:
        assert kinds(config, demand(cores=4), [hold(5, -60, None)]) == ["cores-quota"]
        assert kinds(config, demand(memory=16), [hold(1, -60, None, memory=17)]) == ["memory-quota"]
        assert kinds(config, demand(), [hold(0, -60, None, memory=0, jobs=4)]) == ["jobs-quota"]
        (reason,) = quote(config, demand(cores=4), [hold(5, -60, None)], NINE).reasons
        assert reason.message == (
            "slurm-account-001: 4 cores asked, 3 of 8 left for a start until 2026-11-24T10:00:05Z"
        )

    def test_no_room_for_both_at_once(self, config: PlannerConfig) -> None:
        # Cores are free first and memory later, never both together.
        holds = [hold(0, -60, 2000, memory=30, jobs=0), hold(7, 1000, None, memory=0, jobs=0)]
        assert kinds(config, demand(cores=4, duration=10 * MINUTE), holds) == ["memory-quota"]

    def test_what_no_job_may_have_is_said_once(self, config: PlannerConfig) -> None:
        assert kinds(config, demand(cores=9), [hold(8, -60, None)]) == ["cores-limit"]


def reservation(phase: Phase, session: UUID = ONE, offerset: UUID = ONE, **more: object) -> Reservation:
    made = Reservation(session, offerset, phase, Amount(2, 4, 0, 1), Interval(NINE, at(3670)), HOUR, at(60))
    return replace(made, **more)  # type: ignore[arg-type]


def job(state: JobState, session: UUID | None = ONE, **more: object) -> JobStatus:
    made = JobStatus("7", session, state, "", 2, 4, 0, NINE, None, None, None, None)
    return replace(made, **more)  # type: ignore[arg-type]


class TestHolds:
    def holds(self, reservations: Sequence[Reservation], jobs: Sequence[JobStatus] = (), now: float = 10) -> list[Hold]:
        return holds_of(reservations, Snapshot(at(now), tuple(jobs)), at(now))

    def test_of_one_offer_set_only_one_can_be_accepted(self) -> None:
        larger = reservation(Phase.OFFERED, TWO, amount=Amount(4, 2, 0, 1))
        later = reservation(Phase.OFFERED, UUID(int=3), amount=Amount(6, 1, 9, 1), reserved=Interval(at(600), at(4000)))
        assert self.holds([reservation(Phase.OFFERED), larger, later]) == [
            Hold(Amount(4, 4, 0, 1), NINE, at(600)),
            Hold(Amount(6, 4, 9, 1), at(600), at(3670)),
            Hold(Amount(6, 1, 9, 1), at(3670), at(4000)),
        ]
        (held,) = self.holds([reservation(Phase.OFFERED), larger])
        assert held == Hold(Amount(4, 4, 0, 1), NINE, at(3670))
        assert len(self.holds([reservation(Phase.OFFERED), replace(larger, offerset=TWO)])) == 2

    def test_an_expired_offer_holds_nothing(self) -> None:
        assert self.holds([reservation(Phase.OFFERED)], now=60) == []

    @pytest.mark.parametrize("phase", [Phase.ACCEPTED, Phase.WAITING])
    def test_what_waits_holds_its_own_time(self, phase: Phase) -> None:
        (held,) = self.holds([reservation(phase)], now=200)
        assert (held.start, held.end) == (NINE, at(3670))

    def test_a_late_job_holds_all_of_its_time_from_now_on(self) -> None:
        (held,) = self.holds([reservation(Phase.PREPARING)], [job(JobState.PENDING)], now=200)
        assert held.end == at(200) + HOUR + RELEASING

    def test_a_running_job_holds_until_it_must_have_ended(self) -> None:
        running = job(JobState.RUNNING, started=at(100), ends_by=at(100) + HOUR)
        (held,) = self.holds([reservation(Phase.AVAILABLE)], [running], now=200)
        assert (held.start, held.end) == (at(200), at(100) + HOUR + RELEASING)
        (held,) = self.holds([reservation(Phase.AVAILABLE)], [running], now=8000)
        assert held.end == at(8000) + RELEASING

    def test_an_ended_job_is_all_but_free(self) -> None:
        for held in (
            self.holds([reservation(Phase.AVAILABLE)], [job(JobState.COMPLETED)]),
            self.holds([reservation(Phase.RELEASING, ended=True)]),
        ):
            assert held == [Hold(Amount(2, 4, 0, 1), at(10), at(10) + RELEASING)]

    def test_somebody_elses_job_counts_as_well(self) -> None:
        running = job(JobState.RUNNING, None, cores=3, disc_gb=9, ends_by=at(500))
        assert self.holds([], [running]) == [Hold(Amount(3, 4, 9, 1), at(10), at(500) + RELEASING)]
        assert self.holds([], [job(JobState.PENDING, None)]) == [Hold(Amount(2, 4, 0, 1), at(10), None)]
        assert self.holds([], [job(JobState.FAILED, None)]) == []

    def test_the_job_of_a_session_that_ended_counts_until_it_is_gone(self) -> None:
        assert len(self.holds([], [job(JobState.RUNNING, TWO)])) == 1

    def test_a_job_is_counted_once(self) -> None:
        assert len(self.holds([reservation(Phase.AVAILABLE)], [job(JobState.RUNNING)])) == 1


# Brute force: in steps of one minute, with everything on whole minutes but the two margins.

amounts = st.builds(Amount, st.integers(0, 8), st.integers(0, 32), st.integers(0, 250), st.integers(0, 2))
minutes = st.integers(-30, 200).map(lambda count: count * MINUTE)
hold_lists = st.lists(
    st.builds(
        lambda amount, start, length: Hold(amount, NINE + start, None if length is None else NINE + start + length),
        amounts,
        minutes,
        st.none() | st.integers(1, 100).map(lambda count: count * MINUTE),
    ),
    max_size=8,
)


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    minimum = Amount(draw(st.integers(1, 9)), draw(st.integers(1, 40)), draw(st.integers(0, 260)), 1)
    maximum = minimum + Amount(draw(st.integers(0, 9)), draw(st.integers(0, 20)), draw(st.integers(0, 50)), 0)
    start = draw(st.none() | st.tuples(minutes, st.integers(0, 90)))
    return Demand(
        minimum,
        maximum,
        draw(st.none() | st.integers(1, 130).map(lambda count: count * MINUTE)),
        None if start is None else Interval(NINE + start[0], NINE + start[0] + start[1] * MINUTE),
        draw(st.dictionaries(st.sampled_from(["monetary", "carbon"]), st.floats(0, 30), max_size=2)),
        draw(st.dictionaries(st.just("compute-performance"), st.floats(0, 200), max_size=1)),
    )


@st.composite
def configs(draw: st.DrawFn) -> PlannerConfig:
    quota = Quota(
        cores=draw(st.integers(1, 10)), memory_gib=draw(st.integers(1, 40)), disc_gb=draw(st.integers(0, 300))
    )
    limits = Limits(
        cores=draw(st.integers(1, quota.cores)),
        memory_gib=draw(st.integers(1, quota.memory_gib)),
        walltime=draw(st.integers(1, 150)) * MINUTE,
        jobs=draw(st.integers(1, 4)),
    )
    offers = Offers(expire_after=draw(st.integers(1, 300)) * SECOND, start_window=draw(st.integers(0, 120)) * MINUTE)
    made = config_at(Path("/nowhere"))
    return made.model_copy(update={"quota": quota, "limits": limits, "offers": offers})


def total(config: PlannerConfig) -> Amount:
    return Amount(config.quota.cores, config.quota.memory_gib, config.quota.disc_gb, config.limits.jobs)


def free_at(config: PlannerConfig, holds: Sequence[Hold], time: datetime) -> Amount:
    used = Amount()
    for each in holds:
        if each.start <= time and (each.end is None or time < each.end):
            used += each.amount
    return total(config) - used


def instants(holds: Sequence[Hold], start: datetime, end: datetime) -> list[datetime]:
    """Every instant from start until before end at which what is free may have become less."""
    return [start, *(each.start for each in holds if start < each.start < end)]


def reserved_for(config: PlannerConfig, start: datetime, window_end: datetime, duration: timedelta) -> Interval:
    expires = min(NINE + config.offers.expire_after, window_end - PREPARING)
    return Interval(start - PREPARING, max(start, expires + PREPARING) + duration + RELEASING)


@pytest.mark.parametrize("few", [0, 2, 16])
@given(hold_lists, st.lists(st.integers(0, 3000), min_size=1, max_size=24), st.integers(1, 2000))
@settings(max_examples=60, deadline=None)
def test_a_sweep_sees_what_a_look_at_each_span_sees(
    few: int, holds: Sequence[Hold], starts: list[int], length: int
) -> None:
    profile = Profile(holds)
    spans = [(NINE + timedelta(seconds=at), NINE + timedelta(seconds=at + length)) for at in sorted(starts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("planner_app.planner.quoting.profile._FEW", few)
        swept = list(profile.sweep(spans, Amount(-1, -1, -1, -1)))
    assert swept == [profile.most_held(*span) for span in spans]


@given(configs(), demands(), hold_lists)
@settings(max_examples=100, deadline=None)
def test_offers_keep_every_promise(config: PlannerConfig, asked: Demand, holds: list[Hold]) -> None:
    made = quote(config, asked, holds, NINE)
    assert bool(made.offers) != bool(made.reasons)
    assert len(made.offers) <= 3
    duration = asked.duration or min(HOUR, config.limits.walltime)
    window = asked.start or Interval(NINE, NINE + PREPARING + config.offers.start_window)
    for offer in made.offers:
        # minima are met, maxima and limits are kept
        assert asked.minimum.fits(offer.amount)
        assert offer.amount.fits(asked.maximum)
        assert offer.amount.fits(Amount(config.limits.cores, config.limits.memory_gib, config.quota.disc_gb, 1))
        assert offer.duration == duration <= config.limits.walltime
        # it starts in the window, whenever it is accepted
        assert window.start <= offer.start.start <= offer.start.end <= window.end
        assert offer.start.start >= NINE + PREPARING
        assert NINE <= offer.expires <= NINE + config.offers.expire_after
        assert offer.expires + PREPARING <= offer.start.end
        assert offer.reserved.start <= offer.start.start - PREPARING
        assert offer.reserved.end >= offer.start.end + duration + RELEASING
        # what it costs is what was asked at most
        for name, price in config.costs.items():
            assert offer.costs[name] == cost_of(price, offer.amount.cores, duration)
            assert offer.costs[name] <= asked.cost_maxima.get(name, float("inf"))
        for name, minimum in asked.metric_minima.items():
            assert offer.metrics[name] >= minimum
        # and never is more than the quota promised
        for time in instants(holds, offer.reserved.start, offer.reserved.end):
            assert offer.amount.fits(free_at(config, holds, time))


@given(configs(), demands(), hold_lists)
@settings(max_examples=100, deadline=None)
def test_the_start_is_the_earliest_there_is(config: PlannerConfig, asked: Demand, holds: list[Hold]) -> None:
    asked = replace(asked, cost_maxima={}, metric_minima={})
    made = quote(config, asked, holds, NINE)
    duration = asked.duration or min(HOUR, config.limits.walltime)
    window = asked.start or Interval(NINE, NINE + PREPARING + config.offers.start_window)
    limits = Amount(config.limits.cores, config.limits.memory_gib, config.quota.disc_gb, 1)

    def possible(start: datetime) -> bool:
        reserved = reserved_for(config, start, window.end, duration)
        return all(
            asked.minimum.fits(free_at(config, holds, time)) for time in instants(holds, reserved.start, reserved.end)
        )

    first = max(window.start, NINE + PREPARING)
    end = made.offers[0].start.start if made.offers else window.end
    count = int((end - first) / (10 * SECOND)) + 1 if end >= first else 0
    earlier = [time for time in (first + 10 * SECOND * index for index in range(count)) if time < end]
    if not made.offers and first <= window.end:
        earlier.append(window.end)
    if asked.minimum.fits(limits) and duration <= config.limits.walltime:
        assert not any(possible(time) for time in earlier)
    else:
        assert not made.offers


@given(configs(), demands(), hold_lists)
@settings(max_examples=100, deadline=None)
def test_the_second_offer_cannot_grow(config: PlannerConfig, asked: Demand, holds: list[Hold]) -> None:
    offers = quote(config, asked, holds, NINE).offers
    if not offers:
        return
    largest = offers[-1]
    for more in (Amount(1), Amount(0, 1), Amount(0, 0, 1)):
        grown = largest.amount + more
        within = grown.fits(asked.maximum) and grown.fits(
            Amount(config.limits.cores, config.limits.memory_gib, config.quota.disc_gb, 1)
        )
        affordable = all(
            cost_of(config.costs[name], grown.cores, largest.duration) <= most
            for name, most in asked.cost_maxima.items()
        )
        room = all(
            grown.fits(free_at(config, holds, time))
            for time in instants(holds, largest.reserved.start, largest.reserved.end)
        )
        assert not (within and affordable and room)


@given(configs(), st.lists(demands(), max_size=12))
@settings(max_examples=100, deadline=None)
def test_offers_together_never_exceed_the_quota(config: PlannerConfig, wishes: list[Demand]) -> None:
    held: list[Hold] = []
    for wish in wishes:
        for offer in quote(config, wish, held, NINE).offers[-1:]:
            held.append(Hold(offer.amount, offer.reserved.start, offer.reserved.end))
    for time in {each.start for each in held}:
        assert Amount().fits(free_at(config, held, time))


# The whole of it by brute force: time in steps of five seconds, everything on them, every start tried.

STEP = 5 * SECOND
STEPS = 240


@st.composite
def small_worlds(draw: st.DrawFn) -> tuple[PlannerConfig, Demand, list[Hold]]:
    def amount(most: int) -> Amount:
        return Amount(draw(st.integers(0, most)), draw(st.integers(0, most)), draw(st.integers(0, most)), 1)

    # Half of them have little room at first, more with each job that ends, and a request that takes it all.
    crowded = draw(st.booleans())
    least = 7 if crowded else 2
    quota = Quota(
        cores=draw(st.integers(least, 8)), memory_gib=draw(st.integers(least, 8)), disc_gb=draw(st.integers(0, 8))
    )
    limits = Limits(
        cores=quota.cores if crowded else draw(st.integers(1, quota.cores)),
        memory_gib=quota.memory_gib if crowded else draw(st.integers(1, quota.memory_gib)),
        walltime=10 * MINUTE,
        jobs=10 if crowded else draw(st.integers(1, 4)),
    )
    least = 30 if crowded else 0
    offers = Offers(expire_after=draw(st.integers(1, 12)) * STEP, start_window=draw(st.integers(least, 40)) * STEP)
    config = config_at(Path("/nowhere")).model_copy(update={"quota": quota, "limits": limits, "offers": offers})
    holds = []
    for _ in range(draw(st.integers(3, 4) if crowded else st.integers(0, 6))):
        begin = 0 if crowded else draw(st.integers(-5, 80))
        length = draw(st.integers(1, 35) if crowded else st.none() | st.integers(1, 80))
        end = None if length is None else NINE + (begin + length) * STEP
        holds.append(Hold(amount(2 if crowded else 4), NINE + begin * STEP, end))
    least = 1 if crowded else 4
    minimum = Amount(
        draw(st.integers(1, least)), draw(st.integers(1, least)), 0 if crowded else draw(st.integers(0, 3)), 1
    )
    window = None if crowded else draw(st.none() | st.tuples(st.integers(-5, 40), st.integers(0, 40)))
    start = None if window is None else Interval(NINE + window[0] * STEP, NINE + sum(window) * STEP)
    maximum = minimum + (Amount(8, 8, 8) if crowded else amount(6)._replace(jobs=0))
    return config, Demand(minimum, maximum, draw(st.integers(1, 60)) * STEP, start), holds


@given(small_worlds())
@settings(max_examples=150, deadline=None)
def test_quotes_are_those_of_brute_force(world: tuple[PlannerConfig, Demand, list[Hold]]) -> None:
    config, asked, holds = world
    made = quote(config, asked, holds, NINE)
    window = asked.start or Interval(NINE, NINE + PREPARING + config.offers.start_window)
    limits = Amount(config.limits.cores, config.limits.memory_gib, config.quota.disc_gb, 1)
    assert asked.duration is not None
    frees = [free_at(config, holds, NINE + step * STEP) for step in range(STEPS)]
    slots: list[tuple[datetime, Amount]] = []  # each possible start, and what is free for it
    start = max(window.start, NINE + PREPARING)
    while start <= window.end:
        reserved = reserved_for(config, start, window.end, asked.duration)
        first, after = (reserved.start - NINE) // STEP, (reserved.end - NINE) // STEP
        free = frees[first]
        for each in frees[first + 1 : after]:
            free = free.least(each)
        slots.append((start, free))
        start += STEP
    possible = [(start, free) for start, free in slots if asked.minimum.fits(free)]
    if not asked.minimum.fits(limits) or not possible:
        assert not made.offers
        said = {reason.kind.rpartition(":")[2] for reason in made.reasons}
        for name, at_most in zip(("cores", "memory", "disc"), limits, strict=False):
            resource = next(each for each in RESOURCES if each.startswith(name))
            wanted = getattr(asked.minimum, resource)
            assert (f"{name}-limit" in said) == (wanted > at_most)
            if slots and wanted <= at_most and all(getattr(free, resource) < wanted for _, free in slots):
                assert f"{name}-quota" in said  # short at every start
            if slots and all(getattr(free, resource) >= wanted for _, free in slots):
                assert f"{name}-quota" not in said
        return
    larger = [(asked.maximum.least(limits).least(free), start) for start, free in possible]
    expected = [(asked.minimum, possible[0][0])]
    if larger[0][0] != asked.minimum:
        expected.append(larger[0])
    best = max(larger, key=lambda each: each[0])  # the earliest of equals
    if best[0] > larger[0][0]:
        expected.append(best)
    assert [(offer.amount, offer.start.start) for offer in made.offers] == expected
