"""The wire: kinds, strictness, times, JSON and YAML."""

import contextlib
import json
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from planner_app.execution_broker import codecs, kinds
from planner_app.execution_broker.models import (
    UPDATE,
    DockerContainer,
    EnumValueUpdate,
    ExecutionRequest,
    OfferSet,
    Phase,
    SimpleCompute,
    UnknownKind,
    field_name,
)
from planner_app.execution_broker.times import (
    Interval,
    format_duration,
    format_instant,
    format_interval,
    parse_duration,
    parse_instant,
    parse_interval,
)
from pydantic import ValidationError

NINE = datetime(2026, 11, 24, 9, tzinfo=UTC)


def request_of(**parts: object) -> dict[str, object]:
    return {
        "executable": {
            "kind": kinds.DOCKER_CONTAINER,
            "meta": {"name": "caesar-job"},
            "image": {"locations": ["caesar/aegean-job:2.3.5"]},
            "environment": {"JOB_OUTDIR": "/output"},
        },
        "compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 2, "max": 4}, "memory": {"min": 4}},
        **parts,
    }


def wrong_fields(document: object) -> set[str]:
    with pytest.raises(ValidationError) as caught:
        ExecutionRequest.model_validate(document)
    return {field_name(error["loc"]) for error in caught.value.errors()}


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "duration"),
        [
            ("PT1H", timedelta(hours=1)),
            ("P1DT2H3M4.5S", timedelta(days=1, hours=2, minutes=3, seconds=4.5)),
            ("P2W", timedelta(weeks=2)),
            ("PT0S", timedelta(0)),
            ("PT90M", timedelta(minutes=90)),
        ],
    )
    def test_duration(self, text: str, duration: timedelta) -> None:
        assert parse_duration(text) == duration

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "P",
            "PT",
            "1H",
            "PT1",
            "-PT1H",
            "P1Y",
            "P1M",
            "P1DT",
            "PT1H ",
            "PT1.5H",
            "PT999999999999H",
            "PT1H\n",
        ],
    )
    def test_no_duration(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"must be|longer"):
            parse_duration(text)

    @given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=4000)))
    def test_duration_there_and_back(self, duration: timedelta) -> None:
        assert parse_duration(format_duration(duration)) == duration

    @pytest.mark.parametrize(
        ("text", "start", "end"),
        [
            ("2026-11-24T09:00:00Z/PT4H", NINE, NINE + timedelta(hours=4)),
            ("2026-11-24T09:00:00Z/2026-11-24T10:00:00Z", NINE, NINE + timedelta(hours=1)),
            ("PT1H/2026-11-24T10:00:00+01:00", NINE - timedelta(hours=1), NINE),
            ("2026-11-24T09:00:00Z/PT0S", NINE, NINE),
            ("2026-11-24/PT9H", NINE - timedelta(hours=9), NINE),
            ("2026-11-24T09:00:00/PT1H", NINE, NINE + timedelta(hours=1)),
        ],
    )
    def test_interval(self, text: str, start: datetime, end: datetime) -> None:
        assert parse_interval(text) == Interval(start, end)

    @pytest.mark.parametrize(
        "text",
        [
            "2026-11-24T09:00:00Z",
            "PT1H/PT1H",
            "/",
            "2026-11-24T09:00:00Z/",
            "2026-11-24T10:00:00Z/2026-11-24T09:00:00Z",
            "2026-13-24T09:00:00Z/PT1H",
            "9999-12-31T00:00:00Z/P9D",
            "0001-01-01T00:00:00+10:00/PT1H",
        ],
    )
    def test_no_interval(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"\w"):
            parse_interval(text)

    @given(
        st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC)),
        st.timedeltas(timedelta(0), timedelta(365)),
    )
    def test_interval_there_and_back(self, start: datetime, length: timedelta) -> None:
        assert parse_instant(format_instant(start)) == start
        try:
            interval = Interval(start, start + length)
        except OverflowError:
            return
        assert parse_interval(format_interval(interval)) == interval


