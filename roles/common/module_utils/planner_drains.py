"""What it means to drain planners: the file that says so, and how what still runs is told. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

#: What of a long list is told one by one.
SHOWN = 5


def parse(text: str) -> dict[str, Any]:
    """What a planner's file says; one that cannot be read drains too, and says nothing."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def wanted(
    found: Mapping[str, Any] | None,
    *,
    drained: bool,
    by: str,
    since: str,
    reason: str,
    cancel: bool,
    leaving: bool = False,
) -> dict[str, Any] | None:
    """What a planner's file must say; None for no file.

    Who drained it first and when stays: a second run changes nothing, and one that cancels adds just that.

    Args:
        found: what the file says now; None where there is none.
        drained: whether the planner is to be drained.
        by: who asks now.
        since: the time now, ISO 8601.
        reason: why, in the operator's words; empty keeps what was said before.
        cancel: whether what runs is to be cancelled.
        leaving: whether it is drained for no other reason than that it leaves the list.
    """
    if not drained:
        return None
    if found is None:
        return {"by": by, "since": since, "reason": reason, "cancel": cancel, "leaving": leaving}
    kept = dict(found) if leaving else {**found, "reason": reason or found.get("reason", ""), "leaving": False}
    return kept | {"cancel": cancel or found.get("cancel") is True}


def running(live: Mapping[str, Any]) -> list[str]:
    """Name what runs, from a planner's own account of it: its sessions, and jobs of somebody else."""
    told = []
    for session in live.get("sessions") or []:
        job = f", job {session['job']}" if session.get("job") else ""
        told.append(f"session {session['session'][:8]} ({str(session['phase']).lower()}{job})")
    for job in live.get("others") or []:
        until = f" until {job['ends_by']}" if job.get("ends_by") else ""
        told.append(f"job {job['job']} of somebody else ({str(job['state']).lower()}{until})")
    return told


def summary(planners: Mapping[str, Mapping[str, Any]], shown: int = SHOWN) -> str:
    """Name all that runs on several platforms in one line; empty where nothing does."""
    parts = []
    for name, planner in sorted(planners.items()):
        told = running(planner.get("live") or {})
        if told:
            more = f" and {len(told) - shown} more" if len(told) > shown else ""
            parts.append(f"{name}: {', '.join(told[:shown])}{more}")
    return "; ".join(parts)


def silent(planners: Mapping[str, Mapping[str, Any]]) -> str:
    """Name the planners that cannot tell what runs, and why; empty where all can."""
    parts = []
    for name, planner in sorted(planners.items()):
        if not planner.get("answers"):
            parts.append(f"the planner of {name} does not answer ({planner.get('why') or 'no reason known'})")
        elif (planner.get("live") or {}).get("others") is None:
            parts.append(f"the platform of {name} does not answer its planner")
    return "; ".join(parts)


def unknown(asked: Sequence[str], known: Sequence[str]) -> str:
    """Say which of the names are no platforms, and which there are; empty where all are known."""
    strange = [name for name in asked if name not in known]
    there = f"there are {', '.join(known)}" if known else "there is none"
    if not asked:
        return f"say which platform, -e platform=NAME: {there}"
    if strange:
        return f"no platform with a planner is called {' or '.join(strange)}: {there}"
    return ""


def states(planners: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One sentence for each platform: whether it is drained, by whom and since when, and what still runs."""
    told = []
    for name, planner in planners.items():
        drained = planner.get("drained")
        if drained is None:
            said = "makes offers"
        else:
            by = f" by {drained['by']}" if drained.get("by") else ""
            since = f" since {drained['since']}" if drained.get("since") else ""
            said = f"drained{by}{since}" + (f": {drained['reason']}" if drained.get("reason") else "")
        if not planner.get("answers"):
            said += f"; its planner does not answer ({planner.get('why') or 'no reason known'})"
        elif runs := running(planner.get("live") or {}):
            said += "; still there: " + ", ".join(runs)
        elif drained is not None:
            said += "; nothing runs"
        told.append(f"{name} {said}")
    return told
