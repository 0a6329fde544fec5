"""What filters over the inventory's list are given: plain values, and the platforms of one cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_filters
import platforms as platform_filters
import yaml
from ansible.module_utils.namespace_objects import faults
from ansible.module_utils.plain_values import of_cluster, on_plain, plain
from ansible.module_utils.platforms import resolve
from ansible.template import Templar, trust_as_template

INVENTORY: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[2] / "inventories/local/group_vars/all/platforms.yml").read_text()
)
ARGUMENTS = INVENTORY["virtual_platforms"], INVENTORY["physical_platforms"], INVENTORY["desktop_sizes"]


def test_what_ansible_hands_over_becomes_plain() -> None:
    seen: list[Any] = []
    variables = {"list": [{"port": trust_as_template("{{ 1 + 1 }}"), "names": ("a",)}]}
    templar = Templar(variables=variables)
    templar.available_variables |= {"seen": on_plain(seen.append)}
    templar.template(trust_as_template("{{ seen(list) }}"))
    assert seen == [[{"port": 2, "names": ["a"]}]]
    assert [type(seen[0]), type(seen[0][0])] == [list, dict]


def test_plain_values_are_copies() -> None:
    given = {"a": [{"b": 1}]}
    copied = plain(given)
    copied["a"][0]["b"] = 2
    assert given == {"a": [{"b": 1}]}


def test_a_function_gets_the_platforms_of_one_cluster() -> None:
    given: list[Any] = of_cluster(lambda platforms, more: [platforms, more])(*ARGUMENTS, "kube", "more")
    assert given == [[each for each in resolve(*ARGUMENTS) if each["kind"] == "kubernetes"], "more"]


def test_names_of_a_cluster_and_of_its_planners() -> None:
    virtual = [{"name": "a", "physical_platform": "x"}, {"name": "b", "physical_platform": "y"}]
    virtual += [{"name": "c", "physical_platform": "x", "planner": False}]
    virtual += [{"name": "d", "physical_platform": "x", "planner": True}]
    assert platform_filters.names(virtual, "x") == ["a", "c", "d"]
    assert platform_filters.names(virtual, "x", True) == ["a", "d"]


def test_a_namespace_is_told_what_its_module_needs() -> None:
    called = kubernetes_filters.FilterModule().filters()["kubernetes_namespace_list"]
    first, *others = called(*ARGUMENTS, "kube", 32.0)
    assert first == {
        "name": "k8s-namespace-001",
        "uid": 20101,
        "quota": {"cores": 4, "memory_gib": 16, "disc_gb": 250},
        "limits": {"cores": 4, "memory_gib": 16, "walltime_minutes": 120, "jobs": 4},
        "cpu_allocation_ratio": 32.0,
    }
    assert faults([first, *others]) == []
    assert len(others) == 2
