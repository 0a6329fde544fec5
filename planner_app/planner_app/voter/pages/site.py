"""The pages: handlers read, ask the views what to show, and fill a template.

Loaded when the first page is asked for.
"""

import asyncio
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from planner_app.execution_broker.codecs import MalformedBody
from planner_app.voter.ballots import State
from planner_app.voter.jobs import Job, Jobs
from planner_app.voter.pages.ballot_views import ballot_view, row
from planner_app.voter.pages.fits import NoImage, open_image
from planner_app.voter.pages.gate import LOGIN, SAFETY, STYLE
from planner_app.voter.pages.job_views import catalogue_names, job_view, map_view, read_catalogue, rows_of
from planner_app.voter.pages.logins import COOKIE, LOGIN_SECONDS, Logins
from planner_app.voter.pages.overview import BIN, PAST, overview
from planner_app.voter.pages.records import Records
from planner_app.voter.planners import NoReply
from planner_app.voter.service import Voter
from planner_app.voter.text import one_line

_HERE = Path(__file__).parent
_PAGE = 25
_REFRESH_SECONDS = 5
_PICTURE_SECONDS = 30
_LARGEST_PICTURE = 8_000_000
_LARGEST_CATALOGUE = 4_000_000


class _Site:
    """The handlers."""

    def __init__(self, voter: Voter, logins: Logins) -> None:
        self._voter = voter
        self._logins = logins
        self._records = Records(voter.ballots)
        self._jobs = Jobs(voter.ballots.database)
        self._style = (_HERE / "style.css").read_bytes()
        self._drawing = asyncio.Semaphore(1)
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["clock"] = lambda moment: f"{moment:%H:%M:%S}"
        self._templates.filters["day"] = lambda moment: f"{moment:%Y-%m-%d %H:%M:%S}"

    def page(
        self,
        template: str,
        status: int = 200,
        *,
        refresh: bool = False,
        headers: dict[str, str] | None = None,
        **view: Any,
    ) -> Response:
        """Fill a template."""
        now = datetime.now(UTC)
        shared = {"now": now, "active": "", "refresh": _REFRESH_SECONDS if refresh else 0, "style": STYLE}
        text = self._templates.get_template(template).render(shared | view)
        more = {"Refresh": str(_REFRESH_SECONDS)} if refresh else {}
        return HTMLResponse(text, status, SAFETY | more | (headers or {}))

    # --- getting in -----------------------------------------------------------------------------------

    async def style(self, _request: Request) -> Response:
        return Response(self._style, headers=SAFETY | {"Cache-Control": "max-age=300"}, media_type="text/css")

    async def icon(self, _request: Request) -> Response:
        return Response(status_code=204, headers=SAFETY | {"Cache-Control": "max-age=86400"})

    async def login(self, request: Request) -> Response:
        cookie = self._logins.redeem(request.path_params["code"])
        if cookie is None:
            return self._stranger(spent=True)
        # Answered with a page, not sent on: a browser that came by another site's link would be sent on without it.
        secure = "; Secure" if self._voter.config.url.startswith("https:") else ""
        set_cookie = f"{COOKIE}={cookie}; Path=/; Max-Age={LOGIN_SECONDS}; HttpOnly; SameSite=Strict{secure}"
        return self.page("welcome.html", headers={"Set-Cookie": set_cookie, "Refresh": "0; url=/"})

    def _stranger(self, *, spent: bool = False) -> Response:
        return self.page("stranger.html", 401, spent=spent)

    # --- pages ----------------------------------------------------------------------------------------

    async def platforms(self, request: Request) -> Response:
        now = datetime.now(UTC)
        rows, ballots = await asyncio.gather(self._voter.platforms(), self._records.ran_since(now - PAST * BIN))
        live = request.query_params.get("refresh") == "on"
        return self.page("platforms.html", refresh=live, active="platforms", **overview(rows, ballots, now))

    async def ballots(self, request: Request) -> Response:
        phase, before = request.query_params.get("phase", ""), request.query_params.get("before")
        if phase and phase not in State.__members__:
            raise HTTPException(400, "There is no such phase.")
        found = await self._records.page([State(phase)] if phase else [], before, _PAGE + 1)
        rows = [row(ballot) for ballot in found[:_PAGE]]
        # What one pages back to does not change under one's eyes.
        live = before is None and request.query_params.get("refresh") != "off"
        return self.page(
            "ballots.html",
            refresh=live,
            active="ballots",
            rows=rows,
            phase=phase,
            phases=[(name, name.replace("_", " ").lower()) for name in State.__members__],
            before=before,
            more=len(found) > _PAGE,
        )

    async def ballot(self, request: Request) -> Response:
        beginning = request.path_params["ballot"].lower()
        found = await self._find(beginning)
        if not found:
            raise HTTPException(404, f"There is no ballot {one_line(beginning, 40)}.")
        view = ballot_view(found[-1])
        return self.page("ballot.html", refresh=view["live"], active="ballots", ballot=view)

    async def job(self, request: Request) -> Response:
        ballots, job = await self._find_job(request)
        last = ballots[-1]
        uploaded = await self._records.uploaded(last["upload"]) if last.get("upload") else None
        document = None if job is None else {"id": job.id, "submitted": job.document["submitted"]}
        view = job_view(ballots, uploaded, document, datetime.now(UTC))
        found: dict[str, Any] = {
            "raw": [],
            "sources": [],
            "unit": "",
            "title": "",
            "map": None,
            "outputs": [],
            "why": "",
        }
        if last["state"] == State.COMPLETED:
            found |= await self._found(last)
            found["map"] = await self._map(ballots, job, found["raw"])
        return self.page("job.html", refresh=view["live"], active="ballots", job=view, **found)

    async def image(self, request: Request) -> Response:
        ballots, job = await self._find_job(request)
        path = await self._input(ballots, job)
        if path is None:
            raise HTTPException(404, "The job's image is not here.")
        body, why = await self._draw(path)
        if body is None:
            raise HTTPException(404, why)
        # An upload never changes.
        headers = SAFETY | {"Cache-Control": "private, max-age=3600"}
        return Response(body, headers=headers, media_type="image/png")

    # --- parts ----------------------------------------------------------------------------------------

    async def _find(self, beginning: str) -> list[dict[str, Any]]:
        """Find a ballot by its id, the beginning of it or its trace; a trace gives all ballots under it."""
        if re.fullmatch("[0-9a-f]{32}", beginning):
            return await self._records.of_trace(beginning)
        names = [beginning] if len(beginning) == 36 else []
        if 4 <= len(beginning) < 36:
            names = await self._voter.ballots.matching(beginning)
        if len(names) > 1:
            raise HTTPException(409, f"Several ballots begin with {one_line(beginning, 40)}.")
        found = await self._voter.ballots.get(names[0]) if names else None
        return [] if found is None else [found]

    async def _find_job(self, request: Request) -> tuple[list[dict[str, Any]], Job | None]:
        """Find all ballots on a job by one of them, by its trace or by the number that caesar-rest has."""
        name, job, ballots = request.path_params["job"].lower(), None, []
        if re.fullmatch("[0-9]{1,9}", name) and (jobs := await self._jobs.get([int(name)])):
            job = jobs[0]
            ballots = await self._records.of_trace(job.document["trace"])
        else:
            ballots = await self._find(name)
            if ballots and ballots[-1].get("trace"):
                ballots = await self._records.of_trace(ballots[-1]["trace"])
            number = (ballots[-1].get("job") or {}).get("id") if ballots else None
            if number is not None:
                job = next(iter(await self._jobs.get([number])), None)
        if not ballots:
            raise HTTPException(404, f"There is no job {one_line(name, 40)} that was voted on.")
        return ballots, job

    async def _found(self, ballot: dict[str, Any]) -> dict[str, Any]:
        """Ask the winner's planner for the outputs, and read the catalogue among them."""
        planner = self._voter.planners.get(ballot["winner"]["planner"])
        if planner is None:
            return {"raw": [], "why": "the platform's planner is not among the planners any more"}
        timeout, path = self._voter.config.accept_timeout, f"/sessions/{ballot['winner']['session']}/outputs"
        outputs: list[dict[str, Any]] = []
        try:
            reply = await self._voter.planners.call(planner, "GET", path, timeout)
            listed = reply.document() if reply.status == 200 else None
            if not isinstance(listed, list):
                return {"raw": [], "why": f"{planner.name} answered {reply.status} for the outputs"}
            outputs = [
                {"name": one_line(str(each["name"]), 120), "size": each["size"]}
                for each in listed[:200]
                if isinstance(each, dict) and isinstance(each.get("name"), str) and type(each.get("size")) is int
            ]
            names = catalogue_names([each["name"] for each in outputs])
            if not names:
                return {"raw": [], "outputs": outputs, "why": "there is no catalogue among the outputs"}
            # Streamed, since an output is bytes to a planner, whatever is in it.
            async with self._voter.planners.stream(planner, f"{path}/{names[0]}", timeout) as theirs:
                if theirs.status_code != 200:
                    why = f"{planner.name} answered {theirs.status_code} for {names[0]}"
                    return {"raw": [], "outputs": outputs, "why": why}
                body = b""
                async for part in theirs.aiter_raw():
                    body += part
                    if len(body) > _LARGEST_CATALOGUE:
                        raise ValueError(f"it has more than {_LARGEST_CATALOGUE // 1000000} MB")
            catalogue = read_catalogue(body)
        except (NoReply, MalformedBody) as failure:
            return {"raw": [], "outputs": outputs, "why": f"{planner.name}: {one_line(str(failure))}"}
        except ValueError as error:
            return {"raw": [], "outputs": outputs, "why": f"the catalogue cannot be read: {one_line(str(error), 80)}"}
        return {
            "raw": catalogue.entries,
            "sources": rows_of(catalogue.entries),
            "unit": catalogue.unit,
            "title": catalogue.title,
            "outputs": outputs,
        }

    async def _input(self, ballots: Sequence[dict[str, Any]], job: Job | None) -> Path | None:
        """Tell where a job's image lies, if below the data that the voter keeps."""
        storage = self._voter.config.storage
        if job is not None:
            path = Path(job.document["submission"]["input"])
        elif (upload := ballots[-1].get("upload")) and (stored := await self._records.uploaded(upload)):
            path = storage.data / stored["uuid"] / stored["name"]
        else:
            return None

        def checked() -> Path | None:
            try:
                real = path.resolve(strict=True)
            except (OSError, RuntimeError):
                return None
            return real if real.is_relative_to(storage.data.resolve()) and real.is_file() else None

        return await asyncio.to_thread(checked)

    async def _map(self, ballots: Sequence[dict[str, Any]], job: Job | None, sources: Any) -> dict[str, Any] | None:
        path = await self._input(ballots, job)
        if path is None:
            return None
        try:
            image = await asyncio.to_thread(open_image, path)
        except (NoImage, OSError):
            return None
        return map_view(image, sources)

    async def _draw(self, path: Path) -> tuple[bytes | None, str]:
        """Have the picture made by another process, one at a time."""
        async with self._drawing:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "planner_app.voter.pages.picture",
                str(path),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                async with asyncio.timeout(_PICTURE_SECONDS):
                    body, said = await process.communicate()
            except TimeoutError:
                return None, "Drawing the image took too long."
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if process.returncode != 0 or not 0 < len(body) <= _LARGEST_PICTURE:
            last = said.decode(errors="replace").strip().rpartition("\n")[2]
            return None, f"The image cannot be drawn: {one_line(last, 120) or 'it is too large'}."
        return body, ""

    # --- faults ---------------------------------------------------------------------------------------

    async def fault(self, _request: Request, error: Exception) -> Response:
        """Say what is wrong in a page."""
        assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for nothing else
        return self.page("fault.html", error.status_code, detail=str(error.detail))


def create_site(voter: Voter, logins: Logins) -> ASGIApp:
    """Make the application of the pages; it finds whose browser asks in the scope's `client_name`."""
    site = _Site(voter, logins)

    def members(handler: Any) -> Any:
        async def checked(request: Request) -> Response:
            if request.scope["client_name"] is None:
                return site._stranger()
            answer: Response = await handler(request)
            return answer

        return checked

    routes = [
        Route(STYLE, site.style),
        Route("/favicon.ico", site.icon),
        Route(LOGIN + "{code}", site.login),
        Route("/", members(site.platforms)),
        Route("/ballots", members(site.ballots)),
        Route("/ballots/{ballot}", members(site.ballot)),
        Route("/jobs/{job}", members(site.job)),
        Route("/jobs/{job}/image.png", members(site.image)),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: site.fault})
