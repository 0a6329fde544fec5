#!/usr/bin/env python3
"""How long a vote takes on a running testbed, from the request to the accepted offer.

    .venv/bin/python benchmarks/vote.py [--testbed NAME] [--rounds 50]

Each round is a ballot over all planners whose winner is accepted for real; its session is cancelled at once, and
the next round begins when that is done. `voter` is what the voter measured, from the first question to the
planner's confirmation, with the ballot on disc; `client` is the whole HTTP call from here.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from planner_app.voter.client import Trouble, VoterClient, connect
from rich.console import Console
from rich.table import Table

TARGET_MS = 150


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def vote(voter: VoterClient, upload: str) -> tuple[dict[str, Any], float]:
    """Hold one ballot, cancel what it won and wait until that holds nothing any more."""
    began = time.perf_counter()
    ballot = voter.call("POST", "/ballots", json={"app": "aegean", "upload": upload})
    elapsed = 1000 * (time.perf_counter() - began)
    path = f"/ballots/{ballot['id']}"
    if ballot["state"] != "RUNNING":
        raise Trouble(f"no vote to measure: {ballot['message']}")
    voter.call("POST", path, json={"phase": "CANCELLED"})
    while voter.call("GET", path)["state"] == "RUNNING":
        time.sleep(0.1)
    return ballot, elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--testbed", default=os.environ.get("CAESAR_TESTBED") or "caesar")
    parser.add_argument("--rounds", type=int, default=50)
    chosen = parser.parse_args()
    voter = connect(chosen.testbed, os.environ)
    upload = voter.call("POST", "/uploads", params={"name": "benchmark.fits"}, content=b"not run")["uuid"]
    vote(voter, upload)  # connections, and what is loaded at first use

    series: dict[str, list[float]] = {"voter": [], "client": [], "  asking all": [], "  choosing": []}
    planners: dict[str, list[float]] = {}
    loads = []
    for _ in range(chosen.rounds):
        loads.append(os.getloadavg()[0])
        ballot, elapsed = vote(voter, upload)
        series["client"].append(elapsed)
        series["voter"].append(ballot["timings"]["total_ms"])
        series["  asking all"].append(ballot["timings"]["collect_ms"])
        series["  choosing"].append(ballot["timings"]["choose_ms"])
        for name, one in {c["planner"]: c["elapsed_ms"] for c in ballot["candidates"]}.items():
            planners.setdefault(name, []).append(one)
    for name in sorted(planners):
        series[f"  answer of {name}"] = planners[name]

    table = Table("ms", "p50", "p95", "min", "max", "deviation", box=None)
    for name, values in series.items():
        numbers = [
            statistics.median(values),
            percentile(values, 0.95),
            min(values),
            max(values),
            statistics.pstdev(values),
        ]
        table.add_row(name, *(f"{number:.1f}" for number in numbers))
    console = Console(highlight=False)
    processor = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    console.print(
        f"{chosen.rounds} votes over {len(planners)} planners; {os.cpu_count()} cores of {processor}, "
        f"load {min(loads):.1f} to {max(loads):.1f}",
        soft_wrap=True,
    )
    console.print(table)
    reached = statistics.median(series["voter"])
    console.print(
        f"target: {TARGET_MS} ms at p50; {'reached' if reached <= TARGET_MS else 'MISSED'} with {reached:.0f} ms"
    )


if __name__ == "__main__":
    try:
        main()
    except Trouble as trouble:
        sys.exit(str(trouble))
