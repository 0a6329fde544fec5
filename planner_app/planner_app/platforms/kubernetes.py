"""A Kubernetes namespace as a virtual platform, through the API with a token of that namespace.

A session is one Job whose name carries the session's uuid, so that submitting it twice is impossible. httpx
suffices for the five calls that are made; the official client would double the service's memory.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import ssl
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

import httpx
import structlog

from planner_app.planner.config import Kubernetes, PlannerConfig
from planner_app.platforms.protocol import JobSpec, JobState, JobStatus, PlatformDown, Snapshot, SubmissionRefused

log = structlog.get_logger(__name__)

SESSION_LABEL = "caesar-testbed/session"
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
# What a Job has no field for, kept with it so that it survives the planner.
BEGIN, CANCELLED, DISC, DIRECTORY = (
    f"caesar-testbed/{name}" for name in ("begin", "cancelled", "disc-gb", "directory")
)
CONTAINER = "job"

_GRACE = 10
"""Seconds between TERM and KILL."""
_START_UP = 600
"""Seconds beyond its walltime after which a Job ends whose pod could not be made or started."""
_TIMEOUT = 15.0
_PAGE = 500

# A container that waits for one of these waits for ever: nobody will change the image on the node for it.
_HOPELESS = frozenset(
    {"ErrImageNeverPull", "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError",
     "CreateContainerError", "RunContainerError", "StartError"}
)  # fmt: skip

Object = Mapping[str, Any]


# What Kubernetes says, and what it means: pure.


def parse_quantity(text: str | float) -> float:
    """Read a quantity such as ``500m``, ``16Gi``, ``1e3`` or ``2``.

    Raises ValueError where it is none.
    """
    matched = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?\d+)?)(m|u|n|[kMGTPE]|[KMGTPE]i)?", str(text).strip())
    if matched is None:
        raise ValueError(f"{text!r} is no quantity")
    unit = matched[2] or ""
    if unit in ("n", "u", "m"):
        return float(matched[1]) / {"n": 1e9, "u": 1e6, "m": 1e3}[unit]
    base = 1024.0 if unit.endswith("i") else 1000.0
    return float(matched[1]) * base ** ("kMGTPE".index(unit[0].replace("K", "k")) + 1 if unit else 0)


def parse_time(text: str | None) -> datetime | None:
    """Read a time of the API."""
    return datetime.fromisoformat(text) if text else None


def held_by(pod_spec: Object) -> tuple[int, int]:
    """Give the cores and GiB that a pod may use: its containers' limits, or their requests, rounded up."""

    def amount(container: Object, resource: str) -> float:
        resources = container.get("resources") or {}
        value = (resources.get("limits") or {}).get(resource, (resources.get("requests") or {}).get(resource, 0))
        return parse_quantity(value)

    def total(resource: str) -> float:
        first = max((amount(each, resource) for each in pod_spec.get("initContainers") or ()), default=0.0)
        return max(first, sum(amount(each, resource) for each in pod_spec.get("containers") or ()))

    # Rounded first, since 0.1 + 0.2 is a little more than 0.3.
    return math.ceil(round(total("cpu"), 6)), math.ceil(round(total("memory") / 2**30, 6))


def _container(pod: Object) -> Object:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return next((each for each in statuses if each["name"] == CONTAINER), statuses[0] if statuses else {})


def _condition(job: Object, kind: str) -> Object | None:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each["type"] == kind and each["status"] == "True"), None)


