"""Clouds that lack something, block storage or flavors: a story after test_machines.py, which has left nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from openstack_lab import MACHINES, TESTBED, Lab, Run, set_quota, set_volume_quota


@pytest.fixture(scope="module")
def bare(lab: Lab) -> Iterator[Run]:
    """The run that made the machines on a cloud without block storage."""
    [service] = [one for one in lab.admin.identity.services() if one.type == "volumev3"]
    lab.admin.identity.update_service(service, is_enabled=False)
    try:
        yield lab.run("machines")
    finally:
        lab.admin.identity.update_service(service, is_enabled=True)


def test_a_cloud_without_block_storage_is_told_whose_state_lies_on_discs(lab: Lab, bare: Run) -> None:
    assert bare.returncode == 0, bare.stdout
    said = " ".join(bare.stdout.split())
    assert "This cloud has no block storage: what kube, planner, slurm must not lose lies on the discs" in said
    assert {name: one["os-extended-volumes:volumes_attached"] for name, one in lab.servers().items()} == {
        name: [] for name in MACHINES
    }


def test_a_rebuild_there_says_what_goes_before_it_is_asked_for(lab: Lab, bare: Run) -> None:
    """Of a machine where nothing is waited for, and no stage follows that needs one that has booted."""
    servers, seen = lab.servers(), len(lab.writes())
    asked = ("rebuild", "--extra-vars=machine=planner", "--tags=rebuild,machines")
    run = lab.asked("no", *asked)
    assert run.returncode != 0
    said = " ".join(run.stdout.split())
    assert f"planner of testbed '{TESTBED}' is removed and made anew" in said
    goes = "ledgers, ballots and the shared storage of planner"
    assert f"with that, since no volume holds it, {goes}. Running there: nothing. Type yes" in said
    assert said.index("since no volume holds it") < said.index("Type yes to go on") < said.index("Nothing was changed")
    assert lab.writes()[seen:] == []

    run = lab.asked("yes", *asked)
    assert run.returncode == 0, run.stdout
    path = f"/servers/{servers['planner']['id']}"
    assert set(lab.writes()[seen:]) == {f"POST {path}/metadata", f"POST {path}/action"}
    after = lab.servers()
    for same in ("id", "addresses", "flavor", "os-extended-volumes:volumes_attached"):
        assert {name: one[same] for name, one in after.items()} == {name: one[same] for name, one in servers.items()}
    done = {name: lab.member.compute.get(f"/servers/{one['id']}/os-instance-actions") for name, one in after.items()}
    assert {name: [one["action"] for one in did.json()["instanceActions"]] for name, did in done.items()} == {
        name: (["rebuild"] if name == "planner" else []) + ["create"] for name in MACHINES
    }
    assert lab.run("machines").changed == 0


def test_teardown_there_leaves_nothing(lab: Lab, bare: Run) -> None:
    run = lab.run("teardown", "--extra-vars=confirm=yes")
    assert run.returncode == 0, run.stdout
    assert lab.servers() == {}
    assert list(lab.member.network.networks(tags=[f"caesar-testbed={TESTBED}"])) == []
    assert not lab.handles.exists()


def test_flavors_that_are_missing_are_said_by_a_member_and_made_by_who_may(lab: Lab) -> None:
    [flavor] = [one for one in lab.admin.compute.flavors() if one.name == "desktop-x2"]
    lab.admin.compute.delete_flavor(flavor)
    run = lab.run("machines", "--check")
    assert "there is no flavor desktop-x2 (8 cores, 32 GiB, 512 GB), and this credential may not make one" in run.stdout
    set_quota(lab, lab.admin.current_project_id, cores=240, instances=60, ram=-1)
    set_volume_quota(lab, lab.admin.current_project_id, 60000)
    run = lab.run("machines", "--check", "--diff", '--extra-vars={"openstack_machines_cloud": "admin"}')
    assert "create flavor desktop-x2" in run.stdout


def test_no_secret_is_in_what_was_written_on_the_way(lab: Lab) -> None:
    passwords = json.loads((lab.directory / "passwords.json").read_text())
    written = "".join(path.read_text() for path in Path(lab.directory).glob("*.requests"))
    assert not [user for user, password in passwords.items() if password in written]
