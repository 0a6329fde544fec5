"""Who may talk to a planner: bearer tokens, of which only the SHA-256 is known here."""

import hashlib
import hmac
import re
from pathlib import Path

_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s+([0-9a-f]{64})")


class Tokens:
    """Clients and the hashes of their tokens."""

    def __init__(self, hashes: dict[str, str]) -> None:
        self._hashes = hashes

    @classmethod
    def load(cls, path: Path) -> "Tokens":
        """Read lines of ``client sha256``; empty ones and those that begin with # are passed over.

        Raises OSError where the file cannot be read and ValueError where a line is something else.
        """
        hashes: dict[str, str] = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            matched = _LINE.fullmatch(line.strip())
            if matched is None:
                raise ValueError(f"{path}, line {number}: must be a client's name and the SHA-256 of its token in hex")
            if matched[1] in hashes:
                raise ValueError(f"{path}, line {number}: {matched[1]} is given twice")
            hashes[matched[1]] = matched[2]
        return cls(hashes)

    def client_of(self, authorization: str | None) -> str | None:
        """Tell whose token an Authorization header carries; None where it is nobody's."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return None
        sent = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        # All are compared, each in constant time: how long it takes tells nothing.
        for client, known in self._hashes.items():
            if hmac.compare_digest(sent, known):
                found = client
        return found
