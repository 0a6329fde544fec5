"""Counts what users have used, again and again: jobs from the database, kilobytes from the storage."""

import logging
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

from planner_app.caesar_rest import accounts
from planner_app.caesar_rest.settings import Settings
from planner_app.caesar_rest.store import Document, Store, StoreDown

_log = logging.getLogger(__name__)


def kilobytes(directory: Path) -> float:
    """Tell what a directory and all in it take on the disc; what goes meanwhile counts nothing."""
    taken = 0
    for place, _, files in os.walk(directory):
        for path in (place, *(f"{place}/{name}" for name in files)):
            try:
                taken += os.lstat(path).st_blocks * 512
            except FileNotFoundError:
                continue
    return float(-(-taken // 1024))


def users(*directories: Path) -> list[str]:
    """Tell who has a directory in any of these."""
    return sorted({each.name for place in directories if place.is_dir() for each in place.iterdir() if each.is_dir()})


def count_once(store: Store, data: Path, jobs: Path, now: datetime) -> Document:
    """Count once and keep it; give the sum.

    Raises StoreDown, and OSError where the storage does not answer.
    """
    found = {
        user: accounts.account(store.jobs(user), kilobytes(data / user), kilobytes(jobs / user), now)
        for user in users(data, jobs)
    }
    for user, document in found.items():
        store.keep(f"{user}.accounting", document)
    total = accounts.totals(found.values(), now)
    store.keep("appstats", total)
    return total


def follow(settings: Settings, stop: threading.Event) -> None:
    """Count again and again, until told to stop."""
    store = Store.of_file(settings.mongo_monitor, settings.mongo_timeout_ms)
    while not stop.is_set():
        try:
            count_once(store, settings.data, settings.jobs, datetime.now(UTC))
        except (StoreDown, OSError) as error:
            _log.warning("nothing could be counted: %s", error)
        if settings.alive:
            settings.alive.touch()
        stop.wait(settings.accounting_period)
