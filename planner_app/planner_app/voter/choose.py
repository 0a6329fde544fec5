"""The choice between offers: a pure function of policy, demand, answers and the time of the decision.

Nothing here talks to anybody. Hard limits come first: an offer that breaks what was asked can not win, and
its line says why. What is left is ordered by the policy's keys, one after the other (lexicographic), and at
the very end by the planner's name, so that the same answers give the same winner in whatever order they came.

Times are timezone-aware, memory is in GiB, costs and metrics are of the whole session, in the planners' units.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from math import inf
from typing import Self
from uuid import UUID


class Verdict(StrEnum):
    """What a planner's answer came to."""

    OFFERS = "OFFERS"
    NO = "NO"
    """It understood and can not, or will not."""
    REFUSED = "REFUSED"
    """It did not take the request: a 4xx status."""
    TIMEOUT = "TIMEOUT"
    UNREACHABLE = "UNREACHABLE"
    ERROR = "ERROR"
    """A 5xx status."""
    NONSENSE = "NONSENSE"
    """Something that is no answer of the Execution Broker API."""


@dataclass(frozen=True, slots=True)
class Range:
    """From `min` to `max`, both included; no `max` is no upper end."""

    min: int
    max: int | None = None


@dataclass(frozen=True, slots=True)
class Demand:
    """What an offer must meet to be a candidate."""

    cores: Range
    memory_gib: Range
    duration: timedelta
    start: tuple[datetime, datetime] | None = None
    """Earliest and latest start; None for any."""
    max_costs: Mapping[str, float] = field(default_factory=dict)
    min_metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Offer:
    """One offer that could be read."""

    planner: str
    uuid: UUID
    url: str
    cores: int
    memory_gib: int
    start: datetime
    duration: timedelta
    expires: datetime
    costs: Mapping[str, float]
    """The upper end of each, by the last word of its type: monetary, energy, carbon."""
    metrics: Mapping[str, float]
    """The lower end of each, by the last word of its type: compute-performance."""

    @property
    def finish(self) -> datetime:
        """When the time offered is over."""
        return self.start + self.duration


@dataclass(frozen=True, slots=True)
class Unusable:
    """An offer that could not be read, and why; with an id, where it has one, so that it can be rejected."""

    reason: str
    uuid: UUID | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One planner's answer; whatever went wrong is in it, nothing is raised."""

    planner: str
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    offers: tuple[Offer, ...] = ()
    unusable: tuple[Unusable, ...] = ()
    clock_offset: timedelta | None = None
    """How far the planner's clock is ahead of ours, where it said what time it is."""
    elapsed: float = 0.0
    """Seconds from the question to the end of the answer."""


class Key(StrEnum):
    """What candidates can be ordered by."""

    EARLIEST_START = "earliest-start"
    EARLIEST_FINISH = "earliest-finish"
    MONETARY = "monetary"
    ENERGY = "energy"
    CARBON = "carbon"
    PERFORMANCE = "performance"


METRICS = {Key.PERFORMANCE: "compute-performance"}
"""The metric behind a key; more is better. Keys that are neither times nor here are costs of the same name."""

DEFAULT_KEYS = (Key.EARLIEST_FINISH, Key.MONETARY)


