"""What is wrong with the database's variables is said before anything is touched."""

from __future__ import annotations

from typing import Any

import pytest
from mongodb import mongodb_faults

HERE = {"kubernetes_nodes": ["kube"]}
PLATFORMS = [{"name": "k8s-namespace-001"}]


@pytest.mark.parametrize("groups", [HERE, {}])
def test_switched_off_there_is_nothing_to_say(groups: dict[str, list[str]]) -> None:
    assert mongodb_faults({"platform": "", "engine": "nonsense"}, PLATFORMS, groups) == []


def test_the_shipped_inventory_is_right() -> None:
    said = {"platform": "kube", "namespace": "caesar-rest", "image": "", "engine": "", "storage": ""}
    assert mongodb_faults(said, PLATFORMS, HERE) == []


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"namespace": "Caesar"}, "caesar_rest_namespace is 'Caesar'"),
        ({"namespace": "kube-system"}, "caesar_rest_namespace is 'kube-system'"),
        ({"namespace": "k8s-namespace-001"}, "which is a virtual platform"),
        ({"engine": "postgres"}, "mongodb_engine is 'postgres'"),
        ({"storage": {"nfs": "x"}}, "mongodb_storage is"),
        ({"storage": {"host_path": "/x", "storage_class": "y"}}, "mongodb_storage is"),
        ({"storage": "/x"}, "mongodb_storage is '/x'"),
        ({"size": "5"}, "mongodb_storage_size is '5'"),
        ({"memory": "0Gi"}, "mongodb_memory is '0Gi'"),
    ],
)
def test_each_fault_is_named(said: dict[str, Any], told: str) -> None:
    [fault] = mongodb_faults({"platform": "kube"} | said, PLATFORMS, HERE)
    assert told in fault


def test_a_site_must_name_an_image() -> None:
    [fault] = mongodb_faults({"platform": "kube"}, PLATFORMS, {"kubernetes_nodes": []})
    assert fault.startswith("mongodb_image is empty")
    assert mongodb_faults({"platform": "kube", "image": "r.example.org/mongo:7"}, PLATFORMS, {}) == []
