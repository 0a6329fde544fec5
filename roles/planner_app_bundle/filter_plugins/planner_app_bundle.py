"""The key of an application bundle: a hash of everything that determines its content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

RECIPE = Path(__file__).parent.parent / "files" / "build_bundle.py"


def bundle_key(project: str, *words: str) -> str:
    """Hash the lock file, the package's sources and what else decides, such as the version of Python.

    Raises FileNotFoundError where `project` is not the project's directory.
    """
    root = Path(project)
    sources = (root / "planner_app" / "planner_app").rglob("*")
    files = [root / "uv.lock", *sorted(path for path in sources if path.is_file() and path.suffix != ".pyc")]
    # The recipe belongs to what determines the bundle.
    named = [(str(path.relative_to(root)), path) for path in files] + [("recipe", RECIPE)]
    digest = hashlib.sha256()
    for name, path in named:
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    for word in words:
        digest.update(f"{word}\0".encode())
    return digest.hexdigest()[:16]


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Any]:
        """Name the filters of this file."""
        return {"planner_app_bundle_key": bundle_key}
