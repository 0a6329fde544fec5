"""Outputs on the operator's disc."""

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath


def inside(directory: Path, name: str) -> Path | None:
    """Tell where an output goes; None for a name that leads out of the directory or hides."""
    parts = PurePosixPath(name).parts
    if not parts or any(part in ("..", "/") or part.startswith(".") or not part.isprintable() for part in parts):
        return None
    return directory.joinpath(*parts)


def catalogue(files: Sequence[str]) -> str | None:
    """Name the catalogue among the files; None where there is none."""
    return next((name for name in sorted(files) if re.fullmatch(r"catalog-.*\.json", name)), None)


def count_sources(directory: Path, files: Sequence[str]) -> int | None:
    """Count the sources in the catalogue among the outputs; None where there is none."""
    name = catalogue(files)
    if name is None:
        return None
    try:
        return len(json.loads((directory / name).read_text(encoding="utf-8"))["sources"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def in_bytes(size: int) -> str:
    """Write a size for people."""
    if size < 1000:
        return f"{size} B"
    for unit in ("kB", "MB"):
        size_in_unit = size / 1000
        if size_in_unit < 1000:
            return f"{size_in_unit:.0f} {unit}"
        size = round(size_in_unit)
    return f"{size / 1000:.1f} GB"
