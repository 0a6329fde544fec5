#!/usr/bin/python
"""Ansible module: the local machines of one testbed, all in one call."""

# ruff: noqa: S607 - programs are found where the operator finds them.

from __future__ import annotations

DOCUMENTATION = r"""
module: local_machines
short_description: Make, start and remove the podman machines of a testbed
description:
  - Reads once what there is, decides what must be done, does it, and waits until every machine that was
    started answers by ssh and its systemd has come up.
  - A machine that was stopped, or whose processes died with the host, is started again with all that was on
    it. A machine whose definition or image changed is made anew; its volumes stay.
  - Writes ssh_config, known_hosts, machines.json, containers.conf and the keys into O(state_dir).
options:
  testbed:
    description: The testbed's name; containers, network and volumes carry it.
    type: str
    required: true
  state:
    description: V(absent) removes machines, network, volumes and O(state_dir) of this testbed alone.
    type: str
    choices: [present, absent]
    default: present
  state_dir:
    description: Where the operator's handles lie.
    type: path
    required: true
  machines:
    description:
      - The machines by name, each with C(host_number) (last part of its address), C(volumes) (short name to
        path; C(storage) is shared by all) and C(memory_gib).
    type: dict
    default: {}
  rebuild:
    description: Machines that are removed and made anew although nothing about them changed; their volumes stay.
    type: list
    elements: str
    default: []
  image_key:
    description: Names the image.
    type: str
    default: ""
  image_archive:
    description: The tar that it is made from, where podman does not have it.
    type: path
  apt_archives_dir:
    description:
      - A directory on the controller that keeps the packages that machines download, each machine's apart, since
        apt locks its cache.
    type: path
  subnet_pools:
    description: Networks that the testbed's /24 is chosen from.
    type: list
    elements: str
    default: []
  nameservers:
    description: Name servers of the machines; the controller's where empty.
    type: list
    elements: str
    default: []
  control_prefix:
    description:
      - Start of the paths of the sockets by which Ansible's ssh connections are shared; the machine's name follows.
    type: str
    default: ""
  start_timeout:
    description: Seconds a machine has to come up.
    type: int
    default: 120
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Bring up the machines
  local_machines:
    testbed: caesar
    state_dir: /root/.local/state/caesar-testbed/caesar
    image_key: 0123456789ab
    image_archive: /root/.cache/caesar-testbed/machine-image/0123456789ab/root.tar
    subnet_pools: [10.89.0.0/16]
    machines:
      slurm: {host_number: 11, volumes: {storage: /mnt/storage}}
"""

RETURN = r"""
steps:
  description: What was done, or would be in check mode.
  type: list
  elements: dict
  sample: [{action: start machine, subject: caesar-slurm, why: it is exited}]
  returned: always
failed_units:
  description: Units that failed to start, by machine.
  type: dict
  returned: when machines were started
"""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible.module_utils import host_preflight
from ansible.module_utils import machine_plan as mp
from ansible.module_utils.basic import AnsibleModule

SSH_PORT = 22
# Where conmon leaves a container's exit code for podman.
CONMON_EXITS = Path("/run/libpod/exits")
DEAD_NAMESPACE = re.compile(r"retrieving network namespace at (/\S*/netns/[\w-]+)")
APT_ARCHIVES = "/var/cache/apt/archives"
POLL_SECONDS = 0.1
# What a machine that has just been started gets until its sshd must answer, in seconds.
BOOT_SECONDS = 60.0


# What is done to a machine that is there, to bring it back as it was.
REVIVING = frozenset({"clear machine", "stop machine", "start machine"})


class Failure(Exception):
    """A command that must not fail did."""


