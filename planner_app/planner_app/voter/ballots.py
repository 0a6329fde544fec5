"""Ballots and what is still to be done about their offers, in one database.

Everything is recorded before it is acted on, so that a voter that was killed at any instant finds on its next
start which offer it wanted, which it may have accepted and which it still has to reject.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from planner_app.voter import database
from planner_app.voter.database import Database

_ballots, _offers, _uploads, _traces = database.ballots, database.offers, database.uploads, database.traces


class State(StrEnum):
    """Where a ballot stands."""

    VOTING = "VOTING"
    """The planners are being asked."""
    ACCEPTING = "ACCEPTING"
    """Chosen; the planner has not confirmed yet."""
    RUNNING = "RUNNING"
    """Accepted; the session is followed."""
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    NO_OFFER = "NO_OFFER"
    """No planner could, or none that could did."""
    ASKED = "ASKED"
    """Only a question: nothing was accepted."""

    @property
    def ended(self) -> bool:
        """Whether nothing will happen to the ballot any more."""
        return self not in (State.VOTING, State.ACCEPTING, State.RUNNING)


class Fate(StrEnum):
    """What became, or is to become, of an offer."""

    HELD = "HELD"
    """Ranked: may still be accepted."""
    ACCEPTED = "ACCEPTED"
    LOST = "LOST"
    """Its planner did not give it when asked."""
    TO_REJECT = "TO_REJECT"
    TO_CANCEL = "TO_CANCEL"
    """Perhaps accepted, not wanted any more."""
    GONE = "GONE"
    """Rejected, cancelled or expired: it holds nothing."""


# Made once: with each vote anew they would cost the voter more than what the database does with them.
_new_ballot, _new_trace, _new_offers, _new_upload = map(insert, (_ballots, _traces, _offers, _uploads))
_ballot = select(_ballots).where(_ballots.c.id == bindparam("of"))
_change = update(_ballots).where(_ballots.c.id == bindparam("of"))
_change_running = _change.where(_ballots.c.state == State.RUNNING)
_settle = update(_offers).where(
    _offers.c.ballot == bindparam("of"),
    _offers.c.planner == bindparam("by"),
    _offers.c.session == bindparam("which"),
)
_free = (
    update(_offers).where(_offers.c.ballot == bindparam("of"), _offers.c.fate == Fate.HELD).values(fate=Fate.TO_REJECT)
)
_unwanted = select(_offers).where(_offers.c.fate.in_([Fate.TO_REJECT, Fate.TO_CANCEL]))
_unwanted_of = _unwanted.where(_offers.c.ballot == bindparam("of"))


@dataclass(frozen=True, slots=True)
class HeldOffer:
    """An offer that is not settled yet."""

    ballot: str
    planner: str
    session: str
    expires: datetime | None
    fate: Fate

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from all others."""
        return self.ballot, self.planner, self.session


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that was uploaded."""

    uuid: UUID
    name: str
    size: int
    sha256: str


def now_text() -> str:
    """Write the time it is, as it is kept."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def written(document: Mapping[str, Any]) -> str:
    """Write a ballot as JSON; one of hundreds of candidates in a tenth of the time of `json`."""
    try:
        return orjson.dumps(document).decode()
    except TypeError:
        return json.dumps(document)  # numbers of more than 64 bits, for one


