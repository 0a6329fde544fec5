"""What the planners' machine has of platforms that left the list, and what platforms of the list lack."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import planner_leavings
import pytest
from ansible.module_utils.testing import patch_module_args

A: dict[str, Any] = {"name": "a", "uid": 20001, "planner": True}
B: dict[str, Any] = {"name": "b", "uid": 20002, "planner": True}
FILE = (False, 0o640, 0, 0)
WHERE = {"configuration": "/etc/p", "state": "/var/p", "jobs": "/jobs", "drained": "/var/p/.drained"}


def own(uid: int = 20009) -> tuple[bool, int, int, int]:
    """A directory as the user of a platform has it."""
    return True, 0o700, uid, uid


def leavings(platforms: Sequence[dict[str, Any]] = (A, B), **found: planner_leavings.Found) -> dict[str, list[str]]:
    there = {WHERE[place]: found.get(place, {}) for place in WHERE}
    left: dict[str, list[str]] = planner_leavings.leavings(list(platforms), there, **WHERE)
    return left


HOMES = {"a": own(20001), "b": own(20002)}


def test_what_left_the_list_is_found() -> None:
    left = leavings(
        configuration={"old.tokens": FILE, "a.tokens": FILE, "other.yml": FILE},
        state={"old": own(), "a": own(20001)},
        jobs={"older": own()} | HOMES,
        drained={"old.json": FILE, "a.json": FILE},
    )
    assert left == {
        "planners": ["old"],
        "directories": ["/jobs/older", "/var/p/old"],
        "drained": ["a"],
        "homeless": [],
    }


def test_a_planner_that_is_switched_off_leaves_and_its_ledger_stays() -> None:
    left = leavings(
        [A | {"planner": False}], configuration={"a.tokens": FILE}, state={"a": own(20001)}, jobs={"a": own(20001)}
    )
    assert left == {"planners": ["a"], "directories": [], "drained": [], "homeless": []}


def test_what_somebody_else_keeps_there_stays() -> None:
    theirs = {"shared": (True, 0o755, 20009, 20009), "lost": own(0), "group": (True, 0o700, 20009, 5), "file": FILE}
    assert leavings(jobs=theirs | HOMES)["directories"] == []


def test_a_platform_without_a_right_directory_is_named() -> None:
    assert leavings(jobs={"a": own(20001)})["homeless"] == ["b"]
    for wrong in (own(0), (True, 0o755, 20001, 20001), (False, 0o700, 20001, 20001), (True, 0o700, 20001, 5)):
        assert leavings([A], jobs={"a": wrong})["homeless"] == ["a"]


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    where = {place: tmp_path / place for place in WHERE}
    for path in where.values():
        path.mkdir()
    return {f"{place}_directory": str(path) for place, path in where.items()}


def run(capsys: pytest.CaptureFixture[str], platforms: list[dict[str, Any]], places: dict[str, str]) -> dict[str, Any]:
    with patch_module_args({"platforms": platforms, "_ansible_check_mode": True} | places), pytest.raises(SystemExit):
        planner_leavings.main()
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def test_directories_are_looked_at_without_what_is_hidden(
    places: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uid, gid = os.getuid(), os.getgid()
    for name in ("a", "old", ".removed"):
        (tmp_path / "jobs" / name).mkdir(mode=0o700)
        os.chown(tmp_path / "jobs" / name, uid or 20001, gid or 20001)
    (tmp_path / "jobs" / "link").symlink_to(tmp_path / "jobs" / "old")
    (tmp_path / "configuration" / "gone.tokens").touch()
    said = run(capsys, [{"name": "a", "uid": uid or 20001}, B], places)
    assert not said["changed"]
    assert said["planners"] == ["gone"]
    assert said["directories"] == [str(tmp_path / "jobs" / "old")]
    assert said["homeless"] == ["b"]


def test_a_machine_that_has_nothing_yet(
    places: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in places.values():
        Path(path).rmdir()
    said = run(capsys, [A], places)
    assert (said["planners"], said["directories"], said["drained"], said["homeless"]) == ([], [], [], ["a"])


def test_what_cannot_be_looked_at_is_told(
    places: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").rmdir()
    (tmp_path / "state").touch()
    said = run(capsys, [A], places)
    assert said["failed"]
    assert str(tmp_path / "state") in said["msg"]
