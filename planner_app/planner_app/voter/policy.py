"""Policies: what candidates are ordered by. Pure.

A policy is a list of criteria with commas; a later one counts where all before it are equal. A criterion is a key,
or a weighted sum of keys: `2*monetary/0.5+carbon/40` is twice the cost in units of 0.5 plus the carbon in units
of 40. `cheapest` and the like are names of such texts; the inventory may add names of its own.

What a weight is to multiply must have no unit, so each value in a sum is divided by a reference. It is never taken
from the offers: a sum whose values are stretched between the least and the most that is offered gives another
winner when a loser goes away, since the loser was an end of the scale. A reference here comes from the policy's
text, else from the request (the cost at most, the metric at least, the duration asked), else from the
configuration, so what one offer counts depends on no other offer.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from math import fsum, inf
from typing import Any, Self

from planner_app.execution_broker.times import format_duration, parse_duration


class Key(StrEnum):
    """What candidates can be ordered by."""

    EARLIEST_START = "earliest-start"
    EARLIEST_FINISH = "earliest-finish"
    MONETARY = "monetary"
    ENERGY = "energy"
    CARBON = "carbon"
    PERFORMANCE = "performance"
    LOAD = "load"
    """The share of its platform's quota, of cores or memory, that was taken just before the question."""


_KEYS = frozenset(key.value for key in Key)
TIMES = frozenset({Key.EARLIEST_START, Key.EARLIEST_FINISH})
METRICS = {Key.PERFORMANCE: "compute-performance"}
"""The metric behind a key; more is better. Keys that are no times, no metrics and not load are costs."""

DEFAULT_KEYS = (Key.EARLIEST_FINISH, Key.MONETARY)
"""What decides where a policy leaves it open; after them come all other keys, then the planner's name."""

NAMED: Mapping[str, str] = {
    "cheapest": "monetary",
    "greenest": "carbon,energy",
    "fastest": "performance",
    "least-loaded": "load",
}
"""Names that every voter knows; keys and `default` are names too."""

_TERM = re.compile(r"(?:(?P<weight>[0-9.]+(?:e-?[0-9]+)?)\*)?(?P<key>[a-z-]+)(?:/(?P<reference>[0-9A-Z.e-]+))?")


@dataclass(frozen=True, slots=True)
class Term:
    """A key in a sum, with its weight and the amount that counts as one: seconds for times."""

    key: Key
    weight: float = 1.0
    reference: float | None = None

    def __str__(self) -> str:
        text = self.key.value if self.weight == 1 else f"{_number(self.weight)}*{self.key}"
        if self.reference is None:
            return text
        if self.key in TIMES:
            return f"{text}/{format_duration(timedelta(seconds=self.reference))}"
        return f"{text}/{_number(self.reference)}"


def _number(number: float) -> str:
    """Write a number so that it is read back as the same, and without the sign that separates terms."""
    short = f"{number:g}"
    return (short if float(short) == number else repr(number)).replace("e+", "e")


@dataclass(frozen=True, slots=True)
class Criterion:
    """A key alone, or a sum of terms."""

    terms: tuple[Term, ...]

    @property
    def key(self) -> Key | None:
        """The key where it is one alone, which needs no reference; None for a sum."""
        only = self.terms[0]
        return only.key if len(self.terms) == 1 and only.weight == 1 and only.reference is None else None

    def __str__(self) -> str:
        return "+".join(str(term) for term in self.terms)


def alone(key: Key) -> Criterion:
    """Make a criterion of one key."""
    return Criterion((Term(key),))


