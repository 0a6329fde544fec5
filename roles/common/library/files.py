#!/usr/bin/python
"""Ansible module `files`: a machine's files, directories and links in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Make any number of files, directories and links as described, in one call
description:
  - Templates and contents are rendered on the controller by the action plugin of the same name.
  - Only what differs is written, each file by a rename in its own directory, so that a reader never sees half of it.
options:
  files:
    description: What there must be. Handled in the order given, so a directory comes before what lies in it.
    type: list
    elements: dict
    required: true
    suboptions:
      path: {description: Absolute path on the machine., type: path, required: true}
      state: {description: What the path is., type: str, choices: [file, directory, link, absent], default: file}
      template: {description: Template of the role (action plugin only)., type: str}
      content: {description: The content itself (action plugin only)., type: str}
      src: {description: A small file on the controller (action plugin only)., type: str}
      vars: {description: Variables for this entry's template (action plugin only)., type: dict}
      secret: {description: Keep the content out of diffs and results (action plugin only)., type: bool}
      target: {description: Where a link points., type: str}
      mode: {description: Octal mode as text; 0644 for files and 0755 for directories by default., type: str}
      owner: {description: User name or uid., type: str, default: root}
      group: {description: Group name or gid., type: str, default: root}
"""

RETURN = r"""
changed_paths:
  description: The paths that differed, in the order given.
  type: list
  elements: str
  returned: always
"""

import base64
import grp
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils import whole_files
from ansible.module_utils.basic import AnsibleModule

#: What lies at a path, or is to: state and, where they apply, mode, uid, gid, content and target.
Described = dict[str, Any]

SUBOPTIONS = {
    "path": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["file", "directory", "link", "absent"], "default": "file"},
    "content_base64": {"type": "str"},
    "secret_base64": {"type": "str", "no_log": True},
    "vars": {"type": "dict"},
    "target": {"type": "str"},
    "mode": {"type": "str"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
}


class Fault(Exception):
    """An entry that cannot be made as described; the text says which and why."""


def main() -> None:
    """Compare every entry with the machine, write what differs, report paths and diffs."""
    module = AnsibleModule(
        argument_spec={"files": {"type": "list", "elements": "dict", "required": True, "options": SUBOPTIONS}},
        supports_check_mode=True,
    )
    changed, diffs = [], []
    try:
        for entry in module.params["files"]:
            before, after = describe(entry["path"]), wanted(entry, module.check_mode)
            if differs(before, after):
                if not module.check_mode:
                    make(entry, before, after)
                changed.append(entry["path"])
                diffs.append(diff(entry, before, after))
    except (Fault, OSError) as fault:
        module.fail_json(
            msg=f"{entry['path']}: {fault}",
            changed=bool(changed and not module.check_mode),
            changed_paths=changed,
        )
    module.exit_json(changed=bool(changed), changed_paths=changed, diff=diffs)


def describe(path: str) -> Described:
    """What lies at the path: kind, mode, owner, group and content or target."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return {"state": "absent"}
    found = {"mode": stat.S_IMODE(status.st_mode), "uid": status.st_uid, "gid": status.st_gid}
    if stat.S_ISLNK(status.st_mode):
        return {"state": "link", "target": os.readlink(path)}
    if stat.S_ISDIR(status.st_mode):
        return {"state": "directory", **found}
    if not stat.S_ISREG(status.st_mode):
        return {"state": "special", **found}
    with open(path, "rb") as stream:
        return {"state": "file", "content": stream.read(), **found}


def wanted(entry: dict[str, Any], check_mode: bool) -> Described:
    """The same for what the entry asks; raises Fault where it asks for nonsense."""
    state = entry["state"]
    if state == "absent":
        return {"state": "absent"}
    if state == "link":
        if not entry["target"]:
            raise Fault("a link needs a target")
        return {"state": "link", "target": entry["target"]}
    default = "0755" if state == "directory" else "0644"
    try:
        mode = int(entry["mode"] or default, 8)
    except ValueError:
        raise Fault(f'mode {entry["mode"]!r} is no octal number such as "0644"') from None
    described = {
        "state": state,
        "mode": mode,
        "uid": number(entry["owner"], pwd.getpwnam, "pw_uid", check_mode),
        "gid": number(entry["group"], grp.getgrnam, "gr_gid", check_mode),
    }
    if state == "file":
        encoded = entry["secret_base64"] if entry["secret_base64"] is not None else entry["content_base64"]
        if encoded is None:
            raise Fault("a file needs one of template, content, src")
        described["content"] = base64.b64decode(encoded)
    return described


def number(name: str, lookup: Callable[[str], Any], field: str, check_mode: bool) -> int:
    """A user's or group's number, from its name or its digits."""
    if name.isdigit():
        return int(name)
    try:
        return int(getattr(lookup(name), field))
    except KeyError:
        if check_mode:  # an earlier task of this run would have made it
            return -1
        raise Fault(f"there is no user or group {name!r} on this machine") from None


def differs(before: Described, after: Described) -> bool:
    """Whether anything that the entry names is otherwise."""
    return any(before.get(key) != value for key, value in after.items())


def make(entry: dict[str, Any], before: Described, after: Described) -> None:
    """Bring the path from what it is to what is wanted."""
    path, state = entry["path"], after["state"]
    if state == "absent" and before["state"] == "directory":
        shutil.rmtree(path)
        return
    if before["state"] not in ("absent", state):
        if before["state"] == "directory":
            raise Fault(f"is a directory and a {state} is wanted; move it away first")
        os.unlink(path)
    if state == "absent":
        return
    if state == "directory":
        if before["state"] != "directory":
            os.mkdir(path)
        whole_files.own(Path(path), after["mode"], after["uid"], after["gid"])
    elif state == "link":
        temporary = tempfile.mktemp(prefix=".new-", dir=os.path.dirname(path))  # noqa: S306 (a link is made, not opened)
        os.symlink(after["target"], temporary)
        os.replace(temporary, path)
    elif before.get("content") != after["content"]:
        whole_files.write(Path(path), after["content"], after["mode"], after["uid"], after["gid"])
    else:
        whole_files.own(Path(path), after["mode"], after["uid"], after["gid"])


def diff(entry: dict[str, Any], before: Described, after: Described) -> dict[str, str]:
    """One entry's difference for `--diff`, without the content of secrets."""
    secret = entry["secret_base64"] is not None

    def text(side: Described) -> str:
        if side["state"] == "absent":
            return ""
        lines = [
            f"{key}: {oct(side[key]) if key == 'mode' else side[key]}"
            for key in ("state", "mode", "uid", "gid", "target")
            if key in side
        ]
        content = side.get("content")
        if content is None:
            return "\n".join(lines) + "\n"
        if secret:
            same = before.get("content") == after.get("content")
            lines.append("(content not shown" + (")" if same else ": it differs)"))
            return "\n".join(lines) + "\n"
        try:
            return str("\n".join(lines) + "\n" + content.decode("utf-8"))
        except UnicodeDecodeError:
            return "\n".join(lines) + f"\n({len(content)} bytes, not text)\n"

    if (
        before.get("state") == after["state"] == "file"
        and all(before[k] == after[k] for k in ("mode", "uid", "gid"))
        and not secret
    ):
        try:
            return {
                "before": before["content"].decode("utf-8"),
                "after": after["content"].decode("utf-8"),
                "before_header": entry["path"],
                "after_header": entry["path"],
            }
        except UnicodeDecodeError:
            pass
    return {
        "before": text(before),
        "after": text(after),
        "before_header": entry["path"],
        "after_header": entry["path"],
    }


if __name__ == "__main__":
    main()
