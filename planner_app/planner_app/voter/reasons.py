"""Why a candidate could not win, lost or won, in words for people. Pure."""

from datetime import datetime, timedelta
from math import inf

from planner_app.voter.answers import Demand, Offer, Scored
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
        self._behind: dict[tuple[Key | None, timedelta], str] = {}

    def _number(self, key: Key | None, theirs: float) -> tuple[str, str, str] | None:
        """What stands before and after a loser's number, and how that is written; None for times."""
        if key is None:
            return "weighted sum ", f", {self._name} {theirs:.4g}", ".4g"
        return None if key in TIMES else (f"{key} ", f", {self._name} {abs(theirs):g}", "g")

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
