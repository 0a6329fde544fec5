"""What Kubernetes says, and what it means: pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from planner_app.platforms.protocol import JobState, JobStatus, Snapshot

SESSION_LABEL = "caesar-testbed/session"
# What a Job has no field for, kept with it so that it survives the planner.
CANCELLED, DISC, DIRECTORY, TRACE = (
    f"caesar-testbed/{name}" for name in ("cancelled", "disc-gb", "directory", "trace")
)
CONTAINER = "job"

# A container that waits for one of these waits for ever: nobody will change the image on the node for it.
_HOPELESS = frozenset(
    {"ErrImageNeverPull", "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError",
     "CreateContainerError", "RunContainerError", "StartError"}
)  # fmt: skip

Object = Mapping[str, Any]


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


def condition(job: Object, kind: str) -> Object | None:
    """Give a condition of a Job where it holds."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each["type"] == kind and each["status"] == "True"), None)


def _state(job: Object, pod: Object | None, refusal: str | None) -> tuple[JobState, str]:
    """Decide a Job's state and say why in Kubernetes' words."""
    annotations = job["metadata"].get("annotations") or {}
    status = (pod or {}).get("status") or {}
    container = _container(pod or {})
    terminated = (container.get("state") or {}).get("terminated") or {}
    waiting = (container.get("state") or {}).get("waiting") or {}
    if condition(job, "Complete") is not None:
        return JobState.COMPLETED, "Completed 0"
    if CANCELLED in annotations:
        ended = pod is None or status.get("phase") in ("Succeeded", "Failed")
        return (JobState.CANCELLED, "Cancelled") if ended else (JobState.RUNNING, "Terminating")
    failed = condition(job, "Failed")
    if failed is not None:
        # The pod's own reason (OOMKilled, DeadlineExceeded, Evicted) says more than the Job's.
        words = status.get("reason") or terminated.get("reason") or failed.get("reason") or "Failed"
        if "exitCode" in terminated:
            words += f" {terminated['exitCode']}"
        return JobState.FAILED, words
    if pod is None:
        if job["spec"].get("suspend"):
            return JobState.PENDING, "Suspended"
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
        last = condition(job, "Complete") or condition(job, "Failed") or {}
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


def lacks_pod(job: Object, pods: Iterable[Object]) -> bool:
    """Whether a Job waits for a pod that is not there."""
    owned = {each["uid"] for pod in pods for each in pod["metadata"].get("ownerReferences") or ()}
    return (
        job["metadata"]["uid"] not in owned
        and not job["spec"].get("suspend")
        and not (condition(job, "Complete") or condition(job, "Failed"))
    )


def refusals_of(events: Iterable[Object]) -> dict[str, str]:
    """Give the latest message of FailedCreate events, by their Job's uid."""
    refusals: dict[str, str] = {}
    for event in sorted(events, key=lambda each: each.get("lastTimestamp") or each.get("eventTime") or ""):
        refusals[event["involvedObject"].get("uid", "")] = event.get("message", "")
    return refusals
