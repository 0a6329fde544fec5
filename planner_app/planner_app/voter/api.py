"""The HTTP API of the voter. Handlers read, ask the voter and write; what is decided is decided elsewhere.

Starlette without FastAPI on top, which would cost a sixth of the memory that the voter may idle at.

| call | does |
|---|---|
| POST /uploads?name=N | stores the body for jobs; 201 with uuid, size, sha256 |
| POST /ballots | holds a ballot; 201 when it is decided; the same `id` again gives the same ballot |
| GET /ballots?limit=N | the latest ballots |
| GET /ballots/ID | one; the beginning of an id will do where it fits only one, and a trace for its latest ballot |
| GET /budgets?user=U | what a user may still spend |
| POST /ballots/ID | `{"phase": "CANCELLED"}` |
| GET /ballots/ID/stdout, /outputs, /outputs/NAME | from the winner's planner |
| GET /platforms | what each planner has, may and uses |
| POST /logins | a link to the pages that works once: `url`, `seconds` |
| GET /health | without a token |
| GET /metrics | for Prometheus |
"""

import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any, TypeVar
from uuid import UUID, uuid4

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from planner_app.execution_broker.models import field_name
from planner_app.execution_broker.times import Interval, parse_interval
from planner_app.voter.ballots import Ballots, State, written
from planner_app.voter.config import Amount, Duration, Name, User, VoterConfig
from planner_app.voter.facade import Facade
from planner_app.voter.pages.gate import LOGIN, Pages
from planner_app.voter.pages.logins import LINK_SECONDS
from planner_app.voter.planners import NoReply, Planners
from planner_app.voter.policy import Policy
from planner_app.voter.requests import Wish
from planner_app.voter.service import Order, Voter
from planner_app.voter.slurm_api import PREFIX, slurm_routes
from planner_app.voter.text import one_line
from planner_app.voter.uploads import NoSpace, TooLarge, path_of, receive

MAX_BODY = 100_000
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _read_interval(value: Any) -> Any:
    return parse_interval(value) if isinstance(value, str) else value


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


class BallotBody(_Body):
    """What is asked for; all but the application may be left out."""

    id: UUID | None = None
    """Given by the client, it makes asking again after a lost reply safe."""
    app: Name
    upload: UUID | None = None
    accept: bool = True
    """Without, the ballot is only a question and all offers are rejected at once."""
    policy: Annotated[str, Field(max_length=500)] | None = None
    user: User | None = None
    """Whose budget it is; the client's own where nobody is named."""
    only: list[Name] = []
    cores: Amount | None = None
    memory_gib: Amount | None = None
    duration: Duration | None = None
    start: Annotated[Interval | None, BeforeValidator(_read_interval)] = None
    max_costs: dict[Name, NonNegative] = {}
    min_metrics: dict[Name, NonNegative] = {}
    options: list[Annotated[str, Field(pattern=r"^[^\s\x00-\x1f]+$", max_length=200)]] = []


_BodyT = TypeVar("_BodyT", bound=_Body)


class CancelBody(_Body):
    """The one change that a ballot takes."""

    phase: Annotated[str, Field(pattern="^CANCELLED$")]


