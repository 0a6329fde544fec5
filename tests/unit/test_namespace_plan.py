"""Namespaces of virtual platforms: what they are, how they differ, what is done, and what is left alone."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import pytest
from ansible.module_utils.namespace_objects import (
    KINDS,
    Key,
    comparable,
    desired_objects,
    faults,
    labels,
    quantity,
    selector,
)
from ansible.module_utils.namespace_plan import disturbed, make_plan, refusals
from hypothesis import given
from hypothesis import strategies as st

Object = dict[str, Any]


def platform(name: str = "vp-1", **changes: Any) -> Object:
    return {
        "name": name,
        "uid": 20101,
        "quota": {"cores": 16, "memory_gib": 64, "disc_gb": 1000},
        "limits": {"cores": 8, "memory_gib": 32, "walltime_minutes": 120, "jobs": 4},
        "cpu_allocation_ratio": 32,
    } | changes


def desired(*platforms: Object) -> dict[Key, Object]:
    return desired_objects(platforms or [platform()], instance="caesar", storage_path="/mnt/storage", job_factor=5)


def served(objects: dict[Key, Object]) -> dict[Key, Object]:
    """As an API server shows them: with fields of its own, and some of ours written otherwise."""
    found = copy.deepcopy(objects)
    for (kind, namespace, _), item in found.items():
        item["metadata"] |= {"uid": "1", "resourceVersion": "7", "managedFields": [{}], "creationTimestamp": "now"}
        item["metadata"]["labels"] |= {"kubernetes.io/metadata.name": namespace}
        if kind == "PersistentVolume":
            item["spec"].pop("storageClassName")  # left out where it is empty
            item["spec"]["volumeMode"] = "Filesystem"
            item["spec"]["claimRef"] |= {"uid": "2", "resourceVersion": "3"}
            item["status"] = {"phase": "Bound"}
        if kind == "PersistentVolumeClaim":
            item["status"] = {"phase": "Bound"}
        if kind == "ResourceQuota":
            item["status"] = {"used": {"pods": "1"}}
    return found


def stored(**storage: Any) -> dict[Key, Object]:
    return desired_objects(
        [platform()], instance="caesar", storage_path="/mnt/storage", job_factor=5, storage=storage or None
    )


@pytest.mark.parametrize(
    ("storage", "source"),
    [
        ({"nfs": {"server": "nas", "path": "/export"}}, {"nfs": {"server": "nas", "path": "/export"}}),
        ({"host_path": "/scratch"}, {"hostPath": {"path": "/scratch", "type": "Directory"}}),
    ],
)
def test_volumes_that_are_made_here(storage: Object, source: Object) -> None:
    objects = stored(**storage)
    volume = objects["PersistentVolume", "", "caesar-vp-1-storage"]["spec"]
    assert source.items() <= volume.items()
    assert objects["PersistentVolumeClaim", "vp-1", "storage"]["spec"]["volumeName"] == "caesar-vp-1-storage"


def test_volumes_of_somebody_else_are_only_named() -> None:
    objects = stored(volume="scratch-{name}", storage_class="shared")
    assert not [key for key in objects if key[0] == "PersistentVolume"]
    claim = objects["PersistentVolumeClaim", "vp-1", "storage"]["spec"]
    assert (claim["volumeName"], claim["storageClassName"]) == ("scratch-vp-1", "shared")


def test_the_volume_that_a_class_gave_is_no_difference() -> None:
    objects = stored(storage_class="shared")
    current = served(objects)
    current["PersistentVolumeClaim", "vp-1", "storage"]["spec"]["volumeName"] = "pvc-4711"
    assert make_plan(objects, current, prune=True) == []


def test_another_server_of_the_volume_makes_it_and_its_claim_anew() -> None:
    current = served(stored(nfs={"server": "old", "path": "/export"}))
    steps = make_plan(stored(nfs={"server": "new", "path": "/export"}), current, prune=True)
    assert actions(steps) == [
        ("replace", "PersistentVolume", "caesar-vp-1-storage"),
        ("replace", "PersistentVolumeClaim", "storage"),
    ]


def actions(steps: list[Any]) -> list[tuple[str, str, str]]:
    return [(step.action, step.key[0], step.key[2]) for step in steps]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        (2, 2),
        ("500m", Fraction(1, 2)),
        ("0.5", Fraction(1, 2)),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1k", 1000),
        ("1Ki", 1024),
        ("16Gi", 16 * 1024**3),
        ("17179869184", 16 * 1024**3),
        ("1000G", 10**12),
        ("1T", 10**12),
        ("100u", Fraction(1, 10000)),
    ],
)
def test_quantities(text: str, value: Fraction) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize("text", ["", "abc", "1GiB", "1 Gi", "Gi", "1KI", "--1"])
def test_no_quantities(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        quantity(text)


def test_what_a_platform_is() -> None:
    objects = desired()
    assert objects["Namespace", "", "vp-1"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert objects["ResourceQuota", "vp-1", "quota"]["spec"]["hard"] == {
        "limits.cpu": "16",
        "limits.memory": "64Gi",
        "requests.storage": "1000G",
        "pods": "4",
        "count/jobs.batch": "20",
    }
    pod, container = objects["LimitRange", "vp-1", "limits"]["spec"]["limits"]
    assert pod["max"] == container["max"] == {"cpu": "8", "memory": "32Gi"}
    assert container["default"] == {"cpu": "1", "memory": "1024Mi"}
    assert container["defaultRequest"] == {"cpu": "32m", "memory": "32Mi"}
    granted = {r for rule in objects["Role", "vp-1", "planner"]["rules"] for r in rule["resources"]}
    assert granted == {"jobs", "pods", "events", "pods/log"}
    assert {key[1] for key in objects} == {"", "vp-1"}


def test_every_object_carries_the_labels_it_is_found_by() -> None:
    for item in desired().values():
        assert labels("caesar").items() <= item["metadata"]["labels"].items()
    assert selector("caesar") == "app.kubernetes.io/managed-by=caesar-testbed,app.kubernetes.io/instance=caesar"


def test_nothing_to_do() -> None:
    assert make_plan(desired(), served(desired()), prune=True) == []


def test_equal_quantities_in_other_words_are_no_difference() -> None:
    current = served(desired())
    current["ResourceQuota", "vp-1", "quota"]["spec"]["hard"] |= {"limits.memory": "65536Mi", "requests.storage": "1T"}
    current["LimitRange", "vp-1", "limits"]["spec"]["limits"][1]["default"]["memory"] = "1Gi"
    assert make_plan(desired(), current, prune=True) == []


def test_all_is_made_in_an_order_that_works() -> None:
    made = [step.key[0] for step in make_plan(desired(), {}, prune=True)]
    assert made[0] == "Namespace"
    assert made.index("PersistentVolumeClaim") < made.index("ResourceQuota") < made.index("RoleBinding")
    assert made.index("LimitRange") < made.index("RoleBinding")
    assert made.index("ServiceAccount") < made.index("Secret")


@pytest.mark.parametrize(
    ("key", "path", "value", "action"),
    [
        (("ResourceQuota", "vp-1", "quota"), ("spec", "hard", "pods"), "99", "update"),
        (("ResourceQuota", "vp-1", "quota"), ("spec", "hard", "count/secrets"), "1", "update"),
        (("Namespace", "", "vp-1"), ("metadata", "labels", "pod-security.kubernetes.io/enforce"), "baseline", "update"),
        (("Role", "vp-1", "planner"), ("rules",), [], "update"),
        (("NetworkPolicy", "vp-1", "default-deny"), ("spec", "ingress"), [{}], "update"),
        (("RoleBinding", "vp-1", "planner"), ("subjects",), [], "update"),
        (("RoleBinding", "vp-1", "planner"), ("roleRef", "name"), "other", "replace"),
        (("PersistentVolume", "", "caesar-vp-1-storage"), ("spec", "capacity", "storage"), "1G", "update"),
    ],
)
def test_drift_is_undone(key: Key, path: tuple[str, ...], value: Any, action: str) -> None:
    current = served(desired())
    target: Any = current[key]
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    assert [(step.action, step.key) for step in make_plan(desired(), current, prune=True)] == [(action, key)]


@pytest.mark.parametrize(
    ("key", "group"),
    [(("Namespace", "", "vp-1"), "labels"), (("ResourceQuota", "vp-1", "quota"), "annotations")],
)
def test_labels_and_annotations_of_others_are_left_alone(key: Key, group: str) -> None:
    current = served(desired())
    current[key]["metadata"].setdefault(group, {})["theirs"] = "kept"
    assert make_plan(desired(), current, prune=True) == []
    assert "theirs" not in str(comparable(current[key], desired()[key]))


def test_an_updated_volume_keeps_its_bond_to_the_claim() -> None:
    current = served(desired())
    [step] = make_plan(
        desired(platform(quota={"cores": 16, "memory_gib": 64, "disc_gb": 2000})),
        {key: item for key, item in current.items() if key[0] != "ResourceQuota"},
        prune=False,
    )[:1]
    assert step.action == "update"
    assert step.wanted is not None
    assert step.wanted["spec"]["claimRef"]["uid"] == "2"


@pytest.mark.parametrize(
    ("kind", "name", "phase"),
    [
        ("PersistentVolume", "caesar-vp-1-storage", "Released"),
        ("PersistentVolume", "caesar-vp-1-storage", "Failed"),
        ("PersistentVolumeClaim", "storage", "Lost"),
    ],
)
def test_a_volume_and_its_claim_are_made_anew_together(kind: str, name: str, phase: str) -> None:
    current = served(desired())
    current[kind, "" if kind == "PersistentVolume" else "vp-1", name]["status"]["phase"] = phase
    steps = make_plan(desired(), current, prune=True)
    assert actions(steps) == [
        ("replace", "PersistentVolume", "caesar-vp-1-storage"),
        ("replace", "PersistentVolumeClaim", "storage"),
    ]
    assert disturbed(steps) == ["vp-1"]


def test_what_left_the_list_goes_with_all_that_is_in_it() -> None:
    current = served(desired(platform("vp-1"), platform("vp-2")))
    steps = make_plan(desired(), current, prune=True)
    assert actions(steps) == [("delete", "Namespace", "vp-2"), ("delete", "PersistentVolume", "caesar-vp-2-storage")]
    assert disturbed(steps) == ["vp-2"]
    assert make_plan(desired(), current, prune=False) == []


def test_an_object_that_is_no_longer_part_of_a_platform_goes() -> None:
    current = served(desired())
    old = copy.deepcopy(current["NetworkPolicy", "vp-1", "allow-dns"])
    old["metadata"]["name"] = "allow-all"
    current["NetworkPolicy", "vp-1", "allow-all"] = old
    assert actions(make_plan(desired(), current, prune=True)) == [("delete", "NetworkPolicy", "allow-all")]


def test_too_many_deletions_are_refused() -> None:
    current = served(desired(*[platform(f"vp-{number}") for number in range(4)]))
    steps = make_plan({}, current, prune=True)
    [reason] = refusals(steps, {}, max_deletions=3)
    assert "more than max_deletions (3)" in reason
    assert "vp-0, vp-1, vp-2, vp-3" in reason
    assert refusals(steps, {}, max_deletions=4) == []


def test_protected_namespaces_are_never_deleted() -> None:
    steps = make_plan({}, served(desired()), prune=True)
    assert refusals(steps, {}, max_deletions=3, protected=["vp-1", "vp-9"]) == [
        "namespace vp-1 would be deleted and is protected"
    ]
    assert refusals(steps, {}, max_deletions=3, protected=["vp-9"]) == []


def test_nothing_is_deleted_where_pods_run() -> None:
    steps = make_plan({}, served(desired()), prune=True)
    [reason] = refusals(steps, {"vp-1": ["job a", "pod b"]}, max_deletions=3)
    assert "vp-1: job a, pod b" in reason
    assert refusals(steps, {"vp-1": ["job a"]}, max_deletions=3, drain="wait") == []
    assert refusals(steps, {"vp-1": []}, max_deletions=3) == []


@pytest.mark.parametrize("drain", ["wait", "cancel"])
def test_draining_comes_after_what_is_new_and_before_what_no_job_survives(drain: str) -> None:
    current = served(desired(platform("vp-1"), platform("vp-2")))
    wanted = desired(platform("vp-2", uid=7), platform("vp-3"))
    steps = make_plan(wanted, current, prune=True, drain=drain)
    close, empty, namespace, volume = steps[-4:]
    assert [str(step) for step in (close, empty, namespace, volume)] == [
        "close ResourceQuota vp-1/quota",
        f"{'cancel' if drain == 'cancel' else 'wait for'} the jobs in vp-1",
        "delete Namespace vp-1",
        "delete PersistentVolume caesar-vp-1-storage",
    ]
    assert {step.action for step in steps[:-4]} == {"create", "update"}
    assert close.wanted is not None
    hard = current["ResourceQuota", "vp-1", "quota"]["spec"]["hard"]
    assert close.wanted["spec"]["hard"] == hard | {"count/jobs.batch": "0"}
    assert labels("caesar").items() <= close.wanted["metadata"]["labels"].items()
    # What is closed already is not closed again, and is opened where it comes back.
    closed = carried_out([close], current)
    assert "close" not in {step.action for step in make_plan(wanted, closed, prune=True, drain=drain)}
    [opened] = make_plan(desired(platform("vp-1"), platform("vp-2")), closed, prune=True, drain=drain)
    assert (opened.action, opened.key) == ("update", ("ResourceQuota", "vp-1", "quota"))


def test_a_namespace_whose_storage_is_made_anew_is_opened_again() -> None:
    current = served(desired())
    current["PersistentVolumeClaim", "vp-1", "storage"]["status"]["phase"] = "Lost"
    steps = make_plan(desired(), current, prune=True, drain="wait")
    assert [step.action for step in steps] == ["close", "wait", "replace", "replace", "open"]
    reached = carried_out(steps, current)
    assert make_plan(desired(), reached, prune=True, drain="wait") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "kube-system"}, "own namespaces"),
        ({"name": "default"}, "own namespaces"),
        ({"name": "Upper"}, "no name of a namespace"),
        ({"uid": None}, "uid is None"),
        ({"quota": {"cores": -1, "memory_gib": 1, "disc_gb": 1}}, "quota.cores is -1"),
        ({"quota": {"cores": 1, "memory_gib": "32Gi", "disc_gb": 1}}, "quota.memory_gib is '32Gi'"),
        ({"limits": {"cores": 1, "memory_gib": 1, "walltime_minutes": 1}}, "limits.jobs is None"),
        ({"cpu_allocation_ratio": 0}, "cpu_allocation_ratio is 0"),
    ],
)
def test_faults_are_found_before_anything_is_sent(changes: Object, message: str) -> None:
    assert any(message in fault for fault in faults([platform(**changes)]))


def test_a_name_twice_is_a_fault() -> None:
    assert faults([platform(), platform()]) == ["'vp-1' is there twice"]
    assert faults([platform(), platform("vp-2")]) == []


SIZES = st.integers(1, 4096)
PLATFORMS = st.lists(
    st.builds(
        lambda number, cores, memory, disc, jobs, ratio: platform(
            f"vp-{number}",
            quota={"cores": cores, "memory_gib": memory, "disc_gb": disc},
            limits={"cores": cores, "memory_gib": memory, "walltime_minutes": 60, "jobs": jobs},
            cpu_allocation_ratio=ratio,
        ),
        st.integers(0, 9),
        SIZES,
        SIZES,
        SIZES,
        st.integers(1, 100),
        st.sampled_from([1, 1.5, 8, 32]),
    ),
    unique_by=lambda each: each["name"],
    max_size=5,
)


def carried_out(steps: list[Any], current: dict[Key, Object]) -> dict[Key, Object]:
    """What a cluster has after a plan."""
    result = dict(current)
    for step in steps:
        if step.action in ("wait", "cancel"):
            continue
        if step.action == "delete":
            result.pop(step.key)
            if step.key[0] == "Namespace":
                result = {key: item for key, item in result.items() if key[1] != step.key[2]}
        else:
            result[step.key] = served({step.key: step.wanted})[step.key]
    return result


@given(PLATFORMS, PLATFORMS, st.sampled_from(["refuse", "wait"]), st.integers(0, 60))
def test_a_plan_leads_to_what_is_wanted_also_where_it_was_interrupted(
    before: list[Object], after: list[Object], drain: str, cut: int
) -> None:
    wanted = desired_objects(after, instance="i", storage_path="/s", job_factor=5)
    current = served(desired_objects(before, instance="i", storage_path="/s", job_factor=5))
    steps = make_plan(wanted, current, prune=True, drain=drain)
    half = carried_out(steps[:cut], current)
    for state, rest in ((current, steps), (half, make_plan(wanted, half, prune=True, drain=drain))):
        reached = carried_out(rest, state)
        assert set(reached) == set(wanted)
        assert make_plan(wanted, reached, prune=True, drain=drain) == []


@given(PLATFORMS)
def test_requests_are_never_more_than_limits(platforms: list[Object]) -> None:
    for item in desired_objects(platforms, instance="i", storage_path="/s", job_factor=5).values():
        if item["kind"] == "LimitRange":
            container = item["spec"]["limits"][1]
            for resource in ("cpu", "memory"):
                assert 0 < quantity(container["defaultRequest"][resource]) <= quantity(container["default"][resource])
                assert quantity(container["default"][resource]) <= quantity(container["max"][resource])


def test_paths() -> None:
    assert KINDS["Role"].path("vp-1", "planner") == "/apis/rbac.authorization.k8s.io/v1/namespaces/vp-1/roles/planner"
    assert KINDS["Namespace"].path(name="vp-1") == "/api/v1/namespaces/vp-1"
    assert KINDS["Secret"].path() == "/api/v1/secrets"