def _state(job: Object, pod: Object | None, refusal: str | None) -> tuple[JobState, str]:
    """Decide a Job's state and say why in Kubernetes' words."""
    annotations = job["metadata"].get("annotations") or {}
    status = (pod or {}).get("status") or {}
    container = _container(pod or {})
    terminated = (container.get("state") or {}).get("terminated") or {}
    waiting = (container.get("state") or {}).get("waiting") or {}
    if _condition(job, "Complete") is not None:
        return JobState.COMPLETED, "Completed 0"
    if CANCELLED in annotations:
        ended = pod is None or status.get("phase") in ("Succeeded", "Failed")
        return (JobState.CANCELLED, "Cancelled") if ended else (JobState.RUNNING, "Terminating")
    failed = _condition(job, "Failed")
    if failed is not None:
        # The pod's own reason (OOMKilled, DeadlineExceeded, Evicted) says more than the Job's.
        words = status.get("reason") or terminated.get("reason") or failed.get("reason") or "Failed"
        if "exitCode" in terminated:
            words += f" {terminated['exitCode']}"
        return JobState.FAILED, words
    if pod is None:
        if job["spec"].get("suspend"):
            return JobState.PENDING, "BeginTime" if BEGIN in annotations else "Suspended"
        if refusal is None:
            return JobState.PENDING, ""
        # Other pods may leave and make room; whatever else forbids the pod will forbid it for ever.
        return (JobState.PENDING if "exceeded quota" in refusal else JobState.FAILED), refusal
    if waiting.get("reason") in _HOPELESS:
        return JobState.FAILED, ": ".join(filter(None, (waiting["reason"], waiting.get("message"))))
    if status.get("phase") in ("Running", "Succeeded", "Failed"):
        return JobState.RUNNING, waiting.get("reason", "")
    unscheduled = [each["message"] for each in status.get("conditions") or () if each.get("reason") == "Unschedulable"]
    return JobState.PENDING, unscheduled[0] if unscheduled else waiting.get("reason", "")


def job_status(job: Object, pod: Object | None, refusal: str | None = None) -> JobStatus:
    """Describe a session's Job.

    Args:
        job: the Job.
        pod: its pod where there is one.
        refusal: message of the last FailedCreate event of the Job, looked at where it has no pod.
    """
    metadata, spec, status = job["metadata"], job["spec"], job.get("status") or {}
    pod_spec = spec["template"]["spec"]
    cores, memory_gib = held_by(pod_spec)
    state, reason = _state(job, pod, refusal)
    container = (_container(pod or {}).get("state")) or {}
    terminated = container.get("terminated") or {}
    started = parse_time((container.get("running") or terminated).get("startedAt"))
    pod_started = parse_time(((pod or {}).get("status") or {}).get("startTime"))
    ended = None
    if state.ended:
        last = _condition(job, "Complete") or _condition(job, "Failed") or {}
        ended = parse_time(terminated.get("finishedAt") or status.get("completionTime"))
        ended = ended or parse_time(
            last.get("lastTransitionTime") or (metadata.get("annotations") or {}).get(CANCELLED)
        )
    ends_by = None
    if state is JobState.RUNNING and pod_started is not None and "activeDeadlineSeconds" in pod_spec:
        ends_by = datetime.fromtimestamp(pod_started.timestamp() + pod_spec["activeDeadlineSeconds"], UTC)
    session = (metadata.get("labels") or {}).get(SESSION_LABEL)
    return JobStatus(
        job_id=metadata["name"],
        session=UUID(session) if session else None,
        state=state,
        reason=reason,
        cores=cores,
        memory_gib=memory_gib,
        disc_gb=int((metadata.get("annotations") or {}).get(DISC, 0)),
        submitted=parse_time(metadata.get("creationTimestamp")),
        started=started or (pod_started if state is JobState.RUNNING else None),
        ended=ended,
        ends_by=ends_by,
        exit_code=terminated.get("exitCode") if state.ended else None,
    )


