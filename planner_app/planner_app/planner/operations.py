"""What the API consists of: each operation with what it takes and what it answers.

The routes and the OpenAPI document are both made of this list, so that one never says what the other does not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from planner_app.planner.exchange import BYTES, DOCUMENTS, TEXT


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    name: str
    method: Literal["GET", "POST"]
    path: str
    """As Starlette writes it."""
    summary: str
    replies: Mapping[int, str] = field(default_factory=dict)
    """Which schema the document of a reply follows, by status; empty where the reply is no document."""
    media: Sequence[str] = DOCUMENTS
    """What the reply can be, the best first."""
    body: str = ""
    """Which schema the body follows."""
    keyed: bool = False
    """Whether an Idempotency-Key is taken."""
    query: Sequence[str] = ()
    open: bool = False
    """Whether it needs no token."""
    listed: bool = True
    """Whether the OpenAPI document names it."""
    problems: Sequence[int] = ()
    """What else can be answered, besides 401 and 406."""


_ASKING = (400, 409, 413, 415, 422, 503)
_SESSION = "/sessions/{uuid:uuid}"

REQUEST = Operation(
    "ExecutionRequest", "POST", "/requests", "Ask for offers: YES with offers, or NO with every reason",
    {200: "OfferSet"}, body="ExecutionRequest", keyed=True, problems=_ASKING,
)  # fmt: skip
REQUEST_ALIAS = Operation(
    "OfferSetRequest", "POST", "/offersets", "The same as /requests, by its older name",
    {200: "OfferSet"}, body="ExecutionRequest", keyed=True, problems=_ASKING,
)  # fmt: skip
DIRECT = Operation(
    "DirectExecution", "POST", "/direct", "Run at once what fits: an accepted session, or one that FAILED and says why",
    {200: "Session", 400: "Session"}, body="ExecutionRequest", keyed=True, problems=_ASKING,
)  # fmt: skip
SESSION = Operation(
    "SessionSelect", "GET", _SESSION, "A session of yours: its phase, what can be done now, what happened",
    {200: "Session"}, problems=(403, 404),
)  # fmt: skip
SESSION_UPDATE = Operation(
    "SessionUpdate", "POST", _SESSION, "Accept or reject an offer, cancel a session",
    {200: "Session"}, body="Update", problems=(400, 403, 404, 409, 413, 415, 503),
)  # fmt: skip
OFFERSET = Operation(
    "OfferSetSelect", "GET", "/offersets/{uuid:uuid}", "The answer to a request of yours, its offers as they are now",
    {200: "OfferSet"}, problems=(403, 404),
)  # fmt: skip
SESSIONS = Operation(
    "SessionList", "GET", "/sessions", "Your sessions, the latest first",
    {200: "Sessions"}, query=("phase", "limit", "cursor"), problems=(400,),
)  # fmt: skip
OFFERSETS = Operation(
    "OfferSetList", "GET", "/offersets", "The answers to your requests, the latest first",
    {200: "OfferSets"}, query=("limit", "cursor"), problems=(400,),
)  # fmt: skip
STDOUT = Operation(
    "SessionStdout", "GET", f"{_SESSION}/stdout", "What the job has written so far",
    {200: ""}, media=TEXT, problems=(403, 404),
)  # fmt: skip
STDERR = Operation(
    "SessionStderr", "GET", f"{_SESSION}/stderr", "What the job has written so far to its standard error",
    {200: ""}, media=TEXT, problems=(403, 404),
)  # fmt: skip
OUTPUTS = Operation(
    "SessionOutputs", "GET", f"{_SESSION}/outputs", "Names and sizes of the job's results",
    {200: "Outputs"}, problems=(403, 404),
)  # fmt: skip
OUTPUT = Operation(
    "SessionOutput", "GET", f"{_SESSION}/outputs/{{name:path}}", "One of the job's results; its name may hold slashes",
    {200: ""}, media=BYTES, problems=(403, 404),
)  # fmt: skip
CAPABILITIES = Operation(
    "Capabilities", "GET", "/capabilities", "What is taken, allowed, free, and what it costs", {200: "Capabilities"}
)
METRICS = Operation("Metrics", "GET", "/metrics", "Figures for Prometheus", {200: ""}, media=TEXT)
HEALTH = Operation(
    "Health", "GET", "/health", "Whether the planner lives, and whether its platform answered",
    {200: "Health"}, open=True,
)  # fmt: skip
OPENAPI = Operation(
    "OpenApi", "GET", "/openapi.json", "This document", {200: "Any"}, media=("application/json",), open=True
)
SWAGGER = Operation("Swagger", "GET", "/docs", "A page to try it", media=("text/html",), open=True, listed=False)
SWAGGER_FILE = Operation(
    "SwaggerFile", "GET", "/docs/{name}", "What the page consists of",
    media=("text/css", "text/javascript"), open=True, listed=False,
)  # fmt: skip

# The busiest first: a route is looked for in this order.
ALL = (
    REQUEST, SESSION, SESSION_UPDATE, OFFERSET, DIRECT, REQUEST_ALIAS, SESSIONS, OFFERSETS, STDOUT, STDERR, OUTPUTS,
    OUTPUT, CAPABILITIES, METRICS, HEALTH, OPENAPI, SWAGGER, SWAGGER_FILE,
)  # fmt: skip
