"""Every reply, in every phase, against the published schema; which of its files say what is told by `kind`.

The schema is not part of this project: EXECUTION_BROKER_SCHEMA names a copy of its directory v1.0.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]
from planner_app.execution_broker import codecs, kinds
from planner_app.platforms.protocol import JobState
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from tests.fakes import IMAGE, FakePlanner, request_of, start_in

SCHEMA = os.environ.get("EXECUTION_BROKER_SCHEMA", "")

# What the schema's discriminators do not say: sessions have no file of their own, and an offer set no kind.
_BASE = "https://schema.invalid"
_COMPONENTS = "components.yaml"
_EXTRA = {
    kinds.SCHEDULED_SESSION: (_COMPONENTS, "ScheduledExecutionSession"),
    kinds.SIMPLE_SESSION: (_COMPONENTS, "SimpleExecutionSession"),
    kinds.OFFERSET: (_COMPONENTS, "OfferSetResponse"),
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
        assert file in self.files
        schema = {"$ref": f"{_BASE}/{file}#/components/schemas/{name}"}
        return Draft202012Validator(schema, registry=self.registry, format_checker=FormatChecker())

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
        return found


@pytest.fixture(scope="module")
def published() -> Published:
    if not SCHEMA:
        pytest.skip("EXECUTION_BROKER_SCHEMA names no copy of the Execution Broker schema's directory v1.0")
    return Published(Path(SCHEMA))


def check(published: Published, document: dict[str, Any]) -> None:
    """Valid, and the same after a way through YAML."""
    assert list(published.errors(document)) == []
    assert codecs.decode(codecs.encode(document, codecs.YAML), codecs.YAML) == document


def full_request(planner: FakePlanner) -> dict[str, Any]:
    cost = {"kind": kinds.SIMPLE_COST, "type": kinds.COST_TYPE_PREFIX + "monetary", "max": 1.0}
    metric = {"kind": kinds.SIMPLE_METRIC, "type": kinds.METRIC_TYPE_PREFIX + "compute-performance", "min": 50}
    location = f"file://{planner.config.storage.data}/one/map.fits"
    volumes = [
        {"kind": kinds.SIMPLE_VOLUME_MOUNT, "path": "/data", "mode": "READONLY", "resource": "map"},
        {"kind": kinds.SIMPLE_VOLUME_MOUNT, "path": "/output", "mode": "READWRITE", "resource": "results"},
    ]
    return request_of(
        compute={"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 1, "max": 4}, "memory": {"min": 2}, "volumes": volumes},
        data=[{"kind": kinds.SIMPLE_DATA, "meta": {"name": "map"}, "location": location}],
        storage=[{"kind": kinds.SIMPLE_STORAGE, "meta": {"name": "results"}, "size": {"min": 1, "max": 4}}],
        costs=[cost],
        metrics=[metric],
    )


async def test_our_request_is_one(tmp_path: Path, published: Published) -> None:
    async with FakePlanner(tmp_path) as planner:
        request = full_request(planner)
        assert list(published.errors(request)) == []
        validator = published.validator(_COMPONENTS, "ExecutionRequest")
        assert list(validator.iter_errors(request)) == []


async def test_a_session_in_all_its_phases(tmp_path: Path, published: Published) -> None:
    async with FakePlanner(tmp_path) as planner:
        phases: set[str] = set()

        async def see(session: str) -> None:
            document = await planner.session(session)
            phases.add(document["phase"])
            check(published, document)

        answer = await planner.ask(
            **{key: value for key, value in full_request(planner).items() if key != "executable"}
        )
        check(published, answer)
        session, sibling = (offer["meta"]["uuid"] for offer in answer["offers"])
        await see(session)
        check(published, (await planner.update(session, "ACCEPTED")).json())
        await see(session)
        await see(sibling)
        await planner.look()
        await see(session)
        job = planner.platform.only()
        planner.platform.run(job)
        planner.clock.forward(3)
        await planner.look()
        await see(session)
        planner.platform.end(job, JobState.FAILED, 137, "OUT_OF_MEMORY 0:137")
        planner.clock.forward(3)
        for _ in range(2):
            await planner.look()
            await see(session)

        later = await planner.accepted(schedule=start_in(1800))
        await planner.look()
        await see(later)
        check(published, (await planner.update(later, "CANCELLED")).json())
        await see(later)
        over = (await planner.ask())["offers"][0]["meta"]["uuid"]
        planner.clock.forward(100)
        await planner.look()
        await see(over)
        assert phases == {
            "OFFERED", "ACCEPTED", "REJECTED", "PREPARING", "AVAILABLE", "RELEASING", "FAILED", "WAITING", "CANCELLED",
            "EXPIRED",
        }  # fmt: skip


async def test_a_refusal(tmp_path: Path, published: Published) -> None:
    async with FakePlanner(tmp_path) as planner:
        answer = await planner.ask(cores=(99, None), memory=(99, None))
        assert answer["result"] == "NO"
        check(published, answer)
        planner.platform.down = "slurmctld is away"
        planner.clock.forward(10)
        check(published, await planner.ask())


async def test_odd_times_and_a_singularity_image(tmp_path: Path, published: Published) -> None:
    async with FakePlanner(tmp_path) as planner:
        planner.clock.now = planner.clock.now.replace(microsecond=123456)
        executable = {"kind": kinds.SINGULARITY_CONTAINER, "location": IMAGE.name}
        schedule = {"requested": {"duration": "PT0.5S"}}
        answer = await planner.ask(executable=executable, schedule=schedule)
        assert answer["result"] == "YES"
        check(published, answer)


async def test_the_check_can_fail(tmp_path: Path, published: Published) -> None:
    async with FakePlanner(tmp_path) as planner:
        answer = await planner.ask()
        for path, value in (("phase", "BUSY"), ("kind", "https://example.org/session.yaml"), ("colour", "red")):
            broken = answer | {"offers": [answer["offers"][0] | {path: value}]}
            assert list(published.errors(broken))
        compute = answer["offers"][0]["compute"] | {"cores": {"min": "2"}}
        assert list(published.errors(answer | {"offers": [answer["offers"][0] | {"compute": compute}]}))
        schedule = {"preparing": {"start": "now"}}
        assert list(published.errors(answer | {"offers": [answer["offers"][0] | {"schedule": schedule}]}))
