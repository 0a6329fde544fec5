#!/usr/bin/python
"""Ansible module: the local machines of one testbed, all in one call."""

# ruff: noqa: E402 - Ansible reads the documentation blocks before the imports.

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
import io
import json
import os
import resource
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.module_utils import local_machines as lm
from ansible.module_utils.basic import AnsibleModule

SSH_PORT = 22
APT_ARCHIVES = "/var/cache/apt/archives"
POLL_SECONDS = 0.1


class Failure(Exception):
    """A command that must not fail did."""


class Podman:
    """podman with the testbed's own configuration."""

    def __init__(self, containers_conf: str) -> None:
        # A file of our own for reading: in check mode, and before the first run, there is none in the state directory.
        with tempfile.NamedTemporaryFile("w", prefix="containers-", suffix=".conf", delete=False) as handle:
            handle.write(containers_conf)
        self._conf = Path(handle.name)
        self._environment = {**os.environ, "CONTAINERS_CONF": handle.name, "LC_ALL": "C.UTF-8"}

    def close(self) -> None:
        """Remove what was written."""
        self._conf.unlink(missing_ok=True)

    def use(self, conf: Path) -> None:
        """Take the configuration from `conf` from now on: podman's helpers live longer than this module."""
        self._environment["CONTAINERS_CONF"] = str(conf)

    def run(self, *argv: str, data: bytes | None = None, ok: tuple[int, ...] = (0,), timeout: float = 300) -> str:
        """Run podman and give what it prints.

        Raises Failure where it ends with anything but `ok`.
        """
        done = subprocess.run(
            ["podman", *argv], input=data, capture_output=True, env=self._environment, timeout=timeout, check=False
        )
        if done.returncode not in ok:
            text = done.stderr.decode(errors="replace").strip()
            raise Failure(f"podman {' '.join(argv[:3])} ended with {done.returncode}: {text}")
        return done.stdout.decode(errors="replace")

    def json(self, *argv: str) -> list[dict[str, Any]]:
        """Run podman and parse what it prints."""
        return list(json.loads(self.run(*argv, "--format=json") or "null") or [])


def cgroup_kind() -> str:
    """Say which cgroups the host has: `v1`, `hybrid` or `v2`."""
    kinds = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind = line.split()[:3]
        if where.startswith("/sys/fs/cgroup"):
            kinds[where] = kind
    if kinds.get("/sys/fs/cgroup") == "cgroup2":
        return "v2"
    return "hybrid" if "cgroup2" in kinds.values() else "v1"


def host_containers_conf() -> str:
    """Write podman's configuration for this host."""
    cgroup = cgroup_kind()

    def hard(limit: int, most: int) -> int:
        value = resource.getrlimit(limit)[1]
        return most if value == resource.RLIM_INFINITY else min(value, most)

    # crun cannot do hybrid cgroups, and not every distribution's podman brings runc.
    order = ("crun", "runc") if cgroup == "v2" else ("runc", "crun")
    runtime = next((name for name in order if shutil.which(name)), order[0])
    return lm.containers_conf(
        cgroup,
        Path("/run/systemd/system").is_dir(),
        hard(resource.RLIMIT_NOFILE, 1048576),
        # podman itself lowers its limit to this, and a container's cannot be above.
        hard(resource.RLIMIT_NPROC, int(Path("/proc/sys/kernel/pid_max").read_text())),
        runtime,
    )


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


def used_networks(podman: Podman, own: str) -> list[str]:
    """List what the testbed's subnet must not overlap."""
    routes = json.loads(subprocess.run(["ip", "-json", "-4", "route", "show", "table", "all"], check=True, capture_output=True).stdout)
    used = lm.routed_networks(routes)
    for network in podman.json("network", "ls"):
        if network["name"] != own:
            used += [subnet["subnet"] for subnet in network.get("subnets") or []]
    for line in Path("/etc/resolv.conf").read_text().splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and ":" not in words[1]:
            used.append(words[1])
    return used


