#!/usr/bin/python
"""Ansible module: what the planners' machine has of platforms that left the list, and what those of the list lack."""

from __future__ import annotations

DOCUMENTATION = r"""
module: planner_leavings
short_description: Name what a machine has of platforms that left the list
description:
  - Looks into four directories, whatever the number of platforms, and changes nothing. What is hidden is left out, and
    so are directories that are not as a platform's user has them, which are somebody else's.
options:
  platforms:
    description: All virtual platforms of the list.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Its name., type: str, required: true}
      uid: {description: Number of its user and group., type: int, required: true}
      planner: {description: Whether it has a planner., type: bool, default: true}
  configuration_directory: {description: Where the planners' files lie., type: path, required: true}
  state_directory: {description: Where their ledgers lie., type: path, required: true}
  jobs_directory: {description: Where the directories of their jobs lie., type: path, required: true}
  drained_directory: {description: Where the files lie that say which are drained., type: path, required: true}
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: Look for planners, ledgers and jobs' directories
  planner_leavings:
    platforms: [{name: slurm-account-001, uid: 20001}]
    configuration_directory: /etc/caesar-planner
    state_directory: /var/lib/caesar-planner
    jobs_directory: /mnt/storage/jobs
    drained_directory: /var/lib/caesar-planner/.drained
  register: planner_left
"""

RETURN = r"""
planners: {description: Planners that must go., type: list, elements: str, returned: always}
directories: {description: Directories that nothing uses any more., type: list, elements: str, returned: always}
drained: {description: Listed planners that are drained., type: list, elements: str, returned: always}
homeless:
  description: Listed platforms whose jobs' directory is missing or another's.
  type: list
  elements: str
  returned: always
"""

import os
import stat
from typing import Any

from ansible.module_utils.basic import AnsibleModule

#: What lies in a directory: for each name whether it is a directory, its mode, and the numbers of its user and group.
Found = dict[str, tuple[bool, int, int, int]]
CLOSED = 0o700


def look(directory: str) -> Found:
    """What lies in a directory, without what is hidden; nothing where there is none."""
    found: Found = {}
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return found
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:  # it went meanwhile
            continue
        kind = stat.S_ISDIR(status.st_mode)
        found[entry.name] = (kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
    return found


def leavings(
    platforms: list[dict[str, Any]],
    found: dict[str, Found],
    *,
    configuration: str,
    state: str,
    jobs: str,
    drained: str,
) -> dict[str, list[str]]:
    """Tell what there is of platforms that left the list, or whose planner was switched off in it: pure.

    Also which of the others are drained, since that may be because they had left the list and are back, and which have
    no directory for their jobs.

    Args:
        platforms: all virtual platforms with name, uid and whether they have a planner.
        found: what lies in the four directories, by their paths.
        configuration: where the planners' files lie.
        state: where their ledgers lie.
        jobs: where the directories of their jobs lie.
        drained: where the files lie that say which are drained.
    """
    names = {platform["name"] for platform in platforms}
    planned = {platform["name"] for platform in platforms if platform["planner"]}
    planners = {name.removesuffix(".tokens") for name in found[configuration] if name.endswith(".tokens")} - planned
    stopped = {name.removesuffix(".json") for name in found[drained] if name.endswith(".json")} & planned
    directories = {
        f"{where}/{name}"
        for where in (state, jobs)
        for name, (kind, mode, uid, gid) in found[where].items()
        if name not in names and kind and mode == CLOSED and uid == gid != 0
    }
    homeless = [
        platform["name"]
        for platform in platforms
        if found[jobs].get(platform["name"]) != (True, CLOSED, platform["uid"], platform["uid"])
    ]
    return {
        "planners": sorted(planners),
        "directories": sorted(directories),
        "drained": sorted(stopped),
        "homeless": homeless,
    }


def main() -> None:
    """Run the module."""
    places = ("configuration", "state", "jobs", "drained")
    module = AnsibleModule(
        argument_spec={
            "platforms": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "uid": {"type": "int", "required": True},
                    "planner": {"type": "bool", "default": True},
                },
            },
            **{f"{place}_directory": {"type": "path", "required": True} for place in places},
        },
        supports_check_mode=True,
    )
    where = {place: module.params[f"{place}_directory"] for place in places}
    try:
        found = {path: look(path) for path in where.values()}
    except OSError as fault:
        module.fail_json(msg=str(fault))
    module.exit_json(changed=False, **leavings(module.params["platforms"], found, **where))


if __name__ == "__main__":
    main()
