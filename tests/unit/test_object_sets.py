"""Sets of Kubernetes objects: what is compared, what is shown, and why pods do not start."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest
from ansible.module_utils.object_sets import (
    KINDS,
    MANAGER,
    difference,
    kept,
    key_of,
    labels,
    ours,
    parse,
    path_of,
    pod_troubles,
    same,
    spent,
    waits_for,
    warnings,
)
from hypothesis import given
from hypothesis import strategies as st

Object = dict[str, Any]
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: here}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      hostNetwork: false
      containers:
        - name: web
          image: web:1
          env: [{name: A, value: "1"}]
          ports: [{containerPort: 80, name: http}]
          resources: {requests: {cpu: 0.5, memory: 1024Mi}, limits: {memory: 1Gi}}
          volumeMounts: [{name: tmp, mountPath: /tmp}]
      volumes: [{name: tmp, emptyDir: {sizeLimit: 1024Mi}}]
"""
SECRET = """
apiVersion: v1
kind: Secret
metadata: {name: password, namespace: here}
stringData: {password: open sesame, other: x}
"""


def one(text: str) -> Object:
    [item] = parse(text, "caesar")
    return item


def as_kept(item: Object) -> Object:
    """What a server gives back for it: defaults, other spellings, nothing that is empty."""
    found = copy.deepcopy(item)
    found["metadata"] |= {"uid": "1", "resourceVersion": "7", "managedFields": []}
    template = found["spec"]["template"]["spec"]
    del template["hostNetwork"]
    template["restartPolicy"] = "Always"
    container = template["containers"][0]
    container["ports"][0]["protocol"] = "TCP"
    container["resources"]["requests"] = {"cpu": "500m", "memory": "1Gi"}
    template["volumes"][0]["emptyDir"]["sizeLimit"] = "1Gi"
    return found


def test_what_the_server_adds_and_spells_in_its_way_is_no_difference() -> None:
    wanted = one(DEPLOYMENT)
    assert same(as_kept(wanted), wanted)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (("image",), "web:2"),
        (("resources", "limits", "memory"), "2Gi"),
        (("env",), []),
        (("env",), [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]),
        (("env", 0, "value"), 1),
        (("ports", 0, "containerPort"), 81),
        (("volumeMounts", 0, "readOnly"), True),
    ],
)
def test_what_the_manifest_says_otherwise_is_a_difference(field: tuple[Any, ...], value: Any) -> None:
    wanted = one(DEPLOYMENT)
    found = as_kept(wanted)
    place: Any = wanted["spec"]["template"]["spec"]["containers"][0]
    for step in field[:-1]:
        place = place[step]
    place[field[-1]] = value
    assert not same(found, wanted)


def owned(*names: str) -> list[Object]:
    """Entries of managedFields: we own the container's name and these fields of it."""
    fields: Object = {f"f:{name}": {} for name in ("name", *names)}
    container = {'k:{"name":"web"}': {".": {}, **fields}}
    spec = {"f:spec": {"f:template": {"f:spec": {"f:containers": container}}}}
    return [{"manager": MANAGER, "operation": "Apply", "fieldsV1": spec}]


def test_what_an_earlier_manifest_said_is_taken_back() -> None:
    wanted = one(DEPLOYMENT)
    found = as_kept(wanted)
    found["metadata"]["managedFields"] = owned("image")
    assert same(found, wanted)
    found["metadata"]["managedFields"] = owned("image", "livenessProbe")
    assert not same(found, wanted)
    # What others own stays theirs.
    found["metadata"]["managedFields"][0]["manager"] = "kubectl"
    assert same(found, wanted)


def test_a_list_item_of_ours_that_left_is_a_difference() -> None:
    wanted = one(DEPLOYMENT)
    found = as_kept(wanted)
    fields = {'k:{"containerPort":80,"protocol":"TCP"}': {"f:containerPort": {}}, 'k:{"containerPort":81}': {}}
    found["metadata"]["managedFields"] = owned()
    container = found["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:template"]["f:spec"]["f:containers"]
    container['k:{"name":"web"}']["f:ports"] = fields
    assert not same(found, wanted)
    del fields['k:{"containerPort":81}']
    assert same(found, wanted)


def test_texts_of_a_secret_are_what_the_server_keeps() -> None:
    item = one(SECRET)
    assert "stringData" not in item
    assert base64.b64decode(item["data"]["password"]) == b"open sesame"


