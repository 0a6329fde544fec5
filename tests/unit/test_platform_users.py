"""Unix users of platforms: their file, who is missing, who has left, whose number differs; and what is set aside."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import platform_users  # type: ignore[import-not-found]
import pytest
import set_aside  # type: ignore[import-not-found]
from ansible.module_utils.testing import patch_module_args
from job_directories import job_directories  # type: ignore[import-not-found]

A, B = {"name": "a", "uid": 20001}, {"name": "b", "uid": 20002}
THERE = {"root": (0, "root"), "a": (20001, "Virtual platform a"), "old": (20009, "Virtual platform old")}


def test_who_is_missing_and_who_has_left() -> None:
    assert platform_users.plan([A, B], ["a", "b"], THERE) == (["b"], ["old"], [])


def test_a_platform_of_another_kind_keeps_its_user() -> None:
    assert platform_users.plan([A], ["a", "old"], THERE)[1] == []


def test_nobody_elses_user_has_left() -> None:
    there = {"ada": (1000, "Ada"), "x": (1001, "Virtual platform y")}
    assert platform_users.plan([], [], there)[1] == []


def test_a_number_that_differs_is_told() -> None:
    [fault] = platform_users.plan([A | {"uid": 20005}], ["a"], THERE)[2]
    assert "a has the number 20001 on this machine and 20005 in the list" in fault


def test_a_jobs_directory_is_its_users_by_number() -> None:
    assert job_directories([A], "/jobs") == [
        {"path": "/jobs/a", "state": "directory", "mode": "0700", "owner": "20001", "group": "20001"}
    ]


class Host:
    """The module with users, programs and owners of its own: what it calls is kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: Path) -> None:
        self.calls: list[list[str]] = []
        self.users = [("root", 0, "root"), ("old", 20009, "Virtual platform old")]
        self.path, self._capsys = path, capsys
        monkeypatch.setattr(platform_users, "OWNER", (os.getuid(), os.getgid()))
        monkeypatch.setattr(platform_users.pwd, "getpwall", self._entries)
        monkeypatch.setattr(platform_users.AnsibleModule, "run_command", lambda _, command: self._call(command))

    def _entries(self) -> list[Any]:
        return [SimpleNamespace(pw_name=name, pw_uid=uid, pw_gecos=about) for name, uid, about in self.users]

    def _call(self, command: list[str]) -> tuple[int, str, str]:
        self.calls.append(command)
        return 0, "", ""

    def run(self, *users: dict[str, Any], check: bool = False, **others: Any) -> dict[str, Any]:
        wanted = [user | {"home": f"/jobs/{user['name']}"} for user in users]
        arguments = {"path": str(self.path), "users": wanted, "platforms": [], "_ansible_check_mode": check} | others
        with patch_module_args(arguments), pytest.raises(SystemExit):
            platform_users.main()
        said: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return said


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Host:
    return Host(monkeypatch, capsys, tmp_path / "sysusers.d" / "ours.conf")


def test_check_predicts_the_run_makes_and_a_second_run_changes_nothing(host: Host) -> None:
    predicted = host.run(A, B, check=True)
    assert predicted["changed"]
    assert not host.path.exists()
    assert not host.calls
    made = host.run(A, B)
    assert (made["made"], made["diff"]) == (["a", "b"], predicted["diff"])
    assert host.path.read_text().splitlines()[1:] == [
        'u a 20001 "Virtual platform a" /jobs/a /bin/bash',
        'u b 20002 "Virtual platform b" /jobs/b /bin/bash',
    ]
    assert host.path.stat().st_mode & 0o777 == 0o644
    assert host.calls == [["systemd-sysusers", str(host.path)]]
    host.users += [("a", 20001, "Virtual platform a"), ("b", 20002, "Virtual platform b")]
    again = host.run(A, B)
    assert (again["changed"], again["left"]) == (False, ["old"])
    assert len(host.calls) == 1


def test_a_user_that_is_missing_is_made_though_the_file_is_there(host: Host) -> None:
    host.run(A)
    again = host.run(A)
    assert (again["changed"], "diff" in again, len(host.calls)) == (True, False, 2)


def test_a_file_that_others_may_write_is_closed(host: Host) -> None:
    host.run(A)
    host.users.append(("a", 20001, "Virtual platform a"))
    host.path.chmod(0o666)
    assert host.run(A)["changed"]
    assert host.path.stat().st_mode & 0o777 == 0o644


def test_who_has_left_goes_and_with_nobody_left_the_file(host: Host) -> None:
    host.run(A)
    host.calls.clear()
    gone = host.run(prune=True)
    assert (gone["changed"], gone["left"], gone["diff"]["after"]) == (True, ["old"], "")
    assert not host.path.exists()
    assert host.calls == [["userdel", "old"]]


def test_nothing_is_written_where_a_number_differs(host: Host) -> None:
    host.users.append(("a", 20005, "Ada"))
    said = host.run(A)
    assert said["failed"]
    assert said["msg"].startswith("nothing was changed: a has the number 20005 on this machine and 20001 in the list")
    assert not host.path.exists()


@pytest.mark.parametrize("key", ["name", "uid", "home"])
def test_a_user_without_a_key_is_refused(host: Host, key: str) -> None:
    user = {name: value for name, value in (A | {"home": "/jobs/a"}).items() if name != key}
    said = host.run(users=[user])
    assert said["msg"] == f"missing required arguments: {key} found in users"
    assert not host.path.exists()


def test_what_cannot_be_written_is_told(host: Host) -> None:
    host.path.parent.write_text("a file")
    said = host.run(A)
    assert said["msg"].startswith(f"nothing was changed: {host.path}: ")


def run(capsys: pytest.CaptureFixture[str], check: bool, *paths: Path) -> dict[str, Any]:
    with (
        patch_module_args({"paths": [str(path) for path in paths], "_ansible_check_mode": check}),
        pytest.raises(SystemExit),
    ):
        set_aside.main()
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def test_directories_are_set_aside_and_closed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "ledger.sqlite").write_text("promises")
    predicted = run(capsys, True, tmp_path / "old", tmp_path / "none")
    assert predicted["changed"]
    assert (tmp_path / "old").exists()
    moved = run(capsys, False, tmp_path / "old", tmp_path / "none")["moved"]
    [place] = moved.values()
    assert (Path(place) / "ledger.sqlite").read_text() == "promises"
    assert (tmp_path / ".removed").stat().st_mode & 0o777 == 0o700
    assert not run(capsys, False, tmp_path / "old")["changed"]


def test_a_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    (tmp_path / ".removed" / "old-now").mkdir(parents=True)
    assert set_aside.destination(tmp_path / "old", "now").name == "old-now-2"


def test_a_link_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert not run(capsys, False, tmp_path / "link")["changed"]
