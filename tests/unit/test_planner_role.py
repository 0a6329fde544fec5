"""What roles/planner and roles/planner_app_bundle decide on the controller."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]


def load(role: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PROJECT / "roles" / role / "filter_plugins" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


planner = load("planner", "planner")
bundle = load("planner_app_bundle", "planner_app_bundle")

SLURM: dict[str, Any] = {"name": "slurm-account-001", "uid": 20001, "kind": "slurm", "planner": True}
KUBERNETES: dict[str, Any] = {"name": "k8s-namespace-001", "uid": 20101, "kind": "kubernetes", "planner": True}


def test_the_files_of_a_planner_go_and_that_of_its_tokens_last() -> None:
    entries = planner.files_left(["old"], "/etc/p", "/var/p/.drained")
    assert [each["path"] for each in entries] == [
        "/etc/p/old.yml",
        "/etc/p/old.kubernetes.json",
        "/var/p/.drained/old.json",
        "/etc/p/old.tokens",
    ]
    assert {each["state"] for each in entries} == {"absent"}


def test_each_platform_has_its_files() -> None:
    credentials = {"k8s-namespace-001": {"server": "https://k", "ca": "PEM", "token": "hunter2"}}
    entries = {each["path"]: each for each in planner.files([SLURM, KUBERNETES], "/etc/p", credentials)}
    assert json.loads(entries["/etc/p/k8s-namespace-001.kubernetes.json"]["content"])["token"] == "hunter2"
    assert "/etc/p/slurm-account-001.kubernetes.json" not in entries


def test_whatever_holds_a_secret_is_hidden_and_closed() -> None:
    credentials = {"k8s-namespace-001": {"server": "https://k", "ca": "PEM", "token": "hunter2"}}
    for entry in planner.files([SLURM, KUBERNETES], "/etc/p", credentials):
        assert entry["mode"] == "0640"
        assert entry["group"] in entry["path"]
        assert entry.get("secret", False) is not entry["path"].endswith(".yml")


def test_a_planner_restarts_for_its_own_files_and_the_shared_ones() -> None:
    one, other = planner.units([SLURM, KUBERNETES], "/etc/p")
    assert "/etc/p/slurm-account-001.tokens" in one["restart_on"]
    assert "/etc/p/slurm-account-001.tokens" not in other["restart_on"]
    assert {"/etc/p/images.yml", planner.UNIT} <= set(one["restart_on"]) & set(other["restart_on"])


def test_a_planner_left_over_is_stopped() -> None:
    assert planner.units_left(["old"]) == [{"name": "planner@old.service", "state": "stopped", "enabled": False}]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "uv.lock").write_text("locked\n")
    source = tmp_path / "planner_app" / "planner_app"
    (source / "voter").mkdir(parents=True)
    (source / "__init__.py").write_text("")
    (source / "voter" / "page.html").write_text("<p>")
    return tmp_path


def test_a_bundles_name_changes_with_what_is_in_it(project: Path) -> None:
    source = project / "planner_app" / "planner_app"
    keys = [bundle.bundle_key(str(project), "3.11")]
    keys.append(bundle.bundle_key(str(project), "3.13"))
    (source / "voter" / "page.html").write_text("<b>")
    keys.append(bundle.bundle_key(str(project), "3.11"))
    (source / "voter" / "page.html").rename(source / "page.html")
    keys.append(bundle.bundle_key(str(project), "3.11"))
    (project / "uv.lock").write_text("other\n")
    keys.append(bundle.bundle_key(str(project), "3.11"))
    assert len(set(keys)) == len(keys)


def test_a_bundles_name_does_not_change_with_where_it_is_or_what_ran(project: Path, tmp_path: Path) -> None:
    key = bundle.bundle_key(str(project), "3.11")
    cache = project / "planner_app" / "planner_app" / "__pycache__"
    cache.mkdir()
    (cache / "x.cpython-311.pyc").write_bytes(b"compiled")
    assert bundle.bundle_key(str(project), "3.11") == key
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(project, elsewhere, ignore=shutil.ignore_patterns("elsewhere"))
    assert bundle.bundle_key(str(elsewhere), "3.11") == key