class Problem(Exception):
    """A reply that says what is wrong (RFC 9457)."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def _problem_response(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def _ballot_response(ballot: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(written(ballot), status, headers, media_type="application/json")


async def _on_problem(_request: Request, error: Exception) -> Response:
    if isinstance(error, Problem):
        return _problem_response(error.status, error.detail)
    raise error


def _trace_of(header: str) -> str | None:
    """Find the trace in a header `traceparent` (W3C Trace Context); None where it is not one."""
    match = re.fullmatch(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", header)
    return match[1] if match and int(match[1], 16) else None


class _TokenRequired:
    """Lets nobody pass without the token of a known client; knows its name afterwards. Browsers go to the pages."""

    def __init__(self, app: ASGIApp, clients: dict[str, str], pages: Pages) -> None:
        self._app = app
        self._clients = clients
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._pages.serve(scope):
            await self._pages(scope, receive, send)
            return
        # Slurm's calls have tokens of their own.
        if scope["type"] == "http" and scope["path"] != "/health" and not scope["path"].startswith(PREFIX + "/"):
            header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            scheme, _, token = header.partition(b" ")
            # Looked up by digest, so how long it takes tells nothing of the tokens.
            client = self._clients.get(hashlib.sha256(token.strip()).hexdigest())
            if scheme.lower() != b"bearer" or client is None:
                response = _problem_response(
                    401, "a bearer token of a known client is needed", {"WWW-Authenticate": "Bearer"}
                )
                await response(scope, receive, send)
                return
            scope["client_name"] = client
        await self._app(scope, receive, send)


async def _read_body(request: Request, model: type[_BodyT]) -> _BodyT:
    size, parts = 0, []
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise Problem(413, f"at most {MAX_BODY} bytes are read")
        parts.append(part)
    try:
        return model.model_validate_json(b"".join(parts))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = field_name(first["loc"]) or "body"
        raise Problem(400, one_line(f"{name}: {first['msg'].removeprefix('Value error, ')}")) from None


def create_app(
    config: VoterConfig,
    planners: Planners,
    ballots: Ballots,
    clients: dict[str, str],
    slurm_key: bytes = b"",
) -> ASGIApp:
    """Make the application; the voter starts and stops with it. `slurm_key` signs the tokens of Slurm's calls."""
    voter = Voter(config, planners, ballots)
    pages = Pages(voter)
    facade = Facade(config, config.slurmrestd, voter) if config.slurmrestd is not None and slurm_key else None

    async def find(request: Request) -> dict[str, Any]:
        beginning = request.path_params["ballot"].lower()
        found = [beginning]
        if re.fullmatch("[0-9a-f]{32}", beginning):
            found = [one] if (one := await ballots.of_trace(beginning)) else []
        elif len(beginning) < 36:
            found = await ballots.matching(beginning) if len(beginning) >= 4 else []
        if len(found) > 1:
            raise Problem(409, f"several ballots begin with {beginning}")
        ballot = await ballots.get(found[0]) if found else None
        if ballot is None:
            raise Problem(404, f"no ballot {one_line(beginning, 40)}")
        return ballot

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok", "planners": len(planners)})

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(voter.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def upload(request: Request) -> Response:
        announced = request.headers.get("content-length", "")
        try:
            stored = await receive(
                config.storage,
                request.query_params.get("name", "upload"),
                int(announced) if announced.isdecimal() else None,
                request.stream(),
            )
        except TooLarge as error:
            raise Problem(413, str(error)) from None
        except NoSpace as error:
            raise Problem(507, str(error)) from None
        except ClientDisconnect:
            raise Problem(400, "the upload broke off") from None
        await ballots.add_upload(stored)
        body = {"uuid": str(stored.uuid), "name": stored.name, "size": stored.size, "sha256": stored.sha256}
        return JSONResponse(body, 201)

    async def list_ballots(request: Request) -> Response:
        limit = request.query_params.get("limit", "20")
        if not limit.isdecimal() or not 1 <= int(limit) <= 1000:
            raise Problem(400, "limit: must be a number from 1 to 1000")
        return JSONResponse({"ballots": await ballots.latest(int(limit))})

    async def hold(request: Request) -> Response:
        body = await _read_body(request, BallotBody)
        ballot = str(body.id or uuid4())
        if body.id is not None and (existing := await ballots.get(ballot)) is not None:
            return JSONResponse(existing, headers={"Location": f"/ballots/{ballot}"})
        app = config.apps.get(body.app)
        if app is None:
            raise Problem(400, f"app: no {body.app}; there are: {', '.join(sorted(config.apps))}")
        try:
            policy = Policy.parse(body.policy or config.policy, config.policies)
        except ValueError as error:
            raise Problem(400, one_line(f"policy: {error}")) from None
        strangers = [name for name in body.only if planners.get(name) is None]
        if strangers:
            raise Problem(400, f"only: no {strangers[0]}; there are: {', '.join(planners.names())}")
        stored = None if body.upload is None else await ballots.upload(body.upload)
        if body.upload is not None and stored is None:
            raise Problem(400, f"upload: no {body.upload}")
        if body.accept and stored is None:
            raise Problem(400, "upload: needed to run something; upload a file first")
        order = Order(
            ballot=ballot,
            app_name=body.app,
            app=app,
            wish=Wish(
                body.cores,
                body.memory_gib,
                body.duration,
                body.start,
                body.max_costs,
                body.min_metrics,
                tuple(body.options),
            ),
            policy=policy,
            only=tuple(dict.fromkeys(body.only)),
            accept=body.accept,
            input_path=None if stored is None else str(path_of(config.storage, stored)),
            upload=body.upload,
            client=request.scope["client_name"],
            user=body.user or request.scope["client_name"],
            trace=_trace_of(request.headers.get("traceparent", "")) or UUID(ballot).hex,
        )
        return _ballot_response(await voter.vote(order), 201, {"Location": f"/ballots/{ballot}"})

    async def show(request: Request) -> Response:
        return _ballot_response(await find(request))

    async def cancel(request: Request) -> Response:
        await _read_body(request, CancelBody)
        ballot = await find(request)
        if ballot["state"] != State.RUNNING:
            raise Problem(409, f"the ballot is {ballot['state']}, only one that is RUNNING can be cancelled")
        done, reason = await voter.cancel(ballot)
        if not done:
            raise Problem(409, reason)
        return JSONResponse(await find(request))

    async def relay(request: Request, path: str) -> Response:
        """Pass on what the winner's planner has, as it comes."""
        ballot = await find(request)
        planner = planners.get(ballot["winner"]["planner"]) if ballot["winner"] else None
        if planner is None:
            raise Problem(409, f"the ballot is {ballot['state']}: no planner has anything of it")
        stack = AsyncExitStack()
        try:
            theirs = await stack.enter_async_context(
                planners.stream(planner, f"/sessions/{ballot['winner']['session']}{path}", config.accept_timeout)
            )
        except NoReply as failure:
            raise Problem(502, f"{planner.name}: {failure}") from None
        if theirs.status_code != 200:
            await stack.aclose()
            status = 404 if theirs.status_code == 404 else 502
            raise Problem(status, f"{planner.name} answered {theirs.status_code} for {one_line(path, 100)}")

        async def parts() -> AsyncIterator[bytes]:
            async with stack:
                async for part in theirs.aiter_raw():
                    yield part

        # Never as anything that a browser would run.
        headers = {"X-Content-Type-Options": "nosniff"}
        for name in ("content-type", "content-length"):
            if name in theirs.headers:
                headers[name] = theirs.headers[name]
        return StreamingResponse(parts(), headers=headers)

    async def stdout(request: Request) -> Response:
        return await relay(request, "/stdout")

    async def outputs(request: Request) -> Response:
        return await relay(request, "/outputs")

    async def output(request: Request) -> Response:
        return await relay(request, f"/outputs/{request.path_params['name']}")

    async def budgets(request: Request) -> Response:
        user = request.query_params.get("user") or request.scope["client_name"]
        left = await voter.budgets.left(user)
        rows = [{"cost": each.cost, "left": each.left, "budget": each.budget} for each in left]
        return JSONResponse({"user": user, "budgets": rows})

    async def login(request: Request) -> Response:
        code = pages.logins.invite(request.scope["client_name"])
        return JSONResponse({"url": f"{config.url}{LOGIN}{code}", "seconds": LINK_SECONDS}, 201)

    async def platforms(_request: Request) -> Response:
        return JSONResponse({"platforms": await voter.platforms()})

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        if facade is not None:
            await facade.load()
        await voter.start()
        if facade is not None:
            facade.start()
        try:
            yield
        finally:
            await voter.close()

    handlers: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "/health", health),
        ("GET", "/metrics", metrics),
        ("POST", "/uploads", upload),
        ("GET", "/ballots", list_ballots),
        ("POST", "/ballots", hold),
        ("GET", "/ballots/{ballot}", show),
        ("POST", "/ballots/{ballot}", cancel),
        ("GET", "/ballots/{ballot}/stdout", stdout),
        ("GET", "/ballots/{ballot}/outputs", outputs),
        ("GET", "/ballots/{ballot}/outputs/{name:path}", output),
        ("GET", "/platforms", platforms),
        ("GET", "/budgets", budgets),
        ("POST", "/logins", login),
    ]
    slurm: list[Route] = []
    if facade is not None and config.slurmrestd is not None:
        slurm = slurm_routes(facade, slurm_key, config.slurmrestd.user)
    app = Starlette(
        routes=[*(Route(path, handler, methods=[method]) for method, path, handler in handlers), *slurm],
        exception_handlers={Problem: _on_problem},
        lifespan=lifespan,
    )
    return _TokenRequired(app, clients, pages)