class Podman:
    """podman with the testbed's own configuration."""

    def __init__(self, containers_conf: str) -> None:
        # A file of our own for reading: in check mode, and before the first run, there is none in the state directory.
        with tempfile.NamedTemporaryFile("w", prefix="containers-", suffix=".conf", delete=False) as handle:
            handle.write(containers_conf)
        self._conf = Path(handle.name)
        self._mounted: list[Path] = []
        self._environment = {**os.environ, "CONTAINERS_CONF": handle.name, "LC_ALL": "C.UTF-8"}

    def close(self, undo: bool = False) -> None:
        """Remove what was written; with `undo`, what was mounted as well."""
        self._conf.unlink(missing_ok=True)
        for path in self._mounted if undo else []:
            subprocess.run(["umount", str(path)], capture_output=True, check=False)

    def use(self, conf: Path) -> None:
        """Take the configuration from `conf` from now on: podman's helpers live longer than this module."""
        self._environment["CONTAINERS_CONF"] = str(conf)

    def run(self, *argv: str, ok: tuple[int, ...] = (0,), timeout: float = 300) -> str:
        """Run podman and give what it prints.

        Raises Failure where it ends with anything but `ok`.
        """
        done = subprocess.run(
            ["podman", *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=self._environment,
            timeout=timeout,
            check=False,
        )
        if done.returncode not in ok:
            text = done.stderr.decode(errors="replace").strip()
            raise Failure(f"podman {' '.join(argv[:3])} ended with {done.returncode}: {text}")
        return done.stdout.decode(errors="replace")

    def json(self, *argv: str) -> list[dict[str, Any]]:
        """Run podman and parse what it prints.

        After a crash podman does not even list containers, since it cannot join the network namespaces of those
        that it believes to run. It is given empty ones, one for each complaint.
        """
        while True:
            try:
                return list(json.loads(self.run(*argv, "--format=json") or "null") or [])
            except Failure as error:
                broken = {Path(name) for name in DEAD_NAMESPACE.findall(str(error))} - set(self._mounted)
                if not broken:
                    raise
                for path in broken:
                    mount_namespace(path)
                    self._mounted.append(path)


def cgroup_kind() -> str:
    """Say which cgroups this host has."""
    return str(host_preflight.cgroup_kind(Path("/proc/self/mounts").read_text()))


def host_containers_conf() -> str:
    """Write podman's configuration for this host."""
    cgroup = cgroup_kind()

    def hard(limit: int, most: int) -> int:
        value = resource.getrlimit(limit)[1]
        return most if value == resource.RLIM_INFINITY else min(value, most)

    # crun cannot do hybrid cgroups, and not every distribution's podman brings runc.
    order = ("crun", "runc") if cgroup == "v2" else ("runc", "crun")
    runtime = next((name for name in order if shutil.which(name)), order[0])
    text: str = mp.containers_conf(
        cgroup,
        Path("/run/systemd/system").is_dir(),
        hard(resource.RLIMIT_NOFILE, 1048576),
        # podman itself lowers its limit to this, and a container's cannot be above.
        hard(resource.RLIMIT_NPROC, int(Path("/proc/sys/kernel/pid_max").read_text())),
        runtime,
    )
    return text


def answers(address: str, timeout: float) -> bool:
    """Tell whether sshd greets on `address` within `timeout` seconds."""
    try:
        with socket.create_connection((address, SSH_PORT), timeout=timeout) as connection:
            connection.settimeout(timeout)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def wait_for_answer(address: str, seconds: float) -> bool:
    """Wait until sshd greets on `address`, at most `seconds`."""
    end = time.monotonic() + seconds
    while not answers(address, 1.0):
        if time.monotonic() > end:
            return False
        time.sleep(POLL_SECONDS)
    return True


def alive(container: str, pid: int) -> bool:
    """Tell whether process `pid` is there and belongs to the container of this id."""
    try:
        return container in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False


def used_networks(podman: Podman) -> list[str]:
    """List what the testbed's subnet must not overlap."""
    listing = subprocess.run(["ip", "-json", "-4", "route", "show", "table", "all"], check=True, capture_output=True)
    routes = json.loads(listing.stdout)
    used: list[str] = mp.routed_networks(routes)
    for network in podman.json("network", "ls"):
        used += [subnet["subnet"] for subnet in network.get("subnets") or []]
    for line in Path("/etc/resolv.conf").read_text().splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and ":" not in words[1]:
            used.append(words[1])
    return used


def look(podman: Podman, wanted: mp.Wanted, patience: float) -> mp.Seen:
    """Read what there is of the testbed.

    Raises mp.Conflict where something of its name is not its own.
    """
    label = f"label={mp.LABEL}={wanted.testbed}"
    networks = podman.json("network", "ls")
    network = next((item for item in networks if (item.get("labels") or {}).get(mp.LABEL) == wanted.testbed), None)
    if network is None and any(item["name"] == wanted.testbed for item in networks):
        raise mp.Conflict(f"a podman network {wanted.testbed} exists that no testbed made: choose another testbed_name")
    subnet = network["subnets"][0]["subnet"] if network else None
    where = mp.addresses(mp.Network(subnet), wanted.machines) if subnet else {}
    by_container = {mp.container_name(wanted.testbed, name): address for name, address in where.items()}

    def container(item: dict[str, Any]) -> mp.Container:
        name = item["Names"][0]
        state = str(item["State"])
        # One that has just been started may still be starting its services.
        age = time.time() - float(item.get("StartedAt") or 0)
        wait = max(patience, BOOT_SECONDS - age) if patience else 0.0
        lives = state in mp.BUSY and alive(item["Id"], int(item.get("Pid") or 0))
        return mp.Container(
            id=item["Id"],
            state=state,
            definition=(item.get("Labels") or {}).get(mp.DEFINITION_LABEL, ""),
            alive=lives,
            answers=lives and name in by_container and wait_for_answer(by_container[name], wait),
        )

    found = podman.json("ps", "--all", f"--filter={label}")
    with ThreadPoolExecutor(8) as pool:
        containers = dict(zip((item["Names"][0] for item in found), pool.map(container, found), strict=True))
    image = podman.run("image", "ls", "--quiet", f"--filter=label={mp.IMAGE_LABEL}={wanted.image_key}")
    return mp.Seen(
        image=bool(image.strip()),
        subnet=subnet,
        containers=containers,
        volumes=frozenset(volume["Name"] for volume in podman.json("volume", "ls", f"--filter={label}")),
        used=() if subnet else tuple(used_networks(podman)),
        network=network["name"] if network else None,
    )


class Files:
    """The state directory; remembers what it wrote."""

    def __init__(self, root: Path, check: bool) -> None:
        self.root = root
        self._check = check
        self.changed: list[str] = []

    def directory(self, name: str = "") -> Path:
        """Make a directory that only the operator may enter."""
        path = self.root / name if name else self.root
        if not path.is_dir() or path.stat().st_mode & 0o777 != 0o700:
            self.changed.append(str(path))
            if not self._check:
                path.mkdir(parents=True, exist_ok=True, mode=0o700)
                path.chmod(0o700)
        return path

    def write(self, name: str, text: str) -> None:
        """Write a file that only the operator may read, where it differs."""
        path = self.root / name
        try:
            if path.read_text() == text and path.stat().st_mode & 0o777 == 0o600:
                return
        except FileNotFoundError:
            pass
        self.changed.append(str(path))
        if not self._check:
            partial = path.with_name(path.name + ".new")
            partial.touch(mode=0o600)
            partial.chmod(0o600)
            partial.write_text(text)
            partial.rename(path)

    def key(self, name: str, comment: str) -> str:
        """Give the public part of a key, which is made where it is missing; in check mode that is nothing."""
        path = self.root / "secrets" / name
        public = path.with_name(path.name + ".pub")
        if not (path.is_file() and public.is_file()):
            self.changed.append(str(path))
            if self._check:
                return ""
            path.unlink(missing_ok=True)
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)],
                check=True,
                capture_output=True,
            )
        return public.read_text().strip()


