"""The HTTP API below /caesar/api/v1.0, without sign-in.

Handlers are plain functions, which Starlette runs in threads: the database and the Slurm client wait.
"""

import base64
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from planner_app.caesar_rest import states
from planner_app.caesar_rest.apps import APPS, BadInputs
from planner_app.caesar_rest.script import Elsewhere, submission
from planner_app.caesar_rest.settings import Settings
from planner_app.caesar_rest.slurm import NotTaken, Slurm, SlurmDown
from planner_app.caesar_rest.store import Document, Store, StoreDown

PREFIX = "/caesar/api/v1.0"
USER = "anonymous"
_SUFFIXES = ("png", "jpg", "jpeg", "gif", "fits")
_MOST_BYTES = 1000 * 1024 * 1024
_ENDED = (states.SUCCESS, states.FAILURE, states.TIMED_OUT)
_UNFINISHED = (*states.LIVE, "ABORTED")


def _said(status: int, words: str, **more: Any) -> Response:
    return JSONResponse({"status": words, **more}, status)


def _file(path: Path) -> Response:
    return FileResponse(path, filename=path.name)


class Api:
    """The calls."""

    def __init__(self, settings: Settings) -> None:
        """Connect to nothing yet."""
        self._settings = settings
        self._store = Store.of_file(settings.mongo_app, settings.mongo_timeout_ms)
        self._slurm = Slurm(settings.slurm_url, settings.slurm_user, settings.slurm_key)

    async def upload(self, request: Request) -> Response:
        """Take an image."""
        if int(request.headers.get("content-length") or 0) > _MOST_BYTES:
            return _said(413, f"at most {_MOST_BYTES} bytes are taken")
        try:
            async with request.form(max_files=1) as form:
                file, tag = form.get("file"), form.get("tag")
                if not isinstance(file, UploadFile):
                    return _said(400, "the form has no file")
                return await run_in_threadpool(self._keep, file, tag if isinstance(tag, str) else "")
        except MultiPartException as error:
            return _said(400, error.message)

    def _keep(self, file: UploadFile, tag: str) -> Response:
        name = PurePosixPath(file.filename or "").name
        suffix = name.rpartition(".")[2].lower()
        if not name or "." not in name:
            return _said(400 if not name else 415, "the file has no name with a suffix")
        if suffix not in _SUFFIXES:
            return _said(415, f"files of type {', '.join(_SUFFIXES)} are taken")
        number = uuid4().hex
        path = self._settings.data / USER / f"{number}.{suffix}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as target:
                shutil.copyfileobj(file.file, target)
        except OSError as error:
            path.unlink(missing_ok=True)
            return _said(500, f"the file could not be stored: {error.strerror}")
        size, date = path.stat().st_size / 1024**2, datetime.now().isoformat()
        about = {"filename_orig": name, "tag": tag}
        try:
            self._store.add_file(
                USER,
                {
                    "filepath": str(path), "fileid": number, "fileext": suffix, "filesize": size, "filedate": date,
                    "metadata": "", **about,
                },
            )  # fmt: skip
        except StoreDown as error:
            path.unlink(missing_ok=True)
            return _said(500, f"the database does not answer, so the file is not kept: {error}")
        return _said(200, "stored", uuid=number, format=suffix, size=size, date=date, **about)

    def fileids(self, request: Request) -> Response:
        """List the files."""
        return JSONResponse(self._store.files(USER))

    def download(self, request: Request) -> Response:
        """Give a file."""
        found = self._store.file(USER, request.path_params["number"])
        path = Path(found["filepath"]) if found else None
        return _file(path) if path and path.is_file() else _said(404, "there is no such file")

    def delete(self, request: Request) -> Response:
        """Delete a file."""
        number = request.path_params["number"]
        found = self._store.file(USER, number)
        if not found or not Path(found["filepath"]).is_file():
            return _said(404, "there is no such file")
        Path(found["filepath"]).unlink()
        self._store.forget_file(USER, number)
        return _said(200, "deleted")

    def apps(self, request: Request) -> Response:
        """List the applications."""
        return JSONResponse({"apps": list(APPS)})

    def describe(self, request: Request) -> Response:
        """Tell an application's options."""
        app = APPS.get(request.path_params["name"])
        if app is None:
            return _said(400, "there is no such application")
        return JSONResponse({name: option.described() for name, option in app.options.items()})

    async def submit(self, request: Request) -> Response:
        """Take a job."""
        try:
            asked = await request.json()
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            return _said(400, "the body must be a JSON object", state="ABORTED")
        return await run_in_threadpool(self._submit, asked)

    def _submit(self, asked: dict[str, Any]) -> Response:
        app, inputs = APPS.get(str(asked.get("app"))), asked.get("job_inputs")
        if app is None:
            return _said(400, f"there is no application {asked.get('app')!r}", state="ABORTED")
        file = self._store.file(USER, str(asked.get("data_inputs")))
        if not file:
            return _said(400, "data_inputs names no uploaded file", state="ABORTED")
        name, top, settings = uuid4().hex, self._settings.jobs / USER, self._settings
        directory = top / f"job_{name}"
        try:
            body = submission(
                app,
                inputs if isinstance(inputs, dict) else {},
                name=name,
                user=settings.slurm_user,
                source=PurePosixPath(file["filepath"]),
                directory=PurePosixPath(directory),
                data=(PurePosixPath(settings.data), settings.slurm_data),
                jobs=(PurePosixPath(settings.jobs), settings.slurm_jobs),
            )
        except (BadInputs, Elsewhere) as error:
            return _said(400, str(error), state="ABORTED")
        try:
            directory.mkdir(parents=True)
            pid = self._slurm.submit(body)
        except (NotTaken, SlurmDown, OSError) as error:
            # The reason is for the user too: caesar-rest itself has it in its log only.
            return _said(500, f"the job was not taken: {error}", state="ABORTED")
        given = {
            "job_id": name, "submit_date": datetime.now().isoformat(), "app": asked["app"],
            "job_inputs": inputs, "data_inputs": asked["data_inputs"], "tag": asked.get("tag", ""),
            "state": states.PENDING, "status": "submitted",
        }  # fmt: skip
        kept = {
            **given, "job_top_dir": str(top), "metadata": "", "scheduler": "slurm", "pid": pid, "elapsed_time": "0",
            "exit_code": -1,
        }  # fmt: skip
        try:
            self._store.add_job(USER, kept)
        except StoreDown as error:
            return _said(500, f"the job was submitted, but cannot be followed: {error}", state=states.PENDING)
        return JSONResponse(given, 202)

    def jobs(self, request: Request) -> Response:
        """List the jobs."""
        return JSONResponse(self._store.jobs(USER))

    def _job(self, request: Request) -> Document:
        job = self._store.job(USER, request.path_params["number"])
        if job is None:
            raise HTTPException(404, "there is no such job")
        return job

    def status(self, request: Request) -> Response:
        """Tell how a job is."""
        job = self._job(request)
        fields = ("job_id", "pid", "state", "status", "exit_code", "elapsed_time", "tag")
        return JSONResponse({field: job.get(field, "") for field in fields})

    def cancel(self, request: Request) -> Response:
        """Cancel a job."""
        job = self._job(request)
        if job["state"] in _ENDED:
            return _said(200, f"it has ended already, {job['state']}")
        try:
            self._slurm.cancel(job["pid"])
        except (NotTaken, SlurmDown) as error:
            return _said(500, f"it could not be canceled: {error}")
        self._store.change_job(
            f"{USER}.jobs", job["job_id"], state=states.CANCELED, status="canceled by its user", exit_code=-1
        )
        return _said(200, "canceled")

    def counted(self, collection: str) -> Callable[[Request], Response]:
        """Make a handler that gives what the accounter has counted."""

        def handler(request: Request) -> Response:
            found = self._store.only(collection)
            if found is None:
                period = self._settings.accounting_period
                return _said(404, f"nothing has been counted yet; that is done every {period:g} s")
            # The database keeps UTC and does not say so; the time is written as caesar-rest writes it.
            return JSONResponse(
                found | {"timestamp": format_datetime(found["timestamp"].replace(tzinfo=UTC), usegmt=True)}
            )

        return handler

    def output(self, pattern: str, give: Callable[[Path], Response]) -> Callable[[Request], Response]:
        """Make a handler that gives a job's first output of this name; {job} in it is the job's id."""

        def handler(request: Request) -> Response:
            job = self._job(request)
            if job["state"] in _UNFINISHED:
                return _said(202, f"it has not ended, {job['state']}", job_id=job["job_id"])
            directory = Path(job["job_top_dir"]) / f"job_{job['job_id']}"
            found = sorted(directory.glob(pattern.format(job=job["job_id"])))
            if not found:
                return _said(500, f"it has no such output; it ended {job['state']}", job_id=job["job_id"])
            return give(found[0])

        return handler