def foreign_status(pod: Object) -> JobStatus:
    """Describe a pod that is no session's."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    cores, memory_gib = held_by(spec)
    started = parse_time(status.get("startTime"))
    deadline = spec.get("activeDeadlineSeconds")
    return JobStatus(
        job_id=metadata["name"],
        session=None,
        state=JobState.RUNNING if status.get("phase") == "Running" else JobState.PENDING,
        reason="",
        cores=cores,
        memory_gib=memory_gib,
        disc_gb=0,
        submitted=parse_time(metadata.get("creationTimestamp")),
        started=started,
        ended=None,
        ends_by=datetime.fromtimestamp(started.timestamp() + deadline, UTC) if started and deadline else None,
        exit_code=None,
    )


def snapshot(taken: datetime, jobs: Iterable[Object], pods: Iterable[Object], refusals: Mapping[str, str]) -> Snapshot:
    """Put together what a namespace's Jobs, pods and FailedCreate events (by the Job's uid) say."""
    ours = {job["metadata"]["uid"]: job for job in jobs if SESSION_LABEL in (job["metadata"].get("labels") or {})}
    pod_of: dict[str, Object] = {}
    others = []
    for pod in pods:
        owner = next((str(each["uid"]) for each in pod["metadata"].get("ownerReferences") or ()), "")
        if owner in ours:
            # The newest, should a Job ever have made two.
            known = pod_of.get(owner)
            if known is None or known["metadata"]["creationTimestamp"] <= pod["metadata"]["creationTimestamp"]:
                pod_of[owner] = pod
        elif (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
            # A pod holds quota until it has ended, also one whose Job is gone already.
            others.append(foreign_status(pod))
    statuses = [job_status(job, pod_of.get(uid), refusals.get(uid)) for uid, job in ours.items()]
    return Snapshot(taken=taken, jobs=(*statuses, *others))


# What Kubernetes is told: pure.


def job_name(session: UUID) -> str:
    """Name the Job of a session."""
    return f"session-{session}"


def _literal(text: str) -> str:
    # Kubernetes expands $(NAME) in words and values; a doubled $ is one that means nothing.
    return text.replace("$", "$$")


def job_manifest(job: JobSpec, config: Kubernetes, storage_root: Path, now: datetime) -> dict[str, Any]:
    """Render the Job, as the restricted Pod Security Standard wants it.

    Raises SubmissionRefused for a mount that is not on the shared storage.
    """
    environment = {"HOME": "/tmp"} | dict(job.environment)  # noqa: S108 - the container's own, private /tmp
    mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
    for mount in job.mounts:
        try:
            below = mount.source.relative_to(storage_root)
        except ValueError:
            raise SubmissionRefused(f"{mount.source} is not on the shared storage {storage_root}") from None
        mounts.append(
            {"name": "storage", "mountPath": mount.target, "readOnly": mount.read_only, "subPath": str(below)}
        )
    # Limits are what was offered; requests are what the node must have free, as Nova's allocation ratio has it.
    limits = {"cpu": str(job.cores), "memory": f"{job.memory_gib}Gi"}
    requests = {
        "cpu": f"{math.ceil(job.cores * 1000 / config.allocation_ratio)}m",
        "memory": f"{math.ceil(job.memory_gib * 1024 / config.allocation_ratio)}Mi",
    }
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": job.image.kubernetes,
        # Where the nodes hold the image, what a registry would send under its name is not what was offered.
        "imagePullPolicy": "IfNotPresent" if config.pull else "Never",
        "args": [_literal(word) for word in job.command],
        "env": [{"name": name, "value": _literal(value)} for name, value in environment.items()],
        "workingDir": "/tmp",  # noqa: S108
        "resources": {"limits": limits, "requests": requests},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if job.entrypoint is not None:
        container["command"] = [_literal(job.entrypoint)]
    walltime = math.ceil(job.walltime.total_seconds())
    labels = {SESSION_LABEL: str(job.session)}
    annotations = {DISC: str(job.disc_gb), DIRECTORY: str(job.directory)}
    waits = job.begin is not None and job.begin > now
    if job.begin is not None and waits:
        annotations[BEGIN] = job.begin.astimezone(UTC).isoformat()
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {"sizeLimit": f"{max(1, job.disc_gb)}G"}}]
    if job.mounts:
        volumes.append({"name": "storage", "persistentVolumeClaim": {"claimName": config.claim}})
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": job_name(job.session), "labels": labels, "annotations": annotations},
        "spec": {
            "suspend": waits,
            "backoffLimit": 0,
            # The pod's own deadline ends it at its walltime and keeps its log; the Job's would delete the pod.
            # It is there for a Job that never gets a pod.
            "activeDeadlineSeconds": walltime + _START_UP,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "activeDeadlineSeconds": walltime,
                    "terminationGracePeriodSeconds": _GRACE,
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": config.uid,
                        "runAsGroup": config.uid,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [container],
                    "volumes": volumes,
                },
            },
        },
    }


# Doing it.


class KubernetesPlatform:
    """One namespace of one Kubernetes."""

    # The API gives a pod's two streams as one log; that it tells them apart is still an alpha feature in 1.36
    # (PodLogsQuerySplitStreams), and a program around the job's own would need a shell in every image.
    separates_stderr = False
    tells = False

    async def changed(self) -> None:
        """Not yet."""
        await asyncio.Event().wait()

    def __init__(self, config: PlannerConfig) -> None:
        if config.kubernetes is None:
            raise ValueError("kubernetes: missing")
        self._config = config.kubernetes
        self._storage_root = config.storage.root
        self._client: httpx.AsyncClient | None = None
        self._logs: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def observe(self) -> Snapshot:
        """List the Jobs and the pods; the events only where a Job waits for a pod that does not come."""
        taken = datetime.now(UTC)
        jobs, pods = await asyncio.gather(self._list(self._jobs), self._list(self._core("pods")))
        await self._begin(jobs, taken)
        return await self._snapshot(taken, jobs, pods)

    async def submit(self, job: JobSpec) -> str:
        """Create the Job; the API refuses a second one of the same name."""
        manifest = job_manifest(job, self._config, self._storage_root, datetime.now(UTC))
        reply = await self._call("POST", self._jobs, json=manifest)
        if reply.status_code in (201, 202, 409):
            return job_name(job.session)
        raise SubmissionRefused(_message(reply))

    async def find(self, session: UUID) -> JobStatus | None:
        """Get the Job by its name."""
        taken = datetime.now(UTC)
        reply = await self._call("GET", f"{self._jobs}/{job_name(session)}")
        if reply.status_code == 404:
            return None
        job = _content(reply)
        pods = await self._list(self._core("pods"), labelSelector=f"{SESSION_LABEL}={session}")
        found = await self._snapshot(taken, [job], pods)
        return next((status for status in found.jobs if status.session == session), None)

    async def cancel(self, job_id: str) -> None:
        """Suspend the Job for good, which ends its pod and keeps what is known of it."""
        reply = await self._call("GET", f"{self._jobs}/{job_id}")
        if reply.status_code == 404:
            return
        job = _content(reply)
        annotations = job["metadata"].get("annotations") or {}
        if CANCELLED in annotations or _condition(job, "Complete") or _condition(job, "Failed"):
            return
        # The pod's log goes with the pod.
        if DIRECTORY in annotations:
            await self._keep_log(job_id, Path(annotations[DIRECTORY]))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        patch = {"metadata": {"annotations": {CANCELLED: now}}, "spec": {"suspend": True}}
        reply = await self._call(
            "PATCH", f"{self._jobs}/{job_id}", json=patch, headers={"Content-Type": "application/merge-patch+json"}
        )
        # It may have ended, and then have been deleted, between the two calls.
        if reply.status_code not in (200, 404, 409, 422):
            raise PlatformDown(_message(reply))

    async def peek(self, job_id: str, directory: Path) -> None:
        """Bring the log so far."""
        await self._keep_log(job_id, directory)

    async def collect(self, job_id: str, directory: Path) -> None:
        """Bring the log, then delete the Job, which counts against the quota until then."""
        await self._keep_log(job_id, directory)
        reply = await self._call("DELETE", f"{self._jobs}/{job_id}", params={"propagationPolicy": "Background"})
        if reply.status_code not in (200, 202, 404):
            raise PlatformDown(_message(reply))

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    @property
    def _jobs(self) -> str:
        return f"/apis/batch/v1/namespaces/{self._config.namespace}/jobs"

    def _core(self, resource: str) -> str:
        return f"/api/v1/namespaces/{self._config.namespace}/{resource}"

    async def _snapshot(self, taken: datetime, jobs: list[Object], pods: list[Object]) -> Snapshot:
        owned = {each["uid"] for pod in pods for each in pod["metadata"].get("ownerReferences") or ()}
        waiting = [
            job["metadata"]["uid"]
            for job in jobs
            if job["metadata"]["uid"] not in owned
            and not job["spec"].get("suspend")
            and not (_condition(job, "Complete") or _condition(job, "Failed"))
        ]
        refusals: dict[str, str] = {}
        if waiting:
            events = await self._list(self._core("events"), fieldSelector="involvedObject.kind=Job,reason=FailedCreate")
            for event in sorted(events, key=lambda each: each.get("lastTimestamp") or each.get("eventTime") or ""):
                refusals[event["involvedObject"].get("uid", "")] = event.get("message", "")
        return snapshot(taken, jobs, pods, refusals)

    async def _begin(self, jobs: list[Object], now: datetime) -> None:
        """Let the Jobs go whose time has come."""
        for job in jobs:
            annotations = job["metadata"].get("annotations") or {}
            begin = parse_time(annotations.get(BEGIN))
            if begin is not None and begin <= now and job["spec"].get("suspend") and CANCELLED not in annotations:
                reply = await self._call(
                    "PATCH",
                    f"{self._jobs}/{job['metadata']['name']}",
                    json={"spec": {"suspend": False}},
                    headers={"Content-Type": "application/merge-patch+json"},
                )
                log.info("begin", job=job["metadata"]["name"], status=reply.status_code)

    async def _keep_log(self, job_id: str, directory: Path) -> None:
        # One at a time, lest a shorter log that was asked for earlier replaces the whole.
        async with self._logs.setdefault(job_id, asyncio.Lock()):
            pods = await self._list(self._core("pods"), labelSelector=f"{JOB_NAME_LABEL}={job_id}")
            if not pods:
                return
            pod = max(pods, key=lambda each: str(each["metadata"]["creationTimestamp"]))
            path = f"{self._core('pods')}/{pod['metadata']['name']}/log"
            part = directory / "stdout.log.part"
            try:
                async with self._open().stream("GET", path) as reply:
                    # 400: the container has never run.
                    if reply.status_code in (400, 404):
                        return
                    if reply.status_code != 200:
                        await reply.aread()
                        raise PlatformDown(f"GET {path}: {_message(reply)}")
                    with part.open("wb") as file:
                        async for chunk in reply.aiter_bytes():
                            file.write(chunk)
            except httpx.HTTPError as error:
                raise PlatformDown(f"GET {path}: {error!r}") from error
            part.replace(directory / "stdout.log")

    async def _list(self, path: str, **parameters: str) -> list[Object]:
        items: list[Object] = []
        query: dict[str, str | int] = {**parameters, "limit": _PAGE}
        while True:
            content = _content(await self._call("GET", path, params=query))
            items += content["items"]
            onward = content["metadata"].get("continue")
            if not onward:
                return items
            query["continue"] = onward

    def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            path = self._config.credentials_file
            try:
                credentials = json.loads(path.read_text(encoding="utf-8"))
                context = ssl.create_default_context(cadata=credentials["ca"])
                self._client = httpx.AsyncClient(
                    base_url=credentials["server"],
                    headers={"Authorization": f"Bearer {credentials['token']}", "Accept": "application/json"},
                    verify=context,
                    # Proxies of the environment are for other things than a cluster next door.
                    trust_env=False,
                    timeout=_TIMEOUT,
                    limits=httpx.Limits(max_connections=8, keepalive_expiry=30),
                )
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise PlatformDown(f"credentials in {path}: {error}") from error
        return self._client

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Ask the API; what it answers with 401, 429 and 5xx is no answer."""
        try:
            reply = await self._open().request(method, path, params=params, json=json, headers=headers)
            if reply.status_code == 401:
                # The token may have been renewed in its file since.
                await self.close()
                reply = await self._open().request(method, path, params=params, json=json, headers=headers)
        except httpx.HTTPError as error:
            raise PlatformDown(f"{method} {path}: {error!r}") from error
        if reply.status_code in (401, 429) or reply.status_code >= 500:
            raise PlatformDown(f"{method} {path}: {_message(reply)}")
        return reply


def _message(reply: httpx.Response) -> str:
    """Give the API's own words."""
    try:
        return str(reply.json()["message"])
    except (ValueError, KeyError, TypeError):
        return f"{reply.status_code} {reply.reason_phrase}"


def _content(reply: httpx.Response) -> Any:
    """Give the object of a reply; raises PlatformDown where there is none."""
    if reply.status_code != 200:
        raise PlatformDown(f"{reply.request.method} {reply.request.url.path}: {_message(reply)}")
    return reply.json()