def write_keys(root: Path, files: Files, wanted: mp.Wanted, machine: str) -> None:
    """Write what makes a machine this one below its root directory: its host key, and the key that may log in."""
    host_key = (files.root / f"secrets/ssh_host_{machine}_ed25519").read_text()
    content = {
        "etc/ssh/ssh_host_ed25519_key": (host_key, 0o600),
        "etc/ssh/ssh_host_ed25519_key.pub": (wanted.host_keys[machine] + "\n", 0o644),
        "root/.ssh/authorized_keys": (wanted.authorized_key + "\n", 0o600),
    }
    for name, (text, mode) in content.items():
        path = root / name
        path.touch(mode=mode)
        path.chmod(mode)
        path.write_text(text)


def seed_archives(directory: Path) -> None:
    """Make a machine's cache of packages, with those that the same machine of another testbed has already."""
    if directory.is_dir():
        return
    directory.mkdir(parents=True)
    kind = directory.name.rpartition("-")[2]
    for package in directory.parent.glob(f"*-{kind}/*.deb"):
        # A link: apt never writes into a file of its cache.
        with contextlib.suppress(FileExistsError):
            (directory / package.name).hardlink_to(package)


class Runner:
    """Does the steps."""

    def __init__(
        self,
        podman: Podman,
        wanted: mp.Wanted,
        subnet: mp.Network,
        files: Files,
        archive: Path | None,
        control_prefix: str,
    ) -> None:
        self.podman = podman
        self.wanted = wanted
        self.subnet = subnet
        self.files = files
        self.archive = archive
        self.control_prefix = control_prefix
        self.network = wanted.testbed
        self.machines = {mp.container_name(wanted.testbed, machine.name): machine for machine in wanted.machines}

    def do(self, step: mp.Step) -> None:
        """Do one step."""
        getattr(self, "_" + step.action.replace(" ", "_"))(step.subject)

    def _create_network(self, name: str) -> None:
        # No name server of podman's: the machines know each other from /etc/hosts, and ask the host's.
        self.network = name
        label = f"--label={mp.LABEL}={self.wanted.testbed}"
        self.podman.run("network", "create", label, f"--subnet={self.subnet}", "--disable-dns", name)

    def _create_volume(self, name: str) -> None:
        self.podman.run("volume", "create", f"--label={mp.LABEL}={self.wanted.testbed}", name)

    def _import_image(self, name: str) -> None:
        if self.archive is None or not self.archive.is_file():
            raise Failure(f"the image's archive {self.archive} is missing")
        self.podman.run(
            "import",
            "--quiet",
            f"--change=LABEL {mp.IMAGE_LABEL}={self.wanted.image_key}",
            '--change=CMD ["/sbin/init"]',
            "--change=STOPSIGNAL SIGRTMIN+3",
            str(self.archive),
            name,
        )

    def _create_machine(self, name: str) -> None:
        machine = self.machines[name]
        self._make_binds(machine)
        label = f"--label={mp.DEFINITION_LABEL}={mp.definition(self.wanted, machine, self.subnet)}"
        self.podman.run("create", label, *mp.create_options(self.wanted, machine, self.subnet, self.network))
        # Not by podman cp, which leaves copies of what it was given in /var/tmp.
        root = Path(self.podman.run("mount", name).strip())
        try:
            write_keys(root, self.files, self.wanted, machine.name)
        finally:
            self.podman.run("unmount", name)

    def _start_machine(self, name: str) -> None:
        # Caches may be deleted at any time.
        self._make_binds(self.machines[name])
        self.podman.run("start", name)

    def _make_binds(self, machine: mp.Machine) -> None:
        for source in machine.binds:
            seed_archives(Path(source))

    def _stop_machine(self, name: str) -> None:
        self._close_connection(name)
        self.podman.run("unpause", name, ok=(0, 125))
        self.podman.run("stop", name)

    def _clear_machine(self, name: str) -> None:
        """Tell podman that a machine ended which died without anybody to say so (crash, power, kill -9).

        podman knows a container's end from a file that conmon writes, and frees its address only while its
        network namespace exists; both are given to it.
        """
        self._close_connection(name)
        details = json.loads(self.podman.run("inspect", "--type=container", name))[0]
        identity = details["Id"]
        kill_leftovers(identity)
        namespace = network_namespace(Path(details["OCIConfigPath"]))
        if namespace is not None and namespace.is_file() and not is_mounted(namespace):
            mount_namespace(namespace)
        if CONMON_EXITS.is_dir():
            (CONMON_EXITS / identity).write_text("137")
        self.podman.run("container", "cleanup", name, ok=(0, 125))
        if namespace is not None and namespace.is_file() and not is_mounted(namespace):
            namespace.unlink()

    def _remove_machine(self, name: str) -> None:
        self._close_connection(name)
        self._remove_container(name, seconds=15)

    def _discard_machine(self, name: str) -> None:
        # Nothing of it is wanted any more: no time for an orderly end.
        self._close_connection(name)
        self._remove_container(name, seconds=1)

    def _remove_container(self, name: str, seconds: int) -> None:
        identity = self.podman.run("inspect", "--type=container", "--format={{.Id}}", name).strip()
        try:
            self.podman.run("rm", "--force", f"--time={seconds}", name)
        except Failure:
            # Half dead: once podman knows that it ended, it can be removed.
            self._clear_machine(name)
            self.podman.run("rm", "--force", f"--time={seconds}", name)
        kill_leftovers(identity)
        remove_leftovers(identity)

    def _remove_volume(self, name: str) -> None:
        self.podman.run("volume", "rm", "--force", name)

    def _remove_network(self, name: str) -> None:
        self.podman.run("network", "rm", "--force", name)

    def _close_connection(self, name: str) -> None:
        """End Ansible's lasting connection to a machine that goes away: it would hang the next task."""
        if self.control_prefix:
            close_connection(Path(self.control_prefix + name.removeprefix(f"{self.wanted.testbed}-")))


