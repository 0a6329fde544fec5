"""What is asked for, what planners answered, and what came of it: the plain values that a vote is about.

Times are timezone-aware, memory is in GiB, costs and metrics are of the whole session, in the planners' units.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple


class Verdict(StrEnum):
    """What a planner's answer came to."""

    OFFERS = "OFFERS"
    NO = "NO"
    """It understood and can not, or will not."""
    REFUSED = "REFUSED"
    """It did not take the request: a 4xx status."""
    TIMEOUT = "TIMEOUT"
    UNREACHABLE = "UNREACHABLE"
    ERROR = "ERROR"
    """A 5xx status."""
    NONSENSE = "NONSENSE"
    """Something that is no answer of the Execution Broker API."""


@dataclass(frozen=True, slots=True)
class Range:
    """From `min` to `max`, both included; no `max` is no upper end."""

    min: int
    max: int | None = None


@dataclass(frozen=True, slots=True)
class Demand:
    """What an offer must meet to be a candidate."""

    cores: Range
    memory_gib: Range
    duration: timedelta
    start: tuple[datetime, datetime] | None = None
    """Earliest and latest start; None for any."""
    max_costs: Mapping[str, float] = field(default_factory=dict)
    min_metrics: Mapping[str, float] = field(default_factory=dict)
    budgets: tuple["Left", ...] = ()
    """What the user may still spend."""


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a budget."""

    cost: str
    left: float
    budget: str
    """The budget in words: `10 of lee in 1 d`."""


class Offer(NamedTuple):
    """One offer that could be read. A tuple, which is made in a third of the time: hundreds come at once."""

    planner: str
    uuid: str
    """Of its session, in lower case and with hyphens."""
    url: str
    cores: int
    memory_gib: int
    start: datetime
    duration: timedelta
    expires: datetime
    costs: Mapping[str, float]
    """The upper end of each, by the last word of its type: monetary, energy, carbon."""
    metrics: Mapping[str, float]
    """The lower end of each, by the last word of its type: compute-performance."""
    load: float | None = None
    """The share of the platform's quota that was taken before the question; None where nobody asked or said."""

    @property
    def finish(self) -> datetime:
        """When the time offered is over."""
        return self.start + self.duration


@dataclass(frozen=True, slots=True)
class Unusable:
    """An offer that could not be read, and why; with an id, where it has one, so that it can be rejected."""

    reason: str
    uuid: str | None = None
    url: str | None = None


class Answer(NamedTuple):
    """One planner's answer; whatever went wrong is in it, nothing is raised."""

    planner: str
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    offers: tuple[Offer, ...] = ()
    unusable: tuple[Unusable, ...] = ()
    clock_offset: timedelta | None = None
    """How far the planner's clock is ahead of ours, where it said what time it is."""
    elapsed: float = 0.0
    """Seconds from the question to the end of the answer."""
    load: float | None = None
    """As the offers have it."""
    excerpt: str = ""
    """The beginning of what it said, where that was nonsense."""


class Candidate(NamedTuple):
    """One line of the ballot: an offer with its rank, or why it, or its planner, could not win."""

    planner: str
    verdict: Verdict
    rank: int | None
    """1 for the winner; None for what could not win."""
    reason: str
    offer: Offer | None = None
    scores: tuple[float, ...] = ()
    """What it counts by each criterion of the policy, less being better; empty for what could not win."""


@dataclass(frozen=True, slots=True)
class Choice:
    """All candidates, the best first, those that could not win after them by name."""

    candidates: tuple[Candidate, ...]

    @property
    def winner(self) -> Offer | None:
        """The offer of rank 1, if any offer has a rank."""
        return self.candidates[0].offer if self.candidates and self.candidates[0].rank == 1 else None

    @property
    def ranked(self) -> tuple[Offer, ...]:
        """The offers that may be accepted, the best first."""
        return tuple(c.offer for c in self.candidates if c.rank is not None and c.offer is not None)


Scored = tuple[tuple[float, ...], Offer]
"""An offer with what it counts by each criterion, less being better."""
