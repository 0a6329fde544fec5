"""The three calls of slurmrestd v0.0.36 that caesar-rest makes, in front of the facade.

| call | does |
|---|---|
| POST /slurm/v0.0.36/job/submit | takes a job; `job_id`, or `errors` that say why not |
| GET /slurm/v0.0.36/jobs?job_name=1,2 | the jobs of these numbers (so caesar-rest asks); without, the latest |
| GET /slurm/v0.0.36/job/N | one job |
| DELETE /slurm/v0.0.36/job/N | cancels it |

Who asks is told by the headers X-SLURM-USER-NAME and X-SLURM-USER-TOKEN.
"""

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from planner_app.voter.facade import Facade
from planner_app.voter.jobs import NameTaken
from planner_app.voter.slurm_script import Refused
from planner_app.voter.slurm_token import BadToken, check_token

PREFIX = "/slurm/v0.0.36"
_MAX_BODY = 100_000
_MOST_ASKED = 10_000


def _errors(status: int, reason: str) -> Response:
    return JSONResponse({"errors": [{"error": reason, "errno": status}]}, status)


def _numbers(text: str) -> list[int] | None:
    """Read what caesar-rest gives as names, which are numbers; None where they are not."""
    words = text.split(",")
    if len(words) > _MOST_ASKED or not all(word.isdecimal() and len(word) < 16 for word in words):
        return None
    return [int(word) for word in words]


def slurm_routes(facade: Facade, key: bytes, user: str) -> list[Route]:
    """Make the routes."""

    def known(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            if request.headers.get("x-slurm-user-name") != user:
                return _errors(401, f"X-SLURM-USER-NAME must be {user}")
            try:
                check_token(request.headers.get("x-slurm-user-token", ""), key, user, time.time())
            except BadToken as error:
                return _errors(401, str(error))
            return await handler(request)

        return checked

    async def submit(request: Request) -> Response:
        body = bytearray()
        try:
            async for part in request.stream():
                body += part
                if len(body) > _MAX_BODY:
                    return _errors(413, f"at most {_MAX_BODY} bytes are read")
            document = json.loads(bytes(body))
        except (ValueError, RecursionError):
            return _errors(400, "the body is no JSON")
        except ClientDisconnect:
            return _errors(400, "the body broke off")
        try:
            number = await facade.submit(document)
        except Refused as reason:
            return _errors(400, str(reason))
        except NameTaken as reason:
            return _errors(409, str(reason))
        return JSONResponse({"errors": [], "job_id": number, "step_id": "BATCH", "job_submit_user_msg": ""})

    async def listing(request: Request) -> Response:
        names = request.query_params.get("job_name", "")
        numbers = _numbers(names) if names else None
        return _shown(await facade.list(numbers))

    async def one(request: Request) -> Response:
        numbers = _numbers(request.path_params["number"])
        found = await facade.list(numbers) if numbers else []
        return _shown(found) if found else _errors(404, "there is no such job")

    async def cancel(request: Request) -> Response:
        numbers = _numbers(request.path_params["number"])
        if not numbers or not await facade.cancel(numbers[0]):
            return _errors(404, "there is no such job")
        return JSONResponse({"errors": []})

    def _shown(jobs: list[dict[str, Any]]) -> Response:
        return JSONResponse({"errors": [], "jobs": jobs})

    return [
        Route(PREFIX + "/job/submit", known(submit), methods=["POST"]),
        Route(PREFIX + "/jobs", known(listing), methods=["GET"]),
        Route(PREFIX + "/job/{number}", known(one), methods=["GET"]),
        Route(PREFIX + "/job/{number}", known(cancel), methods=["DELETE"]),
    ]
