"""The module kubernetes_namespaces on a real Kubernetes, with labels of the test's own.

What it promises beyond its plan, which tests/unit/test_namespace_plan.py covers: what it foretells comes true, what it
made it finds, whoever kills it or runs it twice loses nothing, and jobs are not taken by surprise.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import pytest
import yaml
from batch import Run, kubernetes_api, play, says, shell, worked
from handles import STATE
from testinfra.host import Host

KUBECONFIG = STATE / "kubeconfig"
LABELS = "app.kubernetes.io/managed-by=caesar-testbed,app.kubernetes.io/instance=batch"
KUBECTL = "kubectl --kubeconfig /etc/kubernetes/admin.conf"
WRITES = ("POST", "PUT", "PATCH", "DELETE")


class Between(ThreadingHTTPServer):
    """Stands between the module and the API server: counts writes, and kills whoever sends the Nth.

    The path begins with `/NAME` or `/NAME/N`: counts are kept for each name, and N is when to kill, after the write.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.api = kubernetes_api.Api(kubernetes_api.read_kubeconfig(KUBECONFIG))
        self.counts: dict[str, int] = {}
        self.lock = Lock()

    def kubeconfig(self, directory: Path, name: str) -> str:
        """A kubeconfig whose way leads through here; it needs no credentials."""
        document = {
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{self.server_port}/{name}"}}],
            "users": [{"name": "x", "user": {}}],
        }
        path = directory / name.replace("/", "-")
        path.write_text(yaml.safe_dump(document))
        return str(path)


class Handler(BaseHTTPRequestHandler):
    """One request, passed on."""

    server: Between
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Be silent."""

    def pass_on(self) -> None:
        _, name, rest = self.path.split("/", 2)
        number = 0
        if rest.partition("/")[0].isdigit():
            number, rest = int(rest.partition("/")[0]), rest.partition("/")[2]
        headers = {key: self.headers[key] for key in ("Accept", "Content-Type") if self.headers[key]}
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        url = f"{self.server.api.access.server}/{rest}"
        answer = self.server.api._pool.request(self.command, url, body=body, headers=headers)
        if self.command in WRITES and "dryRun" not in rest:
            with self.server.lock:
                self.server.counts[name] = count = self.server.counts.get(name, 0) + 1
            if count == number:
                os.kill(owner(self.client_address[1]), signal.SIGKILL)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(answer.data)))
        self.end_headers()
        self.wfile.write(answer.data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on  # noqa: N815


def owner(port: int) -> int:
    """The process on this machine that has the connection from a port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    [inode] = [row[9] for row in rows if row[1].endswith(f":{port:04X}")]
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()) == f"socket:[{inode}]":
                return int(link.parts[2])
        except OSError:
            continue  # it has ended meanwhile
    raise AssertionError(f"nobody has port {port}")


