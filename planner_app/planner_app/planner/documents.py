"""From the ledger's rows to what the API says."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, get_args

from planner_app.execution_broker import kinds
from planner_app.execution_broker.models import ComponentPhase, Phase
from planner_app.execution_broker.times import Interval, format_duration, format_instant, format_interval
from planner_app.planner.config import PlannerConfig
from planner_app.planner.demand import gib_of
from planner_app.planner.ledger import Event, OfferSetRow, SessionRow
from planner_app.planner.quoting import PREPARING, RELEASING, fill

_COMPONENT_PHASES = frozenset(get_args(ComponentPhase))
_CONNECTOR_STATUS = {
    Phase.AVAILABLE: "AVAILABLE",
    Phase.RELEASING: "AVAILABLE",
    Phase.COMPLETED: "FINISHED",
    Phase.FAILED: "FINISHED",
    Phase.CANCELLED: "FINISHED",
}

Document = dict[str, Any]


def legal_changes(phase: Phase) -> list[str]:
    """The phases that a client may set now."""
    if phase is Phase.OFFERED:
        return ["ACCEPTED", "REJECTED"]
    if phase in (Phase.ACCEPTED, Phase.WAITING, Phase.PREPARING, Phase.AVAILABLE):
        return ["CANCELLED"]
    return []


def offerset_document(config: PlannerConfig, offerset: OfferSetRow, rows: Sequence[SessionRow]) -> Document:
    """An offer set: what is offered, or every reason why nothing is."""
    meta: Document = {
        "uuid": str(offerset.uuid),
        "url": f"{config.url}/offersets/{offerset.uuid}",
        "created": format_instant(offerset.created),
    }
    if offerset.reasons:
        meta["messages"] = [
            _message(reason["kind"], offerset.created, "WARN", reason["template"], reason["values"])
            for reason in offerset.reasons
        ]
    asked = _asked(offerset.request) if rows else {}
    return {
        "kind": kinds.OFFERSET,
        "meta": meta,
        "result": "YES" if rows else "NO",
        "offers": [_session_document(config, row, asked, ()) for row in rows],
    }


def session_document(
    config: PlannerConfig, row: SessionRow, offerset: OfferSetRow, events: Sequence[Event]
) -> Document:
    """A session with all that was requested, offered and said."""
    return _session_document(config, row, _asked(offerset.request), events)


def _session_document(config: PlannerConfig, row: SessionRow, asked: Document, events: Sequence[Event]) -> Document:
    meta: Document = {
        "uuid": str(row.uuid),
        "name": row.name,
        "url": f"{config.url}/sessions/{row.uuid}",
        "created": format_instant(row.created),
        "modified": format_instant(row.modified),
    }
    if events:
        meta["messages"] = [
            _message(each.note.kind, each.time, each.note.level, each.note.template, each.note.values)
            for each in events
        ]
    if changes := legal_changes(row.phase):
        meta["options"] = [{"kind": kinds.ENUM_VALUE_OPTION, "path": "/phase", "values": changes}]
    document: Document = {"kind": kinds.SCHEDULED_SESSION, "meta": meta, "phase": str(row.phase)}
    if row.phase is Phase.OFFERED:
        document["expires"] = format_instant(row.expires)
    document |= _components(row, asked)
    document["schedule"] = _schedule(row)
    document["costs"] = [
        {
            "kind": kinds.SIMPLE_COST,
            "type": kinds.COST_TYPE_PREFIX + name,
            "description": "core-hours x price",
            "min": cost,
            "max": cost,
        }
        for name, cost in row.costs.items()
    ]
    document["metrics"] = [
        {"kind": kinds.SIMPLE_METRIC, "type": kinds.METRIC_TYPE_PREFIX + name, "min": value, "max": value}
        for name, value in row.metrics.items()
    ]
    if row.phase not in (Phase.OFFERED, Phase.REJECTED, Phase.EXPIRED):
        status = _CONNECTOR_STATUS.get(row.phase, "PREPARING")
        document["connectors"] = [
            {
                "kind": kind,
                "status": status,
                "protocol": config.url.partition(":")[0].upper(),
                "location": f"{config.url}/sessions/{row.uuid}/{path}",
            }
            for kind, path in ((kinds.CONNECTOR_STDOUT, "stdout"), (kinds.CONNECTOR_OUTPUTS, "outputs"))
        ]
    return document


def _message(kind: str, time: datetime, level: str, template: str, values: Mapping[str, str]) -> Document:
    return {
        "kind": kind,
        "time": format_instant(time),
        "level": level,
        "template": template,
        "values": dict(values),
        "message": fill(template, values),
    }


def _asked(request: Mapping[str, Any]) -> Document:
    """The components as requested, without what the service says of them, not the client."""
    asked: Document = {"executable": _without(request["executable"]), "compute": _without(request.get("compute") or {})}
    for several in ("storage", "data"):
        if request.get(several):
            asked[several] = [_without(each) for each in request[several]]
    return asked


def _without(component: Mapping[str, Any]) -> Document:
    return {key: value for key, value in component.items() if key not in ("phase", "schedule", "costs", "metrics")}


def _components(row: SessionRow, asked: Document) -> Document:
    """The components with what is offered in place of what was asked."""
    phase = {"phase": str(row.phase)} if row.phase in _COMPONENT_PHASES else {}
    components: Document = {
        "executable": asked["executable"] | phase,
        "compute": {
            "kind": kinds.SIMPLE_COMPUTE,
            **asked["compute"],
            "cores": {"min": row.amount.cores, "max": row.amount.cores},
            "memory": {"min": row.amount.memory_gib, "max": row.amount.memory_gib},
            **phase,
        },
    }
    if "storage" in asked:
        size = gib_of(row.amount.disc_gb)
        components["storage"] = [each | {"size": {"min": size, "max": size}} | phase for each in asked["storage"]]
    if "data" in asked:
        components["data"] = [each | phase for each in asked["data"]]
    return components


def _schedule(row: SessionRow) -> Document:
    available = row.start if row.started is None else Interval(row.started, row.started)
    preparing = available.start - PREPARING if row.submitted is None else min(row.submitted, available.start)
    releasing = row.ended or available.start + row.duration
    return {
        "preparing": {
            "start": format_instant(preparing),
            "duration": format_duration(available.start - preparing),
        },
        "available": {"start": format_interval(available), "duration": format_duration(row.duration)},
        "releasing": {"start": format_instant(releasing), "duration": format_duration(RELEASING)},
    }
