"""The choice between offers: a pure function of policy, demand, answers and the time of the decision.

Nothing here talks to anybody. Hard limits come first: an offer that breaks what was asked can not win, and
its line says why. What is left is ordered by the policy's criteria, one after the other (lexicographic), then by
all other keys, and at the very end by the planner's name, so that the same answers give the same winner in
whatever order they came, and nobody wins who is no better in anything and worse in something.

Times are timezone-aware, memory is in GiB, costs and metrics are of the whole session, in the planners' units.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from math import inf
from operator import itemgetter

from planner_app.voter.answers import Answer, Candidate, Choice, Demand, Offer, Scored, Verdict
from planner_app.voter.policy import Measure, Policy, measure_of, measure_of_key
from planner_app.voter.reasons import Words, objection


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
    able: list[Scored] = []
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
    unable.sort(key=lambda c: (c.planner, c.offer.uuid if c.offer else "", c.reason))
    ranked: list[Candidate] = []
    if able:
        why = Words(policy, able[0], now)
        ranked.append(Candidate(able[0][1].planner, Verdict.OFFERS, 1, why.won(able), able[0][1], able[0][0]))
        ranked.extend(
            Candidate(offer.planner, Verdict.OFFERS, rank, why.lost(scores, offer), offer, scores)
            for rank, (scores, offer) in enumerate(able[1:], 2)
        )
    return Choice((*ranked, *unable))


def _ordered(policy: Policy, able: list[Scored], now: datetime) -> list[Scored]:
    """Sort by the scores; what breaks ties is only reckoned where there are any."""
    measures = [measure_of_key(key, now, policy.granularity) for key in policy.tie_keys]
    able.sort(key=itemgetter(0))
    return _without_ties(able, [scores for scores, _ in able], measures)


def _without_ties(able: list[Scored], values: Sequence[object], measures: Sequence[Measure]) -> list[Scored]:
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
    return (offer.planner, offer.start, offer.cores, offer.memory_gib, offer.uuid)
