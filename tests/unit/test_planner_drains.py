"""Draining planners: what the file says, and how what still runs is told."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.planner_drains import (  # type: ignore[import-not-found]
    parse,
    running,
    silent,
    states,
    summary,
    unknown,
    wanted,
)
from hypothesis import given
from hypothesis import strategies as st

NOW = {"by": "ops@site", "since": "2026-11-24T09:00:00Z", "reason": "discs", "cancel": False, "leaving": False}
LIVE = {
    "sessions": [{"session": "0123456789ab", "phase": "AVAILABLE", "job": "17", "cores": 2}],
    "others": [{"job": "18", "state": "RUNNING", "cores": 1, "ends_by": "2026-11-24T10:00:00Z"}],
}
IDLE: dict[str, Any] = {"sessions": [], "others": []}


def ask(found: dict[str, Any] | None, **changes: Any) -> dict[str, Any] | None:
    asked: dict[str, Any] = {"drained": True} | NOW | changes
    made: dict[str, Any] | None = wanted(found, **asked)
    return made


def test_who_drained_it_first_and_when_stays() -> None:
    first = ask(None)
    assert first == NOW
    assert ask(first, by="another", since="later", reason="") == first
    assert ask(first, by="another", cancel=True) == NOW | {"cancel": True}
    assert ask(ask(first, cancel=True), cancel=False) == NOW | {"cancel": True}
    assert ask(first, reason="more discs") == NOW | {"reason": "more discs"}
    assert ask(first, drained=False) is None


def test_one_that_was_drained_by_hand_does_not_leave_for_the_list_alone() -> None:
    left = ask(None, leaving=True, reason="leaves")
    assert left == NOW | {"leaving": True, "reason": "leaves"}
    assert ask(left, leaving=True, reason="leaves again") == left
    assert ask(left) == NOW  # somebody means it now
    assert ask(NOW, leaving=True, reason="leaves") == NOW


@given(
    found=st.none()
    | st.dictionaries(st.sampled_from(["by", "since", "reason", "cancel", "x"]), st.text() | st.booleans()),
    drained=st.booleans(),
    reason=st.text(),
    cancel=st.booleans(),
)
def test_a_second_run_changes_nothing(found: dict[str, Any] | None, drained: bool, reason: str, cancel: bool) -> None:
    once = ask(found, drained=drained, reason=reason, cancel=cancel)
    assert ask(once, drained=drained, reason=reason, cancel=cancel, since="later", by="another") == once


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_a_file_that_says_nothing_is_one(text: str) -> None:
    assert parse(text) == {}


def test_what_runs_is_named() -> None:
    assert running(LIVE) == [
        "session 01234567 (available, job 17)",
        "job 18 of somebody else (running until 2026-11-24T10:00:00Z)",
    ]
    assert summary({"b": {"live": IDLE}, "a": {"live": LIVE}}).startswith(
        "a: session 01234567 (available, job 17), job 18"
    )
    assert summary({"b": {"live": IDLE}, "c": {"answers": False}}) == ""


def test_a_long_list_is_cut() -> None:
    many = {"sessions": [LIVE["sessions"][0]] * 9, "others": []}
    assert summary({"a": {"live": many}}).endswith(" and 4 more")


def test_who_cannot_tell_is_named() -> None:
    planners = {
        "a": {"answers": False, "why": "Connection refused"},
        "b": {"answers": True, "live": {"sessions": [], "others": None}},
        "c": {"answers": True, "live": IDLE},
    }
    assert silent(planners) == (
        "the planner of a does not answer (Connection refused); the platform of b does not answer its planner"
    )


def test_names_that_are_no_platforms_are_told_with_those_that_are() -> None:
    assert unknown(["a"], ["a", "b"]) == ""
    assert unknown(["x", "a", "y"], ["a", "b"]) == "no platform with a planner is called x or y: there are a, b"
    assert unknown([], ["a"]) == "say which platform, -e platform=NAME: there are a"


def test_how_it_stands_is_one_sentence_a_platform() -> None:
    assert states({"a": {"drained": NOW, "answers": True, "live": IDLE}, "b": {"answers": True, "drained": None}}) == [
        "a drained by ops@site since 2026-11-24T09:00:00Z: discs; nothing runs",
        "b makes offers",
    ]
