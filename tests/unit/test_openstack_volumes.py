"""Volumes for what must outlive machines on OpenStack: made once, given to whom they belong, or told why not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible.module_utils import openstack_limits
from ansible.module_utils import openstack_plan as op
from test_openstack_plan import EMPTY, applied, desired, keeping, limits, shown, up

WITH_VOLUMES = replace(EMPTY, block_storage=True)


def with_state(**change: object) -> tuple[op.Desired, op.Current]:
    """A testbed that is up, with volumes of state; `change` is of the one of machine slurm."""
    wanted = keeping(desired())
    now = applied(wanted, WITH_VOLUMES, op.plan(wanted, WITH_VOLUMES))
    volumes = tuple(replace(one, **change) if one.machine == "slurm" else one for one in now.volumes)  # type: ignore[arg-type]
    return wanted, replace(now, volumes=volumes)


def test_machines_that_keep_state_get_a_volume_before_they_are_made() -> None:
    steps = shown(op.plan(keeping(desired()), WITH_VOLUMES))
    made = [step for step in steps if "volume" in step]
    assert made == ["create volume entry", "create volume slurm"]
    assert max(steps.index(step) for step in made) < steps.index("create server entry")
    wanted, now = with_state()
    assert op.plan(wanted, now) == []
    assert {one.machine: (one.size_gb, one.status) for one in now.volumes} == {
        "entry": (10, "in-use"),
        "slurm": (20, "in-use"),
    }


def test_without_block_storage_there_are_none() -> None:
    assert not [step for step in op.plan(keeping(desired()), EMPTY) if "volume" in step.action]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"status": "available", "servers": ()}, ["attach volume slurm"]),
        ({"status": "detaching", "servers": ()}, ["attach volume slurm"]),
        # It is being given to a server, and to which is not told yet.
        ({"status": "reserved", "servers": ()}, []),
        ({"status": "attaching", "servers": ()}, []),
    ],
)
def test_a_volume_of_state_comes_to_the_server_that_is_there(change: dict[str, object], expected: list[str]) -> None:
    assert shown(op.plan(*with_state(**change))) == expected


def test_a_volume_that_a_server_has_which_goes_comes_to_the_one_that_stays() -> None:
    wanted, now = with_state(servers=("twin",))
    [slurm] = [one for one in now.servers if one.machine == "slurm"]
    twin = replace(slurm, id="twin", status="ERROR", port="port-twin")
    now = replace(now, servers=(*now.servers, twin))
    assert openstack_limits.faults(wanted, now, []) == []
    assert shown(op.plan(wanted, now)) == ["delete server slurm", "attach volume slurm"]


def test_a_testbed_from_before_there_were_volumes_gets_them() -> None:
    now = replace(up(desired()), block_storage=True)
    assert shown(op.plan(keeping(desired()), now)) == [
        "create volume entry",
        "create volume slurm",
        "attach volume entry",
        "attach volume slurm",
    ]


def test_a_machine_that_is_made_anew_gets_its_volume_and_its_address() -> None:
    wanted, now = with_state()
    [slurm] = [one for one in now.servers if one.machine == "slurm"]
    [volume] = [one for one in now.volumes if one.machine == "slurm"]
    # As the cloud says it, the volume is one of those that stay.
    broken = replace(slurm, status="ERROR", volumes=("boot", volume.id), kept_volumes=(volume.id,))
    servers = tuple(broken if one is slurm else replace(one, address="10.20.0.9") for one in now.servers)
    wanted = replace(wanted, addresses={"slurm": "10.20.0.7"})
    steps = op.plan(wanted, replace(now, servers=servers))
    assert shown(steps) == ["delete server slurm", "create server slurm"]
    assert steps[-1].data["address"] == "10.20.0.7"
    for taken in (
        replace(now, servers=servers, others=frozenset({"10.20.0.7"})),
        replace(now, servers=tuple(one if one is broken else replace(one, address="10.20.0.7") for one in servers)),
    ):
        [made] = [one for one in op.plan(wanted, taken) if one.action == "create server"]
        assert made.data["address"] == ""


def test_a_machine_that_left_the_inventory_leaves_its_volume_until_all_goes() -> None:
    wanted, now = with_state()
    less = keeping(desired(*(one for one in wanted.machines if one.name != "slurm")))
    assert [step for step in op.plan(less, now) if "volume" in step.action] == []
    steps = shown(op.plan_removal(now, "lab"))
    assert steps.index("delete server slurm") < steps.index("delete volume slurm")
    assert "delete volume entry" in steps


def test_volumes_that_a_run_made_are_taken_back_and_no_others() -> None:
    _, now = with_state()
    before = replace(WITH_VOLUMES, volumes=tuple(one for one in now.volumes if one.machine == "slurm"))
    taken = shown(op.plan_removal(op.since(before, now), "lab"))
    assert [step for step in taken if "volume" in step] == ["delete volume entry"]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"status": "error"}, "is in state error"),
        ({"servers": ("somebody",)}, "is attached to somebody, which is not that machine: detach it there"),
        ({"size_gb": 10}, "has 10 GB and should have 20"),
        ({"size_gb": 30}, ""),
        ({"status": "error", "machine": "gone"}, ""),
    ],
)
def test_a_volume_of_state_that_cannot_be_used_is_told(change: dict[str, object], part: str) -> None:
    wanted, now = with_state(**change)
    found = openstack_limits.faults(wanted, now, [])
    assert (len(found) == 1 and part in found[0]) if part else found == []


def test_two_volumes_of_one_machine_are_not_chosen_from() -> None:
    wanted, now = with_state()
    [slurm] = [one for one in now.volumes if one.machine == "slurm"]
    twin = replace(slurm, id="twin", status="available", servers=())
    [fault] = openstack_limits.faults(wanted, replace(now, volumes=(*now.volumes, twin)), [])
    assert fault.startswith("machine slurm has 2 volumes of state, ")
    assert "only you know" in fault


def test_volumes_of_state_count_and_those_that_stay_are_not_given_back() -> None:
    wanted = keeping(desired())
    now = replace(WITH_VOLUMES, limits=limits(volumes=5, volume_gigabytes=5000))
    assert openstack_limits.short(wanted, now, op.plan(wanted, now)) == ["volumes: 6 needed, 5 left of 8, short by 1"]
    wanted, now = with_state()
    servers = tuple(replace(one, status="ERROR") for one in now.servers)
    now = replace(now, servers=servers)
    assert openstack_limits.needs(wanted, now, op.plan(wanted, now))["volumes"] == 4
