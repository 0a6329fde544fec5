"""What the testbed is and what to try, after the recap of site.yml."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from textwrap import wrap
from typing import Any

from ansible import constants
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: testbed_summary
type: aggregate
short_description: What the testbed is and what to try, after the recap
description:
  - Prints the statistic C(testbed_summary) that playbooks/smoke.yml sets, for status.yml as well. After a run of
    site.yml that failed it prints the next step instead.
requirements: [enabled in ansible.cfg]
"""

WIDTH = 110
# Group -> what runs on a machine of it.
RUNS = {
    "slurm_controllers": "Slurm's controller and accounting",
    "slurm_nodes": "Slurm's virtual nodes",
    "slurm_submit_hosts": "the site's Slurm commands, for accounts",
    "kubernetes_nodes": "Kubernetes' control plane and node",
    "planners": "the planners",
    "voters": "the voter",
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Align columns; those whose numbers are in `right` to the right. Two blanks between them."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    rightward = set(right)
    return [
        "  ".join(
            cell.rjust(width) if column in rightward else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def wrapped(label: str, text: str, indent: int) -> list[str]:
    """Put a text beside its label, in as many lines as it needs."""
    lines = wrap(text, WIDTH - indent, break_long_words=False, break_on_hyphens=False) or [""]
    return [label.ljust(indent) + lines[0], *(" " * indent + line for line in lines[1:])]


def span(iso: str) -> str:
    """Say an ISO 8601 duration as people do: PT90M is 1.5 h."""
    match = re.fullmatch(r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", iso)
    if match is None:
        return iso
    weeks, days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    whole = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if whole >= size and (unit != "d" or whole >= 2 * size):
            return f"{whole / size:g} {unit}" if whole * 10 % size == 0 else f"{whole / size:.1f} {unit}"
    return f"{whole:g} s"


def home(path: str) -> str:
    """Shorten a path below the home directory."""
    try:
        return f"~/{Path(path).relative_to(Path.home())}"
    except ValueError:
        return path


def sizes(resources: Mapping[str, Any] | None, *names: str) -> list[str]:
    """List amounts; what is not known is a dash."""
    return [f"{resources[name]:g}" if resources and resources.get(name) is not None else "-" for name in names]


def _runs(group: str, name: str, groups: Mapping[str, Sequence[str]]) -> str:
    """Tell what runs on a machine of a group; one node of Kubernetes is the control plane."""
    if group == "kubernetes_nodes":
        first = [*groups.get("kubernetes_control_planes", ()), *groups[group]][0]
        return RUNS[group] if name == first else "a node of Kubernetes"
    return RUNS[group]


def machine_lines(names: Sequence[str], addresses: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Tell which machines there are."""
    rows = []
    for name, address in zip(names, addresses, strict=True):
        runs = ", ".join(_runs(group, name, groups) for group in RUNS if name in groups.get(group, ()))
        rows.append((name, address or "-", runs or "-"))
    return table(("machine", "address", "what runs there"), rows)


def health_lines(health: Mapping[str, Sequence[str]]) -> list[str]:
    """Tell how machines and clusters are, by machine; nothing where nobody asked."""
    told = [f"{name}: {line}" for name, lines in health.items() for line in lines]
    if health and not told:
        told = ["all machines answer, no unit has failed, the clusters' nodes are ready"]
    return [line for each in told for line in wrapped("health" if each is told[0] else "", each, 11)]


def _free(platform: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    """What a platform has free for offers, or why it makes none."""
    if not platform.get("planner", True):
        return "no planner"
    return "drained" if answer.get("drained") else "/".join(sizes(answer.get("free"), "cores", "memory_gib", "disc_gb"))


def platform_lines(platforms: Sequence[Mapping[str, Any]], answers: Mapping[str, Any]) -> list[str]:
    """Tell what each virtual platform has, may give to one job and has free; `answers` are the planners' own."""
    rows, troubles = [], []
    for platform in platforms:
        name, limits = platform["name"], platform["limits"]
        answer = answers.get(name) or {}
        below = answer.get("platform") or {}
        reason = answer.get("reason") or ("" if below.get("answers", True) else below.get("why", "does not answer"))
        reason = (answer.get("drained") or {}).get("words") or reason
        if reason:
            troubles += wrapped("", f"{name}: {reason}", 2)
        rows.append(
            (
                name,
                platform["physical_platform"],
                *sizes(platform["quota"], "cores", "memory_gib", "disc_gb"),
                *sizes(limits, "cores", "memory_gib", "jobs"),
                span(str(limits["walltime"])),
                _free(platform, answer),
            )
        )
    head = ("virtual platform", "on", "cores", "GiB", "GB", "cores", "GiB", "jobs", "walltime", "free now")
    lines = table(head, rows, right=range(2, 10))
    # What the columns belong to stands over them.
    quota, limit = lines[0].index("cores"), lines[0].index("cores", lines[0].index("cores") + 1)
    above = ("quota".rjust(quota + 5).ljust(limit) + "one job at most").ljust(len(lines[0]) - 12) + "cores/GiB/GB"
    return [above, *lines, *troubles]


def smoke_lines(smoke: Mapping[str, Any]) -> list[str]:
    """Tell which planner won the smoke job, why, and what the job found."""
    if not smoke:
        return wrapped("smoke job", "none has run on this deployment; -e smoke=always runs one", 11)
    found = f"{smoke['sources']} sources ({smoke['components']} components) found in {smoke['image']}"
    won = f"won by {smoke['planner']}: {smoke['reason']}"
    asked = f"{smoke['offers']} offers of {smoke['asked']} planners, chosen by {smoke['policy']}"
    timing = f"voted in {smoke['vote_ms']:.0f} ms, " if smoke.get("vote_ms") else ""
    return [
        *wrapped("smoke job", found, 11),
        *wrapped("", won, 11),
        *wrapped("", asked, 11),
        *wrapped("", f"{timing}done in {smoke['seconds']:g} s, at {smoke['time'][:16].replace('T', ' ')} UTC", 11),
        *wrapped("", f"outputs: {home(smoke['directory'])}", 11),
    ]


def caesar_rest_lines(about: Mapping[str, Any]) -> list[str]:
    """Tell where caesar-rest is, and whether it is the real one."""
    if not about:
        return []
    if about["kind"] == "stand-in":
        real = f"THIS IS THE STAND-IN OF CAESAR-REST, NOT CAESAR-REST ITSELF: {about['reason']}; docs/caesar-rest.md"
    elif about["kind"] == "upstream":
        real = f"caesar-rest itself, unpatched, commit {about['commit'][:7]}"
    else:
        real = f"image {about['image']}"
    return [*wrapped("rest", about["url"], 11), *wrapped("", real, 11)]


def summary_lines(data: Mapping[str, Any]) -> list[str]:
    """Write the whole summary."""
    answers = {row["name"]: row for row in (data.get("capabilities") or {}).get("platforms", [])}
    option = "" if data["testbed"] == "caesar" else f" --testbed {data['testbed']}"
    state = home(data["state"])
    health = data.get("health") or {}
    is_up = "has troubles" if any(health.values()) else "is up"
    lines = [f"The testbed {data['testbed']} {is_up}.", ""]
    lines += machine_lines(data["machines"], data["addresses"], data["groups"])
    if health:
        lines += ["", *health_lines(health)]
    lines += ["", *platform_lines(data["platforms"], answers), ""]
    if data.get("planner_address"):
        planned = [platform for platform in data["platforms"] if platform.get("planner", True)]
        where = ", ".join(f"{platform['name']} :{platform['port']}" for platform in planned)
        lines += wrapped("planners", f"http://{data['planner_address']}, {where}" if planned else "none", 11)
    if data.get("voter"):
        lines += wrapped("voter", f"{data['voter']}, also its web page", 11)
    lines += caesar_rest_lines(data.get("caesar_rest") or {})
    lines += ["", *smoke_lines(data.get("smoke") or {}), "", "try"]
    commands = [
        (f".venv/bin/caesar-vote ask --app aegean{option}", "who would run a job, and why"),
        (f".venv/bin/caesar-vote run --app aegean{option} IMAGE.fits", "a job of your own"),
        (f".venv/bin/caesar-vote ballots{option}", "what was voted on"),
        (f".venv/bin/caesar-vote platforms{option}", "what is free"),
        (f".venv/bin/caesar-vote page{option}", "all of it as a web page: a link to it"),
    ]
    groups = data["groups"]
    if groups.get("slurm_controllers"):
        commands.append((f"ssh -F {state}/ssh_config {groups['slurm_controllers'][0]} squeue", "Slurm's own view"))
    if groups.get("kubernetes_nodes"):
        node = groups["kubernetes_nodes"][0]
        commands.append((f"ssh -F {state}/ssh_config {node} kubectl get pods -A", "Kubernetes' own view"))
    explained = [f"  {line}" for line in table(("", ""), commands)[1:]]
    # A command is never broken, so that it can be copied: rather it goes without its explanation.
    if max(map(len, explained)) > WIDTH:
        explained = [f"  {command}" for command, _ in commands]
    return lines + explained


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Prints the summary when all is done."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "testbed_summary"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._whole = False
        self._failed: list[str] = []

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Remember whether it is the whole testbed that is put up."""
        self._whole = Path(str(playbook._file_name)).name == "site.yml"

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Remember what failed."""
        if not ignore_errors:
            self._failed.append(f"{result.task_name} on {result.host.get_name()}")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Remember who could not be reached."""
        self._failed.append(f"{result.host.get_name()} cannot be reached")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print the summary, or after a failure the next step."""
        data = stats.custom.get("_run", {}).get("testbed_summary")
        failed = any(
            stats.summarize(host)["failures"] or stats.summarize(host)["unreachable"] for host in stats.processed
        )
        if failed:
            if self._whole:
                self._print(self._next_step(), constants.COLOR_ERROR)
        elif data:
            self._print(summary_lines(data), None)

    def _next_step(self) -> list[str]:
        what = self._failed[-1] if self._failed else "a task"
        return [
            *wrapped("", f"The testbed is not up: {what}. The message above says why.", 0),
            *wrapped("", "What was done stays and is not done again: put it right and run the same command.", 0),
        ]

    def _print(self, lines: Iterable[str], colour: str | None) -> None:
        self._display.display("")
        for line in lines:
            self._display.display(line, color=colour)
