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
job_images = load(ROOT / "roles/job_images/filter_plugins/job_images.py")


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


def test_the_image_has_another_key_when_something_of_it_changes() -> None:
    role = str(ROOT / "roles/job_images")
    key = job_images.image_key(role, "bookworm", "python3")
    assert key == job_images.image_key(role, "bookworm", "python3")
    assert key != job_images.image_key(role, "bookworm", "python3,git")
    assert len(key) == 12