def mount_namespace(path: Path) -> None:
    """Mount an empty network namespace where a dead container's was."""
    path.touch()
    subprocess.run(["unshare", f"--net={path}", "true"], check=True, capture_output=True)


def is_mounted(path: Path) -> bool:
    """Tell whether something is mounted on exactly this path."""
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def network_namespace(config: Path) -> Path | None:
    """Read from a container's OCI configuration where its network namespace is mounted."""
    try:
        namespaces = json.loads(config.read_text())["linux"]["namespaces"]
    except FileNotFoundError:
        return None
    paths = [item["path"] for item in namespaces if item["type"] == "network" and item.get("path")]
    return Path(paths[0]) if paths else None


def kill_leftovers(container: str) -> None:
    """Kill the processes of a container, and its conmon, whatever podman thinks of them."""

    def members() -> list[int]:
        found = []
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                with contextlib.suppress(OSError):
                    command = (process / "cmdline").read_bytes().split(b"\0")
                    conmon = command[0].endswith(b"conmon") and container.encode() in command
                    if conmon or container in (process / "cgroup").read_text():
                        found.append(int(process.name))
        return found

    end = time.monotonic() + 10
    while (pids := members()) and time.monotonic() < end:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def close_connection(socket_path: Path) -> None:
    """End the ssh connection that is shared by way of this socket, if there is one."""
    if socket_path.exists():
        subprocess.run(
            ["ssh", "-o", f"ControlPath={socket_path}", "-O", "exit", "machine"], capture_output=True, check=False
        )
        socket_path.unlink(missing_ok=True)


