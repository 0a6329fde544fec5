"""Running something at once, without asking for offers and choosing."""

from uuid import UUID

from planner_app.execution_broker import kinds
from planner_app.execution_broker.models import EnumValueUpdate, ExecutionRequest, Phase
from planner_app.planner.documents import Document
from planner_app.planner.service import IllegalUpdate, Service


async def run_direct(service: Service, client: str, request: ExecutionRequest, uuid: UUID | None = None) -> Document:
    """Accept the earliest offer that there is; where there is none the session FAILED, and says why.

    A session that never was has no url. The offer and its acceptance are two transactions: between them
    nothing is promised but the offer, which expires by itself.
    """
    offerset = await service.request(client, request, uuid=uuid, direct=True)
    if offerset["result"] != "YES":
        return _failed(offerset)
    return await _accepted(service, client, offerset)


async def run_again(service: Service, client: str, uuid: UUID) -> Document | None:
    """Give what became of an earlier request; None where nothing did, be it that its planner was killed."""
    offerset = await service.offerset_if_any(client, uuid)
    if offerset is None:
        return None
    if offerset["result"] != "YES":
        return _failed(offerset)
    (session,) = offerset["offers"]
    if session["phase"] != Phase.OFFERED:
        return await service.session(client, UUID(session["meta"]["uuid"]))
    return await _accepted(service, client, offerset)


async def _accepted(service: Service, client: str, offerset: Document) -> Document:
    (offer,) = offerset["offers"]
    uuid = UUID(offer["meta"]["uuid"])
    try:
        return await service.update(client, uuid, EnumValueUpdate(path="/phase", value="ACCEPTED"))
    except IllegalUpdate:
        return await service.session(client, uuid)  # withdrawn in this moment: the session says so


def _failed(offerset: Document) -> Document:
    meta = {key: offerset["meta"][key] for key in ("created", "messages") if key in offerset["meta"]}
    return {"kind": kinds.SCHEDULED_SESSION, "meta": meta, "phase": str(Phase.FAILED)}
