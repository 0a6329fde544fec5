"""The published schema of the Execution Broker API, and what of a document does not follow it.

The schema is not part of this project: EXECUTION_BROKER_SCHEMA names a copy of its directory v1.0. Where it
does, every reply of every planner in the tests is checked, see `check_reply`.
"""

import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import yaml
from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]
from planner_app.execution_broker import codecs, kinds
from referencing import Registry
from referencing.jsonschema import DRAFT202012

SCHEMA = os.environ.get("EXECUTION_BROKER_SCHEMA", "")

# What the schema's discriminators do not say: sessions have no file of their own, and an offer set no kind.
_BASE = "https://schema.invalid"
COMPONENTS = "components.yaml"
_MAPS = ("values", "environment")
"""Of names to strings; a name among them means nothing."""
_PATHS = ("/requests", "/offersets", "/direct", "/sessions")
_EXTRA = {
    kinds.SCHEDULED_SESSION: (COMPONENTS, "ScheduledExecutionSession"),
    kinds.SIMPLE_SESSION: (COMPONENTS, "SimpleExecutionSession"),
    kinds.OFFERSET: (COMPONENTS, "OfferSetResponse"),
}


class Published:
    """The schema, and a validator for each of its kinds."""

    def __init__(self, directory: Path) -> None:
        self.files = {str(path.relative_to(directory)): path for path in directory.rglob("*.yaml")}
        documents = {name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in self.files.items()}
        self.registry: Registry[Any] = Registry().with_resources(
            (f"{_BASE}/{name}", DRAFT202012.create_resource(document)) for name, document in documents.items()
        )
        self.kinds: dict[str, tuple[str, str]] = dict(_EXTRA)
        self._validators: dict[tuple[str, str], Draft202012Validator] = {}
        self._fields: dict[str, set[str]] = {}
        for name, document in documents.items():
            for definition in document.get("components", {}).get("schemas", {}).values():
                for kind, target in definition.get("discriminator", {}).get("mapping", {}).items():
                    self.kinds.setdefault(kind, self._target(name, target))

    @staticmethod
    def _target(name: str, target: str) -> tuple[str, str]:
        file, _, pointer = target.partition("#")
        path = name if not file else os.path.normpath(Path(name).parent / file)
        return path, pointer.rpartition("/")[2]

    def validator(self, file: str, name: str) -> Draft202012Validator:
        if (file, name) not in self._validators:
            assert file in self.files
            schema = {"$ref": f"{_BASE}/{file}#/components/schemas/{name}"}
            self._validators[file, name] = Draft202012Validator(
                schema, registry=self.registry, format_checker=FormatChecker()
            )
        return self._validators[file, name]

    def errors(self, document: Any, where: str = "") -> Iterator[str]:
        """What is wrong with a document and with everything in it that has a kind."""
        if isinstance(document, Mapping):
            kind = document.get("kind")
            if kind is not None and not kind.startswith("urn:"):  # those of messages and connectors are free
                if kind not in self.kinds:
                    yield f"{where}: unknown kind {kind}"
                else:
                    validator = self.validator(*self.kinds[kind])
                    yield from (
                        f"{where}{error.json_path}: {error.message}" for error in validator.iter_errors(document)
                    )
                    yield from self._unknown_fields(document, *self.kinds[kind], where)
            for key, value in document.items():
                if key not in _MAPS:
                    yield from self.errors(value, f"{where}.{key}")
        elif isinstance(document, list):
            for number, value in enumerate(document):
                yield from self.errors(value, f"{where}[{number}]")

    def _unknown_fields(self, document: Mapping[str, Any], file: str, name: str, where: str) -> Iterator[str]:
        """The schema allows any field; ours are to be those that it names."""
        known = {"kind", *self._properties(f"{_BASE}/{file}#/components/schemas/{name}")}
        for key in document.keys() - known:
            yield f"{where}: the schema has no field {key}"

    def _properties(self, reference: str) -> set[str]:
        if reference in self._fields:
            return self._fields[reference]
        resolved = self.registry.resolver().lookup(reference)
        found: set[str] = set()
        todo = [(resolved.contents, resolved.resolver)]
        while todo:
            schema, resolver = todo.pop()
            found |= schema.get("properties", {}).keys()
            for part in schema.get("allOf", []):
                if "$ref" in part:
                    part_resolved = resolver.lookup(part["$ref"])
                    todo.append((part_resolved.contents, part_resolved.resolver))
                else:
                    todo.append((part, resolver))
        self._fields[reference] = found
        return found


@cache
def published() -> Published | None:
    """The schema; None where nobody says where it is."""
    return Published(Path(SCHEMA)) if SCHEMA else None


async def check_reply(reply: httpx.Response) -> None:
    """Fail where a planner's reply does not follow the schema. A hook for clients."""
    await reply.aread()
    _check(reply)


def check_reply_now(reply: httpx.Response) -> None:
    """The same for clients that wait."""
    reply.read()
    _check(reply)


def _check(reply: httpx.Response) -> None:
    schema = published()
    media = codecs.media_type(reply.headers.get("content-type"))
    path = reply.request.url.path
    if (
        schema is None
        or media is None
        or reply.request.method == "HEAD"
        or not path.startswith(_PATHS)
        or path.endswith("/outputs")
    ):
        return
    document = codecs.decode(reply.content, media)
    wrong = list(schema.errors(document))
    assert not wrong, f"{reply.request.method} {path}: {wrong[:5]}"
    lists = document.keys() & {"sessions", "offersets"}
    assert "kind" in document or lists, f"{reply.request.method} {path}: a document that does not say what it is"
