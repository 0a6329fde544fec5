"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before any test file: pytest names them after their folders, and `planner_app/tests` would otherwise make
# the project's folder, which is no package, pass for the package in it.
import planner_app  # noqa: F401


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Append what failed to the file that CAESAR_FAILURES names: what a scenario prints afterwards buries it.

    A test that passed at its second try is among them: it has a fault, or it found one that comes and goes.
    """
    failures = os.environ.get("CAESAR_FAILURES")
    if not failures or hasattr(config, "workerinput"):  # xdist's workers report to the one that started them
        return
    with Path(failures).open("a", encoding="utf-8") as out:
        for outcome in ("failed", "error", "rerun"):
            for report in terminalreporter.getreports(outcome):
                crash = getattr(report.longrepr, "reprcrash", None)
                first = str(crash.message if crash else report.longrepr).strip().partition("\n")[0]
                said = "was tried again" if outcome == "rerun" else report.when
                out.write(f"{report.nodeid} ({said}): {first[:400]}\n")
