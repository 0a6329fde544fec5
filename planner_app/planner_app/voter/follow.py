"""Looking where an accepted session stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from planner_app.execution_broker.codecs import MalformedBody
from planner_app.execution_broker.models import Phase
from planner_app.execution_broker.times import parse_instant
from planner_app.voter.ballots import State, now_text
from planner_app.voter.collect import read_messages, read_phase
from planner_app.voter.planners import NoReply, Planner, Planners


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a session stands: the ballot's state, the phase where there is one, a line for people."""

    state: State
    phase: Phase | None = None
    message: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """`started` and `ended`, as the session's schedule has them, once its job has started and ended."""


_ENDS = {
    Phase.COMPLETED: State.COMPLETED,
    Phase.CANCELLED: State.CANCELLED,
    Phase.FAILED: State.FAILED,
    Phase.REJECTED: State.FAILED,
    Phase.EXPIRED: State.FAILED,
}


async def followed(planners: Planners, planner: Planner, session: str, timeout: timedelta) -> Seen:
    """Look once. A planner that can not be asked now changes nothing but the line for people."""
    try:
        reply = await planners.call(planner, "GET", f"/sessions/{session}", timeout)
        if reply.status in (403, 404, 410):
            return Seen(State.FAILED, None, f"{planner.name} does not know the session any more")
        document = reply.document() if reply.status == 200 else None
    except NoReply as failure:
        return Seen(State.RUNNING, None, f"{planner.name}: {failure}")
    except MalformedBody as error:
        return Seen(State.RUNNING, None, f"{planner.name} answers nonsense: {error}")
    phase = read_phase(document)
    if phase is None:
        return Seen(State.RUNNING, None, f"{planner.name} answers {reply.status} without a phase")
    state = _ENDS.get(phase, State.RUNNING)
    messages = read_messages(document)
    facts = read_facts(document, phase)
    if state is State.FAILED:
        return Seen(state, phase, messages[-1] if messages else f"{planner.name} gave no reason", facts)
    return Seen(state, phase, "", facts)


_STARTED = frozenset({Phase.AVAILABLE, Phase.RUNNING, Phase.COMPLETED})
_RAN = ":running"
"""How the kind of the message ends by which our planners say that a job has started."""


def read_facts(document: Any, phase: Phase) -> dict[str, str]:
    """Find when a session's job started and ended; nothing where it did not.

    A job may start and fail between two looks, and then only the messages tell that it ran.
    """
    try:
        schedule = document["schedule"]
        kinds = [str(message.get("kind")) for message in document.get("meta", {}).get("messages") or []]
        if phase not in _STARTED and not any(kind.endswith(_RAN) for kind in kinds):
            return {}
        facts = {"started": str(schedule["available"]["start"]).partition("/")[0]}
        if phase.ended:
            facts["ended"] = str(schedule["releasing"]["start"])
        for text in facts.values():
            parse_instant(text)
    except (KeyError, TypeError, AttributeError, ValueError):
        # A planner that shows no schedule all the same says by the phase that it started.
        return {"started": now_text()} if phase in _STARTED else {}
    return facts
