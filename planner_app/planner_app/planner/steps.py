"""What a session needs next, and the job that it means: pure."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum, auto
from pathlib import Path
from typing import Any

from planner_app.execution_broker.models import Phase
from planner_app.planner.demand import Program
from planner_app.planner.ledger import SessionRow
from planner_app.planner.staging import downloads_document
from planner_app.platforms.protocol import Image, JobSpec, JobState, JobStatus, Mount, Snapshot

SEEN_WITHIN = timedelta(seconds=30)
"""A job that no snapshot has shown for so long after its submission is looked for by itself."""


class Step(Enum):
    """What a session needs next."""

    NOTHING = auto()
    WAIT = auto()
    PREPARE = auto()
    SUBMIT = auto()
    LOOK = auto()
    RUNNING = auto()
    ENDED = auto()
    CANCEL = auto()
    COLLECT = auto()


def next_step(row: SessionRow, job: JobStatus | None, snapshot: Snapshot | None, now: datetime) -> Step:
    """Decide what a session needs, from what the ledger and the platform say of it."""
    match row.phase:
        case Phase.ACCEPTED | Phase.WAITING:
            if now >= row.reserved.start:
                return Step.PREPARE
            return Step.WAIT if row.phase is Phase.ACCEPTED else Step.NOTHING
        case Phase.PREPARING if row.job_id is None:
            return Step.SUBMIT
        case Phase.PREPARING | Phase.AVAILABLE:
            if job is None:
                return Step.LOOK if _should_be_seen(row, snapshot) else Step.NOTHING
            if job.state.ended:
                return Step.ENDED
            return Step.RUNNING if job.state is JobState.RUNNING and row.phase is Phase.PREPARING else Step.NOTHING
        case Phase.RELEASING:
            if row.outcome is not Phase.CANCELLED or row.ended is not None:
                return Step.COLLECT
            if row.job_id is None:
                return Step.LOOK
            if job is None:
                return Step.LOOK if _should_be_seen(row, snapshot) else Step.CANCEL
            return Step.ENDED if job.state.ended else Step.CANCEL
        case _:
            return Step.NOTHING


def _should_be_seen(row: SessionRow, snapshot: Snapshot | None) -> bool:
    return snapshot is not None and row.submitted is not None and snapshot.taken > row.submitted + SEEN_WITHIN


def outcome_of(job: JobStatus) -> Phase:
    """How the session of an ended job ends."""
    return {JobState.COMPLETED: Phase.COMPLETED, JobState.CANCELLED: Phase.CANCELLED}.get(job.state, Phase.FAILED)


def program_document(program: Program) -> dict[str, Any]:
    """Give a program as plain values, for the ledger."""
    return {
        "image": {
            "name": program.image.name,
            "digest": program.image.digest,
            "kubernetes": program.image.kubernetes,
            "slurm": str(program.image.slurm),
        },
        "entrypoint": program.entrypoint,
        "command": list(program.command),
        "environment": dict(program.environment),
        "mounts": [[str(mount.source), mount.target, mount.read_only] for mount in program.mounts],
        "downloads": downloads_document(program.downloads),
    }


def job_of(row: SessionRow, program: Mapping[str, Any], directory: Path) -> JobSpec:
    """Make the job of a session from what the ledger holds."""
    image = program["image"]
    return JobSpec(
        session=row.uuid,
        image=Image(image["name"], image["digest"], image["kubernetes"], Path(image["slurm"])),
        entrypoint=program["entrypoint"],
        command=tuple(program["command"]),
        environment=program["environment"],
        cores=row.amount.cores,
        memory_gib=row.amount.memory_gib,
        disc_gb=row.amount.disc_gb,
        walltime=row.duration,
        mounts=tuple(
            Mount(directory / source, target, read_only)  # an absolute source stays what it is
            for source, target, read_only in program["mounts"]
        ),
        directory=directory,
    )
