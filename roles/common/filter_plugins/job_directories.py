"""The directories of the platforms' jobs on the shared storage: pure, so that no task loops over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def job_directories(platforms: Iterable[Mapping[str, Any]], root: str) -> list[dict[str, Any]]:
    """Describe them for the module `files`: each closed to all but its platform's user, by number."""
    return [
        {
            "path": f"{root}/{platform['name']}",
            "state": "directory",
            "mode": "0700",
            "owner": str(platform["uid"]),
            "group": str(platform["uid"]),
        }
        for platform in platforms
    ]


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters of this file."""
        return {"job_directories": job_directories}
