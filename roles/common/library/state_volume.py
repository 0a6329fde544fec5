#!/usr/bin/python
"""Ansible module: the volume of a machine's state in its place, with the paths that are bound to it, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: state_volume
short_description: Have what must outlive a machine on its volume
description:
  - Finds the disc that the volume is, makes a file system where it has nothing at all, mounts it, and binds each path
    to a directory on it. Writes the units that do the same at each boot, and that keep services from starting without.
  - Never makes a file system over anything, never hides files of a path below a mount, and does not let another
    release of Debian take over what lies on the volume. Where one of these is in the way nothing is bound, and the
    module says what to do.
options:
  volume:
    description: The cloud's id of the volume, its disc's serial number. It becomes the file system's id.
    type: str
    required: true
  device:
    description: The disc, where it has no serial number.
    type: path
    default: ""
  root:
    description: Where the volume is mounted.
    type: path
    required: true
  paths:
    description: Name of the directory on the volume to the path that is bound to it.
    type: dict
    required: true
  units:
    description: Name of the directory to the units that must not start without it.
    type: dict
    default: {}
  other_release:
    description: Let another release of Debian take over what lies on the volume.
    type: bool
    default: false
  timeout:
    description: Seconds until the disc is there.
    type: int
    default: 60
attributes:
  check_mode:
    support: full
    details: What lies on a volume that is not mounted is not looked at.
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Keep the database on the volume
  state_volume:
    volume: 4f2c6b0e-8f5d-4f6e-9a53-0d7d6a1f4c11
    root: /srv/caesar-state
    paths: {mysql: /var/lib/mysql}
    units: {mysql: [mariadb.service]}
"""

RETURN = r"""
steps:
  description: What was done, or would be in check mode.
  type: list
  elements: dict
  sample: [{action: bind, subject: /var/lib/mysql, why: to /srv/caesar-state/mysql}]
  returned: always
"""

import json
import os
import time
from pathlib import Path

from ansible.module_utils import state_volume as sv
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.upgrades import debian_of

#: On the volume: whose state lies on it.
RELEASE = ".caesar-state.json"
POLL_SECONDS = 1.0


class Failure(Exception):
    """A command that must not fail did."""


