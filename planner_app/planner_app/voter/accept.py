"""Accepting one offer, and rejecting or cancelling those that are not wanted."""

from dataclasses import dataclass
from datetime import timedelta

from planner_app.execution_broker.codecs import MalformedBody
from planner_app.execution_broker.models import Phase
from planner_app.voter.collect import problem, read_phase
from planner_app.voter.planners import NoReply, Planner, Planners, Reply

_WON = frozenset(
    {
        Phase.ACCEPTED,
        Phase.WAITING,
        Phase.PREPARING,
        Phase.AVAILABLE,
        Phase.RUNNING,
        Phase.RELEASING,
        Phase.COMPLETED,
        Phase.FAILED,
    }
)
"""Phases that only an accepted session has; FAILED too: it was accepted and something went wrong since."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of accepting an offer."""

    phase: Phase | None
    """The phase of the accepted session; None where it was not accepted, or nobody knows."""
    reason: str = ""
    settled: bool = True
    """Whether it is certain that the session does not run. Otherwise it has to be cancelled."""
    unwanted: bool = False
    """Nobody asked the planner: its offer is to be rejected."""


async def accept(
    planners: Planners, planner: Planner, session: str, timeout: timedelta, *, look_first: bool = False
) -> Outcome:
    """Accept an offer. The phase in the reply decides: a status of 200 alone is no proof.

    With `look_first` the session may have been accepted already, by a voter that was killed since.
    """
    if look_first:
        outcome = await _look(planners, planner, session, timeout)
        if outcome is None or outcome.phase is not None:
            return outcome or Outcome(None, "can not be asked whether it was accepted", settled=False)
        if outcome.reason != _STILL_OFFERED:
            return outcome
    try:
        reply = await planners.update_phase(planner, session, Phase.ACCEPTED, timeout)
    except NoReply as failure:
        if failure.never_sent:
            return Outcome(None, f"offered, then {failure}")
        # It may have been accepted, and the reply lost.
        seen = await _look(planners, planner, session, timeout)
        if seen is not None and seen.phase is not None:
            return seen
        return Outcome(None, f"offered, then did not confirm: {failure}", settled=False)
    return _judge(reply)


_STILL_OFFERED = "is still OFFERED"


def _judge(reply: Reply) -> Outcome:
    if reply.status in (403, 404, 409, 410, 422):
        return Outcome(None, f"offered, then refused with {reply.status}{problem(reply)}")
    if reply.status >= 400:
        return Outcome(None, f"offered, then answered {reply.status}{problem(reply)}", settled=False)
    try:
        phase = read_phase(reply.document())
    except MalformedBody as error:
        return Outcome(None, f"offered, then answered nonsense: {error}", settled=False)
    if phase in _WON:
        return Outcome(phase)
    if phase is None:
        return Outcome(None, "offered, then gave no phase", settled=False)
    return Outcome(None, f"offered, then left it {phase}", settled=phase.ended)


async def _look(planners: Planners, planner: Planner, session: str, timeout: timedelta) -> Outcome | None:
    """Look where a session stands; None where that can not be known now."""
    try:
        reply = await planners.call(planner, "GET", f"/sessions/{session}", timeout)
        if reply.status in (403, 404, 410):
            return Outcome(None, "does not know its offer any more")
        phase = read_phase(reply.document()) if reply.status == 200 else None
    except (NoReply, MalformedBody):
        return None
    if phase is None:
        return None
    if phase in _WON:
        return Outcome(phase)
    return Outcome(None, _STILL_OFFERED if phase is Phase.OFFERED else f"its offer is {phase}")


async def dismiss(planners: Planners, planner: Planner, session: str, timeout: timedelta, *, cancel: bool) -> bool:
    """Reject an offer, or cancel one that was perhaps accepted; tell whether that is settled."""
    try:
        if cancel:
            reply = await planners.call(planner, "GET", f"/sessions/{session}", timeout)
            phase = read_phase(reply.document()) if reply.status == 200 else None
            if reply.status in (403, 404, 410) or (phase is not None and phase.ended):
                return True
            cancel = phase is not Phase.OFFERED
        reply = await planners.update_phase(planner, session, Phase.CANCELLED if cancel else Phase.REJECTED, timeout)
    except (NoReply, MalformedBody):
        return False
    if cancel:
        # Settled when a look finds it ended.
        return False
    return is_rejected(reply)


def is_rejected(reply: Reply) -> bool:
    """Tell whether an offer that was to be rejected is settled."""
    # A conflict is an offer that is no offer any more: expired, or rejected with its accepted sibling.
    return reply.status < 300 or reply.status in (403, 404, 409, 410)
