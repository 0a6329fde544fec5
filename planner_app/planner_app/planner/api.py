"""The HTTP interface. Handlers read, call the service and write; what there is to decide is decided there."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

import structlog
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from planner_app.execution_broker import codecs
from planner_app.execution_broker.models import UPDATE, ExecutionRequest, field_name
from planner_app.planner.files import OpenFile
from planner_app.planner.metrics import exposition
from planner_app.planner.service import BadUpdate, IllegalUpdate, Service, Unknown
from planner_app.planner.tokens import Tokens

log = structlog.get_logger(__name__)


class Problem(Exception):
    """A reply of RFC 9457: what is wrong, and with which field."""

    def __init__(self, status: int, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.more = more

    def response(self) -> Response:
        """Make the reply."""
        document = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": str(self),
            **self.more,
        }
        headers = {"WWW-Authenticate": "Bearer"} if self.status == HTTPStatus.UNAUTHORIZED else None
        return Response(codecs.encode(document, codecs.JSON), self.status, headers, codecs.PROBLEM_JSON)


def create_app(service: Service, tokens: Tokens) -> FastAPI:
    """Make the application; its lifespan is the lifecycle's."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.lifecycle.start()
        service.drain.start()
        yield
        await service.lifecycle.stop()

    app = FastAPI(title=service.config.name, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    async def client(request: Request) -> str:
        name = tokens.client_of(request.headers.get("authorization"))
        if name is None:
            raise Problem(HTTPStatus.UNAUTHORIZED, "a bearer token of a known client is needed")
        return name

    Client = Annotated[str, Depends(client)]  # noqa: N806 - a type
    Media = Annotated[str, Depends(_media)]  # noqa: N806 - a type

    @app.post("/requests")
    @app.post("/offersets")
    async def post_request(request: Request, client: Client, media: Media) -> Response:
        asked = _checked(ExecutionRequest.model_validate, await _document(request))
        document = await service.request(client, asked)
        return _reply(document, media, location=document["meta"]["url"])

    @app.get("/offersets/{uuid}")
    async def get_offerset(uuid: UUID, client: Client, media: Media) -> Response:
        return _reply(await service.offerset(client, uuid), media)

    @app.get("/sessions/{uuid}")
    async def get_session(uuid: UUID, client: Client, media: Media) -> Response:
        return _reply(await service.session(client, uuid), media)

    @app.post("/sessions/{uuid}")
    async def post_session(uuid: UUID, request: Request, client: Client, media: Media) -> Response:
        update = _checked(UPDATE.validate_python, await _document(request))
        return _reply(await service.update(client, uuid, update), media)

    @app.get("/sessions/{uuid}/stdout")
    async def get_stdout(uuid: UUID, client: Client) -> Response:
        try:
            file = await service.stdout(client, uuid)
        except FileNotFoundError:
            raise Problem(HTTPStatus.NOT_FOUND, "the job has written nothing yet") from None
        return _stream(file, "text/plain; charset=utf-8")

    @app.get("/sessions/{uuid}/outputs")
    async def get_outputs(uuid: UUID, client: Client, media: Media) -> Response:
        return _reply(await service.outputs(client, uuid), media)

    @app.get("/sessions/{uuid}/outputs/{name:path}")
    async def get_output(uuid: UUID, name: str, client: Client) -> Response:
        try:
            file = await service.output(client, uuid, name)
        except FileNotFoundError:
            raise Problem(HTTPStatus.NOT_FOUND, "the session has no output of this name") from None
        return _stream(file, "application/octet-stream")

    @app.get("/capabilities")
    async def get_capabilities(client: Client, media: Media) -> Response:
        return _reply(await service.capabilities(), media)

    @app.get("/metrics")
    async def get_metrics(client: Client) -> Response:
        text, media = await exposition(service)
        return Response(text, media_type=media)

    @app.get("/health")
    async def get_health() -> Response:
        return _reply(service.health(), codecs.JSON)

    _handle_errors(app)
    return app


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def problem(_request: Request, error: Problem) -> Response:
        return error.response()

    @app.exception_handler(Unknown)
    async def unknown(_request: Request, error: Unknown) -> Response:
        return Problem(HTTPStatus.NOT_FOUND, str(error)).response()

    @app.exception_handler(BadUpdate)
    async def bad_update(_request: Request, error: BadUpdate) -> Response:
        wrong = [{"field": error.field, "message": str(error)}]
        return Problem(HTTPStatus.BAD_REQUEST, f"{error.field}: {error}", errors=wrong).response()

    @app.exception_handler(IllegalUpdate)
    async def illegal_update(_request: Request, error: IllegalUpdate) -> Response:
        return Problem(HTTPStatus.CONFLICT, str(error), phase=str(error.phase), legal=error.legal).response()

    @app.exception_handler(RequestValidationError)
    async def path(_request: Request, error: RequestValidationError) -> Response:
        return Problem(HTTPStatus.NOT_FOUND, "the path holds no uuid").response()

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> Response:
        response = Problem(error.status_code, str(error.detail)).response()
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def failure(request: Request, error: Exception) -> Response:
        # What went wrong is for the log: its text may hold what the client must not see.
        log.error("request failed", path=request.url.path, exc_info=error)
        return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the planner failed; its log says why").response()


async def _media(request: Request) -> str:
    media = codecs.acceptable(request.headers.get("accept"))
    if media is None:
        raise Problem(HTTPStatus.NOT_ACCEPTABLE, f"replies are {' or '.join(codecs.MEDIA_TYPES)}")
    return media


async def _document(request: Request) -> Any:
    media = codecs.media_type(request.headers.get("content-type"))
    if media is None:
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type must be {' or '.join(codecs.MEDIA_TYPES)}")
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > codecs.MAX_BYTES:
                raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {codecs.MAX_BYTES} bytes are read")
    except ClientDisconnect:
        raise Problem(HTTPStatus.BAD_REQUEST, "the client went before the end of the body") from None
    try:
        return codecs.decode(bytes(body), media)
    except codecs.MalformedBody as error:
        raise Problem(HTTPStatus.BAD_REQUEST, f"the body cannot be read: {error}") from None


def _checked(validate: Callable[[Any], Any], document: Any) -> Any:
    try:
        return validate(document)
    except ValidationError as error:
        wrong = [
            {"field": field_name(each["loc"]) or "body", "message": each["msg"].removeprefix("Value error, ")}
            for each in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        detail = "; ".join(f"{each['field']}: {each['message']}" for each in wrong[:5])
        raise Problem(HTTPStatus.BAD_REQUEST, detail, errors=wrong[:50]) from None


def _reply(document: Any, media: str, location: str | None = None) -> Response:
    headers = {"Vary": "Accept"} | ({"Location": location} if location else {})
    return Response(codecs.encode(document, media), headers=headers, media_type=media)


def _stream(file: OpenFile, media: str) -> Response:
    headers = {"Content-Length": str(file.size), "X-Content-Type-Options": "nosniff"}
    return StreamingResponse(file.chunks(), headers=headers, media_type=media)
