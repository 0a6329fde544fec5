"""From what is asked, what is held and what is allowed to offers, or to every reason why there are none.

Pure: no clock, no database, no platform. Amounts of disc are in GB, memory in GiB.
"""

import bisect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Self
from uuid import UUID

from planner_app.execution_broker.models import Phase
from planner_app.execution_broker.times import Interval, format_duration, format_instant
from planner_app.planner.config import PlannerConfig
from planner_app.platforms.protocol import JobState, Snapshot

PREPARING = timedelta(seconds=5)
"""From submission to a running job, with room: both platforms take one to two seconds."""
RELEASING = timedelta(seconds=5)
"""From the end of a job to a platform that counts its share as free."""

RESOURCES = ("cores", "memory_gib", "disc_gb", "jobs")
_WORDS = {"cores": "cores", "memory_gib": "GiB of memory", "disc_gb": "GB of disc", "jobs": "jobs"}


@dataclass(frozen=True, slots=True)
class Amount:
    """A share of a quota."""

    cores: int = 0
    memory_gib: int = 0
    disc_gb: int = 0
    jobs: int = 0

    def __add__(self, other: Self) -> "Amount":
        return Amount(*(a + b for a, b in zip(self.values, other.values, strict=True)))

    def __sub__(self, other: Self) -> "Amount":
        return Amount(*(a - b for a, b in zip(self.values, other.values, strict=True)))

    @property
    def values(self) -> tuple[int, int, int, int]:
        """The numbers in the order of RESOURCES."""
        return (self.cores, self.memory_gib, self.disc_gb, self.jobs)

    def fits(self, room: Self) -> bool:
        """Whether there is room for this."""
        return all(a <= b for a, b in zip(self.values, room.values, strict=True))

    def least(self, other: Self) -> "Amount":
        """The smaller of each."""
        return Amount(*(min(a, b) for a, b in zip(self.values, other.values, strict=True)))

    def most(self, other: Self) -> "Amount":
        """The larger of each."""
        return Amount(*(max(a, b) for a, b in zip(self.values, other.values, strict=True)))


@dataclass(frozen=True, slots=True)
class Hold:
    """An amount that is not free from `start` until before `end`; without an end, for good."""

    amount: Amount
    start: datetime
    end: datetime | None


@dataclass(frozen=True, slots=True)
class Reservation:
    """What the ledger keeps for one session that has not ended."""

    session: UUID
    offerset: UUID
    phase: Phase
    amount: Amount
    reserved: Interval
    duration: timedelta
    expires: datetime
    ended: bool = False
    """Whether the job has ended, and only its outputs are still being collected."""
    client: str = ""


def holds_of(reservations: Iterable[Reservation], snapshot: Snapshot, now: datetime) -> list[Hold]:
    """Tell what is not free: offers, sessions, and jobs that somebody else runs in the account or namespace.

    Of the offers of one set only one can be accepted, so they hold the larger of each together. A running
    job holds its share until it must have ended, however late it started; one that nobody knows the end of
    holds it for good.
    """
    jobs = {job.session: job for job in snapshot.jobs if job.session is not None}
    holds: list[Hold] = []
    offered: dict[UUID, Hold] = {}
    sessions: set[UUID] = set()
    for reservation in reservations:
        if reservation.phase is Phase.OFFERED:
            if reservation.expires > now:
                hold = Hold(reservation.amount, reservation.reserved.start, reservation.reserved.end)
                other = offered.get(reservation.offerset)
                offered[reservation.offerset] = hold if other is None else _either(hold, other)
            continue
        sessions.add(reservation.session)
        job = jobs.get(reservation.session)
        if reservation.ended or (job is not None and job.state.ended):
            holds.append(Hold(reservation.amount, now, now + RELEASING))
        elif job is None or job.state is JobState.PENDING:
            end = reservation.reserved.end
            if reservation.phase not in (Phase.ACCEPTED, Phase.WAITING):
                # Not seen to run yet: it may start now, and then runs for all of its time.
                end = max(end, now + reservation.duration + RELEASING)
            holds.append(Hold(reservation.amount, reservation.reserved.start, end))
        else:
            end = job.ends_by or (job.started or now) + reservation.duration
            holds.append(Hold(reservation.amount, now, max(end, now) + RELEASING))
    for job in snapshot.jobs:
        if not job.state.ended and job.session not in sessions:
            until = None if job.ends_by is None else max(job.ends_by, now) + RELEASING
            holds.append(Hold(Amount(job.cores, job.memory_gib, job.disc_gb, 1), now, until))
    return [*offered.values(), *holds]


