"""The inventory's list of virtual platforms: what it means and what is wrong with it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.platforms import faults, resolve, walltime_minutes
from hypothesis import given
from hypothesis import strategies as st

INVENTORY = Path(__file__).parents[2] / "inventories" / "local" / "group_vars" / "all" / "platforms.yml"


@pytest.fixture
def inventory() -> dict[str, Any]:
    return yaml.safe_load(INVENTORY.read_text())


def found(inventory: dict[str, Any]) -> list[str]:
    return faults(
        inventory["virtual_platforms"],
        inventory["physical_platforms"],
        inventory["desktop_sizes"],
        {8100: "voter"},
    )


def test_the_local_inventory_has_no_fault(inventory: dict[str, Any]) -> None:
    assert found(inventory) == []


def test_all_six_platforms_differ(inventory: dict[str, Any]) -> None:
    resolved = resolve(
        **{
            "virtual": inventory["virtual_platforms"],
            "physical": inventory["physical_platforms"],
            "sizes": inventory["desktop_sizes"],
        }
    )
    assert [p["kind"] for p in resolved] == ["slurm"] * 3 + ["kubernetes"] * 3
    for aspect in ("limits", "costs", "metrics"):
        assert len({tuple(sorted(p[aspect].items())) for p in resolved}) == 6, aspect
    for kind in ("slurm", "kubernetes"):
        assert len({tuple(sorted(p["quota"].items())) for p in resolved if p["kind"] == kind}) == 3


def put(inventory: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The inventory with one value replaced; the path's last part is created where it is not there."""
    changed = copy.deepcopy(inventory)
    *parents, last = path.split("/")
    place: Any = changed
    for part in parents:
        place = place[int(part) if part.isdigit() else part]
    place[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("virtual_platforms/0/colour", "red", "virtual_platforms[0] has the unknown key 'colour'"),
        (
            "virtual_platforms/0/physical_platform",
            "nowhere",
            "virtual_platforms[0].physical_platform is 'nowhere': known are cirasa, kube",
        ),
        (
            "virtual_platforms/1/name",
            "slurm-account-001",
            "virtual_platforms[1].name is 'slurm-account-001', as that of virtual_platforms[0]",
        ),
        ("virtual_platforms/1/uid", 20001, "virtual_platforms[1].uid is 20001, as that of virtual_platforms[0]"),
        ("virtual_platforms/1/port", 8100, "virtual_platforms[1].port is 8100, where the voter listens"),
        ("virtual_platforms/0/name", "Slurm 1", "virtual_platforms[0].name is 'Slurm 1': give 1 to 32 lower-case"),
        ("virtual_platforms/0/quota", "desktop-x8", "virtual_platforms[0].quota is 'desktop-x8', which is no size"),
        (
            "virtual_platforms/0/limits/cores",
            5,
            "virtual_platforms[0].limits.cores is 5, above its quota of 4: give at most 4",
        ),
        (
            "virtual_platforms/0/limits/memory_gib",
            "8Gi",
            "virtual_platforms[0].limits.memory_gib is '8Gi': give a whole number of GiB",
        ),
        (
            "virtual_platforms/0/limits/memory_gib",
            0,
            "virtual_platforms[0].limits.memory_gib is 0: give a whole number above zero",
        ),
        (
            "virtual_platforms/0/limits/jobs",
            -1,
            "virtual_platforms[0].limits.jobs is -1: give a whole number above zero",
        ),
        ("virtual_platforms/0/limits/walltime", "1:00:00", "'1:00:00' is no duration such as PT2H"),
        (
            "virtual_platforms/0/costs/monetary",
            -0.1,
            "virtual_platforms[0].costs.monetary is -0.1: give a number, zero or more",
        ),
        ("virtual_platforms/0/costs/euro", 1, "virtual_platforms[0].costs has the unknown key 'euro'"),
        (
            "virtual_platforms/2/quota",
            {"cores": 64, "memory_gib": 64, "disc_gb": 1000},
            "quota.cores is 64, but all nodes of cirasa together hold 48",
        ),
        (
            "physical_platforms/cirasa/nodes",
            {"desktop": 1},
            "virtual_platforms[1].limits.cores is 8, but the largest node of cirasa has 4",
        ),
        (
            "physical_platforms/cirasa/nodes/desktop-x9",
            1,
            "physical_platforms.cirasa.nodes names the unknown size 'desktop-x9'",
        ),
        ("physical_platforms/kube/kind", "nomad", "physical_platforms.kube.kind is 'nomad': give slurm or kubernetes"),
        ("physical_platforms/kube/cpu_allocation_ratio", 0, "cpu_allocation_ratio is 0: give a number of at least 1"),
        ("desktop_sizes/desktop", {"cores": 4, "memory_gib": 16}, "desktop_sizes.desktop.disc_gb is missing"),
        ("virtual_platforms", "none", "virtual_platforms is 'none': give a list"),
    ],
)
def test_each_fault_is_named_with_what_would_be_right(
    inventory: dict[str, Any], path: str, value: Any, expected: str
) -> None:
    said = found(put(inventory, path, value))
    assert any(expected in fault for fault in said), said


def test_several_faults_are_said_at_once(inventory: dict[str, Any]) -> None:
    wrong = put(put(inventory, "virtual_platforms/0/uid", 0), "virtual_platforms/1/port", 0)
    assert len(found(wrong)) == 2


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    where=st.sampled_from(
        [
            "virtual_platforms",
            "physical_platforms",
            "desktop_sizes",
            "virtual_platforms/0",
            "virtual_platforms/3/limits",
            "virtual_platforms/3/quota",
            "physical_platforms/cirasa",
            "physical_platforms/cirasa/nodes",
        ]
    ),
    value=ANYTHING,
)
def test_no_inventory_makes_the_check_itself_fail(where: str, value: Any) -> None:
    wrong = yaml.safe_load(INVENTORY.read_text())
    *parents, last = where.split("/")
    place: Any = wrong
    for part in parents:
        place = place[int(part) if part.isdigit() else part]
    place[int(last) if last.isdigit() else last] = value
    assert all(isinstance(fault, str) for fault in found(wrong))


@given(days=st.integers(0, 30), hours=st.integers(0, 50), minutes=st.integers(0, 90))
def test_walltime_counts_what_it_says(days: int, hours: int, minutes: int) -> None:
    total = (days * 24 + hours) * 60 + minutes
    text = f"P{days}DT{hours}H{minutes}M"
    if total:
        assert walltime_minutes(text) == total
    else:
        with pytest.raises(ValueError, match="no duration"):
            walltime_minutes(text)
