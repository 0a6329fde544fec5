"""The ClusterRole that a site is asked for is enough, and no more than enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import service_manifests as made
import yaml
from ansible.module_utils.kubernetes_rights import (
    SERVICES,
    Right,
    grants,
    missing_text,
    needed,
    needed_for_services,
)
from ansible.module_utils.object_sets import key_of

MANIFEST = Path(__file__).parents[2] / "docs/kubernetes-operator.yaml"
ROLES: dict[str, list[dict[str, Any]]] = {
    item["metadata"]["name"]: item["rules"]
    for item in yaml.safe_load_all(MANIFEST.read_text())
    if item["kind"] == "ClusterRole"
}
OPERATOR, VOLUMES = ROLES["caesar-testbed-operator"], ROLES["caesar-testbed-operator-volumes"]
OF_SERVICES = ROLES["caesar-testbed-operator-services"]
GIVEN = {"volume": "scratch-{name}"}


@pytest.mark.parametrize(
    ("storage", "rules"),
    [(GIVEN, OPERATOR), ({"storage_class": "x"}, OPERATOR), ({"host_path": "/x"}, OPERATOR + VOLUMES)],
)
def test_the_shipped_role_is_enough(storage: dict[str, Any], rules: list[dict[str, Any]]) -> None:
    assert [right for right in needed(storage) if not grants(rules, right)] == []


def test_volumes_need_the_second_role() -> None:
    lacking = [right for right in needed({"nfs": {"server": "s", "path": "/p"}}) if not grants(OPERATOR, right)]
    assert {right.resource for right in lacking} == {"persistentvolumes"}


@pytest.mark.parametrize("storage", [GIVEN, {"host_path": "/x"}])
def test_the_role_of_the_services_is_enough(storage: dict[str, Any]) -> None:
    rules = OPERATOR + OF_SERVICES + (VOLUMES if "host_path" in storage else [])
    assert [right for right in [*needed(GIVEN), *needed_for_services(storage)] if not grants(rules, right)] == []


def test_the_services_are_what_the_manifests_make() -> None:
    objects = {key_of(item)[::2] for item in made.mongodb() + made.caesar_rest()}
    assert objects == {*SERVICES, ("Namespace", "caesar-rest")}


@pytest.mark.parametrize(
    ("role", "wanted"),
    [(OPERATOR, needed(GIVEN)), (OF_SERVICES, needed_for_services(GIVEN))],
    ids=["operator", "services"],
)
def test_the_shipped_role_gives_nothing_else(role: list[dict[str, Any]], wanted: list[Right]) -> None:
    """Taking any verb, resource or name out of it leaves something undone."""
    for index, rule in enumerate(role):
        for key in ("resources", "verbs", "resourceNames"):
            for value in rule.get(key, []):
                less = rule | {key: [other for other in rule[key] if other != value]}
                if key == "resourceNames" and not less[key]:
                    continue  # an empty list would mean all names
                rest = [*role[:index], less, *role[index + 1 :]]
                assert not all(grants(rest, right) for right in wanted), f"{value} of {rule} is not needed"


def test_secrets_of_others_are_not_asked_for() -> None:
    assert {right.name for right in needed(GIVEN) if right.resource == "secrets"} == {"planner-token"}


def test_a_name_is_no_right_to_all_names() -> None:
    rules = [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["get"]}]
    assert grants(rules, Right("", "secrets", "get", "a"))
    assert not grants(rules, Right("", "secrets", "get"))
    assert not grants(rules, Right("", "secrets", "get", "b"))


def test_what_is_missing_is_one_line_for_each_resource() -> None:
    lines = missing_text(
        [Right("batch", "jobs", "create"), Right("batch", "jobs", "list"), Right("", "secrets", "get", "a")]
    )
    assert lines == ["get secrets (named a)", "create, list jobs.batch"]


def test_a_review_asks_for_the_subresource() -> None:
    assert Right("", "pods/log", "get").review["spec"]["resourceAttributes"] == {
        "group": "",
        "resource": "pods",
        "subresource": "log",
        "verb": "get",
    }