@given(
    st.dictionaries(st.sampled_from("abc"), st.text(min_size=4, max_size=12)),
    st.dictionaries(st.sampled_from("abc"), st.text(min_size=4, max_size=12)),
)
def test_a_difference_never_shows_a_secret(before: dict[str, str], after: dict[str, str]) -> None:
    def secret(values: dict[str, str]) -> Object:
        data = {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}
        return one(SECRET) | {"data": data}

    shown = difference(secret(before), secret(after))
    told = shown["before"] + shown["after"]
    assert ("(hidden, new)" in told) == any(before.get(name) != value for name, value in after.items())
    for values in (before, after):
        for name in values:
            assert base64.b64encode(values[name].encode()).decode() not in told
            assert f"{name}: (hidden" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "no YAML in line"),
        ("- 1", "manifest 1 is no mapping"),
        ("kind: Pot\nmetadata: {name: x}", "of the kind 'Pot'"),
        ("apiVersion: v1\nkind: Secret\nmetadata: {}", "has no metadata.name"),
        ("apiVersion: v1\nkind: Secret\nmetadata: {name: x}", "needs a metadata.namespace"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: x, namespace: y}", "cannot have a metadata.namespace"),
        ("apiVersion: v1beta1\nkind: Secret\nmetadata: {name: x, namespace: y}", "must have the apiVersion v1"),
        (SECRET + "---\n" + SECRET, "manifest 2 is a second Secret here/password"),
    ],
)
def test_manifests_that_are_wrong_are_refused_without_their_contents(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        parse(text, "caesar")
    assert "sesame" not in str(error.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ValueError, match=r"manifest 1 .*; manifest 3 "):
        parse("kind: Pot\n---\n" + SECRET + "\n---\n- 2\n", "caesar")


def test_objects_are_known_by_their_labels_and_are_not_virtual_platforms() -> None:
    from ansible.module_utils.namespace_objects import labels as of_platforms

    item = one(SECRET)
    assert ours(item, "caesar")
    assert not ours(item, "other")
    # Else the module of the platforms would delete them: they are not in its list.
    assert not of_platforms("caesar").items() <= labels("caesar").items()


def test_where_objects_are() -> None:
    assert path_of("Namespace", "", "a") == "/api/v1/namespaces/a"
    assert path_of("StatefulSet", "here", "db") == "/apis/apps/v1/namespaces/here/statefulsets/db"
    assert all(version and plural.islower() for version, plural, _ in KINDS.values())
    assert key_of(one(SECRET)) == ("Secret", "here", "password")


def workload(kind: str, status: Object, generation: int = 2, replicas: int = 2) -> Object:
    metadata = {"name": "w", "namespace": "here", "generation": generation}
    return {"kind": kind, "metadata": metadata, "spec": {"replicas": replicas}, "status": status}


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (workload("Deployment", {"observedGeneration": 1}), "not been seen"),
        (workload("Deployment", {"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2}), "1 of its former"),
        (workload("Deployment", {"observedGeneration": 2, "updatedReplicas": 1}), "1 of 2 pods of the new kind"),
        (
            workload("Deployment", {"observedGeneration": 2, "updatedReplicas": 2, "readyReplicas": 2}),
            "0 of 2 pods ready",  # ready is not yet available
        ),
        (
            workload(
                "Deployment",
                {"observedGeneration": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2},
            ),
            "",
        ),
        (workload("Deployment", {"observedGeneration": 2}, replicas=0), ""),
        (
            workload(
                "StatefulSet",
                {"observedGeneration": 2, "readyReplicas": 2, "currentRevision": "a", "updateRevision": "b"},
            ),
            "0 of 2 pods of the new kind",
        ),
        (
            workload(
                "StatefulSet",
                {"observedGeneration": 2, "readyReplicas": 1, "currentRevision": "b", "updateRevision": "b"},
            ),
            "1 of 2 pods ready",
        ),
        (
            workload(
                "StatefulSet",
                {"observedGeneration": 2, "readyReplicas": 2, "currentRevision": "b", "updateRevision": "b"},
            ),
            "",
        ),
        (
            workload(
                "DaemonSet",
                {"observedGeneration": 2, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberReady": 2},
            ),
            "2 of 3 pods ready",
        ),
    ],
)
def test_what_a_workload_lacks(item: Object, told: str) -> None:
    assert told in waits_for(item)
    assert bool(told) == bool(waits_for(item))


def pod(**status: Any) -> Object:
    return {"metadata": {"name": "w-0"}, "status": status}


@pytest.mark.parametrize(
    ("status", "told", "hopeless"),
    [
        (
            {"name": "db", "state": {"waiting": {"reason": "ErrImageNeverPull", "message": "not present"}}},
            "ErrImageNeverPull, not present",
            True,
        ),
        (
            {
                "name": "db",
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}},
            },
            "CrashLoopBackOff, ended with 3 (Error)",
            False,
        ),
        ({"name": "db", "state": {"running": {}}, "ready": False}, "runs and is not ready", False),
    ],
)
def test_a_container_says_why(status: Object, told: str, hopeless: bool) -> None:
    assert pod_troubles([pod(containerStatuses=[status])]) == [("w-0", f"container db: {told}", hopeless)]


def test_a_pod_without_containers_says_why() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node fits"}
    assert pod_troubles([pod(conditions=[condition])]) == [("w-0", "Unschedulable: no node fits", False)]


def test_containers_that_are_well_say_nothing() -> None:
    done = {"name": "init", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
    assert pod_troubles([pod(initContainerStatuses=[done], containerStatuses=[{"name": "a", "ready": True}])]) == []


def test_the_last_warnings_of_a_workload_and_of_what_it_made() -> None:
    def event(name: str, message: str, when: str, kind: str = "Warning") -> Object:
        involved = {"name": name}
        return {"type": kind, "reason": "R", "message": message, "lastTimestamp": when, "involvedObject": involved}

    events = [
        event("web", "old", "1"),
        event("web-5d4-x", "new", "2"),
        event("web-5d4-x", "new", "3"),
        event("website", "another's", "4"),
        event("web", "fine", "5", "Normal"),
    ]
    assert warnings(events, "web") == ["R: new", "R: old"]


def test_a_volume_keeps_the_claim_that_it_is_bound_to() -> None:
    wanted = one("""
apiVersion: v1
kind: PersistentVolume
metadata: {name: disc}
spec: {capacity: {storage: 5Gi}, claimRef: {kind: PersistentVolumeClaim, namespace: here, name: data}}
""")
    bound = copy.deepcopy(wanted)
    bound["spec"]["claimRef"]["uid"] = "7"
    assert kept(bound, wanted)["spec"]["claimRef"]["uid"] == "7"
    assert "uid" not in wanted["spec"]["claimRef"]
    # One that is another's is not kept.
    bound["spec"]["claimRef"]["name"] = "other"
    assert kept(bound, wanted) == wanted
    assert not spent(bound | {"status": {"phase": "Bound"}})
    assert spent(bound | {"status": {"phase": "Released"}})
    assert not spent(one(DEPLOYMENT) | {"status": {"phase": "Released"}})
