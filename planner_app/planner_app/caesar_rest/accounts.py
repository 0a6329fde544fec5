"""What users have used, in the documents that caesar-rest's accounter keeps. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from planner_app.caesar_rest import states

Document = dict[str, Any]

_COUNTED = {
    states.SUCCESS: "njobs_completed",
    states.FAILURE: "njobs_failed",
    "ABORTED": "njobs_aborted",
    states.PENDING: "njobs_pending",
    states.RUNNING: "njobs_running",
    "STARTED": "njobs_running",
}
_UNKNOWN = "njobs_unknown"
"""Canceled ones are among these, as caesar-rest has it."""
_COUNTS = ("njobs", *dict.fromkeys(_COUNTED.values()), _UNKNOWN)
_TIMES = ("job_runtime", "job_completed_runtime")


def _seconds(job: Mapping[str, Any]) -> float:
    try:
        return max(float(job.get("elapsed_time") or 0), 0)
    except (TypeError, ValueError):
        return 0


def account(jobs: Iterable[Mapping[str, Any]], data_kb: float, jobs_kb: float, now: datetime) -> Document:
    """Count a user's jobs and seconds; `data_kb` and `jobs_kb` are what uploads and outputs take."""
    made: Document = {"timestamp": now, "datasize": data_kb, "jobsize": jobs_kb}
    made |= dict.fromkeys((*_COUNTS, *_TIMES), 0)
    for job in jobs:
        state = job.get("state", "")
        made["njobs"] += 1
        made[_COUNTED.get(state, _UNKNOWN)] += 1
        made["job_runtime"] += _seconds(job)
        made["job_completed_runtime"] += _seconds(job) if state == states.SUCCESS else 0
    return made


def totals(accounts: Iterable[Mapping[str, Any]], now: datetime) -> Document:
    """Add all users' accounts up."""
    each = list(accounts)
    made: Document = {"timestamp": now, "nusers": len(each)}
    made |= {key: sum(one[key] for one in each) for key in ("datasize", "jobsize", *_COUNTS, *_TIMES)}
    made["totsize"] = made["datasize"] + made["jobsize"]
    completed = made["njobs_completed"]
    made["avg_completed_job_runtime"] = made["job_completed_runtime"] / completed if completed else 0
    return made
