"""What a service writes to its log: one JSON object a line, from itself and from the libraries."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

import orjson
import structlog

_QUIET = ("uvicorn.access", "httpx", "httpcore")
"""Each line of these is a request, to us or by us; what matters of them is logged where it is decided."""


def log_json_lines() -> None:
    """Write all that is logged, from now on, to standard output."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    # Past the standard library's logging, which takes longer for a line than writing it does.
    structlog.configure(
        processors=[*shared, _line],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.BytesLoggerFactory(sys.stdout.buffer),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(_text),
            ],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _line(_logger: Any, _name: str, event: Mapping[str, Any]) -> bytes:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS)


def _text(event: Mapping[str, Any], **_options: Any) -> str:
    return _line(None, "", event).decode()
