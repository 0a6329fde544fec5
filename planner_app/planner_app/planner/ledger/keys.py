"""What each Idempotency-Key was used for."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from planner_app.planner.ledger.ids import new_uuid
from planner_app.planner.ledger.schema import keys


@dataclass(frozen=True)
class Claim:
    """What a key stands for: the offer set's uuid, and whether it was used now or before."""

    uuid: UUID
    fingerprint: str
    new: bool


class Keys:
    """The keys of a ledger. They promise nothing, so the ledger's revision does not count them."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def claim(self, client: str, key: str, fingerprint: str, now: datetime, forget: datetime) -> Claim:
        """Take a client's key, or tell what it was taken for; those older than `forget` are forgotten."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(keys).where(keys.c.created <= forget))
            found = connection.execute(sa.select(keys).where(keys.c.client == client, keys.c.key == key)).first()
            if found is not None:
                return Claim(found.offerset, found.fingerprint, new=False)
            claim = Claim(new_uuid(), fingerprint, new=True)
            connection.execute(
                sa.insert(keys).values(
                    client=client, key=key, fingerprint=fingerprint, offerset=claim.uuid, created=now
                )
            )
            return claim
