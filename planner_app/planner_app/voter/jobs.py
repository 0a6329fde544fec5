"""The jobs of caesar-rest in the voter's database."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from planner_app.voter import database
from planner_app.voter.database import Database

_jobs = database.jobs

# Made once: with each submission anew they would cost more than what the database does with them.
_new = insert(_jobs)
_named = select(_jobs).where(_jobs.c.name == bindparam("of"))
_change = update(_jobs).where(_jobs.c.id == bindparam("of"))


class JobState(StrEnum):
    """The states of Slurm that caesar-rest understands and that a job here can have; it polls no other ever again."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    NODE_FAIL = "NODE_FAIL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"

    @property
    def ended(self) -> bool:
        """Whether the job stays as it is."""
        return self not in (JobState.PENDING, JobState.RUNNING)


@dataclass(slots=True)
class Job:
    """A job: what was submitted, how far it is, and what became of it."""

    id: int
    name: str
    state: JobState
    """PENDING until it ends: whether it runs is told by its session."""
    attempt: int
    """The number of its present ballot, from 1 on."""
    cancelled: bool
    document: dict[str, Any] = field(default_factory=dict)


class NameTaken(Exception):
    """Another job has the name already."""


class Jobs:
    """All jobs."""

    def __init__(self, store: Database) -> None:
        self._do = store.do

    async def add(self, name: str, document: Mapping[str, Any]) -> tuple[Job, bool]:
        """Record a job and say whether it is new: the same one again is the one that is there.

        Raises NameTaken where a job of this name is another one.
        """

        row = {"name": name, "state": JobState.PENDING, "attempt": 1, "cancelled": 0, "document": json.dumps(document)}

        def work(connection: Connection) -> tuple[Job, bool]:
            found = connection.execute(_named, {"of": name}).first()
            if found is not None:
                return _job(found), False
            key = connection.execute(_new, row).inserted_primary_key
            return Job(int(key[0]) if key else 0, name, JobState.PENDING, 1, False, dict(document)), True

        job, new = await self._do(work)
        if not new and job.document["submission"] != document["submission"]:
            raise NameTaken(f"another job is called {name}")
        return job, new

    async def save(self, job: Job) -> None:
        """Record how far a job is."""
        change = {
            "of": job.id,
            "state": job.state,
            "attempt": job.attempt,
            "cancelled": int(job.cancelled),
            "document": json.dumps(job.document),
        }
        await self._do(lambda connection: connection.execute(_change, change))

    async def unfinished(self) -> list[Job]:
        """Read all jobs that something is still to happen to, oldest first."""
        query = select(_jobs).where(_jobs.c.state == JobState.PENDING).order_by(_jobs.c.id)
        return await self._do(lambda connection: [_job(row) for row in connection.execute(query)])

    async def get(self, ids: Sequence[int]) -> list[Job]:
        """Read some jobs, those that there are."""
        query = select(_jobs).where(_jobs.c.id.in_(ids)).order_by(_jobs.c.id)
        return await self._do(lambda connection: [_job(row) for row in connection.execute(query)])

    async def latest(self, count: int) -> list[Job]:
        """Read the last jobs, oldest first."""
        query = select(_jobs).order_by(_jobs.c.id.desc()).limit(count)
        return await self._do(lambda connection: [_job(row) for row in connection.execute(query)][::-1])


def _job(row: Any) -> Job:
    return Job(row.id, row.name, JobState(row.state), row.attempt, bool(row.cancelled), json.loads(row.document))