@dataclass(frozen=True, slots=True)
class Policy:
    """Keys by falling weight: a later one counts where all before it are equal."""

    keys: tuple[Key, ...] = DEFAULT_KEYS
    granularity: timedelta = timedelta(minutes=1)
    """Starts closer than about this are equal; planners reckon theirs some milliseconds apart."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `default`, a key or several with commas; what they leave open the default keys decide.

        Raises ValueError that names the word and the words there are.
        """
        keys: list[Key] = []
        for word in text.split(","):
            if (stripped := word.strip()) == "default":
                continue
            try:
                keys.append(Key(stripped))
            except ValueError:
                known = ", ".join(["default", *Key])
                raise ValueError(f"no policy {stripped!r}; there are: {known}") from None
        return cls(tuple(dict.fromkeys([*keys, *DEFAULT_KEYS])))

    def __str__(self) -> str:
        return ",".join(self.keys)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One line of the ballot: an offer with its rank, or why it, or its planner, could not win."""

    planner: str
    verdict: Verdict
    rank: int | None
    """1 for the winner; None for what could not win."""
    reason: str
    offer: Offer | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """All candidates, the best first, those that could not win after them by name."""

    candidates: tuple[Candidate, ...]

    @property
    def winner(self) -> Offer | None:
        """The offer of rank 1, if any offer has a rank."""
        return self.candidates[0].offer if self.candidates and self.candidates[0].rank == 1 else None

    @property
    def ranked(self) -> tuple[Offer, ...]:
        """The offers that may be accepted, the best first."""
        return tuple(c.offer for c in self.candidates if c.rank is not None and c.offer is not None)


def objection(
    offer: Offer, demand: Demand, now: datetime, clock_offset: timedelta | None, tolerance: timedelta
) -> str | None:
    """Say in one line why an offer can not win; None where it can."""
    if clock_offset is not None and abs(clock_offset) > tolerance:
        side = "ahead of" if clock_offset > timedelta(0) else "behind"
        return f"its clock is {amount_of_time(abs(clock_offset))} {side} ours"
    if offer.expires <= now:
        return f"expired {amount_of_time(now - offer.expires)} before it could be accepted"
    for what, offered, asked in (
        ("cores", offer.cores, demand.cores),
        ("GiB of memory", offer.memory_gib, demand.memory_gib),
    ):
        if offered < asked.min:
            return f"offers {offered} {what}, at least {asked.min} asked"
        if asked.max is not None and offered > asked.max:
            return f"offers {offered} {what}, at most {asked.max} asked"
    if offer.duration < demand.duration:
        return f"offers {amount_of_time(offer.duration)}, {amount_of_time(demand.duration)} asked"
    if demand.start is not None:
        earliest, latest = demand.start
        if offer.start < earliest - tolerance:
            return f"starts {amount_of_time(earliest - offer.start)} before the time asked for"
        if offer.start > latest + tolerance:
            return f"starts {amount_of_time(offer.start - latest)} after the time asked for"
    for name, most in sorted(demand.max_costs.items()):
        cost = offer.costs.get(name)
        if cost is None:
            return f"states no {name} cost, at most {most:g} asked"
        if cost > most:
            return f"{name} cost is {cost:g}, at most {most:g} asked"
    for name, least in sorted(demand.min_metrics.items()):
        metric = offer.metrics.get(name)
        if metric is None:
            return f"states no {name}, at least {least:g} asked"
        if metric < least:
            return f"{name} is {metric:g}, at least {least:g} asked"
    return None


def value(key: Key, offer: Offer, now: datetime, granularity: timedelta) -> float:
    """Return what an offer counts by a key; less is better, and what is not stated is worst."""
    if key in (Key.EARLIEST_START, Key.EARLIEST_FINISH):
        # What could start before the decision starts at the decision: that is no merit.
        start = round((max(offer.start, now) - now) / granularity) * granularity
        return (start if key is Key.EARLIEST_START else start + offer.duration).total_seconds()
    if (metric := METRICS.get(key)) is not None:
        return -offer.metrics[metric] if metric in offer.metrics else inf
    return offer.costs.get(key.value, inf)


def choose(
    policy: Policy,
    demand: Demand,
    answers: Iterable[Answer],
    now: datetime,
    tolerance: timedelta = timedelta(seconds=5),
) -> Choice:
    """Rank the offers of all answers and say of each candidate, and of each planner without one, why it lost.

    `tolerance` is how far a planner's clock may be from ours.
    """
    able: list[tuple[tuple[float, ...], Offer]] = []
    unable: list[Candidate] = []
    for answer in answers:
        if not answer.offers and not answer.unusable:
            reason = "; ".join(answer.reasons) or "gave no reason"
            unable.append(Candidate(answer.planner, answer.verdict, None, reason))
        unable.extend(Candidate(answer.planner, answer.verdict, None, bad.reason) for bad in answer.unusable)
        for offer in answer.offers:
            reason_against = objection(offer, demand, now, answer.clock_offset, tolerance)
            if reason_against is None:
                values = tuple(value(key, offer, now, policy.granularity) for key in policy.keys)
                able.append((values, offer))
            else:
                unable.append(Candidate(answer.planner, answer.verdict, None, reason_against, offer))

    able.sort(key=lambda pair: (pair[0], _tie_break(pair[1])))
    unable.sort(key=lambda c: (c.planner, c.offer.uuid.hex if c.offer else "", c.reason))
    ranked = []
    for rank, (values, offer) in enumerate(able, 1):
        if rank > 1:
            reason = _why_lost(policy, able[0], (values, offer), now)
        elif len(able) > 1:
            reason = _why_won(policy, able[0], able[1])
        else:
            reason = "the only one that can"
        ranked.append(Candidate(offer.planner, Verdict.OFFERS, rank, reason, offer))
    return Choice((*ranked, *unable))


def _tie_break(offer: Offer) -> tuple[str, datetime, int, int, str]:
    return (offer.planner, offer.start, offer.cores, offer.memory_gib, offer.uuid.hex)


def _deciding(policy: Policy, one: tuple[float, ...], other: tuple[float, ...]) -> int | None:
    for index in range(len(policy.keys)):
        if one[index] != other[index]:
            return index
    return None


_WON_BY = {
    Key.EARLIEST_START: "starts first",
    Key.EARLIEST_FINISH: "finishes first",
    Key.MONETARY: "cheapest",
    Key.ENERGY: "least energy",
    Key.CARBON: "least carbon",
    Key.PERFORMANCE: "fastest",
}
_EQUAL_IN = {
    Key.EARLIEST_START: "start first",
    Key.EARLIEST_FINISH: "finish first",
    Key.MONETARY: "cost least",
    Key.ENERGY: "need least energy",
    Key.CARBON: "emit least carbon",
    Key.PERFORMANCE: "are fastest",
}


def _why_won(policy: Policy, best: tuple[tuple[float, ...], Offer], second: tuple[tuple[float, ...], Offer]) -> str:
    index = _deciding(policy, best[0], second[0])
    if index is None:
        return "first by name of equals"
    before = [_EQUAL_IN[key] for key in policy.keys[:index]]
    return _WON_BY[policy.keys[index]] + (f" of those that {' and '.join(before)}" if before else "")


def _why_lost(
    policy: Policy, best: tuple[tuple[float, ...], Offer], loser: tuple[tuple[float, ...], Offer], now: datetime
) -> str:
    winner, name = best[1], best[1].planner
    index = _deciding(policy, best[0], loser[0])
    if index is None:
        return "equal to the winner" if loser[1].planner == name else f"equal to {name}, which is first by name"
    key = policy.keys[index]
    if key in (Key.EARLIEST_START, Key.EARLIEST_FINISH):
        behind = loser[1].start - max(winner.start, now)
        if key is Key.EARLIEST_FINISH:
            behind += loser[1].duration - winner.duration
        verb = "starts" if key is Key.EARLIEST_START else "finishes"
        return f"{verb} {amount_of_time(behind)} later than {name}"
    ours, theirs = loser[0][index], best[0][index]
    if ours == inf:
        return f"states no {key}, {name} does"
    return f"{key} {abs(ours):g}, {name} {abs(theirs):g}"


def amount_of_time(duration: timedelta) -> str:
    """Write a length of time as people say it: 40 s, 12 min, 3 h 20 min, 2 d."""
    seconds = round(duration.total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"
