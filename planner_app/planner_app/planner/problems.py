"""Replies that say what is wrong: problem documents (RFC 9457), for everything that can go wrong."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

import structlog
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from planner_app.execution_broker import codecs
from planner_app.execution_broker.models import field_name
from planner_app.planner.idempotency import KeyBusy, KeyReused
from planner_app.planner.listing import BadParameter
from planner_app.planner.service import BadUpdate, IllegalUpdate, NotYours

log = structlog.get_logger(__name__)

MAX_ERRORS = 50
"""Wrong fields that a reply names; a body may have thousands."""
_MAX_NAME = 200


class Problem(Exception):
    """What is wrong, with which status, and with which field."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers
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
        headers = {**({"WWW-Authenticate": "Bearer"} if self.status == 401 else {}), **(self.headers or {})}
        return Response(codecs.encode(document, codecs.JSON), self.status, headers, codecs.PROBLEM_JSON)


_ModelT = TypeVar("_ModelT")


def checked(validate: Callable[[Any], _ModelT], document: Any, **more: Any) -> _ModelT:
    """Read a document by its model.

    Raises Problem 400 that names each wrong field; `more` goes into it.
    """
    try:
        return validate(document)
    except ValidationError as error:
        wrong = [
            {"field": _short(field_name(each["loc"]) or "body"), "message": each["msg"].removeprefix("Value error, ")}
            for each in error.errors(include_url=False, include_context=False, include_input=False)[:MAX_ERRORS]
        ]
        detail = "; ".join(f"{each['field']}: {each['message']}" for each in wrong[:5])
        raise Problem(HTTPStatus.BAD_REQUEST, detail, errors=wrong, **more) from None


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[:_MAX_NAME] + "..."


async def _problem(_request: Request, error: Problem) -> Response:
    return error.response()


async def _not_yours(_request: Request, error: NotYours) -> Response:
    return Problem(HTTPStatus.FORBIDDEN, str(error)).response()


async def _bad_update(_request: Request, error: BadUpdate) -> Response:
    wrong = [{"field": error.field, "message": str(error)}]
    problem = Problem(
        HTTPStatus.BAD_REQUEST, f"{error.field}: {error}", errors=wrong, phase=str(error.phase), legal=error.legal
    )
    return problem.response()


async def _illegal_update(_request: Request, error: IllegalUpdate) -> Response:
    return Problem(HTTPStatus.CONFLICT, str(error), phase=str(error.phase), legal=error.legal).response()


async def _bad_parameter(_request: Request, error: BadParameter) -> Response:
    wrong = [{"field": error.name, "message": error.why}]
    return Problem(HTTPStatus.BAD_REQUEST, str(error), errors=wrong).response()


async def _key_reused(_request: Request, _error: KeyReused) -> Response:
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY, "this Idempotency-Key was used for another request; nothing was done"
    ).response()


async def _key_busy(_request: Request, _error: KeyBusy) -> Response:
    return Problem(
        HTTPStatus.CONFLICT, "the first request with this Idempotency-Key is still being answered", {"Retry-After": "1"}
    ).response()


async def _http(_request: Request, error: HTTPException) -> Response:
    return Problem(error.status_code, str(error.detail), error.headers).response()


async def _failure(request: Request, error: Exception) -> Response:
    # What went wrong is for the log: its text may hold what the client must not see.
    log.error("request failed", path=request.url.path, exc_info=error)
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the planner failed; its log says why").response()


HANDLERS: Mapping[Any, Callable[[Request, Any], Awaitable[Response]]] = {
    Problem: _problem,
    NotYours: _not_yours,
    BadUpdate: _bad_update,
    IllegalUpdate: _illegal_update,
    BadParameter: _bad_parameter,
    KeyReused: _key_reused,
    KeyBusy: _key_busy,
    HTTPException: _http,
    Exception: _failure,
}
