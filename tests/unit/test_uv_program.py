"""Which uv builds use: one that runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.uv_program import find_uv


def program(path: Path, code: int) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\nexit {code}\n")
    path.chmod(0o755)
    return path


def test_one_on_path_that_is_no_empty_shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = program(tmp_path / "shims/uv", 127)
    monkeypatch.setenv("PATH", str(shim.parent))
    with pytest.raises(SystemExit, match="`make env` brings it"):
        find_uv(tmp_path / "cache")
    old, new = (program(tmp_path / f"cache/uv/{version}/bin/uv", 0) for version in ("0.13.8", "0.13.9"))
    assert find_uv(tmp_path / "cache") == str(new)
    assert old.exists()
    good = program(tmp_path / "bin/uv", 0)
    monkeypatch.setenv("PATH", str(good.parent))
    assert find_uv(tmp_path / "cache") == str(good)
