"""Reading plain offers quickly: never another offer than the models read, and never one that they refuse."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planner_app.execution_broker import codecs, kinds
from planner_app.execution_broker.codecs import JSON, MalformedBody, decode
from planner_app.voter.answers import Offer
from planner_app.voter.collect import read_answer, read_offer
from planner_app.voter.planners import Planner, Reply
from planner_app.voter.quick import read_plain, read_plain_set

PLANNER = Planner("one", "http://one:8101", "x")
ID = UUID("9b7f6a0e-1e1f-4a4a-8c5d-1f2e3d4c5b6a")


def offer() -> dict[str, Any]:
    """An offer as our planners write it."""
    return {
        "kind": kinds.SCHEDULED_SESSION,
        "meta": {
            "uuid": str(ID),
            "name": "aegean-x",
            "url": f"http://one:8101/sessions/{ID}",
            "created": "2026-11-24T12:00:00.123456Z",
            "options": [{"kind": kinds.ENUM_VALUE_OPTION, "path": "/phase", "values": ["ACCEPTED", "REJECTED"]}],
        },
        "phase": "OFFERED",
        "expires": "2026-11-24T12:05:00.5Z",
        "executable": {"kind": kinds.DOCKER_CONTAINER, "image": {"locations": ["x"]}, "command": ["a"]},
        "compute": {
            "kind": kinds.SIMPLE_COMPUTE,
            "cores": {"min": 2, "max": 2},
            "memory": {"min": 4, "max": 4},
            "volumes": [{"kind": kinds.SIMPLE_VOLUME_MOUNT, "path": "/out", "mode": "READWRITE", "resource": "r"}],
        },
        "storage": [{"kind": kinds.SIMPLE_STORAGE, "size": {"min": 1, "max": 1}}],
        "schedule": {
            "preparing": {"start": "2026-11-24T12:00:00Z", "duration": "PT10S"},
            "available": {"start": "2026-11-24T12:00:10.25Z/PT0S", "duration": "PT1H30M"},
        },
        "costs": [
            {"kind": kinds.SIMPLE_COST, "type": kinds.COST_TYPE_PREFIX + "monetary", "min": 0.1, "max": 0.25},
            {"kind": kinds.SIMPLE_COST, "type": kinds.COST_TYPE_PREFIX + "monetary", "max": 1},
            {"kind": kinds.SIMPLE_COST, "type": "other", "description": "core-hours x price", "min": 3},
        ],
        "metrics": [
            {
                "kind": kinds.SIMPLE_METRIC,
                "type": kinds.METRIC_TYPE_PREFIX + "compute-performance",
                "min": 90,
                "max": 95,
            }
        ],
    }


def test_a_plain_offer_is_read_the_same_by_both() -> None:
    read = read_plain("one", PLANNER.sessions_url, offer())
    assert read is not None
    assert read == read_offer(PLANNER, offer(), str(ID), 0)
    assert (read.cores, read.memory_gib) == (2, 4)
    assert dict(read.costs) == {"monetary": 1.0, "other": 3.0}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places in a document."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in below for place in places(each, (*path, key)))]


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**53 - 1, 2**53, 2**63 - 1, 2**63, 10**400, -1, 0.5, -0.0, 1e308]),
    st.floats(),
    st.sampled_from(
        ["", "x", "OFFERED", "ACCEPTED", "PT0S", "PT1H", "P9999999D", "PT-1H", "2026-11-24", "9999-12-31T23:59:59Z"]
    ),
    st.sampled_from(["2026-11-24T12:00:00Z/PT0S", "PT1H/2026-11-24T12:00:00Z", "9999-12-31T23:59:59Z/PT0S", "a/b"]),
    st.sampled_from([str(ID).upper(), ID.hex, f"{{{ID}}}", f"urn:uuid:{ID}", str(uuid4())]),
    st.sampled_from([kinds.SIMPLE_COST, kinds.SIMPLE_METRIC, kinds.SIMPLE_COMPUTE, "uri:unknown", "y" * 2001]),
    st.lists(st.integers(0, 2), max_size=2),
    st.dictionaries(st.sampled_from(["min", "max", "kind", "start"]), st.integers(-1, 3), max_size=3),
)


def changed(document: Any, changes: list[tuple[tuple[Any, ...], str, Any]]) -> Any:
    """The document after changes, those that are possible."""
    for path, how, value in changes:
        where = document
        try:
            for key in path[:-1]:
                where = where[key]
            if how == "set":
                where[path[-1]] = value
            elif how == "drop":
                del where[path[-1]]
            else:
                where[path[-1]]["strange"] = value
        except (KeyError, IndexError, TypeError):
            continue
    return document


def changes_of(document: Any) -> st.SearchStrategy[list[tuple[tuple[Any, ...], str, Any]]]:
    """Up to four changes anywhere in a document."""
    where = st.sampled_from(places(document)[1:])
    return st.lists(st.tuples(where, st.sampled_from(["set", "drop", "add"]), ODD), max_size=4)


@given(changes_of(offer()))
def test_what_is_read_quickly_is_what_the_models_read(changes: list[tuple[tuple[Any, ...], str, Any]]) -> None:
    document = changed(offer(), changes)
    quick = read_plain("one", PLANNER.sessions_url, document)
    if quick is not None:
        assert quick == read_offer(PLANNER, document, str(ID), 0)


OTHER = UUID("0192f6a0-1e1f-7a4a-8c5d-1f2e3d4c5b6a")


def offer_set() -> dict[str, Any]:
    """An answer as our planners write it."""
    second = offer()
    second["meta"]["uuid"] = str(OTHER)
    return {
        "kind": kinds.OFFERSET,
        "meta": {"uuid": str(uuid4()), "url": "http://one:8101/offersets/x", "created": "2026-11-24T12:00:00.123456Z"},
        "result": "YES",
        "offers": [offer(), second],
    }


@given(changes_of(offer_set()))
def test_an_answer_is_read_quickly_as_it_is_read_part_by_part(changes: list[tuple[tuple[Any, ...], str, Any]]) -> None:
    try:
        body = json.dumps(changed(offer_set(), changes), separators=(",", ":")).encode()
    except (TypeError, ValueError):
        return
    reply = Reply(200, {"content-type": "application/json"}, body)
    now = datetime(2026, 11, 24, 12, tzinfo=UTC)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("planner_app.voter.collect.read_plain_set", lambda *_: None)
        patch.setattr("planner_app.voter.collect.read_plain", lambda *_: None)
        slowly = read_answer(PLANNER, reply, now, now)
    assert read_answer(PLANNER, reply, now, now) == slowly


def test_two_offers_are_read_at_once() -> None:
    read = read_plain_set("one", PLANNER.sessions_url, offer_set())
    assert read is not None
    created, offers = read
    assert created == datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
    assert [(each.uuid, each.url) for each in offers] == [
        (str(ID), PLANNER.session_url(ID)),
        (str(OTHER), PLANNER.session_url(OTHER)),
    ]


def test_answers_of_good_planners_are_read_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the vote over many is slow, and no other test sees it."""

    def slow(*_: Any) -> Offer:
        raise AssertionError("read by the models")

    for reader in ("read_offer", "read_plain"):
        monkeypatch.setattr(f"planner_app.voter.collect.{reader}", slow)
    reply = Reply(200, {"content-type": "application/json"}, orjson.dumps(offer_set()))
    now = datetime.now(UTC)
    assert len(read_answer(PLANNER, reply, now, now).offers) == 2


