"""The module `files`: what differs is found, written and shown; nothing else is touched."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path
from typing import Any

import files as module
import pytest
from ansible.module_utils.testing import patch_module_args


def run(capsys: pytest.CaptureFixture[str], *entries: dict[str, Any], check: bool = False) -> dict[str, Any]:
    import json

    me = {"owner": str(os.getuid()), "group": str(os.getgid())}
    arguments = {"files": [me | entry for entry in entries], "_ansible_check_mode": check}
    with patch_module_args(arguments), pytest.raises(SystemExit):
        module.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def text(content: str) -> str:
    return base64.b64encode(content.encode()).decode()


def test_check_predicts_run_makes_second_run_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [
        {"path": str(tmp_path / "d"), "state": "directory", "mode": "0750"},
        {"path": str(tmp_path / "d" / "f"), "content_base64": text("one\n"), "mode": "0640"},
        {"path": str(tmp_path / "d" / "l"), "state": "link", "target": "f"},
    ]
    paths = [entry["path"] for entry in entries]
    assert run(capsys, *entries, check=True)["changed_paths"] == paths
    assert not (tmp_path / "d").exists()
    assert run(capsys, *entries)["changed_paths"] == paths
    assert (tmp_path / "d" / "l").read_text() == "one\n"
    assert stat.S_IMODE((tmp_path / "d" / "f").stat().st_mode) == 0o640
    inode = (tmp_path / "d" / "f").stat().st_ino
    assert run(capsys, *entries)["changed_paths"] == []
    assert run(capsys, *entries, check=True)["changed"] is False
    assert (tmp_path / "d" / "f").stat().st_ino == inode


def test_a_mode_is_mended_without_writing_the_content_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {"path": str(tmp_path / "f"), "content_base64": text("x"), "mode": "0600"}
    run(capsys, entry)
    inode = (tmp_path / "f").stat().st_ino
    (tmp_path / "f").chmod(0o644)
    assert run(capsys, entry)["changed"] is True
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600
    assert (tmp_path / "f").stat().st_ino == inode


def test_a_secret_is_in_no_diff_and_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "correct horse battery staple"
    result = run(capsys, {"path": str(tmp_path / "s"), "secret_base64": text(secret), "mode": "0600"})
    assert (tmp_path / "s").read_text() == secret
    assert secret not in str(result)
    assert text(secret) not in str(result)
    assert "content not shown" in result["diff"][0]["after"]


def test_a_changed_file_shows_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f").write_text("old\n")
    (tmp_path / "f").chmod(0o644)
    result = run(capsys, {"path": str(tmp_path / "f"), "content_base64": text("new\n")})
    assert (result["diff"][0]["before"], result["diff"][0]["after"]) == ("old\n", "new\n")


def test_absent_takes_a_directory_away_with_all_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    assert run(capsys, {"path": str(tmp_path / "d"), "state": "absent"})["changed"] is True
    assert run(capsys, {"path": str(tmp_path / "d"), "state": "absent"})["changed"] is False
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"path": "{}/f"}, "a file needs one of template, content, src"),
        ({"path": "{}/f", "content_base64": "", "mode": "rw"}, "mode 'rw' is no octal number"),
        ({"path": "{}/f", "content_base64": "", "owner": "nobody-here"}, "there is no user or group 'nobody-here'"),
        ({"path": "{}/l", "state": "link"}, "a link needs a target"),
        ({"path": "{}/no/f", "content_base64": ""}, "No such file or directory"),
        ({"path": "{}", "content_base64": ""}, "is a directory and a file is wanted"),
    ],
)
def test_a_fault_names_path_and_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: dict[str, Any], said: str
) -> None:
    entry = entry | {"path": entry["path"].format(tmp_path)}
    result = run(capsys, entry)
    assert result["failed"] is True
    assert entry["path"] in result["msg"]
    assert said in result["msg"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".new-")]
