"""Reading answers that are like one before: never other offers than are read without that."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planner_app.execution_broker import kinds
from planner_app.voter import alike, collect
from planner_app.voter.alike import Alike
from planner_app.voter.answers import Answer
from planner_app.voter.planners import Planner, Reply

PLANNER, OTHER = Planner("one", "http://one:8101", "x"), Planner("two", "http://two:8102", "x")
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
IDS = ["9b7f6a0e-1e1f-4a4a-8c5d-1f2e3d4c5b6a", "0192f6a0-1e1f-7a4a-8c5d-1f2e3d4c5b6a"]


def offer(uuid: str) -> dict[str, Any]:
    """An offer as our planners write it."""
    return {
        "kind": kinds.SCHEDULED_SESSION,
        "meta": {"uuid": uuid, "name": "größe", "url": f"http://one:8101/x/{uuid}", "created": "2026-11-24T12:00:00Z"},
        "phase": "OFFERED",
        "expires": "2026-11-24T12:05:00.5Z",
        "executable": {"kind": kinds.DOCKER_CONTAINER, "image": {"locations": ["x"]}, "command": ["a"]},
        "compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 2, "max": 2}, "memory": {"min": 4, "max": 4}},
        "schedule": {
            "preparing": {"start": "2026-11-24T12:00:00Z", "duration": "PT10S"},
            "available": {"start": "2026-11-24T12:00:10.25Z/PT0S", "duration": "PT1H30M"},
        },
        "costs": [
            {"kind": kinds.SIMPLE_COST, "type": kinds.COST_TYPE_PREFIX + "monetary", "min": 0.1, "max": 0.25},
            {"kind": kinds.SIMPLE_COST, "type": kinds.COST_TYPE_PREFIX + "monetary", "max": 1},
            {"kind": kinds.SIMPLE_COST, "type": "other", "min": 3},
        ],
        "metrics": [
            {"kind": kinds.SIMPLE_METRIC, "type": kinds.METRIC_TYPE_PREFIX + "speed", "min": 90, "max": 95.5},
            {"kind": kinds.SIMPLE_METRIC, "type": kinds.METRIC_TYPE_PREFIX + "speed", "min": 80},
        ],
    }


def offer_set() -> dict[str, Any]:
    """An answer of two offers."""
    return {
        "kind": kinds.OFFERSET,
        "meta": {"uuid": str(uuid4()), "url": "http://one:8101/offersets/x", "created": "2026-11-24T12:00:00.123456Z"},
        "result": "YES",
        "offers": [offer(uuid) for uuid in IDS],
    }


def read(planner: Planner, body: bytes, known: Alike | None) -> Answer:
    return collect.read_answer(planner, Reply(200, {"content-type": "application/json"}, body), NOW, NOW, 0.0, known)


@pytest.fixture(scope="module")
def known() -> Alike:
    """One that has read an answer."""
    made = Alike()
    assert read(PLANNER, orjson.dumps(offer_set()), made).offers
    return made


def refuse(*_: Any) -> None:
    raise AssertionError("read without the template")


def test_what_differs_in_ids_times_and_prices_is_read_by_the_template(
    known: Alike, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = offer_set()
    document["meta"] |= {"uuid": str(uuid4()), "url": "http://two:8102/offersets/y", "created": "2026-11-24T12:00:01Z"}
    first, second = document["offers"]
    first["meta"] |= {"uuid": str(uuid4()), "url": "http://two:8102/z", "created": "2026-11-24T12:00:02Z"}
    first["expires"] = "2026-11-24T12:06:00Z"
    first["schedule"]["available"]["start"] = "2026-11-24T13:00:10Z/PT0S"
    first["costs"][0] |= {"min": 7, "max": 7.5}
    second["costs"][2]["min"] = 0
    second["metrics"][1]["min"] = 99.25
    body = orjson.dumps(document)
    slowly = read(OTHER, body, None)
    monkeypatch.setattr(collect, "read_plain_set", refuse)
    quickly = read(OTHER, body, known)
    assert quickly == slowly
    assert [(each.planner, dict(each.costs), dict(each.metrics)) for each in quickly.offers] == [
        ("two", {"monetary": 7.5, "other": 3.0}, {"speed": 80.0}),
        ("two", {"monetary": 1.0, "other": 0.0}, {"speed": 90.0}),
    ]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places of a document's plain values."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    return [path] if below is None else [place for key, each in below for place in places(each, (*path, key))]


def text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


# What may stand in a hole, as it is written there: good, wrong, and what would make something else of the rest.
WRITTEN = [
    *map(text, [*IDS, IDS[0].upper(), "", "a b", "é", "\ud800", "a\0", "x" * 2001]),
    *map(
        text, ["2026-11-24T12:00:00Z", "2026-11-24", "20261124T120000Z", "9999-12-31T23:59:59Z", "2026-11-24T12:00:00"]
    ),
    *map(
        text, ["2026-11-24T12:00:00Z/PT0S", "9999-12-31T23:59:59Z/PT0S", "9999-12-31T20:59:59Z/PT9H", "PT9S/2026-11-24"]
    ),
    *map(text, [0, -1, -0.0, 1e300, 95, 95.5, 96, 2**53, 10**20, 0.1, 0.123456789012345678, True, None, [], {}]),
    *[
        "1e400",
        "01",
        "1.",
        ".1",
        "+1",
        "1e2",
        "NaN",
        "1,1",
        "",
        '"',
        '"a\\"',
        '"\\"',
        '"\\u0041"',
        '"\t"',
        " 1",
        '"a" ',
    ],
    *['"a","url":"c"', '"a","b":"c"', '1,"max":2', '1},{"min":1', f'"{IDS[1]}","uuid":"{IDS[0]}"'],
]
PLACES = [place for place in places(offer_set()) if place[:2] != ("offers", 1)]


def written(changes: list[tuple[tuple[Any, ...], str]], *, spaced: bool = False) -> bytes | None:
    """An answer with something else in some places; None where no bytes stand for it."""
    document, marks = offer_set(), {}
    for number, (path, instead) in enumerate(changes):
        where = document
        for key in path[:-1]:
            where = where[key]
        where[path[-1]] = f"mark-{number}"
        marks[f'"mark-{number}"'] = instead
    body = json.dumps(document, ensure_ascii=False) if spaced else text(document)
    for mark, instead in marks.items():
        body = body.replace(mark, instead)
    try:
        return body.encode()
    except UnicodeEncodeError:
        return None


def same(body: bytes, known: Alike) -> None:
    """It is read as without templates, by one of another answer and by one of itself."""
    slowly = repr(read(PLANNER, body, None))
    assert repr(read(PLANNER, body, known)) == slowly
    fresh = Alike()
    assert repr(read(PLANNER, body, fresh)) == slowly
    if fresh.read("one", PLANNER.sessions_url, body) is not None:
        assert repr(read(PLANNER, body, fresh)) == slowly


@pytest.mark.parametrize("instead", WRITTEN)
def test_whatever_stands_anywhere_is_read_as_without_templates(known: Alike, instead: str) -> None:
    for place in PLACES:
        if (body := written([(place, instead)])) is not None:
            same(body, known)


@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(WRITTEN)), min_size=2, max_size=4), st.booleans())
def test_so_is_what_stands_in_several_places(
    known: Alike, changes: list[tuple[tuple[Any, ...], str]], spaced: bool
) -> None:
    if (body := written(changes, spaced=spaced)) is not None:
        same(body, known)


@pytest.mark.parametrize(
    "body",
    [
        orjson.dumps(offer_set()).replace(b'"result":"YES"', b'"result":"YES","result":"YES"'),
        orjson.dumps(offer_set()).replace(b'"expires":"2026', b'"expires":"2026-11-24T12:00:00Z","expires":"2026', 1),
        orjson.dumps(offer_set()) + b" ",
        orjson.dumps(offer_set())[:-1],
        orjson.dumps(offer_set() | {"offers": [offer(IDS[0])] * 2}),
    ],
    ids=["a name twice", "in a hole", "more", "less", "an id twice"],
)
def test_what_is_no_good_answer_fits_no_template(known: Alike, body: bytes) -> None:
    assert known.read("one", PLANNER.sessions_url, body) is None


def test_templates_are_few_and_of_several_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Alike()
    bodies = [orjson.dumps(offer_set() | {"offers": [offer(str(uuid4())) for _ in range(n)]}) for n in range(1, 20)]
    for body in bodies:
        assert read(PLANNER, body, known) == read(PLANNER, body, None)
    fitting = [known.read("one", PLANNER.sessions_url, body) is not None for body in bodies]
    assert fitting == [True] * alike.MOST + [False] * (19 - alike.MOST)


class AllAnswer:
    """Planners that answer at once, each with ids of its own."""

    async def call_all(self, asked: list[Planner], *rest: Any) -> None:
        for planner in asked:
            body = orjson.dumps(offer_set() | {"offers": [offer(str(uuid4()))]})
            rest[4](planner, Reply(200, {"content-type": "application/json"}, body))


@pytest.mark.parametrize(("count", "without"), [(19, 19), (20, 1)])
async def test_many_are_read_by_the_template_of_the_first(
    monkeypatch: pytest.MonkeyPatch, count: int, without: int
) -> None:
    """Of few a template costs more than it saves."""
    asked = [Planner(f"p{number}", f"http://p{number}:8101", "x") for number in range(count)]
    plain, called = collect.read_plain_set, []
    monkeypatch.setattr(collect, "read_plain_set", lambda *given: called.append(given) or plain(*given))
    all_answer: Any = AllAnswer()
    answers = await collect.collect(all_answer, asked, b"{}", timedelta(seconds=5))
    assert [len(answer.offers) for answer in answers] == [1] * count
    assert len(called) == without
