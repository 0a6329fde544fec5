"""The planner's OpenAPI document: true, and shown where there is no internet."""

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from planner_app.execution_broker import kinds
from planner_app.planner import operations
from planner_app.planner.api import create_app
from planner_app.planner.ledger import Ledger
from planner_app.planner.lifecycle import Lifecycle
from planner_app.planner.openapi import openapi
from planner_app.planner.service import Service
from planner_app.planner.tokens import Tokens
from planner_app.platforms.images import ImageTable
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    missing_required_header,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from tests.fakes import IMAGE, TOKENS, Clock, FakePlanner, FakePlatform, config_at, request_of

load_all_checks()

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    ignored_auth,
    missing_required_header,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]
DOCUMENT = json.loads(openapi("slurm-account-001", "http://planner:8101", IMAGE.name))
# Its coverage phase tries hundreds of cases for each operation, most of them the same to us.
CONFIG = schemathesis.Config.from_dict({"phases": {"coverage": {"enabled": False}}})
schema = schemathesis.openapi.from_dict(DOCUMENT, config=CONFIG)


class Served:
    """A planner on a port of its own, with sessions of two clients in several phases."""

    def __init__(self, directory: Path) -> None:
        clock = Clock()
        config = config_at(directory)
        for path in (config.storage.data, config.storage.jobs):
            path.mkdir(parents=True)
        lifecycle = Lifecycle(config, Ledger(config.database), FakePlatform(clock), clock)
        hashes = {name: hashlib.sha256(token.encode()).hexdigest() for name, token in TOKENS.items()}
        app = create_app(Service(config, ImageTable((IMAGE,)), lifecycle), Tokens(hashes))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.headers = {"Authorization": f"Bearer {TOKENS['voter']}"}
        self.uuids: list[str] = []

    def __enter__(self) -> "Served":
        self._thread.start()
        for name, token in TOKENS.items():
            headers = {"Authorization": f"Bearer {token}"}
            with httpx.Client(base_url=self.url, headers=headers, timeout=30) as client:
                for end in ("REJECTED", "ACCEPTED", ""):
                    answer = client.post("/requests", json=request_of(cores=(1, None), memory=(1, None))).json()
                    session = answer["offers"][0]["meta"]["uuid"]
                    self.uuids += [session, answer["meta"]["uuid"]]
                    update = {"kind": kinds.ENUM_VALUE_UPDATE, "path": "/phase", "value": end}
                    client.post(f"/sessions/{session}", json=update)
                assert client.get("/sessions").json()["sessions"], name
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served")) as server:
        yield server


@schema.parametrize()
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_replies_are_as_the_document_says(case: schemathesis.Case, served: Served) -> None:
    uuid = case.path_parameters.get("uuid")
    # Nobody guesses a uuid: every other one that is one becomes one that is there.
    if isinstance(uuid, str) and re.fullmatch(r"[0-9a-f-]{36}", uuid) and UUID(uuid).int % 2:
        case.path_parameters["uuid"] = served.uuids[UUID(uuid).int % len(served.uuids)]
    response = case.call(base_url=served.url, headers=served.headers)
    case.validate_response(response, checks=CHECKS, headers=served.headers)


def test_it_names_every_operation_and_no_other() -> None:
    named = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    listed = {(each.method, re.sub(r":\w+}", "}", each.path)) for each in operations.ALL if each.listed}
    assert named == listed
    assert len({each.name for each in operations.ALL}) == len(operations.ALL)


def test_it_is_an_openapi_document() -> None:
    references = set(re.findall(r'"\$ref":"#/components/schemas/([^"]+)"', json.dumps(DOCUMENT, separators=(",", ":"))))
    assert references <= DOCUMENT["components"]["schemas"].keys()
    for each in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(each)
    for methods in DOCUMENT["paths"].values():
        for operation in methods.values():
            assert ("401" in operation["responses"]) == (operation.get("security") != [])


async def test_it_is_served_to_everybody(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        del planner.client.headers["authorization"]
        reply = await planner.client.get("/openapi.json")
        assert reply.json() == DOCUMENT
        assert (await planner.client.get("/openapi.json", headers={"Accept": "application/yaml"})).status_code == 406


async def test_the_examples_are_taken(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        posts = DOCUMENT["paths"]["/requests"]["post"]["requestBody"]["content"]
        answer = (await planner.client.post("/requests", json=posts["application/json"]["example"])).json()
        assert answer["result"] == "YES"
        posts = DOCUMENT["paths"]["/sessions/{uuid}"]["post"]["requestBody"]["content"]
        session = answer["offers"][0]["meta"]["uuid"]
        reply = await planner.client.post(f"/sessions/{session}", json=posts["application/json"]["example"])
        assert reply.json()["phase"] == "ACCEPTED"


async def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        del planner.client.headers["authorization"]
        page = await planner.client.get("/docs")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        wanted = [name for name in re.findall(r'(?:src|href)="([^"]+)"', page.text) if not name.startswith("data:")]
        assert len(wanted) == 3
        for name in wanted:
            assert ":" not in name
            found = await planner.client.get(f"/{name}")
            assert found.status_code == 200
            assert found.headers["content-type"].partition(";")[0] in ("text/css", "text/javascript")
        assert "SwaggerUIBundle" in (await planner.client.get("/docs/swagger-ui-bundle.js")).text
        for name in ("redoc.standalone.js", "..%2fcore.py", "nothing"):
            assert (await planner.client.get(f"/docs/{name}")).status_code == 404


@pytest.mark.parametrize("operation", operations.ALL, ids=lambda each: each.name)
async def test_media_types_are_what_the_client_takes(tmp_path: Path, operation: operations.Operation) -> None:
    async with FakePlanner(tmp_path) as planner:
        session = await planner.accepted()
        offerset = (await planner.client.get("/offersets")).json()["offersets"][0]["meta"]["uuid"]
        uuid = offerset if operation.path.startswith("/offersets") else session
        path = operation.path.replace("{uuid:uuid}", uuid).replace("{name:path}", "x").replace("{name}", "start.js")
        reply = await planner.client.request(operation.method, path, headers={"Accept": "image/png"})
        assert (reply.status_code, reply.json()["status"]) == (406, 406)
        if operation.body:
            for media in ("application/xml", "text/plain", "application/x-www-form-urlencoded", "", "json"):
                reply = await planner.client.post(path, content=b"<a/>", headers={"Content-Type": media})
                assert reply.status_code == 415
                assert reply.headers["accept-post"] == "application/json, application/yaml"
            zipped = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
            assert (await planner.client.post(path, content=b"{}", headers=zipped)).status_code == 415
