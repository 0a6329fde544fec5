"""Reading plain offers quickly: what a good planner sends, checked as strictly as the models do.

A general model takes longer for an offer than its whole way over the network, and hundreds come in the same moment.
Here the fields that the choice looks at are checked by hand, and whatever else there is by the models. What is not
plain, or wrong in anything, is left to the models: they know all that is allowed, and say what is wrong. So nothing
is an offer here that is none, or another one, for them (`tests/test_voter_quick.py` compares the two).
"""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from math import isfinite
from typing import Any

from pydantic import ValidationError

from planner_app.execution_broker import kinds
from planner_app.execution_broker.models import Session
from planner_app.execution_broker.times import parse_duration, parse_instant
from planner_app.voter.answers import Offer

is_uuid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
MAX_OFFERS = 1000
_LONGEST = 2000
_MOST = 2**53
"""Whole numbers up to this are the same as floating ones."""
_OTHERS = frozenset({"executable", "storage", "data", "connectors"})
"""Fields of an offer that the choice does not look at."""
_BY_HAND = (("meta", 1), ("compute", 3), ("schedule", 1))
"""Fields that are looked at, and of how many of theirs each."""
_PRICED = frozenset({"kind", "type", "description", "min", "max"})
# The same ones come many times: offers of one answer expire together, and begin when it was made.
read_duration = lru_cache(maxsize=256)(parse_duration)
read_instant = lru_cache(maxsize=256)(parse_instant)


class NotPlain(Exception):
    """For the models to read."""


Plain = tuple[datetime | None, tuple[Offer, ...]]
"""When an answer was made, where it says so, and its offers."""
WRONG = (NotPlain, KeyError, TypeError, AttributeError, ValueError, OverflowError, ValidationError)


def read_plain_set(planner: str, url: str, document: Any) -> Plain | None:
    """Read a whole answer that offers something: when it was made, and the offers; None where anything is not plain.

    `url` is that of all sessions of the planner.
    """
    try:
        # With the four that are read there is no fifth.
        if len(document) != 4 or document["result"] != "YES" or type(document["kind"]) is not str:
            return None
        created = None
        for name, value in document["meta"].items():
            if name == "created":
                created = read_instant(value)
            elif not (
                is_uuid(value) if name == "uuid" else name == "url" and type(value) is str and len(value) <= _LONGEST
            ):
                return None
        offers = document["offers"]
        if type(offers) is not list or not 0 < len(offers) <= MAX_OFFERS:
            return None
        read = tuple([_read(planner, url, offer) for offer in offers])
        return (created, read) if all_differ(read) else None
    except WRONG:
        return None


def all_differ(offers: Sequence[Offer]) -> bool:
    """Whether no two offers have the same id."""
    return len(offers) == 1 or len({offer.uuid for offer in offers}) == len(offers)


def read_plain(planner: str, url: str, offer: Any) -> Offer | None:
    """Read one offer; None where it is not plain, or wrong. `url` is that of all sessions of the planner."""
    try:
        return _read(planner, url, offer)
    except WRONG:
        return None


def _read(planner: str, url: str, offer: dict[str, Any]) -> Offer:
    meta, compute, schedule = offer["meta"], offer["compute"], offer["schedule"]
    uuid = meta["uuid"]
    # A kind is told from the whole, and any word will do.
    if offer["phase"] != "OFFERED" or not is_uuid(uuid) or type(offer.get("kind", "")) is not str:
        raise NotPlain
    if not (len(meta) == 1 and len(compute) == 3 and len(schedule) == 1 and _OTHERS.isdisjoint(offer)):
        _let_models_check(offer)
    if compute["kind"] != kinds.SIMPLE_COMPUTE:
        raise NotPlain
    available = schedule["available"]
    if len(available) != 2:
        raise NotPlain
    first, _, second = available["start"].partition("/")
    start = read_instant(first)
    _ = start + read_duration(second)  # an interval of another form is not plain, and none may end after the year 9999
    duration: timedelta = read_duration(available["duration"])
    _ = start + duration
    costs: dict[str, float] = {}
    for name, _, most in _priced(offer.get("costs"), kinds.SIMPLE_COST, kinds.COST_TYPE_PREFIX):
        if most < 0:
            raise NotPlain
        costs[name] = max(most, costs.get(name, most))
    metrics: dict[str, float] = {}
    for name, least, _ in _priced(offer.get("metrics"), kinds.SIMPLE_METRIC, kinds.METRIC_TYPE_PREFIX):
        metrics[name] = min(least, metrics.get(name, least))
    return Offer(
        planner,
        uuid,
        f"{url}/{uuid}",
        _surely(compute["cores"]),
        _surely(compute["memory"]),
        start,
        duration,
        read_instant(offer["expires"]),
        costs,
        metrics,
    )


def _let_models_check(offer: dict[str, Any]) -> None:
    """Check what is not looked at here, alone and in what else there is beside what is."""
    rest = {name: offer[name] for name in _OTHERS if name in offer}
    rest |= {name: offer[name] for name, known in _BY_HAND if len(offer[name]) != known}
    Session.model_validate(rest, extra="ignore")


def _surely(amount: dict[str, Any]) -> int:
    """The lower end of a range of whole numbers above zero."""
    least, most = amount["min"], amount["max"]
    if len(amount) != 2 or type(least) is not int or type(most) is not int or not 0 < least <= most < _MOST:
        raise NotPlain
    return least


def _priced(listed: Any, kind: str, prefix: str) -> list[tuple[str, float, float]]:
    """Read costs or metrics: the last word of the type, the lower and the upper end."""
    if listed is None:
        return []
    if type(listed) is not list:
        raise NotPlain
    read = []
    for each in listed:
        if each["kind"] != kind or not _PRICED.issuperset(each):
            raise NotPlain
        name, words = each["type"], each.get("description", "")
        if type(name) is not str or len(name) > _LONGEST or type(words) is not str:
            raise NotPlain
        most = _number(each["max"] if "max" in each else each["min"])
        least = _number(each["min"] if "min" in each else each["max"])
        if least > most:
            raise NotPlain
        read.append((name.removeprefix(prefix), least, most))
    return read


def _number(value: Any) -> float:
    if (type(value) is float and isfinite(value)) or (type(value) is int and -_MOST < value < _MOST):
        return float(value)
    raise NotPlain
