"""Why a candidate could not win, lost or won, in words for people. Pure."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from math import inf

from planner_app.voter.answers import Demand, Offer, Range, Scored
from planner_app.voter.policy import TIMES, Key, Policy, measure_of_key
from planner_app.voter.text import amount_of_time


def objection(
    offer: Offer, demand: Demand, now: datetime, clock_offset: timedelta | None, tolerance: timedelta
) -> str | None:
    """Say in one line why an offer can not win; None where it can."""
    if clock_offset is not None and abs(clock_offset) > tolerance:
        side = "ahead of" if clock_offset > timedelta(0) else "behind"
        return f"its clock is {amount_of_time(abs(clock_offset))} {side} ours"
    if offer.expires <= now:
        return f"expired {amount_of_time(now - offer.expires)} before it could be accepted"
    if (wrong := _outside(offer.cores, demand.cores)) is not None:
        return f"offers {offer.cores} cores, {wrong} asked"
    if (wrong := _outside(offer.memory_gib, demand.memory_gib)) is not None:
        return f"offers {offer.memory_gib} GiB of memory, {wrong} asked"
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


def _outside(offered: int, asked: Range) -> str | None:
    if offered < asked.min:
        return f"at least {asked.min}"
    if asked.max is not None and offered > asked.max:
        return f"at most {asked.max}"
    return None


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


class Words:
    """Says of candidates why they won or lost against the best one."""

    def __init__(self, policy: Policy, best: Scored, now: datetime) -> None:
        """Take the scores of the best by each criterion of the policy, and its offer."""
        self._keys = [criterion.key for criterion in policy.criteria]
        self._ties = policy.tie_keys
        self._policy = policy
        self._scores, self._best = best
        self._name = self._best.planner
        self._now = now
        # Most criteria are numbers: what is said of those is ready but for the loser's number.
        self._numbers = [self._number(key, theirs) for key, theirs in zip(self._keys, self._scores, strict=True)]
        self._later: dict[Key | None, Callable[[Offer], str]] = {key: self._how_much_later(key) for key in TIMES}

    def _number(self, key: Key | None, theirs: float) -> tuple[str, str, str, Callable[[float], float]] | None:
        """What stands before and after a loser's number, and how that is written; None for times."""
        if key is None:
            return "weighted sum ", f", {self._name} {theirs:.4g}", ".4g", float
        return None if key in TIMES else (f"{key} ", f", {self._name} {abs(theirs):g}", "g", abs)

    def won(self, able: list[Scored]) -> str:
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

    def lost(self, others: Iterable[Scored]) -> Iterator[str]:
        """Say of each what decided against it, and by how much."""
        first, words = self._scores[0], self._numbers[0]
        # Nearly all lose by the first criterion already.
        if words is None:
            later = self._later[self._keys[0]]
            return (later(offer) if scores[0] != first else self._lost(scores, offer) for scores, offer in others)
        before, after, form, size = words
        return (
            before + format(size(ours), form) + after
            if (ours := scores[0]) != first and ours != inf
            else self._lost(scores, offer)
            for scores, offer in others
        )

    def _lost(self, scores: tuple[float, ...], offer: Offer) -> str:
        for theirs, ours, words in zip(self._scores, scores, self._numbers, strict=True):
            if ours != theirs:
                if words is None or ours == inf:
                    break
                before, after, form, size = words
                return before + format(size(ours), form) + after
        keys, index = self._deciding(scores, offer)
        if index is None:
            return "equal to the winner" if offer.planner == self._name else f"equal to {self._name}, first by name"
        key = keys[index]
        if (later := self._later.get(key)) is not None:
            return later(offer)
        if index < len(scores):
            ours, theirs = scores[index], self._scores[index]
        else:
            measure = measure_of_key(keys[index], self._now, self._policy.granularity)  # type: ignore[arg-type]
            ours, theirs = measure([offer, self._best])
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
            ours, theirs = measure([offer, self._best])
            if ours != theirs:
                return keys, index
        return keys, None

    def _how_much_later(self, key: Key) -> Callable[[Offer], str]:
        """Make what says how much later than the best an offer starts or finishes."""
        now, best, name, whole = self._now, self._best, self._name, key is Key.EARLIEST_FINISH
        begins, lasts = max(best.start, now), best.duration
        verb = "finishes" if whole else "starts"
        told: dict[timedelta, str] = {}  # the same amount comes many times

        def later(offer: Offer) -> str:
            start = offer.start
            behind = (start if start > now else now) - begins
            if whole:
                behind += offer.duration - lasts
            words = told.get(behind)
            if words is None:
                words = told[behind] = f"{verb} {amount_of_time(behind)} later than {name}"
            return words

        return later


def _unstated(key: Key | None, policy: Policy, index: int) -> str:
    return key.value if key is not None else str(policy.criteria[index])
