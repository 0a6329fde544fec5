"""Keys that name what is made: hashes of all that determines it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def files_key(paths: Sequence[str], *words: str) -> str:
    """Hash files, directories with all that is in them, and words; twelve hexadecimal digits.

    What a run of Python leaves beside its sources is no part of it.

    Raises FileNotFoundError where one of the paths is not there.
    """
    files: list[tuple[str, Path]] = []
    for name in paths:
        path = Path(name)
        if not path.is_dir():
            files.append((path.name, path))
            continue
        below = sorted(each for each in path.rglob("*") if each.is_file() and "__pycache__" not in each.parts)
        files += [(str(each.relative_to(path.parent)), each) for each in below]
    digest = hashlib.sha256()
    for name, path in files:
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    for word in words:
        digest.update(f"{word}\0".encode())
    return digest.hexdigest()[:12]


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters of this file."""
        return {"files_key": files_key}
