"""Machines are made anew around their volumes: what was recorded stays, and what runs there is waited for.

It runs after the others of this scenario, by its name.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import astronomer
import httpx
import pytest
import test_network
from astronomer import CAESAR_REST, arrive
from handles import members, of_group
from rebuilding import ASSOCIATIONS, MINUTES, UNTIL_TOLD, kubernetes_records, made_at, play
from test_slurm import ended, submit
from testinfra.host import Host

Command = Callable[..., subprocess.CompletedProcess[str]]
COMPUTE = "compute1"
job_image, rest = test_network.job_image, astronomer.rest


def rebuild(*arguments: str) -> subprocess.CompletedProcess[str]:
    return play("playbooks/rebuild.yml", *CAESAR_REST, *arguments)


def test_what_cannot_be_made_anew_is_said_first() -> None:
    for named, said in (("nope", "no machine and no group called nope"), ("localhost", "is not made by this testbed")):
        run = rebuild("-e", f"machine={named}", "-e", "confirm=yes")
        assert run.returncode != 0
        assert said in " ".join(run.stdout.split())
    before = made_at(COMPUTE)
    assert rebuild("-e", f"machine={COMPUTE}", "-e", "confirm=no").returncode != 0
    assert made_at(COMPUTE) == before


def rebuilt(*names: str) -> None:
    before = {name: made_at(name) for name in names}
    run = rebuild("-e", f"machine={','.join(names)}", "-e", "confirm=yes", "-e", "drain_timeout=120")
    assert run.returncode == 0, run.stdout[-6000:]
    for name, was in before.items():
        assert made_at(name) != was, f"{name} is the old one"


@pytest.fixture
def kept(rest: httpx.Client, voter: httpx.Client, fits: Path) -> Callable[[], None]:
    """caesar-rest with a map and jobs, one of them just submitted; the function says that it has lost nothing."""
    somebody = arrive(rest, fits)

    def told() -> dict[str, Any]:
        return somebody.documents() | {"ballot": voter.get(f"/ballots/{somebody.job}").raise_for_status().json()}

    before = told()
    assert before["ballot"]["state"] == "COMPLETED"
    latest = somebody.submit()

    def compare() -> None:
        assert told() == before
        for each in (latest, somebody.submit()):
            somebody.await_end(each)

    return compare


def pod_on(kube: Host, node: str, image: str) -> None:
    """Start a pod of a virtual platform's on a node, that runs until it is deleted."""
    described = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "goes-on"},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": {"runAsUser": 20101, "runAsGroup": 20101, "runAsNonRoot": True,
                                "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "imagePullPolicy": "Never",
                    "command": ["/usr/bin/python3", "-c", "import time; time.sleep(3600)"],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "resources": {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "10m"}},
                }
            ],
        },
    }  # fmt: skip
    quoted = json.dumps(described).replace("'", "'\\''")
    kube.check_output(f"echo '{quoted}' | {test_network.KUBECTL} apply -n k8s-namespace-001 -f -")
    kube.check_output(
        f"{test_network.KUBECTL} wait -n k8s-namespace-001 pod/goes-on --for=condition=Ready --timeout=60s"
    )


