"""What keeps services from running on a host of a site."""

from __future__ import annotations

import os
import platform
import pwd
import socket
from pathlib import Path
from typing import Any

import pytest
import site_host as module

ME = pwd.getpwuid(os.getuid())
PYTHON = ".".join(platform.python_version_tuple()[:2])


def given(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return {
        "host": "services",
        "address": "127.0.0.1",
        "ports": {},
        "python": PYTHON,
        "commands": [],
        "users": [{"name": ME.pw_name, "uid": ME.pw_uid}, {"name": "nobody-has-this-name", "uid": 54321}],
        "storage": str(tmp_path),
    } | changes


def test_users_that_are_missing_are_made(tmp_path: Path) -> None:
    assert list(module.surroundings_faults(given(tmp_path), [])) == []


def test_all_that_is_around_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "ours").touch()
        found = list(
            module.surroundings_faults(
                given(
                    tmp_path,
                    users=[{"name": ME.pw_name, "uid": ME.pw_uid + 1}, {"name": "new", "uid": ME.pw_uid}],
                    storage=str(tmp_path / "nowhere"),
                    ports={str(port): str(tmp_path / "theirs")},
                ),
                ["sbatch"],
            )
        )
    assert len(found) == 5, found
    assert "sbatch" in found[0]
    assert f"write {ME.pw_uid}" in found[1]
    assert f"is that of {ME.pw_name}" in found[2]
    assert "nowhere" in found[3]
    assert f"127.0.0.1:{port}" in found[4]


def test_a_port_where_we_listen_already(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {str(taken.getsockname()[1]): str(tmp_path)}
        assert list(module.surroundings_faults(given(tmp_path, ports=ports), [])) == []


def test_an_address_of_another_host() -> None:
    assert module.trouble_of_port("192.0.2.1", 80)


def test_a_python_that_the_program_is_not_made_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1 if ME.pw_uid == 0 else 0)
    found = " ".join(module.services_faults(given(tmp_path, python="2.7")))
    assert f'planner_app_bundle_python: "{PYTHON}"' in found
    assert ("needs root" in found) == (ME.pw_uid == 0)
