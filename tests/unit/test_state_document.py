"""docs/state.md names tests that exist, and every verb that can take something away has a line."""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]
TEXT = (PROJECT / "docs/state.md").read_text()
PLACES = {"T": PROJECT / "molecule/testbed/tests", "L": PROJECT / "molecule/large/tests"}


def test_every_test_that_it_names_exists() -> None:
    named = re.findall(r"([TL]) `(test_\w+\.py)::(test_\w+)`", TEXT)
    assert len(named) >= 8
    missing = [
        f"{place} {file}::{test}"
        for place, file, test in named
        if not re.search(rf"^def {test}\(", (PLACES[place] / file).read_text(), re.MULTILINE)
    ]
    assert not missing


def test_every_line_names_a_test_or_says_that_it_has_none() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and "shown by" not in line]
    assert rows
    for row in rows:
        shown = row.strip("| ").rsplit("|", 1)[1]
        assert "::" in shown or "no test" in shown or "molecule test" in shown, row


def test_every_verb_has_a_line() -> None:
    verbs = ("drain", "rebuild", "upgrade", "revert", "restore", "clean_cache", "teardown")
    assert [verb for verb in verbs if f"`{verb}.yml`" not in TEXT] == []
    assert all((PROJECT / f"playbooks/{verb}.yml").exists() for verb in verbs)