def test_a_thousand_offers_of_one_id_are_told_quickly_and_once() -> None:
    offers = [{"meta": {"uuid": str(ID)}}] * 1000
    document = {"kind": kinds.OFFERSET, "meta": {}, "result": "YES", "offers": offers}
    reply = Reply(200, {"content-type": "application/json"}, orjson.dumps(document))
    now = datetime.now(UTC)
    answer = read_answer(PLANNER, reply, now, now)
    assert [bad.reason for bad in answer.unusable] == [f"gives the id {ID} to 1000 offers"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
)


def as_the_long_way(body: bytes) -> Any:
    try:
        document = codecs._from_json(body.decode())
        codecs._bounded(document)
    except MalformedBody as error:
        return str(error)
    return document


def as_decoded(body: bytes) -> Any:
    try:
        return decode(body, JSON)
    except MalformedBody as error:
        return str(error)


@given(JSON_VALUES, st.booleans())
def test_json_that_is_read_the_short_way_is_what_the_long_way_reads(document: Any, compact: bool) -> None:
    body = json.dumps(document, separators=(",", ":") if compact else None, ensure_ascii=not compact)
    try:
        raw = body.encode()
    except UnicodeEncodeError:
        return
    assert repr(as_decoded(raw)) == repr(as_the_long_way(raw))


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b'["\\u0000"]',
        b'["\\ud800"]',
        b"[NaN]",
        b"[1e999]",
        b"[" * 33 + b"]" * 33,
        b"[" * 32 + b"]" * 32,
        b"[18446744073709551616]",
        b"[-0]",
        b"[-0.0]",
        b"[1e5]",
        b'["\\/"]',
        b"[1] ",
        b"[1]x",
    ],
)
def test_traps_of_json(body: bytes) -> None:
    assert repr(as_decoded(body)) == repr(as_the_long_way(body))
