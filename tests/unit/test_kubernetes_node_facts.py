"""What a node says of itself is read right."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def load() -> ModuleType:
    path = Path(__file__).parents[2] / "roles" / "kubernetes_cluster" / "library" / "kubernetes_node_facts.py"
    spec = importlib.util.spec_from_file_location("kubernetes_node_facts", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


facts = load()


@pytest.mark.parametrize(
    ("files", "version"),
    [(["cgroup.controllers"], "v2"), (["unified/cgroup.procs", "memory/tasks"], "hybrid"), (["memory/tasks"], "v1")],
)
def test_cgroups(tmp_path: Path, files: list[str], version: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert facts.cgroups(tmp_path) == version


@pytest.mark.parametrize(("mask", "has"), [("000001ffffffffff", True), ("000001fffeffffff", False)])
def test_the_bounding_set_decides_about_oom_scores(mask: str, has: bool) -> None:
    assert facts.has_capability(24, f"Name:\tpython3\nCapEff:\t0\nCapBnd:\t{mask}\n") is has


def test_a_removed_package_is_missing() -> None:
    report = "containerd installed\nrunc config-files\n"
    assert facts.missing_packages(["containerd", "runc", "socat"], report) == ["runc", "socat"]


def node(status: str, message: str = "") -> dict[str, Any]:
    return {"status": {"conditions": [{"type": "Ready", "status": status, "message": message}]}}


@pytest.mark.parametrize(
    ("of_node", "of_dns", "reason"),
    [
        (node("True"), {"status": {"availableReplicas": 1}}, ""),
        (node("True"), {"status": {}}, "CoreDNS has no ready pod"),
        (node("False", "no CNI"), {"status": {"availableReplicas": 1}}, "the node is not Ready: no CNI"),
        ({}, {}, "the node is not Ready: it has not said anything yet"),
    ],
)
def test_why_it_is_not_ready(of_node: dict[str, Any], of_dns: dict[str, Any], reason: str) -> None:
    assert facts.not_ready(of_node, of_dns) == reason


def test_a_node_that_joined_says_nothing_of_the_name_service() -> None:
    assert facts.not_ready(node("True"), None) == ""
    assert facts.not_ready(node("False", "no CNI"), None) == "the node is not Ready: no CNI"


def test_the_version_of_a_control_plane_is_that_of_its_api_server() -> None:
    manifest = "spec:\n  containers:\n  - name: kube-apiserver\n    image: registry.k8s.io/kube-apiserver:v1.36.3\n"
    assert facts.control_plane_version(manifest) == "v1.36.3"
    assert facts.control_plane_version("kind: Pod\n") == ""
