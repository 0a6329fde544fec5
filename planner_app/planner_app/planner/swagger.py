"""A page to look at the API and try it, from files that the machine has: it needs no internet."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from starlette.responses import FileResponse, HTMLResponse, Response

# fastapi-offline brings the files of Swagger UI. Its program is not wanted, and not imported.
_BROUGHT = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}

# What the page may load is its own, so that a token typed into it goes nowhere else. Swagger UI has styles and
# small pictures within itself.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Execution Planner</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""

# The document names the address that clients of the API use; the page asks where it came from itself.
_START = """fetch("openapi.json").then((reply) => reply.json()).then((spec) => {
  spec.servers = [{ url: new URL(".", document.baseURI).pathname.replace(/\\/$/, "") || "/" }];
  SwaggerUIBundle({ dom_id: "#api", spec, deepLinking: true });
});
"""


def page() -> Response:
    """The page."""
    return HTMLResponse(_PAGE, headers=_headers())


def file(name: str) -> Response | None:
    """What the page consists of; None where it is not part of it."""
    if name == "start.js":
        return Response(_START, media_type="text/javascript", headers=_headers())
    if name not in _BROUGHT:
        return None
    headers = {**_headers(), "Cache-Control": "max-age=86400"}
    return FileResponse(_directory() / name, media_type=_BROUGHT[name], headers=headers)


def _headers() -> dict[str, str]:
    return {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


@cache
def _directory() -> Path:
    found = find_spec("fastapi_offline")
    if found is None or found.origin is None:
        raise FileNotFoundError("the package fastapi-offline is not installed")
    return Path(found.origin).parent / "static"
