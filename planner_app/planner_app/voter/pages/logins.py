"""Who may see the pages: a link that works once, and then a cookie.

A browser keeps neither a bearer token nor headers of its own, and a token in an address would stay in histories
and logs. So whoever has a token asks for a link, which is worth nothing once it was opened or has grown old.
Nothing is kept over a restart: then one asks for another link.
"""

import hashlib
import secrets
import time
from collections.abc import Callable

COOKIE = "caesar-voter"
LINK_SECONDS = 300
"""Time in which a link must be opened."""
LOGIN_SECONDS = 12 * 3600
"""Time for which a browser stays logged in."""
_MOST = 256
"""Links, and browsers, that are known at once; the oldest go first."""


def _digest(secret: str) -> str:
    # Looked up by digest, so how long it takes tells nothing of the secrets.
    return hashlib.sha256(secret.encode()).hexdigest()


class _Table:
    """Secrets that are good for a while, and whom each is for."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._known: dict[str, tuple[str, float]] = {}

    def give(self, client: str) -> str:
        now = self._clock()
        self._known = {digest: known for digest, known in self._known.items() if known[1] > now}
        while len(self._known) >= _MOST:
            del self._known[next(iter(self._known))]
        secret = secrets.token_urlsafe(32)
        self._known[_digest(secret)] = (client, now + self._seconds)
        return secret

    def find(self, secret: str, *, once: bool = False) -> str | None:
        digest = _digest(secret)
        client, until = self._known.get(digest, ("", 0.0))
        if once:
            self._known.pop(digest, None)
        return client if until > self._clock() else None


class Logins:
    """All links and all browsers that were logged in by them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._links = _Table(LINK_SECONDS, clock)
        self._browsers = _Table(LOGIN_SECONDS, clock)

    def invite(self, client: str) -> str:
        """Make the secret part of a link for a client."""
        return self._links.give(client)

    def redeem(self, code: str) -> str | None:
        """Take the secret part of a link, which is spent then, and give what its browser's cookie is to hold."""
        client = self._links.find(code, once=True)
        return None if client is None else self._browsers.give(client)

    def client(self, cookie: str) -> str | None:
        """Tell whose browser has a cookie; None where nobody's has."""
        return self._browsers.find(cookie)