@pytest.fixture(scope="module")
def between(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Gives kubeconfigs by name."""
    server, directory = Between(), tmp_path_factory.mktemp("kubeconfigs")
    Thread(target=server.serve_forever, daemon=True).start()

    def kubeconfig(name: str) -> str:
        return server.kubeconfig(directory, name)

    kubeconfig.counts = server.counts  # type: ignore[attr-defined]
    yield kubeconfig
    server.shutdown()


@pytest.fixture(scope="module", autouse=True)
def clean(kube: Host) -> Iterator[None]:
    remove = (
        f"{KUBECTL} delete --ignore-not-found namespace -l {LABELS} --timeout 120s; "
        f"{KUBECTL} delete --ignore-not-found pv -l {LABELS} --timeout 60s; "
        f"{KUBECTL} delete --ignore-not-found namespace batch-theirs"
    )
    kube.run(remove)
    yield
    kube.run(remove)


@pytest.fixture(autouse=True)
def others(kube: Host) -> Iterator[None]:
    """Nothing that is not the test's is changed by any test."""

    def seen() -> Any:
        kinds = "namespaces,resourcequotas,limitranges,networkpolicies,roles,rolebindings,serviceaccounts,pv,pvc"
        text = kube.check_output(f"{KUBECTL} get {kinds} -A -o json -l '!batch'")
        return sorted(
            (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"], item["metadata"]["uid"])
            for item in json.loads(text)["items"]
            if not str(item["metadata"].get("namespace", item["metadata"]["name"])).startswith(("batch-", "caesar-"))
        )

    before = seen()
    yield
    assert seen() == before


def names(kubectl: Callable[[str], Any]) -> set[str]:
    """The test's namespaces, without those that are on their way out: what was told before a kill goes on after it."""
    items = kubectl(f"get namespaces -l {LABELS}")["items"]
    return {item["metadata"]["name"] for item in items if "deletionTimestamp" not in item["metadata"]}


def namespace(name: str, cores: int = 2) -> dict[str, Any]:
    return {
        "name": f"batch-{name}",
        "uid": 29100,
        "quota": {"cores": cores, "memory_gib": 2, "disc_gb": 10},
        "limits": {"cores": 1, "memory_gib": 1, "walltime_minutes": 60, "jobs": 4},
        "cpu_allocation_ratio": 32,
    }


def module(*names: dict[str, Any], kubeconfig: str = str(KUBECONFIG), **options: Any) -> dict[str, Any]:
    """A task with the module; words of Ansible's begin with an underscore."""
    words = {key[1:]: options.pop(key) for key in list(options) if key.startswith("_")}
    arguments = {"kubeconfig": kubeconfig, "instance": "batch", "storage_path": "/mnt/storage"}
    return {"kubernetes_namespaces": arguments | {"namespaces": list(names)} | options} | words


A, B = namespace("a"), namespace("b")


def test_what_is_foretold_is_made_and_found(kube: Host, between: Any) -> None:
    kube.check_output(f"{KUBECTL} create namespace batch-theirs")
    foretold, made, again, nothing, refused = play(
        "localhost",
        [
            module(A, B, _check_mode=True),
            module(A, B, kubeconfig=between("made")),
            module(A, B, kubeconfig=between("again")),
            module(A, B, kubeconfig=between("again"), _check_mode=True),
            module(A, B, namespace("theirs"), kubeconfig=between("again")),
        ],
    )
    worked(foretold, made, again, nothing)
    assert foretold["plan"] == made["plan"]
    assert (again["changed"], again["plan"], nothing["changed"], nothing["plan"]) == (False, [], False, [])
    assert between.counts == {"made": len(made["plan"])}  # one write for each object, and then none
    assert refused["msg"].startswith("nothing was changed: namespace batch-theirs exists and is not this testbed's")


def test_drift_is_said_in_plain_words_and_undone(kube: Host) -> None:
    """What others add beside ours is neither shown nor taken away."""
    kube.check_output(
        f"{KUBECTL} -n batch-a patch resourcequota quota --type merge "
        """-p '{"spec": {"hard": {"limits.cpu": "99", "count/secrets": "5"}}}'; """
        f"{KUBECTL} -n batch-a delete networkpolicy default-deny; "
        f"{KUBECTL} label namespace batch-a theirs=kept pod-security.kubernetes.io/enforce-; "
        f"{KUBECTL} -n batch-a create configmap theirs"
    )
    drifted, undone, again = play(
        "localhost", [module(A, B, _check_mode=True, _diff=True), module(A, B), module(A, B, _diff=True)]
    )
    worked(drifted, undone, again)
    texts = {part["after_header"]: part for part in drifted["diff"]}
    assert set(texts) == {
        "Namespace batch-a (update)",
        "NetworkPolicy batch-a/default-deny (create)",
        "ResourceQuota batch-a/quota (update)",
    }
    quota = texts["ResourceQuota batch-a/quota (update)"]
    assert "limits.cpu: '99'" in quota["before"]
    assert "limits.cpu: '2'" in quota["after"]
    assert "theirs" not in json.dumps(drifted["diff"])
    assert undone["plan"] == drifted["plan"]
    assert not again["changed"]
    kept = f"{KUBECTL} get namespace batch-a -o jsonpath={{.metadata.labels.theirs}}; "
    assert kube.check_output(kept + f"{KUBECTL} -n batch-a get configmap theirs -o name") == "keptconfigmap/theirs"


def test_killed_between_any_two_steps_the_next_run_ends_in_the_same_state(between: Any) -> None:
    """A namespace has eleven objects: killed after some of them, and while namespaces are being taken away."""
    numbers = [1, 2, 4, 7, 11]
    tasks = []
    for number in numbers:
        wished = [A, B, namespace(f"k{number}")]
        tasks += [
            module(*wished, kubeconfig=between(f"make{number}/{number}"), prune=False),
            module(*wished, prune=False),
            module(*wished, prune=False, _check_mode=True),
        ]
    results = iter(play("localhost", tasks))
    for number, killed, finished, nothing in zip(numbers, results, results, results, strict=False):
        assert killed["failed"], number
        assert "plan" not in killed, number
        worked(finished, nothing)
        assert nothing["plan"] == [], number
    gone = {"max_deletions": 100, "drain": "cancel"}
    first, second, third, finished, nothing = play(
        "localhost",
        [
            module(A, kubeconfig=between("close/2"), **gone),
            module(A, kubeconfig=between("delete/6"), **gone),
            module(A, kubeconfig=between("delete2/2"), **gone),
            module(A, **gone),
            module(A, _check_mode=True),
        ],
    )
    assert first["failed"]
    assert second["failed"]
    assert third.get("failed") or between.counts.get("delete2", 0) < 2  # all may have been told to go by then
    worked(finished, nothing)
    assert nothing["plan"] == []


def test_two_runs_at_once_lose_nothing(kubectl: Callable[[str], Any]) -> None:
    many = [A, *(namespace(f"n{number}") for number in range(4))]
    worked(*(result for run in [Run("localhost", [module(*many)]) for _ in range(2)] for result in run.results()))
    assert names(kubectl) == {one["name"] for one in many}
    nothing, gone = play("localhost", [module(*many, _check_mode=True), module(A, max_deletions=10)])
    worked(nothing, gone)
    assert nothing["plan"] == []


def job(name: str, **spec: Any) -> str:
    """A command that makes a job that would run for ever, of the image that every node has."""
    allowed = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 29100, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10.2", "securityContext": allowed}],
    }
    document = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "batch-b"},
        "spec": {"backoffLimit": 0, "template": {"spec": pod}} | spec,
    }
    return f"{KUBECTL} create -f - <<'END'\n{json.dumps(document)}\nEND"


