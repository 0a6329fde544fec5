"""Values as a page writes them. What comes of planners is a stranger's: it may be of any type. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any

from planner_app.execution_broker.times import parse_duration, parse_instant
from planner_app.voter.ballots import State
from planner_app.voter.policy import METRICS, TIMES
from planner_app.voter.text import amount_of_time, one_line

NOTHING = "-"
_SIGNS = {
    State.VOTING: "…",
    State.ACCEPTING: "…",
    State.RUNNING: "▶",
    State.COMPLETED: "✓",
    State.FAILED: "✗",
    State.CANCELLED: "■",
    State.NO_OFFER: "✗",
    State.ASKED: "?",
}


def mapping(value: Any) -> Mapping[str, Any]:
    """Give what is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def whole(value: Any) -> int:
    """Give a number of things; nothing where it is none."""
    return value if type(value) is int and 0 <= value < 10**9 else 0


def number(value: Any) -> str:
    """Write a number with three digits."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return NOTHING
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def text(value: Any, longest: int = 300) -> str:
    """Write in a line what somebody else says."""
    return one_line(str(value), longest)


def duration(value: Any) -> str:
    """Write a length of time given in ISO 8601."""
    try:
        return amount_of_time(parse_duration(str(value)))
    except ValueError:
        return NOTHING


def seconds(value: float) -> str:
    """Write a number of seconds: 85 ms, 4.2 s, 12 min."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.1f} s" if value < 60 else amount_of_time(timedelta(seconds=value))


def instant(value: Any) -> datetime | None:
    """Read a time; None where it is none."""
    try:
        return None if value is None else parse_instant(str(value)).astimezone(UTC)
    except ValueError:
        return None


def state(ballot: Mapping[str, Any]) -> dict[str, str]:
    """Write where a ballot stands: a name for the style, a sign and words, since a colour alone says nothing."""
    name = State(ballot["state"])
    words = name.replace("_", " ").lower()
    if name is State.RUNNING and ballot["phase"] not in (None, "RUNNING"):
        words = str(ballot["phase"]).lower()
    return {"name": name.lower().replace("_", "-"), "sign": _SIGNS[name], "words": words}


def amounts(asked: Mapping[str, Any]) -> str:
    """Write an amount that was asked for: 4, 2 to 8, 2 or more."""
    if asked["max"] is None:
        return f"{asked['min']} or more"
    return str(asked["min"]) if asked["min"] == asked["max"] else f"{asked['min']} to {asked['max']}"


def demand(ballot: Mapping[str, Any]) -> list[str]:
    """Write what was asked for."""
    asked = ballot["demand"]
    cores = amounts(asked["cores"])
    said = [
        f"{cores} core" if cores == "1" else f"{cores} cores",
        f"{amounts(asked['memory_gib'])} GiB",
        duration(asked["duration"]),
    ]
    said += [f"{name} at most {number(most)}" for name, most in asked["max_costs"].items()]
    said += [f"{name} at least {number(least)}" for name, least in asked["min_metrics"].items()]
    return said


def score(criterion: str, value: float | None) -> str:
    """Write what a candidate counts by a criterion."""
    if value is None:
        return NOTHING
    if criterion in TIMES:
        return seconds(max(value, 0.0))
    return number(abs(value) if criterion in METRICS else value)