@MINUTES
@pytest.mark.timeout(1500)
def test_rebuilt_controllers_know_all_and_jobs_elsewhere_go_on(
    planner: Host, slurm: Host, kube: Host, kubectl: Callable[[str], Any], job_image: str, caesar_vote: Command,
    fits: Path, tmp_path: Path, kept: Callable[[], None],
) -> None:  # fmt: skip
    ended_before = submit(planner, "slurm-account-001", "--mem=100M --time=1", "true")
    assert ended(planner, ended_before) == "COMPLETED"
    slurm.check_output("scontrol update nodename=desktop-2 state=drain reason='a bad disc'")
    job = submit(planner, "slurm-account-002", "--mem=100M --time=30 --nodelist=desktop-1", UNTIL_TOLD)
    worker = members("kubernetes_nodes")[1]
    pod_on(kube, worker, job_image)
    try:
        associations = slurm.check_output(ASSOCIATIONS)
        accounted = slurm.check_output("sacct -XnP -a -s CD -S now-1day -E now -o jobid,account,end")
        objects = kubernetes_records(kubectl)
        pod = kubectl("get pod -n k8s-namespace-001 goes-on")["status"]["containerStatuses"][0]
        rebuilt(of_group("slurm_controllers"), members("kubernetes_nodes")[0])
        assert slurm.check_output(ASSOCIATIONS) == associations
        assert set(accounted.splitlines()) <= set(
            slurm.check_output("sacct -XnP -a -s CD -S now-1day -E now -o jobid,account,end").splitlines()
        )
        # A node that somebody took out of use still is, for the same reason.
        assert slurm.check_output("sinfo -h -N -n desktop-2 -o '%t %E'") == "drain a bad disc"
        # Jobs on machines that stayed went on.
        assert slurm.check_output(f"squeue -h -j {job} -o %T") == "RUNNING"
        assert kubernetes_records(kubectl).items() >= objects.items()
        after = kubectl("get pod -n k8s-namespace-001 goes-on")["status"]["containerStatuses"][0]
        assert (after["containerID"], after["restartCount"]) == (pod["containerID"], pod["restartCount"])
        assert [n["spec"].get("unschedulable") for n in kubectl("get nodes")["items"]] == [None, None]
    finally:
        slurm.run("scontrol update nodename=desktop-2 state=resume")
        kube.run(f"{test_network.KUBECTL} delete pod -n k8s-namespace-001 goes-on --now")
        planner.check_output(f"sudo -u slurm-account-002 touch /mnt/storage/jobs/slurm-account-002/stop-{job}")
    assert ended(planner, job) == "COMPLETED"
    kept()
    run = caesar_vote("run", "--json", "--only", "k8s-namespace-001", "--outdir", str(tmp_path), str(fits))
    assert run.returncode == 0, run.stdout + run.stderr


@MINUTES
@pytest.mark.timeout(1500)
def test_rebuilt_machines_keep_what_was_recorded(
    planner: Host, slurm: Host, kubectl: Callable[[str], Any], caesar_vote: Command, fits: Path, tmp_path: Path,
    kept: Callable[[], None],
) -> None:  # fmt: skip
    services, worker = of_group("planners"), members("kubernetes_nodes")[1]
    first = caesar_vote("run", "--json", "--only", "slurm-account-001", "--outdir", str(tmp_path / "a"), str(fits))
    assert first.returncode == 0, first.stdout + first.stderr
    job = submit(planner, "slurm-account-002", "--mem=100M --time=5 --nodelist=desktop-1", "sleep 20")
    associations = slurm.check_output(ASSOCIATIONS)
    node = kubectl(f"get node {worker}")["metadata"]["uid"]
    rebuilt(COMPUTE, services, worker)
    # What ran there was let end.
    assert ended(planner, job) == "COMPLETED"
    assert slurm.check_output(ASSOCIATIONS) == associations
    states = set(slurm.check_output("sinfo -h -N -o %t").split())
    assert states == {"idle"}, states
    # The node came back as itself: it did not join a second time.
    found = kubectl(f"get node {worker}")
    assert found["metadata"]["uid"] == node
    assert found["spec"].get("unschedulable") is None
    # Ballots, ledgers and outputs are known to the new voter and the new planners.
    ballot = json.loads(first.stdout)["id"]
    again = caesar_vote("outputs", "--outdir", str(tmp_path / "b"), ballot)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {file.name for file in (tmp_path / "a").iterdir()} == {file.name for file in (tmp_path / "b").iterdir()}
    kept()
    second = play("site.yml", *CAESAR_REST)
    assert second.returncode == 0, second.stdout[-4000:]
    assert set(re.findall(r" changed=(\d+) ", second.stdout)) == {"0"}, second.stdout[-4000:]
