"""What the pages read of the voter's database, beyond what the vote itself needs."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from planner_app.voter import database
from planner_app.voter.ballots import Ballots, State, read_row

_ballots, _traces, _uploads = database.ballots, database.traces, database.uploads
_MOST_JOBS = 500
"""Jobs of the last hour that are drawn, the newest: enough for any picture."""


class Records:
    """The ballots as lists."""

    def __init__(self, ballots: Ballots) -> None:
        self._do = ballots.database.do

    async def page(self, states: Sequence[State], before: str | None, count: int) -> list[dict[str, Any]]:
        """Read ballots in some states, in all where none is given, the newest first, from after a ballot on."""
        query = select(_ballots).order_by(_ballots.c.created.desc(), _ballots.c.id.desc()).limit(count)
        if states:
            query = query.where(_ballots.c.state.in_(states))
        if before is not None:
            created = select(_ballots.c.created).where(_ballots.c.id == before).scalar_subquery()
            query = query.where(
                (_ballots.c.created < created) | ((_ballots.c.created == created) & (_ballots.c.id < before))
            )
        return await self._read(query)

    async def ran_since(self, moment: datetime) -> list[dict[str, Any]]:
        """Read the ballots whose jobs may have run since a moment."""
        since = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        recent = _ballots.c.created >= since
        query = select(_ballots).where(_ballots.c.planner.is_not(None), recent | (_ballots.c.state == State.RUNNING))
        return await self._read(query.order_by(_ballots.c.created.desc()).limit(_MOST_JOBS))

    async def of_trace(self, trace: str) -> list[dict[str, Any]]:
        """Read all ballots on one job, the oldest first."""
        query = select(_ballots).join(_traces, _traces.c.ballot == _ballots.c.id).where(_traces.c.trace == trace)
        return await self._read(query.order_by(_ballots.c.created).limit(20))

    async def uploaded(self, uuid: str) -> dict[str, Any] | None:
        """Read what there is on an upload: created, name, size, sha256."""

        def work(connection: Connection) -> dict[str, Any] | None:
            row = connection.execute(select(_uploads).where(_uploads.c.uuid == uuid)).first()
            return None if row is None else dict(row._mapping)

        return await self._do(work)

    async def _read(self, query: Any) -> list[dict[str, Any]]:
        return await self._do(lambda connection: [read_row(row._mapping) for row in connection.execute(query)])
