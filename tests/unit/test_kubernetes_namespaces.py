"""The module against a small API server: what it asks, what it writes, and what it refuses."""

from __future__ import annotations

import base64
import copy
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_namespaces as module
import pytest
import yaml
from ansible.module_utils.kubernetes_api import Api, ApiError, read_kubeconfig
from ansible.module_utils.namespace_objects import KINDS

Object = dict[str, Any]
PATH = re.compile(
    r"/apis?(?:/[a-z.0-9]+)?/v1(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?"
)


class Cluster:
    """An API server of one process: applies, lists and deletes documents, and counts what was written."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.writes: list[tuple[str, str]] = []
        self.tries = 0

    def _parse(self, path: str) -> tuple[str, str, str]:
        if match := re.fullmatch(r"/api/v1/namespaces(?:/([^/]+))?", path):
            return "namespaces", "", match[1] or ""
        match = PATH.fullmatch(path)
        assert match is not None, path
        return match["plural"], match["namespace"] or "", match["name"] or ""

    def request(self, method: str, path: str, *, query: Any = None, body: Any = None, content_type: str = "") -> Object:
        key = self._parse(path)
        if method == "GET":
            if key not in self.objects:
                raise ApiError(404, "not found")
            return copy.deepcopy(self.objects[key])
        if (query or {}).get("dryRun"):
            self.tries += 1
            return copy.deepcopy(body or {})
        self.writes.append((method, path))
        if method == "DELETE":
            if self.objects.pop(key, None) is None:
                raise ApiError(404, "not found")
            if key[0] == "namespaces":
                self.objects = {other: item for other, item in self.objects.items() if other[1] != key[2]}
            return {}
        if key[1] and ("namespaces", "", key[1]) not in self.objects:
            raise ApiError(404, f'namespaces "{key[1]}" not found')
        found = self.objects.setdefault(key, {"metadata": {}})
        if method == "PUT":
            found.clear()
            found.update(copy.deepcopy(body))
        else:
            merge(found, body)
        return copy.deepcopy(found)

    def list_all(self, path: str, selector: str = "", name: str = "") -> list[Object]:
        plural, namespace, _ = self._parse(path)
        wanted = dict(pair.split("=") for pair in selector.split(",")) if selector else {}
        return [
            copy.deepcopy(item)
            for (kind, where, called), item in sorted(self.objects.items())
            if kind == plural
            and (not name or called == name)
            and (not namespace or where == namespace)
            and wanted.items() <= (item["metadata"].get("labels") or {}).items()
        ]


def merge(into: Object, from_: Object) -> None:
    """What server-side apply does with maps; lists are put in place of one another."""
    for key, value in from_.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)


def parameters(*names: str, **changes: Any) -> Object:
    return {
        "instance": "caesar",
        "namespaces": [
            {
                "name": name,
                "uid": 20101,
                "quota": {"cores": 4, "memory_gib": 16, "disc_gb": 250},
                "limits": {"cores": 4, "memory_gib": 8, "walltime_minutes": 60, "jobs": 4},
                "cpu_allocation_ratio": 32,
            }
            for name in names
        ],
        "storage_path": "/mnt/storage",
        "storage": {},
        "job_factor": 5,
        "prune": True,
        "max_deletions": 3,
        "drain": "refuse",
        "drain_timeout": 5,
        "protected": [],
    } | changes


def run(cluster: Cluster, values: Object, check: bool = False) -> Object:
    return module.run(cluster, values, check)  # type: ignore[arg-type, no-any-return, unused-ignore]


def test_check_predicts_run_makes_second_run_writes_nothing() -> None:
    cluster = Cluster()
    predicted = run(cluster, parameters("a", "b"), check=True)
    assert cluster.writes == []
    made = run(cluster, parameters("a", "b"))
    assert made["plan"] == predicted["plan"]
    assert {step["kind"] for step in made["plan"]} == set(KINDS)
    cluster.writes.clear()
    assert run(cluster, parameters("a", "b")) == {"changed": False, "plan": []}
    assert run(cluster, parameters("a", "b"), check=True)["changed"] is False
    assert cluster.writes == []


def test_a_check_before_there_is_a_cluster_predicts_all_of_it() -> None:
    made = run(Cluster(), parameters("a"))
    assert module.run(None, parameters("a"), True)["plan"] == made["plan"]


def test_only_what_differs_is_written() -> None:
    cluster = Cluster()
    run(cluster, parameters("a", "b"))
    cluster.writes.clear()
    values = parameters("a", "b")
    values["namespaces"][0]["quota"]["cores"] = 8
    result = run(cluster, values)
    assert [method for method, _ in cluster.writes] == ["PATCH"]
    assert result["plan"] == [
        {
            "action": "update",
            "kind": "ResourceQuota",
            "namespace": "a",
            "name": "quota",
            "says": "update ResourceQuota a/quota",
        }
    ]
    [entry] = result["diff"]
    assert "limits.cpu: '4'" in entry["before"]
    assert "limits.cpu: '8'" in entry["after"]


def test_what_somebody_added_to_a_quota_is_taken_away() -> None:
    cluster = Cluster()
    run(cluster, parameters("a"))
    cluster.objects["resourcequotas", "a", "quota"]["spec"]["hard"]["count/secrets"] = "5"
    assert run(cluster, parameters("a"))["changed"]
    assert "count/secrets" not in cluster.objects["resourcequotas", "a", "quota"]["spec"]["hard"]


def test_a_check_tries_every_change_that_can_be_tried() -> None:
    cluster = Cluster()
    run(cluster, parameters("a"))
    values = parameters("a", "new")
    values["namespaces"][0]["quota"]["cores"] = 8
    run(cluster, values, check=True)
    assert cluster.tries == 3  # a's quota, the new namespace and its volume


def test_pruning_leaves_others_alone() -> None:
    cluster = Cluster()
    cluster.objects["namespaces", "", "theirs"] = {"kind": "Namespace", "metadata": {"name": "theirs"}}
    run(cluster, parameters("a", "b"))
    run(cluster, parameters("a"))
    assert sorted(name for kind, _, name in cluster.objects if kind == "namespaces") == ["a", "theirs"]


def test_somebody_elses_namespace_is_not_adopted() -> None:
    cluster = Cluster()
    cluster.objects["namespaces", "", "a"] = {"kind": "Namespace", "metadata": {"name": "a", "labels": {"x": "y"}}}
    with pytest.raises(ValueError, match="a exists and is not this testbed's"):
        run(cluster, parameters("a"))
    assert cluster.writes == []


@pytest.mark.parametrize(("phase", "refused"), [("Running", True), ("Pending", True), ("Succeeded", False)])
def test_a_namespace_with_running_pods_is_not_deleted(phase: str, refused: bool) -> None:
    cluster = Cluster()
    run(cluster, parameters("a"))
    cluster.objects["pods", "a", "p"] = {"metadata": {"name": "p"}, "status": {"phase": phase}}
    cluster.writes.clear()
    if refused:
        with pytest.raises(ValueError, match="a: pod p"):
            run(cluster, parameters())
        assert cluster.writes == []
    else:
        run(cluster, parameters())
        assert cluster.objects == {}


def busy(cluster: Cluster, namespace: str) -> None:
    """Give a namespace a job with a pod."""
    owner = {"kind": "Job", "name": "j"}
    cluster.objects["jobs", namespace, "j"] = {"metadata": {"name": "j"}, "status": {"active": 1}}
    cluster.objects["pods", namespace, "j-1"] = {
        "metadata": {"name": "j-1", "ownerReferences": [owner]},
        "status": {"phase": "Running"},
    }


def test_jobs_that_run_are_named_not_their_pods() -> None:
    cluster = Cluster()
    run(cluster, parameters("a"))
    busy(cluster, "a")
    with pytest.raises(ValueError, match=r"\(a: job j\)\. Wait for them"):
        run(cluster, parameters())


def test_waiting_closes_the_namespace_and_gives_up() -> None:
    cluster = Cluster()
    run(cluster, parameters("a"))
    busy(cluster, "a")
    values = parameters("b", drain="wait", drain_timeout=0)
    predicted = run(cluster, values, check=True)
    assert predicted["jobs"] == ["job j in a"]
    with pytest.raises(ApiError, match="after 0 s there are still job j in a, which takes no new jobs"):
        run(cluster, values)
    assert cluster.objects["resourcequotas", "a", "quota"]["spec"]["hard"]["count/jobs.batch"] == "0"
    assert ("namespaces", "", "b") in cluster.objects
    run(cluster, parameters("a", "b"))
    assert cluster.objects["resourcequotas", "a", "quota"]["spec"]["hard"]["count/jobs.batch"] == "20"


def test_cancelling_deletes_the_jobs_first(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    run(cluster, parameters("a"))
    busy(cluster, "a")
    asked = cluster.request

    def collected(method: str, path: str, **kwargs: Any) -> Object:
        if method == "DELETE" and path.endswith("/jobs/j"):
            cluster.objects.pop(("pods", "a", "j-1"))
        return asked(method, path, **kwargs)

    monkeypatch.setattr(cluster, "request", collected)
    cluster.writes.clear()
    run(cluster, parameters(drain="cancel"))
    assert cluster.writes[:2] == [
        ("PATCH", "/api/v1/namespaces/a/resourcequotas/quota"),
        ("DELETE", "/apis/batch/v1/namespaces/a/jobs/j"),
    ]
    assert cluster.objects == {}


def test_a_protected_namespace_stays() -> None:
    cluster = Cluster()
    run(cluster, parameters("a"))
    with pytest.raises(ValueError, match="nothing was changed: namespace a would be deleted and is protected"):
        run(cluster, parameters(protected=["a"]))


def test_bad_values_are_refused_before_anything_is_asked() -> None:
    values = parameters("a")
    values["namespaces"][0]["quota"]["memory_gib"] = "16Gi"
    with pytest.raises(ValueError, match=r"quota.memory_gib is '16Gi'"):
        module.run(None, values, False)


def test_a_failed_step_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    asked = cluster.request

    def refuse(method: str, path: str, **kwargs: Any) -> Object:
        if method == "PATCH" and "/roles/" in path:
            raise ApiError(403, "you may not")
        return asked(method, path, **kwargs)

    monkeypatch.setattr(cluster, "request", refuse)
    with pytest.raises(ApiError, match="create Role a/planner: you may not"):
        run(cluster, parameters("a"))
    monkeypatch.setattr(cluster, "request", asked)
    run(cluster, parameters("a"))
    assert run(cluster, parameters("a"))["changed"] is False


def write_kubeconfig(path: Path, user: Object) -> Path:
    document = {
        "current-context": "one",
        "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1/", "certificate-authority": "ca.pem"}}],
        "users": [{"name": "u", "user": user}],
    }
    (path / "ca.pem").write_text("authority")
    (path / "kubeconfig").write_text(yaml.safe_dump(document))
    return path / "kubeconfig"


def test_a_kubeconfig_is_read_with_the_files_it_names(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    access = read_kubeconfig(write_kubeconfig(tmp_path, {"tokenFile": "token"}))
    assert (access.server, access.authority, access.token) == ("https://127.0.0.1:1", b"authority", "secret")
    assert "secret" not in repr(access)
    data = base64.b64encode(b"pem").decode()
    access = read_kubeconfig(write_kubeconfig(tmp_path, {"client-certificate-data": data, "client-key-data": data}))
    assert (access.certificate, access.key) == (b"pem", b"pem")


def test_a_program_that_logs_in_is_asked(tmp_path: Path) -> None:
    program = tmp_path / "login"
    answer = {"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "status": {"token": "fresh"}}
    program.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    program.chmod(0o755)
    login = {"command": str(program), "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never"}
    path = write_kubeconfig(tmp_path, {"exec": login})
    assert read_kubeconfig(path).token == "fresh"


def test_an_unknown_context_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no context named 'two'"):
        read_kubeconfig(write_kubeconfig(tmp_path, {}), "two")


def test_a_server_that_is_down_is_one_clear_error(tmp_path: Path) -> None:
    path = write_kubeconfig(tmp_path, {"token": "t"})
    document = yaml.safe_load(path.read_text())
    document["clusters"][0]["cluster"] = {"server": "http://127.0.0.1:1"}
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ApiError, match=r"the API server at http://127.0.0.1:1 does not answer"):
        Api(read_kubeconfig(path)).request("GET", "/version")
