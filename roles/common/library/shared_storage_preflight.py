#!/usr/bin/python
"""One machine's part in finding out whether all machines see one file system, and the same in it.

Needs nothing but Python: the action plugin of the same name hands this file to it as it is, since every run of the
testbed looks, and the packing and unpacking of a module takes most of its time.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: shared_storage_preflight
short_description: Write to the shared storage, and read what the other machines wrote
description:
  - Four steps, each on all its machines before the next; one machine makes a directory that only this run uses
    (V(prepared)), each writes a file as root, where root has to, and as some of the platforms' users (V(written)), each
    reads all files of all others (V(read)), and the first removes the directory with all that is in it (V(removed)).
  - The names are new in each run, so that no client can know from before that they are not there.
  - Nothing is reported as a change, and no step fails; RV(findings) has what was found. A file system that does not
    answer is a finding too.
options:
  state:
    description: The step.
    type: str
    choices: [prepared, written, read, removed]
    required: true
  root:
    description: Where the shared storage is mounted.
    type: path
    required: true
  run:
    description: What only this run knows, 16 hexadecimal digits or more.
    type: str
    required: true
  machine:
    description: This machine's name in the inventory.
    type: str
    required: true
  first:
    description: The machine of the steps V(prepared) and V(removed).
    type: str
    required: true
  writers:
    description: All machines that write; the users are dealt out among them.
    type: list
    elements: str
    default: []
  users:
    description: The platforms' users, C(name) and C(uid).
    type: list
    elements: dict
    default: []
  as_root:
    description: Whether root must be able to write on this machine.
    type: bool
    default: false
  written:
    description: What the machines wrote, by their names (RV(wrote) of the step V(written)).
    type: dict
    default: {}
  timeout:
    description: Seconds that the file system has to answer.
    type: int
    default: 60
attributes:
  check_mode: {support: none}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Write
  shared_storage_preflight:
    state: written
    root: /mnt/storage
    run: 0123456789abcdef
    machine: kube
    first: planner
    writers: [planner, kube]
    users: [{name: vp-1, uid: 20001}]
    as_root: true
"""

RETURN = r"""
findings:
  description: >-
    What is not as it should be, each with C(what) (unseen, unread, content, owner, mode, write, silent), C(machine),
    C(mounted) and, where there are, C(writer), C(user), C(seen) and C(why).
  type: list
  elements: dict
  returned: always
machine:
  description: This machine's name.
  type: str
  returned: always
mounted:
  description: What is mounted there, as findmnt would say.
  type: str
  returned: always
wrote:
  description: What this machine wrote, each with C(user), C(uid) and C(path).
  type: list
  elements: dict
  returned: always
"""

import errno
import json
import os
import select
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PREFIX = ".preflight-"
#: What a run that was killed left behind is removed after this, in seconds.
LEFT = 3600


def mounted(path: str, mountinfo: str) -> str:
    """What is mounted at a path, by the text of /proc/self/mountinfo: the last mount on the longest directory above."""
    best, said = "", "nothing"
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        part, point = (each.encode().decode("unicode_escape") for each in fields.split()[3:5])
        kind, source = rest.split()[:2]
        if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            within = f"[{part}]" if part != "/" else ""
            best, said = point, f"{source}{within} ({kind})" + ("" if path == point else f" on {point}")
    return said


def share(users: Sequence[Mapping[str, Any]], machine: str, writers: Sequence[str]) -> list[Mapping[str, Any]]:
    """The users as whom a machine writes: all are dealt out, and each machine has one at least where there are any."""
    if machine not in writers or not users:
        return []
    place = list(writers).index(machine)
    return list(users[place :: len(writers)]) or [users[place % len(users)]]


def token(given: Mapping[str, Any], writer: str, uid: int) -> str:
    """What a file says."""
    return f"{given['run']} {writer} {uid}\n"


def prepare(given: Mapping[str, Any]) -> dict[str, Any]:
    """Make the directory, and in it one for each user."""
    root, directory = Path(given["root"]), place(given)
    for left in root.glob(f"{PREFIX}*"):
        if left.lstat().st_mtime < time.time() - LEFT:
            shutil.rmtree(left, ignore_errors=True)
    try:
        directory.mkdir(mode=0o755)
        directory.chmod(0o755)
        for user in given["users"]:
            own = directory / str(user["uid"])
            own.mkdir(mode=0o755)
            own.chmod(0o755)
            os.chown(own, int(user["uid"]), int(user["uid"]))
    except OSError as error:
        return {"findings": [{"what": "write", "user": "root", "why": error.strerror}]}
    return {}


