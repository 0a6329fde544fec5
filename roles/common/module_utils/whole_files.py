"""Files that are put in their place whole: a reader sees the old one or the new one, never half of either."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def own(path: Path, mode: int, uid: int, gid: int) -> None:
    """Set owner, group and mode. Owner first: changing it clears the setuid bits that the mode may ask for."""
    os.chown(path, uid, gid)
    path.chmod(mode)


def write(path: Path, content: bytes, mode: int, uid: int, gid: int) -> None:
    """Write a file beside its place and rename it there.

    Raises OSError, and then leaves what is there as it is and nothing beside it.
    """
    handle, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        own(temporary, mode, uid, gid)
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise
