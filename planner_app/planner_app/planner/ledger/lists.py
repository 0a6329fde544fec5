"""Pages of what a client has asked for and been offered, the latest first."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from planner_app.execution_broker.models import Phase
from planner_app.planner.ledger.database import reading
from planner_app.planner.ledger.rows import OfferSetRow, SessionRow, offerset_of, session_of
from planner_app.planner.ledger.schema import offersets, sessions

_JOINED = sa.select(sessions, offersets.c.client).join(offersets, offersets.c.uuid == sessions.c.offerset)


class Lists:
    """The lists of a ledger."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def sessions(
        self, client: str, phases: Sequence[Phase], after: tuple[datetime, UUID] | None, limit: int
    ) -> list[tuple[SessionRow, OfferSetRow]]:
        """Read a client's sessions, with the requests that they came from."""
        statement = _JOINED.where(offersets.c.client == client)
        if phases:
            statement = statement.where(sessions.c.phase.in_(phases))
        if after is not None:
            statement = statement.where(_beyond(after, sessions.c.uuid))
        statement = statement.order_by(offersets.c.created.desc(), sessions.c.uuid.desc()).limit(limit)
        with reading(self._engine) as connection:
            rows = [session_of(each) for each in connection.execute(statement)]
            wanted = {row.offerset for row in rows}
            found = connection.execute(sa.select(offersets).where(offersets.c.uuid.in_(wanted))) if wanted else ()
            requests = {each.uuid: offerset_of(each) for each in found}
        return [(row, requests[row.offerset]) for row in rows]

    def offersets(
        self, client: str, after: tuple[datetime, UUID] | None, limit: int
    ) -> list[tuple[OfferSetRow, list[SessionRow]]]:
        """Read a client's requests, with their offers as they are now."""
        statement = sa.select(offersets).where(offersets.c.client == client)
        if after is not None:
            statement = statement.where(_beyond(after, offersets.c.uuid))
        statement = statement.order_by(offersets.c.created.desc(), offersets.c.uuid.desc()).limit(limit)
        with reading(self._engine) as connection:
            found = [offerset_of(each) for each in connection.execute(statement)]
            offers: dict[UUID, list[SessionRow]] = {each.uuid: [] for each in found}
            if offers:
                joined = _JOINED.where(sessions.c.offerset.in_(offers)).order_by(sessions.c.name)
                for each in connection.execute(joined):
                    offers[each.offerset].append(session_of(each))
        return [(each, offers[each.uuid]) for each in found]


def _beyond(after: tuple[datetime, UUID], uuid: sa.Column[UUID]) -> sa.ColumnElement[bool]:
    """What comes after in the list; sessions are as old as their request, whose index tells."""
    created, last = after
    return sa.and_(offersets.c.created <= created, sa.or_(offersets.c.created < created, uuid < last))
