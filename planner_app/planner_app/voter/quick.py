"""Reading a plain offer quickly: what a good planner sends, checked as strictly as the models do.

A general model takes longer for an offer than its whole way over the network, and hundreds come in the same moment.
Here the fields that the choice looks at are checked by hand, and whatever else there is by the models. What is not
plain, or wrong in anything, is left to the models: they know all that is allowed, and say what is wrong. So nothing
is an offer here that is none, or another one, for them (`tests/test_voter_quick.py` compares the two).
"""

import re
from datetime import timedelta
from functools import lru_cache
from math import isfinite
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from planner_app.execution_broker import kinds
from planner_app.execution_broker.models import Session
from planner_app.execution_broker.times import parse_duration, parse_instant, parse_interval
from planner_app.voter.choose import Offer

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_LONGEST = 2000
_MOST = 2**53
"""Whole numbers up to this are the same as floating ones."""
_OTHERS = ("executable", "storage", "data", "connectors")
"""Fields of an offer that the choice does not look at."""
_BY_HAND = {
    "meta": frozenset({"uuid"}),
    "compute": frozenset({"kind", "cores", "memory"}),
    "schedule": frozenset({"available"}),
}
_PRICED = frozenset({"kind", "type", "description", "min", "max"})
_duration = lru_cache(maxsize=256)(parse_duration)


class _NotPlain(Exception):
    """For the models to read."""


def read_plain(planner: str, url: str, uuid: UUID, offer: Any) -> Offer | None:
    """Read an offer whose id is known; None where it is not plain, or wrong."""
    try:
        return _read(planner, url, uuid, offer)
    except (_NotPlain, KeyError, TypeError, AttributeError, ValueError, OverflowError, ValidationError):
        return None


def _read(planner: str, url: str, uuid: UUID, offer: dict[str, Any]) -> Offer:
    # A kind is told from the whole, and any word will do.
    if (
        type(offer.get("kind", "")) is not str
        or offer["phase"] != "OFFERED"
        or not _UUID.fullmatch(offer["meta"]["uuid"])
    ):
        raise _NotPlain
    rest = {name: offer[name] for name in _OTHERS if name in offer}
    for name, known in _BY_HAND.items():
        if not offer[name].keys() <= known:
            rest[name] = offer[name]
    if rest:
        Session.model_validate(rest, extra="ignore")
    compute = offer["compute"]
    if compute["kind"] != kinds.SIMPLE_COMPUTE:
        raise _NotPlain
    available = offer["schedule"]["available"]
    if available.keys() != {"start", "duration"}:
        raise _NotPlain
    start = parse_interval(available["start"]).start
    duration: timedelta = _duration(available["duration"])
    _ = start + duration  # overflows after the year 9999
    costs: dict[str, float] = {}
    for name, _, most in _priced(offer.get("costs"), kinds.SIMPLE_COST, kinds.COST_TYPE_PREFIX):
        if most < 0:
            raise _NotPlain
        costs[name] = max(most, costs.get(name, most))
    metrics: dict[str, float] = {}
    for name, least, _ in _priced(offer.get("metrics"), kinds.SIMPLE_METRIC, kinds.METRIC_TYPE_PREFIX):
        metrics[name] = min(least, metrics.get(name, least))
    return Offer(
        planner=planner,
        uuid=uuid,
        url=url,
        cores=_surely(compute["cores"]),
        memory_gib=_surely(compute["memory"]),
        start=start,
        duration=duration,
        expires=parse_instant(offer["expires"]),
        costs=costs,
        metrics=metrics,
    )


def _surely(amount: dict[str, Any]) -> int:
    """The lower end of a range of whole numbers above zero."""
    least, most = amount["min"], amount["max"]
    if len(amount) != 2 or type(least) is not int or type(most) is not int or not 0 < least <= most < _MOST:
        raise _NotPlain
    return least


def _priced(listed: Any, kind: str, prefix: str) -> list[tuple[str, float, float]]:
    """Read costs or metrics: the last word of the type, the lower and the upper end."""
    if listed is None:
        return []
    if type(listed) is not list:
        raise _NotPlain
    read = []
    for each in listed:
        if each["kind"] != kind or not each.keys() <= _PRICED:
            raise _NotPlain
        name, words = each["type"], each.get("description", "")
        if type(name) is not str or len(name) > _LONGEST or type(words) is not str:
            raise _NotPlain
        most = _number(each["max"] if "max" in each else each["min"])
        least = _number(each["min"] if "min" in each else each["max"])
        if least > most:
            raise _NotPlain
        read.append((name.removeprefix(prefix), least, most))
    return read


def _number(value: Any) -> float:
    if (type(value) is float and isfinite(value)) or (type(value) is int and -_MOST < value < _MOST):
        return float(value)
    raise _NotPlain
