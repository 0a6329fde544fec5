"""Why a ballot went as it did: from all that is kept of it, what there is to know. Pure."""

from collections.abc import Mapping
from typing import Any

_VERDICTS = {
    "OFFERS": "unfit",
    "NO": "no",
    "REFUSED": "refused",
    "TIMEOUT": "no answer",
    "UNREACHABLE": "down",
    "ERROR": "error",
    "NONSENSE": "nonsense",
}
_FAULTS = frozenset({"REFUSED", "TIMEOUT", "UNREACHABLE", "ERROR", "NONSENSE"})


def explain(ballot: Mapping[str, Any]) -> dict[str, Any]:
    """Say who won and why, what each candidate counted, what was wrong with whom, and what became of it."""
    candidates = [
        {
            "planner": candidate["planner"],
            "rank": candidate["rank"],
            "chosen": candidate["chosen"],
            "session": (candidate["offer"] or {}).get("session"),
            "scores": candidate.get("scores", {}),
            "reason": candidate["reason"],
        }
        for candidate in ballot["candidates"]
    ]
    answers = ballot.get("answers", [])
    return {
        "ballot": ballot["id"],
        "trace": ballot.get("trace"),
        "user": ballot.get("user"),
        "job": ballot.get("job"),
        "policy": ballot["policy"],
        "criteria": ballot.get("criteria", ballot["policy"].split(",")),
        "winner": ballot["winner"],
        "reason": next((each["reason"] for each in candidates if each["chosen"]), ballot["message"]),
        "candidates": candidates,
        "answers": answers,
        "faults": [
            {
                "planner": answer["planner"],
                "verdict": answer["verdict"],
                "reasons": [*answer["reasons"], *answer["unusable"]],
                "excerpt": answer["excerpt"],
            }
            for answer in answers
            if answer["verdict"] in _FAULTS or answer["unusable"]
        ],
        "became": {
            "state": ballot["state"],
            "phase": ballot["phase"],
            "message": ballot["message"],
            "started": ballot.get("started"),
            "ended": ballot.get("ended"),
        },
        "timings": ballot["timings"],
        "history": ballot["history"],
    }


def verdict_of(candidate: Mapping[str, Any], accepted: bool) -> str:
    """Say in one word what became of a candidate; without acceptance the winner is the best, not the chosen."""
    if candidate["chosen"]:
        return "chosen" if accepted else "best"
    if candidate["rank"] is None:
        return _VERDICTS.get(candidate["verdict"], "?")
    return "lost" if candidate["rank"] == 1 else "can"
