"""Pages of lists: how many, from where on, in which phases."""

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode
from uuid import UUID

from planner_app.execution_broker.models import Phase

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class BadParameter(ValueError):
    """A parameter of the query is wrong; names it."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name
        self.why = why


@dataclass(frozen=True)
class Position:
    """The last of a page: the next one begins with what was made before it."""

    created: datetime
    uuid: UUID

    def encode(self) -> str:
        """Write it for a client, to whom it means nothing."""
        text = f"{(self.created - _EPOCH) // _MICROSECOND}.{self.uuid.hex}"
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "Position":
        """Read what `encode` wrote; raises ValueError for anything else."""
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
            micros, _, name = raw.partition(".")
            return cls(_EPOCH + int(micros) * _MICROSECOND, UUID(hex=name))
        except (binascii.Error, UnicodeError, OverflowError, ValueError):
            raise ValueError("must be what `next` of another page named") from None


@dataclass(frozen=True)
class Page:
    """What of a list is asked for."""

    limit: int = DEFAULT_LIMIT
    after: Position | None = None
    phases: Sequence[Phase] = ()

    def next(self, url: str, last: Position) -> str:
        """Tell where the next page is."""
        query = [*(("phase", str(phase)) for phase in self.phases), ("limit", str(self.limit))]
        return f"{url}?{urlencode([*query, ('cursor', last.encode())])}"


def read_page(query: Iterable[tuple[str, str]], known: Sequence[str]) -> Page:
    """Read the parameters of a query.

    Raises BadParameter where one is wrong, given twice, or not known: a mistyped one would be no filter at all.
    """
    limit, after = DEFAULT_LIMIT, None
    phases: list[Phase] = []
    seen: set[str] = set()
    for name, value in query:
        if name not in known:
            raise BadParameter(name[:50], f"is not known here, only {', '.join(known)}")
        if name in seen and name != "phase":
            raise BadParameter(name, "is given twice")
        seen.add(name)
        match name:
            case "phase":
                if value not in Phase.__members__:
                    raise BadParameter(name, f"must be one of {', '.join(Phase)}")
                phases.append(Phase(value))
            case "limit":
                if not (value.isascii() and value.isdigit() and len(value) < 6 and 1 <= int(value) <= MAX_LIMIT):
                    raise BadParameter(name, f"must be a number from 1 to {MAX_LIMIT}")
                limit = int(value)
            case "cursor":
                try:
                    after = Position.decode(value)
                except ValueError as error:
                    raise BadParameter(name, str(error)) from None
    return Page(limit, after, tuple(dict.fromkeys(phases)))
