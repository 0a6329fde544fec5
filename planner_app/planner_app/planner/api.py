"""The HTTP interface. Handlers read, call the service and write; what there is to decide is decided there.

Starlette without FastAPI on top: bodies are read here, being JSON or YAML, and the OpenAPI document is made of
the list of operations.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from uuid import UUID

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from planner_app.execution_broker.models import UPDATE, ExecutionRequest, Phase
from planner_app.planner import operations, swagger
from planner_app.planner.direct import run_again, run_direct
from planner_app.planner.documents import Document
from planner_app.planner.exchange import Bodies, negotiated, reply, stream, written
from planner_app.planner.idempotency import fingerprint, read_key
from planner_app.planner.listing import read_page
from planner_app.planner.metrics import exposition
from planner_app.planner.operations import Operation
from planner_app.planner.problems import HANDLERS, Problem, checked
from planner_app.planner.service import Service
from planner_app.planner.tokens import Tokens

Handler = Callable[[Request, str, str], Awaitable[Response]]
"""Gets the request, the client's name (empty where none is needed) and the media type of the reply."""


def create_app(service: Service, tokens: Tokens) -> Starlette:
    """Make the application; its lifespan is the lifecycle's."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        service.lifecycle.start()
        service.drain.start()
        yield
        await service.lifecycle.stop()

    handlers = _Api(service).handlers()
    routes = [_route(operation, handlers[operation.name], tokens) for operation in operations.ALL]
    return Starlette(routes=routes, exception_handlers=HANDLERS, lifespan=lifespan)


def _route(operation: Operation, handle: Handler, tokens: Tokens) -> Route:
    async def endpoint(request: Request) -> Response:
        client = ""
        if not operation.open:
            known = tokens.client_of(request.headers.get("authorization"))
            if known is None:
                raise Problem(HTTPStatus.UNAUTHORIZED, "a bearer token of a known client is needed")
            client = known
        return await handle(request, client, negotiated(request, operation.media))

    return Route(operation.path, endpoint, methods=[operation.method], name=operation.name)


class _Api:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._bodies = Bodies()

    def handlers(self) -> Mapping[str, Handler]:
        """The handler of each operation."""
        return {
            operations.REQUEST.name: self._request,
            operations.REQUEST_ALIAS.name: self._request,
            operations.DIRECT.name: self._direct,
            operations.SESSION.name: self._session,
            operations.SESSION_UPDATE.name: self._session_update,
            operations.OFFERSET.name: self._offerset,
            operations.SESSIONS.name: self._sessions,
            operations.OFFERSETS.name: self._offersets,
            operations.STDOUT.name: self._stdout,
            operations.STDERR.name: self._stderr,
            operations.OUTPUTS.name: self._outputs,
            operations.OUTPUT.name: self._output,
            operations.CAPABILITIES.name: self._capabilities,
            operations.METRICS.name: self._metrics,
            operations.HEALTH.name: self._health,
            operations.OPENAPI.name: self._openapi,
            operations.SWAGGER.name: self._swagger,
            operations.SWAGGER_FILE.name: self._swagger_file,
        }

    async def _asked(self, request: Request) -> ExecutionRequest:
        return checked(ExecutionRequest.model_validate, await self._bodies.document(request))

    async def _request(self, request: Request, client: str, media: str) -> Response:
        asked = await self._asked(request)

        async def first(uuid: UUID | None) -> Document:
            return await self._service.request(client, asked, uuid=uuid)

        async def again(uuid: UUID) -> Document | None:
            return await self._service.offerset_if_any(client, uuid)

        document = await self._once(request, client, "request", asked, first, again)
        return reply(document, media, headers={"Location": document["meta"]["url"]})

    async def _direct(self, request: Request, client: str, media: str) -> Response:
        asked = await self._asked(request)

        async def first(uuid: UUID | None) -> Document:
            return await run_direct(self._service, client, asked, uuid)

        async def again(uuid: UUID) -> Document | None:
            return await run_again(self._service, client, uuid)

        document = await self._once(request, client, "direct", asked, first, again)
        if "url" not in document["meta"] or document["phase"] in (Phase.REJECTED, Phase.EXPIRED):
            return reply(document, media, HTTPStatus.BAD_REQUEST)
        return reply(document, media, headers={"Location": document["meta"]["url"]})

    async def _once(
        self,
        request: Request,
        client: str,
        what: str,
        asked: ExecutionRequest,
        first: Callable[[UUID | None], Awaitable[Document]],
        again: Callable[[UUID], Awaitable[Document | None]],
    ) -> Document:
        key = read_key(request.headers.get("idempotency-key"))
        if key is None:
            return await first(None)
        print_ = fingerprint(what, asked.document())
        return await self._service.once.do(client, key, print_, first, again)

    async def _offerset(self, request: Request, client: str, media: str) -> Response:
        return reply(await self._service.offerset(client, _uuid(request)), media)

    async def _offersets(self, request: Request, client: str, media: str) -> Response:
        page = read_page(request.query_params.multi_items(), operations.OFFERSETS.query)
        return _page(await self._service.offersets(client, page), media)

    async def _sessions(self, request: Request, client: str, media: str) -> Response:
        page = read_page(request.query_params.multi_items(), operations.SESSIONS.query)
        return _page(await self._service.sessions(client, page), media)

    async def _session(self, request: Request, client: str, media: str) -> Response:
        return written(await self._service.session_text(client, _uuid(request), media), media)

    async def _session_update(self, request: Request, client: str, media: str) -> Response:
        uuid = _uuid(request)
        where = await self._service.standing(client, uuid)
        update = checked(UPDATE.validate_python, await self._bodies.document(request), **where)
        return reply(await self._service.update(client, uuid, update), media)

    async def _stdout(self, request: Request, client: str, media: str) -> Response:
        try:
            return stream(await self._service.log(client, _uuid(request), "stdout"), media)
        except FileNotFoundError:
            raise Problem(HTTPStatus.NOT_FOUND, "the job has written nothing yet") from None

    async def _stderr(self, request: Request, client: str, media: str) -> Response:
        try:
            return stream(await self._service.log(client, _uuid(request), "stderr"), media)
        except FileNotFoundError:
            raise Problem(HTTPStatus.NOT_FOUND, "the job has written nothing to its standard error yet") from None

    async def _outputs(self, request: Request, client: str, media: str) -> Response:
        return reply(await self._service.outputs(client, _uuid(request)), media)

    async def _output(self, request: Request, client: str, media: str) -> Response:
        try:
            return stream(await self._service.output(client, _uuid(request), request.path_params["name"]), media)
        except FileNotFoundError:
            raise Problem(HTTPStatus.NOT_FOUND, "the session has no output of this name") from None

    async def _capabilities(self, _request: Request, client: str, media: str) -> Response:
        return reply(await self._service.capabilities(client), media)

    async def _metrics(self, _request: Request, _client: str, _media: str) -> Response:
        text, media = await exposition(self._service)
        return Response(text, media_type=media)

    async def _health(self, _request: Request, _client: str, media: str) -> Response:
        return reply(self._service.health(), media)

    async def _openapi(self, _request: Request, _client: str, media: str) -> Response:
        # Loaded when somebody asks: most planners never make one.
        from planner_app.planner.openapi import openapi

        config = self._service.config
        image = next(iter(self._service.images.names), "no image")
        return Response(openapi(config.name, config.url, image), media_type=media)

    async def _swagger(self, _request: Request, _client: str, _media: str) -> Response:
        return swagger.page()

    async def _swagger_file(self, request: Request, _client: str, _media: str) -> Response:
        found = swagger.file(request.path_params["name"])
        if found is None:
            raise Problem(HTTPStatus.NOT_FOUND, "the page has no such file")
        return found


def _uuid(request: Request) -> UUID:
    found: UUID = request.path_params["uuid"]
    return found


def _page(document: Document, media: str) -> Response:
    where = {"Link": f'<{document["next"]}>; rel="next"'} if "next" in document else {}
    return reply(document, media, headers=where)
