"""The choice between offers: a pure function of policy, demand, answers and the time of the decision.

Nothing here talks to anybody. Hard limits come first: an offer that breaks what was asked can not win, and
its line says why. What is left is ordered by the policy's criteria, one after the other (lexicographic), then by
all other keys, and at the very end by the planner's name, so that the same answers give the same winner in
whatever order they came, and nobody wins who is no better in anything and worse in something.

Times are timezone-aware, memory is in GiB, costs and metrics are of the whole session, in the planners' units.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from math import inf
from operator import itemgetter
from typing import NamedTuple
from uuid import UUID

from planner_app.voter.policy import TIMES, Key, Measure, Policy, measure_of, measure_of_key
from planner_app.voter.text import amount_of_time


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
    budgets: tuple["Left", ...] = ()
    """What the user may still spend."""


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a budget."""

    cost: str
    left: float
    budget: str
    """The budget in words: `10 of lee in 1 d`."""


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
    load: float | None = None
    """The share of the platform's quota that was taken before the question; None where nobody asked or said."""

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
    load: float | None = None
    """As the offers have it."""
    excerpt: str = ""
    """The beginning of what it said, where that was nonsense."""


class Candidate(NamedTuple):
    """One line of the ballot: an offer with its rank, or why it, or its planner, could not win."""

    planner: str
    verdict: Verdict
    rank: int | None
    """1 for the winner; None for what could not win."""
    reason: str
    offer: Offer | None = None
    scores: tuple[float, ...] = ()
    """What it counts by each criterion of the policy, less being better; empty for what could not win."""


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
    for budget in demand.budgets:
        cost = offer.costs.get(budget.cost)
        if cost is None:
            return f"states no {budget.cost} cost, which is to come out of a budget of {budget.budget}"
        if cost > budget.left:
            return f"{budget.cost} cost is {cost:g}, {max(budget.left, 0):g} is left of {budget.budget}"
    return None


_Scored = tuple[tuple[float, ...], Offer]


def _fits(demand: Demand, now: datetime, tolerance: timedelta) -> Callable[[Offer], bool]:
    """Make the quick test whether an offer breaks no limit; `objection` says of the others which one."""
    least_cores, most_cores = demand.cores.min, inf if demand.cores.max is None else demand.cores.max
    least_memory, most_memory = demand.memory_gib.min, inf if demand.memory_gib.max is None else demand.memory_gib.max
    duration = demand.duration
    earliest, latest = demand.start or (None, None)
    costs = [*demand.max_costs.items(), *((budget.cost, budget.left) for budget in demand.budgets)]
    metrics = list(demand.min_metrics.items())

    def fits(offer: Offer) -> bool:
        if (
            offer.expires <= now
            or not least_cores <= offer.cores <= most_cores
            or not least_memory <= offer.memory_gib <= most_memory
            or offer.duration < duration
        ):
            return False
        for name, most in costs:
            if offer.costs.get(name, inf) > most:
                return False
        for name, least in metrics:
            if offer.metrics.get(name, -inf) < least:
                return False
        return earliest is None or latest is None or earliest - tolerance <= offer.start <= latest + tolerance

    return fits


def choose(
    policy: Policy,
    demand: Demand,
    answers: Iterable[Answer],
    now: datetime,
    tolerance: timedelta = timedelta(seconds=5),
) -> Choice:
    """Rank the offers of all answers and say of each candidate, and of each planner without one, why it lost.

    `tolerance` is how far a planner's clock may be from ours. Sums whose references are not filled in yet (see
    `Policy.with_references`) count in plain units.
    """
    able: list[_Scored] = []
    unable: list[Candidate] = []
    measures = [measure_of(criterion, now, policy.granularity) for criterion in policy.criteria]
    fits = _fits(demand, now, tolerance)
    for answer in answers:
        if not answer.offers and not answer.unusable:
            reason = "; ".join(answer.reasons) or "gave no reason"
            unable.append(Candidate(answer.planner, answer.verdict, None, reason))
        unable.extend(Candidate(answer.planner, answer.verdict, None, bad.reason) for bad in answer.unusable)
        off = answer.clock_offset is not None and abs(answer.clock_offset) > tolerance
        for offer in answer.offers:
            if not off and fits(offer):
                able.append((tuple([measure(offer) for measure in measures]), offer))
            else:
                reason = objection(offer, demand, now, answer.clock_offset, tolerance) or "does not fit"
                unable.append(Candidate(answer.planner, answer.verdict, None, reason, offer))

    able = _ordered(policy, able, now)
    unable.sort(key=lambda c: (c.planner, c.offer.uuid.hex if c.offer else "", c.reason))
    ranked: list[Candidate] = []
    if able:
        why = _Words(policy, able[0], now)
        ranked.append(Candidate(able[0][1].planner, Verdict.OFFERS, 1, why.won(able), able[0][1], able[0][0]))
        ranked.extend(
            Candidate(offer.planner, Verdict.OFFERS, rank, why.lost(scores, offer), offer, scores)
            for rank, (scores, offer) in enumerate(able[1:], 2)
        )
    return Choice((*ranked, *unable))


def _ordered(policy: Policy, able: list[_Scored], now: datetime) -> list[_Scored]:
    """Sort by the scores; what breaks ties is only reckoned where there are any."""
    measures = [measure_of_key(key, now, policy.granularity) for key in policy.tie_keys]
    able.sort(key=itemgetter(0))
    return _without_ties(able, [scores for scores, _ in able], measures)


