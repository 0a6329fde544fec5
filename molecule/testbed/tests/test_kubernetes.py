"""The Kubernetes that was put up enforces quota, limits, Pod Security and network policies in each namespace."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from handles import PLATFORMS
from testinfra.host import Host

NAMESPACES = [platform for platform in PLATFORMS if platform["physical_platform"] == "kube"]
KUBECTL = "env KUBECONFIG=/etc/kubernetes/admin.conf kubectl"


def pod(name: str, cores: int, memory_gib: int, uid: int = 20101, **security: Any) -> str:
    """A pod that Pod Security's profile restricted and the platform of this user take, but for what is given."""
    context = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": uid,
        "seccompProfile": {"type": "RuntimeDefault"},
    } | security
    limits = {"cpu": str(cores), "memory": f"{memory_gib}Gi"}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "securityContext": {"runAsUser": uid, "runAsGroup": uid},
                "containers": [
                    {
                        "name": "main",
                        "image": "registry.k8s.io/pause:3.10.2",
                        "imagePullPolicy": "Never",
                        "securityContext": context,
                        "resources": {"limits": limits, "requests": {"cpu": "10m", "memory": "16Mi"}},
                    }
                ],
            },
        }
    )


def test_the_node_is_ready_and_its_own_pods_run(kubectl: Callable[[str], Any]) -> None:
    conditions = {c["type"]: c["status"] for c in kubectl("get node kube")["status"]["conditions"]}
    assert conditions["Ready"] == "True"
    phases = {p["metadata"]["name"]: p["status"]["phase"] for p in kubectl("get pods -n kube-system")["items"]}
    assert phases
    assert set(phases.values()) == {"Running"}, phases


@pytest.mark.parametrize("platform", NAMESPACES, ids=lambda platform: platform["name"])
def test_a_pod_above_the_limit_is_refused(kube: Host, platform: dict[str, Any]) -> None:
    limits = platform["limits"]
    for cores, memory in ((limits["cores"] + 1, 1), (1, limits["memory_gib"] + 1)):
        described = pod("over", cores, memory, platform["uid"])
        run = kube.run(f"echo '{described}' | {KUBECTL} apply -n {platform['name']} --dry-run=server -f -")
        assert run.rc != 0
        assert "per Container is" in run.stderr or "exceeded quota" in run.stderr, run.stderr


@pytest.mark.parametrize("platform", NAMESPACES, ids=lambda platform: platform["name"])
def test_a_pod_within_the_limit_is_admitted(kube: Host, platform: dict[str, Any]) -> None:
    limits = platform["limits"]
    described = pod("fits", limits["cores"], limits["memory_gib"], platform["uid"])
    kube.check_output(f"echo '{described}' | {KUBECTL} apply -n {platform['name']} --dry-run=server -f -")


def test_the_quota_counts_what_runs(kube: Host, kubectl: Callable[[str], Any]) -> None:
    """Pods of 2 cores under a quota of 4: the third is refused although each is within the limit."""
    namespace = "k8s-namespace-001"
    names = ["quota-1", "quota-2", "quota-3"]
    try:
        for name in names[:2]:
            kube.check_output(f"echo '{pod(name, 2, 1)}' | {KUBECTL} apply -n {namespace} -f -")
        run = kube.run(f"echo '{pod(names[2], 2, 1)}' | {KUBECTL} apply -n {namespace} -f -")
        assert run.rc != 0
        assert "exceeded quota" in run.stderr
        assert kubectl(f"get resourcequota quota -n {namespace}")["status"]["used"]["limits.cpu"] == "4"
    finally:
        kube.run(f"{KUBECTL} delete pod -n {namespace} --grace-period=0 --force {' '.join(names)}")


@pytest.mark.parametrize(
    "security",
    [
        {"runAsUser": 0, "runAsNonRoot": False},
        {"privileged": True, "allowPrivilegeEscalation": True},
        {"capabilities": {"add": ["NET_ADMIN"]}},
    ],
    ids=["root", "privileged", "capability"],
)
def test_pod_security_refuses(kube: Host, security: dict[str, Any]) -> None:
    run = kube.run(
        f"echo '{pod('bad', 1, 1, **security)}' | {KUBECTL} apply -n k8s-namespace-001 --dry-run=server -f -"
    )
    assert run.rc != 0
    assert "violates PodSecurity" in run.stderr


@pytest.mark.parametrize(
    "verb", ["get secrets", "create jobs -n kube-system", "list jobs -n k8s-namespace-002", "get nodes"]
)
def test_a_planners_account_ends_at_its_namespace(kube: Host, verb: str) -> None:
    who = "--as=system:serviceaccount:k8s-namespace-001:planner"
    where = "" if " -n " in verb or "nodes" in verb else " -n k8s-namespace-001"
    assert kube.run(f"{KUBECTL} auth can-i {verb}{where} {who}").stdout.strip() == "no"
    assert kube.check_output(f"{KUBECTL} auth can-i create jobs -n k8s-namespace-001 {who}") == "yes"
