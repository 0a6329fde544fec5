"""What the role `planner` writes and runs for a list of platforms: pure, so that no task loops over it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

UNIT = "/etc/systemd/system/planner@.service"
SUFFIXES = (".yml", ".tokens", ".kubernetes.json")


def users(platforms: Iterable[Mapping[str, Any]], state_directory: str) -> list[dict[str, Any]]:
    """Give the unix users of the platforms, for roles/common/tasks/platform_users.yml."""
    return [
        {"name": platform["name"], "uid": platform["uid"], "home": f"{state_directory}/{platform['name']}"}
        for platform in platforms
    ]


def names_left(token_files: Iterable[str], platforms: Iterable[Mapping[str, Any]]) -> list[str]:
    """Name the platforms that a machine has planners of and the list has not, by their files of tokens."""
    wanted = {platform["name"] for platform in platforms}
    found = {PurePosixPath(path).name.removesuffix(".tokens") for path in token_files}
    return sorted(found - wanted)


def files(
    platforms: Iterable[Mapping[str, Any]], directory: str, credentials: Mapping[str, Any], left: Iterable[str]
) -> list[dict[str, Any]]:
    """Give the platforms' files, for the module `files`.

    Args:
        platforms: the resolved list of virtual platforms.
        directory: where the files lie.
        credentials: server, CA and token of each Kubernetes platform's namespace, by the platform's name.
        left: names of platforms whose files must go.
    """
    entries: list[dict[str, Any]] = []
    for platform in platforms:
        name = platform["name"]
        common = {"mode": "0640", "group": name, "vars": {"planner_platform": platform}}
        entries.append({"path": f"{directory}/{name}.yml", "template": "planner.yml.j2", **common})
        entries.append(
            {"path": f"{directory}/{name}.tokens", "template": "planner.tokens.j2", "secret": True, **common}
        )
        if name in credentials:
            content = json.dumps(dict(credentials[name]), indent=2) + "\n"
            path = f"{directory}/{name}.kubernetes.json"
            entries.append({"path": path, "content": content, "secret": True, "mode": "0640", "group": name})
    entries += [{"path": f"{directory}/{name}{suffix}", "state": "absent"} for name in left for suffix in SUFFIXES]
    return entries


def units(platforms: Iterable[Mapping[str, Any]], directory: str, left: Sequence[str]) -> list[dict[str, Any]]:
    """Give the services, for the module `services`: each restarts for its own files and what all share."""
    shared = [UNIT, f"{directory}/images.yml"]
    wanted = [
        {
            "name": f"planner@{platform['name']}.service",
            "state": "started",
            "enabled": True,
            "restart_on": shared + [f"{directory}/{platform['name']}{suffix}" for suffix in SUFFIXES],
        }
        for platform in platforms
    ]
    return wanted + [{"name": f"planner@{name}.service", "state": "stopped", "enabled": False} for name in left]


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Any]:
        """Name the filters of this file."""
        return {
            "planner_files": files,
            "planner_names_left": names_left,
            "planner_units": units,
            "planner_users": users,
        }
