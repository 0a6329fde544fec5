"""What runs where is said by the inventory's groups alone, and what is apart works together."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_network
from handles import PHYSICAL, PLATFORMS, machine, members
from test_slurm import ended, submit
from testinfra.host import Host

Command = Callable[..., subprocess.CompletedProcess[str]]
# Its fixtures: the address of CoreDNS, a namespace without a policy, the jobs' image.
dns, free_namespace, job_image = test_network.dns, test_network.free_namespace, test_network.job_image
[COUNTS] = [physical["nodes"] for physical in PHYSICAL.values() if physical["kind"] == "slurm"]


def test_virtual_nodes_run_on_the_compute_machines_alone(slurm: Host) -> None:
    found = [name for host in members("slurm_nodes") for name in running_nodes(machine(host))]
    assert len(found) == len(set(found)) == sum(COUNTS.values())
    assert running_nodes(slurm) == running_nodes(machine(members("planners")[0])) == []
    assert all(running_nodes(machine(host)) for host in members("slurm_nodes"))


def running_nodes(host: Host) -> list[str]:
    listed = host.check_output("systemctl list-units --plain --no-legend --state=running 'slurmd@*'")
    return [line.split()[0] for line in listed.splitlines()]


@pytest.mark.parametrize("host", members("slurm_nodes"))
def test_each_compute_machine_runs_jobs_and_gives_back_what_they_wrote(planner: Host, host: str) -> None:
    unit = running_nodes(machine(host))[0]
    node = unit.removeprefix("slurmd@").removesuffix(".service").replace("\\x2d", "-")
    job = submit(planner, "slurm-account-001", f"--mem=100M --time=1 --nodelist={node}", "uname -n; id -un")
    assert ended(planner, job) == "COMPLETED"
    written = planner.check_output(f"cat /mnt/storage/jobs/slurm-account-001/{job}.log").split()
    assert written == [host, "slurm-account-001"]


def test_every_node_of_kubernetes_is_ready_and_the_first_is_the_control_plane(kubectl: Callable[[str], Any]) -> None:
    nodes = {node["metadata"]["name"]: node for node in kubectl("get nodes")["items"]}
    first, *others = members("kubernetes_nodes")
    assert set(nodes) == {first, *others}
    for node in nodes.values():
        assert {c["type"]: c["status"] for c in node["status"]["conditions"]}["Ready"] == "True"
    role = "node-role.kubernetes.io/control-plane"
    assert [name for name, node in nodes.items() if role in node["metadata"]["labels"]] == [first]


def test_a_node_that_joined_has_nothing_of_the_administrators(kubectl: Callable[[str], Any]) -> None:
    worker = machine(members("kubernetes_nodes")[1])
    assert not worker.file("/etc/kubernetes/admin.conf").exists
    assert not worker.file("/etc/kubernetes/pki/ca.key").exists
    assert not worker.file("/run/kubeadm-join.yaml").exists
    run = worker.run("kubectl --kubeconfig /etc/kubernetes/kubelet.conf get secrets --all-namespaces")
    assert run.rc != 0
    assert "orbidden" in run.stderr


def test_a_pod_reaches_one_on_another_node(kube: Host, dns: str, job_image: str, free_namespace: str) -> None:
    for node in members("kubernetes_nodes"):
        assert test_network.reaches(kube, free_namespace, job_image, dns, 8181, node), node


def test_a_policy_holds_from_another_node_too(kube: Host, dns: str, job_image: str) -> None:
    worker = members("kubernetes_nodes")[1]
    assert not test_network.reaches(kube, test_network.NAMESPACE, job_image, dns, 8181, worker)


def test_a_pod_of_another_node_is_seen_as_itself(
    kube: Host, kubectl: Callable[[str], Any], job_image: str, free_namespace: str
) -> None:
    """Hidden behind its node, a pod could not be told from others by any policy."""
    first, other = members("kubernetes_nodes")[:2]
    serve = (
        "import socket; s = socket.create_server(('', 8000))\n"
        "while True:\n c, a = s.accept(); print(a[0], flush=True); c.close()"
    )
    described = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "server", "labels": {"app": "server"}},
        "spec": {
            "nodeName": first,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "main",
                    "image": job_image,
                    "imagePullPolicy": "Never",
                    "command": ["/usr/bin/python3", "-c", serve],
                }
            ],
        },
    }
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "only-friends"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "server"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}],
        },
    }
    apply(kube, free_namespace, described)
    wait = f"{test_network.KUBECTL} wait -n {free_namespace} pod/server --for=condition=Ready --timeout=60s"
    kube.check_output(wait)
    address = kubectl(f"get pod server -n {free_namespace}")["status"]["podIP"]
    assert test_network.reaches(kube, free_namespace, job_image, address, 8000, other)
    seen = kube.check_output(f"{test_network.KUBECTL} logs -n {free_namespace} server").split()
    assert seen, "nobody came"
    assert all(each.startswith("10.244.1.") for each in seen), seen
    apply(kube, free_namespace, policy)
    deadline = time.monotonic() + 30  # the policies' watcher tells nobody when it has seen one
    while test_network.reaches(kube, free_namespace, job_image, address, 8000, other):
        assert time.monotonic() < deadline, "the policy is not kept"


def apply(kube: Host, namespace: str, described: dict[str, Any]) -> None:
    quoted = json.dumps(described).replace("'", "'\\''")
    kube.check_output(f"echo '{quoted}' | {test_network.KUBECTL} apply -n {namespace} -f -")


def test_a_job_is_voted_on_for_each_kind_of_platform(caesar_vote: Command, fits: Path, tmp_path: Path) -> None:
    for name in ("slurm-account-002", "k8s-namespace-002"):
        assert name in [platform["name"] for platform in PLATFORMS]
        run = caesar_vote(
            "run", "--json", "--only", name, "--app", "aegean", "--outdir", str(tmp_path / name), str(fits)
        )
        assert run.returncode == 0, run.stdout + run.stderr
        assert json.loads(run.stdout)["winner"]["planner"] == name
        assert list((tmp_path / name).glob("catalog-*.json"))
