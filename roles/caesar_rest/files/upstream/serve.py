"""Start caesar-rest's application, its job monitor or its accounter, just as they are.

Usage: serve.py app|monitor|accounter

All take their settings from the arguments of their process, where anybody on the machine reads them, and write the
database's password to their logs. So the arguments are set here, within the process, from the environment and from
files, and what is written to the logs has the password taken out.

| variable | is |
|---|---|
| MONGO_APP_FILE, MONGO_MONITOR_FILE | files with the address and password of the database |
| DATADIR, JOBDIR | where uploads and jobs lie |
| SLURM_HOST, SLURM_PORT, SLURM_USER, SLURM_KEYFILE, SLURM_DATADIR, SLURM_JOBDIR | the Slurm |
| JOB_MONITORING_PERIOD, ACCOUNTING_PERIOD | seconds between two looks at the jobs, and between two counts |
| MONGO_TIMEOUT_MS | how long a request waits for a database that is down |
| PORT, THREADS, LOGLEVEL | of the application |
| ALIVE_FILE | touched whenever something is logged |
"""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

SOURCE = Path("/opt/caesar-rest/source")


class Redacted:
    """A stream in which secrets read ***."""

    def __init__(self, stream: TextIO, secrets: list[str], alive: str = "") -> None:
        self._stream = stream
        self._secrets = secrets
        self._alive = alive

    def write(self, text: str) -> int:
        """Write, without the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        if self._alive:
            Path(self._alive).touch()
        self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def secret(path: str) -> str:
    """Read a file that a Secret was mounted as."""
    return Path(path).read_text(encoding="utf-8").strip()


def passwords(address: str) -> list[str]:
    """Find the password in USER:PASSWORD@HOST."""
    found = re.search(r":([^:@/]+)@", address)
    return [found[1]] if found else []


def slurm_arguments(environment: Mapping[str, str]) -> list[str]:
    """Tell which Slurm, and who one is there."""
    return ["--job_scheduler=slurm"] + [
        f"--slurm_{name}={environment[f'SLURM_{name.upper()}']}" for name in ("host", "port", "user", "keyfile")
    ]


def app_arguments(environment: Mapping[str, str], address: str) -> list[str]:
    """The application's: it puts the database's address together from three; options of it go with the name."""
    wait = environment.get("MONGO_TIMEOUT_MS", "5000")
    return [
        *slurm_arguments(environment),
        f"--datadir={environment['DATADIR']}",
        f"--jobdir={environment['JOBDIR']}",
        f"--slurm_datadir={environment['SLURM_DATADIR']}",
        f"--slurm_jobdir={environment['SLURM_JOBDIR']}",
        f"--dbhost={address}",
        f"--dbname=caesardb?serverSelectionTimeoutMS={wait}&connectTimeoutMS={wait}",
        f"--loglevel={environment.get('LOGLEVEL', 'INFO')}",
    ]


def database_arguments(environment: Mapping[str, str], address: str) -> list[str]:
    """The monitor's and the accounter's: they take a whole address."""
    wait = environment.get("MONGO_TIMEOUT_MS", "5000")
    return [f"--dbhost={address}?serverSelectionTimeoutMS={wait}&connectTimeoutMS={wait}", "--dbname=caesardb"]


def monitor_arguments(environment: Mapping[str, str], address: str) -> list[str]:
    """The monitor's."""
    return [
        *slurm_arguments(environment),
        f"--job_monitoring_period={environment.get('JOB_MONITORING_PERIOD', '5')}",
        *database_arguments(environment, address),
    ]


def accounter_arguments(environment: Mapping[str, str], address: str) -> list[str]:
    """The accounter's, which calls its period as the monitor does."""
    return [
        f"--datadir={environment['DATADIR']}",
        f"--jobdir={environment['JOBDIR']}",
        f"--job_monitoring_period={environment.get('ACCOUNTING_PERIOD', '60')}",
        *database_arguments(environment, address),
    ]


PROGRAMS = {"monitor": ("run_jobmonitor.py", monitor_arguments), "accounter": ("run_accounter.py", accounter_arguments)}


def load_app(arguments: list[str]) -> Any:
    """Load the application, which reads its arguments while it is imported."""
    sys.argv = ["run_app.py", *arguments]
    spec = importlib.util.spec_from_file_location("run_app", SOURCE / "apps/run_app.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


def serve(environment: Mapping[str, str], address: str) -> None:
    """Serve the application: one process, many threads."""
    from gunicorn.app.base import BaseApplication

    class Served(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            for name, value in {
                "bind": f"0.0.0.0:{environment.get('PORT', '3031')}",
                "workers": 1,
                "threads": int(environment.get("THREADS", "8")),
                "worker_class": "gthread",
                "worker_tmp_dir": "/tmp",
                "control_socket_disable": True,
                "timeout": 120,
                "errorlog": "-",
            }.items():
                if name in self.cfg.settings:
                    self.cfg.set(name, value)

        def load(self) -> Any:
            return load_app(app_arguments(environment, address))

    # gunicorn takes the process's arguments for its own.
    sys.argv = ["serve.py"]
    Served().run()


def main() -> None:
    """Run what is asked for."""
    what = sys.argv[1] if len(sys.argv) == 2 else ""
    if what not in ("app", *PROGRAMS):
        sys.exit(__doc__)
    os.umask(0o022)
    sys.path.insert(0, str(SOURCE))
    address = secret(os.environ["MONGO_APP_FILE" if what == "app" else "MONGO_MONITOR_FILE"])
    for name in ("stdout", "stderr"):
        setattr(sys, name, Redacted(getattr(sys, name), passwords(address), os.environ.get("ALIVE_FILE", "")))
    if what == "app":
        serve(os.environ, address)
    else:
        program, arguments = PROGRAMS[what]
        sys.argv = [program, *arguments(os.environ, address)]
        runpy.run_path(str(SOURCE / "apps" / program), run_name="__main__")


if __name__ == "__main__":
    main()
