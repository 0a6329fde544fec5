#!/usr/bin/env python3
"""How long an astronomer waits for a catalogue, beyond what the job itself and the job monitor take.

    .venv/bin/python benchmarks/whole_way.py [--testbed NAME] [--rounds 5] IMAGE.fits

Each round goes the whole way through caesar-rest: upload, submission, vote, the winner's preparation and start, the
job, delivery of its outputs, the monitor's next look, the list of sources. `job` is the job's own run, from its first
line to its last, as its log has it: the start of its Python counts against us. The monitor looks every `period`
seconds, which is taken off as a whole; `beyond` is what is left. States are asked for every 50 ms.
"""

import argparse
import io
import itertools
import os
import re
import statistics
import sys
import tarfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import yaml
from planner_app.voter.client import VoterClient, connect

TARGET = 3.0


def own_seconds(packed: bytes) -> float:
    """Read off a job's log how long it ran: its lines begin with the seconds since its start."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        name = next(each for each in archive.getnames() if each.endswith(".log"))
        file = archive.extractfile(name)
        text = file.read().decode() if file else ""
    return max(float(seconds) for seconds in re.findall(r"^\[ *(\d+\.\d) s\]", text, re.MULTILINE))


def phases(ballot: dict[str, Any]) -> dict[str, float]:
    """Seconds from one phase of the ballot to the next, as the voter saw them."""
    times = [(line["phase"], datetime.fromisoformat(line["time"])) for line in ballot["history"]]
    return {
        f"{one} to {other}".lower(): (end - begin).total_seconds()
        for (one, begin), (other, end) in itertools.pairwise(times)
    }


def whole_way(rest: httpx.Client, voter: VoterClient, image: Path, period: float) -> dict[str, float]:
    """Go it once."""
    began = time.perf_counter()
    with image.open("rb") as file:
        number = rest.post("/upload", files={"file": (image.name, file)}).raise_for_status().json()["uuid"]
    uploaded = time.perf_counter()
    asked = {"app": "aegean", "data_inputs": number, "job_inputs": {"seedthr": 5, "mergethr": 4}}
    job = rest.post("/job", json=asked).raise_for_status().json()["job_id"]
    submitted = time.perf_counter()
    while (state := rest.get(f"/job/{job}/status").raise_for_status().json()["state"]) in ("PENDING", "RUNNING"):
        time.sleep(0.05)
    ended = time.perf_counter()
    if state != "SUCCESS":
        sys.exit(f"job {job} ended {state}")
    found = len(rest.get(f"/job/{job}/sources").raise_for_status().json()["sources"])
    fetched = time.perf_counter()
    if not found:
        sys.exit(f"job {job} found nothing")
    own = own_seconds(rest.get(f"/job/{job}/output").raise_for_status().content)
    rest.post(f"/delete/{number}").raise_for_status()
    return {
        "whole": fetched - began,
        "upload": uploaded - began,
        "submit": submitted - uploaded,
        **phases(voter.call("GET", f"/ballots/{job}")),
        "sources": fetched - ended,
        "job": own,
        "beyond": fetched - began - own - period,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--testbed", default=os.environ.get("CAESAR_TESTBED") or "caesar")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "caesar-testbed" / chosen.testbed
    about = yaml.safe_load((state / "caesar-rest.yml").read_text())
    voter = connect(chosen.testbed, os.environ)
    print(f"{about['kind']}, monitor every {about['period']} s; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with httpx.Client(base_url=about["url"], timeout=60, trust_env=False) as rest:
        rounds = [whole_way(rest, voter, chosen.image, float(about["period"])) for _ in range(chosen.rounds)]
    for name in dict.fromkeys(name for each in rounds for name in each):
        values = [each[name] for each in rounds if name in each]
        print(f"{name:26} median {statistics.median(values):6.2f} s, {min(values):.2f} to {max(values):.2f}")
    beyond = statistics.median(each["beyond"] for each in rounds)
    print(
        f"target: {TARGET:g} s beyond job and monitor; "
        f"{'reached' if beyond <= TARGET else 'MISSED'} with {beyond:.2f} s"
    )


if __name__ == "__main__":
    main()
