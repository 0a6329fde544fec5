#!/usr/bin/env python3
"""How fast the voter takes jobs from caesar-rest, while it votes on those that it has.

    .venv/bin/python benchmarks/facade.py [--rate 200] [--seconds 10] [--planners 6]

A real voter with stub planners, over loopback. First the submissions come evenly, `rate` a second, and each one's
time is from the due moment to the answer, a late start included; then as fast as four connections can. Every
submission is on disc when it is answered. At the end all jobs must have ended, each once.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from typing import Any

import httpx
from planner_app.voter.slurm_token import make_token
from stub_voter import KEY, Stubs, stubs

TARGET_MS, TARGET_RATE = 20, 200
SLURM = "/slurm/v0.0.36"


def body(running: Stubs, number: int) -> dict[str, Any]:
    """A submission as caesar-rest writes it."""
    name, data, jobs = f"{number:032x}", running.directory / "data/rest", running.directory / "jobs"
    inside, outdir = "/opt/caesar-rest/data/anonymous/x.fits", f"/opt/caesar-rest/jobs/anonymous/job_{name}"
    script = (
        f"#!/bin/bash \n sleep 10 \n singularity run --containall --no-home --scratch /home/c/{name} "
        f"-B {jobs}/anonymous/job_{name}:{outdir} -B {data}/anonymous/x.fits:{inside} --env CHANGE_RUNUSER=0 "
        f"--env JOB_DIR=/home/c/{name} --env JOB_OPTIONS='--run --inputfile={inside}' --env JOB_OUTDIR={outdir} "
        "/opt/containers/aegean/aegean-job_latest.sif"
    )
    return {"script": script, "job": {"name": name, "cpus_per_task": 1, "tasks": 1}}


async def submit(client: httpx.AsyncClient, document: dict[str, Any], due: float) -> float:
    reply = await client.post(SLURM + "/job/submit", json=document)
    if reply.status_code != 200 or not isinstance(reply.json().get("job_id"), int):
        sys.exit(f"refused: {reply.text}")
    return 1000 * (time.perf_counter() - due)


async def evenly(client: httpx.AsyncClient, documents: list[dict[str, Any]], rate: float) -> list[float]:
    began, tasks = time.perf_counter(), []
    for number, document in enumerate(documents):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(submit(client, document, due)))
    return list(await asyncio.gather(*tasks))


async def flat_out(client: httpx.AsyncClient, documents: list[dict[str, Any]]) -> float:
    waiting, began = iter(documents), time.perf_counter()

    async def one() -> None:
        for document in waiting:
            await submit(client, document, time.perf_counter())

    await asyncio.gather(*(one() for _ in range(4)))
    return len(documents) / (time.perf_counter() - began)


async def all_ended(client: httpx.AsyncClient, count: int) -> float:
    """Wait until all jobs have ended; say how long that took."""
    began = time.perf_counter()
    numbers = ",".join(map(str, range(1, count + 1)))
    while True:
        jobs = (await client.get(SLURM + "/jobs", params={"job_name": numbers})).json()["jobs"]
        states = {job["job_state"] for job in jobs}
        if not states & {"PENDING", "RUNNING"}:
            break
        await asyncio.sleep(1)
    if len(jobs) != count or states != {"COMPLETED"}:
        sys.exit(f"{len(jobs)} of {count} jobs, in states {states}")
    return time.perf_counter() - began


async def measure(rate: float, seconds: float, planners: int) -> bool:
    with stubs(planners) as running:
        headers = {"X-SLURM-USER-NAME": "caesar", "X-SLURM-USER-TOKEN": make_token(KEY, "caesar", time.time())}
        async with httpx.AsyncClient(base_url=running.url, headers=headers, timeout=60, trust_env=False) as client:
            count = round(rate * seconds)
            documents = [body(running, number) for number in range(2 * count + 20)]
            await evenly(client, documents[:20], 50)  # connections, and what is loaded at first use
            before, _ = running.cpu_ms()
            times = sorted(await evenly(client, documents[20 : 20 + count], rate))
            computed = (running.cpu_ms()[0] - before) / count
            p99 = times[int(0.99 * len(times))]
            print(
                f"{count} submissions, {rate:g} a second: p50 {statistics.median(times):.1f}  "
                f"p95 {times[int(0.95 * len(times))]:.1f}  p99 {p99:.1f}  max {times[-1]:.1f} ms; "
                f"the voter computed {computed:.1f} ms for each, votes included"
            )
            reached = await flat_out(client, documents[20 + count :])
            print(f"{count} submissions as fast as they go: {reached:.0f} a second")
            memory = running.memory_mb()
            took = await all_ended(client, len(documents))
            print(
                f"all {len(documents)} jobs voted on, run once and delivered {took:.0f} s later; voter {memory:.0f} MB"
            )
    good = p99 <= TARGET_MS and reached >= TARGET_RATE
    print(f"target: {TARGET_MS} ms at p99 and {TARGET_RATE} a second; {'reached' if good else 'MISSED'}")
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=TARGET_RATE)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--planners", type=int, default=6)
    chosen = parser.parse_args()
    print(f"{chosen.planners} planners; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    asyncio.run(measure(chosen.rate, chosen.seconds, chosen.planners))


if __name__ == "__main__":
    main()