@dataclass(frozen=True, slots=True)
class Policy:
    """Criteria by falling weight."""

    criteria: tuple[Criterion, ...] = tuple(alone(key) for key in DEFAULT_KEYS)
    granularity: timedelta = timedelta(minutes=1)
    """Starts closer than about this are equal; planners reckon theirs some milliseconds apart."""

    @classmethod
    def parse(cls, text: str, names: Mapping[str, str] | None = None) -> Self:
        """Read criteria with commas, or names of such; what they leave open the default keys decide.

        Raises ValueError that names the word and the words there are.
        """
        known = NAMED if names is None else {**NAMED, **names}
        criteria: list[Criterion] = []
        for word in text.split(","):
            stripped = word.strip()
            for part in known.get(stripped, stripped).split(","):
                if (one := part.strip()) != "default":
                    criteria.append(_criterion(one, known))
        return cls(tuple(dict.fromkeys([*criteria, *(alone(key) for key in DEFAULT_KEYS)])))

    @property
    def keys(self) -> frozenset[Key]:
        """All keys that are looked at before the tie is broken."""
        return frozenset(term.key for criterion in self.criteria for term in criterion.terms)

    @property
    def tie_keys(self) -> tuple[Key, ...]:
        """What breaks ties: every key that is not a criterion by itself, so that nobody wins who is worse in one."""
        own = {criterion.key for criterion in self.criteria}
        return tuple(key for key in Key if key not in own)

    def with_references(self, asked: Mapping[Key, float], otherwise: Mapping[Key, float]) -> Self:
        """Fill in what counts as one in each sum: what the text says, else what was asked, else the other."""

        def fill(criterion: Criterion) -> Criterion:
            if criterion.key is not None:
                return criterion
            return Criterion(
                tuple(
                    term
                    if term.reference is not None
                    else replace(term, reference=asked.get(term.key) or otherwise.get(term.key) or 1.0)
                    for term in criterion.terms
                )
            )

        return replace(self, criteria=tuple(fill(criterion) for criterion in self.criteria))

    def __str__(self) -> str:
        return ",".join(str(criterion) for criterion in self.criteria)


def _criterion(text: str, known: Mapping[str, str]) -> Criterion:
    terms: list[Term] = []
    for part in text.split("+"):
        match = _TERM.fullmatch(part.strip())
        if match is None or match["key"] not in _KEYS:
            words = ", ".join(dict.fromkeys(["default", *Key, *known]))
            raise ValueError(f"no policy {part.strip()!r}; there are: {words}")
        key = Key(match["key"])
        weight = _positive(match["weight"] or "1", part)
        reference = None
        if (said := match["reference"]) is not None:
            reference = _seconds(said, part) if key in TIMES else _positive(said, part)
        if key in {term.key for term in terms}:
            raise ValueError(f"{key} comes twice in the sum {text!r}")
        terms.append(Term(key, weight, reference))
    return Criterion(tuple(terms))


def _positive(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < inf:
        raise ValueError(f"{text!r} in {where.strip()!r} must be a number above 0")
    return number


def _seconds(text: str, where: str) -> float:
    try:
        seconds = parse_duration(text).total_seconds()
    except ValueError as error:
        raise ValueError(f"{text!r} in {where.strip()!r} {error}") from None
    if seconds <= 0:
        raise ValueError(f"{text!r} in {where.strip()!r} must be longer than nothing")
    return seconds


Measure = Callable[[Sequence[Any]], list[float]]
"""What each of many offers counts; less is better, and what is not stated is worst, infinitely so.

Of all at once, since a call for each of ten thousand is a good part of a choice.
"""


def measure_of_key(key: Key, now: datetime, granularity: timedelta) -> Measure:
    """Make the measure of a key: seconds from the decision for times, the planner's units for the rest."""
    if key in TIMES:
        step = granularity.total_seconds()

        def starts(offers: Sequence[Any]) -> list[float]:
            # What could start before the decision starts at the decision: that is no merit.
            return [
                round((start - now).total_seconds() / step) * step if (start := offer.start) > now else 0.0
                for offer in offers
            ]

        def finishes(offers: Sequence[Any]) -> list[float]:
            return [start + offer.duration.total_seconds() for start, offer in zip(starts(offers), offers, strict=True)]

        return starts if key is Key.EARLIEST_START else finishes
    if key is Key.LOAD:
        return lambda offers: [inf if offer.load is None else offer.load for offer in offers]
    if (metric := METRICS.get(key)) is not None:
        return lambda offers: [-offer.metrics.get(metric, -inf) for offer in offers]
    name = key.value
    return lambda offers: [offer.costs.get(name, inf) for offer in offers]


def weigh(criterion: Criterion, measured: Mapping[Key, Sequence[float]]) -> Sequence[float]:
    """Give what each of many offers counts by a criterion, of what each counts by the keys in it."""
    if (key := criterion.key) is not None:
        return measured[key]
    weighted = []
    for term in criterion.terms:
        factor = term.weight / (term.reference or 1.0)
        weighted.append([value * factor for value in measured[term.key]])
    # Rounded once, so a sum never falls when a value rises.
    try:
        return list(map(fsum, zip(*weighted, strict=True)))
    except (OverflowError, ValueError):
        return [_sum(values) for values in zip(*weighted, strict=True)]


def _sum(values: Iterable[float]) -> float:
    try:
        return fsum(values)
    except (OverflowError, ValueError):
        return inf  # numbers that no platform has
