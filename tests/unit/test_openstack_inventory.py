"""What is wrong with machines wanted on a cloud is said before the cloud is asked."""

from __future__ import annotations

import pytest
from cloud_machines import cloud_faults

SIZES = {"desktop": {}, "desktop-x2": {}}
GROUPS = {"openstack_machines": ["planner", "slurm"]}


def faults(groups=GROUPS, hostvars=None, ssh_from=("192.0.2.0/24",), entry="planner") -> list[str]:  # type: ignore[no-untyped-def]
    return cloud_faults(groups, {"planner": {}, "slurm": {}} | (hostvars or {}), SIZES, list(ssh_from), entry)


def test_nothing_is_said_of_a_good_inventory_or_of_one_without_a_cloud() -> None:
    assert faults() == []
    assert faults(groups={}, ssh_from=(), entry="nobody") == []


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"ssh_from": ()}, "openstack_machines_ssh_from is empty"),
        ({"ssh_from": ("192.0.2.7/24",)}, "192.0.2.7/24 is no network"),
        ({"entry": "kube"}, "none of openstack_machines: planner, slurm"),
        ({"hostvars": {"slurm": {"openstack_size": "huge"}}}, "none of desktop_sizes: desktop, desktop-x2"),
        ({"groups": GROUPS | {"local_machines": ["x"]}}, "on this host or on a cloud"),
        ({"groups": {"openstack_machines": ["My_Host"]}, "hostvars": {"My_Host": {}}, "entry": ""}, "My_Host"),
    ],
)
def test_each_fault_is_said_with_what_would_be_right(change: dict[str, object], part: str) -> None:
    found = faults(**change)
    assert len(found) == 1
    assert part in found[0]