def _either(one: Hold, other: Hold) -> Hold:
    ends = [hold.end for hold in (one, other) if hold.end is not None]
    return Hold(one.amount.most(other.amount), min(one.start, other.start), max(ends, default=None))


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values into a template that names them as ``${name}``."""
    return re.sub(r"\$\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


@dataclass(frozen=True)
class Reason:
    """Why there is no offer: a template and its values, among them limit, asked and left where they apply."""

    kind: str
    template: str
    values: Mapping[str, str]

    @property
    def message(self) -> str:
        """The template with its values in place."""
        return fill(self.template, self.values)


@dataclass(frozen=True)
class Demand:
    """What a request asks for, in our units."""

    minimum: Amount
    maximum: Amount
    duration: timedelta | None = None
    start: Interval | None = None
    cost_maxima: Mapping[str, float] = field(default_factory=dict)
    """By the name that the configuration uses; a name that it does not use cannot be promised."""
    metric_minima: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Offer:
    """What can be promised: an amount for a duration, from some instant of an interval on."""

    amount: Amount
    start: Interval
    """The job starts at the beginning, or as much later as the offer is accepted later."""
    duration: timedelta
    expires: datetime
    reserved: Interval
    """What the offer keeps from others: from submission at the earliest to release at the latest."""
    costs: Mapping[str, float]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Quote:
    """Offers, the earliest first; where there are none, all reasons."""

    offers: tuple[Offer, ...] = ()
    reasons: tuple[Reason, ...] = ()


class Profile:
    """What is free over time."""

    def __init__(self, total: Amount, holds: Iterable[Hold], since: datetime) -> None:
        changes: dict[datetime, Amount] = {since: Amount()}
        for hold in holds:
            start = max(hold.start, since)
            if hold.end is not None and hold.end <= start:
                continue
            changes[start] = changes.get(start, Amount()) + hold.amount
            if hold.end is not None:
                changes[hold.end] = changes.get(hold.end, Amount()) - hold.amount
        self._times = sorted(changes)
        self._free: list[Amount] = []
        free = total
        for time in self._times:
            free = free - changes[time]
            self._free.append(free)

    def _segments(self, start: datetime, end: datetime) -> range:
        first = max(bisect.bisect_right(self._times, start) - 1, 0)
        return range(first, max(bisect.bisect_left(self._times, end), first + 1))

    def least_free(self, start: datetime, end: datetime) -> Amount:
        """What is free all the time from `start` until before `end`."""
        segments = self._segments(start, end)
        least = self._free[segments[0]]
        for segment in segments[1:]:
            least = least.least(self._free[segment])
        return least

    def blocked_until(self, amount: Amount, start: datetime, end: datetime) -> datetime | None:
        """When the last time between `start` and `end` that has no room for the amount is over.

        Returns `start` where there is room all the time, and None where there will never be.
        """
        for segment in reversed(self._segments(start, end)):
            if not amount.fits(self._free[segment]):
                return self._times[segment + 1] if segment + 1 < len(self._times) else None
        return start

    def changes(self, start: datetime, end: datetime) -> list[datetime]:
        """The instants after `start` and not after `end` at which something changes."""
        return self._times[bisect.bisect_right(self._times, start) : bisect.bisect_right(self._times, end)]


def cost_of(price: float, cores: int, duration: timedelta) -> float:
    """What so many cores cost for so long, the price being per core-hour."""
    return round(price * cores * (duration / timedelta(hours=1)), 9)


def quote(config: PlannerConfig, demand: Demand, holds: Iterable[Hold], now: datetime) -> Quote:
    """Make offers: the earliest with the minimum, then the largest at that start where it is another one."""
    duration = demand.duration or min(timedelta(hours=1), config.limits.walltime)
    reasons = [*_above_limits(config, demand, duration), *_beyond_price(config, demand, duration)]
    asked = demand.start or Interval(now, now + PREPARING + config.offers.start_window)
    earliest = max(asked.start, now + PREPARING)
    if earliest > asked.end:
        reasons.append(_too_late(config, asked, now))
        return Quote(reasons=tuple(reasons))

    quota = Amount(config.quota.cores, config.quota.memory_gib, config.quota.disc_gb, config.limits.jobs)
    profile = Profile(quota, holds, now)
    # Accepted at the last moment, the job starts that much later; it must still start inside the asked window.
    expires = min(now + config.offers.expire_after, asked.end - PREPARING)
    slots = _Slots(profile, duration, expires, asked.end)
    start = slots.earliest(demand.minimum, earliest)
    if start is None:
        reasons.extend(_no_room(config, demand.minimum, slots, earliest, quota))
    if reasons or start is None:
        return Quote(reasons=tuple(reasons))

    largest = _largest(config, demand, duration, slots.free(start))
    amounts = [demand.minimum] if largest == demand.minimum else [demand.minimum, largest]
    return Quote(offers=tuple(slots.offer(config, amount, start) for amount in amounts))


@dataclass(frozen=True)
class _Slots:
    """The slots that a job of one duration could have."""

    profile: Profile
    duration: timedelta
    expires: datetime
    latest: datetime

    def reserved(self, start: datetime) -> Interval:
        return Interval(start - PREPARING, self.starts(start).end + self.duration + RELEASING)

    def starts(self, start: datetime) -> Interval:
        return Interval(start, max(start, self.expires + PREPARING))

    def earliest(self, amount: Amount, start: datetime) -> datetime | None:
        """Find the earliest start, from `start` on, with room for the amount all the time.

        A later start only loses the front of the reserved time and gains at its end, so the next one worth
        a look is where the last blocked time is over.
        """
        while start <= self.latest:
            reserved = self.reserved(start)
            free_from = self.profile.blocked_until(amount, reserved.start, reserved.end)
            if free_from is None:
                return None
            if free_from == reserved.start:
                return start
            start = free_from + PREPARING
        return None

    def free(self, start: datetime) -> Amount:
        reserved = self.reserved(start)
        return self.profile.least_free(reserved.start, reserved.end)

    def best_left(self, start: datetime) -> Sequence[Amount]:
        """What is free at each start that could be the best."""
        ends = self.profile.changes(start - PREPARING, self.latest - PREPARING)
        return [self.free(each) for each in [start, *(end + PREPARING for end in ends)]]

    def offer(self, config: PlannerConfig, amount: Amount, start: datetime) -> Offer:
        return Offer(
            amount=amount,
            start=self.starts(start),
            duration=self.duration,
            expires=self.expires,
            reserved=self.reserved(start),
            costs={name: cost_of(price, amount.cores, self.duration) for name, price in config.costs.items()},
            metrics=dict(config.metrics),
        )


def _largest(config: PlannerConfig, demand: Demand, duration: timedelta, free: Amount) -> Amount:
    allowed = Amount(config.limits.cores, config.limits.memory_gib, config.quota.disc_gb, 1)
    largest = demand.maximum.least(allowed).least(free).most(demand.minimum)
    cores = largest.cores
    for name, maximum in demand.cost_maxima.items():
        price = config.costs[name]
        if cost_of(price, cores, duration) > maximum:
            cores = min(cores, math.floor(maximum / cost_of(price, 1, duration)) + 1)
            while cost_of(price, cores, duration) > maximum:
                cores -= 1
    return Amount(max(cores, demand.minimum.cores), largest.memory_gib, largest.disc_gb, 1)


def refusal(config: PlannerConfig, kind: str, template: str, /, **values: object) -> Reason:
    """A reason of this planner; the template names its values as ``${name}``."""
    texts = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    return Reason(f"urn:caesar:planner:{kind}", "${platform}: " + template, {"platform": config.name, **texts})


def _above_limits(config: PlannerConfig, demand: Demand, duration: timedelta) -> Iterable[Reason]:
    limits = {
        "cores": config.limits.cores,
        "memory_gib": config.limits.memory_gib,
        "disc_gb": config.quota.disc_gb,
    }
    for resource, limit in limits.items():
        asked = getattr(demand.minimum, resource)
        if asked > limit:
            yield refusal(
                config,
                f"{resource.partition('_')[0]}-limit",
                "${asked} ${resource} asked, one job may have ${limit}",
                resource=_WORDS[resource],
                limit=limit,
                asked=asked,
                left=limit,
            )
    if duration > config.limits.walltime:
        yield refusal(
            config,
            "walltime-limit",
            "${asked} asked, one job may run for ${limit}",
            limit=format_duration(config.limits.walltime),
            asked=format_duration(duration),
            left=format_duration(config.limits.walltime),
        )


def _beyond_price(config: PlannerConfig, demand: Demand, duration: timedelta) -> Iterable[Reason]:
    for name, maximum in demand.cost_maxima.items():
        price = config.costs.get(name)
        if price is None:
            yield refusal(
                config, "cost-unknown", "a limit on the cost ${cost} is asked, which is not known here", cost=name,
                limit="none", asked=maximum, left="none",
            )  # fmt: skip
        elif (cost := cost_of(price, demand.minimum.cores, duration)) > maximum:
            yield refusal(
                config, "cost-limit", "${cost} costs ${limit} at least, at most ${asked} is asked", cost=name,
                limit=cost, asked=maximum, left=cost,
            )  # fmt: skip
    for name, minimum in demand.metric_minima.items():
        value = config.metrics.get(name)
        if value is None or value < minimum:
            yield refusal(
                config, "metric-limit", "${metric} is ${limit}, at least ${asked} is asked", metric=name,
                limit="not known" if value is None else value, asked=minimum,
                left="none" if value is None else value,
            )  # fmt: skip


def _too_late(config: PlannerConfig, asked: Interval, now: datetime) -> Reason:
    return refusal(
        config, "start", "a start until ${asked} is asked, the earliest possible is ${limit}",
        limit=format_instant(now + PREPARING), asked=format_instant(asked.end), left=format_instant(now + PREPARING),
    )  # fmt: skip


def _no_room(
    config: PlannerConfig, minimum: Amount, slots: _Slots, earliest: datetime, quota: Amount
) -> Iterable[Reason]:
    """Name each resource that alone leaves no slot; where none alone does, those short at the first."""
    frees = slots.best_left(earliest)
    limits = Amount(config.limits.cores, config.limits.memory_gib, quota.disc_gb, quota.jobs)
    lefts = {name: max(getattr(free, name) for free in frees) for name in RESOURCES}
    short = [name for name in RESOURCES if getattr(minimum, name) > lefts[name]]
    if not short:
        lefts = {name: getattr(frees[0], name) for name in RESOURCES}
        short = [name for name in RESOURCES if getattr(minimum, name) > lefts[name]]
    for name in short:
        if getattr(minimum, name) > getattr(limits, name):
            continue  # said already: no job may have that much
        yield refusal(
            config, f"{name.partition('_')[0]}-quota",
            "${asked} ${resource} asked, ${left} of ${limit} left for a start until ${until}",
            resource=_WORDS[name], limit=getattr(quota, name), asked=getattr(minimum, name), left=max(lefts[name], 0),
            until=format_instant(slots.latest),
        )  # fmt: skip
