"""Limits of Slurm's accounts in every notation, and what is refused."""

from __future__ import annotations

import string

import pytest
from ansible.module_utils import slurm_limits, slurm_plan
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "memory", "amount"),
    [
        ("16G", True, 16384),
        ("16385M", True, 16385),
        ("16385", True, 16385),
        ("1.50T", True, 1572864),
        ("2048K", True, 2),
        ("2048", False, 2048),
        ("2K", False, 2048),
    ],
)
def test_printed_amounts(text: str, memory: bool, amount: int) -> None:
    assert slurm_limits.printed_amount(text, memory) == amount


@pytest.mark.parametrize(
    ("text", "minutes"), [("01:00:00", 60), ("1-00:00:00", 1440), ("3-01:00:30", 4381), ("90", 90)]
)
def test_printed_times(text: str, minutes: int) -> None:
    assert slurm_limits.printed_minutes(text) == minutes


@pytest.mark.parametrize(
    ("given_limits", "limits"),
    [
        ({"GrpTRES": {"mem": "32G"}}, {"GrpTRES=mem": 32768}),
        ({"GrpTRES": {"mem": 32768}}, {"GrpTRES=mem": 32768}),
        ({"GrpTRES": {"mem": "2048K", "cpu": None}}, {"GrpTRES=mem": 2}),
        ({"MaxWall": "1-00:00:00"}, {"MaxWall": 1440}),
        ({"MaxWall": "24:00:00"}, {"MaxWall": 1440}),
        ({"MaxWall": 1440, "GrpJobs": None}, {"MaxWall": 1440}),
        ({"GrpTRES": {"gres/disk": 250, "license/matlab@site": 1}}, None),
    ],
)
def test_equal_limits_in_different_notations(given_limits: dict, limits: dict | None) -> None:
    if limits is None:
        with pytest.raises(slurm_limits.Invalid, match="unknown resource"):
            slurm_limits.limits_of("x", given_limits)
    else:
        assert slurm_limits.limits_of("x", given_limits) == limits


@pytest.mark.parametrize(
    "bad",
    [
        {"GrpTRES": {"cpu": "abc"}},  # Slurm would store 0
        {"GrpTRES": {"cpu": "8"}},
        {"GrpTRES": {"cpu": 8.5}},
        {"GrpTRES": {"cpu": True}},
        {"GrpTRES": {"cpu": 0}},
        {"GrpTRES": {"cpu": -1}},
        {"GrpTRES": {"cpu": 10**20}},  # would be no limit
        {"GrpTRES": {"cpuu": 8}},
        {"GrpTRES": {"mem": "32Gi"}},  # would be 32 GB
        {"GrpTRES": {"mem": "32GB"}},
        {"GrpTRES": {"mem": "1.5G"}},  # would be 1 MB
        {"GrpTRES": {"mem": "1K"}},
        {"GrpTRES": {"mem": "-1"}},
        {"GrpTRES": "cpu=8"},
        {"GrpJobs": -5},  # would be no limit
        {"GrpJobs": "4"},
        {"MaxWall": "abc"},
        {"MaxWall": "01:00"},
        {"MaxWall": "01:00:30"},
        {"Wall": 5},
    ],
)
def test_what_slurm_would_misread_is_refused(bad: dict) -> None:
    with pytest.raises(slurm_limits.Invalid):
        slurm_limits.limits_of("account x", bad)


@pytest.mark.parametrize("name", ["Upper", "a b", "", "1st", "x" * 33, "a,b", "a=b", "a'b", "ä", None])
def test_names_that_slurm_would_change_are_refused(name: object) -> None:
    with pytest.raises(slurm_limits.Invalid):
        slurm_limits.name("name", name)


def test_all_faults_are_told_at_once() -> None:
    accounts = [{"name": "a", "limits": {"GrpJobs": -1}}, {"name": "b"}, {"name": "b"}, {"name": "C"}]
    with pytest.raises(slurm_limits.Invalid) as caught:
        slurm_plan.desired_of("root", "q", [], accounts)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "root" in lines[0]
    assert "GrpJobs is -1" in lines[1]
    assert "twice" in lines[2]
    assert "'C'" in lines[3]


@given(st.text(string.printable, max_size=40))
def test_a_name_that_passes_is_safe_in_every_call(text: str) -> None:
    try:
        passed = slurm_limits.name("x", text)
    except slurm_limits.Invalid:
        return
    assert set(passed) <= set(string.ascii_lowercase + string.digits + "-_")
