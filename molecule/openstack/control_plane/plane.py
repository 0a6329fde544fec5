#!/usr/bin/env python3
"""OpenStack on loopback, for tests: keystone, placement, glance, neutron, nova and cinder as published.

Nothing boots: nova has its fake hypervisor on two hosts, and stand_ins/ says that ports and addresses work and that
volumes are written. All else is real: tokens, policies, quotas, scheduling, addresses, security groups, attachments,
errors. It needs no root, message bus, database server or systemd.

Usage: plane.py start DIRECTORY | stop DIRECTORY | install
DIRECTORY gets clouds.yaml: cloud `member` is a plain member of project `lab`, `admin` the cloud's administrator.
The environment (requirements.lock) and the databases made once are kept in ~/.cache/caesar-testbed/openstack.
"""

from __future__ import annotations

import argparse
import grp
import hashlib
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import sqlite3
import string
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The project's own modules lie with the Ansible ones; last, since tests import this file too.
sys.path.append(str(HERE.parents[2] / "roles/common/module_utils"))

from uv_program import find_uv  # noqa: E402

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "caesar-testbed" / "openstack"
SERVICES = ("keystone", "placement", "glance", "neutron", "nova", "cinder")
PATHS = {"keystone": "/v3", "placement": "", "glance": "", "neutron": "", "nova": "/v2.1", "cinder": "/v3"}
USERS = ("admin", "member", "placement", "glance", "neutron", "nova", "cinder")
#: Raised where the function initialise() makes something else of the same files.
GENERATION = 1
START_SECONDS = 240.0


def digest(*paths: Path) -> str:
    """Name what this Python and the contents of these files determine."""
    found = hashlib.sha256(f"{sys.version_info[:2]} {sys.base_prefix}".encode())
    for path in sorted(paths):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def install() -> Path:
    """Give the control plane's environment, made from the lock file where it is not there."""
    venv = CACHE / f"venv-{digest(HERE / 'requirements.lock')}"
    done = venv / "complete"
    if not done.exists():
        print("Installing OpenStack's services from requirements.lock, once.", flush=True)
        shutil.rmtree(venv, ignore_errors=True)
        uv, python, lock = find_uv(CACHE.parent), str(venv / "bin/python"), str(HERE / "requirements.lock")
        subprocess.run([uv, "venv", "--quiet", f"--python={sys.executable}", str(venv)], check=True)
        pip = [uv, "pip", "install", "--quiet", f"--python={python}"]
        subprocess.run([*pip, "--require-hashes", "-r", lock], check=True)
        packages = next((venv / "lib").iterdir()) / "site-packages"
        # Only what is not compiled yet; some files of tests are for other Pythons.
        compiled = [python, "-m", "compileall", "-q", "-j0", "-x", "/tests?/", str(packages)]
        subprocess.run(compiled, check=False, stdout=subprocess.DEVNULL)
        done.touch()
    return venv


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def url(ports: dict[str, int], service: str) -> str:
    """Give where a service is."""
    return f"http://127.0.0.1:{ports[service]}{PATHS[service]}"


def configure(directory: Path, venv: Path, ports: dict[str, int], passwords: dict[str, str]) -> None:
    """Write the services' configuration, clouds.yaml and ports.json."""
    values = {"directory": str(directory), "venv": str(venv)} | {name: str(port) for name, port in ports.items()}
    values |= {f"{user}_password": password for user, password in passwords.items()}
    for template in (HERE / "etc").iterdir():
        write(directory / template.name, string.Template(template.read_text()).substitute(values))
    # nova looks for it beside its configuration.
    shutil.copy(venv / "etc/nova/api-paste.ini", directory)
    write(directory / "ports.json", json.dumps(ports))
    clouds = {
        user: {
            "auth": {
                "auth_url": url(ports, "keystone"),
                "username": user,
                "password": passwords[user],
                "project_name": project,
                "user_domain_name": "Default",
                "project_domain_name": "Default",
            },
            "region_name": "RegionOne",
        }
        for user, project in (("member", "lab"), ("admin", "admin"))
    }
    write(directory / "clouds.yaml", json.dumps({"clouds": clouds}, indent=2) + "\n")


