"""What the role `planner` writes and runs for a list of platforms: pure, so that no task loops over it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

UNIT = "/etc/systemd/system/planner@.service"
SUFFIXES = (".yml", ".tokens", ".kubernetes.json")


def users(platforms: Iterable[Mapping[str, Any]], state_directory: str) -> list[dict[str, Any]]:
    """Give the unix users of the platforms, for the module `platform_users`."""
    return [
        {"name": platform["name"], "uid": platform["uid"], "home": f"{state_directory}/{platform['name']}"}
        for platform in platforms
    ]


def listed(platforms: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give what the module `planner_leavings` needs of the inventory's list."""
    return [
        {"name": platform["name"], "uid": platform["uid"], "planner": platform.get("planner", True)}
        for platform in platforms
    ]


def files(
    platforms: Iterable[Mapping[str, Any]], directory: str, credentials: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Give the platforms' files, for the module `files`.

    Args:
        platforms: the resolved list of virtual platforms.
        directory: where the files lie.
        credentials: server, CA and token of each Kubernetes platform's namespace, by the platform's name.
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
    return entries


def units(platforms: Iterable[Mapping[str, Any]], directory: str) -> list[dict[str, Any]]:
    """Give the services, for the module `services`: each restarts for its own files and what all share."""
    shared = [UNIT, f"{directory}/images.yml"]
    return [
        {
            "name": f"planner@{platform['name']}.service",
            "state": "started",
            "enabled": True,
            "restart_on": shared + [f"{directory}/{platform['name']}{suffix}" for suffix in SUFFIXES],
        }
        for platform in platforms
    ]


def units_left(names: Iterable[str]) -> list[dict[str, Any]]:
    """Give the services of planners that must go."""
    return [{"name": f"planner@{name}.service", "state": "stopped", "enabled": False} for name in names]


def files_left(names: Iterable[str], directory: str, drained: str) -> list[dict[str, Any]]:
    """Give the files of planners that must go; that of its tokens, by which a planner is known, is the last."""
    suffixes = [suffix for suffix in SUFFIXES if suffix != ".tokens"]
    return [
        {"path": path, "state": "absent"}
        for name in names
        for path in (
            *(f"{directory}/{name}{suffix}" for suffix in suffixes),
            f"{drained}/{name}.json",
            f"{directory}/{name}.tokens",
        )
    ]


def absent(names: Iterable[str], directory: str) -> list[dict[str, Any]]:
    """Give files of these names that must go, for the module `files`."""
    return [{"path": f"{directory}/{name}", "state": "absent"} for name in names]


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Any]:
        """Name the filters of this file."""
        return {
            "planner_absent": absent,
            "planner_files": files,
            "planner_listed": listed,
            "planner_files_left": files_left,
            "planner_units": units,
            "planner_units_left": units_left,
            "planner_users": users,
        }
