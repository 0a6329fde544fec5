"""Reading plain offers quickly: what a good planner sends, checked as strictly as the models do.

A general model takes longer for an offer than its whole way over the network, and hundreds come in the same moment.
Here the fields that the choice looks at are checked by hand, and whatever else there is by the models. What is not
plain, or wrong in anything, is left to the models: they know all that is allowed, and say what is wrong. So nothing
is an offer here that is none, or another one, for them (`tests/test_voter_quick.py` compares the two).
"""

import re
from datetime import datetime, timedelta
from functools import lru_cache
from math import isfinite
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from planner_app.execution_broker import kinds
from planner_app.execution_broker.models import Session
from planner_app.execution_broker.times import parse_duration, parse_instant
from planner_app.voter.choose import Offer

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
MAX_OFFERS = 1000
_LONGEST = 2000
_MOST = 2**53
"""Whole numbers up to this are the same as floating ones."""
_OTHERS = ("executable", "storage", "data", "connectors")
"""Fields of an offer that the choice does not look at."""
_BY_HAND = (
    ("meta", frozenset({"uuid"})),
    ("compute", frozenset({"kind", "cores", "memory"})),
    ("schedule", frozenset({"available"})),
)
_SET = frozenset({"kind", "meta", "result", "offers"})
_PRICED = frozenset({"kind", "type", "description", "min", "max"})
_duration = lru_cache(maxsize=256)(parse_duration)


class _NotPlain(Exception):
    """For the models to read."""


_WRONG = (_NotPlain, KeyError, TypeError, AttributeError, ValueError, OverflowError, ValidationError)


def read_plain_set(planner: str, url: str, document: Any) -> tuple[datetime | None, tuple[Offer, ...]] | None:
    """Read a whole answer that offers something: when it was made, and the offers; None where anything is not plain.

    `url` is that of all sessions of the planner.
    """
    try:
        if document.keys() != _SET or document["result"] != "YES" or type(document["kind"]) is not str:
            return None
        created = None
        for name, value in document["meta"].items():
            if name == "created":
                created = parse_instant(value)
            elif not (
                _UUID.fullmatch(value)
                if name == "uuid"
                else name == "url" and type(value) is str and len(value) <= _LONGEST
            ):
                return None
        offers, ids = document["offers"], set()
        if type(offers) is not list or not 0 < len(offers) <= MAX_OFFERS:
            return None
        read = []
        for offer in offers:
            text = offer["meta"]["uuid"]
            ids.add(text)
            read.append(_read(planner, f"{url}/{text}", text, offer))
        return (created, tuple(read)) if len(ids) == len(read) else None
    except _WRONG:
        return None


def read_plain(planner: str, url: str, offer: Any) -> Offer | None:
    """Read one offer, whose address is known; None where it is not plain, or wrong."""
    try:
        return _read(planner, url, offer["meta"]["uuid"], offer)
    except _WRONG:
        return None


def _read(planner: str, url: str, uuid: str, offer: dict[str, Any]) -> Offer:
    # A kind is told from the whole, and any word will do.
    if type(offer.get("kind", "")) is not str or offer["phase"] != "OFFERED" or not _UUID.fullmatch(uuid):
        raise _NotPlain
    rest = {name: offer[name] for name in _OTHERS if name in offer}
    for name, known in _BY_HAND:
        if not known.issuperset(offer[name]) or type(offer[name]) is not dict:
            rest[name] = offer[name]
    if rest:
        Session.model_validate(rest, extra="ignore")
    compute = offer["compute"]
    if compute["kind"] != kinds.SIMPLE_COMPUTE:
        raise _NotPlain
    available = offer["schedule"]["available"]
    if available.keys() != {"start", "duration"}:
        raise _NotPlain
    first, _, second = available["start"].partition("/")
    start = parse_instant(first)
    _ = start + _duration(second)  # an interval of another form is not plain, and none may end after the year 9999
    duration: timedelta = _duration(available["duration"])
    _ = start + duration
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
        uuid=UUID(uuid),
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
