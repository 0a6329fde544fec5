"""The volume of a machine's state, on a real machine: a file as a disc, in the place of what a cloud attaches."""

from __future__ import annotations

import json
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from discs import file_as_disc
from handles import INVENTORY, NAME, PROJECT, as_operator
from testinfra.host import Host

MACHINE = "planner"
ROOT = "/srv/test-state"
PATHS = {"records": "/var/lib/test-records", "odd-name": "/var/lib/test-odd/name"}
USER = "test-state.service"
DISC = "/var/tmp/test-state.disc"


@dataclass
class Disc:
    """A disc on the machine, and the module on it."""

    host: Host
    device: str
    volume: str

    def place(self, *arguments: str, fails: bool = False) -> str:
        """Have it in place; what was said, as one line."""
        wanted = {
            "volume": self.volume,
            "device": self.device,
            "root": ROOT,
            "paths": PATHS,
            "units": {"records": [USER]},
        }
        command = ["ansible", MACHINE, "-i", INVENTORY, "-e", f"testbed_name={NAME}", "-m", "state_volume"]
        run = subprocess.run(
            [PROJECT / ".venv/bin" / command[0], *command[1:], "-a", json.dumps(wanted), *arguments],
            cwd=PROJECT, env=as_operator(), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (run.returncode != 0) == fails, run.stdout + run.stderr
        return " ".join((run.stdout + run.stderr).split())

    def content(self) -> str:
        return self.host.check_output(f"sha256sum {DISC}").split()[0]

    def take_away(self) -> None:
        """Have the machine as if it had been made anew: all of it is gone but the disc."""
        self.host.check_output(
            f"systemctl stop {USER}; "
            f"for path in {' '.join(PATHS.values())} {ROOT}; do mountpoint -q $path && umount $path; done; "
            "find /etc/systemd/system '(' -name 'srv-test*' -o -name 'var-lib-test*' -o -name 'test-state*' ')' -prune "
            f"-exec rm -rf {{}} +; rm -rf {ROOT} /var/lib/test-*; systemctl daemon-reload"
        )


@pytest.fixture
def disc(planner: Host) -> Iterator[Disc]:
    with file_as_disc(planner, DISC, "64M") as device:
        made = Disc(planner, device, str(uuid.uuid4()))
        try:
            yield made
        finally:
            made.take_away()


def test_a_machine_made_anew_finds_what_was_on_its_volume(disc: Disc) -> None:
    host = disc.host
    empty = disc.content()
    assert "make file system" in disc.place("--check")
    assert disc.content() == empty
    assert not host.file(ROOT).exists

    assert "CHANGED" in disc.place()
    assert host.check_output(f"blkid --match-tag UUID --output value {disc.device}") == disc.volume
    host.check_output(f"echo one >{PATHS['records']}/file; echo two >{PATHS['odd-name']}/file")
    for arguments in ((), ("--check",)):
        assert "SUCCESS" in disc.place(*arguments)

    disc.take_away()
    assert not host.file(PATHS["records"]).exists
    assert "make file system" not in disc.place()
    assert host.check_output(f"cat {PATHS['records']}/file {PATHS['odd-name']}/file") == "one\ntwo"


def test_systemd_has_it_at_each_boot_and_starts_nothing_without_it(disc: Disc) -> None:
    host = disc.host
    disc.place()
    described = f"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/touch {PATHS['records']}/started\n"
    host.check_output(f"printf %s {shlex.quote(described)} >/etc/systemd/system/{USER}; systemctl daemon-reload")
    paths = " ".join((ROOT, *PATHS.values()))
    units = [shlex.quote(unit) for unit in host.check_output(f"systemd-escape --path --suffix=mount {paths}").split()]
    assert host.check_output(f"systemctl is-active {' '.join(units)}").split() == ["active"] * 3
    assert host.check_output(f"systemctl is-enabled {' '.join(units)}").split() == ["enabled"] * 3
    # The directory on the volume is bound to the path by systemd as it was by the module, before what needs it.
    host.check_output(f"systemctl stop {units[1]}")
    assert not host.file(f"{PATHS['records']}/started").exists
    host.check_output(f"systemctl start {USER}")
    assert host.check_output(f"ls {ROOT}/records") == "started"
    # And where the disc is not there (nobody here tells systemd of discs), what needs it does not start without.
    waited = host.check_output(f"systemd-escape --path --suffix=device /dev/disk/by-uuid/{disc.volume}")
    soon = shlex.quote(f"/run/systemd/system/{waited}.d")
    host.check_output(
        f"systemctl stop {USER} {' '.join(units)}; "
        f"mkdir {soon}; printf '[Unit]\\nJobRunningTimeoutSec=2\\n' >{soon}/soon.conf; systemctl daemon-reload"
    )
    assert not host.mount_point(ROOT).exists
    assert "dependency" in host.run_expect([1], f"systemctl start {USER}").stderr.lower()
    host.check_output(f"rm -r {soon}")
    assert host.check_output(f"find {PATHS['records']} {ROOT} -mindepth 1") == ""


def test_what_lies_on_a_disc_or_in_a_paths_way_is_left_as_it_is(disc: Disc) -> None:
    host = disc.host
    host.check_output(f"mkswap {disc.device} >/dev/null; sync {DISC}")
    before = disc.content()
    assert "has something on it that is no file system (swap), and is left as it is" in disc.place(fails=True)
    assert disc.content() == before
    host.check_output(
        f"wipefs --all --quiet {disc.device}; mkdir -p {PATHS['records']}; echo old >{PATHS['records']}/file"
    )
    said = disc.place(fails=True)
    assert f"{PATHS['records']} has files from before there was a volume" in said
    assert host.check_output(f"cat {PATHS['records']}/file") == "old"
    # What it says to do does it.
    directory, path = f"{ROOT}/records", PATHS["records"]
    command = f"mkdir -p {directory} && cp -a {path}/. {directory} && mv {path} {path}.before"
    assert command in said
    host.check_output(command)
    disc.place()
    assert host.check_output(f"findmnt --noheadings --output=TARGET {path} && cat {path}/file") == f"{path}\nold"


def test_what_another_debian_has_left_is_not_taken_over(disc: Disc) -> None:
    disc.place()
    disc.host.check_output(f"""echo '{{"debian": "99"}}' >{ROOT}/.caesar-state.json""")
    disc.host.check_output(f"umount {' '.join(PATHS.values())}")
    assert "the volume holds what Debian 99 has left" in disc.place(fails=True)
    assert not disc.host.mount_point(PATHS["records"]).exists
