"""Every role keeps the project's rules: what it takes is described, in one place, and the README says the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
ROLES = sorted(path for path in (PROJECT / "roles").iterdir() if path.is_dir())


def load(file: Path) -> Any:
    return yaml.safe_load(file.read_text()) if file.exists() else {}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_variable_of_a_role_is_described(role: Path) -> None:
    specs = load(role / "meta" / "argument_specs.yml")["argument_specs"]
    described = {name for spec in specs.values() for name in spec.get("options") or {}}
    defaults = set(load(role / "defaults" / "main.yml") or {})
    assert defaults <= described, f"defaults without a description: {sorted(defaults - described)}"
    optional = {
        name
        for spec in specs.values()
        for name, option in (spec.get("options") or {}).items()
        if not option.get("required") and name.startswith(role.name)
    }
    assert optional <= defaults, f"described, neither required nor with a default: {sorted(optional - defaults)}"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_default_stands_in_one_place(role: Path) -> None:
    specs = load(role / "meta" / "argument_specs.yml")["argument_specs"]
    twice = [
        name
        for spec in specs.values()
        for name, option in (spec.get("options") or {}).items()
        if "default" in option and option["default"] != load(role / "defaults" / "main.yml").get(name)
    ]
    assert not twice, f"another default in argument_specs.yml than in defaults/main.yml: {twice}"


def test_readmes_say_what_the_specs_say() -> None:
    run = subprocess.run(
        [sys.executable, PROJECT / "tools" / "role_readmes.py", "--check"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, f"run tools/role_readmes.py:\n{run.stdout}{run.stderr}"


def test_no_module_is_looped_over_platforms() -> None:
    """design: a run's time must not grow with the number of platforms."""
    loops = []
    for file in [*PROJECT.glob("roles/*/tasks/*.yml"), *PROJECT.glob("playbooks/*.yml")]:
        loops += [
            f"{file.relative_to(PROJECT)}:{number}"
            for number, line in enumerate(file.read_text().splitlines(), 1)
            if line.strip().startswith(("loop:", "with_")) and "platform" in line
        ]
    assert not loops
