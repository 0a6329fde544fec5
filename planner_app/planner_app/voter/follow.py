"""Looking where an accepted session stands."""

from dataclasses import dataclass
from datetime import timedelta

from planner_app.execution_broker.codecs import MalformedBody
from planner_app.execution_broker.models import Phase
from planner_app.voter.ballots import State
from planner_app.voter.collect import read_messages, read_phase
from planner_app.voter.planners import NoReply, Planner, Planners


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a session stands: the ballot's state, the phase where there is one, a line for people."""

    state: State
    phase: Phase | None = None
    message: str = ""


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
        if reply.status in (404, 410):
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
    if state is State.FAILED:
        return Seen(state, phase, messages[-1] if messages else f"{planner.name} gave no reason")
    return Seen(state, phase, "")
