"""Machines on a cloud by a plain member: made, left alone, refused, repaired, taken down; in this order."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from openstack_lab import HOSTS, HOSTS_LOCAL, MACHINES, PROJECT, TESTBED, Lab, plane, set_quota, set_volume_quota

SIZES = yaml.safe_load((PROJECT / "inventories/openstack/group_vars/all/platforms.yml").read_text())["desktop_sizes"]
MARK = f"caesar-testbed={TESTBED}"


@pytest.fixture(scope="module")
def before(lab: Lab) -> dict[str, int]:
    """What is used of the project's limits before anything is made; the first look makes the default security group."""
    assert len(list(lab.member.network.security_groups())) == 1
    return lab.usage()


def wait_until(there: Callable[[], bool]) -> None:
    """Wait for what the cloud does behind its answer."""
    end = time.monotonic() + 120
    while not there():
        assert time.monotonic() < end
        time.sleep(0.2)


def wanted(**variables: object) -> str:
    """An argument of ansible-playbook that sets variables of the role."""
    return "--extra-vars=" + json.dumps({f"openstack_machines_{name}": value for name, value in variables.items()})


def inventory(directory: Path, groups: dict[str, dict[str, Any]]) -> str:
    """An argument of ansible-playbook that gives the example's inventory other groups, written here."""
    (directory / "group_vars").symlink_to(PROJECT / "inventories/openstack/group_vars")
    (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": HOSTS_LOCAL, "children": groups}}))
    return f"--inventory={directory}"


def test_a_wrong_inventory_is_said_before_the_cloud_is_asked(lab: Lab) -> None:
    # Its own words for each are in the unit tests; the inventory of the cloud asks it too, and is left out.
    hosts = f"--inventory={PROJECT}/inventories/openstack/hosts.yml"
    run = lab.run("machines", hosts, wanted(cidr="10.20.0.0/30", entry="nobody", imgae="debian-13", timeout=0))
    assert run.returncode != 0
    assert re.search(r"The inventory has 4 faults;\s+the cloud has not been asked", run.stdout)
    assert not [one for one in plane.requests(lab.directory) if "caesar-testbed" in str(one["agent"])]


def test_what_is_too_much_is_refused_before_anything_is_made(lab: Lab, before: dict[str, int]) -> None:
    set_quota(lab, lab.member.current_project_id, cores=8, instances=3)
    set_volume_quota(lab, lab.member.current_project_id, 1000, 7)
    run = lab.run("machines", wanted(image="debain-12", external_network="publik"))
    set_quota(lab, lab.member.current_project_id, cores=240, instances=60)
    set_volume_quota(lab, lab.member.current_project_id, 60000)
    assert run.returncode != 0
    assert "instances: 5 needed, 3 left of 3, short by 2" in run.stdout
    assert "cores: 40 needed, 8 left of 8, short by 32" in run.stdout
    assert "volume gigabytes: 2804 needed, 1000 left of 1000, short by 1804" in run.stdout
    assert "volumes: 8 needed, 7 left of 7, short by 1" in run.stdout
    assert "there is no image debain-12 (openstack_machines_image); those that are: debian-12" in run.stdout
    assert (
        "no network publik to the outside (openstack_machines_external_network); those that are: public" in run.stdout
    )
    assert "6 things stand in the way" in run.stdout
    assert lab.writes() == []
    assert not lab.handles.exists()
    assert lab.usage() == before


def test_check_says_what_would_be_made_and_makes_nothing(lab: Lab, before: dict[str, int]) -> None:
    run = lab.run("machines", "--check", "--diff")
    assert run.returncode == 0, run.stdout
    assert "create server slurm" in run.stdout
    assert "create volume slurm: its state has none" in run.stdout
    assert run.changed == 1
    assert lab.writes() == []
    assert not lab.handles.exists()


def test_machines_that_cannot_be_apart_are_told_and_leave_nothing(
    lab: Lab, before: dict[str, int], tmp_path: Path
) -> None:
    """Three machines that must be on different hosts; the cloud has two."""
    names = ["one", "two", "three"]
    groups = {"openstack_machines": names, "slurm_nodes": names}
    described = {group: {"hosts": dict.fromkeys(members)} for group, members in groups.items()}
    run = lab.run("machines", inventory(tmp_path, described))
    assert run.returncode != 0
    assert "the cloud has no host of its own for each of the 3 of slurm_nodes" in run.stdout
    # What the cloud says differs with the order in which its scheduler took them.
    assert re.search(r"The cloud\s+says:\s+- (one|two|three): \w+", run.stdout)
    assert lab.servers() == {}
    assert lab.volumes() == {}
    assert lab.usage() == before
    assert list(lab.member.compute.keypairs()) == []
    assert list(lab.member.compute.server_groups()) == []
    assert not lab.handles.exists()


def test_a_run_that_is_killed_is_finished_by_the_next(lab: Lab, before: dict[str, int]) -> None:
    """Killed after the network was made but not its subnet, then after the first server was asked for."""
    for step in ("POST /.*networks", "POST /servers"):
        lab.run_until(step)
    run = lab.run("machines")
    assert run.returncode == 0, run.stdout
    servers = lab.servers()
    assert set(servers) == MACHINES
    assert len(list(lab.member.compute.servers())) == len(MACHINES)
    assert {server["status"] for server in servers.values()} == {"ACTIVE"}
    for kind in (lab.member.network.networks, lab.member.network.routers, lab.member.network.subnets):
        assert len([one for one in kind() if MARK in one.tags]) == 1
    [address] = lab.member.network.ips()
    assert address.status == "ACTIVE"
    assert address.tags == [MARK]


def test_machines_of_a_group_are_on_different_hosts(lab: Lab) -> None:
    found = lab.admin.compute.get("/servers/detail?all_tenants=1").json()["servers"]
    hosts = {server["metadata"]["caesar-machine"]: server["OS-EXT-SRV-ATTR:host"] for server in found}
    assert hosts["compute1"] != hosts["compute2"]


def test_each_machine_boots_from_a_volume_of_its_size(lab: Lab) -> None:
    volumes = lab.volumes()
    assert set(volumes) == MACHINES
    for name, described in HOSTS["openstack_machines"]["hosts"].items():
        size = SIZES[(described or {}).get("openstack_size", "desktop")]
        assert volumes[name]["size"] == size["disc_gb"]
        assert (volumes[name]["status"], volumes[name]["bootable"]) == ("in-use", "true")


def test_each_machine_that_keeps_state_has_a_volume_for_it_that_outlives_it(lab: Lab) -> None:
    sizes = {name: volume["size"] for name, volume in lab.state().items()}
    assert sizes == {"planner": 210, "slurm": 20, "kube": 50}
    assert {name: held[1:] for name, held in lab.held().items()} == {name: ("in-use", [name]) for name in sizes}
    for name, server in lab.servers().items():
        stays = {one["id"]: not one["delete_on_termination"] for one in server["os-extended-volumes:volumes_attached"]}
        assert [ident for ident, kept in stays.items() if kept] == ([lab.state()[name]["id"]] if name in sizes else [])
    # By this the machine knows its disc.
    written = json.loads((lab.handles / "machines.json").read_text())["machines"]
    assert {name: one.get("volume") for name, one in written.items()} == {
        name: lab.held().get(name, (None,))[0] for name in MACHINES
    }


def test_the_second_run_changes_and_writes_nothing(lab: Lab) -> None:
    seen = len(lab.writes())
    run = lab.run("machines")
    assert (run.returncode, run.changed) == (0, 0), run.stdout
    check = lab.run("machines", "--check")
    assert (check.returncode, check.changed) == (0, 0), check.stdout
    assert lab.writes()[seen:] == []


def test_ports_have_only_the_security_groups_of_their_parts(lab: Lab) -> None:
    groups = {group.id: group.name for group in lab.member.network.security_groups()}
    servers = lab.servers()
    by_server = {port.device_id: port for port in lab.member.network.ports()}
    found = {
        name: {groups[one] for one in by_server[server["id"]].security_group_ids} for name, server in servers.items()
    }
    assert found["slurm"] == {f"{TESTBED}-inside", f"{TESTBED}-slurm_controllers"}
    assert f"{TESTBED}-entry" in found["planner"]
    assert [name for name, ours in found.items() if f"{TESTBED}-entry" in ours] == ["planner"]
    outside = [
        rule
        for rule in lab.member.network.security_group_rules(direction="ingress")
        if groups.get(rule.security_group_id, "").startswith(TESTBED) and not rule.remote_group_id
    ]
    assert [(rule.remote_ip_prefix, rule.port_range_min) for rule in outside] == [("192.0.2.0/24", 22)]


def test_the_operators_files_lead_through_the_entry_machine(lab: Lab) -> None:
    handles = json.loads((lab.handles / "machines.json").read_text())
    assert set(handles["machines"]) == MACHINES
    [address] = lab.member.network.ips()
    assert handles["entry"] == address.floating_ip_address
    shown = subprocess.run(
        ["ssh", "-G", "-F", lab.handles / "ssh_config", "slurm"], capture_output=True, text=True, check=True
    ).stdout
    assert f"hostname {handles['machines']['slurm']['address']}" in shown
    assert "-W [%h]:%p planner" in shown or "-W %h:%p planner" in shown
    assert "stricthostkeychecking true" in shown
    assert (lab.handles / "secrets/ssh_ed25519").stat().st_mode & 0o077 == 0


def test_host_keys_known_here_are_those_the_machines_were_given(lab: Lab) -> None:
    known = dict(line.split(" ", 1) for line in (lab.handles / "known_hosts").read_text().splitlines())
    for name, server in lab.servers().items():
        shown = lab.admin.compute.get(f"/servers/{server['id']}", microversion="2.64").json()["server"]
        given = yaml.safe_load(base64.b64decode(shown["OS-EXT-SRV-ATTR:user_data"]))["ssh_keys"]
        public = subprocess.run(
            ["ssh-keygen", "-y", "-f", "/dev/stdin"], input=given["ed25519_private"], capture_output=True, text=True
        ).stdout
        assert known[f"{TESTBED}-{name}"].split() == given["ed25519_public"].split()
        assert not public or public.split()[:2] == given["ed25519_public"].split()


def test_the_inventory_has_the_servers_in_their_groups(lab: Lab) -> None:
    run = subprocess.run(
        [
            PROJECT / ".venv/bin/ansible-inventory",
            f"--inventory={PROJECT}/inventories/openstack/openstack.yml",
            f"--extra-vars=testbed_name={TESTBED} openstack_machines_cloud=member",
            "--list",
        ],
        cwd=PROJECT,
        env=lab.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(run.stdout)
    assert set(found["openstack_servers"]["hosts"]) == MACHINES
    for group, described in HOSTS.items():
        if group != "openstack_machines":
            assert set(found[group]["hosts"]) == set(described["hosts"])
    planner = found["_meta"]["hostvars"]["planner"]["openstack_server"]
    # Marked as what came from outside.
    assert planner["status"] in ("ACTIVE", {"__ansible_unsafe": "ACTIVE"})
    assert len(planner["fixed"]) == 1


def test_a_machine_is_installed_anew_in_its_place_and_no_other(lab: Lab) -> None:
    servers, volumes, seen = lab.servers(), lab.volumes(), len(lab.writes())
    known = dict(line.split(" ", 1) for line in (lab.handles / "known_hosts").read_text().splitlines())
    check = lab.run("machines", wanted(rebuild=["compute2"]), "--check", "--diff")
    assert "rebuild server compute2: it was asked for" in check.stdout
    assert lab.writes()[seen:] == []
    run = lab.run("machines", wanted(rebuild=["compute2"]))
    assert (run.returncode, run.changed) == (0, 1), run.stdout
    after = lab.servers()
    assert lab.writes()[seen:] == [f"POST /servers/{servers['compute2']['id']}/action"]
    for same in ("id", "addresses", "os-extended-volumes:volumes_attached"):
        assert {name: one[same] for name, one in after.items()} == {name: one[same] for name, one in servers.items()}
    assert {server["status"] for server in after.values()} == {"ACTIVE"}
    assert {name: one["id"] for name, one in lab.volumes().items()} == {
        name: one["id"] for name, one in volumes.items()
    }
    # The image was written to the boot volume: cinder says from which.
    assert lab.volumes()["compute2"]["updated_at"] > volumes["compute2"]["updated_at"]
    now = dict(line.split(" ", 1) for line in (lab.handles / "known_hosts").read_text().splitlines())
    assert {name for name in known if known[name] != now[name]} == {f"{TESTBED}-compute2"}
    assert now[f"{TESTBED}-compute2"] == after["compute2"]["metadata"]["caesar-host-key"]
    assert lab.run("machines").changed == 0


def test_a_volume_of_state_that_was_taken_away_comes_back_and_is_never_made_twice(lab: Lab) -> None:
    """Detached from one machine, and attached to a stranger of another testbed in place of a second machine."""
    held, slurm = lab.held(), lab.servers()["slurm"]["id"]
    taken = f"/servers/{slurm}/os-volume_attachments/{held['slurm'][0]}"
    lab.member.compute.delete(taken).raise_for_status()
    wait_until(lambda: lab.held()["slurm"][1] == "available")
    check = lab.run("machines", "--check", "--diff")
    assert "attach volume slurm: its state is to lie on it" in check.stdout
    seen = len(lab.writes())
    run = lab.run("machines")
    assert (run.returncode, run.changed) == (0, 1), run.stdout
    assert lab.writes()[seen:] == [f"POST /servers/{slurm}/os-volume_attachments"]
    assert lab.held() == held

    lab.member.compute.delete(taken).raise_for_status()
    wait_until(lambda: lab.held()["slurm"][1] == "available")
    compute = lab.servers()["compute1"]["id"]
    body = {"volumeAttachment": {"volumeId": held["slurm"][0]}}
    lab.member.compute.post(f"/servers/{compute}/os-volume_attachments", json=body).raise_for_status()
    wait_until(lambda: lab.held()["slurm"][1:] == ("in-use", ["compute1"]))
    seen = len(lab.writes())
    run = lab.run("machines")
    assert run.returncode != 0
    assert re.search(rf"the volume of machine slurm, {held['slurm'][0]}, is\s+attached to\s+{compute}", run.stdout)
    assert lab.writes()[seen:] == []
    lab.member.compute.delete(f"/servers/{compute}/os-volume_attachments/{held['slurm'][0]}").raise_for_status()
    wait_until(lambda: lab.held()["slurm"][1] == "available")
    assert lab.run("machines").changed == 1
    assert lab.held() == held


def test_a_larger_state_is_not_made_by_itself(lab: Lab) -> None:
    seen = len(lab.writes())
    run = lab.run("machines", '--extra-vars={"openstack_state_gb": 300}')
    assert run.returncode != 0
    assert re.search(r"the volume of machine kube has 50 GB and should\s+have 300", run.stdout)
    assert lab.writes()[seen:] == []


def addresses(lab: Lab) -> dict[str, dict[str, str]]:
    """Of the operator's handles: addresses and volumes of the machines, and addresses of those that have left."""
    written = json.loads((lab.handles / "machines.json").read_text())
    return {key: written.get(key, {}) for key in ("machines", "left")}


@pytest.fixture(scope="module")
def unchanged(lab: Lab) -> tuple[dict[str, Any], dict[str, Any]]:
    """Volumes of state, and addresses, before machines leave, fail and get lost."""
    return lab.held(), addresses(lab)


def test_the_volume_of_a_machine_that_leaves_the_inventory_stays(
    lab: Lab, unchanged: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    held, where = unchanged
    less = {
        group: {"hosts": {name: one for name, one in described["hosts"].items() if name != "slurm"}}
        for group, described in HOSTS.items()
    }
    run = lab.run("machines", inventory(tmp_path, less))
    assert run.returncode == 0, run.stdout
    assert set(lab.servers()) == MACHINES - {"slurm"}
    assert lab.held() == held | {"slurm": (held["slurm"][0], "available", [])}
    assert addresses(lab)["left"] == {"slurm": where["machines"]["slurm"]["address"]}


def test_failed_and_lost_machines_come_back_and_the_others_stay(
    lab: Lab, unchanged: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    """One in ERROR, the entry machine deleted, one stopped, a rule opened by hand, a stranger beside them.

    The one in ERROR has a volume that the operator attached, and its new one gets it. Both, and one that had left the
    inventory, get what they had of state, and the addresses that their certificates name.
    """
    servers = lab.servers()
    data = lab.member.block_storage.create_volume(name="data", size=10)
    lab.member.block_storage.wait_for_status(data, interval=0.2)
    lab.member.compute.create_volume_attachment(servers["kube"]["id"], volume=data.id)
    for _ in range(200):
        if lab.member.block_storage.get_volume(data).status == "in-use":
            break
    lab.admin.compute.post(
        f"/servers/{servers['kube']['id']}/action", json={"os-resetState": {"state": "error"}}
    ).raise_for_status()
    lab.member.compute.delete_server(servers["planner"]["id"])
    lab.member.compute.stop_server(servers["compute1"]["id"])
    [group] = lab.member.network.security_groups(name=f"{TESTBED}-inside")
    opened = lab.member.network.create_security_group_rule(
        security_group_id=group.id, direction="ingress", protocol="tcp", port_range_min=1, port_range_max=65535
    )
    stranger = lab.member.network.create_network(name=TESTBED)
    for _ in range(200):
        now = lab.servers()
        if "planner" not in now and now["compute1"]["status"] == "SHUTOFF":
            break
    run = lab.run("machines")
    assert run.returncode == 0, run.stdout
    after = lab.servers()
    assert {server["status"] for server in after.values()} == {"ACTIVE"}
    assert set(after) == MACHINES
    same = {name for name in servers if after[name]["id"] == servers[name]["id"]}
    assert same == MACHINES - {"kube", "planner", "slurm"}
    assert opened.id not in {rule.id for rule in lab.member.network.security_group_rules()}
    assert {"id": data.id, "delete_on_termination": False} in after["kube"]["os-extended-volumes:volumes_attached"]
    assert (lab.held(), addresses(lab)) == unchanged
    assert lab.run("machines").changed == 0
    assert lab.member.network.get_network(stranger.id).tags == []
    lab.member.network.delete_network(stranger)
    known = (lab.handles / "known_hosts").read_text()
    assert after["kube"]["metadata"]["caesar-host-key"] in known


def test_teardown_leaves_nothing(lab: Lab, before: dict[str, int]) -> None:
    check = lab.run("teardown", "--check")
    assert "changed=1" in check.stdout
    assert set(lab.servers()) == MACHINES
    assert set(lab.state()) == {"planner", "slurm", "kube"}
    run = lab.run("teardown", "--extra-vars=confirm=yes")
    assert run.returncode == 0, run.stdout
    # What the operator made is the operator's.
    [data] = lab.member.block_storage.volumes()
    assert (data.name, data.status) == ("data", "available")
    lab.member.block_storage.delete_volume(data)
    lab.member.block_storage.wait_for_delete(data, interval=0.2)
    assert lab.usage() == before
    assert lab.servers() == {}
    assert lab.volumes() == lab.state() == {}
    assert list(lab.member.compute.keypairs()) == []
    assert list(lab.member.compute.server_groups()) == []
    assert not lab.handles.exists()
    assert lab.run("teardown", "--extra-vars=confirm=yes").changed == 0
