"""The process of one planner."""

import gc
import sqlite3
import sys
from pathlib import Path

import structlog
import uvicorn
import yaml
from sqlalchemy.exc import SQLAlchemyError

from planner_app.logs import log_json_lines
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
    log_json_lines()
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
