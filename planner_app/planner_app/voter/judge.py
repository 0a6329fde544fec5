"""What an ended ballot means for caesar-rest's job: its end, or another vote. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planner_app.voter.answers import Verdict
from planner_app.voter.ballots import State
from planner_app.voter.jobs import JobState

_SILENT = frozenset({Verdict.TIMEOUT, Verdict.UNREACHABLE, Verdict.ERROR})


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an ended ballot means: the job's end, or another vote."""

    state: JobState
    """PENDING for another vote."""
    reason: str = ""
    exit_code: int = 0
    """As wait(2) has it, like Slurm's."""
    avoid: str | None = None
    """The planner that need not be asked again where there are others."""


def judge(ballot: Mapping[str, Any], cancelled: bool, attempts_left: int) -> Judgement:
    """Say what an ended ballot means for its job. Pure.

    Voted on again is what failed before it started, and what nobody could be asked about; never what has run.
    """
    state, message, started = State(ballot["state"]), ballot["message"], bool(ballot.get("started"))
    cancelled = cancelled or bool(ballot.get("cancelled"))
    if state is State.COMPLETED:
        return Judgement(JobState.COMPLETED)
    if cancelled and not (started and state is State.FAILED):
        return Judgement(JobState.CANCELLED, "cancelled")
    if state is State.NO_OFFER:
        reasons = [f"{each['planner']}: {each['reason']}" for each in ballot["candidates"]]
        if attempts_left > 0 and _may_change(ballot):
            return Judgement(JobState.PENDING, message)
        return Judgement(JobState.FAILED, "; ".join([message, *reasons]), 1 << 8)
    winner = ballot["winner"]["planner"]
    if not started and attempts_left > 0:
        return Judgement(JobState.PENDING, f"{winner}: {message or state.lower()}", avoid=winner)
    if state is State.CANCELLED:
        return Judgement(JobState.CANCELLED, message or f"cancelled by {winner}")
    return Judgement(_end_of(message), message, _exit_code(message))


def _may_change(ballot: Mapping[str, Any]) -> bool:
    """Whether asking again can help: somebody did not answer, or did not give what was offered."""
    return any(answer["verdict"] in _SILENT for answer in ballot.get("answers", [])) or any(
        candidate["rank"] is not None for candidate in ballot["candidates"]
    )


def _end_of(message: str) -> JobState:
    if re.search(r"OUT_OF_MEMORY|OOMKilled", message):
        return JobState.OUT_OF_MEMORY
    if re.search(r"TIMEOUT|DEADLINE|DeadlineExceeded", message):
        return JobState.TIMEOUT
    return JobState.NODE_FAIL if re.search(r"NODE_FAIL|BOOT_FAIL", message) else JobState.FAILED


def _exit_code(message: str) -> int:
    match = re.search(r"\b(\d{1,3}):(\d{1,3})\b", message)
    return ((int(match[1]) << 8) | int(match[2]) or 1 << 8) if match else 1 << 8
