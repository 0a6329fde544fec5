"""From a demand and what is held to offers, or to every reason why there are none."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from planner_app.execution_broker.times import Interval
from planner_app.planner.config import PlannerConfig
from planner_app.planner.quoting.amounts import PREPARING, RELEASING, Amount, Hold
from planner_app.planner.quoting.profile import Profile
from planner_app.planner.quoting.reasons import above_limits, beyond_price, busy, no_room, too_late
from planner_app.planner.quoting.terms import Demand, Offer, Quote, cost_of

_SECOND = timedelta(seconds=1)
_MOMENT = timedelta(microseconds=1)


def quote(config: PlannerConfig, demand: Demand, holds: Iterable[Hold] | Profile, now: datetime) -> Quote:
    """Make offers that differ in kind.

    The earliest with the minimum; the largest at that start; and the largest at any start in the window that
    is asked, where waiting for it gives more. The larger of two amounts is the one with more cores, then the
    one with more memory, then the one with more disc.
    """
    duration = demand.duration or min(timedelta(hours=1), config.limits.walltime)
    reasons = [*above_limits(config, demand, duration), *beyond_price(config, demand, duration)]
    asked = demand.start or Interval(now, now + PREPARING + config.offers.start_window)
    earliest = max(asked.start, now + PREPARING)
    if earliest > asked.end:
        reasons.append(too_late(config, asked, now))
        return Quote(reasons=tuple(reasons))
    if demand.not_before is not None:
        earliest = max(earliest, demand.not_before)
        if earliest > asked.end:
            reasons.append(busy(config, asked, demand.not_before))
            return Quote(reasons=tuple(reasons))

    quota = Amount(config.quota.cores, config.quota.memory_gib, config.quota.disc_gb, config.limits.jobs)
    profile = holds if isinstance(holds, Profile) else Profile(holds)
    # Accepted at the last moment, the job starts that much later; it must still start inside the asked window.
    expires = min(now + config.offers.expire_after, asked.end - PREPARING)
    slots = _Slots(profile, quota, duration, expires, asked.end)
    start = slots.earliest(demand.minimum, earliest)
    if start is None:
        reasons.extend(no_room(config, demand.minimum, quota, slots.frees(slots.starts(earliest), quota), asked.end))
    if reasons or start is None:
        return Quote(reasons=tuple(reasons))

    sizes = _Sizes(config, demand, duration)
    now_largest = sizes.largest(slots.free(start))
    chosen = [(demand.minimum, start)]
    if now_largest != demand.minimum:
        chosen.append((now_largest, start))
    if now_largest != sizes.most:
        later = slots.largest(sizes, start, now_largest)
        if later is not None:
            chosen.append(later)
    return Quote(offers=tuple(slots.offer(config, amount, at) for amount, at in chosen))


@dataclass(frozen=True)
class _Slots:
    """The slots that a job of one duration could have."""

    profile: Profile
    quota: Amount
    duration: timedelta
    expires: datetime
    latest: datetime
    spans: dict[datetime, Interval] = field(default_factory=dict)
    seen: dict[datetime, Amount] = field(default_factory=dict)
    """What was worked out for each start, which is looked at several times: what is reserved, and what is free."""

    def reserved(self, start: datetime) -> Interval:
        """What a job is kept from submission to release, in whole seconds: so there are fewer instants to look at."""
        if start not in self.spans:
            begins, ends = start - PREPARING, self.window(start).end + self.duration + RELEASING
            whole = Interval(begins.replace(microsecond=0), (ends + _SECOND - _MOMENT).replace(microsecond=0))
            self.spans[start] = whole
        return self.spans[start]

    def window(self, start: datetime) -> Interval:
        """When the job would start, accepted at once or at the last moment."""
        return Interval(start, max(start, self.expires + PREPARING))

    def earliest(self, amount: Amount, start: datetime) -> datetime | None:
        """Find the earliest start, from `start` on, with room for the amount all the time.

        A later start only loses the front of the reserved time and gains at its end, so the next one worth
        a look is where the last blocked time is over.
        """
        room = self.quota - amount
        while start <= self.latest:
            if amount.fits(self.free(start)):
                return start
            reserved = self.reserved(start)
            free_from = self.profile.blocked_until(room, reserved.start, reserved.end)
            if free_from is None:
                return None
            start = _after(free_from)
        return None

    def free(self, start: datetime) -> Amount:
        """What is free for a job that starts then."""
        if start not in self.seen:
            reserved = self.reserved(start)
            self.seen[start] = self.quota - self.profile.most_held(reserved.start, reserved.end)
        return self.seen[start]

    def starts(self, start: datetime) -> Sequence[datetime]:
        """Each start, from `start` on, that could be the best: itself, and where something was released."""
        ends = self.profile.changes(self.reserved(start).start, self.latest - PREPARING)
        return [start, *(later for end in ends if start < (later := _after(end)) <= self.latest)]

    def frees(self, starts: Sequence[datetime], wanted: Amount) -> Iterator[Amount]:
        """What is free at each start; of what there is always as much as is wanted, no more than that may be told."""
        spans = [(reserved.start, reserved.end) for reserved in map(self.reserved, starts)]
        return (self.quota - held for held in self.profile.sweep(spans, self.quota - wanted))

    def largest(self, sizes: "_Sizes", start: datetime, than: Amount) -> tuple[Amount, datetime] | None:
        """Find the largest amount, larger than one, that some later start has room for, and the earliest such."""
        best: tuple[Amount, datetime] | None = None
        _, *starts = self.starts(start)
        for each, free in zip(starts, self.frees(starts, sizes.most), strict=True):
            if not sizes.minimum.fits(free):
                continue
            amount = sizes.largest(free)
            if amount > than:
                best, than = (amount, each), amount
                if amount == sizes.most:
                    break
        return best

    def offer(self, config: PlannerConfig, amount: Amount, start: datetime) -> Offer:
        """Make an offer of a slot."""
        return Offer(
            amount=amount,
            start=self.window(start),
            duration=self.duration,
            expires=self.expires,
            reserved=self.reserved(start),
            costs={name: cost_of(price, amount.cores, self.duration) for name, price in config.costs.items()},
            metrics=dict(config.metrics),
        )


def _after(free_from: datetime) -> datetime:
    """The first start whose reserved time, which begins with a whole second, begins no sooner."""
    if free_from.microsecond:
        free_from = free_from.replace(microsecond=0) + _SECOND
    return free_from + PREPARING


class _Sizes:
    """The amounts that a demand, the platform's limits and the costs that are asked at most leave."""

    def __init__(self, config: PlannerConfig, demand: Demand, duration: timedelta) -> None:
        self.minimum = demand.minimum
        allowed = Amount(config.limits.cores, config.limits.memory_gib, config.quota.disc_gb, 1)
        most = demand.maximum.least(allowed).most(demand.minimum)
        cores = most.cores
        for name, maximum in demand.cost_maxima.items():
            price = config.costs[name]
            if cost_of(price, cores, duration) > maximum:
                cores = min(cores, math.floor(maximum / cost_of(price, 1, duration)) + 1)
                while cost_of(price, cores, duration) > maximum:
                    cores -= 1
        self.most = Amount(max(cores, demand.minimum.cores), most.memory_gib, most.disc_gb, 1)

    def largest(self, free: Amount) -> Amount:
        """The largest amount where there is room for the minimum."""
        largest = self.most.least(free)
        return Amount(largest.cores, largest.memory_gib, largest.disc_gb, 1).most(self.minimum)
