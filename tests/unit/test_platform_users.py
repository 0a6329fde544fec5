"""Unix users of platforms: who is missing, who has left, whose number differs; and what is set aside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import platform_users  # type: ignore[import-not-found]
import pytest
import set_aside  # type: ignore[import-not-found]
from ansible.module_utils.testing import patch_module_args
from job_directories import job_directories, without_directory  # type: ignore[import-not-found]

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


def found(path: str, **changes: Any) -> dict[str, Any]:
    return {"path": path, "isdir": True, "mode": "0700", "uid": 20001, "gid": 20001} | changes


def test_a_platform_without_a_right_directory_is_named() -> None:
    assert without_directory([A, B], [found("/jobs/a")], "/jobs") == ["b"]
    for wrong in ({"uid": 0}, {"mode": "0755"}, {"isdir": False}, {"gid": 5}):
        assert without_directory([A], [found("/jobs/a", **wrong)], "/jobs") == ["a"]
    assert job_directories([A], "/jobs")[0]["owner"] == "20001"


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
