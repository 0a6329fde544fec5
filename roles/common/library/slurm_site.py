#!/usr/bin/python
"""Ansible module: what cannot be done on a Slurm that exists already, with the rights at hand."""

from __future__ import annotations

DOCUMENTATION = r"""
module: slurm_site
short_description: Say what cannot be done on an existing Slurm, all of it at once
description:
  - Runs on the submit host as the operator's user. Asks Slurm for its accounts, QOS, partitions and what it enforces,
    for the user's rights, and the host for unix users and the shared storage.
  - Changes nothing and never fails; RV(faults) has one sentence for each fault, with the next step.
options:
  platform:
    description: The cluster's name in the inventory and in Slurm.
    type: str
    required: true
  parent:
    description: The account that is to hold the platforms' accounts.
    type: str
    required: true
  qos:
    description: The QOS that they are to use.
    type: str
    required: true
  partition:
    description: The partition that jobs are to go to.
    type: str
    required: true
  users:
    description: The platforms, C(name) and C(uid); accounts and unix users have these names.
    type: list
    elements: dict
    required: true
  tres:
    description: The resources that are to be limited.
    type: list
    elements: str
    default: [cpu, mem]
  storage:
    description: Where the shared storage is to be seen.
    type: path
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Ask what cannot be done
  slurm_site:
    platform: cirasa
    parent: caesar
    qos: caesar
    partition: batch
    users: [{name: slurm-account-001, uid: 20001}]
"""

RETURN = r"""
faults:
  description: What cannot be done, and what to do about it.
  type: list
  elements: str
  returned: always
level:
  description: The user's rights, C(administrator), C(operator) or C(none), which is that of a coordinator too.
  type: str
  returned: where Slurm answers
"""

import os
import pwd
import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.slurm_site import Seen, Wanted, faults
from ansible.module_utils.slurm_state import (
    ASSOCIATION_FORMAT,
    CLUSTER_FORMAT,
    QOS_FORMAT,
    RIGHTS_FORMAT,
    TRES_FORMAT,
    USER_FORMAT,
    parse_clusters,
    parse_rights,
    parse_state,
    parse_tres,
)

COMMANDS = ("sacctmgr", "scontrol", "sinfo", "squeue", "sbatch", "scancel")
#: A command that only reads answers within MessageTimeout (10 s) or not at all.
SECONDS = 12


class Silent(Exception):
    """Slurm does not answer; the text has the command's own words."""


class Slurm:
    """Slurm as the submit host shows it."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module

    def run(self, *command: str) -> str:
        """Run a command and give its standard output; raises Silent where it fails."""
        code, out, err = self.module.run_command(["timeout", str(SECONDS), *command])
        if code != 0:
            raise Silent(f"{' '.join(command)}: {err.strip() or out.strip() or f'no answer within {SECONDS} s'}")
        return str(out)

    def show(self, *what: str, columns: str) -> str:
        """Give the rows of `sacctmgr show` with the columns asked for."""
        return self.run("sacctmgr", "-nP", "show", *what, f"format={columns}")


def see(slurm: Slurm, wanted: Wanted) -> Seen:
    """Read all that matters; raises Silent."""
    me = pwd.getpwuid(os.geteuid())
    configuration = slurm.run("scontrol", "show", "config")
    enforced = re.search(r"^AccountingStorageEnforce\s*=\s*(\S+)", configuration, re.MULTILINE)
    there = {entry.pw_name: entry.pw_uid for entry in map(_user, wanted.users) if entry}
    return Seen(
        state=parse_state(
            wanted.platform,
            slurm.show("assoc", columns=ASSOCIATION_FORMAT),
            slurm.show("user", columns=USER_FORMAT),
            slurm.show("qos", columns=QOS_FORMAT),
        ),
        rights=parse_rights(
            me.pw_name,
            me.pw_uid,
            slurm.show("user", me.pw_name, "withcoord", columns=RIGHTS_FORMAT),
            configuration,
        ),
        tres=parse_tres(slurm.show("tres", columns=TRES_FORMAT)),
        partitions=frozenset(slurm.run("sinfo", "--noheader", "--format=%R").split()),
        enforced=frozenset((enforced[1] if enforced else "").split(",")),
        users=there,
        storage_there=not wanted.storage or Path(wanted.storage).is_dir(),
    )


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "platform": {"type": "str", "required": True},
            "parent": {"type": "str", "required": True},
            "qos": {"type": "str", "required": True},
            "partition": {"type": "str", "required": True},
            "users": {"type": "list", "elements": "dict", "required": True},
            "tres": {"type": "list", "elements": "str", "default": ["cpu", "mem"]},
            "storage": {"type": "path"},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C"}
    given = module.params
    where = f"physical_platforms.{given['platform']}"
    wanted = Wanted(
        platform=given["platform"],
        parent=given["parent"],
        qos=given["qos"],
        partition=given["partition"],
        users={user["name"]: int(user["uid"]) for user in given["users"]},
        tres=frozenset(given["tres"]),
        storage=given["storage"] or "",
    )
    absent = [command for command in COMMANDS if module.get_bin_path(command) is None]
    if absent:
        found = [f"{where}: the submit host lacks {', '.join(absent)}; name a host where Slurm's commands are"]
        module.exit_json(changed=False, faults=found)
    slurm = Slurm(module)
    try:
        # It answers at once, while everything else that needs slurmctld hangs until MessageTimeout.
        slurm.run("scontrol", "ping")
        clusters = parse_clusters(slurm.show("cluster", columns=CLUSTER_FORMAT))
        if wanted.platform not in clusters:
            found = [f"{where}: Slurm has no cluster of that name; it has {', '.join(sorted(clusters)) or 'none'}"]
            module.exit_json(changed=False, faults=found)
        seen = see(slurm, wanted)
    except (Silent, ValueError) as error:
        module.exit_json(changed=False, faults=[f"{where}: {error}"])
    module.exit_json(changed=False, faults=faults(wanted, seen), level=seen.rights.level)


if __name__ == "__main__":
    main()
