"""What a service loads stays in its memory, and there are many planners: nothing that they do not use."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest


@pytest.mark.parametrize("service", ["planner", "voter"])
def test_what_a_service_does_not_use_it_does_not_load(service: str) -> None:
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"planner_app.{service}", "--config", "/none"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "/none" in run.stdout + run.stderr, "it ended before it had loaded all"
    loaded = set(re.findall(r"^import time: .*\| +([\w.]+)$", run.stderr, re.MULTILINE))
    assert f"planner_app.{service}.server" in loaded
    others = ("alembic", "psycopg", "rich.console", "sqlalchemy.dialects.postgresql", "kubernetes", "fastapi")
    assert [name for name in others if name in loaded] == []
