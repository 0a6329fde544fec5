"""A real voter process before stub planners, for benchmarks: everything on loopback, in a directory of its own."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

KEY = b"the key of a benchmark, 32 bytes or more"
TOKEN = "the token of a benchmark"


@dataclass(frozen=True)
class Stubs:
    """The voter and its planners."""

    url: str
    planners: str
    """Address of the first planner, which knows how long the slowest took."""
    directory: Path
    voter: int
    """Process id of the voter."""
    stub: int
    """Process id of the planners."""

    def slowest_ms(self) -> float:
        """Tell how long the slowest planner took since it was last asked."""
        return float(httpx.get(self.planners + "/slowest", trust_env=False).json()["slowest_ms"])

    def cpu_ms(self) -> tuple[float, float]:
        """Tell what the voter and the planners have computed so far."""
        return _cpu_ms(self.voter), _cpu_ms(self.stub)

    def memory_mb(self) -> float:
        """Tell what the voter has resident."""
        status = Path(f"/proc/{self.voter}/status").read_text()
        return next(int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmRSS:"))


def _cpu_ms(process: int) -> float:
    # In nanoseconds, where /proc/PID/stat has hundredths of a second.
    threads = Path(f"/proc/{process}/task").iterdir()
    return sum(int((each / "schedstat").read_text().split()[0]) for each in threads) / 1e6


@contextmanager
def stubs(
    count: int, answer_ms: float = 20, hang: int = 0, run_ms: float = 200, *, own_core: bool = False, **config: Any
) -> Iterator[Stubs]:
    """Run planners and a voter until the block ends.

    With `own_core` the planners have the last core for themselves and the voter the others: theirs are other machines.
    """
    here = Path(__file__).parent
    command = [sys.executable, str(here / "stub_planners.py"), "--count", str(count), "--answer-ms", str(answer_ms)]
    command += ["--hang", str(hang), "--run-ms", str(run_ms)]
    with (
        tempfile.TemporaryDirectory(prefix="voter-") as name,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as served,
    ):
        directory = Path(name)
        assert served.stdout is not None
        ports = json.loads(served.stdout.readline())
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        path = _configure(directory, port, ports, config)
        with subprocess.Popen(
            [sys.executable, "-m", "planner_app.voter", "--config", str(path)], stdout=subprocess.DEVNULL
        ) as voter:
            cores = sorted(os.sched_getaffinity(0))
            if own_core and len(cores) > 1:
                os.sched_setaffinity(served.pid, cores[-1:])
                os.sched_setaffinity(voter.pid, cores[:-1])
            try:
                url = f"http://127.0.0.1:{port}"
                _wait(url)
                yield Stubs(url, f"http://127.0.0.1:{ports[0]}", directory, voter.pid, served.pid)
            finally:
                voter.kill()
                served.kill()


def _configure(directory: Path, port: int, ports: list[int], more: dict[str, Any]) -> Path:
    for name in ("data", "data/rest", "jobs"):
        (directory / name).mkdir()
    (directory / "key").write_bytes(KEY)
    (directory / "clients").write_text(f"benchmark {hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    planners = [
        {"name": f"planner-{number:03}", "url": f"http://127.0.0.1:{each}", "token": "x"}
        for number, each in enumerate(ports)
    ]
    (directory / "planners.yml").write_text(yaml.safe_dump({"planners": planners}))
    document = {
        "listen": {"host": "127.0.0.1", "port": port},
        "url": f"http://127.0.0.1:{port}",
        "database": f"sqlite:///{directory}/ballots.sqlite",
        "storage": {"data": str(directory / "data"), "keep_free_bytes": 0},
        "clients_file": str(directory / "clients"),
        "planners_file": str(directory / "planners.yml"),
        "apps": {"aegean": {"image": "x", "duration": "PT1H", "memory_gib": {"min": 1, "max": 4}}},
        "slurmrestd": {
            "key_file": str(directory / "key"),
            "user": "caesar",
            "data": str(directory / "data/rest"),
            "jobs": str(directory / "jobs"),
            "images": {"aegean-job_latest.sif": "aegean"},
        },
    }
    path = directory / "voter.yml"
    path.write_text(yaml.safe_dump(document | more))
    return path


def _wait(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            httpx.get(url + "/health", trust_env=False).raise_for_status()
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
