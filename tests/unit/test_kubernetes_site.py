"""What an existing cluster is found to lack, against a small API server."""

from __future__ import annotations

from typing import Any

import kubernetes_site as module
import pytest
from ansible.module_utils.kubernetes_api import ApiError
from ansible.module_utils.kubernetes_rights import Right

Object = dict[str, Any]


class Cluster:
    """Grants all rights but some, and has some objects by path."""

    def __init__(self, denied: tuple[tuple[str, str], ...] = (), objects: dict[str, Object] | None = None) -> None:
        self.denied, self.objects, self.written = denied, objects or {}, 0

    def request(self, method: str, path: str, *, body: Any = None) -> Object:
        if path == module.REVIEWS:
            asked = body["spec"]["resourceAttributes"]
            return {"status": {"allowed": (asked["verb"], asked["resource"]) not in self.denied}}
        assert method == "GET"
        if path not in self.objects:
            raise ApiError(404, "not found")
        return self.objects[path]


def faults(cluster: Cluster, **changes: Any) -> list[str]:
    parameters = {
        "platform": "kube",
        "instance": "caesar",
        "namespaces": ["vp-1", "vp-2"],
        "storage": {"volume": "scratch-{name}"},
        "services": "",
        "services_storage": {},
    } | changes
    return module.faults(cluster, parameters)  # type: ignore[arg-type, no-any-return, unused-ignore]


def volume(**changes: Any) -> Object:
    return {"metadata": {}, "spec": {"accessModes": ["ReadWriteMany"]}, "status": {"phase": "Available"}} | changes


VOLUMES = {f"/api/v1/persistentvolumes/scratch-vp-{number}": volume() for number in (1, 2)}


def test_nothing_is_wrong() -> None:
    assert faults(Cluster(objects=VOLUMES)) == []


def test_all_faults_at_once() -> None:
    theirs = {"/api/v1/namespaces/vp-2": {"metadata": {"labels": {"app": "other"}}}}
    found = faults(Cluster((("create", "namespaces"), ("list", "secrets")), theirs))
    assert len(found) == 4
    assert "create namespaces; list secrets (named planner-token)" in found[0]
    assert "vp-2" in found[1]
    assert "scratch-vp-1 is not there" in found[2]


def test_caesar_rest_needs_more() -> None:
    ours = {"/api/v1/namespaces/rest": {"metadata": {"labels": module.service_labels("caesar")}}}
    shared = volume(spec={"accessModes": ["ReadWriteMany"], "claimRef": {"namespace": "rest", "name": "shared"}})
    there = VOLUMES | ours | {"/api/v1/persistentvolumes/scratch-rest": shared}
    assert faults(Cluster(objects=there), services="rest") == []
    [found] = faults(Cluster((("create", "pods"), ("patch", "deployments")), there), services="rest")
    assert "create pods/portforward (named mongodb-0)" in found
    assert "patch deployments.apps (named caesar-rest, caesar-rest-jobmonitor)" in found
    assert "caesar-testbed-operator-services" in found
    theirs = there | {"/api/v1/namespaces/rest": {"metadata": {}}}
    [found] = faults(Cluster(objects=theirs), services="rest")
    assert "namespace rest already" in found
    [found] = faults(Cluster(objects=VOLUMES), services="rest")
    assert "volume scratch-rest is not there" in found


def test_the_volume_of_caesar_rest_may_come_from_elsewhere() -> None:
    assert faults(Cluster(objects=VOLUMES), services="rest", services_storage={"host_path": "/x"}) == []
    may_not = Cluster((("create", "persistentvolumes"),), VOLUMES)
    [found] = faults(may_not, services="rest", services_storage={"host_path": "/x"})
    assert "caesar_rest_platform is set, and its user may not: create persistentvolumes." in found
    assert "bind caesar-testbed-operator-services and caesar-testbed-operator-volumes of" in found
    [found] = faults(may_not, services="rest", services_storage={"volume": "other"})
    assert found.startswith("caesar_rest_storage: volume other is not there;")
    # Once is enough where the platforms' volumes are made here, too.
    [found] = faults(may_not, services="rest", storage={"host_path": "/x"})
    assert "bind caesar-testbed-operator and caesar-testbed-operator-volumes of" in found


def test_own_namespaces_are_no_strangers() -> None:
    ours = {"/api/v1/namespaces/vp-1": {"metadata": {"labels": module.labels("caesar")}}}
    assert faults(Cluster(objects=VOLUMES | ours)) == []


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (volume(status={"phase": "Released"}), "is Released"),
        (volume(spec={"accessModes": ["ReadWriteOnce"]}), "not ReadWriteMany"),
        (
            volume(spec={"accessModes": ["ReadWriteMany"], "claimRef": {"namespace": "x", "name": "y"}}),
            "claimed by x/y",
        ),
    ],
)
def test_volumes_that_cannot_be_claimed(item: Object, words: str) -> None:
    [found] = faults(Cluster(objects=VOLUMES | {"/api/v1/persistentvolumes/scratch-vp-1": item}))
    assert words in found


def test_volumes_that_may_not_be_seen_are_not_asked_for() -> None:
    assert faults(Cluster((("get", "persistentvolumes"),))) == []


def test_a_class_that_is_not_there() -> None:
    [found] = faults(Cluster(), storage={"storage_class": "fast"})
    assert "no storage class fast" in found


def test_a_server_that_fails_is_not_taken_for_one_that_has_nothing() -> None:
    class Down(Cluster):
        def request(self, method: str, path: str, *, body: Any = None) -> Object:
            raise ApiError(0, "does not answer")

    with pytest.raises(ApiError):
        module.lacking(Down(), [Right("", "pods", "list")])  # type: ignore[arg-type, unused-ignore]
