"""What the page of the platforms shows: what each has and takes, and its use over time. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from planner_app.voter.pages import words
from planner_app.voter.pages.words import duration, instant, mapping, number, whole

BIN = timedelta(minutes=5)
"""Time that one bar stands for."""
PAST, AHEAD = 12, 24
"""Bars before and after this moment."""
_WIDTH, _HEIGHT = 10, 100
"""Of a bar's place, and of the whole quota."""
_RESOURCES = (("cores", "cores", ""), ("memory_gib", "memory", "GiB"), ("disc_gb", "disc", "GB"), ("jobs", "jobs", ""))
_CHARTS = _RESOURCES[:2]


@dataclass(frozen=True, slots=True)
class Taken:
    """An amount that is taken from a moment until before another."""

    start: datetime
    end: datetime
    amounts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar: where it stands, how much of the quota is in use and how much more is promised."""

    left: int
    used: int
    promised: int
    past: bool

    @property
    def top(self) -> int:
        """How far down the whole bar begins."""
        return _HEIGHT - self.used - self.promised


def runs_of(ballots: Iterable[Mapping[str, Any]], now: datetime) -> dict[str, list[Taken]]:
    """Say when the jobs of ballots ran, and with how much, by platform."""
    runs: dict[str, list[Taken]] = {}
    for ballot in ballots:
        start, winner = instant(ballot.get("started")), ballot["winner"]
        if start is None or winner is None:
            continue
        end = instant(ballot.get("ended")) or (now if ballot["state"] == "RUNNING" else start)
        for candidate in ballot["candidates"]:
            offer = mapping(candidate["offer"])
            if candidate["planner"] == winner["planner"] and offer.get("session") == winner["session"]:
                taken = {"cores": whole(offer["cores"]), "memory_gib": whole(offer["memory_gib"]), "jobs": 1}
                runs.setdefault(winner["planner"], []).append(Taken(start, max(end, start), taken))
    return runs


def promised_of(row: Mapping[str, Any], now: datetime) -> list[Taken]:
    """Read what a planner says that is not free from now on; what it says wrongly counts as nothing."""
    found = row.get("ahead")
    steps = [
        (max(moment, now), mapping(step))
        for step in (found if isinstance(found, list) else [])[:1000]
        if (moment := instant(mapping(step).get("from"))) is not None
    ]
    for_good = now + timedelta(days=3650)
    ends = [start for start, _ in steps[1:]] + [for_good]
    return [
        Taken(start, end, {name: whole(step.get(name)) for name, _, _ in _RESOURCES})
        for (start, step), end in zip(steps, ends, strict=False)
        if end > start
    ]


def peak(taken: Sequence[Taken], name: str, start: datetime, end: datetime) -> int:
    """Find the most of something that is taken at once from a moment until before another."""
    here = [each for each in taken if each.start < end and (each.end > start or each.start >= start)]
    moments = {max(each.start, start) for each in here}
    return max(
        (
            sum(
                each.amounts.get(name, 0)
                for each in here
                if each.start <= moment and (each.end > moment or each.start == moment)
            )
            for moment in moments
        ),
        default=0,
    )


def chart(
    name: str, quota: int, in_use: int, before: Sequence[Taken], after: Sequence[Taken], now: datetime
) -> tuple[list[Bar], dict[str, int]]:
    """Make the bars of one resource, and say the largest amounts in them."""
    bars, most = [], {"before": 0, "after": 0}
    for place in range(-PAST, AHEAD):
        start = now + place * BIN
        used, promised = 0, 0
        if place < 0:
            used = peak(before, name, start, start + BIN)
            most["before"] = max(most["before"], used)
        else:
            promised = peak(after, name, start, start + BIN)
            most["after"] = max(most["after"], promised)
            if place == 0:
                used = min(in_use, promised)
                promised -= used
        if not quota or not used + promised:
            continue
        # What is taken shows, however little it is; more than all there is would stand over the edge.
        high = max(3, min(_HEIGHT, round(_HEIGHT * (used + promised) / quota)))
        solid = round(high * used / (used + promised))
        bars.append(Bar((place + PAST) * _WIDTH, solid, high - solid, place < 0))
    return bars, most


def platform(row: Mapping[str, Any], before: Sequence[Taken], now: datetime) -> dict[str, Any]:
    """Say what the page shows of one platform, as its planner describes it, if it does."""
    quota, limits, free = mapping(row.get("quota")), mapping(row.get("limits")), mapping(row.get("free"))
    in_use, reserved = mapping(row.get("in_use")), mapping(row.get("reserved"))
    below, drained = mapping(row.get("platform")), mapping(row.get("drained"))
    trouble = row.get("reason") or ("" if below.get("answers", True) else below.get("why", "does not answer"))
    known, after = bool(free), promised_of(row, now)
    amounts = []
    for name, label, unit in _RESOURCES:
        whole_quota = whole(quota.get(name))
        used, kept = whole(in_use.get(name)), whole(reserved.get(name))
        amounts.append(
            {
                "label": label,
                "unit": unit,
                "quota": whole_quota if quota else words.NOTHING,
                "in_use": used if known else words.NOTHING,
                "reserved": kept if known else words.NOTHING,
                "free": whole(free.get(name)) if known else words.NOTHING,
                "one_job": whole(limits[name]) if name in limits and name != "jobs" else words.NOTHING,
            }
        )
    charts = []
    for name, label, unit in _CHARTS:
        whole_quota = whole(quota.get(name))
        bars, most = chart(name, whole_quota, whole(in_use.get(name)), before, after, now)
        charts.append({"label": label, "unit": unit, "quota": whole_quota, "bars": bars, **most})
    return {
        "name": words.text(row["name"], 64),
        "kind": words.text(row.get("kind", ""), 20),
        "answers": bool(row.get("answers")),
        "drained": words.text(drained.get("words", "drained")) if drained else "",
        "trouble": words.text(trouble),
        "known": bool(quota),
        "amounts": amounts,
        "walltime": duration(limits.get("walltime")),
        "costs": [(words.text(name, 40), number(value)) for name, value in mapping(row.get("costs")).items()],
        "metrics": [(words.text(name, 40), number(value)) for name, value in mapping(row.get("metrics")).items()],
        "charts": charts,
    }


def overview(rows: Sequence[Mapping[str, Any]], ballots: Iterable[Mapping[str, Any]], now: datetime) -> dict[str, Any]:
    """Say what the page of all platforms shows."""
    runs = runs_of(ballots, now)
    platforms = [platform(row, runs.get(row["name"], []), now) for row in rows]
    able = sum(each["answers"] and not each["trouble"] and not each["drained"] for each in platforms)
    return {
        "platforms": platforms,
        "able": able,
        "now": now,
        "width": (PAST + AHEAD) * _WIDTH,
        "height": _HEIGHT,
        "present": PAST * _WIDTH,
    }
