"""Follows the jobs: asks Slurm for the live ones, packs outputs, writes down what became of them."""

import logging
import tarfile
import threading
from pathlib import Path
from typing import Any

from planner_app.caesar_rest import states
from planner_app.caesar_rest.settings import Settings
from planner_app.caesar_rest.slurm import Slurm, SlurmDown
from planner_app.caesar_rest.store import Document, Store, StoreDown

_log = logging.getLogger(__name__)


def outcome(job: Document, found: dict[str, Any] | None) -> dict[str, Any]:
    """What is to be written of a job, given what Slurm says of it: nothing where it cannot be told. Pure."""
    if found is None:
        if job["state"] != states.RUNNING:
            return {}
        words = "Slurm does not know it any more"
        return {"state": states.CLEARED, "status": words, "exit_code": -1, "elapsed_time": job["elapsed_time"]}
    state, words = states.state_of(str(found["job_state"]))
    return {
        "state": state,
        "status": words,
        "exit_code": found["exit_code"],
        "elapsed_time": found["end_time"] - found["start_time"],
    }


def pack(directory: Path, name: str) -> None:
    """Make the archive of a job's directory, where there is none yet. It is there whole or not at all."""
    target, part = directory / f"job_{name}.tar.gz", directory / f".job_{name}.tar.gz.part"
    if target.exists() or not directory.is_dir():
        return
    with tarfile.open(part, "w:gz", compresslevel=6) as archive:
        for path in sorted(directory.iterdir()):
            if path != part:
                archive.add(path, arcname=f"{directory.name}/{path.name}")
    part.rename(target)


def look_once(store: Store, slurm: Slurm) -> int:
    """Look at all live jobs once; give how many there were.

    Raises StoreDown and SlurmDown.
    """
    seen = 0
    for collection, jobs in store.live():
        ours = [job for job in jobs if job.get("scheduler") == "slurm" and isinstance(job.get("pid"), int)]
        if not ours:
            continue
        seen += len(ours)
        found = slurm.look([job["pid"] for job in ours])
        for job in ours:
            fields = outcome(job, found.get(job["pid"]))
            if not fields:
                continue
            if fields["state"] in states.PACKED:
                try:
                    pack(Path(job["job_top_dir"]) / f"job_{job['job_id']}", job["job_id"])
                except OSError as error:
                    _log.warning("job %s could not be packed: %s", job["job_id"], error)
            if any(job.get(name) != value for name, value in fields.items()):
                store.change_job(collection, job["job_id"], **fields)
                _log.info("job %s is %s: %s", job["job_id"], fields["state"], fields["status"])
    return seen


def follow(settings: Settings, stop: threading.Event) -> None:
    """Look again and again, until told to stop."""
    store = Store.of_file(settings.mongo_monitor, settings.mongo_timeout_ms)
    slurm = Slurm(settings.slurm_url, settings.slurm_user, settings.slurm_key)
    while not stop.is_set():
        try:
            look_once(store, slurm)
        except (StoreDown, SlurmDown) as error:
            _log.warning("%s: %s", type(error).__name__, error)
        except (KeyError, TypeError, ValueError):
            _log.exception("a job or an answer is not what it should be")
        if settings.alive:
            settings.alive.touch()
        stop.wait(settings.period)