def ssh(files: Files, machine: str, *argv: str, timeout: float) -> tuple[int, str]:
    """Run a command on a machine; give its exit code and what it printed."""
    done = subprocess.run(
        ["ssh", "-F", str(files.root / "ssh_config"), "-o", "BatchMode=yes", machine, *argv],
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode, done.stdout.strip() or done.stderr.strip()


def wait_until_up(files: Files, machine: str, address: str, seconds: float) -> list[str]:
    """Wait until a machine can be used; give its failed units.

    Raises Failure where it does not come up in time.
    """
    end = time.monotonic() + seconds
    if not wait_for_answer(address, seconds):
        raise Failure(f"sshd of machine {machine} does not answer on {address}:{SSH_PORT} after {seconds:.0f} s")
    # While systemd starts, pam_nologin may still turn the first log-ins away.
    while True:
        try:
            code, text = ssh(
                files, machine, "systemctl", "is-system-running", "--wait", timeout=max(5.0, end - time.monotonic())
            )
        except subprocess.TimeoutExpired:
            code, text = 255, "systemd is still starting units"
        if code != 255:
            break
        if time.monotonic() > end:
            raise Failure(f"machine {machine} did not come up in {seconds:.0f} s: {text}")
        time.sleep(POLL_SECONDS)
    if text == "running":
        return []
    _, failed = ssh(files, machine, "systemctl", "list-units", "--failed", "--plain", "--no-legend", timeout=30)
    return [line.split()[0] for line in failed.splitlines() if line.strip()]


def rebuild(podman: Podman, wanted: mp.Wanted, runner: Runner) -> list[mp.Step]:
    """Remove the testbed's machines and its network and make them again; the volumes and the addresses stay."""
    seen = look(podman, wanted, patience=0.0)
    steps = [mp.Step("remove machine", name, "cannot be brought back") for name in seen.containers]
    if seen.network:
        steps.append(mp.Step("remove network", seen.network, "it may hold addresses of machines that are gone"))
    bare = mp.Seen(seen.image, None, {}, seen.volumes, ())
    same = replace(wanted, subnet_pools=(str(runner.subnet),))
    # A new name: podman remembers by the network's name which addresses are taken, wrongly until the next boot.
    name = f"{wanted.testbed}-{int(time.time()):x}"
    steps += [
        replace(step, subject=name) if step.action == "create network" else step for step in mp.plan(same, bare)[1]
    ]
    for step in steps:
        runner.do(step)
    return steps


def present(module: AnsibleModule) -> dict[str, Any]:
    """Bring the machines up."""
    parameters = module.params
    files = Files(Path(parameters["state_dir"]), module.check_mode)
    files.directory()
    files.directory("secrets")
    conf = host_containers_conf()
    archives = parameters["apt_archives_dir"]
    machines = tuple(
        mp.Machine(
            name=name,
            host_number=int(item["host_number"]),
            volumes=item.get("volumes") or {},
            binds={f"{archives}/{parameters['testbed']}-{name}": APT_ARCHIVES} if archives else {},
            memory_gib=item.get("memory_gib"),
        )
        for name, item in parameters["machines"].items()
    )
    wanted = mp.Wanted(
        testbed=parameters["testbed"],
        machines=machines,
        image_key=parameters["image_key"],
        subnet_pools=tuple(parameters["subnet_pools"]),
        nameservers=tuple(parameters["nameservers"]),
        cgroup=cgroup_kind(),
        host_keys={
            m.name: files.key(f"ssh_host_{m.name}_ed25519", f"{parameters['testbed']}-{m.name}") for m in machines
        },
        anew=frozenset(parameters["rebuild"]),
        authorized_key=files.key("ssh_ed25519", f"operator of testbed {parameters['testbed']}"),
    )
    files.write("containers.conf", conf)
    podman = Podman(conf)
    try:
        seen = look(podman, wanted, patience=5.0)
        subnet, steps = mp.plan(wanted, seen)
        address = mp.addresses(subnet, machines)
        result: dict[str, Any] = {"steps": [vars(step) for step in steps], "failed_units": {}, "addresses": address}
        if not module.check_mode:
            podman.use(files.root / "containers.conf")
            archive = Path(parameters["image_archive"]) if parameters["image_archive"] else None
            runner = Runner(podman, wanted, subnet, files, archive, parameters["control_prefix"])
            runner.network = seen.network or wanted.testbed
            for step in steps:
                try:
                    runner.do(step)
                except Failure as error:
                    reviving = step.action in REVIVING and step.subject in seen.containers
                    if not reviving and "already allocated" not in str(error):
                        raise
                    # Make it anew around the volumes, which hold what matters.
                    module.warn(f"machines are made anew, since one could not be brought back: {error}")
                    steps += rebuild(podman, wanted, runner)
                    break
        if not module.check_mode or all(wanted.host_keys.values()):
            files.write("known_hosts", mp.known_hosts(wanted))
        files.write("ssh_config", mp.ssh_config(wanted, address, str(files.root)))
        files.write("machines.json", mp.machines_json(subnet, address, wanted.image_key))
        if not module.check_mode:
            started = {step.subject for step in steps if step.action == "start machine"}
            waiting = [m.name for m in machines if mp.container_name(wanted.testbed, m.name) in started]
            with ThreadPoolExecutor(8) as pool:
                for name, units in zip(
                    waiting,
                    pool.map(lambda n: wait_until_up(files, n, address[n], parameters["start_timeout"]), waiting),
                    strict=True,
                ):
                    if units:
                        result["failed_units"][name] = units
                        module.warn(f"machine {name} is up, but these units failed: {', '.join(units)}")
    finally:
        podman.close(undo=module.check_mode)
    result["changed"] = bool(steps or files.changed)
    result["changed_paths"] = files.changed
    before, after = mp.describe(seen), mp.foreseen(wanted, seen, subnet, steps) if steps else mp.describe(seen)
    result["diff"] = {
        "before": json.dumps(before, indent=2, default=str) + "\n",
        "after": json.dumps(after, indent=2, default=str) + "\n",
        "before_header": f"machines of {wanted.testbed}",
        "after_header": f"machines of {wanted.testbed}",
    }
    return result


def absent(module: AnsibleModule) -> dict[str, Any]:
    """Remove the testbed's machines and all that belongs to them."""
    testbed, root = module.params["testbed"], Path(module.params["state_dir"])
    wanted = mp.Wanted(testbed, (), "none", ())
    podman = Podman(host_containers_conf())
    try:
        # Where podman is gone or never was, no machine runs: only the directory is left to remove.
        here = shutil.which("podman") is not None
        seen = look(podman, wanted, patience=0.0) if here else mp.Seen(False, None, {}, frozenset())
        steps = mp.plan_removal(seen)
        if not module.check_mode:
            files = Files(root, check=False)
            runner = Runner(podman, wanted, mp.Network("192.0.2.0/24"), files, None, module.params["control_prefix"])
            machines = [step for step in steps if step.action == "discard machine"]
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(runner.do, machines))
            for step in steps[len(machines) :]:
                runner.do(step)
            if seen.subnet:
                remove_rules(seen.subnet)
    finally:
        podman.close(undo=module.check_mode)
    if root.exists():
        steps.append(mp.Step("remove directory", str(root), "teardown"))
        if not module.check_mode:
            shutil.rmtree(root)
    nothing: dict[str, Any] = {"network": None, "machines": {}, "volumes": []}
    return {
        "changed": bool(steps),
        "steps": [vars(step) for step in steps],
        "diff": {
            "before": json.dumps(mp.describe(seen), indent=2) + "\n",
            "after": json.dumps(nothing, indent=2) + "\n",
            "before_header": f"machines of {testbed}",
            "after_header": f"machines of {testbed}",
        },
    }


