#!/usr/bin/env python3
"""How long the choice between many offers takes, everything said about every loser included.

.venv/bin/python benchmarks/choose.py [--offers 10000] [--rounds 30]
"""

import argparse
import os
import random
import statistics
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

from planner_app.voter.answers import Answer, Demand, Offer, Range, Verdict
from planner_app.voter.choose import choose
from planner_app.voter.policy import Policy

TARGET_MS = 50
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
POLICIES = ("default", "greenest", "fastest,cheapest", "2*monetary/0.5+carbon/40+earliest-finish/PT1H")


def answers(count: int, per_planner: int = 10) -> list[Answer]:
    """Offers of all kinds from many planners, each with prices of its own; three of ten break a limit."""
    dice = random.Random(6)

    def offer(planner: str, price: float, cores: int) -> Offer:
        return Offer(
            planner,
            str(UUID(int=dice.getrandbits(128))),
            "http://x",
            cores,
            dice.choice([4, 8]),
            NOW + timedelta(minutes=dice.choice([0, 0, 0, 5, 30])),
            timedelta(hours=1),
            NOW + timedelta(minutes=dice.choice([-1, 5, 5, 5, 5, 5, 5, 5, 5, 5])),
            {"monetary": cores * price, "energy": 0.1 * cores * price, "carbon": 50 * cores * price},
            {"compute-performance": dice.choice([90.0, 120.0, 250.0])},
        )

    names = [f"planner-{number:04}" for number in range(count // per_planner)]
    prices = {name: dice.uniform(0.01, 0.2) for name in names}
    return [
        Answer(name, Verdict.OFFERS, offers=tuple(offer(name, prices[name], 1 + n) for n in range(per_planner)))
        for name in names
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--offers", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=30)
    asked = parser.parse_args()
    given = answers(asked.offers)
    demand = Demand(Range(1, 8), Range(2, 8), timedelta(hours=1), max_costs={"monetary": 5.0})
    print(f"{asked.offers} offers, {asked.rounds} rounds, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    medians = []
    for text in POLICIES:
        policy, times = Policy.parse(text), []
        for _ in range(asked.rounds):
            began = time.perf_counter()
            choose(policy, demand, given, NOW)
            times.append(1000 * (time.perf_counter() - began))
        medians.append(statistics.median(times))
        print(f"{text:45} p50 {medians[-1]:6.1f} ms  min {min(times):6.1f}  max {max(times):6.1f}")
    reached = max(medians)
    print(f"target: {TARGET_MS} ms at p50; {'reached' if reached <= TARGET_MS else 'MISSED'} with {reached:.1f} ms")


if __name__ == "__main__":
    main()
