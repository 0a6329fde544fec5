"""Which requests are a browser's, and what every answer to one says of safety.

Nothing else of the pages is loaded before the first of them is asked for: most voters never show one.
"""

from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from planner_app.voter.pages.logins import COOKIE, Logins

if TYPE_CHECKING:
    from planner_app.voter.service import Voter

STYLE = "/style.css"
LOGIN = "/login/"
_OWN = (STYLE, "/favicon.ico")
SAFETY = {
    # No script at all, nothing from elsewhere, in nobody's frame.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_for_a_browser(method: str, path: str, headers: dict[bytes, bytes]) -> bool:
    """Whether a request is answered by a page: who has a token, or changes something, speaks with the API."""
    if method not in ("GET", "HEAD") or b"authorization" in headers:
        return False
    if path == "/" or path in _OWN or path.startswith((LOGIN, "/jobs/")):
        return True
    # The API has the same addresses; a browser always says that it wants HTML.
    return (path == "/ballots" or (path.startswith("/ballots/") and path.count("/") == 2)) and (
        b"text/html" in headers.get(b"accept", b"")
    )


def cookie_of(headers: dict[bytes, bytes]) -> str:
    """Find our cookie; nothing where there is none."""
    try:
        morsel = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""


class Pages:
    """The pages of a voter: asked first whether a request is theirs."""

    def __init__(self, voter: "Voter") -> None:
        self.logins = Logins()
        self._voter = voter
        self._site: ASGIApp | None = None

    def serve(self, scope: Scope) -> bool:
        """Whether a request is to be answered by `__call__`."""
        return scope["type"] == "http" and is_for_a_browser(scope["method"], scope["path"], dict(scope["headers"]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - of ASGI
        if self._site is None:
            from planner_app.voter.pages.site import create_site

            self._site = create_site(self._voter, self.logins)
        scope["client_name"] = self.logins.client(cookie_of(dict(scope["headers"])))
        await self._site(scope, receive, send)
