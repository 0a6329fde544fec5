"""The OpenAPI document of the API, made of its list of operations and of the models' own schemas."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from http import HTTPStatus
from typing import Any

from pydantic import TypeAdapter

from planner_app import __version__
from planner_app.execution_broker import codecs, kinds
from planner_app.execution_broker.models import UPDATE, ExecutionRequest, OfferSet, Phase, Session
from planner_app.planner import operations
from planner_app.planner.idempotency import MAX_KEY
from planner_app.planner.listing import DEFAULT_LIMIT, MAX_LIMIT
from planner_app.planner.operations import Operation

Schema = dict[str, Any]
_REF = "#/components/schemas/"

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_WHOLE: Schema = {"type": "integer", "minimum": 0}
_TEXTS: Schema = {"type": "array", "items": _TEXT}


def _object(required: Mapping[str, Schema], more: Mapping[str, Schema] | None = None, **rest: Any) -> Schema:
    properties = {**required, **(more or {})}
    return {"type": "object", "properties": properties, "required": list(required), **rest}


_AMOUNT = _object(dict.fromkeys(("cores", "memory_gib", "disc_gb", "jobs"), _WHOLE), additionalProperties=False)
_PRICES: Schema = {"type": "object", "additionalProperties": _NUMBER}

_OWN: dict[str, Schema] = {
    "Any": {"type": "object"},
    "Problem": _object(
        {"type": _TEXT, "title": _TEXT, "status": {"type": "integer"}, "detail": _TEXT},
        {
            "errors": {"type": "array", "items": _object({"field": _TEXT, "message": _TEXT})},
            "phase": {"type": "string", "enum": [str(phase) for phase in Phase]},
            "legal": {**_TEXTS, "description": "The phases that a client may set now"},
        },
        description="What is wrong (RFC 9457)",
        additionalProperties=False,
    ),
    "Sessions": _object(
        {"sessions": {"type": "array", "items": {"$ref": f"{_REF}Session"}}},
        {"next": {"type": "string", "description": "Where the next page is; missing on the last"}},
        additionalProperties=False,
    ),
    "OfferSets": _object(
        {"offersets": {"type": "array", "items": {"$ref": f"{_REF}OfferSet"}}},
        {"next": {"type": "string", "description": "Where the next page is; missing on the last"}},
        additionalProperties=False,
    ),
    "Outputs": {
        "type": "array",
        "items": _object({"name": _TEXT, "size": _WHOLE}, additionalProperties=False),
    },
    "Health": _object(
        {"name": _TEXT, "status": {"const": "ok"}, "platform": {"enum": ["unknown", "up", "down"]}},
    ),
    "Capabilities": _object(
        {
            "name": _TEXT,
            "kind": {"enum": ["slurm", "kubernetes"]},
            "version": _object({"planner": _TEXT, "api": _TEXT, "schema": _TEXT}),
            "time": _TEXT,
            "kinds": {**_TEXTS, "description": "What a request may consist of; anything else is a NO"},
            "images": _TEXTS,
            "quota": _AMOUNT,
            "limits": _object({"cores": _WHOLE, "memory_gib": _WHOLE, "walltime": _TEXT, "jobs": _WHOLE}),
            "costs": {**_PRICES, "description": "Per core-hour"},
            "metrics": _PRICES,
            "offers": _object({"expire_after": _TEXT, "start_window": _TEXT, "share": _NUMBER}),
            "policy": {"type": "object"},
            "media_types": _TEXTS,
            "platform": _object({"answers": {"type": "boolean"}}, {"observed": _TEXT, "why": _TEXT}),
        },
        {
            "in_use": {**_AMOUNT, "description": "By jobs that are there now, whoever runs them"},
            "reserved": {**_AMOUNT, "description": "For offers and sessions that have no job yet"},
            "free": {**_AMOUNT, "description": "Now, for a job of any length"},
            "ahead": {
                "type": "array",
                "items": _object({"from": _TEXT, **dict.fromkeys(("cores", "memory_gib", "disc_gb", "jobs"), _WHOLE)}),
                "description": "What is not free from when on, each until the next: jobs, sessions and offers",
            },
        },
    ),
}

_QUERY: dict[str, Schema] = {
    "phase": {
        "schema": {"type": "array", "items": {"enum": [str(phase) for phase in Phase]}},
        "description": "Only sessions in one of these phases; may be given more than once",
    },
    "limit": {
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
        "description": "How many at most",
    },
    "cursor": {"schema": _TEXT, "description": "From `next` of the page before; nothing else makes sense here"},
}

_PROBLEMS = {
    400: "The body or a parameter is wrong; `errors` names each field",
    401: "No token of a known client",
    403: "None of yours; whether there is one of somebody else's is not said",
    404: "There is no such thing",
    406: "None of the media types in Accept can be had",
    409: "Not possible now, and nothing was changed; a session's problem says its phase and what is legal",
    413: f"The body is larger than {codecs.MAX_BYTES} bytes",
    415: "The body is neither JSON nor YAML",
    422: "The Idempotency-Key was used for another body",
    503: "Too much to do at this moment",
}


@cache
def openapi(name: str, url: str, image: str) -> bytes:
    """Give the document of the planner of that name and address, encoded; its examples ask for the image."""
    return codecs.encode(_document(name, url, image), codecs.JSON)


def _document(name: str, url: str, image: str) -> Schema:
    paths: dict[str, Schema] = {}
    examples = {"ExecutionRequest": _example(image), "Update": _ACCEPT}
    for operation in operations.ALL:
        if operation.listed:
            path = re.sub(r":\w+}", "}", operation.path)
            paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, examples)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Execution Planner {name}",
            "version": __version__,
            "description": (
                "One virtual platform behind the IVOA Execution Broker API, schema version 1.0 "
                "(uksrc/Calycopis-openapi, CC-BY-SA-4.0), with lists, outputs and capabilities besides. "
                "Bodies are JSON or YAML, replies what Accept asks for. What is wrong is said by RFC 9457."
            ),
        },
        "servers": [{"url": url}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(),
        },
    }


def _schemas() -> dict[str, Schema]:
    adapters: dict[str, TypeAdapter[Any]] = {
        model.__name__: TypeAdapter(model) for model in (ExecutionRequest, OfferSet, Session)
    }
    adapters["Update"] = UPDATE
    made, definitions = TypeAdapter.json_schemas(
        [(name, "validation", adapter) for name, adapter in adapters.items()], ref_template=_REF + "{model}"
    )
    schemas: dict[str, Schema] = definitions["$defs"]
    schemas["Update"] = made["Update", "validation"]
    for schema in schemas.values():
        properties = schema.get("properties", {})
        # Which model is meant is told by the kind alone: where there is one to tell, it must be there.
        if "const" in properties.get("kind", {}):
            properties["kind"].pop("default", None)
            schema["required"] = sorted({"kind", *schema.get("required", [])})
        for each in properties.values():
            each.pop("title", None)
    del schemas["UnknownKind"]  # written out where it is taken, with the kinds that are known there
    return {**_OWN, **schemas}


_ACCEPT = {"kind": kinds.ENUM_VALUE_UPDATE, "path": "/phase", "value": "ACCEPTED"}


def _example(image: str) -> Schema:
    return {
        "executable": {"kind": kinds.DOCKER_CONTAINER, "image": {"locations": [image]}, "command": ["--help"]},
        "compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 1}, "memory": {"min": 1}},
        "schedule": {"requested": {"duration": "PT5M"}},
    }


def _operation(operation: Operation, examples: Mapping[str, Schema]) -> Schema:
    document: Schema = {"operationId": operation.name, "summary": operation.summary, "tags": [_tag(operation)]}
    if parameters := list(_parameters(operation)):
        document["parameters"] = parameters
    if operation.body:
        body = {"schema": {"$ref": _REF + operation.body}, "example": examples[operation.body]}
        content = dict.fromkeys(codecs.MEDIA_TYPES, body)
        document["requestBody"] = {"required": True, "content": content}
    if operation.open:
        document["security"] = []
    document["responses"] = {str(status): reply for status, reply in sorted(_responses(operation).items())}
    return document


def _tag(operation: Operation) -> str:
    return {"sessions": "sessions", "requests": "requests", "offersets": "requests", "direct": "requests"}.get(
        operation.path.split("/")[1], "planner"
    )


def _parameters(operation: Operation) -> Iterator[Schema]:
    for name, kind in re.findall(r"{(\w+):?(\w*)}", operation.path):
        schema = {"type": "string", "format": "uuid"} if kind == "uuid" else {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "schema": schema}
    for name in operation.query:
        yield {"name": name, "in": "query", "required": False, **_QUERY[name]}
    if operation.keyed:
        yield {
            "name": "Idempotency-Key", "in": "header", "required": False,
            "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY, "pattern": r'^[!#-~]+$'},
            "description": "The same key and body again give the same answer, whatever happened to the first",
        }  # fmt: skip


def _responses(operation: Operation) -> dict[int, Schema]:
    responses: dict[int, Schema] = {}
    for status, name in operation.replies.items():
        schema = {"$ref": _REF + name} if name else {"type": "string"}
        responses[status] = {
            "description": HTTPStatus(status).phrase,
            "content": {media: {"schema": schema} for media in operation.media},
        }
        if status == HTTPStatus.OK and operation.body == "ExecutionRequest":
            where = {"description": "Where it can be read again", "required": True, "schema": _TEXT}
            responses[status]["headers"] = {"Location": where}
    statuses = {*operation.problems, 406} | (set() if operation.open else {401})
    for status in statuses:
        response = responses.setdefault(status, {"description": "", "content": {}})
        response["description"] = _PROBLEMS[status]
        response["content"][codecs.PROBLEM_JSON] = {"schema": {"$ref": f"{_REF}Problem"}}
    return responses
