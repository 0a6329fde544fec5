"""What is kept and shown of a ballot, as plain values. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from math import isfinite
from typing import Any

from planner_app.execution_broker.times import format_duration, format_instant, parse_duration, parse_instant
from planner_app.voter.answers import Answer, Candidate, Choice, Demand, Offer, Range, Verdict
from planner_app.voter.ballots import Fate, HeldOffer, State, now_text
from planner_app.voter.policy import METRICS, TIMES, Key, Policy

KEPT_HISTORY = 100


def ms(seconds: float) -> float:
    """Write seconds as milliseconds."""
    return round(seconds * 1000, 1)


def note(document: dict[str, Any], phase: str, message: str = "") -> None:
    """Add a line to a ballot's history."""
    history = document["history"]
    history.append({"time": now_text(), "phase": str(phase), "message": message})
    del history[:-KEPT_HISTORY]


def ballot_document(
    ballot: str,
    state: State,
    document: Mapping[str, Any],
    phase: str | None = None,
    winner: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Put a ballot together as `Ballots.get` gives it."""
    return {"id": ballot, "state": state, "phase": phase, "winner": winner} | dict(document)


def bare(ballot: Mapping[str, Any]) -> dict[str, Any]:
    """Take off a ballot what its row has columns for; the history may then be added to."""
    bare = {key: value for key, value in ballot.items() if key not in ("id", "state", "phase", "winner")}
    return bare | {"history": list(ballot["history"])}


def answer_documents(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Say what each planner answered and how long it took, by name."""
    return [
        {
            "planner": answer.planner,
            "verdict": answer.verdict,
            "elapsed_ms": ms(answer.elapsed),
            "offers": len(answer.offers),
            "unusable": [bad.reason for bad in answer.unusable],
            "reasons": list(answer.reasons),
            "clock_offset_ms": None if answer.clock_offset is None else ms(answer.clock_offset.total_seconds()),
            "load": answer.load,
            "excerpt": answer.excerpt,
        }
        for answer in sorted(answers, key=lambda answer: answer.planner)
    ]


def candidate_documents(choice: Choice, answers: Sequence[Answer], policy: Policy) -> list[dict[str, Any]]:
    """Say of each candidate what it offered, what that counts and why it lost or won, the best first."""
    by_planner = {answer.planner: answer for answer in answers}
    names = [str(criterion) for criterion in policy.criteria]
    return [_candidate(candidate, by_planner[candidate.planner], names) for candidate in choice.candidates]


def _candidate(candidate: Candidate, answer: Answer, criteria: Sequence[str]) -> dict[str, Any]:
    offer = candidate.offer
    document: dict[str, Any] = {
        "planner": candidate.planner,
        "verdict": candidate.verdict,
        "rank": candidate.rank,
        "chosen": candidate.rank == 1,
        "reason": candidate.reason,
        "elapsed_ms": ms(answer.elapsed),
        # Less is better; what a planner did not state is null.
        "scores": {
            name: round(score, 9) if isfinite(score) else None
            for name, score in zip(criteria, candidate.scores, strict=False)
        },
        "offer": None,
    }
    if offer is not None:
        document["offer"] = {
            "session": offer.uuid,
            "url": offer.url,
            "cores": offer.cores,
            "memory_gib": offer.memory_gib,
            "start": format_instant(offer.start),
            "duration": format_duration(offer.duration),
            "expires": format_instant(offer.expires),
            "costs": dict(offer.costs),
            "metrics": dict(offer.metrics),
            "load": offer.load,
        }
    return document


def costs_of(document: Mapping[str, Any], offer: HeldOffer) -> dict[str, float]:
    """Find what an offer costs, in the candidates."""
    for candidate in document["candidates"]:
        if candidate["planner"] == offer.planner and (candidate["offer"] or {}).get("session") == offer.session:
            return dict(candidate["offer"]["costs"])
    return {}


def references(demand: Demand) -> dict[Key, float]:
    """Say what counts as one in a weighted sum, as far as what was asked tells it."""
    found: dict[Key, float] = dict.fromkeys(TIMES, demand.duration.total_seconds())
    for key in Key:
        limit = demand.min_metrics.get(METRICS[key]) if key in METRICS else demand.max_costs.get(key)
        if limit:
            found[key] = limit
    return found


def mark(document: dict[str, Any], offer: HeldOffer, *, chosen: bool = False, lost: str = "") -> None:
    """Write into the candidates what became of an offer when it was to be accepted."""
    for candidate in document["candidates"]:
        if candidate["offer"] is not None and candidate["offer"]["session"] == offer.session:
            if candidate["planner"] != offer.planner:
                continue
            candidate["chosen"] = chosen
            if lost:
                candidate["reason"] = lost
            elif candidate["rank"] != 1:
                candidate["reason"] = f"taken after the better ones were lost; {candidate['reason']}"


def fates(
    choice: Choice, answers: Sequence[Answer], *, keep: bool
) -> list[tuple[str, str, int | None, datetime | None, Fate]]:
    """Say what is to become of every offer that has an id."""
    rows: list[tuple[str, str, int | None, datetime | None, Fate]] = []
    for candidate in choice.candidates:
        if (offer := candidate.offer) is not None:
            fate = Fate.HELD if keep and candidate.rank is not None else Fate.TO_REJECT
            rows.append((offer.planner, offer.uuid, candidate.rank, offer.expires, fate))
    rows.extend(
        (answer.planner, bad.uuid, None, None, Fate.TO_REJECT)
        for answer in answers
        for bad in answer.unusable
        if bad.uuid is not None
    )
    return rows


def summary(choice: Choice, asked: int) -> str:
    """Say in a line how many could, and who would win."""
    winner: Offer | None = choice.winner
    if winner is not None:
        return f"{winner.planner} would win; {len(choice.ranked)} offers can"
    silent = sum(candidate.verdict is not Verdict.NO and candidate.offer is None for candidate in choice.candidates)
    return f"none of {asked} planners can" + (f"; {silent} gave no proper answer" if silent else "")


def demand_document(demand: Demand) -> dict[str, Any]:
    """Write what was asked."""
    return {
        "cores": {"min": demand.cores.min, "max": demand.cores.max},
        "memory_gib": {"min": demand.memory_gib.min, "max": demand.memory_gib.max},
        "duration": format_duration(demand.duration),
        "start": None if demand.start is None else [format_instant(instant) for instant in demand.start],
        "max_costs": dict(demand.max_costs),
        "min_metrics": dict(demand.min_metrics),
    }


def read_demand(document: Mapping[str, Any]) -> Demand:
    """Read what `demand_document` wrote."""
    start = document["start"]
    return Demand(
        cores=Range(**document["cores"]),
        memory_gib=Range(**document["memory_gib"]),
        duration=parse_duration(document["duration"]),
        start=None if start is None else (parse_instant(start[0]), parse_instant(start[1])),
        max_costs=document["max_costs"],
        min_metrics=document["min_metrics"],
    )