def make_app(settings: Settings) -> Starlette:
    """Make the application."""
    api = Api(settings)

    def document(path: Path) -> Response:
        return JSONResponse(json.loads(path.read_text(encoding="utf-8")))

    def picture(path: Path) -> Response:
        return _said(200, "", image=base64.b64encode(path.read_bytes()).decode())

    outputs = {
        "output": ("job_{job}.tar.gz", _file),
        "sources": ("catalog-*.json", document),
        "output-sources": ("catalog-*.dat", _file),
        "source-components": ("catalog_fitcomp-*.json", document),
        "output-components": ("catalog_fitcomp-*.dat", _file),
        "preview": ("plot_*.png", picture),
        "output-plot": ("plot_*.png", _file),
    }
    either = ["GET", "POST"]
    routes = [
        Route("/upload", api.upload, methods=["POST"]),
        Route("/fileids", api.fileids),
        Route("/download/{number}", api.download, methods=either),
        Route("/delete/{number}", api.delete, methods=either),
        Route("/apps", api.apps),
        Route("/app/{name}/describe", api.describe),
        Route("/job", api.submit, methods=["POST"]),
        Route("/jobs", api.jobs),
        Route("/job/{number}/status", api.status),
        Route("/job/{number}/cancel", api.cancel, methods=either),
        Route("/accounting", api.counted(f"{USER}.accounting")),
        Route("/appstats", api.counted("appstats")),
        *(Route(f"/job/{{number}}/{name}", api.output(*how)) for name, how in outputs.items()),
    ]

    def store_down(request: Request, error: Exception) -> Response:
        return _said(503, f"the database does not answer: {error}")

    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for nothing else
        return _said(error.status_code, error.detail)

    return Starlette(
        routes=[Mount(PREFIX, routes=routes)],
        exception_handlers={StoreDown: store_down, HTTPException: refused},
    )
