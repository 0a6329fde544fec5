"""The key of an application bundle: a hash of everything that determines its content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


def bundle_key(project: str, *words: str) -> str:
    """Hash the lock file, the package's sources and what else decides, such as the version of Python.

    Raises FileNotFoundError where `project` is not the project's directory.
    """
    root = Path(project)
    files = [root / "uv.lock"]
    files += sorted(
        path for path in (root / "planner_app" / "planner_app").rglob("*") if path.is_file() and path.suffix != ".pyc"
    )
    # The recipe belongs to what determines the bundle.
    files.append(Path(__file__).parent.parent / "files" / "build_bundle.py")
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.name if path.is_absolute() else path}\0{len(content)}\0".encode())
        digest.update(content)
    for word in words:
        digest.update(f"{word}\0".encode())
    return digest.hexdigest()[:16]


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Any]:
        """Name the filters of this file."""
        return {"planner_app_bundle_key": bundle_key}
