"""The tokens that caesar-rest makes for slurmrestd: JSON Web Tokens of one kind (HS256), checked without a library.

Slurm's own documentation (jwt.html) names the claims: `sun` is the user, `exp` the end in seconds of the epoch.
"""

import base64
import binascii
import hashlib
import hmac
import json
from typing import Any, TypeGuard

_LEEWAY = 5.0
"""Seconds that the clocks may differ."""


class BadToken(ValueError):
    """The token is none of ours; the message says why, and nothing of the token."""


def read_key(raw: bytes) -> bytes:
    """Take the line break off a key that an editor or a template left at its end.

    Raises ValueError for a key that is too short to be one.
    """
    key = raw.removesuffix(b"\n").removesuffix(b"\r")
    if len(key) < 32:
        raise ValueError("a key of at least 32 bytes is needed")
    return key


def check_token(token: str, key: bytes, user: str, now: float) -> None:
    """Check that a token was made with our key, for this user, and is still good at `now`.

    Raises BadToken.
    """
    parts = token.split(".")
    if len(token) > 4096 or len(parts) != 3:
        raise BadToken("X-SLURM-USER-TOKEN holds no token")
    header, payload, signature = parts
    expected = hmac.digest(key, f"{header}.{payload}".encode(), hashlib.sha256)
    if not hmac.compare_digest(expected, _decode(signature)):
        raise BadToken("the token was not made with the voter's key")
    if _document(header).get("alg") != "HS256":
        raise BadToken("the token's algorithm is not HS256")
    claims = _document(payload)
    expires, since = claims.get("exp"), claims.get("nbf", claims.get("iat", 0))
    if not _is_number(expires) or not _is_number(since):
        raise BadToken("the token does not say until when it is good")
    if expires + _LEEWAY < now:
        raise BadToken("the token has expired")
    if since - _LEEWAY > now:
        raise BadToken("the token is of the future: is a clock wrong?")
    if claims.get("sun") != user:
        raise BadToken("the token is for another user")


def make_token(key: bytes, user: str, now: float, seconds: int = 3600) -> str:
    """Make a token as caesar-rest does, for tests and measurements."""
    header = _encode({"alg": "HS256", "typ": "JWT"})
    payload = _encode({"exp": int(now) + seconds, "iat": int(now), "sun": user})
    signature = hmac.digest(key, f"{header}.{payload}".encode(), hashlib.sha256)
    return f"{header}.{payload}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _encode(document: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise BadToken("the token can not be read") from None


def _document(text: str) -> dict[str, Any]:
    try:
        document = json.loads(_decode(text))
    except ValueError:
        raise BadToken("the token can not be read") from None
    if not isinstance(document, dict):
        raise BadToken("the token can not be read")
    return document