def write(path: Path, text: str) -> None:
    """Write a file that others may not read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)


def relocate(directory: Path, ports: dict[str, int]) -> None:
    """Tell the databases where they lie and where the services are."""
    with sqlite3.connect(directory / "keystone.db") as database:
        for kind, service in (
            ("identity", "keystone"),
            ("placement", "placement"),
            ("image", "glance"),
            ("network", "neutron"),
            ("compute", "nova"),
            ("volumev3", "cinder"),
        ):
            database.execute(
                "UPDATE endpoint SET url = ? WHERE service_id IN (SELECT id FROM service WHERE type = ?)",
                (url(ports, service), kind),
            )
    with sqlite3.connect(directory / "nova-api.db") as database:
        for cell, file in (("cell0", "nova-cell0.db"), ("cell1", "nova.db")):
            database.execute(
                "UPDATE cell_mappings SET database_connection = ? WHERE name = ?",
                (f"sqlite:///{directory}/{file}", cell),
            )


def launch(directory: Path, venv: Path, ports: dict[str, int], services: tuple[str, ...] = SERVICES) -> None:
    """Start these services, all at once, and wait until they answer.

    Raises:
        RuntimeError: where one ends or does not answer in time; its last lines are in the message.
    """
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("OS_") and "proxy" not in key.lower()
    }
    environment |= {"PYTHONPATH": str(HERE / "stand_ins"), "PYTHONWARNINGS": "ignore"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    processes = {}
    for service in services:
        with (directory / f"{service}.out").open("wb") as out:
            processes[service] = subprocess.Popen(
                [venv / "bin/python", HERE / "serve.py", service, str(ports[service]), directory],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    found = {service: [process.pid, started(process.pid)] for service, process in processes.items()}
    write(directory / "processes.json", json.dumps(found))
    end = time.monotonic() + START_SECONDS
    for service in services:
        while not answers(f"http://127.0.0.1:{ports[service]}/"):
            if processes[service].poll() is not None or time.monotonic() > end:
                tail = (directory / f"{service}.out").read_text(errors="replace")[-3000:]
                stop(directory)
                raise RuntimeError(f"{service} does not answer:\n{tail}")
            time.sleep(0.1)


def answers(where: str) -> bool:
    """Tell whether a service speaks HTTP."""
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(where, timeout=20).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def started(pid: int) -> str | None:
    """When a process started, in the kernel's ticks: with its id that names it for good. None where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def stop(directory: Path) -> None:
    """End exactly the processes that were started for this directory."""
    record = directory / "processes.json"
    if not record.exists():
        return
    ours = [(pid, since) for pid, since in json.loads(record.read_text()).values()]
    for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
        for pid, since in ours:
            if since is not None and started(pid) == since:
                os.kill(pid, number)
        end = time.monotonic() + patience
        while any(since is not None and started(pid) == since for pid, since in ours) and time.monotonic() < end:
            time.sleep(0.05)
    record.unlink()


