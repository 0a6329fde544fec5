"""The Kubernetes driver: what it tells the API, what it makes of the answers, and its conversation with one."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from planner_app.planner.config import Kubernetes, PlannerConfig
from planner_app.platforms.kubernetes import KubernetesPlatform
from planner_app.platforms.kubernetes.manifest import job_manifest
from planner_app.platforms.kubernetes.objects import held_by, job_status, parse_quantity, snapshot
from planner_app.platforms.protocol import Image, JobSpec, JobState, Mount, PlatformDown, SubmissionRefused

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SESSION = UUID("5ec79894-814f-4f81-9561-2fe4bfc6010d")
ROOT = Path("/mnt/storage")
CONFIG = Kubernetes(
    credentials_file=Path("/etc/caesar-planner/k.json"),
    namespace="k8s-namespace-001",
    claim="storage",
    allocation_ratio=32,
    uid=20101,
)
JOB = JobSpec(
    session=SESSION,
    image=Image("caesar/aegean-job:2.3.5", "sha256:" + "a" * 64, "caesar/aegean-job:2.3.5", ROOT / "images/a.sqfs"),
    entrypoint=None,
    command=("--run", "costs $(HOME) $5"),
    environment={"JOB_OPTIONS": "--run --ncores=2", "PRICE": "$(PATH)"},
    cores=3,
    memory_gib=8,
    disc_gb=5,
    walltime=timedelta(minutes=30),
    mounts=(
        Mount(ROOT / "data/x", "/data", True),
        Mount(ROOT / f"jobs/k8s-namespace-001/{SESSION}/outputs", "/output", False),
    ),
    directory=ROOT / f"jobs/k8s-namespace-001/{SESSION}",
)


def manifest(**changes: Any) -> dict[str, Any]:
    return job_manifest(replace(JOB, **changes), CONFIG, ROOT)


@pytest.mark.parametrize(
    ("text", "number"),
    [("4", 4), (2, 2), ("500m", 0.5), ("16Gi", 16 * 2**30), ("1e3", 1000), ("2G", 2e9), ("1k", 1e3), ("3Ki", 3072)],
)
def test_quantities(text: str, number: float) -> None:
    assert parse_quantity(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "four", "1GB", "1 Gi"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        parse_quantity(text)


def test_the_job_asks_for_what_was_offered() -> None:
    container = manifest()["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"cpu": "3", "memory": "8Gi"}
    # 3 cores and 8 GiB divided by 32, rounded up.
    assert container["resources"]["requests"] == {"cpu": "94m", "memory": "256Mi"}


def test_a_pod_ends_at_its_walltime_and_a_job_without_pod_later() -> None:
    spec = manifest()["spec"]
    assert spec["template"]["spec"]["activeDeadlineSeconds"] == 1800
    assert spec["activeDeadlineSeconds"] == 2400
    assert spec["backoffLimit"] == 0


def test_the_trace_of_the_client_is_an_annotation() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    traced = job_manifest(replace(JOB, environment={"TRACEPARENT": f"00-{trace}-00f067aa0ba902b7-01"}), CONFIG, ROOT)
    assert traced["metadata"]["annotations"]["caesar-testbed/trace"] == trace
    assert "caesar-testbed/trace" not in job_manifest(JOB, CONFIG, ROOT)["metadata"]["annotations"]


def test_the_pod_meets_the_restricted_standard() -> None:
    spec = manifest()["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 20101,
        "runAsGroup": 20101,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert spec["automountServiceAccountToken"] is False
    assert container["imagePullPolicy"] == "Never"
    pulled = job_manifest(JOB, CONFIG.model_copy(update={"pull": True}), ROOT)
    assert pulled["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] == "IfNotPresent"


def test_mounts_are_parts_of_the_claim() -> None:
    spec = manifest()["spec"]["template"]["spec"]
    assert spec["containers"][0]["volumeMounts"] == [
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "storage", "mountPath": "/data", "readOnly": True, "subPath": "data/x"},
        {
            "name": "storage",
            "mountPath": "/output",
            "readOnly": False,
            "subPath": f"jobs/k8s-namespace-001/{SESSION}/outputs",
        },
    ]
    assert {"name": "storage", "persistentVolumeClaim": {"claimName": "storage"}} in spec["volumes"]


def test_a_mount_from_elsewhere_is_refused() -> None:
    with pytest.raises(SubmissionRefused, match="not on the shared storage"):
        manifest(mounts=(Mount(Path("/etc"), "/data", True),))


def test_nothing_of_a_request_is_expanded() -> None:
    container = manifest(entrypoint="/bin/$(X)")["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["--run", "costs $$(HOME) $$5"]
    assert container["command"] == ["/bin/$$(X)"]
    assert {"name": "PRICE", "value": "$$(PATH)"} in container["env"]
    assert "command" not in manifest()["spec"]["template"]["spec"]["containers"][0]


def test_the_request_may_set_home_and_else_it_is_tmp() -> None:
    def home(**environment: str) -> list[str]:
        rendered = manifest(environment=environment)["spec"]["template"]["spec"]["containers"][0]["env"]
        return [each["value"] for each in rendered if each["name"] == "HOME"]

    assert home() == ["/tmp"]
    assert home(HOME="/output") == ["/output"]


# Answers of a real API server (1.36), shortened to what is read.


def a_job(*conditions: tuple[str, str], suspend: bool = False, **annotations: str) -> dict[str, Any]:
    job = manifest()
    job["metadata"] |= {"uid": "u1", "creationTimestamp": "2026-11-24T12:00:00Z"}
    job["metadata"]["annotations"] |= {f"caesar-testbed/{key}": value for key, value in annotations.items()}
    job["spec"]["suspend"] = suspend
    job["status"] = {
        "startTime": "2026-11-24T12:00:00Z",
        "conditions": [
            {"type": kind, "status": "True", "reason": reason, "lastTransitionTime": "2026-11-24T12:05:02Z"}
            for kind, reason in conditions
        ],
    }
    return job


def a_pod(phase: str, state: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    pod = {
        "metadata": {
            "name": "session-x-abcde",
            "labels": {"caesar-testbed/session": str(SESSION)},
            "ownerReferences": [{"uid": "u1", "kind": "Job"}],
            "creationTimestamp": "2026-11-24T12:00:00Z",
        },
        "spec": manifest()["spec"]["template"]["spec"],
        "status": {"phase": phase, "startTime": "2026-11-24T12:00:01Z", **status},
    }
    if state is not None:
        pod["status"]["containerStatuses"] = [{"name": "job", "state": state}]
    return pod


RUNNING = {"running": {"startedAt": "2026-11-24T12:00:03Z"}}
DONE = {"exitCode": 0, "reason": "Completed", "startedAt": "2026-11-24T12:00:03Z", "finishedAt": "2026-11-24T12:05:00Z"}
KILLED = DONE | {"exitCode": 137, "reason": "OOMKilled"}
QUOTA = (
    'Error creating: pods "session-x-q8" is forbidden: exceeded quota: quota, '
    "requested: limits.cpu=3, used: limits.cpu=2, limited: limits.cpu=4"
)
RANGE = 'Error creating: pods "x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 8Gi'


@pytest.mark.parametrize(
    ("job", "pod", "refusal", "state", "reason", "code"),
    [
        (a_job(), None, None, "PENDING", "", None),
        (a_job(), None, QUOTA, "PENDING", QUOTA, None),
        (a_job(), None, RANGE, "FAILED", RANGE, None),
        (a_job(suspend=True), None, None, "PENDING", "Suspended", None),
        (a_job(), a_pod("Pending"), None, "PENDING", "", None),
        (
            a_job(),
            a_pod("Pending", conditions=[{"reason": "Unschedulable", "message": "0/1 nodes: Insufficient cpu."}]),
            None,
            "PENDING",
            "0/1 nodes: Insufficient cpu.",
            None,
        ),
        (
            a_job(),
            a_pod("Pending", {"waiting": {"reason": "ContainerCreating"}}),
            None,
            "PENDING",
            "ContainerCreating",
            None,
        ),
        (
            a_job(),
            a_pod("Pending", {"waiting": {"reason": "ErrImageNeverPull", "message": "not present"}}),
            None,
            "FAILED",
            "ErrImageNeverPull: not present",
            None,
        ),
        (a_job(), a_pod("Running", RUNNING), None, "RUNNING", "", None),
        (a_job(), a_pod("Succeeded", {"terminated": DONE}), None, "RUNNING", "", None),
        (a_job(("Complete", "CompletionsReached")), a_pod("Succeeded", {"terminated": DONE}), None, "COMPLETED",
         "Completed 0", 0),
        (a_job(("Failed", "BackoffLimitExceeded")), a_pod("Failed", {"terminated": KILLED}), None, "FAILED",
         "OOMKilled 137", 137),
        (a_job(("Failed", "BackoffLimitExceeded")), a_pod("Failed", {"terminated": KILLED}, reason="DeadlineExceeded"),
         None, "FAILED", "DeadlineExceeded 137", 137),
        (a_job(("Failed", "DeadlineExceeded")), None, None, "FAILED", "DeadlineExceeded", None),
        # Cancelled, and its pod has not gone yet: it still holds its share.
        (a_job(suspend=True, cancelled="2026-11-24T12:04:00+00:00"), a_pod("Running", RUNNING), None, "RUNNING",
         "Terminating", None),
        (a_job(suspend=True, cancelled="2026-11-24T12:04:00+00:00"), None, None, "CANCELLED", "Cancelled", None),
        # It came to its end in the moment of the cancellation.
        (a_job(("Complete", "CompletionsReached"), suspend=True, cancelled="2026-11-24T12:04:00+00:00"), None, None,
         "COMPLETED", "Completed 0", None),
    ],
)  # fmt: skip
def test_states(
    job: dict[str, Any], pod: dict[str, Any] | None, refusal: str | None, state: str, reason: str, code: int | None
) -> None:
    status = job_status(job, pod, refusal)
    assert (status.state.value, status.reason, status.exit_code) == (state, reason, code)
    assert status.state.ended == (status.ended is not None) or state == "FAILED"


def test_times_and_sizes_of_a_running_job() -> None:
    status = job_status(a_job(), a_pod("Running", RUNNING))
    assert (status.cores, status.memory_gib, status.disc_gb, status.session) == (3, 8, 5, SESSION)
    assert status.started == datetime(2026, 11, 24, 12, 0, 3, tzinfo=UTC)
    assert status.ends_by == datetime(2026, 11, 24, 12, 30, 1, tzinfo=UTC)
    assert status.ended is None


def test_times_of_an_ended_job() -> None:
    status = job_status(a_job(("Complete", "CompletionsReached")), a_pod("Succeeded", {"terminated": DONE}))
    assert status.ended == datetime(2026, 11, 24, 12, 5, 0, tzinfo=UTC)
    assert status.ends_by is None


def test_pods_of_others_count_and_ended_ones_do_not() -> None:
    def other(name: str, phase: str) -> dict[str, Any]:
        container = {"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}}}
        metadata = {"name": name, "creationTimestamp": "2026-11-24T12:00:00Z"}
        return {"metadata": metadata, "spec": {"containers": [container]}, "status": {"phase": phase}}

    orphan = a_pod("Running", RUNNING)
    orphan["metadata"] |= {"name": "orphan", "ownerReferences": [{"uid": "gone", "kind": "Job"}]}
    taken = snapshot(
        NOW, [a_job()], [a_pod("Running", RUNNING), other("a", "Running"), other("b", "Failed"), orphan], {}
    )
    assert [(job.job_id, job.session, job.cores) for job in taken.jobs] == [
        (f"session-{SESSION}", SESSION, 3),
        ("a", None, 2),
        ("orphan", None, 3),
    ]


def test_init_containers_count_where_they_are_larger() -> None:
    def container(cpu: str) -> dict[str, Any]:
        return {"name": "c", "resources": {"requests": {"cpu": cpu}}}

    assert held_by({"containers": [container("1"), container("500m")]}) == (2, 0)
    assert held_by({"containers": [container("1")], "initContainers": [container("3")]}) == (3, 0)


# A conversation, over httpx's transport for tests.


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    # Any certificate will do: the transport of the test opens no connection.
    import certifi

    authority = Path(certifi.where()).read_text(encoding="utf-8").split("-----END CERTIFICATE-----")[0]
    file = tmp_path / "k.json"
    file.write_text(
        json.dumps({"server": "https://10.0.0.1:6443", "ca": authority + "-----END CERTIFICATE-----\n", "token": "t"})
    )
    return file


Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def platform(
    credentials: Path,
) -> Callable[[Handler], KubernetesPlatform]:
    def make(handler: Handler, watches: bool = False) -> KubernetesPlatform:
        config = PlannerConfig.model_validate(
            {
                "name": "k8s-namespace-001",
                "kind": "kubernetes",
                "listen": {"host": "127.0.0.1", "port": 8201},
                "url": "http://127.0.0.1:8201",
                "database": "sqlite://",
                "quota": {"cores": 4, "memory_gib": 16, "disc_gb": 250},
                "limits": {"cores": 4, "memory_gib": 16, "walltime": "PT2H", "jobs": 4},
                "storage": {"root": "/mnt/storage", "data": "/mnt/storage/data", "jobs": "/mnt/storage/jobs/k"},
                "images_file": "/none",
                "tokens_file": "/none",
                "kubernetes": CONFIG.model_dump() | {"credentials_file": str(credentials)},
            }
        )
        made = KubernetesPlatform(config, httpx.MockTransport(handler))
        made.tells = watches
        return made

    return make


Make = Callable[[Handler], KubernetesPlatform]


async def test_submitting_twice_gives_the_same_job(platform: Make) -> None:
    driver = platform(lambda request: httpx.Response(409, json={"message": "already exists"}))
    assert await driver.submit(JOB) == f"session-{SESSION}"


async def test_a_refusal_is_the_platforms_reason(platform: Make) -> None:
    driver = platform(lambda request: httpx.Response(403, json={"message": "exceeded quota: quota, used: 4"}))
    with pytest.raises(SubmissionRefused, match="exceeded quota: quota, used: 4"):
        await driver.submit(JOB)


async def test_rights_that_are_not_known_yet_are_no_refusal(platform: Make) -> None:
    why = 'jobs.batch is forbidden: User "x" cannot create resource "jobs" in API group "batch" in the namespace "n"'
    driver = platform(lambda request: httpx.Response(403, json={"message": why}))
    with pytest.raises(PlatformDown, match="cannot create resource"):
        await driver.submit(JOB)


@pytest.mark.parametrize("status", [401, 429, 500, 503])
async def test_no_answer_is_no_refusal(platform: Make, status: int) -> None:
    driver = platform(lambda request: httpx.Response(status, json={"message": "later"}))
    with pytest.raises(PlatformDown, match="later"):
        await driver.submit(JOB)


async def test_a_dead_server_is_down(platform: Make) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(PlatformDown, match="refused"):
        await platform(refuse).observe()


async def test_a_renewed_token_is_read_again(platform: Make, credentials: Path) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["Authorization"])
        if request.headers["Authorization"] == "Bearer t":
            credentials.write_text(credentials.read_text().replace('"t"', '"new"'))
            return httpx.Response(401, json={"message": "Unauthorized"})
        return httpx.Response(404, json={"message": "not found"})

    assert await platform(answer).find(SESSION) is None
    assert asked == ["Bearer t", "Bearer new"]


async def test_events_are_asked_for_only_where_a_pod_is_missing(platform: Make) -> None:
    asked: list[str] = []
    pods = [a_pod("Running", RUNNING)]

    def answer(request: httpx.Request) -> httpx.Response:
        kind = request.url.path.rpartition("/")[2]
        asked.append(kind)
        event = {"involvedObject": {"uid": "u1"}, "message": RANGE, "lastTimestamp": "2026-11-24T12:00:01Z"}
        items = {"jobs": [a_job()], "pods": pods, "events": [event]}[kind]
        return httpx.Response(200, json={"metadata": {}, "items": items})

    driver = platform(answer)
    assert (await driver.observe()).jobs[0].state is JobState.RUNNING
    assert sorted(asked) == ["jobs", "pods"]
    pods.clear()
    refused = (await driver.observe()).jobs[0]
    assert (refused.state, refused.reason) == (JobState.FAILED, RANGE)
    assert asked[2:].count("events") == 1


async def test_the_log_is_kept_before_the_job_goes(platform: Make, tmp_path: Path) -> None:
    calls: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(f"{request.method} {request.url.path.rpartition('/')[2]}")
        if request.url.path.endswith("/log"):
            return httpx.Response(200, content=b"70 sources\n")
        if request.method == "DELETE":
            assert request.url.params["propagationPolicy"] == "Background"
            return httpx.Response(200, json={})
        return httpx.Response(200, json={"metadata": {}, "items": [a_pod("Succeeded", {"terminated": DONE})]})

    driver = platform(answer)
    await driver.collect("session-x", tmp_path)
    assert (tmp_path / "stdout.log").read_text() == "70 sources\n"
    assert calls == ["GET pods", "GET log", "DELETE session-x"]


async def test_a_log_whose_pod_is_gone_stays_as_it_is(platform: Make, tmp_path: Path) -> None:
    (tmp_path / "stdout.log").write_text("kept when it was cancelled\n")
    await platform(lambda request: httpx.Response(200, json={"metadata": {}, "items": []})).collect("j", tmp_path)
    assert (tmp_path / "stdout.log").read_text() == "kept when it was cancelled\n"


async def test_a_look_at_a_running_job_brings_its_log_so_far(platform: Make, tmp_path: Path) -> None:
    log = b"1\n"

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/log"):
            return httpx.Response(200, content=log)
        return httpx.Response(200, json={"metadata": {}, "items": [a_pod("Running", RUNNING)]})

    driver = platform(answer)
    await driver.peek("session-x", tmp_path)
    assert (tmp_path / "stdout.log").read_text() == "1\n"
    log += b"2\n"
    await driver.peek("session-x", tmp_path)
    assert (tmp_path / "stdout.log").read_text() == "1\n2\n"


async def test_a_job_stays_where_its_log_cannot_be_had(platform: Make, tmp_path: Path) -> None:
    deleted: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/log"):
            return httpx.Response(502, json={"message": "kubelet away"})
        if request.method == "DELETE":
            deleted.append(request.url.path)
        return httpx.Response(200, json={"metadata": {}, "items": [a_pod("Succeeded", {"terminated": DONE})]})

    with pytest.raises(PlatformDown, match="kubelet away"):
        await platform(answer).collect("session-x", tmp_path)
    assert not deleted
    assert not list(tmp_path.glob("stdout*"))
