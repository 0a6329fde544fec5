"""How much of the quota one client's outstanding offers may hold, so that nobody parks it. Pure.

A client that has no offer outstanding is always made one: else a job that needs most of the quota could never
be offered. What is accepted is no longer an offer, and counts against the quota alone.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from planner_app.execution_broker.models import Phase
from planner_app.planner.config import PlannerConfig
from planner_app.planner.quoting import RESOURCES, Amount, Quote, Reservation, refusal

_WORDS = {"cores": "cores", "memory_gib": "GiB of memory", "disc_gb": "GB of disc", "jobs": "jobs"}


def held_by(client: str, reservations: Iterable[Reservation], now: datetime) -> Amount:
    """What a client's outstanding offers hold: of those of one set only one can be accepted."""
    sets: dict[UUID, Amount] = {}
    for each in reservations:
        if each.client == client and each.phase is Phase.OFFERED and each.expires > now:
            sets[each.offerset] = sets.get(each.offerset, Amount()).most(each.amount)
    return sum(sets.values(), Amount())


def within_allowance(config: PlannerConfig, client: str, made: Quote, outstanding: Callable[[], Amount]) -> Quote:
    """Take back the offers that would be beyond the client's share; where that is all of them, say why.

    `outstanding` tells what the client's offers hold, for those whose share is not all.
    """
    share = config.offers.shares.get(client, config.offers.share)
    if share >= 1 or not made.offers:
        return made
    held = outstanding()
    if held == Amount():
        return made
    quota = Amount(config.quota.cores, config.quota.memory_gib, config.quota.disc_gb, config.limits.jobs)
    limit = Amount(*(math.floor(value * share + 1e-9) for value in quota))
    left = limit - held
    offers = tuple(offer for offer in made.offers if offer.amount.fits(left))
    if offers:
        return replace(made, offers=offers)
    asked = made.offers[0].amount
    reasons = tuple(
        refusal(
            config, "client-limit",
            "${asked} ${resource} asked, ${client}'s outstanding offers may hold ${left} more of ${limit}: "
            "accept or reject some",
            client=client, resource=_WORDS[name], limit=getattr(limit, name), asked=getattr(asked, name),
            left=max(getattr(left, name), 0),
        )
        for name in RESOURCES
        if getattr(asked, name) > getattr(left, name)
    )  # fmt: skip
    return Quote(reasons=reasons)
