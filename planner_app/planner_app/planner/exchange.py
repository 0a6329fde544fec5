"""Bodies in and out: which media type, how large, in which form."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from planner_app.execution_broker import codecs
from planner_app.planner.files import OpenFile
from planner_app.planner.problems import Problem

MAX_UNREAD = 32_000_000
"""Bytes of bodies that are on their way at once, of all clients: more would be the process's end."""

DOCUMENTS = codecs.MEDIA_TYPES
TEXT = ("text/plain",)
BYTES = ("application/octet-stream",)


def negotiated(request: Request, offered: Sequence[str]) -> str:
    """Choose the media type of the reply; raises Problem 406 where the client takes none of those offered."""
    header = request.headers.get("accept")
    media = codecs.acceptable(header, offered)
    if media is None:
        raise Problem(HTTPStatus.NOT_ACCEPTABLE, f"the reply is {' or '.join(offered)}")
    return media


class Bodies:
    """Reads the bodies of requests, with a bound on what all of them hold in memory together."""

    def __init__(self) -> None:
        self._held = 0

    async def document(self, request: Request) -> Any:
        """Read a JSON or YAML body.

        Raises Problem 415 for other media types, 413 where it is too large, 503 where too much is on its way
        already, and 400 where it cannot be read.
        """
        media = codecs.media_type(request.headers.get("content-type"))
        if media is None:
            raise Problem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"Content-Type must be {' or '.join(codecs.MEDIA_TYPES)}",
                {"Accept-Post": ", ".join(codecs.MEDIA_TYPES)},
            )
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "bodies are read as they are, without Content-Encoding")
        body = await self._read(request)
        try:
            return codecs.decode(body, media)
        except codecs.MalformedBody as error:
            raise Problem(HTTPStatus.BAD_REQUEST, f"the body cannot be read: {error}") from None

    async def _read(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async for chunk in request.stream():
                if len(body) + len(chunk) > codecs.MAX_BYTES:
                    raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {codecs.MAX_BYTES} bytes are read")
                if self._held + len(chunk) > MAX_UNREAD:
                    raise Problem(
                        HTTPStatus.SERVICE_UNAVAILABLE, "too many bodies are on their way", {"Retry-After": "1"}
                    )
                body += chunk
                self._held += len(chunk)
        except ClientDisconnect:
            raise Problem(HTTPStatus.BAD_REQUEST, "the client went before the end of the body") from None
        finally:
            self._held -= len(body)
        return bytes(body)


def reply(document: Any, media: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Write a document as the client takes it."""
    return written(codecs.encode(document, media), media, status, headers)


def written(text: bytes, media: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The same, of a document that is written already."""
    return Response(text, status, {"Vary": "Accept", **(headers or {})}, media)


def stream(file: OpenFile, media: str) -> Response:
    """Send a file, never as anything that a browser would run."""
    headers = {"Content-Length": str(file.size), "X-Content-Type-Options": "nosniff"}
    return StreamingResponse(file.chunks(), headers=headers, media_type=media)
