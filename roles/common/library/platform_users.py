#!/usr/bin/python
"""Ansible module: the unix users of all virtual platforms on one machine, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_users
short_description: Make unix users with given numbers, and take away those of platforms that are no more
description:
  - The users stand in one sysusers file, which is written where it differs; with no users there is none.
    systemd-sysusers is called only where a user is missing. It never changes or removes one, so a number that differs
    ends the module before anything is written, and users of platforms that left the list are removed by userdel, their
    homes left alone.
  - A user is known to be a platform's by its comment C(Virtual platform NAME).
options:
  path:
    description: The sysusers file; roles that may meet on one machine need one each.
    type: path
    required: true
  users:
    description: The users that there must be, each with the same number as uid and gid on every machine.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Name of user and group., type: str, required: true}
      uid: {description: Number of user and group., type: int, required: true}
      home: {description: Home directory; it is not made., type: path, required: true}
  platforms:
    description: Names of all virtual platforms; a platform's user that is in neither list has left.
    type: list
    elements: str
    required: true
  prune:
    description: Whether users that have left are removed, or only named.
    type: bool
    default: false
attributes:
  check_mode: {support: full}
  diff_mode: {support: full, details: Of the file.}
"""

EXAMPLES = r"""
- name: Make the users
  platform_users:
    path: /etc/sysusers.d/caesar-testbed.conf
    users: [{name: slurm-account-001, uid: 20001, home: /mnt/storage/jobs/slurm-account-001}]
    platforms: [slurm-account-001, k8s-namespace-001]
"""

RETURN = r"""
made: {description: Users that were missing., type: list, elements: str, returned: always}
left: {description: Users of platforms that are no more., type: list, elements: str, returned: always}
"""

import grp
import pwd
import stat
from pathlib import Path
from typing import Any

from ansible.module_utils import whole_files
from ansible.module_utils.basic import AnsibleModule

COMMENT = "Virtual platform "
#: Who owns the file, and how it is.
OWNER, MODE = (0, 0), 0o644


def described(users: list[dict[str, Any]]) -> str:
    """The sysusers file of the users; nothing where there are none: pure."""
    lines = [f'u {user["name"]} {user["uid"]} "{COMMENT}{user["name"]}" {user["home"]} /bin/bash' for user in users]
    about = "# Users of the virtual platforms: the same numbers on every machine and over the years."
    return "\n".join([about, *lines, ""]) if users else ""


def plan(
    users: list[dict[str, Any]], platforms: list[str], there: dict[str, tuple[int, str]]
) -> tuple[list[str], list[str], list[str]]:
    """Which users are missing, which have left, and which have another number: pure.

    Args:
        users: the users that there must be.
        platforms: names of all virtual platforms.
        there: number and comment of each user of the machine.
    """
    missing = [user["name"] for user in users if user["name"] not in there]
    kept = {user["name"] for user in users} | set(platforms)
    left = sorted(name for name, (_, comment) in there.items() if comment == COMMENT + name and name not in kept)
    wrong = [
        f"{user['name']} has the number {there[user['name']][0]} on this machine and {user['uid']} in the list"
        for user in users
        if user["name"] in there and there[user["name"]][0] != int(user["uid"])
    ]
    return missing, left, wrong


def lies_there(path: Path) -> tuple[str, bool]:
    """What the file says, nothing where there is none, and whether owner and mode are right."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return "", True
    right = stat.S_ISREG(status.st_mode) and (status.st_uid, status.st_gid) == OWNER
    return path.read_text(errors="replace"), right and stat.S_IMODE(status.st_mode) == MODE


def write(path: Path, text: str) -> None:
    """Put the file there by a rename, so that a reader never sees half of it, or take it away where it says nothing."""
    if not text:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(mode=0o755, exist_ok=True)
    whole_files.write(path, text.encode(), MODE, *OWNER)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "users": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "uid": {"type": "int", "required": True},
                    "home": {"type": "path", "required": True},
                },
            },
            "platforms": {"type": "list", "elements": "str", "required": True},
            "prune": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C"}
    path, users = Path(module.params["path"]), module.params["users"]
    there = {entry.pw_name: (entry.pw_uid, entry.pw_gecos) for entry in pwd.getpwall()}
    missing, left, wrong = plan(users, module.params["platforms"], there)
    if wrong:
        module.fail_json(
            msg=f"nothing was changed: {'; '.join(wrong)}. Files belong to numbers, so a platform keeps its own: put "
            "the old number back, or take the platform out of the list first and bring it back in a second run"
        )
    gone = left if module.params["prune"] else []
    after = described(users)
    try:
        before, right = lies_there(path)
        differs = before != after or not right
        if differs and not module.check_mode:
            write(path, after)
    except OSError as fault:
        module.fail_json(msg=f"nothing was changed: {path}: {fault}")
    if not module.check_mode:
        # Not only where the file is new: a run that ended between the two is made good by the next.
        if missing:
            code, out, err = module.run_command(["systemd-sysusers", str(path)])
            if code != 0:
                module.fail_json(msg=f"systemd-sysusers: {err.strip() or out.strip()}", rc=code)
        groups = {entry.gr_name for entry in grp.getgrall()} if gone else set()
        for name in gone:
            code, out, err = module.run_command(["userdel", name])
            if code != 0:
                module.fail_json(msg=f"userdel {name}: {err.strip() or out.strip()}", rc=code)
            # With USERGROUPS_ENAB, Debian's default, the group has gone with its user.
            if name in groups:
                module.run_command(["groupdel", "-f", name])
    result: dict[str, Any] = {"changed": bool(differs or missing or gone), "made": missing, "left": left}
    if differs:
        result["diff"] = {"before": before, "after": after, "before_header": str(path), "after_header": str(path)}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