def initialise(venv: Path, archive: Path) -> None:
    """Make the databases and what a cloud has before anybody uses it, and keep them as an archive."""
    print("Making the databases of the control plane, once.", flush=True)
    directory = archive.with_suffix(".new")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, mode=0o700)
    for name in ("images", "staging", "tasks", "locks", "instances", "coordination", "fernet-keys", "credential-keys"):
        (directory / name).mkdir(mode=0o700)
    passwords = {user: secrets.token_hex(16) for user in USERS}
    write(directory / "passwords.json", json.dumps(passwords))
    ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
    configure(directory, venv, ports, passwords)

    def run(program: str, *arguments: str, **environment: str) -> None:
        python = [str(venv / "bin/python")] if program.endswith(".py") else []
        where = str(HERE / program) if python else str(venv / "bin" / program)
        done = subprocess.run(
            [*python, where, *arguments],
            env=os.environ | {"PYTHONPATH": str(HERE / "stand_ins"), "PYTHONWARNINGS": "ignore"} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program} {arguments[:3]} ended with {done.returncode}: {done.stderr[-3000:]}")

    keystone, nova = f"--config-file={directory}/keystone.conf", f"--config-file={directory}/nova.conf"
    run("keystone-manage", keystone, "db_sync")
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    for keys in ("fernet_setup", "credential_setup"):
        run("keystone-manage", keystone, keys, f"--keystone-user={user}", f"--keystone-group={group}")
    # By environment, for a password is no argument.
    run(
        "keystone-manage",
        keystone,
        "bootstrap",
        "--bootstrap-region-id=RegionOne",
        f"--bootstrap-public-url={url(ports, 'keystone')}",
        f"--bootstrap-internal-url={url(ports, 'keystone')}",
        OS_BOOTSTRAP_PASSWORD=passwords["admin"],
    )
    run("placement-manage", f"--config-file={directory}/placement.conf", "db", "sync")
    run("glance-manage", f"--config-file={directory}/glance-api.conf", "db_sync")
    run("cinder-manage", f"--config-file={directory}/cinder.conf", "db", "sync")
    run("initialise.py", "tables", f"sqlite:///{directory}/neutron.db")
    run("nova-manage", nova, "api_db", "sync")
    run("nova-manage", nova, "cell_v2", "map_cell0", f"--database_connection=sqlite:///{directory}/nova-cell0.db")
    run("nova-manage", nova, "db", "sync")
    run("nova-manage", nova, "cell_v2", "create_cell", "--name=cell1")
    # Users first: nova's compute asks placement when it starts.
    for step, services in (("accounts", SERVICES[:1]), ("cloud", SERVICES)):
        launch(directory, venv, ports, services)
        try:
            run("initialise.py", step, str(directory))
        finally:
            stop(directory)
    for pattern in ("*.log", "*.out", "*.requests", "*.conf", "clouds.yaml"):
        for path in directory.glob(pattern):
            path.unlink()
    for path in directory.glob("*.db"):
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with tarfile.open(archive.with_suffix(".part"), "w") as out:
        out.add(directory, ".")
    archive.with_suffix(".part").chmod(0o600)
    archive.with_suffix(".part").rename(archive)
    shutil.rmtree(directory)


def start(directory: Path) -> None:
    """Put up a control plane in its first state, in `directory`, which is emptied."""
    venv = install()
    made_by = [HERE / "requirements.lock", HERE / "initialise.py", *(HERE / "etc").iterdir()]
    archive = CACHE / f"databases-{digest(*made_by)}-{GENERATION}.tar"
    if not archive.exists():
        initialise(venv, archive)
    stop(directory)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, mode=0o700)
    with tarfile.open(archive) as packed:
        # Python 3.11 before 3.11.4 has no filters.
        packed.extraction_filter = getattr(tarfile, "data_filter", None)
        packed.extractall(directory)
    ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
    configure(directory, venv, ports, json.loads((directory / "passwords.json").read_text()))
    relocate(directory, ports)
    launch(directory, venv, ports)


@contextmanager
def running(directory: Path) -> Iterator[Path]:
    """Have a control plane for the time of a block; gives its clouds.yaml."""
    start(directory)
    try:
        yield directory / "clouds.yaml"
    finally:
        stop(directory)


def requests(directory: Path) -> list[dict[str, object]]:
    """Read what was asked of the services, in order of time; each with service, method, path, status, agent."""
    found = []
    for service in SERVICES:
        path = directory / f"{service}.requests"
        for line in path.read_text().splitlines() if path.exists() else []:
            found.append({"service": service, **json.loads(line)})
    return sorted(found, key=lambda one: one["at"])


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description="An OpenStack control plane on loopback, for tests.")
    parser.add_argument("verb", choices=["install", "start", "stop"])
    parser.add_argument("directory", type=Path, nargs="?")
    arguments = parser.parse_args()
    if arguments.verb == "install":
        print(install())
    elif arguments.directory is None:
        parser.error("which directory?")
    elif arguments.verb == "start":
        start(arguments.directory.resolve())
        print(arguments.directory.resolve() / "clouds.yaml")
    else:
        stop(arguments.directory.resolve())


if __name__ == "__main__":
    main()