def write(given: Mapping[str, Any]) -> dict[str, Any]:
    """Write as root, where root has to, and as this machine's share of the users, where we may be them."""
    directory, machine = place(given), given["machine"]
    if not directory.is_dir():
        return {"findings": [{"what": "unseen", "writer": given["first"]}]}
    if os.geteuid() != 0:
        return {}
    found, wrote = [], []
    users = share(given["users"], machine, given["writers"])
    chosen: list[Mapping[str, Any]] = [*([{"name": "root", "uid": 0}] if given["as_root"] else []), *users]
    for user in chosen:
        uid = int(user["uid"])
        name = f"{uid}/{machine}" if uid else machine
        try:
            as_user(uid, lambda: put(directory / name, token(given, machine, uid)))  # noqa: B023 (called at once)
        except OSError as error:
            found.append({"what": "write", "user": user["name"], "why": error.strerror})
        else:
            wrote.append({"user": user["name"], "uid": uid, "path": name})
    return {"findings": found, "wrote": wrote}


def as_user(uid: int, act: Callable[[], None]) -> None:
    """Act with the numbers of a user, and no other groups."""
    groups = os.getgroups()
    os.setgroups([] if uid else groups)
    os.setegid(uid)
    os.seteuid(uid)
    try:
        act()
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def put(path: Path, text: str) -> None:
    """Write a new file, so that it is on the server when we return."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fchmod(handle, 0o644)  # whatever the mask
        os.fsync(handle)


def read(given: Mapping[str, Any]) -> dict[str, Any]:
    """Compare what all machines wrote, our own too, with what we see."""
    return {
        "findings": [
            {"writer": writer, **finding}
            for writer, files in given["written"].items()
            for finding in looked(given, writer, files)
        ]
    }


def looked(given: Mapping[str, Any], writer: str, files: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """What is wrong with one machine's files; that none is seen is said once."""
    for file in files:
        path, uid = place(given) / file["path"], int(file["uid"])
        try:
            status, text = path.stat(), path.read_text()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                yield {"what": "unseen"}
            else:
                yield {"what": "unread", "why": error.strerror}
            return
        if text != token(given, writer, uid):
            yield {"what": "content", "why": f"{len(text)} bytes that are not this run's"}
        if (status.st_uid, status.st_gid) != (uid, uid):
            seen = f"{status.st_uid}:{status.st_gid}"
            yield {"what": "owner", "user": f"{file['user']} ({uid}:{uid})", "seen": seen}
        if stat.S_IMODE(status.st_mode) != 0o644:
            yield {"what": "mode", "user": file["user"], "seen": f"{stat.S_IMODE(status.st_mode):04o}"}


def remove(given: Mapping[str, Any]) -> dict[str, Any]:
    """Remove what all have written."""
    shutil.rmtree(place(given), ignore_errors=True)
    return {}


def place(given: Mapping[str, Any]) -> Path:
    """The directory of this run."""
    return Path(given["root"], PREFIX + given["run"])


STEPS = {"prepared": prepare, "written": write, "read": read, "removed": remove}


def within(seconds: float, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Act in a process of its own, since one that waits for a lost server can be neither waited for nor killed."""
    ours, theirs = os.pipe()
    if os.fork() == 0:
        code = 1
        try:
            nothing = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):  # else ssh waits for us
                os.dup2(nothing, number)
            try:
                answer = act()
            except OSError as error:
                answer = {"findings": [{"what": "write", "user": "root", "why": str(error)}]}
            os.write(theirs, json.dumps(answer).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(theirs)
    data, deadline = b"", time.monotonic() + seconds
    while select.select([ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(ours, 65536)
        if not part:
            if not data:
                raise RuntimeError("the process that looked ended without an answer")
            return dict(json.loads(data))
        data += part
    return {"findings": [{"what": "silent", "why": f"{seconds:g}"}]}


def main(given: Mapping[str, Any]) -> None:
    """Do a step, and say what came of it; the action plugin calls us with the task's options."""
    there = mounted(given["root"], Path("/proc/self/mountinfo").read_text())
    answer = within(given["timeout"], lambda: STEPS[given["state"]](given))
    findings = [{**one, "machine": given["machine"], "mounted": there} for one in answer.get("findings", [])]
    told = {"machine": given["machine"], "mounted": there, "findings": findings, "wrote": answer.get("wrote", [])}
    print(json.dumps({"changed": False, **told}))