def _without_ties(able: list[_Scored], values: Sequence[object], measures: Sequence[Measure]) -> list[_Scored]:
    """Sort each run of equal values by the measures, one after the other, and at last by name."""
    tied = [index for index, (one, other) in enumerate(pairwise(values)) if one == other]
    done = -1
    for begin in tied:
        if begin < done:
            continue
        end = begin + 1
        while end < len(values) and values[end] == values[begin]:
            end += 1
        done, run = end, able[begin:end]
        if measures:
            first = measures[0]
            found = sorted(((first(offer), (scores, offer)) for scores, offer in run), key=itemgetter(0))
            able[begin:end] = _without_ties([pair for _, pair in found], [value for value, _ in found], measures[1:])
        else:
            able[begin:end] = sorted(run, key=lambda pair: _by_name(pair[1]))
    return able


def _by_name(offer: Offer) -> tuple[str, datetime, int, int, str]:
    return (offer.planner, offer.start, offer.cores, offer.memory_gib, offer.uuid.hex)


_WON_BY = {
    Key.EARLIEST_START: "starts first",
    Key.EARLIEST_FINISH: "finishes first",
    Key.MONETARY: "cheapest",
    Key.ENERGY: "least energy",
    Key.CARBON: "least carbon",
    Key.PERFORMANCE: "fastest",
    Key.LOAD: "least loaded",
    None: "least weighted sum",
}
_EQUAL_IN = {
    Key.EARLIEST_START: "start first",
    Key.EARLIEST_FINISH: "finish first",
    Key.MONETARY: "cost least",
    Key.ENERGY: "need least energy",
    Key.CARBON: "emit least carbon",
    Key.PERFORMANCE: "are fastest",
    Key.LOAD: "are least loaded",
    None: "have the least weighted sum",
}


class _Words:
    """Says of candidates why they won or lost against the best one."""

    def __init__(self, policy: Policy, best: _Scored, now: datetime) -> None:
        self._keys = [criterion.key for criterion in policy.criteria]
        self._ties = policy.tie_keys
        self._policy = policy
        self._scores, self._best = best
        self._name = self._best.planner
        self._now = now
        # Most criteria are numbers: what is said of those is ready but for the loser's number.
        self._numbers = [self._number(key, theirs) for key, theirs in zip(self._keys, self._scores, strict=True)]
        self._behind: dict[tuple[Key | None, timedelta], str] = {}

    def _number(self, key: Key | None, theirs: float) -> tuple[str, str, str] | None:
        """What stands before and after a loser's number, and how that is written; None for times."""
        if key is None:
            return "weighted sum ", f", {self._name} {theirs:.4g}", ".4g"
        return None if key in TIMES else (f"{key} ", f", {self._name} {abs(theirs):g}", "g")

    def won(self, able: list[_Scored]) -> str:
        """Say why the first of all is the first."""
        if len(able) == 1:
            return "the only one that can"
        keys, index = self._deciding(*able[1])
        if index is None:
            return "first by name of equals"
        before = [_EQUAL_IN[key] for key in keys[:index]]
        # What breaks ties is far down the list: what is equal before it is not told one by one.
        equal = "that are equal before" if index >= len(self._keys) else f"that {' and '.join(before)}"
        return _WON_BY[keys[index]] + (f" of those {equal}" if before else "")

    def lost(self, scores: tuple[float, ...], offer: Offer) -> str:
        """Say what decided against an offer, and by how much."""
        for theirs, ours, words in zip(self._scores, scores, self._numbers, strict=True):
            if ours != theirs:
                if words is None or ours == inf:
                    break
                before, after, form = words
                return before + format(ours if form == ".4g" else abs(ours), form) + after
        keys, index = self._deciding(scores, offer)
        if index is None:
            return "equal to the winner" if offer.planner == self._name else f"equal to {self._name}, first by name"
        key = keys[index]
        if key in TIMES:
            return self._later(key, offer)
        if index < len(scores):
            ours, theirs = scores[index], self._scores[index]
        else:
            measure = measure_of_key(keys[index], self._now, self._policy.granularity)  # type: ignore[arg-type]
            ours, theirs = measure(offer), measure(self._best)
        if ours == inf:
            return f"states no {_unstated(key, self._policy, index)}, {self._name} does"
        if key is None:
            return f"weighted sum {ours:.4g}, {self._name} {theirs:.4g}"
        return f"{key} {abs(ours):g}, {self._name} {abs(theirs):g}"

    def _deciding(self, scores: tuple[float, ...], offer: Offer) -> tuple[list[Key | None], int | None]:
        """Find the first criterion in which an offer differs from the best; after all of them, the tie's keys."""
        for index, score in enumerate(scores):
            if score != self._scores[index]:
                return self._keys, index
        keys = [*self._keys, *self._ties]
        for index, key in enumerate(self._ties, len(scores)):
            measure = measure_of_key(key, self._now, self._policy.granularity)
            if measure(offer) != measure(self._best):
                return keys, index
        return keys, None

    def _later(self, key: Key | None, offer: Offer) -> str:
        start, best = offer.start, self._best.start
        behind = (start if start > self._now else self._now) - (best if best > self._now else self._now)
        if key is Key.EARLIEST_FINISH:
            behind += offer.duration - self._best.duration
        if (told := self._behind.get((key, behind))) is None:
            verb = "starts" if key is Key.EARLIEST_START else "finishes"
            told = self._behind[key, behind] = f"{verb} {amount_of_time(behind)} later than {self._name}"
        return told


def _unstated(key: Key | None, policy: Policy, index: int) -> str:
    return key.value if key is not None else str(policy.criteria[index])
