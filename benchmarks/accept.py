#!/usr/bin/env python3
"""From the acceptance of an offer to a job that the platform knows, beside the platform's own time for it.

The planner's part is what a client sees: from sending ACCEPTED to the session's message that names the job. The
platform's own part is taken on the planners' machine: one sbatch of the same size by the same user, and one POST of
a Job by the same token, suspended, so that it is stored and makes no pod. Each session is cancelled at once.

Of the slowest it says when its changes went on record. With --pause the planner is left alone before each.

Usage: benchmarks/accept.py [--testbed caesar] [--times 20] [--pause SECONDS]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import yaml

Stages = list[tuple[str, float]]
PROJECT = Path(__file__).parents[1]
KINDS = "https://www.purl.org/ivoa.net/Calycopis-openapi/schema/v1.0/kinds"
REQUEST = {
    "executable": {
        "kind": f"{KINDS}/executable/docker-container.yaml",
        "image": {"locations": ["caesar/aegean-job:2.3.5"]},
        "entrypoint": "/usr/bin/python3",
        "command": ["-I", "-c", "import time; time.sleep(60)"],
    },
    "compute": {
        "kind": f"{KINDS}/compute/simple-compute-resource.yaml",
        "cores": {"min": 1},
        "memory": {"min": 1},
    },
    "schedule": {"requested": {"duration": "PT1M"}},
}
SBATCH = r"""
set -e
cd /
for i in $(seq {times}); do
  sleep {pause}
  a=$(date +%s%N)
  job=$(sudo -u {name} sbatch --parsable --account={name} --output=/dev/null --mem=1G --time=1 --wrap 'sleep 60')
  b=$(date +%s%N)
  c=$(date +%s%N); sudo -u {name} true; d=$(date +%s%N)
  echo $(( (b - a) - (d - c) )); scancel $job; sleep 0.3
done
"""
CREATE = r"""
import json, ssl, time, http.client, urllib.parse, sys
k = json.load(open("/etc/caesar-planner/{name}.kubernetes.json"))
u = urllib.parse.urlsplit(k["server"])
c = http.client.HTTPSConnection(u.hostname, u.port, context=ssl.create_default_context(cadata=k["ca"]))
resources = {{"limits": {{"cpu": "1", "memory": "1Gi"}}, "requests": {{"cpu": "32m", "memory": "32Mi"}}}}
container = {{"name": "job", "image": "x", "resources": resources}}
path = "/apis/batch/v1/namespaces/{name}/jobs"
template = {{"spec": {{"restartPolicy": "Never", "containers": [container]}}}}
headers = {{"Authorization": "Bearer " + k["token"], "Content-Type": "application/json"}}
def call(method, path, body=None):
    c.request(method, path, json.dumps(body), headers)
    r = c.getresponse()
    return r.status, r.read()
for i in range({times}):
    job = {{"apiVersion": "batch/v1", "kind": "Job", "metadata": {{"name": "own-time-%d" % i}},
            "spec": {{"suspend": True, "template": template}}}}
    time.sleep({pause})
    a = time.perf_counter_ns()
    made = call("POST", path, job)
    print(time.perf_counter_ns() - a)
    assert made[0] == 201, made
    gone = call("DELETE", path + "/" + job["metadata"]["name"] + "?propagationPolicy=Background")
    assert gone[0] == 200, gone
    time.sleep(0.3)
"""


def own_time(state: Path, name: str, kind: str, times: int, pause: float) -> list[float]:
    """Milliseconds that the platform itself takes."""
    command, script = ("bash -s", SBATCH) if kind == "slurm" else ("python3 -", CREATE)
    run = ["ssh", "-F", str(state / "ssh_config"), "planner", command]
    text = script.format(name=name, times=times, pause=pause)
    done = subprocess.run(run, input=text, check=True, stdout=subprocess.PIPE, text=True, timeout=300 + times * pause)
    return [int(line) / 1e6 for line in done.stdout.split()]


def accept(client: httpx.Client, times: int, pause: float) -> list[tuple[float, Stages]]:
    """Milliseconds from the acceptance to the message that names the job, and when what went on record meanwhile."""
    taken = []
    for _ in range(times):
        time.sleep(pause)
        offers = client.post("/requests", json=REQUEST).raise_for_status().json()["offers"]
        session = offers[0]["meta"]["uuid"]
        update = {"kind": "uri:enum-value-update", "path": "/phase"}
        began, at = time.perf_counter(), datetime.now(UTC)
        client.post(f"/sessions/{session}", json=update | {"value": "ACCEPTED"}).raise_for_status()
        while True:
            document = client.get(f"/sessions/{session}").raise_for_status().json()
            if any(message["kind"].endswith(":submitted") for message in document["meta"]["messages"]):
                break
            time.sleep(0.002)  # what is measured shares the machine
        whole = (time.perf_counter() - began) * 1000
        taken.append((whole, stages(document["meta"]["messages"], at)))
        client.post(f"/sessions/{session}", json=update | {"value": "CANCELLED"}).raise_for_status()
        while document["phase"] not in ("CANCELLED", "COMPLETED", "FAILED"):
            time.sleep(0.2)
            document = client.get(f"/sessions/{session}").raise_for_status().json()
    return taken


def stages(messages: list[dict[str, Any]], began: datetime) -> Stages:
    """What went on record, and how many milliseconds after the beginning (the clocks are the same machine's)."""
    return [
        (
            message["kind"].rpartition(":")[2],
            (datetime.fromisoformat(message["time"]) - began) / timedelta(milliseconds=1),
        )
        for message in messages
    ]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="From the acceptance of an offer to a job that the platform knows.")
    parser.add_argument("--testbed", default="caesar")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--pause", type=float, default=0, help="seconds of rest before each")
    arguments = parser.parse_args()
    state = Path.home() / ".local/state/caesar-testbed" / arguments.testbed
    address = json.loads((state / "machines.json").read_text())["machines"]["planner"]["address"]
    token = (state / "secrets/planner-tokens/operator").read_text().strip()
    described = yaml.safe_load((PROJECT / "inventories/local/group_vars/all/platforms.yml").read_text())
    of = {described["physical_platforms"][p["physical_platform"]]["kind"]: p for p in described["virtual_platforms"]}
    print(f"{'platform':<22} {'what':<14} {'p50 ms':>7} {'p95 ms':>7} {'max ms':>7}")
    for kind, platform in of.items():
        headers = {"Authorization": f"Bearer {token}"}
        base = f"http://{address}:{platform['port']}"
        with httpx.Client(base_url=base, headers=headers, timeout=30, trust_env=False) as client:
            accepted = accept(client, arguments.times, arguments.pause)
        own = own_time(state, platform["name"], kind, arguments.times, arguments.pause)
        for what, times in (("accept to job", [whole for whole, _ in accepted]), ("platform's own", own)):
            p95 = statistics.quantiles(times, n=20)[-1]
            name = platform["name"]
            print(f"{name:<22} {what:<14} {statistics.median(times):>7.0f} {p95:>7.0f} {max(times):>7.0f}")
        slowest = max(range(len(accepted)), key=lambda number: accepted[number][0])
        said = ", ".join(f"{what} at {at:.0f}" for what, at in accepted[slowest][1])
        print(f"{platform['name']:<22} the slowest, number {slowest + 1}: {said} ms")


if __name__ == "__main__":
    main()
