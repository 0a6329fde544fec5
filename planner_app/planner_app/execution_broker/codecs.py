"""Bodies of requests and replies: JSON and YAML, bounded in size, depth and number of values.

YAML is read without the traps of its version 1.1: `YES` and `no` are words, timestamps are strings, numbers
are decimal. Aliases are refused, since a few of them can stand for more than any memory holds. What is
written quotes every word that a YAML 1.1 reader would take for something else.
"""

import json
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

import orjson
import yaml

JSON: Final = "application/json"
YAML: Final = "application/yaml"
PROBLEM_JSON: Final = "application/problem+json"
MEDIA_TYPES: Final = (JSON, YAML)

MAX_BYTES: Final = 1_000_000
MAX_DEPTH: Final = 32
MAX_VALUES: Final = 20_000

_ALIASES = {
    "application/json": JSON,
    "text/json": JSON,
    "application/yaml": YAML,
    "application/x-yaml": YAML,
    "text/yaml": YAML,
    "text/x-yaml": YAML,
}


class MalformedBody(ValueError):
    """The body cannot be read; the message says why and where."""


class _Loader(yaml.CSafeLoader):
    """Strings unless plainly null, true, false or a decimal number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise MalformedBody(f"line {key_node.start_mark.line + 1}: a name must be a word")
            if key in mapping:
                raise MalformedBody(f"line {key_node.start_mark.line + 1}: {key[:100]!r} is given twice")
            mapping[key] = self.construct_object(value_node, deep=True)
        return mapping


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)))


_Loader.yaml_implicit_resolvers = {}  # those of YAML 1.1 are the traps
_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:null|~|)$"), ["n", "~", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), ["t", "f"])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^-?(?:0|[1-9][0-9]*)$"), list("-0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)$"),
    list("-0123456789"),
)


class _Dumper(yaml.CSafeDumper):
    """Writes a value that occurs twice twice: others refuse aliases for the same reason as we."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# A phase is a string that has a name: JSON writes it as one, YAML must be told.
_Dumper.add_multi_representer(StrEnum, lambda dumper, value: dumper.represent_str(str(value)))


def media_type(header: str | None) -> str | None:
    """Tell which of JSON and YAML a Content-Type means; None where it is neither."""
    return _ALIASES.get((header or "").partition(";")[0].strip().lower())


def acceptable(header: str | None, offered: Sequence[str] = MEDIA_TYPES) -> str | None:
    """Choose the media type of a reply from an Accept header; None where none of those offered will do.

    Of those that the client likes best, the one that it names; of those, the one that it names first.
    """
    if header is None or not header.strip():
        return offered[0]
    ranges = [_range(item) for item in header.split(",")]
    best: tuple[float, int, int] | None = None
    chosen = None
    for media in offered:
        fitting = [
            (precision, quality, -position)
            for position, (name, quality) in enumerate(ranges)
            if (precision := _precision(name, media))
        ]
        if not fitting:
            continue
        # What is said of the type itself counts more than what is said of all.
        precision, quality, position = max(fitting)
        if quality > 0 and (best is None or (quality, precision, position) > best):
            best, chosen = (quality, precision, position), media
    return chosen


def _range(item: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in item.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            matched = re.fullmatch(r"[01](?:\.[0-9]{0,3})?", value.strip())
            return name, float(matched[0]) if matched else 0.0
    return name, 1.0


def _precision(name: str, media: str) -> int:
    if _ALIASES.get(name, name) == media:
        return 3
    kind = media.partition("/")[0]
    if name == f"{kind}/*" or (name == "text/*" and media == YAML):
        return 2
    return 1 if name == "*/*" else 0


def decode(body: bytes, media: str) -> Any:
    """Read a body.

    Raises MalformedBody where it is too large, too deep, not UTF-8, not of its media type, or names
    something twice.
    """
    if len(body) > MAX_BYTES:
        raise MalformedBody(f"the body has {len(body)} bytes, at most {MAX_BYTES} are read")
    if media == JSON and (plain := _plain_json(body)) is not None:
        return plain
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedBody(f"byte {error.start} is not UTF-8") from None
    document = _from_json(text) if media == JSON else _from_yaml(text)
    _bounded(document)
    return document


def _plain_json(body: bytes) -> Any:
    """Read JSON that is written as we write it, in a fraction of the time; None for any other, which may be right too.

    What is written back as it came has no name twice and no number that does not fit.
    """
    if len(body) > MAX_VALUES or body.count(b"{") + body.count(b"[") > MAX_DEPTH or b"\\u0000" in body:
        return None
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if orjson.dumps(document) == body else None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise MalformedBody(f"{twice[:100]!r} is given twice")
    return mapping


def _no_constant(name: str) -> float:
    raise MalformedBody(f"{name} is no number")


def _from_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_pairs, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise MalformedBody(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise MalformedBody(f"nested more than {MAX_DEPTH} levels deep") from None
    except MalformedBody:
        raise
    except ValueError as error:  # integers of more digits than Python converts
        raise MalformedBody(str(error)) from None


def _from_yaml(text: str) -> Any:
    try:
        _bounded_events(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - derived from the safe loader
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise MalformedBody(f"{where}{error.problem}") from None
    except yaml.YAMLError as error:
        raise MalformedBody(str(error)) from None
    except MalformedBody:
        raise
    except (ValueError, TypeError, OverflowError) as error:  # explicit tags on values that do not fit them
        raise MalformedBody(str(error)) from None


def _bounded_events(text: str) -> None:
    """Refuse aliases, tags, depth and number before anything is built: the composer recurses."""
    depth = values = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise MalformedBody(f"{_line(event)}: aliases are not read")
        if isinstance(event, yaml.NodeEvent):
            values += 1
            tag = getattr(event, "tag", None)
            if tag is not None and tag != "!":
                raise MalformedBody(f"{_line(event)}: tags are not read")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise MalformedBody(f"nested more than {MAX_DEPTH} levels deep")
        if values > 2 * MAX_VALUES:
            raise MalformedBody(f"more than {MAX_VALUES} values")


def _line(event: yaml.Event) -> str:
    return "some line" if event.start_mark is None else f"line {event.start_mark.line + 1}"


def _bounded(document: Any) -> None:
    level, depth, values = [document], 0, 0
    while level:
        if depth > MAX_DEPTH:
            raise MalformedBody(f"nested more than {MAX_DEPTH} levels deep")
        values += len(level)
        if values > MAX_VALUES:
            raise MalformedBody(f"more than {MAX_VALUES} values")
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                for key in value:
                    _plain(key)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, str):
                _plain(value)
        level, depth = below, depth + 1


def _plain(text: str) -> None:
    """Refuse what no reply, log, database or environment can carry: lone surrogates and NUL."""
    if text.isascii():
        if "\0" in text:
            raise MalformedBody("a string holds the character NUL")
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise MalformedBody("a string holds half of a character") from None
    if "\0" in text:
        raise MalformedBody("a string holds the character NUL")


def encode(document: Any, media: str) -> bytes:
    """Write a document of plain values."""
    if media == YAML:
        text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
        return text.encode("utf-8")
    try:
        return orjson.dumps(document)
    except TypeError:  # integers of more than 64 bits, for one
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
