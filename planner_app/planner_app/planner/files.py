"""Files of a session, read without ever leaving its directory.

What a job wrote is not trusted: directories are opened one by one from the top, symbolic links are not
followed and only regular files are read.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MAX_FILES = 1000
MAX_DEPTH = 8
_CHUNK = 256 * 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A named pipe would hold up the reader without O_NONBLOCK.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class OpenFile:
    """A regular file and its size when it was opened."""

    descriptor: int
    size: int

    def chunks(self) -> Iterator[bytes]:
        """Read as much as the file had when it was opened, then close it."""
        left = self.size
        try:
            while left > 0 and (chunk := os.read(self.descriptor, min(left, _CHUNK))):
                left -= len(chunk)
                yield chunk
        finally:
            os.close(self.descriptor)


def open_below(top: Path, name: str) -> OpenFile:
    """Open a regular file by its name relative to a directory.

    Raises FileNotFoundError where there is no such file, be it that something on the way is a symbolic link,
    that it is no regular file, or that the name leads elsewhere.
    """
    parts = name.split("/")
    if not name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise FileNotFoundError(name)
    opened: list[int] = []
    try:
        opened.append(os.open(top, _DIRECTORY))
        for part in parts[:-1]:
            opened.append(os.open(part, _DIRECTORY, dir_fd=opened[-1]))
        descriptor = os.open(parts[-1], _FILE, dir_fd=opened[-1])
    except OSError as error:
        raise FileNotFoundError(name) from error
    finally:
        for each in opened:
            os.close(each)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise FileNotFoundError(name)
    return OpenFile(descriptor, status.st_size)


def list_below(top: Path) -> list[tuple[str, int]]:
    """List names and sizes of the regular files below a directory, at most MAX_FILES, sorted."""
    found: list[tuple[str, int]] = []
    with suppress(FileNotFoundError, NotADirectoryError):
        descriptor = os.open(top, _DIRECTORY)
        try:
            _list(descriptor, "", 0, found)
        finally:
            os.close(descriptor)
    return sorted(found)


def _list(directory: int, prefix: str, depth: int, found: list[tuple[str, int]]) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            if len(found) >= MAX_FILES:
                return
            if not _readable(entry.name):
                continue
            if entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):
                    found.append((prefix + entry.name, entry.stat(follow_symlinks=False).st_size))
            elif entry.is_dir(follow_symlinks=False) and depth < MAX_DEPTH:
                with suppress(OSError):
                    below = os.open(entry.name, _DIRECTORY, dir_fd=directory)
                    try:
                        _list(below, f"{prefix}{entry.name}/", depth + 1, found)
                    finally:
                        os.close(below)


def _readable(name: str) -> bool:
    """Whether a reply can carry the name."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return name.isprintable()
