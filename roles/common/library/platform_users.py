#!/usr/bin/python
"""Ansible module: the unix users of all virtual platforms on one machine, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_users
short_description: Make the users that a sysusers file describes, and take away those of platforms that are no more
description:
  - systemd-sysusers is called only where a user is missing. It never changes or removes one, so a number that differs
    ends the module, and users of platforms that left the list are removed by userdel, their homes left alone.
  - A user is known to be a platform's by its comment C(Virtual platform NAME).
options:
  path:
    description: The sysusers file.
    type: path
    required: true
  users:
    description: The users that it describes, each with C(name) and C(uid).
    type: list
    elements: dict
    required: true
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
"""

EXAMPLES = r"""
- name: Make the users
  platform_users:
    path: /etc/sysusers.d/caesar-testbed.conf
    users: [{name: slurm-account-001, uid: 20001}]
    platforms: [slurm-account-001, k8s-namespace-001]
"""

RETURN = r"""
made: {description: Users that were missing., type: list, elements: str, returned: always}
left: {description: Users of platforms that are no more., type: list, elements: str, returned: always}
"""

import grp
import pwd
from typing import Any

from ansible.module_utils.basic import AnsibleModule

COMMENT = "Virtual platform "


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


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "users": {"type": "list", "elements": "dict", "required": True},
            "platforms": {"type": "list", "elements": "str", "required": True},
            "prune": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C"}
    there = {entry.pw_name: (entry.pw_uid, entry.pw_gecos) for entry in pwd.getpwall()}
    missing, left, wrong = plan(module.params["users"], module.params["platforms"], there)
    if wrong:
        module.fail_json(
            msg=f"nothing was changed: {'; '.join(wrong)}. Files belong to numbers, so a platform keeps its own: put "
            "the old number back, or take the platform out of the list first and bring it back in a second run"
        )
    gone = left if module.params["prune"] else []
    if not module.check_mode:
        if missing:
            code, out, err = module.run_command(["systemd-sysusers", module.params["path"]])
            if code != 0:
                module.fail_json(msg=f"systemd-sysusers: {err.strip() or out.strip()}", rc=code)
        groups = {entry.gr_name for entry in grp.getgrall()}
        for name in gone:
            code, out, err = module.run_command(["userdel", name])
            if code != 0:
                module.fail_json(msg=f"userdel {name}: {err.strip() or out.strip()}", rc=code, changed=True)
            # With USERGROUPS_ENAB, Debian's default, the group has gone with its user.
            if name in groups:
                module.run_command(["groupdel", "-f", name])
    module.exit_json(changed=bool(missing or gone), made=missing, left=left)


if __name__ == "__main__":
    main()
