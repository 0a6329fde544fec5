"""Ledgers and ballots are copied while they are written, and put back: playbooks/files/state-copy, state-put-back."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from pathlib import Path

import pytest

FILES = Path(__file__).parents[2] / "playbooks/files"
BALLOTS, LEDGER = "var/lib/caesar-voter/ballots.sqlite", "var/lib/caesar-planner/lab-a/ledger.sqlite"
#: As planner_app's voter and ledger make theirs: numbers that are never given twice, and others.
JOBS = "CREATE TABLE jobs (id INTEGER PRIMARY KEY AUTOINCREMENT, name)"
SESSIONS = "CREATE TABLE sessions (id INTEGER PRIMARY KEY, name)"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A root with a planner's and a voter's directory, and a systemctl that notes what it was told."""
    for name in (BALLOTS, LEDGER):
        (tmp_path / name).parent.mkdir(parents=True)
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/calls\n')
    systemctl.chmod(0o755)
    return tmp_path


def run(machine: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{machine}:{os.environ['PATH']}", "STATE_ROOT": str(machine)}
    program = [FILES / words[0], "ledgers", machine / "copy.tar"]
    return subprocess.run(program, env=environment, capture_output=True, text=True, check=False, timeout=60)


def write(path: Path, table: str, count: int) -> sqlite3.Connection:
    """Add rows, as a service that goes on with its journal beside the file."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    words = table.split()
    connection.execute(table.replace("TABLE", "TABLE IF NOT EXISTS", 1))
    connection.executemany(f"INSERT INTO {words[2]} (name) VALUES (?)", [("before",)] * count)
    connection.commit()
    return connection


def rows(path: Path, table: str) -> list[int]:
    connection = sqlite3.connect(path)
    try:
        return [number for (number,) in connection.execute(f"SELECT id FROM {table} ORDER BY id")]
    finally:
        connection.close()


def copied(machine: Path, ballots: int, ledger: int) -> None:
    """Copy what two services have that write on."""
    services = [write(machine / BALLOTS, JOBS, ballots), write(machine / LEDGER, SESSIONS, ledger)]
    done = run(machine, "state-copy")
    assert done.returncode == 0, done.stderr
    for service in services:
        service.close()


@pytest.mark.parametrize(("before", "since"), [(3, 5), (3, 0), (0, 5)])
def test_what_is_put_back_is_that_of_the_copy_and_gives_no_number_twice(machine: Path, before: int, since: int) -> None:
    copied(machine, before, 2)
    for path, table in ((BALLOTS, JOBS), (LEDGER, SESSIONS)):
        write(machine / path, table, since).close()
    done = run(machine, "state-put-back")
    assert done.returncode == 0, done.stderr
    assert (machine / "calls").read_text().split("\n")[:-1] == [
        "stop planner@lab-a.service", "stop caesar-voter.service",
    ]  # fmt: skip
    assert rows(machine / BALLOTS, "jobs") == list(range(1, before + 1))
    assert rows(machine / LEDGER, "sessions") == [1, 2]
    write(machine / BALLOTS, JOBS, 1).close()
    write(machine / LEDGER, SESSIONS, 1).close()
    assert rows(machine / BALLOTS, "jobs")[-1] == before + since + 1
    assert rows(machine / LEDGER, "sessions") == [1, 2, 3]
    assert [file.name for file in (machine / BALLOTS).parent.iterdir()] == ["ballots.sqlite"]


def test_what_cannot_be_read_any_more_is_replaced_and_said(machine: Path) -> None:
    copied(machine, 3, 2)
    (machine / BALLOTS).write_bytes(b"no database" * 999)
    done = run(machine, "state-put-back")
    assert done.returncode == 0, done.stderr
    assert "numbers of its jobs may be given again" in done.stderr
    assert rows(machine / BALLOTS, "jobs") == [1, 2, 3]


def test_nothing_is_touched_where_a_copy_is_broken(machine: Path) -> None:
    copied(machine, 3, 2)
    work = machine / "work"
    work.mkdir()
    subprocess.run(["tar", "-xf", machine / "copy.tar", "-C", work], check=True)
    (work / BALLOTS.replace("/", "+")).write_bytes(b"no database" * 999)
    subprocess.run(["tar", "-cf", machine / "copy.tar", "-C", work, "."], check=True)
    write(machine / LEDGER, SESSIONS, 4).close()
    assert run(machine, "state-put-back").returncode != 0
    assert not (machine / "calls").exists()
    assert rows(machine / LEDGER, "sessions") == [1, 2, 3, 4, 5, 6]
