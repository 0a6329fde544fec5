"""NetworkPolicy is enforced, not only stored: the bridge plugin alone would let everything through."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from handles import STATE
from testinfra.host import Host

KUBECTL = "env KUBECONFIG=/etc/kubernetes/admin.conf kubectl"
NAMESPACE = "k8s-namespace-001"


@pytest.fixture(scope="module")
def dns(kubectl: Callable[[str], Any]) -> str:
    """A pod's address in another namespace that answers on a TCP port: CoreDNS, port 8181 (ready)."""
    pods = kubectl("get pods -n kube-system -l k8s-app=kube-dns")["items"]
    return str(pods[0]["status"]["podIP"])


@pytest.fixture
def free_namespace(kube: Host) -> Iterator[str]:
    """A namespace without any policy, made for the test."""
    name = f"policy-test-{time.time_ns() % 10**8}"
    kube.check_output(f"{KUBECTL} create namespace {name}")
    yield name
    kube.check_output(f"{KUBECTL} delete namespace {name} --wait=false")


def reaches(kube: Host, namespace: str, image: str, address: str, port: int, node: str | None = None) -> bool:
    """Whether a pod of the job image, with python3, gets a TCP connection; `node` is where it must run."""
    name = f"probe-{time.time_ns() % 10**8}"
    program = f"import socket; socket.create_connection(('{address}', {port}), 3).close(); print('reached')"
    described = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "nodeName": node,
            "securityContext": {"runAsUser": 20101, "runAsGroup": 20101},
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "imagePullPolicy": "Never",
                    "command": ["/usr/bin/python3", "-c", program],
                    "resources": {
                        "limits": {"cpu": "1", "memory": "1Gi"},
                        "requests": {"cpu": "10m", "memory": "16Mi"},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                        "runAsNonRoot": True,
                        "runAsUser": 20101,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                }
            ],
        },
    }
    quoted = json.dumps(described).replace("'", "'\\''")
    kube.check_output(f"echo '{quoted}' | {KUBECTL} apply -n {namespace} -f -")
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            phase = kube.check_output(f"{KUBECTL} get pod {name} -n {namespace} -o jsonpath={{.status.phase}}")
            if phase in ("Succeeded", "Failed"):
                return phase == "Succeeded"
            time.sleep(0.2)  # a pod's end is polled: kubectl wait knows one condition at a time
        raise AssertionError(f"pod {name} is {phase} after two minutes")
    finally:
        kube.run(f"{KUBECTL} delete pod {name} -n {namespace} --grace-period=0 --force")


@pytest.fixture(scope="module")
def job_image() -> str:
    """The image that all nodes have."""
    return str(yaml.safe_load((STATE / "images.yml").read_text())["images"][0]["kubernetes"])


def test_a_job_reaches_no_other_namespace(kube: Host, dns: str, job_image: str) -> None:
    assert not reaches(kube, NAMESPACE, job_image, dns, 8181)


def test_without_a_policy_it_would(kube: Host, dns: str, job_image: str, free_namespace: str) -> None:
    """The counterpart: were the address never reachable, the test above could not fail."""
    assert reaches(kube, free_namespace, job_image, dns, 8181)
