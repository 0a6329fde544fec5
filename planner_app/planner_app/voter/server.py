"""Serving the voter."""

import argparse
import gc
import sys
from pathlib import Path

import uvicorn
import yaml
from pydantic import ValidationError

from planner_app.execution_broker.models import field_name
from planner_app.logs import log_json_lines
from planner_app.voter.api import create_app
from planner_app.voter.ballots import Ballots
from planner_app.voter.config import load_clients, load_config, load_planners
from planner_app.voter.planners import Planner, Planners
from planner_app.voter.slurm_token import read_key


def main() -> None:
    """Read the configuration, or say in one line what is wrong with it, and serve."""
    arguments = argparse.ArgumentParser(prog="planner_app.voter", description="The voter.")
    arguments.add_argument("--config", type=Path, required=True)
    path = arguments.parse_args().config
    log_json_lines()
    try:
        config = load_config(path)
        clients = load_clients(config.clients_file)
        slurm_key = b"" if config.slurmrestd is None else read_key(config.slurmrestd.key_file.read_bytes())
        planners = [
            Planner(entry.name, entry.url, entry.token.get_secret_value())
            for entry in load_planners(config.planners_file)
        ]
    except ValidationError as error:
        faults = "; ".join(f"{field_name(fault['loc'])}: {fault['msg']}" for fault in error.errors())
        sys.exit(f"{path}: {faults}")
    except (OSError, ValueError, yaml.YAMLError) as error:
        sys.exit(f"{path}: {error}")
    # The thread that writes the database lets go of the interpreter at every call of SQLite, and would wait for it
    # five milliseconds each time while the loop has something to do.
    sys.setswitchinterval(0.0005)
    app = create_app(config, Planners(planners), Ballots(config.database), clients, slurm_key)
    # What is there by now stays: without this each full collection goes through all of it, for tens of milliseconds in
    # the middle of a vote. What comes and goes with a ballot is freed by counting; loops of references are rare.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    uvicorn.run(
        app,
        host=config.listen.host,
        port=config.listen.port,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=5,
    )
