"""Shares of a quota, and what is kept of it for whom. Amounts of disc are in GB, memory in GiB."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

from planner_app.execution_broker.models import Phase
from planner_app.execution_broker.times import Interval

PREPARING = timedelta(seconds=5)
"""From submission to a running job, with room: both platforms take one to two seconds."""
RELEASING = timedelta(seconds=5)
"""From the end of a job to a platform that counts its share as free."""

RESOURCES = ("cores", "memory_gib", "disc_gb", "jobs")
WORDS = {"cores": "cores", "memory_gib": "GiB of memory", "disc_gb": "GB of disc", "jobs": "jobs"}


class Amount(NamedTuple):
    """A share of a quota, in the order of RESOURCES. A tuple: each quote makes many, and the larger is the better."""

    cores: int = 0
    memory_gib: int = 0
    disc_gb: int = 0
    jobs: int = 0

    def __add__(self, other: "Amount") -> "Amount":  # type: ignore[override]
        return Amount(
            self.cores + other.cores,
            self.memory_gib + other.memory_gib,
            self.disc_gb + other.disc_gb,
            self.jobs + other.jobs,
        )

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(
            self.cores - other.cores,
            self.memory_gib - other.memory_gib,
            self.disc_gb - other.disc_gb,
            self.jobs - other.jobs,
        )

    def fits(self, room: "Amount") -> bool:
        """Whether there is room for this."""
        return (
            self.cores <= room.cores
            and self.memory_gib <= room.memory_gib
            and self.disc_gb <= room.disc_gb
            and self.jobs <= room.jobs
        )

    def least(self, other: "Amount") -> "Amount":
        """The smaller of each."""
        return Amount(*map(min, self, other))

    def most(self, other: "Amount") -> "Amount":
        """The larger of each."""
        return Amount(*map(max, self, other))


@dataclass(frozen=True, slots=True)
class Hold:
    """An amount that is not free from `start` until before `end`; without an end, for good."""

    amount: Amount
    start: datetime
    end: datetime | None


@dataclass(frozen=True, slots=True)
class Reservation:
    """What the ledger keeps for one session that has not ended."""

    session: UUID
    offerset: UUID
    phase: Phase
    amount: Amount
    reserved: Interval
    duration: timedelta
    expires: datetime
    ended: bool = False
    """Whether the job has ended, and only its outputs are still being collected."""
    client: str = ""


def together(offers: Iterable[Reservation]) -> list[Hold]:
    """What the offers of one set hold: only one of them can be accepted, so at each instant the larger of each."""
    offers = list(offers)
    if len({(each.reserved.start, each.reserved.end) for each in offers}) == 1:
        amount = offers[0].amount
        for each in offers[1:]:
            amount = amount.most(each.amount)
        return [Hold(amount, offers[0].reserved.start, offers[0].reserved.end)]
    times = sorted({time for each in offers for time in (each.reserved.start, each.reserved.end)})
    holds: list[Hold] = []
    for start, end in pairwise(times):
        amount = Amount()
        for each in offers:
            if each.reserved.start <= start and end <= each.reserved.end:
                amount = amount.most(each.amount)
        if holds and holds[-1].end == start and holds[-1].amount == amount:
            holds[-1] = Hold(amount, holds[-1].start, end)
        elif amount != Amount():
            holds.append(Hold(amount, start, end))
    return holds
