"""Tables and lines for people at a terminal."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from planner_app.execution_broker.times import parse_duration, parse_instant
from planner_app.voter.explain import verdict_of
from planner_app.voter.policy import METRICS, TIMES
from planner_app.voter.text import amount_of_time, one_line

NARROW = 110
"""Columns below which reasons go under the table instead of into it."""
_STYLES = {"chosen": "bold green", "best": "bold green", "can": "", "no": "yellow", "lost": "yellow"}


def _table(*columns: str, right: Iterable[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), collapse_padding=True, header_style="bold")
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column != "why",
            overflow="fold" if column == "why" else "ellipsis",
            ratio=1 if column == "why" else None,
        )
    return table


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "-"


def _local(instant: str) -> datetime:
    return parse_instant(instant).astimezone()


def _start(offer: Mapping[str, Any], asked: datetime) -> str:
    delay = parse_instant(offer["start"]) - asked
    return "at once" if delay < timedelta(seconds=30) else f"+{amount_of_time(delay)}"


def candidates(console: Console, ballot: Mapping[str, Any]) -> None:
    """Print who offered what, the chosen one marked, and for each other one why it was not chosen."""
    accepted, asked = ballot["winner"] is not None, parse_instant(ballot["created"])
    narrow = console.width < NARROW
    numbers = ["cores", "GiB", "cost", "carbon", "speed"]
    table = _table(
        "", "platform", "verdict", "start", *numbers, *([] if narrow else ["why"]), right=[*numbers, "start"]
    )
    reasons = []
    for candidate in ballot["candidates"]:
        verdict, offer = verdict_of(candidate, accepted), candidate["offer"]
        style = _STYLES.get(verdict, "red")
        cells = ["-"] * 6
        if offer is not None:
            cells = [
                _start(offer, asked),
                str(offer["cores"]),
                str(offer["memory_gib"]),
                _number(offer["costs"].get("monetary")),
                _number(offer["costs"].get("carbon")),
                _number(offer["metrics"].get("compute-performance")),
            ]
        reason = one_line(candidate["reason"])
        if narrow:
            reasons.append(Text.assemble((candidate["planner"], "bold"), ": ", reason))
        row = ["▶" if candidate["chosen"] else "", candidate["planner"], verdict, *cells]
        table.add_row(*(Text(cell) for cell in [*row, *([] if narrow else [reason])]), style=style)
    console.print(table)
    for line in reasons:
        console.print(line, soft_wrap=False)


def outcome(console: Console, ballot: Mapping[str, Any]) -> None:
    """Print in one line where a ballot stands."""
    line = Text.assemble(("ballot ", ""), (ballot["id"][:8], "bold"), f": {ballot['state'].replace('_', ' ').lower()}")
    if ballot["winner"]:
        line.append(f" on {ballot['winner']['planner']}")
    if ballot["message"] and not ballot["message"].startswith("accepted by"):
        line.append(f" ({one_line(ballot['message'])})")
    if ballot.get("trouble"):
        line.append(f"; {one_line(ballot['trouble'])}", "yellow")
    timings = ballot["timings"]
    if "total_ms" in timings:
        line.append(f"; voted in {timings['total_ms']:.0f} ms", "dim")
    console.print(line)


def why(console: Console, explained: Mapping[str, Any]) -> None:
    """Print what each candidate counted by each criterion, what each planner answered and when, and how it ended."""
    won = explained["winner"]
    best = next((candidate["planner"] for candidate in explained["candidates"] if candidate["chosen"]), None)
    head = f"{best} {'won' if won else 'would win'}: {explained['reason']}" if best else explained["reason"]
    console.print(Text(one_line(head), "bold"))
    criteria = explained["criteria"]
    times = {answer["planner"]: answer["elapsed_ms"] for answer in explained["answers"]}
    table = _table("rank", "platform", "answered", *criteria, "why", right=["rank", "answered", *criteria])
    for candidate in explained["candidates"]:
        name, rank, scores = candidate["planner"], candidate["rank"], candidate["scores"]
        cells = [
            str(rank or "-"),
            name,
            f"{times[name]:.0f} ms" if name in times else "-",
            *(_score(criterion, scores.get(criterion)) for criterion in criteria),
            one_line(candidate["reason"]),
        ]
        table.add_row(*(Text(cell) for cell in cells), style="bold green" if candidate["chosen"] else "")
    console.print(table)
    for fault in explained["faults"]:
        said = f' It said: "{one_line(fault["excerpt"], 80)}"' if fault["excerpt"] else ""
        console.print(Text(f"{fault['planner']}: {'; '.join(map(one_line, fault['reasons']))}.{said}", "yellow"))
    became = explained["became"]
    line = f"ballot {explained['ballot'][:8]}: {became['state'].replace('_', ' ').lower()}"
    if became["message"]:
        line += f" ({one_line(became['message'])})"
    if became["started"]:
        line += f"; ran from {_local(became['started']):%H:%M:%S}"
        line += f" to {_local(became['ended']):%H:%M:%S}" if became["ended"] else ""
    if explained["trace"]:
        line += f"; trace {explained['trace']}"
    console.print(Text(line))


def _score(criterion: str, score: float | None) -> str:
    """Write what a candidate counts by a criterion; more is better in metrics, which are kept as less than nothing."""
    if score is None:
        return "-"
    if criterion in TIMES:
        return amount_of_time(timedelta(seconds=score))
    return _number(abs(score) if criterion in METRICS else score)


def history(console: Console, ballot: Mapping[str, Any]) -> None:
    """Print what happened to a ballot, and when."""
    table = _table("time", "phase", "why")
    for line in ballot["history"]:
        table.add_row(f"{_local(line['time']):%H:%M:%S}", line["phase"], Text(one_line(line["message"])))
    console.print(table)


def demand(console: Console, ballot: Mapping[str, Any]) -> None:
    """Print in one line what was asked for."""
    asked = ballot["demand"]
    words = [
        f"{ballot['app']}: {_range(asked['cores'])} cores",
        f"{_range(asked['memory_gib'])} GiB",
        amount_of_time(parse_duration(asked["duration"])),
    ]
    words += [f"{name} at most {most:g}" for name, most in asked["max_costs"].items()]
    words += [f"{name} at least {least:g}" for name, least in asked["min_metrics"].items()]
    words.append(f"by {ballot['policy']}")
    console.print(Text(", ".join(words)))


def _range(asked: Mapping[str, Any]) -> str:
    if asked["max"] is None:
        return f"{asked['min']} or more"
    return str(asked["min"]) if asked["min"] == asked["max"] else f"{asked['min']} to {asked['max']}"


def ballots(console: Console, rows: Iterable[Mapping[str, Any]]) -> None:
    """Print the latest ballots, one a line."""
    table = _table("ballot", "time", "app", "state", "platform", "why")
    for ballot in rows:
        table.add_row(
            ballot["id"][:8],
            f"{_local(ballot['created']):%m-%d %H:%M}",
            ballot["app"],
            ballot["state"].replace("_", " ").lower(),
            ballot["winner"]["planner"] if ballot["winner"] else "-",
            Text(one_line(ballot["message"])),
        )
    console.print(table)


def platforms(console: Console, rows: Iterable[Mapping[str, Any]]) -> None:
    """Print what each platform has, may give to one job and has free; costs are per core-hour."""
    numbers = ["cores", "GiB", "jobs", "free", "cost", "carbon", "speed"]
    table = _table("platform", *numbers, "one job", "why", right=numbers)
    for row in rows:
        quota, limits, free = (row.get(name) or {} for name in ("quota", "limits", "free"))
        costs, metrics = row.get("costs") or {}, row.get("metrics") or {}
        below = row.get("platform") or {}
        trouble = row["reason"] or ("" if below.get("answers", True) else below.get("why", "does not answer"))
        # Both may be so; that somebody wants it so is the better explanation.
        trouble = (row.get("drained") or {}).get("words") or trouble
        table.add_row(
            row["name"],
            str(quota.get("cores", "-")),
            str(quota.get("memory_gib", "-")),
            str(limits.get("jobs", "-")),
            f"{free.get('cores', '-')}/{free.get('memory_gib', '-')}",
            _number(costs.get("monetary")),
            _number(costs.get("carbon")),
            _number(metrics.get("compute-performance")),
            f"{limits['cores']} cores, {limits['memory_gib']} GiB, {_walltime(limits)}" if limits else "-",
            Text(one_line(str(trouble))),
            style="red" if trouble else "",
        )
    console.print(table)


def _walltime(limits: Mapping[str, Any]) -> str:
    try:
        return amount_of_time(parse_duration(str(limits.get("walltime"))))
    except ValueError:
        return "-"
