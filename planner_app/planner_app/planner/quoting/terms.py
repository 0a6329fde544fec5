"""What is asked, what is offered, and why there is nothing to offer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache

from planner_app.execution_broker.times import Interval
from planner_app.planner.config import PlannerConfig
from planner_app.planner.quoting.amounts import Amount


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values into a template that names them as ``${name}``."""
    return re.sub(r"\$\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


@dataclass(frozen=True)
class Reason:
    """Why there is no offer: a template and its values, among them limit, asked and left where they apply."""

    kind: str
    template: str
    values: Mapping[str, str]

    @property
    def message(self) -> str:
        """The template with its values in place."""
        return fill(self.template, self.values)


@dataclass(frozen=True)
class Demand:
    """What a request asks for, in our units."""

    minimum: Amount
    maximum: Amount
    duration: timedelta | None = None
    start: Interval | None = None
    cost_maxima: Mapping[str, float] = field(default_factory=dict)
    """By the name that the configuration uses; a name that it does not use cannot be promised."""
    metric_minima: Mapping[str, float] = field(default_factory=dict)
    not_before: datetime | None = None
    """When the platform itself would start such a job at the earliest, where it says."""


@dataclass(frozen=True)
class Offer:
    """What can be promised: an amount for a duration, from some instant of an interval on."""

    amount: Amount
    start: Interval
    """The job starts at the beginning, or as much later as the offer is accepted later."""
    duration: timedelta
    expires: datetime
    reserved: Interval
    """What the offer keeps from others: from submission at the earliest to release at the latest."""
    costs: Mapping[str, float]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Quote:
    """Offers, the earliest first; where there are none, all reasons."""

    offers: tuple[Offer, ...] = ()
    reasons: tuple[Reason, ...] = ()


def cost_of(price: float, cores: int, duration: timedelta) -> float:
    """What so many cores cost for so long, the price being per core-hour."""
    return round(price * cores * _hours(duration), 9)


@lru_cache(64)
def _hours(duration: timedelta) -> float:
    return duration / timedelta(hours=1)


def refusal(config: PlannerConfig, kind: str, template: str, /, **values: object) -> Reason:
    """A reason of this planner; the template names its values as ``${name}``."""
    texts = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    return Reason(f"urn:caesar:planner:{kind}", "${platform}: " + template, {"platform": config.name, **texts})
