#!/usr/bin/env python3
"""From the acceptance of an offer to a job that the platform knows, beside the platform's own time for it.

The planner's part is what a client sees: from sending ACCEPTED to the session's message that names the job. The
platform's own part is taken on the planners' machine: one sbatch of the same size by the same user, and one POST of
a Job by the same token (a dry run, which passes admission and is not stored). Each session is cancelled at once.

Usage: benchmarks/accept.py [--testbed caesar] [--times 20]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

import httpx
import yaml

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
cd / && for i in $(seq {times}); do
  a=$(date +%s%N)
  job=$(sudo -u {name} sbatch --parsable --output=/dev/null --mem=1G --time=1 --wrap 'sleep 60')
  b=$(date +%s%N)
  c=$(date +%s%N); sudo -u {name} true; d=$(date +%s%N)
  echo $(( (b - a) - (d - c) )); scancel $job; sleep 0.3
done
"""
DRY_RUN = r"""
import json, ssl, time, http.client, urllib.parse, sys
k = json.load(open("/etc/caesar-planner/{name}.kubernetes.json"))
u = urllib.parse.urlsplit(k["server"])
c = http.client.HTTPSConnection(u.hostname, u.port, context=ssl.create_default_context(cadata=k["ca"]))
resources = {{"limits": {{"cpu": "1", "memory": "1Gi"}}, "requests": {{"cpu": "32m", "memory": "32Mi"}}}}
container = {{"name": "job", "image": "x", "resources": resources}}
job = {{"apiVersion": "batch/v1", "kind": "Job", "metadata": {{"name": "dry-run"}},
        "spec": {{"template": {{"spec": {{"restartPolicy": "Never", "containers": [container]}}}}}}}}
for i in range({times}):
    a = time.perf_counter_ns()
    c.request("POST", "/apis/batch/v1/namespaces/{name}/jobs?dryRun=All", json.dumps(job),
              {{"Authorization": "Bearer " + k["token"], "Content-Type": "application/json"}})
    r = c.getresponse(); r.read()
    print(time.perf_counter_ns() - a)
    assert r.status == 201, r.status
    time.sleep(0.3)
"""


def own_time(state: Path, name: str, kind: str, times: int) -> list[float]:
    """Milliseconds that the platform itself takes."""
    command, script = ("bash -s", SBATCH) if kind == "slurm" else ("python3 -", DRY_RUN)
    run = ["ssh", "-F", str(state / "ssh_config"), "planner", command]
    text = script.format(name=name, times=times)
    done = subprocess.run(run, input=text, check=True, capture_output=True, text=True, timeout=300)
    return [int(line) / 1e6 for line in done.stdout.split()]


def accept(client: httpx.Client, times: int) -> list[float]:
    """Milliseconds from the acceptance to the message that names the job."""
    taken = []
    for _ in range(times):
        offers = client.post("/requests", json=REQUEST).raise_for_status().json()["offers"]
        session = offers[0]["meta"]["uuid"]
        update = {"kind": "uri:enum-value-update", "path": "/phase"}
        began = time.perf_counter()
        client.post(f"/sessions/{session}", json=update | {"value": "ACCEPTED"}).raise_for_status()
        while True:
            document = client.get(f"/sessions/{session}").raise_for_status().json()
            if any(message["kind"].endswith(":submitted") for message in document["meta"]["messages"]):
                break
        taken.append((time.perf_counter() - began) * 1000)
        client.post(f"/sessions/{session}", json=update | {"value": "CANCELLED"}).raise_for_status()
        while document["phase"] not in ("CANCELLED", "COMPLETED", "FAILED"):
            time.sleep(0.2)
            document = client.get(f"/sessions/{session}").raise_for_status().json()
    return taken


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="From the acceptance of an offer to a job that the platform knows.")
    parser.add_argument("--testbed", default="caesar")
    parser.add_argument("--times", type=int, default=20)
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
            whole = accept(client, arguments.times)
        own = own_time(state, platform["name"], kind, arguments.times)
        for what, times in (("accept to job", whole), ("platform's own", own)):
            p95 = statistics.quantiles(times, n=20)[-1]
            name = platform["name"]
            print(f"{name:<22} {what:<14} {statistics.median(times):>7.0f} {p95:>7.0f} {max(times):>7.0f}")


if __name__ == "__main__":
    main()
