#!/usr/bin/python
"""Ansible module: what keeps planners and the voter from running on a host that exists already."""

from __future__ import annotations

DOCUMENTATION = r"""
module: site_host
short_description: Say what keeps planners and the voter from running on a host, all of it at once
description:
  - Looks for root, systemd, the Python that the program is made for, Slurm's commands, unix users with other numbers,
    the shared storage, and whether the addresses are free.
  - Changes nothing and never fails; RV(faults) has one sentence for each fault, with the next step.
options:
  host:
    description: The host's name in the inventory, for the sentences.
    type: str
    required: true
  address:
    description: Where the services are to listen.
    type: str
    required: true
  ports:
    description: The services' ports, each with a file that is there where the testbed listens there already.
    type: dict
    required: true
  python:
    description: The Python that the program is made for.
    type: str
    required: true
  commands:
    description: Commands that are needed.
    type: list
    elements: str
    default: []
  users:
    description: The users of the services, C(name) and C(uid); those that are missing can be made.
    type: list
    elements: dict
    required: true
  storage:
    description: Where the shared storage is to be seen.
    type: path
    required: true
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Ask what keeps planners from running here
  site_host:
    host: services
    address: 10.0.0.5
    ports: {8101: /etc/systemd/system/planner@.service}
    python: "3.11"
    users: [{name: vp-1, uid: 20001}]
    storage: /mnt/storage
"""

RETURN = r"""
faults:
  description: What keeps them from running, and what to do about it.
  type: list
  elements: str
  returned: always
"""

import os
import platform
import pwd
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule


def trouble_of_port(address: str, port: int) -> str:
    """Why nothing can listen there; empty where something can."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
    except OSError as error:
        return str(error.strerror or error)
    return ""


def holder(number: int) -> str:
    """The user that has a number; empty where none has."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return ""


def services_faults(given: Mapping[str, Any]) -> Iterator[str]:
    """What only root can do, and what systemd and Python are needed for."""
    host = given["host"]
    if os.geteuid() != 0:
        yield (
            f"{host}: planners and voter are units of systemd with users of their own, which needs root, and this is "
            f"{pwd.getpwuid(os.geteuid()).pw_name}: give ansible_become: true where sudo allows it, or another host"
        )
    if not Path("/run/systemd/system").is_dir():
        yield f"{host} does not run systemd, which runs planners and voter: name another host"
    version = ".".join(platform.python_version_tuple()[:2])
    if version != given["python"]:
        yield (
            f"{host} has Python {version}, and the program is made for {given['python']}: set "
            f'planner_app_bundle_python: "{version}"'
        )


def surroundings_faults(given: Mapping[str, Any], absent: list[str]) -> Iterator[str]:
    """What the host lacks around the services."""
    host = given["host"]
    if absent:
        yield f"{host} lacks {', '.join(absent)}: planners of Slurm run on a host where Slurm's commands are"
    for user in given["users"]:
        try:
            number = pwd.getpwnam(user["name"]).pw_uid
        except KeyError:
            # It is made by the run, where its number is free.
            if other := holder(int(user["uid"])):
                yield f"{host}: the number {user['uid']} of user {user['name']} is that of {other}: give another uid"
            continue
        if number != int(user["uid"]):
            yield f"{host}: user {user['name']} has the number {number}, and {user['uid']} in the list: write {number}"
    if not Path(given["storage"]).is_dir():
        yield (
            f"testbed_storage_root: {host} has no directory {given['storage']}: have the shared storage mounted there, "
            "or make a directory for the testbed on it"
        )
    elif not os.access(given["storage"], os.W_OK):
        yield f"testbed_storage_root: root of {host} may not write to {given['storage']}: is that exported root_squash?"
    for port, file in given["ports"].items():
        if not Path(file).exists() and (trouble := trouble_of_port(given["address"], int(port))):
            yield f"{host}: nothing of ours can listen on {given['address']}:{port} ({trouble}): give another port"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "address": {"type": "str", "required": True},
            "ports": {"type": "dict", "required": True},
            "python": {"type": "str", "required": True},
            "commands": {"type": "list", "elements": "str", "default": []},
            "users": {"type": "list", "elements": "dict", "required": True},
            "storage": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    absent = [command for command in given["commands"] if module.get_bin_path(command) is None]
    module.exit_json(changed=False, faults=[*services_faults(given), *surroundings_faults(given, absent)])


if __name__ == "__main__":
    main()