class Ballots:
    """The ballots in the voter's database."""

    def __init__(self, url: str) -> None:
        """Open the database and make its tables where they are missing."""
        self.database = Database(url)
        self._do = self.database.do

    async def create(self, ballot: str, document: Mapping[str, Any]) -> None:
        """Record a new ballot in state VOTING."""
        row = {
            "id": ballot,
            "created": document["created"],
            "state": State.VOTING,
            "document": written(document),
        }
        trace = {"trace": document["trace"], "ballot": ballot}

        def work(connection: Connection) -> None:
            connection.execute(_new_ballot, row)
            connection.execute(_new_trace, trace)

        await self._do(work)

    async def decide(
        self,
        ballot: str,
        state: State,
        document: Mapping[str, Any],
        offers: Iterable[tuple[str, str, int | None, datetime | None, Fate]],
    ) -> None:
        """Record the choice and what is to become of every offer: planner, session, rank, expiry, fate."""
        rows = [
            {
                "ballot": ballot,
                "planner": planner,
                "session": session,
                "rank": rank,
                "expires": None if expires is None else expires.isoformat(),
                "fate": fate,
            }
            for planner, session, rank, expires, fate in offers
        ]

        def work(connection: Connection) -> None:
            connection.execute(_change, {"of": ballot, "state": state, "document": written(document)})
            if rows:
                connection.execute(_new_offers, rows)

        await self._do(work)

    async def settle(self, ballot: str, planner: str, session: str, fate: Fate) -> None:
        """Record what became of one offer."""
        which = {"of": ballot, "by": planner, "which": session, "fate": fate}
        await self._do(lambda connection: connection.execute(_settle, which))

    async def settle_all(self, offers: Sequence[HeldOffer], fate: Fate) -> None:
        """Record that the same became of many offers."""
        rows = [{"of": offer.ballot, "by": offer.planner, "which": offer.session, "fate": fate} for offer in offers]
        await self._do(lambda connection: connection.execute(_settle, rows))

    async def accepted(self, ballot: str, planner: str, session: str, phase: str, document: Mapping[str, Any]) -> None:
        """Record the winner, and that all other offers are to be rejected, in one transaction."""

        change = {"of": ballot, "state": State.RUNNING, "planner": planner, "session": session, "phase": phase}
        winner = {"of": ballot, "by": planner, "which": session, "fate": Fate.ACCEPTED}

        def work(connection: Connection) -> None:
            connection.execute(_change, {**change, "document": written(document)})
            connection.execute(_free, {"of": ballot})
            connection.execute(_settle, winner)

        await self._do(work)

    async def end(
        self,
        ballot: str,
        state: State,
        document: Mapping[str, Any],
        phase: str | None = None,
        *,
        free_of_charge: bool = False,
    ) -> None:
        """Record that a ballot has ended; what it still holds is to be rejected, and perhaps nothing is to be paid."""

        def work(connection: Connection) -> None:
            change = {"of": ballot, "state": state, "document": written(document)}
            connection.execute(_change, change if phase is None else {**change, "phase": phase})
            connection.execute(_free, {"of": ballot})
            if free_of_charge:
                connection.execute(delete(database.spending).where(database.spending.c.ballot == ballot))

        await self._do(work)

    async def follow(self, ballot: str, phase: str | None, document: Mapping[str, Any]) -> None:
        """Record a new phase of a session that is followed; what has ended stays as it is."""
        await self._do(
            lambda connection: connection.execute(
                _change_running, {"of": ballot, "phase": phase, "document": written(document)}
            )
        )

    async def get(self, ballot: str) -> dict[str, Any] | None:
        """Read one ballot."""

        def work(connection: Connection) -> dict[str, Any] | None:
            row = connection.execute(_ballot, {"of": ballot}).first()
            return None if row is None else read_row(row._mapping)

        return await self._do(work)

    async def unfinished(self) -> list[dict[str, Any]]:
        """Read all ballots that something is still to happen to, oldest first."""
        open_states = [state for state in State if not state.ended]

        def work(connection: Connection) -> list[dict[str, Any]]:
            rows = connection.execute(
                select(_ballots).where(_ballots.c.state.in_(open_states)).order_by(_ballots.c.created)
            )
            return [read_row(row._mapping) for row in rows]

        return await self._do(work)

    async def latest(self, count: int) -> list[dict[str, Any]]:
        """Read the latest ballots, the newest first."""

        def work(connection: Connection) -> list[dict[str, Any]]:
            rows = connection.execute(select(_ballots).order_by(_ballots.c.created.desc(), _ballots.c.id).limit(count))
            return [read_row(row._mapping) for row in rows]

        return await self._do(work)

    async def of_trace(self, trace: str) -> str | None:
        """Find the latest ballot under a trace."""
        query = (
            select(_ballots.c.id)
            .join(_traces, _traces.c.ballot == _ballots.c.id)
            .where(_traces.c.trace == trace)
            .order_by(_ballots.c.created.desc())
            .limit(1)
        )
        return await self._do(lambda connection: connection.execute(query).scalar())

    async def states(self, ballots: Sequence[str]) -> dict[str, tuple[State, str | None]]:
        """Read state and phase of some ballots."""
        query = select(_ballots.c.id, _ballots.c.state, _ballots.c.phase).where(_ballots.c.id.in_(ballots))
        return await self._do(
            lambda connection: {row.id: (State(row.state), row.phase) for row in connection.execute(query)}
        )

    async def matching(self, beginning: str) -> list[str]:
        """Find the ids that begin like this, at most two."""

        def work(connection: Connection) -> list[str]:
            found = select(_ballots.c.id).where(_ballots.c.id.startswith(beginning, autoescape=True)).limit(2)
            return list(connection.execute(found).scalars())

        return await self._do(work)

    async def held(self, ballot: str) -> list[HeldOffer]:
        """Read the offers of a ballot that may still be accepted, the best first."""
        return await self._offers(
            select(_offers).where(_offers.c.ballot == ballot, _offers.c.fate == Fate.HELD).order_by(_offers.c.rank)
        )

    async def unwanted(self, ballot: str | None = None) -> list[HeldOffer]:
        """Read the offers that are to be rejected or cancelled, of one ballot or of all."""
        if ballot is None:
            return await self._offers(_unwanted)
        return await self._offers(_unwanted_of, {"of": ballot})

    async def count_unwanted(self) -> int:
        """Count the offers that are still to be rejected or cancelled."""
        query = select(func.count()).where(_offers.c.fate.in_([Fate.TO_REJECT, Fate.TO_CANCEL]))
        return await self._do(lambda connection: int(connection.execute(query).scalar_one()))

    async def _offers(self, query: Any, values: Mapping[str, Any] | None = None) -> list[HeldOffer]:
        def work(connection: Connection) -> list[HeldOffer]:
            return [
                HeldOffer(
                    row.ballot,
                    row.planner,
                    row.session,
                    None if row.expires is None else datetime.fromisoformat(row.expires),
                    Fate(row.fate),
                )
                for row in connection.execute(query, values)
            ]

        return await self._do(work)

    async def add_upload(self, upload: Upload) -> None:
        """Record an upload."""
        row = {
            "uuid": str(upload.uuid),
            "created": now_text(),
            "name": upload.name,
            "size": upload.size,
            "sha256": upload.sha256,
        }
        await self._do(lambda connection: connection.execute(_new_upload, row))

    async def upload(self, uuid: UUID) -> Upload | None:
        """Find an upload."""

        def work(connection: Connection) -> Upload | None:
            row = connection.execute(select(_uploads).where(_uploads.c.uuid == str(uuid))).first()
            return None if row is None else Upload(UUID(row.uuid), row.name, row.size, row.sha256)

        return await self._do(work)

    def close(self) -> None:
        """Finish what is being written and close the database."""
        self.database.close()


def read_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Make of a row of the ballots' table what `Ballots.get` gives."""
    document: dict[str, Any] = json.loads(row["document"])
    winner = None
    if row["planner"] is not None:
        winner = {"planner": row["planner"], "session": row["session"]}
    return {"id": row["id"], "state": row["state"], "phase": row["phase"], "winner": winner} | document
