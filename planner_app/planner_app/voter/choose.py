"""The choice between offers: a pure function of policy, demand, answers and the time of the decision.

Nothing here talks to anybody. Hard limits come first: an offer that breaks what was asked can not win, and
its line says why. What is left is ordered by the policy's criteria, one after the other (lexicographic), then by
all other keys, and at the very end by the planner's name, so that the same answers give the same winner in
whatever order they came, and nobody wins who is no better in anything and worse in something.

Times are timezone-aware, memory is in GiB, costs and metrics are of the whole session, in the planners' units.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import chain, count, pairwise, repeat
from math import inf
from operator import itemgetter

from planner_app.voter.answers import Answer, Candidate, Choice, Demand, Offer, Scored, Verdict
from planner_app.voter.policy import Measure, Policy, measure_of_key, weigh
from planner_app.voter.reasons import Words, objection

_candidate = partial(tuple.__new__, Candidate)
"""Makes a candidate of all its fields in order."""


def _fitting(demand: Demand, now: datetime, tolerance: timedelta, offers: Iterable[Offer]) -> list[Offer]:
    """Give the offers that break no limit; `objection` says of the others which one. One limit after the other."""
    least_cores, most_cores = demand.cores.min, inf if demand.cores.max is None else demand.cores.max
    least_memory, most_memory = demand.memory_gib.min, inf if demand.memory_gib.max is None else demand.memory_gib.max
    duration = demand.duration
    left = [
        offer
        for offer in offers
        if offer.expires > now
        and least_cores <= offer.cores <= most_cores
        and least_memory <= offer.memory_gib <= most_memory
        and offer.duration >= duration
    ]
    for name, most in [*demand.max_costs.items(), *((budget.cost, budget.left) for budget in demand.budgets)]:
        left = [offer for offer in left if offer.costs.get(name, inf) <= most]
    for name, least in demand.min_metrics.items():
        left = [offer for offer in left if offer.metrics.get(name, -inf) >= least]
    if demand.start is not None:
        earliest, latest = demand.start[0] - tolerance, demand.start[1] + tolerance
        left = [offer for offer in left if earliest <= offer.start <= latest]
    return left


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
    answers = list(answers)
    in_time = [offer for answer in answers if not _is_off(answer, tolerance) for offer in answer.offers]
    fitting = _fitting(demand, now, tolerance, in_time)
    fit = set(map(id, fitting))
    unable: list[Candidate] = []
    for answer in answers:
        planner, verdict, offset = answer.planner, answer.verdict, answer.clock_offset
        if not answer.offers and not answer.unusable:
            unable.append(Candidate(planner, verdict, None, "; ".join(answer.reasons) or "gave no reason"))
        unable.extend(Candidate(planner, verdict, None, bad.reason) for bad in answer.unusable)
        for offer in answer.offers:
            if id(offer) not in fit:
                reason = objection(offer, demand, now, offset, tolerance) or "does not fit"
                unable.append(_candidate((planner, verdict, None, reason, offer, ())))

    unable.sort(key=lambda c: (c.planner, c.offer.uuid if c.offer else "", c.reason))
    if not fitting:
        return Choice(tuple(unable))
    measured = {key: measure_of_key(key, now, policy.granularity)(fitting) for key in policy.keys}
    scores = zip(*(weigh(criterion, measured) for criterion in policy.criteria), strict=True)
    able = _ordered(policy, list(zip(scores, fitting, strict=True)), now)
    why = Words(policy, able[0], now)
    # Made at once in C: most of what a choice between thousands makes are candidates.
    ranked = map(
        _candidate,
        zip(
            [offer.planner for _, offer in able],
            repeat(Verdict.OFFERS),
            count(1),
            chain([why.won(able)], why.lost(able[1:])),
            [offer for _, offer in able],
            [scores for scores, _ in able],
            strict=False,  # two of them never end
        ),
    )
    return Choice((*ranked, *unable))


def _is_off(answer: Answer, tolerance: timedelta) -> bool:
    return answer.clock_offset is not None and abs(answer.clock_offset) > tolerance


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
            first = measures[0]([offer for _, offer in run])
            found = sorted(zip(first, run, strict=True), key=itemgetter(0))
            able[begin:end] = _without_ties([pair for _, pair in found], [value for value, _ in found], measures[1:])
        else:
            able[begin:end] = sorted(run, key=lambda pair: _by_name(pair[1]))
    return able


def _by_name(offer: Offer) -> tuple[str, datetime, int, int, str]:
    return (offer.planner, offer.start, offer.cores, offer.memory_gib, offer.uuid)
