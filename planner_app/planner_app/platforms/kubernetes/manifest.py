"""What Kubernetes is told: pure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from uuid import UUID

from planner_app.planner.config import Kubernetes
from planner_app.platforms.kubernetes.objects import CONTAINER, DIRECTORY, DISC, SESSION_LABEL, TRACE
from planner_app.platforms.protocol import JobSpec, SubmissionRefused

_GRACE = 10
"""Seconds between TERM and KILL."""
_START_UP = 600
"""Seconds beyond its walltime after which a Job ends whose pod could not be made or started."""


def job_name(session: UUID) -> str:
    """Name the Job of a session."""
    return f"session-{session}"


def _literal(text: str) -> str:
    # Kubernetes expands $(NAME) in words and values; a doubled $ is one that means nothing.
    return text.replace("$", "$$")


def job_manifest(job: JobSpec, config: Kubernetes, storage_root: Path) -> dict[str, Any]:
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
    if job.trace is not None:
        annotations[TRACE] = job.trace
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {"sizeLimit": f"{max(1, job.disc_gb)}G"}}]
    if job.mounts:
        volumes.append({"name": "storage", "persistentVolumeClaim": {"claimName": config.claim}})
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": job_name(job.session), "labels": labels, "annotations": annotations},
        "spec": {
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
