#!/usr/bin/env python3
"""How long a vote takes over 30 and 300 planners that answer in 20 ms, and where one of 30 hangs.

    .venv/bin/python benchmarks/vote_many.py [--rounds 30]

A real voter asks planners of one other process, over loopback. `vote` is from the question to the choice, with
everything read and checked, as the voter measures it; accepting takes one more answer of the winner. `slowest` is
what the slowest planner took by its own clock, from reading the request to writing its answer. What both computed
is told beside it, the record of the ballot and the rejecting of all offers included. The planners of one process
have a core for themselves, and the voter the rest: where the kernel puts both on one, the voter waits for what other
machines would do. A vote begins when what the one before it left to do is done, but for the row `one after the
other`, where the rejecting of hundreds of offers lies in the next vote's time.
"""

import argparse
import os
import statistics
import sys
import time
from dataclasses import dataclass

import httpx
from stub_voter import TOKEN, stubs

ANSWER_MS, DEADLINE_MS = 20, 1000


@dataclass(frozen=True)
class Measured:
    """One series."""

    votes: list[float]
    slowest: list[float]
    cpu: list[tuple[float, float]]
    memory_mb: float

    def __str__(self) -> str:
        votes, slowest = sorted(self.votes), statistics.median(self.slowest)
        return (
            f"vote p50 {statistics.median(votes):7.1f}  p95 {votes[int(0.95 * len(votes))]:7.1f}  "
            f"min {votes[0]:7.1f}  max {votes[-1]:7.1f} ms; slowest planner {slowest:5.1f} ms; "
            f"computing a vote, all of it: voter {statistics.median(one for one, _ in self.cpu):.1f} ms, "
            f"planners {statistics.median(other for _, other in self.cpu):.1f} ms; voter {self.memory_mb:.0f} MB"
        )


def settled(client: httpx.Client) -> None:
    """Wait until the voter has rejected all offers."""
    while True:
        lines = client.get("/metrics").text.splitlines()
        if any(line.startswith("caesar_voter_unwanted_offers 0") for line in lines):
            return
        time.sleep(0.01)


def measure(count: int, rounds: int, hang: int = 0, *, apart: bool = True) -> Measured:
    """Hold ballots that only ask."""
    with stubs(
        count, ANSWER_MS, hang, own_core=True, deadline=f"PT{(DEADLINE_MS if hang else 20 * DEADLINE_MS) / 1000:g}S"
    ) as running:
        votes, slowest, cpu = [], [], []
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=running.url, headers=headers, timeout=60, trust_env=False) as client:
            for number in range(rounds + 3):
                running.slowest_ms()
                before = running.cpu_ms()
                reply = client.post("/ballots", json={"app": "aegean", "accept": False})
                reply.raise_for_status()
                ballot = reply.json()
                if apart:
                    time.sleep(0.02)  # the rejecting begins behind the answer
                    settled(client)
                after = running.cpu_ms()
                offers = sum(candidate["rank"] is not None for candidate in ballot["candidates"])
                if offers != count - hang:
                    sys.exit(f"{offers} of {count - hang} planners made an offer: {ballot['message']}")
                if number >= 3:  # connections, and what is loaded at first use
                    votes.append(ballot["timings"]["collect_ms"] + ballot["timings"]["choose_ms"])
                    slowest.append(running.slowest_ms())
                    cpu.append((after[0] - before[0], after[1] - before[1]))
        return Measured(votes, slowest, cpu, running.memory_mb())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    load = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{rounds} rounds each, planners answer in {ANSWER_MS} ms; {load}")
    p50 = {}
    for count in (30, 300):
        found = measure(count, rounds)
        p50[count] = statistics.median(found.votes)
        print(f"{count:4} planners           {found}")
        limit = 1.5 * statistics.median(found.slowest)
        print(f"  target: {limit:.1f} ms, 1.5 times the slowest; {'reached' if p50[count] <= limit else 'MISSED'}")
    print(f"      one after the other {measure(300, rounds, apart=False)}")
    ratio = p50[300] / p50[30]
    print(f"  target: flat within 1.5 from 30 to 300; {'reached' if ratio <= 1.5 else 'MISSED'} with {ratio:.2f}")
    found = measure(30, max(3, rounds // 6), hang=1)
    print(f"  30 planners, 1 hangs  {found}")
    limit, most = DEADLINE_MS + 50, max(found.votes)
    print(
        f"  target: {limit} ms, the deadline and 50; {'reached' if most <= limit else 'MISSED'} with {most:.1f} at most"
    )


if __name__ == "__main__":
    main()