def remove_leftovers(container: str) -> None:
    """Remove what a container that was killed with its helpers left behind: mounts and control groups."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        path = line.split()[4]
        if container in path:
            subprocess.run(["umount", "--lazy", path], capture_output=True, check=False)
    cgroups = Path("/sys/fs/cgroup")
    for parent in (cgroups / "libpod_parent", *cgroups.glob("*/libpod_parent")):
        for where, _, _ in os.walk(parent / f"libpod-{container}", topdown=False):
            with contextlib.suppress(OSError):
                Path(where).rmdir()


def remove_rules(subnet: str) -> None:
    """Remove the firewall rules of a network that is gone: those of machines that died stay otherwise."""
    if not shutil.which("iptables-save"):
        return
    for table in ("nat", "filter"):
        saved = subprocess.run(["iptables-save", "-t", table], capture_output=True, text=True, check=False).stdout
        for rule in mp.leftover_rules(saved, subnet):
            subprocess.run(["iptables", "-w", "-t", table, *rule], capture_output=True, check=False)


def main() -> None:
    """Run the module."""
    # Where root came by plain su, its path lacks the directories of the system's programs.
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    module = AnsibleModule(
        argument_spec={
            "testbed": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "state_dir": {"type": "path", "required": True},
            "machines": {"type": "dict", "default": {}},
            "rebuild": {"type": "list", "elements": "str", "default": []},
            "image_key": {"type": "str", "default": "", "no_log": False},
            "image_archive": {"type": "path"},
            "apt_archives_dir": {"type": "path"},
            "subnet_pools": {"type": "list", "elements": "str", "default": []},
            "nameservers": {"type": "list", "elements": "str", "default": []},
            "control_prefix": {"type": "str", "default": ""},
            "start_timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    try:
        result = present(module) if module.params["state"] == "present" else absent(module)
    except (Failure, mp.Conflict) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
