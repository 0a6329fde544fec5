"""Requests that may be sent twice and are done once: the header Idempotency-Key (draft-ietf-httpapi).

What a key was used for is in the ledger before it is done, with the uuid of the offer set that will come of
it. A planner that was killed in between finds the offer set, or knows that there is none and does it now.
"""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from planner_app.planner.listing import BadParameter

if TYPE_CHECKING:
    from planner_app.planner.ledger.keys import Keys
    from planner_app.planner.lifecycle import Lifecycle

MAX_KEY = 255
# A string of RFC 8941, or the bare word that most clients send.
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])+)"')
_BARE = re.compile(r"[!#-~]+")

Document = dict[str, Any]


class KeyBusy(Exception):
    """The first request with this key is still being answered."""


class KeyReused(Exception):
    """The key was used for something else before."""


def read_key(header: str | None) -> str | None:
    """Read the header; None where there is none.

    Raises BadParameter where it is no string of 1 to MAX_KEY characters.
    """
    if header is None:
        return None
    text = header.strip()
    if quoted := _QUOTED.fullmatch(text):
        key = re.sub(r'\\(["\\])', r"\1", quoted[1])
    elif _BARE.fullmatch(text):
        key = text
    else:
        raise BadParameter("Idempotency-Key", "must be a string of visible characters, quoted or not")
    if len(key) > MAX_KEY:
        raise BadParameter("Idempotency-Key", f"must have at most {MAX_KEY} characters")
    return key


def fingerprint(what: str, document: Mapping[str, Any]) -> str:
    """Tell requests apart: what is to be done, and the body whatever its form and order."""
    text = json.dumps([what, document], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Once:
    """Does what has a key once."""

    def __init__(self, lifecycle: "Lifecycle", keys: "Keys") -> None:
        self._lifecycle = lifecycle
        self._keys = keys
        self._busy: dict[tuple[str, str], str] = {}

    async def do(
        self,
        client: str,
        key: str,
        print_: str,
        first: Callable[[UUID], Awaitable[Document]],
        again: Callable[[UUID], Awaitable[Document | None]],
    ) -> Document:
        """Answer a request with a key.

        `first` does it, under the uuid given; `again` gives the answer of one that was done before, and None
        where it never was.

        Raises KeyReused where the key was used for another body, and KeyBusy while the first is under way.
        """
        busy = self._busy.get((client, key))
        if busy is not None and busy != print_:
            raise KeyReused
        if busy is not None:
            raise KeyBusy
        self._busy[client, key] = print_
        try:
            now: datetime = self._lifecycle.clock()
            forget = now - self._lifecycle.config.offers.keep_keys
            claimed = await self._lifecycle.in_thread(self._keys.claim, client, key, print_, now, forget)
            if claimed.fingerprint != print_:
                raise KeyReused
            if not claimed.new and (document := await again(claimed.uuid)) is not None:
                return document
            return await first(claimed.uuid)
        finally:
            del self._busy[client, key]
