"""Reading answers that are like one that was read already, but for ids, times and prices.

Planners that are asked the same answer alike: most of hundreds of answers is the same to the byte. So of the first that
is plain (`quick.py`) a template is kept: its text with holes where ids, times and amounts stand. Whatever else has that
text has the same structure, with no name twice and nothing else in it, and only what stands in the holes is checked, as
strictly as ever. What fits no template is read as if there were none (`tests/test_voter_alike.py` compares the two).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

import orjson

from planner_app.execution_broker import kinds
from planner_app.voter.answers import Offer
from planner_app.voter.quick import WRONG, NotPlain, Plain, all_differ, is_uuid, read_duration, read_instant

MOST = 8
"""Templates that are kept of one vote."""
_LARGEST = 50_000
"""Bytes of an answer that a template is made of."""
_STRING, _NUMBER = "#a-string-was-here#", "#a-number-was-here#"
_split = re.compile(f'{_STRING}|"{_NUMBER}"').split
_is_number = re.compile(r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,17})?").fullmatch
# A URL, of which nothing is made; without what ends a string or stands for something else in it.
_is_url = re.compile(r"[!#-\[\]-~]{0,2000}").fullmatch


def _uuid(text: str) -> str:
    if not is_uuid(text):
        raise NotPlain
    return text


def _url(text: str) -> None:
    if not _is_url(text):
        raise NotPlain


def _span(text: str) -> datetime:
    first, _, second = text.partition("/")
    start = read_instant(first)
    _ = start + read_duration(second)
    return start


def _number(text: str) -> float:
    if not _is_number(text):
        raise NotPlain
    return float(text)


_Path = tuple[str | int, ...]
_META = {"created": read_instant, "uuid": _uuid, "url": _url}
_PRICES = [{"min": _number, "max": _number}]
_HOLES = {
    "meta": _META,
    "offers": [
        {
            "meta": _META,
            "expires": read_instant,
            "schedule": {"preparing": {"start": read_instant}, "available": {"start": _span}},
            "costs": _PRICES,
            "metrics": _PRICES,
        }
    ],
}
"""Where there are holes, by what their contents are read."""


@dataclass(frozen=True, slots=True)
class _Sketch:
    """An offer but for what stands in the holes, of which it has the numbers."""

    uuid: int
    cores: int
    memory_gib: int
    start: int
    duration: timedelta
    expires: int
    costs: Sequence[tuple[str, int, int]]
    """Name, lower and upper end; one alone is both."""
    metrics: Sequence[tuple[str, int, int]]

    @classmethod
    def of(cls, offer: Offer, document: Mapping[str, Any], holes: Mapping[_Path, int], path: _Path) -> Self:
        """Take an offer that was read, what it was read from, and the numbers of all holes."""

        def priced(field: str, prefix: str) -> list[tuple[str, int, int]]:
            found = []
            for index, each in enumerate(document.get(field) or []):
                ends = [holes[*path, field, index, end] for end in ("min", "max") if end in each]
                found.append((each["type"].removeprefix(prefix), ends[0], ends[-1]))
            return found

        return cls(
            holes[*path, "meta", "uuid"],
            offer.cores,
            offer.memory_gib,
            holes[*path, "schedule", "available", "start"],
            offer.duration,
            holes[*path, "expires"],
            priced("costs", kinds.COST_TYPE_PREFIX),
            priced("metrics", kinds.METRIC_TYPE_PREFIX),
        )

    def offer(self, planner: str, url: str, held: Sequence[Any]) -> Offer:
        """Fill in what the holes hold. Raises where that can not be."""
        uuid, start = held[self.uuid], held[self.start]
        _ = start + self.duration  # none may end after the year 9999
        costs: dict[str, float] = {}
        for name, least, most in self.costs:
            price = held[most]
            if price < 0 or held[least] > price:
                raise NotPlain
            costs[name] = max(price, costs.get(name, price))
        metrics: dict[str, float] = {}
        for name, least, most in self.metrics:
            metric = held[least]
            if metric > held[most]:
                raise NotPlain
            metrics[name] = min(metric, metrics.get(name, metric))
        expires, cores, memory = held[self.expires], self.cores, self.memory_gib
        return Offer(planner, uuid, f"{url}/{uuid}", cores, memory, start, self.duration, expires, costs, metrics)


class _Template:
    """The text of an answer with holes, and what is made of it."""

    def __init__(self, body: bytes, document: Mapping[str, Any], offers: Sequence[Offer]) -> None:
        """Take an answer that was read and the offers that it was read as. Raises where it is none to go by."""
        if orjson.dumps(document) != body:
            raise NotPlain
        self._holes: dict[_Path, int] = {}
        self._readers: list[Callable[[str], Any]] = []
        marked = orjson.dumps(self._marked(document, _HOLES, ()))
        self._first, *rest = _split(marked.decode("latin-1"))
        widths = self._widths(body.decode("latin-1"), rest)
        self._parts = list(zip(self._readers, widths, rest, map(len, rest), strict=True))
        self._created = self._holes.get(("meta", "created"))
        self._sketches = [
            _Sketch.of(offer, each, self._holes, ("offers", index))
            for index, (offer, each) in enumerate(zip(offers, document["offers"], strict=True))
        ]

    def _marked(self, value: Any, holes: Any, path: _Path) -> Any:
        """Copy a part of the document with marks where there are holes, and number them in the order of the text."""
        if isinstance(holes, dict) and isinstance(value, dict):
            return {
                name: self._marked(each, holes[name], (*path, name)) if name in holes else each
                for name, each in value.items()
            }
        if isinstance(holes, list) and isinstance(value, list):
            return [self._marked(each, holes[0], (*path, index)) for index, each in enumerate(value)]
        if not callable(holes):
            raise NotPlain
        self._holes[path] = len(self._readers)
        self._readers.append(holes)
        return _NUMBER if holes is _number else _STRING

    def _widths(self, text: str, rest: Sequence[str]) -> list[int]:
        """Find how wide each hole was in the answer that this is made of."""
        at, widths = len(self._first), []
        for until in rest:
            widths.append(text.index(until, at) - at)
            at += widths[-1] + len(until)
        return widths

    def read(self, planner: str, url: str, text: str) -> Plain | None:
        """Read an answer like this one; None where it is another one. Raises where something in a hole is not plain."""
        if not text.startswith(self._first):
            return None
        at, held = len(self._first), []
        for read, width, until, length in self._parts:
            # Where the first one had it there is no need to look for it; nothing that a hole may hold has it inside.
            if not text.startswith(until, end := at + width) and (end := text.find(until, at)) < 0:
                return None
            held.append(read(text[at:end]))
            at = end + length
        if at != len(text):
            return None
        created = None if self._created is None else held[self._created]
        offers = tuple([sketch.offer(planner, url, held) for sketch in self._sketches])
        return (created, offers) if all_differ(offers) else None


class Alike:
    """The templates of one vote."""

    def __init__(self) -> None:
        self._templates: list[_Template] = []

    def read(self, planner: str, url: str, body: bytes) -> Plain | None:
        """Read an answer that is like one before; None where there is none. `url` is that of the planner's sessions."""
        if not self._templates:
            return None
        # To the byte: no character is more than one in this encoding, and holes hold none but those of ASCII.
        text = body.decode("latin-1")
        for template in self._templates:
            try:
                if (found := template.read(planner, url, text)) is not None:
                    return found
            except WRONG:
                continue
        return None

    def learn(self, planner: str, url: str, body: bytes, document: Any, plain: Plain) -> None:
        """Keep a template of an answer that was read, if it makes a good one: it must read that answer the same."""
        if len(self._templates) == MOST or len(body) > _LARGEST:
            return
        try:
            template = _Template(body, document, plain[1])
            if template.read(planner, url, body.decode("latin-1")) == plain:
                self._templates.append(template)
        except WRONG:
            pass