def test_jobs_of_namespaces_that_go(kube: Host) -> None:
    begun, *_ = play("localhost", [module(A, B)])
    worked(begun)
    kube.check_output(job("j"))
    refused, gave_up = play("localhost", [module(A), module(A, drain="wait", drain_timeout=1)])
    assert "would be deleted or lose their storage (batch-b: job j)" in refused["msg"]
    assert refused["msg"].startswith("nothing was changed: ")
    assert "there are still job j in batch-b, which takes no new jobs; nothing was deleted" in gave_up["msg"]
    assert "exceeded quota" in kube.run(job("k")).stderr
    opened, foretold, cancelled = play(
        "localhost", [module(A, B), module(A, drain="cancel", _check_mode=True), module(A, drain="cancel")]
    )
    worked(opened, foretold, cancelled)
    assert says(opened) == ["update ResourceQuota batch-b/quota"]
    assert foretold["plan"] == cancelled["plan"]
    assert cancelled["jobs"] == ["job j in batch-b"]
    assert says(cancelled) == [
        "close ResourceQuota batch-b/quota",
        "cancel the jobs in batch-b",
        "delete Namespace batch-b",
        "delete PersistentVolume batch-batch-b-storage",
    ]


def test_waiting_for_jobs_of_namespaces_that_go(kube: Host, kubectl: Callable[[str], Any]) -> None:
    worked(*play("localhost", [module(A, B)]))
    kube.check_output(job("j", activeDeadlineSeconds=3))
    [waited] = play("localhost", [module(A, drain="wait", drain_timeout=60)])
    worked(waited)
    assert says(waited)[1] == "wait for the jobs in batch-b"
    assert names(kubectl) == {"batch-a"}


def test_without_an_api_server_there_is_one_error_soon(kube: Host) -> None:
    # The kubelet would start it again at once.
    kube.check_output("systemctl stop kubelet && pkill -9 kube-apiserver")
    try:
        begun, failed, ended = play("localhost", [shell("date +%s"), module(A, B), shell("date +%s")])
    finally:
        kube.check_output("systemctl start kubelet")
        deadline = time.monotonic() + 120
        while kube.run(f"{KUBECTL} get --raw /readyz").rc != 0:
            assert time.monotonic() < deadline, "the API server did not come back"
            time.sleep(0.5)  # it is not there to be watched
    assert "does not answer" in failed["msg"]
    assert int(ended["stdout"]) - int(begun["stdout"]) < 30
    [nothing] = play("localhost", [module(A, _check_mode=True)])
    assert nothing["plan"] == []