def look(podman: Podman, wanted: lm.Wanted, patience: float) -> lm.Seen:
    """Read what there is of the testbed.

    Raises lm.Conflict where something of its name is not its own.
    """
    label = f"label={lm.LABEL}={wanted.testbed}"
    networks = {network["name"]: network for network in podman.json("network", "ls")}
    network = networks.get(wanted.testbed)
    if network and (network.get("labels") or {}).get(lm.LABEL) != wanted.testbed:
        raise lm.Conflict(f"a podman network {wanted.testbed} exists that no testbed made: choose another testbed_name")
    subnet = network["subnets"][0]["subnet"] if network else None
    where = lm.addresses(lm.Network(subnet), wanted.machines) if subnet else {}
    by_container = {lm.container_name(wanted.testbed, name): address for name, address in where.items()}

    def container(item: dict[str, Any]) -> lm.Container:
        name = item["Names"][0]
        state = str(item["State"])
        lives = state == "running" and alive(item["Id"], int(item.get("Pid") or 0))
        return lm.Container(
            id=item["Id"],
            state=state,
            definition=(item.get("Labels") or {}).get(lm.DEFINITION_LABEL, ""),
            alive=lives,
            answers=lives and name in by_container and wait_for_answer(by_container[name], patience),
        )

    found = podman.json("ps", "--all", f"--filter={label}")
    with ThreadPoolExecutor(8) as pool:
        containers = dict(zip((item["Names"][0] for item in found), pool.map(container, found), strict=True))
    image = podman.run("image", "ls", "--quiet", f"--filter=label={lm.IMAGE_LABEL}={wanted.image_key}")
    return lm.Seen(
        image=bool(image.strip()),
        subnet=subnet,
        containers=containers,
        volumes=frozenset(volume["Name"] for volume in podman.json("volume", "ls", f"--filter={label}")),
        used=() if subnet else tuple(used_networks(podman, wanted.testbed)),
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


def key_archive(files: Files, wanted: lm.Wanted, machine: str) -> bytes:
    """Pack the files that make a machine this one: its host key, and the key that may log in."""
    secrets = files.root / "secrets"
    host_key = f"ssh_host_{machine}_ed25519"
    content = {
        "etc/ssh/ssh_host_ed25519_key": ((secrets / host_key).read_bytes(), 0o600),
        "etc/ssh/ssh_host_ed25519_key.pub": ((wanted.host_keys[machine] + "\n").encode(), 0o644),
        "root/.ssh/authorized_keys": ((wanted.authorized_key + "\n").encode(), 0o600),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, (data, mode) in content.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode, member.mtime = len(data), mode, int(time.time())
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


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

    def __init__(self, podman: Podman, wanted: lm.Wanted, subnet: lm.Network, files: Files, archive: Path | None) -> None:
        self.podman = podman
        self.wanted = wanted
        self.subnet = subnet
        self.files = files
        self.archive = archive
        self.machines = {lm.container_name(wanted.testbed, machine.name): machine for machine in wanted.machines}

    def do(self, step: lm.Step) -> None:
        """Do one step."""
        getattr(self, "_" + step.action.replace(" ", "_"))(step.subject)

    def _create_network(self, name: str) -> None:
        # No name server of podman's: the machines know each other from /etc/hosts, and ask the host's.
        self.podman.run(
            "network", "create", f"--label={lm.LABEL}={name}", f"--subnet={self.subnet}", "--disable-dns", name
        )

    def _create_volume(self, name: str) -> None:
        self.podman.run("volume", "create", f"--label={lm.LABEL}={self.wanted.testbed}", name)

    def _import_image(self, name: str) -> None:
        if self.archive is None or not self.archive.is_file():
            raise Failure(f"the image's archive {self.archive} is missing")
        self.podman.run(
            "import",
            "--quiet",
            f"--change=LABEL {lm.IMAGE_LABEL}={self.wanted.image_key}",
            '--change=CMD ["/sbin/init"]',
            "--change=STOPSIGNAL SIGRTMIN+3",
            str(self.archive),
            name,
        )

    def _create_machine(self, name: str) -> None:
        machine = self.machines[name]
        for source in machine.binds:
            seed_archives(Path(source))
        label = f"--label={lm.DEFINITION_LABEL}={lm.definition(self.wanted, machine, self.subnet)}"
        self.podman.run("create", label, *lm.create_options(self.wanted, machine, self.subnet))
        self.podman.run("cp", "-", f"{name}:/", data=key_archive(self.files, self.wanted, machine.name))

    def _start_machine(self, name: str) -> None:
        self.podman.run("start", name)

    def _stop_machine(self, name: str) -> None:
        self.podman.run("stop", name)

    def _clear_machine(self, name: str) -> None:
        self.podman.run("kill", name, ok=(0, 125))
        self.podman.run("container", "cleanup", name, ok=(0, 125))

    def _remove_machine(self, name: str) -> None:
        self.podman.run("rm", "--force", "--time=20", name)


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
            code, text = ssh(files, machine, "systemctl", "is-system-running", "--wait", timeout=max(5.0, end - time.monotonic()))
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


def present(module: AnsibleModule) -> dict[str, Any]:
    """Bring the machines up."""
    parameters = module.params
    files = Files(Path(parameters["state_dir"]), module.check_mode)
    files.directory()
    files.directory("secrets")
    conf = host_containers_conf()
    archives = parameters["apt_archives_dir"]
    machines = tuple(
        lm.Machine(
            name=name,
            host_number=int(item["host_number"]),
            volumes=item.get("volumes") or {},
            binds={f"{archives}/{parameters['testbed']}-{name}": APT_ARCHIVES} if archives else {},
            memory_gib=item.get("memory_gib"),
        )
        for name, item in parameters["machines"].items()
    )
    wanted = lm.Wanted(
        testbed=parameters["testbed"],
        machines=machines,
        image_key=parameters["image_key"],
        subnet_pools=tuple(parameters["subnet_pools"]),
        nameservers=tuple(parameters["nameservers"]),
        cgroup=cgroup_kind(),
        host_keys={m.name: files.key(f"ssh_host_{m.name}_ed25519", f"{parameters['testbed']}-{m.name}") for m in machines},
        authorized_key=files.key("ssh_ed25519", f"operator of testbed {parameters['testbed']}"),
    )
    files.write("containers.conf", conf)
    podman = Podman(conf)
    try:
        seen = look(podman, wanted, patience=5.0)
        subnet, steps = lm.plan(wanted, seen)
        address = lm.addresses(subnet, machines)
        result: dict[str, Any] = {"steps": [vars(step) for step in steps], "failed_units": {}, "addresses": address}
        if not module.check_mode:
            podman.use(files.root / "containers.conf")
            runner = Runner(podman, wanted, subnet, files, Path(parameters["image_archive"] or "/nowhere"))
            for step in steps:
                runner.do(step)
        if not module.check_mode or all(wanted.host_keys.values()):
            files.write("known_hosts", lm.known_hosts(wanted))
        files.write("ssh_config", lm.ssh_config(wanted, address, str(files.root)))
        files.write("machines.json", lm.machines_json(subnet, address))
        if not module.check_mode:
            started = {step.subject for step in steps if step.action == "start machine"}
            waiting = [m.name for m in machines if lm.container_name(wanted.testbed, m.name) in started]
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
        podman.close()
    result["changed"] = bool(steps or files.changed)
    result["changed_paths"] = files.changed
    before, after = lm.describe(seen), lm.foreseen(wanted, seen, subnet, steps) if steps else lm.describe(seen)
    result["diff"] = {
        "before": json.dumps(before, indent=2, default=str) + "\n",
        "after": json.dumps(after, indent=2, default=str) + "\n",
        "before_header": f"machines of {wanted.testbed}",
        "after_header": f"machines of {wanted.testbed}",
    }
    return result


def absent(module: AnsibleModule) -> dict[str, Any]:
    """Remove the testbed's machines and all that belongs to them."""
    raise NotImplementedError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "testbed": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "state_dir": {"type": "path", "required": True},
            "machines": {"type": "dict", "default": {}},
            "image_key": {"type": "str", "default": "", "no_log": False},
            "image_archive": {"type": "path"},
            "apt_archives_dir": {"type": "path"},
            "subnet_pools": {"type": "list", "elements": "str", "default": []},
            "nameservers": {"type": "list", "elements": "str", "default": []},
            "start_timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    try:
        result = present(module) if module.params["state"] == "present" else absent(module)
    except (Failure, lm.Conflict) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
