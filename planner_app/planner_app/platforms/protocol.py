"""What a planner needs of a physical platform, whatever its kind.

Timestamps are timezone-aware UTC, memory is in GiB, disc in GB (10**9 bytes), cores are whole.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Protocol
from uuid import UUID

TRACE = "TRACEPARENT"
"""Variable of a job's environment in which clients say what it belongs to."""


class JobState(StrEnum):
    """Where a job stands on its platform."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    """Ended with exit code 0."""
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether the job holds nothing of the platform any more."""
        return self in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class Mount:
    """A directory of the shared storage as the job sees it."""

    source: Path
    target: str
    read_only: bool


@dataclass(frozen=True)
class Image:
    """One row of the table of images that jobs may use: the same content under each platform's name."""

    name: str
    """As requests call it, such as ``caesar/aegean-job:2.3.5``."""
    digest: str
    kubernetes: str
    """Reference of the image in the node's image store."""
    slurm: Path
    """SquashFS file on the shared storage."""


@dataclass(frozen=True)
class JobSpec:
    """A job to submit: what was offered and accepted, nothing the client wrote is left unchecked."""

    session: UUID
    image: Image
    entrypoint: str | None
    """Program to run instead of the image's own; None for the image's own."""
    command: tuple[str, ...]
    environment: Mapping[str, str]
    cores: int
    memory_gib: int
    disc_gb: int
    walltime: timedelta
    mounts: tuple[Mount, ...]
    directory: Path
    """The session's directory on the shared storage: ``stdout.log``, ``stderr.log`` and ``outputs/``."""

    @property
    def trace(self) -> str | None:
        """The trace id in the client's ``TRACEPARENT`` (W3C Trace Context), for the platform's own records."""
        found = re.fullmatch(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}", self.environment.get(TRACE, ""))
        return found[1] if found else None


@dataclass(frozen=True)
class JobStatus:
    """A job as its platform sees it."""

    job_id: str
    session: UUID | None
    """None for a job of somebody else in the same account or namespace."""
    state: JobState
    reason: str
    """The platform's own words, such as ``OUT_OF_MEMORY 0:125`` or ``AssocGrpCpuLimit``; may be empty."""
    cores: int
    memory_gib: int
    disc_gb: int
    submitted: datetime | None
    started: datetime | None
    ended: datetime | None
    ends_by: datetime | None
    """Start plus walltime, where known."""
    exit_code: int | None


@dataclass(frozen=True)
class Snapshot:
    """All live jobs of the account or namespace, and those of sessions that ended lately."""

    taken: datetime
    jobs: tuple[JobStatus, ...]


class PlatformDown(Exception):
    """The platform cannot be asked now; the same call may work later."""


class SubmissionRefused(Exception):
    """The platform will never run this job; the message is its reason."""


class Platform(Protocol):
    """The driver of one account or namespace. All calls raise PlatformDown where it does not answer."""

    separates_stderr: bool
    """Whether ``stderr.log`` holds what jobs write to standard error; where not, it is in ``stdout.log``, in the
    order in which it was written."""

    foretells: bool
    """Whether `earliest` ever says anything."""

    @property
    def tells(self) -> bool:
        """Whether the platform tells of changes by itself, and `observe` gives what it told so far."""
        ...

    async def changed(self) -> None:
        """Wait until the platform tells of a change; never returns where it does not tell."""
        ...

    async def observe(self) -> Snapshot:
        """Read all jobs in one call to the platform, whatever the number of sessions."""
        ...

    async def earliest(self, cores: int, memory_gib: int, disc_gb: int, walltime: timedelta) -> datetime | None:
        """Tell when the machines would have room for such a job; None where the platform does not say.

        What the account or namespace may use is not looked at.
        """
        ...

    async def submit(self, job: JobSpec) -> str:
        """Submit a job and return its id; where a job of this session exists, return that one's id.

        Raises SubmissionRefused with the platform's reason where the job can never run.
        """
        ...

    async def find(self, session: UUID) -> JobStatus | None:
        """Find the job of a session, also one that has ended."""
        ...

    async def cancel(self, job_id: str) -> None:
        """Cancel a job; nothing happens where it has ended or is unknown."""
        ...

    async def peek(self, job_id: str, directory: Path) -> None:
        """Bring what the job has written so far to ``directory``, where the platform does not itself.

        To ``stdout.log``, and ``stderr.log`` where the platform keeps them apart.
        """
        ...

    async def collect(self, job_id: str, directory: Path) -> None:
        """Bring the job's whole output to ``directory``, as `peek` does.

        May delete the platform's object of the job afterwards.
        """
        ...

    async def close(self) -> None:
        """Release connections and processes."""
        ...
