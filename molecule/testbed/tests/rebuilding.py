"""What the tests share that make machines anew or upgrade them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from handles import INVENTORY, NAME, PLATFORMS, PROJECT, as_operator, machine
from testinfra.host import Host

ASSOCIATIONS = "sacctmgr -nP show assoc format=account,user,grptres,maxtres,maxwall"
MINUTES = pytest.mark.skipif("CAESAR_REBUILD" not in os.environ, reason="takes minutes: CAESAR_REBUILD=1 runs it")
#: Ends when somebody says so, so that it spans whatever is done meanwhile.
UNTIL_TOLD = "until [ -e stop-$SLURM_JOB_ID ]; do sleep 0.5; done"


def play(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook that may take minutes, as the operator would who answers no question."""
    return subprocess.run(
        [PROJECT / ".venv/bin/ansible-playbook", name, "-i", INVENTORY, "-e", f"testbed_name={NAME}", *arguments],
        cwd=PROJECT,
        env=as_operator(),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        stdin=subprocess.DEVNULL,
    )


def made_at(name: str) -> str:
    """When a machine was made: its host key is written then."""
    return machine(name).check_output("stat --format=%y /etc/ssh/ssh_host_ed25519_key")


def write_down(kube: Host, name: str) -> None:
    """Put an object into a platform's namespace that no run of a playbook would make again."""
    kubectl = "KUBECONFIG=/etc/kubernetes/admin.conf kubectl -n k8s-namespace-001"
    kube.check_output(
        f"{kubectl} create configmap {name} --from-literal=said={name} --dry-run=client -o yaml | {kubectl} apply -f -"
    )


def kubernetes_records(kubectl: Callable[[str], Any]) -> dict[str, Any]:
    """What a control plane must bring back: the cluster itself, its objects, who may do what and what was written."""
    names = "namespaces,resourcequotas,limitranges,serviceaccounts,roles,networkpolicies,configmaps"
    platforms = {platform["name"] for platform in PLATFORMS}
    found = {}
    for each in kubectl(f"get {names} --all-namespaces")["items"]:
        about = each["metadata"]
        said = [each.get(part) for part in ("spec", "rules", "data")] if about.get("namespace") in platforms else []
        found[f"{each['kind']} {about.get('namespace')}/{about['name']}"] = [about["uid"], *said]
    return found
