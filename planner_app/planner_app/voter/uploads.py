"""Files that people give to a job, written to the storage that all platforms see."""

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

from planner_app.voter.ballots import Upload
from planner_app.voter.config import Storage

_BATCH = 1 << 20


class TooLarge(Exception):
    """The upload has more bytes than are taken; the message says how many are."""


class NoSpace(Exception):
    """The storage has no room for the upload."""


def safe_name(name: str) -> str:
    """Make a file's name of whatever somebody calls it: letters, digits, dot, dash and underscore."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "_", name.replace("\\", "/").rpartition("/")[2]).lstrip(".-")
    return cleaned[-128:].lstrip(".-") or "upload"


def path_of(storage: Storage, upload: Upload) -> Path:
    """Tell where an upload lies: alone in a directory of its own, which jobs get to see as a whole."""
    return storage.data / str(upload.uuid) / upload.name


async def receive(storage: Storage, name: str, announced: int | None, parts: AsyncIterator[bytes]) -> Upload:
    """Write a stream to the storage; nothing of it stays where it is not whole.

    Raises TooLarge or NoSpace, OSError where it can not be written, and whatever the stream raises.
    """
    if announced is not None and announced > storage.max_upload_bytes:
        raise TooLarge(_most(storage))
    if shutil.disk_usage(storage.data).free - (announced or 0) < storage.keep_free_bytes:
        raise NoSpace("the storage is full")
    uuid = uuid4()
    directory = storage.data / str(uuid)
    upload_name = safe_name(name)
    partial = directory / f".{upload_name}.part"
    await asyncio.to_thread(directory.mkdir)
    try:
        await asyncio.to_thread(directory.chmod, 0o755)
        digest, size = await _write(storage, partial, parts)
        await asyncio.to_thread(partial.rename, directory / upload_name)
    except BaseException:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True))
        raise
    return Upload(uuid, upload_name, size, digest)


async def _write(storage: Storage, path: Path, parts: AsyncIterator[bytes]) -> tuple[str, int]:
    digest, size, batch, waiting = hashlib.sha256(), 0, [], 0

    def flush(pieces: list[bytes]) -> None:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)

    with path.open("xb") as file:
        os.fchmod(file.fileno(), 0o644)  # jobs of other users read it, whatever the umask
        async for part in parts:
            size += len(part)
            if size > storage.max_upload_bytes:
                raise TooLarge(_most(storage))
            batch.append(part)
            waiting += len(part)
            if waiting >= _BATCH:
                await asyncio.to_thread(flush, batch)
                batch, waiting = [], 0
        await asyncio.to_thread(flush, batch)
    return digest.hexdigest(), size


def _most(storage: Storage) -> str:
    return f"at most {storage.max_upload_bytes} bytes are taken"
