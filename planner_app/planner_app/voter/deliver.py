"""Bringing a job's outputs to where caesar-rest looks for them."""

import asyncio
import json
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from planner_app.execution_broker.codecs import MalformedBody
from planner_app.voter.outputs import inside
from planner_app.voter.planners import NoReply, Planner, Planners
from planner_app.voter.text import one_line


class NotDelivered(Exception):
    """Something of the outputs is not there; it may be so later. The message says what."""


async def deliver(
    planners: Planners, planner: Planner, session: str, directory: Path, log_name: str, timeout: timedelta
) -> int:
    """Copy all outputs and the log into a directory; each has its name when it is whole. Returns how many.

    `timeout` bounds each wait for more. Names that lead out of the directory are left out. Doing it again does no
    harm. Raises NotDelivered.
    """
    try:
        reply = await planners.call(planner, "GET", f"/sessions/{session}/outputs", timeout)
        listed = reply.document() if reply.status == 200 else []
        if reply.status not in (200, 404):
            raise NotDelivered(f"{planner.name} answered {reply.status} for the outputs")
        names = [str(row["name"]) for row in listed]
    except (NoReply, MalformedBody, KeyError, TypeError) as error:
        raise NotDelivered(f"{planner.name}: {one_line(str(error))}") from None
    count = 0
    try:
        for name in names:
            if (target := inside(directory, name)) is not None:
                await _fetch(planners, planner, f"/sessions/{session}/outputs/{name}", target, timeout)
                count += 1
        await _fetch(planners, planner, f"/sessions/{session}/stdout", directory / log_name, timeout, optional=True)
    except OSError as error:
        raise NotDelivered(f"{error.filename or directory}: {error.strerror}") from None
    return count


async def _fetch(
    planners: Planners, planner: Planner, path: str, target: Path, timeout: timedelta, *, optional: bool = False
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.part")
    try:
        async with planners.stream(planner, path, timeout) as reply:
            if reply.status_code == 404 and optional:
                return
            if reply.status_code != 200:
                raise NotDelivered(f"{planner.name} answered {reply.status_code} for {one_line(path, 100)}")
            # Whoever can write here could have left a link in the way.
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with os.fdopen(os.open(unfinished, flags, 0o664), "wb") as file:
                async for part in reply.aiter_raw():
                    await asyncio.to_thread(file.write, part)
        unfinished.replace(target)
    except NoReply as error:
        raise NotDelivered(f"{planner.name}: {error}") from None
    except (OSError, NotDelivered):
        raise
    except Exception as error:  # noqa: BLE001 - whatever breaks a reply off
        raise NotDelivered(f"{planner.name} broke off {one_line(path, 100)}: {type(error).__name__}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def prepare(root: Path, directory: Path) -> None:
    """Make sure that a job's directory is there and lies where it says.

    Raises NotDelivered where a link leads elsewhere, or it cannot be made.
    """
    try:
        if directory.resolve() != root.resolve(strict=True) / directory.relative_to(root):
            raise NotDelivered(f"{directory} leads through a link")
        directory.mkdir(mode=0o775, parents=True, exist_ok=True)
    except OSError as error:
        raise NotDelivered(f"{error.filename or directory}: {error.strerror}") from None


def leave(directory: Path, name: str, document: Mapping[str, Any]) -> None:
    """Write a document beside the outputs. Raises NotDelivered."""
    unfinished = directory / f".{name}.part"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with os.fdopen(os.open(unfinished, flags, 0o664), "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1, ensure_ascii=False)
        unfinished.replace(directory / name)
    except OSError as error:
        raise NotDelivered(f"{error.filename or directory}: {error.strerror}") from None