class TestModels:
    def test_known_kinds(self) -> None:
        request = ExecutionRequest.model_validate(request_of())
        assert isinstance(request.executable, DockerContainer)
        assert isinstance(request.compute, SimpleCompute)
        assert request.compute.cores is not None
        assert request.compute.cores.max == 4
        assert ExecutionRequest.model_validate(request.document()) == request

    def test_unknown_kind_is_kept(self) -> None:
        executable = {"kind": "urn:some:notebook", "location": {"deep": [1, True]}}
        request = ExecutionRequest.model_validate(request_of(executable=executable))
        assert isinstance(request.executable, UnknownKind)
        assert request.document()["executable"] == executable

    @pytest.mark.parametrize(
        ("parts", "field"),
        [
            ({"executable": {"image": {}}}, "executable.kind"),
            ({"executable": {"kind": 7}}, "executable.kind"),
            ({"executable": "aegean"}, "executable"),
            ({"executable": {"kind": kinds.DOCKER_CONTAINER, "imagee": {}}}, "executable.imagee"),
            ({"executable": {"kind": kinds.DOCKER_CONTAINER, "command": "ls"}}, "executable.command"),
            (
                {"executable": {"kind": kinds.DOCKER_CONTAINER, "environment": {"A=B": "x"}}},
                "executable.environment.A=B",
            ),
            ({"executable": {"kind": kinds.DOCKER_CONTAINER, "environment": {"A": 1}}}, "executable.environment.A"),
            ({"compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 0}}}, "compute.cores.min"),
            ({"compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": -4}}}, "compute.cores.min"),
            ({"compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": "4"}}}, "compute.cores.min"),
            ({"compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": True}}}, "compute.cores.min"),
            ({"compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 1.5}}}, "compute.cores.min"),
            ({"compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 2**63}}}, "compute.cores.min"),
            ({"compute": {"kind": kinds.SIMPLE_COMPUTE, "memory": {"min": 8, "max": 4}}}, "compute.memory"),
            ({"compute": {"kind": kinds.SIMPLE_COMPUTE, "memory": "8G"}}, "compute.memory"),
            ({"schedule": {"requested": {"duration": "1h"}}}, "schedule.requested.duration"),
            ({"schedule": {"requested": {"start": "2026-11-24T09:00:00Z"}}}, "schedule.requested.start"),
            ({"costs": [{"kind": kinds.SIMPLE_COST, "max": "much"}]}, "costs[0].max"),
            ({"costs": [{"kind": kinds.SIMPLE_COST, "max": float("inf")}]}, "costs[0].max"),
            ({"data": [{"kind": kinds.SIMPLE_DATA, "loc": "x"}]}, "data[0].loc"),
            ({"stoarge": []}, "stoarge"),
        ],
    )
    def test_wrong_field_is_named(self, parts: dict[str, object], field: str) -> None:
        assert wrong_fields(request_of(**parts)) == {field}

    def test_lenient_reader(self) -> None:
        reply = {
            "result": "YES",
            "offers": [{"kind": kinds.SCHEDULED_SESSION, "phase": "OFFERED", "colour": "red"}],
            "x": 1,
        }
        with pytest.raises(ValidationError):
            OfferSet.model_validate(reply)
        read = OfferSet.model_validate(reply, extra="ignore")
        assert read.offers is not None
        assert read.offers[0].phase == "OFFERED"

    def test_update(self) -> None:
        update = UPDATE.validate_python({"kind": "uri:enum-value-update", "path": "/phase", "value": "ACCEPTED"})
        assert update == EnumValueUpdate(path="/phase", value="ACCEPTED")
        broken: list[object] = [{"kind": "x"}, {}, [], None, {"kind": "uri:enum-value-update", "path": "/phase"}]
        for wrong in broken:
            with pytest.raises(ValidationError):
                UPDATE.validate_python(wrong)


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


class TestCodecs:
    def test_yaml_words_stay_words(self) -> None:
        text = b"result: YES\nno: NO\non: off\nat: 2026-11-24T09:00:00Z\nday: 2026-11-24\nclock: 1:30\noct: 010\n"
        assert codecs.decode(text, codecs.YAML) == {
            "result": "YES", "no": "NO", "on": "off", "at": "2026-11-24T09:00:00Z", "day": "2026-11-24",
            "clock": "1:30", "oct": "010",
        }  # fmt: skip

    def test_yaml_values(self) -> None:
        text = b"{a: 1, b: -2.5, c: true, d: null, e: ~, f: , g: 1e3, h: '1', i: [x, y], 'j k': \"\\u00e9\"}"
        assert codecs.decode(text, codecs.YAML) == {
            "a": 1, "b": -2.5, "c": True, "d": None, "e": None, "f": None, "g": 1000.0, "h": "1", "i": ["x", "y"],
            "j k": "é",
        }  # fmt: skip

    def test_written_yaml_is_quoted_for_readers_of_yaml_1_1(self) -> None:
        document = {
            "result": "YES",
            "no": "NO",
            "at": "2026-11-24T09:00:00Z",
            "n": "1",
            "null": "null",
            "list": [1, 2.5, True],
        }
        written = codecs.encode(document, codecs.YAML)
        assert yaml.safe_load(written) == document
        assert codecs.decode(written, codecs.YAML) == document
        assert b"'YES'" in written

    def test_a_phase_is_a_word_in_both(self) -> None:
        for media in codecs.JSON, codecs.YAML:
            assert codecs.decode(codecs.encode([Phase.ACCEPTED], media), media) == ["ACCEPTED"]

    def test_no_aliases_are_written(self) -> None:
        shared = {"a": ["b"]}
        written = codecs.encode([shared, shared], codecs.YAML)
        assert b"&" not in written
        assert codecs.decode(written, codecs.YAML) == [shared, shared]

    numbers = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    values = st.recursive(
        st.none() | st.booleans() | numbers | WORDS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
        max_leaves=12,
    )  # fmt: skip

    @given(values, st.sampled_from(codecs.MEDIA_TYPES))
    def test_there_and_back(self, document: object, media: str) -> None:
        assert codecs.decode(codecs.encode(document, media), media) == document

    @given(st.binary(max_size=200) | st.text(alphabet="{}[]:,-&*!|>'\"#%@ \nab01~?<", max_size=60).map(str.encode))
    def test_any_bytes_are_read_or_refused(self, body: bytes) -> None:
        for media in codecs.MEDIA_TYPES:
            with contextlib.suppress(codecs.MalformedBody):
                codecs.decode(body, media)

    @pytest.mark.parametrize(
        ("body", "media", "says"),
        [
            (b"[" * 100_000, codecs.JSON, "deep"),
            (b"[" * 100_000, codecs.YAML, "depth"),
            (b"- " * 100_000, codecs.YAML, "deep"),
            (b"[" + b"1," * 400_000 + b"1]", codecs.JSON, "values"),
            (b"[" + b"1," * 400_000 + b"1]", codecs.YAML, "values"),
            (b"x" * 1_000_001, codecs.JSON, "bytes"),
            (b"a: &a [x]\nb: *a", codecs.YAML, "aliases"),
            (b"a: !!python/object:os.system x", codecs.YAML, "tags"),
            (b"a: 1\na: 2", codecs.YAML, "twice"),
            (b'{"a": 1, "a": 2}', codecs.JSON, "twice"),
            (b"1: 2", codecs.YAML, "name"),
            (b"? [a]\n: b", codecs.YAML, "name"),
            (b"NaN", codecs.JSON, "number"),
            (b"1" * 5000, codecs.JSON, "digits"),
            (b"1" * 5000, codecs.YAML, "digits"),
            (b'"\\ud800"', codecs.JSON, "character"),
            (b'"\\u0000"', codecs.JSON, "NUL"),
            (b"\xff", codecs.JSON, "UTF-8"),
            (b"{", codecs.JSON, "line 1"),
            (b"a: [", codecs.YAML, "line"),
            (b"a: 1\n---\nb: 2", codecs.YAML, "document"),
        ],
    )
    @pytest.mark.timeout(10)
    def test_refused(self, body: bytes, media: str, says: str) -> None:
        with pytest.raises(codecs.MalformedBody, match=says):
            codecs.decode(body, media)

    @pytest.mark.parametrize(
        ("header", "media"),
        [
            (None, codecs.JSON),
            ("*/*", codecs.JSON),
            ("application/yaml", codecs.YAML),
            ("text/html, application/x-yaml;q=0.9, */*;q=0.1", codecs.YAML),
            ("application/json;q=0.5, application/yaml", codecs.YAML),
            ("application/xml", None),
            ("application/json;q=0", None),
            ("application/json;q=x", None),
        ],
    )
    def test_acceptable(self, header: str | None, media: str | None) -> None:
        assert codecs.acceptable(header) == media

    def test_media_type(self) -> None:
        assert codecs.media_type("application/json; charset=utf-8") == codecs.JSON
        assert codecs.media_type("text/yaml") == codecs.YAML
        assert codecs.media_type("application/xml") is None
        assert codecs.media_type(None) is None

    def test_request_is_the_same_in_both(self) -> None:
        document = request_of()
        assert codecs.decode(json.dumps(document).encode(), codecs.JSON) == codecs.decode(
            yaml.safe_dump(document).encode(), codecs.YAML
        )
