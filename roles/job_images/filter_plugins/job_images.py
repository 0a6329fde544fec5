"""The key of a job image: a hash of all that determines what is in it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


def image_key(role: str, *words: str) -> str:
    """Hash the lock file, the job's program, the recipe and what else decides, such as Debian's release.

    Where the controller gets packages from is no part of it: the packages are the same.

    Raises FileNotFoundError where `role` is not the role's directory.
    """
    root = Path(role)
    files = [root / "files/aegean-job" / name for name in ("pyproject.toml", "uv.lock", "aegean_job.py")]
    files += [root / "files/build_job_image.py", root.parent / "common/module_utils/docker_archive.py"]
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode())
        digest.update(content)
    for word in words:
        digest.update(f"{word}\0".encode())
    return digest.hexdigest()[:12]


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Any]:
        """Name the filters of this file."""
        return {"job_images_key": image_key}
