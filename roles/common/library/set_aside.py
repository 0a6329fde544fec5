#!/usr/bin/python
"""Ansible module: put directories that nothing uses any more where only root gets at them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: set_aside
short_description: Rename directories into one that only root may enter
description:
  - Each goes to C(.removed/NAME-TIME) beside itself, a rename in the same file system, whatever its size. Nothing is
    deleted, and whoever gets the old owner's number later sees none of it.
  - A path that is not there is passed over.
options:
  paths:
    description: Directories.
    type: list
    elements: path
    required: true
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Keep the ledgers of platforms that are no more
  set_aside:
    paths: [/var/lib/caesar-planner/slurm-account-009]
"""

RETURN = r"""
moved:
  description: From where to where.
  type: dict
  returned: always
"""

import datetime
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

REMOVED = ".removed"


def destination(path: Path, stamp: str) -> Path:
    """Where a directory goes; a name that is taken gets a number."""
    base = path.parent / REMOVED / f"{path.name}-{stamp}"
    number, place = 1, base
    while place.exists():
        number += 1
        place = base.with_name(f"{base.name}-{number}")
    return place


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"paths": {"type": "list", "elements": "path", "required": True}}, supports_check_mode=True
    )
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")  # noqa: UP017 - Python 3.9
    moved = {}
    try:
        for path in map(Path, module.params["paths"]):
            if path.is_symlink() or not path.is_dir():
                continue
            place = destination(path, stamp)
            if not module.check_mode:
                place.parent.mkdir(mode=0o700, exist_ok=True)
                path.rename(place)
            moved[str(path)] = str(place)
    except OSError as error:
        module.fail_json(msg=str(error), changed=bool(moved), moved=moved)
    module.exit_json(
        changed=bool(moved),
        moved=moved,
        diff={"before": "".join(f"{path}\n" for path in moved), "after": "".join(f"{to}\n" for to in moved.values())},
    )


if __name__ == "__main__":
    main()
