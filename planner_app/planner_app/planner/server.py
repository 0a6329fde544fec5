"""The process of one planner."""

import gc
import logging
import sqlite3
import sys
from pathlib import Path

import structlog
import uvicorn
import yaml
from sqlalchemy.exc import SQLAlchemyError

from planner_app.planner.api import create_app
from planner_app.planner.config import PlannerConfig, load_config
from planner_app.planner.ledger import Ledger
from planner_app.planner.lifecycle import Lifecycle
from planner_app.planner.service import Service
from planner_app.planner.tokens import Tokens
from planner_app.platforms import create_platform
from planner_app.platforms.images import load_images


def serve(path: Path) -> int:
    """Run the planner of a configuration file until SIGTERM; returns 1 where it cannot start."""
    _log_json()
    log = structlog.get_logger("planner")
    try:
        config = load_config(path)
        images = load_images(config.images_file)
        tokens = Tokens.load(config.tokens_file)
        ledger = Ledger(config.database)
        platform = create_platform(config)
    except (OSError, ValueError, yaml.YAMLError, SQLAlchemyError, sqlite3.Error, RuntimeError) as error:
        log.error("cannot start", config=str(path), why=str(error))
        return 1
    app = create_app(Service(config, images, Lifecycle(config, ledger, platform)), tokens)
    log.info("starting", name=config.name, url=config.url)
    _listen(app, config)
    log.info("stopped", name=config.name)
    return 0


def _listen(app: object, config: PlannerConfig) -> None:
    # The ledger's thread lets go of the interpreter at every call of the database, and would wait for it five
    # milliseconds each time while the loop has something to do.
    sys.setswitchinterval(0.0005)
    # What is there by now stays: a full collection need not go through it in the middle of a request. What comes and
    # goes with one is freed by counting.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    uvicorn.run(
        app,  # type: ignore[arg-type]
        host=config.listen.host,
        port=config.listen.port,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        limit_concurrency=500,
        ws="none",
    )


def _log_json() -> None:
    """One JSON object a line, from us and from the libraries."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # Each line of these is a request, to us or by us; what matters of them is logged where it is decided.
    for name in ("uvicorn.access", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
