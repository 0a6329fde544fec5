"""A namespace behind the protocol of platforms."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID
from weakref import WeakValueDictionary

import httpx
import structlog

from planner_app.planner.config import PlannerConfig
from planner_app.platforms.kubernetes.api import Api, Forbidden, content, message
from planner_app.platforms.kubernetes.manifest import job_manifest, job_name
from planner_app.platforms.kubernetes.mirror import Mirror
from planner_app.platforms.kubernetes.objects import (
    CANCELLED,
    DIRECTORY,
    SESSION_LABEL,
    Object,
    condition,
    lacks_pod,
    refusals_of,
    snapshot,
)
from planner_app.platforms.protocol import JobSpec, JobStatus, PlatformDown, Snapshot, SubmissionRefused

log = structlog.get_logger(__name__)

JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
_REFUSED = "involvedObject.kind=Job,reason=FailedCreate"


class KubernetesPlatform:
    """One namespace of one Kubernetes."""

    # The API gives a pod's two streams as one log; that it tells them apart is still an alpha feature in 1.36
    # (PodLogsQuerySplitStreams), and a program around the job's own would need a shell in every image.
    separates_stderr = False
    foretells = False

    def __init__(self, config: PlannerConfig, transport: httpx.AsyncBaseTransport | None = None) -> None:
        if config.kubernetes is None:
            raise ValueError("kubernetes: missing")
        self._config = config.kubernetes
        self._storage_root = config.storage.root
        # Beyond this age the planner does not make offers from what it knows.
        self._age = config.offers.snapshot_age / timedelta(seconds=1)
        self._api = Api(self._config.credentials_file, transport)
        self._logs: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._news = asyncio.Event()
        self._mirrors = (
            self._mirror(self._jobs),
            self._mirror(self._core("pods")),
            self._mirror(self._core("events"), fieldSelector=_REFUSED),
        )
        self._running: asyncio.Task[None] | None = None
        self._known: tuple[tuple[int, ...], Snapshot] | None = None
        self.tells = True

    async def changed(self) -> None:
        """Wait for an event of any watch."""
        if not self.tells:
            await asyncio.Event().wait()
        self._listen()
        await self._news.wait()
        self._news.clear()

    async def observe(self) -> Snapshot:
        """Put together what the watches told; where the token may not watch, list."""
        if not self.tells:
            return await self._ask()
        self._listen()
        jobs, pods, events = self._mirrors
        await asyncio.gather(jobs.ready(self._age), pods.ready(self._age))
        if not self.tells:
            return await self._ask()
        # Right at least until the older of the last signs of life.
        silent = time.monotonic() - min(jobs.heard, pods.heard)
        taken = datetime.now(UTC) - timedelta(seconds=silent)
        changes = tuple(mirror.changes for mirror in self._mirrors)
        if self._known is None or self._known[0] != changes:
            refusals = refusals_of(events.objects.values())
            self._known = changes, snapshot(taken, jobs.objects.values(), pods.objects.values(), refusals)
        return replace(self._known[1], taken=taken)

    async def earliest(self, cores: int, memory_gib: int, disc_gb: int, walltime: timedelta) -> datetime | None:
        """A scheduler of Kubernetes does not plan ahead."""
        return None

    async def submit(self, job: JobSpec) -> str:
        """Create the Job; the API refuses a second one of the same name."""
        manifest = job_manifest(job, self._config, self._storage_root)
        reply = await self._api.call("POST", self._jobs, json=manifest)
        if reply.status_code in (201, 202, 409):
            return job_name(job.session)
        why = message(reply)
        # What quotas and policies forbid is forbidden for good; what RBAC does, also while the API server starts.
        if reply.status_code == 403 and "cannot create resource" in why:
            raise PlatformDown(why)
        raise SubmissionRefused(why)

    async def find(self, session: UUID) -> JobStatus | None:
        """Get the Job by its name."""
        taken = datetime.now(UTC)
        reply = await self._api.call("GET", f"{self._jobs}/{job_name(session)}")
        if reply.status_code == 404:
            return None
        job = content(reply)
        pods, _ = await self._api.list(self._core("pods"), labelSelector=f"{SESSION_LABEL}={session}")
        found = await self._snapshot(taken, [job], pods)
        return next((status for status in found.jobs if status.session == session), None)

    async def cancel(self, job_id: str) -> None:
        """Suspend the Job for good, which ends its pod and keeps what is known of it."""
        reply = await self._api.call("GET", f"{self._jobs}/{job_id}")
        if reply.status_code == 404:
            return
        job = content(reply)
        annotations = job["metadata"].get("annotations") or {}
        if CANCELLED in annotations or condition(job, "Complete") or condition(job, "Failed"):
            return
        # The pod's log goes with the pod.
        if DIRECTORY in annotations:
            await self._keep_log(job_id, Path(annotations[DIRECTORY]))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        patch = {"metadata": {"annotations": {CANCELLED: now}}, "spec": {"suspend": True}}
        reply = await self._api.call(
            "PATCH", f"{self._jobs}/{job_id}", json=patch, headers={"Content-Type": "application/merge-patch+json"}
        )
        # It may have ended, and then have been deleted, between the two calls.
        if reply.status_code not in (200, 404, 409, 422):
            raise PlatformDown(message(reply))

    async def peek(self, job_id: str, directory: Path) -> None:
        """Bring the log so far."""
        await self._keep_log(job_id, directory)

    async def collect(self, job_id: str, directory: Path) -> None:
        """Bring the log, then delete the Job, which counts against the quota until then."""
        await self._keep_log(job_id, directory)
        reply = await self._api.call("DELETE", f"{self._jobs}/{job_id}", params={"propagationPolicy": "Background"})
        if reply.status_code not in (200, 202, 404):
            raise PlatformDown(message(reply))

    async def close(self) -> None:
        """Stop listening and close the connections."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None
        await self._api.close()

    @property
    def _jobs(self) -> str:
        return f"/apis/batch/v1/namespaces/{self._config.namespace}/jobs"

    def _core(self, resource: str) -> str:
        return f"/api/v1/namespaces/{self._config.namespace}/{resource}"

    def _mirror(self, path: str, **selectors: str) -> Mirror:
        return Mirror(self._api, path, self._news.set, **selectors)

    def _listen(self) -> None:
        if self._running is None:
            self._running = asyncio.create_task(self._watch(), name="watches")

    async def _watch(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for mirror in self._mirrors:
                    group.create_task(mirror.run())
        except* Forbidden as refused:
            log.warning("the platform is polled: its watches are forbidden", why=str(refused.exceptions[0]))
            self.tells = False
            for mirror in self._mirrors:
                mirror.give_up()
            self._news.set()

    async def _ask(self) -> Snapshot:
        """List the Jobs and the pods; the events only where a Job waits for a pod that does not come."""
        taken = datetime.now(UTC)
        (jobs, _), (pods, _) = await asyncio.gather(self._api.list(self._jobs), self._api.list(self._core("pods")))
        return await self._snapshot(taken, jobs, pods)

    async def _snapshot(self, taken: datetime, jobs: Iterable[Object], pods: Iterable[Object]) -> Snapshot:
        events: Iterable[Object] = ()
        if any(lacks_pod(job, pods) for job in jobs):
            events, _ = await self._api.list(self._core("events"), fieldSelector=_REFUSED)
        return snapshot(taken, jobs, pods, refusals_of(events))

    async def _keep_log(self, job_id: str, directory: Path) -> None:
        # One at a time, lest a shorter log that was asked for earlier replaces the whole.
        async with self._logs.setdefault(job_id, asyncio.Lock()):
            pods, _ = await self._api.list(self._core("pods"), labelSelector=f"{JOB_NAME_LABEL}={job_id}")
            if not pods:
                return
            pod = max(pods, key=lambda each: str(each["metadata"]["creationTimestamp"]))
            path = f"{self._core('pods')}/{pod['metadata']['name']}/log"
            part = directory / "stdout.log.part"
            async with self._api.stream(path) as reply:
                # 400: the container has never run.
                if reply.status_code in (400, 404):
                    return
                if reply.status_code != 200:
                    await reply.aread()
                    raise PlatformDown(f"GET {path}: {message(reply)}")
                with part.open("wb") as file:
                    async for chunk in reply.aiter_bytes():
                        file.write(chunk)
            part.replace(directory / "stdout.log")
