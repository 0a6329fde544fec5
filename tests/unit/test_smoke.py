"""When the smoke job runs again, and what is kept of it."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def load(path: Path) -> Any:
    spec = util.spec_from_file_location(f"{path.parents[1].name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


smoke = load(ROOT / "roles/smoke/filter_plugins/smoke.py")
file_keys = load(ROOT / "roles/common/filter_plugins/file_keys.py")


def test_another_image_or_platform_is_another_deployment() -> None:
    images, platforms = [{"digest": "sha256:1"}], [{"name": "a", "quota": "desktop"}]
    same = smoke.deployment_fingerprint(images, str(ROOT), platforms)
    assert same == smoke.deployment_fingerprint(images, str(ROOT), [{"quota": "desktop", "name": "a"}])
    assert same != smoke.deployment_fingerprint([{"digest": "sha256:2"}], str(ROOT), platforms)
    assert same != smoke.deployment_fingerprint(images, str(ROOT), [{"name": "a", "quota": "desktop-x2"}])


def test_the_ballot_in_few_words() -> None:
    ballot = {
        "id": "5f4dcfd9-f76d-4fcb-8872-553a4ffbf4bd",
        "created": "2026-11-24T14:00:43.079Z",
        "policy": "monetary",
        "winner": {"planner": "b", "session": "s"},
        "candidates": [
            {"planner": "b", "chosen": True, "reason": "cheapest", "offer": {}, "rank": 1},
            {"planner": "b", "chosen": False, "reason": "dearer", "offer": {"cores": 2}, "rank": 2},
            {"planner": "a", "chosen": False, "reason": "too small", "offer": None, "rank": None},
        ],
        "history": [{"time": "2026-11-24T14:00:43.079Z"}, {"time": "2026-11-24T14:00:56.706Z"}],
        "timings": {"total_ms": 116.3},
        "directory": "/out",
    }
    catalogue = {"metadata": {"image": "a.fits", "components": 3}, "sources": [{}, {}]}
    result = smoke.smoke_result(ballot, "f", catalogue)
    assert result["planner"] == "b"
    assert result["reason"] == "cheapest"
    assert (result["asked"], result["offers"], result["seconds"]) == (2, 2, 13.6)
    assert (result["sources"], result["components"], result["image"]) == (2, 3, "a.fits")


def test_an_image_has_another_key_when_something_of_it_changes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/b").write_text("2")
    paths = [str(tmp_path / "a"), str(tmp_path / "d")]
    key = file_keys.files_key(paths, "bookworm", "python3")
    assert key == file_keys.files_key(paths, "bookworm", "python3")
    assert key != file_keys.files_key(paths, "bookworm", "python3,git")
    assert len(key) == 12
    (tmp_path / "d/__pycache__").mkdir()
    (tmp_path / "d/__pycache__/b.pyc").write_text("3")
    assert key == file_keys.files_key(paths, "bookworm", "python3")
    (tmp_path / "d/b").write_text("4")
    assert key != file_keys.files_key(paths, "bookworm", "python3")