class Machine:
    """The machine that the module runs on."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module

    def run(self, *argv: str, ok: tuple[int, ...] = (0,)) -> tuple[int, str]:
        """Run a command; give its code and what it printed.

        Raises:
            Failure: where it ends with anything but `ok`.
        """
        code, out, err = self._module.run_command([*argv])
        if code not in ok:
            raise Failure(f"{' '.join(argv)} ended with {code}: {err.strip() or out.strip()}")
        return code, out

    def disc(self, wanted: sv.Wanted, device: str, seconds: float) -> sv.Disc:
        """Find the volume's disc, and see what is on it.

        Raises:
            Failure: where there is none in time.
        """
        end = time.monotonic() + seconds
        while True:
            listed = json.loads(self.run("lsblk", "--json", "--nodeps", "--output=PATH,TYPE,SERIAL")[1])["blockdevices"]
            path = device or sv.choose(listed, wanted.volume)
            if path is not None and Path(path).is_block_device():
                break
            if time.monotonic() > end:
                there = ", ".join(f"{one['path']} (serial {one['serial'] or 'none'})" for one in listed)
                raise Failure(
                    f"no disc here is volume {wanted.volume}; there are {there or 'none'}. Where the cloud gives discs "
                    "no serial numbers, name it: openstack_state_device of this machine"
                )
            time.sleep(POLL_SECONDS)
        number = Path(path).stat().st_rdev
        # 2: nothing is found; 8: several things, of which none is believed.
        code, out = self.run("blkid", "--probe", "--output=export", path, ok=(0, 2, 8))
        signature = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
        parts = json.loads(self.run("lsblk", "--json", "--output=PATH,TYPE", path)[1])["blockdevices"][0]
        return sv.Disc(
            path=path,
            device=f"{os.major(number)}:{os.minor(number)}",
            signature=None if code == 8 else {key: value for key, value in signature.items() if key != "DEVNAME"},
            partitions=bool(parts.get("children")),
        )

    def mounts(self) -> list[sv.Mount]:
        """Read what is mounted."""
        found: list[sv.Mount] = sv.parse_mounts(Path("/proc/self/mountinfo").read_text())
        return found


def names_in(path: Path) -> tuple[str, ...]:
    """List a directory, without what mke2fs puts into every file system."""
    return tuple(sorted(one.name for one in path.iterdir() if one.name != "lost+found")) if path.is_dir() else ()


def place(wanted: sv.Wanted, name: str) -> sv.Place:
    """See what is at a path that nothing is mounted on, and in its directory on the volume."""
    path = Path(wanted.paths[name])
    kind = "directory" if path.is_dir() and not path.is_symlink() else "other" if os.path.lexists(path) else "none"
    return sv.Place(kind, names_in(path) if kind == "directory" else (), names_in(Path(wanted.root, name)))


def releases(wanted: sv.Wanted) -> tuple[str, str]:
    """Give the releases of Debian: of what lies on the volume, and of this machine."""
    note, own = Path(wanted.root, RELEASE), Path("/etc/os-release").read_text()
    fields = {key: value.strip('"') for key, _, value in (line.partition("=") for line in own.splitlines())}
    # One that is not released yet has no number.
    here = debian_of(fields.get("VERSION_ID") or fields.get("VERSION_CODENAME", ""))
    return (json.loads(note.read_text())["debian"] if note.exists() else ""), here


def differing(files: dict[str, str], links: dict[str, str]) -> list[sv.Step]:
    """Say which files and links are not as they should be."""
    steps = [
        sv.Step("write", path, "it is another" if Path(path).exists() else "there is none")
        for path, text in files.items()
        if not Path(path).is_file() or Path(path).read_text() != text
    ]
    return steps + [sv.Step("enable", path, "it is not") for path in links if not Path(path).is_symlink()]


def write(files: dict[str, str], links: dict[str, str], steps: list[sv.Step]) -> None:
    """Write the files and links that are not as they should be."""
    for step in steps:
        path = Path(step.subject)
        path.parent.mkdir(parents=True, exist_ok=True)
        if step.action == "write":
            path.write_text(files[step.subject])
            path.chmod(0o644)
        else:
            path.unlink(missing_ok=True)
            path.symlink_to(links[step.subject])


def in_place(module: AnsibleModule, wanted: sv.Wanted) -> tuple[list[sv.Step], list[str]]:
    """Have the volume and all paths in place; what was done, and what stood in the way."""
    machine, check = Machine(module), module.check_mode
    disc = machine.disc(wanted, module.params["device"], module.params["timeout"])
    steps, faults = sv.volume_steps(wanted, disc, machine.mounts())
    if faults:
        return [], faults
    files, links = sv.unit_files(wanted, sv.uuid_of(disc, wanted)), sv.links(wanted)
    if check and steps:
        bound = [sv.Step("bind", path, f"to {wanted.root}/{name}") for name, path in sorted(wanted.paths.items())]
        return [*steps, *bound, *differing(files, links)], []
    for step in steps:
        if step.action == "make file system":
            machine.run("mkfs.ext4", "-q", "-U", wanted.volume, "-L", sv.LABEL, disc.path)
        else:
            Path(wanted.root).mkdir(parents=True, exist_ok=True)
            machine.run("mount", "-o", "noatime", disc.path, wanted.root)
    mounts, release = machine.mounts(), releases(wanted)
    at = {mount.where for mount in mounts}
    places = {name: place(wanted, name) for name, path in wanted.paths.items() if path not in at}
    binds, faults = sv.path_steps(wanted, disc, mounts, places, release)
    if faults:
        return steps, faults
    units = differing(files, links)
    if release[0] != release[1]:
        binds = [*binds, sv.Step("note", f"{wanted.root}/{RELEASE}", f"it is of Debian {release[1]} now")]
    if not check:
        write(files, links, units)
        if units and Path("/run/systemd/system").is_dir():
            machine.run("systemctl", "daemon-reload")
        for step in binds:
            if step.action == "note":
                Path(step.subject).write_text(json.dumps({"debian": release[1]}) + "\n")
                continue
            source = step.why.removeprefix("to ")
            Path(source).mkdir(exist_ok=True)
            Path(step.subject).mkdir(parents=True, exist_ok=True)
            machine.run("mount", "--bind", source, step.subject)
    return [*steps, *units, *binds], []


def main() -> None:
    """Run the module."""
    # Where root came by plain su, its path lacks the directories of the system's programs.
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    module = AnsibleModule(
        argument_spec={
            "volume": {"type": "str", "required": True},
            "device": {"type": "path", "default": ""},
            "root": {"type": "path", "required": True},
            "paths": {"type": "dict", "required": True},
            "units": {"type": "dict", "default": {}},
            "other_release": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C"}
    params = module.params
    wanted = sv.Wanted(params["volume"], params["root"], params["paths"], params["units"], params["other_release"])
    try:
        steps, faults = in_place(module, wanted)
    except (Failure, OSError) as error:
        module.fail_json(msg=str(error))
    if faults:
        told = "".join(f"\n- {fault}" for fault in faults)
        module.fail_json(msg=f"What this machine must not lose is not on its volume; nothing has been bound:{told}")
    lines = "".join(f"{step.action} {step.subject}: {step.why}\n" for step in steps)
    module.exit_json(
        changed=bool(steps),
        steps=[vars(step) for step in steps],
        diff={"before": "", "after": lines, "after_header": f"what is done for volume {wanted.volume}"},
    )


if __name__ == "__main__":
    main()
