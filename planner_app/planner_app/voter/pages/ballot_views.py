"""What the pages of the ballots show. Pure."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from planner_app.voter.ballots import State
from planner_app.voter.explain import verdict_of
from planner_app.voter.pages import words
from planner_app.voter.pages.words import NOTHING, instant, mapping, number
from planner_app.voter.text import amount_of_time

_SIGNS = {"chosen": "✓", "best": "✓", "can": "○", "lost": "✗", "no": "✗", "unfit": "✗"}
_MEANINGS = {
    "chosen": "chosen",
    "best": "would win",
    "can": "could have run it",
    "lost": "lost after it was chosen",
    "no": "cannot run it",
    "unfit": "does not fit",
    "no answer": "did not answer in time",
    "down": "not reachable",
    "error": "answered an error",
    "nonsense": "answered nonsense",
    "refused": "refused the question",
}


def row(ballot: Mapping[str, Any]) -> dict[str, Any]:
    """Say what a list shows of a ballot."""
    timings = ballot["timings"]
    return {
        "id": ballot["id"],
        "short": ballot["id"][:8],
        "created": instant(ballot["created"]),
        "app": ballot["app"],
        "user": words.text(ballot.get("user") or ballot["client"], 60),
        "state": words.state(ballot),
        "platform": ballot["winner"]["planner"] if ballot["winner"] else "",
        "why": words.text(ballot.get("trouble") or _why(ballot), 140),
        "took": words.seconds(timings["total_ms"] / 1000) if "total_ms" in timings else "",
        "job": mapping(ballot.get("job")).get("id"),
    }


def _why(ballot: Mapping[str, Any]) -> str:
    if ballot["winner"] and ballot["state"] in (State.RUNNING, State.COMPLETED):
        return next((str(each["reason"]) for each in ballot["candidates"] if each["chosen"]), ballot["message"])
    return str(ballot["message"])


def ballot_view(ballot: Mapping[str, Any]) -> dict[str, Any]:
    """Say what the page of one ballot shows."""
    asked = instant(ballot["created"])
    criteria = ballot.get("criteria", [])
    cards = [_card(candidate, ballot, criteria) for candidate in ballot["candidates"]]
    slowest = max((answer["elapsed_ms"] for answer in ballot["answers"]), default=0) or 1
    answers = [
        {
            "planner": answer["planner"],
            "verdict": _MEANINGS.get(_answered(answer["verdict"]), _answered(answer["verdict"])),
            "offers": answer["offers"],
            "took": words.seconds(answer["elapsed_ms"] / 1000),
            "share": max(1, round(100 * answer["elapsed_ms"] / slowest)),
            "faults": [words.text(fault) for fault in answer["unusable"]],
            "said": words.text(answer["excerpt"] or "", 120),
        }
        for answer in ballot["answers"]
    ]
    return row(ballot) | {
        "demand": words.demand(ballot),
        "policy": words.text(ballot["policy"]),
        "only": ballot["only"],
        "trace": ballot.get("trace") or "",
        "message": words.text(ballot["message"]),
        "trouble": words.text(ballot.get("trouble") or ""),
        "live": not State(ballot["state"]).ended,
        "asked": asked,
        "chosen": next((card for card in cards if card["chosen"]), None),
        "cards": cards,
        "answers": answers,
        "history": history(ballot),
        "has_job": ballot["winner"] is not None,
    }


def _answered(verdict: str) -> str:
    return {"OFFERS": "offered", "NO": "no"}.get(verdict) or {
        "TIMEOUT": "no answer",
        "UNREACHABLE": "down",
        "ERROR": "error",
        "NONSENSE": "nonsense",
        "REFUSED": "refused",
    }.get(verdict, verdict.lower())


def _card(candidate: Mapping[str, Any], ballot: Mapping[str, Any], criteria: Sequence[str]) -> dict[str, Any]:
    verdict = verdict_of(candidate, ballot["winner"] is not None)
    offer = candidate["offer"]
    facts: list[tuple[str, str]] = []
    if offer is not None:
        costs, metrics = mapping(offer["costs"]), mapping(offer["metrics"])
        facts = [
            ("cores", str(offer["cores"])),
            ("memory", f"{offer['memory_gib']} GiB"),
            ("starts", _start(offer["start"], ballot["created"])),
            ("runs", words.duration(offer["duration"])),
            ("cost", number(costs.get("monetary"))),
            ("carbon", number(costs.get("carbon"))),
            ("energy", number(costs.get("energy"))),
            ("speed", number(metrics.get("compute-performance"))),
        ]
    return {
        "planner": candidate["planner"],
        "rank": candidate["rank"],
        "chosen": candidate["chosen"],
        "kind": "won" if candidate["chosen"] else "could" if candidate["rank"] else "out",
        "sign": _SIGNS.get(verdict, "✗"),
        "verdict": _MEANINGS.get(verdict, verdict),
        "reason": words.text(candidate["reason"]),
        "took": words.seconds(candidate["elapsed_ms"] / 1000),
        "facts": [(name, value) for name, value in facts if value != NOTHING],
        "scores": [
            (words.text(name, 60), words.score(name, candidate.get("scores", {}).get(name)))
            for name in criteria
            if candidate.get("scores")
        ],
    }


def _start(start: str, asked: str) -> str:
    first, question = instant(start), instant(asked)
    if first is None or question is None:
        return NOTHING
    delay = first - question
    return "at once" if delay < timedelta(seconds=30) else f"in {amount_of_time(delay)}"


def history(ballot: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write what happened to a ballot, and when."""
    return [
        {
            "time": instant(line["time"]),
            "phase": str(line["phase"]).replace("_", " ").lower(),
            "message": words.text(line["message"]),
        }
        for line in ballot["history"]
    ]
