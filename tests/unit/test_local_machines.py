"""What is done to have a testbed's machines: the plan, without podman."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace
from pathlib import Path

import local_machines as module
import pytest
from ansible.module_utils import machine_plan as mp
from hypothesis import given
from hypothesis import strategies as st

SUBNET = "10.89.3.0/24"
MACHINES = (
    mp.Machine("slurm", 11, {"storage": "/mnt/storage", "mysql": "/var/lib/mysql"}),
    mp.Machine("kube", 12, {"storage": "/mnt/storage"}, memory_gib=1.5),
)
WANTED = mp.Wanted(
    testbed="t",
    machines=MACHINES,
    image_key="abc",
    subnet_pools=("10.89.0.0/16",),
    host_keys={"slurm": "ssh-ed25519 AAAA t-slurm", "kube": "ssh-ed25519 BBBB t-kube"},
    authorized_key="ssh-ed25519 CCCC operator",
)
VOLUMES = frozenset({"t-storage", "t-slurm-mysql"})


def running(name: str, **changes: object) -> mp.Container:
    machine = next(m for m in MACHINES if m.name == name)
    container = mp.Container("0" * 64, "running", mp.definition(WANTED, machine, mp.Network(SUBNET)), True, True)
    return replace(container, **changes)


def seen(**containers: mp.Container) -> mp.Seen:
    return mp.Seen(True, SUBNET, {f"t-{name}": item for name, item in containers.items()}, VOLUMES, (), "t")


def actions(state: mp.Seen, wanted: mp.Wanted = WANTED) -> list[tuple[str, str]]:
    return [(step.action, step.subject) for step in mp.plan(wanted, state)[1]]


def test_a_machine_that_is_to_be_made_anew_is_the_only_one() -> None:
    found = actions(seen(slurm=running("slurm"), kube=running("kube")), replace(WANTED, anew=frozenset({"kube"})))
    assert found == [("remove machine", "t-kube"), ("create machine", "t-kube"), ("start machine", "t-kube")]


def test_nothing_there_makes_everything_in_order() -> None:
    subnet, steps = mp.plan(WANTED, mp.Seen(False, None, {}, frozenset(), ("10.89.0.0/23",)))
    assert str(subnet) == "10.89.2.0/24"
    assert [(step.action, step.subject) for step in steps] == [
        ("create network", "t"),
        ("create volume", "t-storage"),
        ("create volume", "t-slurm-mysql"),
        ("import image", f"{mp.IMAGE_NAME}:abc"),
        ("create machine", "t-slurm"),
        ("start machine", "t-slurm"),
        ("create machine", "t-kube"),
        ("start machine", "t-kube"),
    ]


def test_all_there_does_nothing() -> None:
    assert actions(seen(slurm=running("slurm"), kube=running("kube"))) == []


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"state": "exited", "alive": False, "answers": False}, ["start machine"]),
        ({"alive": False, "answers": False}, ["clear machine", "start machine"]),
        ({"state": "stopping", "alive": False, "answers": False}, ["clear machine", "start machine"]),
        ({"answers": False}, ["stop machine", "start machine"]),
        ({"state": "paused", "answers": False}, ["stop machine", "start machine"]),
        ({"state": "created", "alive": False, "answers": False}, ["remove machine", "create machine", "start machine"]),
        ({"definition": "other"}, ["remove machine", "create machine", "start machine"]),
    ],
)
def test_a_machine_that_is_not_well(changes: dict[str, object], steps: list[str]) -> None:
    state = seen(slurm=running("slurm", **changes), kube=running("kube"))
    assert actions(state) == [(step, "t-slurm") for step in steps]


def test_a_machine_that_left_the_inventory_goes_and_its_volumes_stay() -> None:
    wanted = replace(WANTED, machines=MACHINES[1:])
    kube = running("kube", definition=mp.definition(wanted, MACHINES[1], mp.Network(SUBNET)))
    assert actions(seen(slurm=running("slurm"), kube=kube), wanted) == [("remove machine", "t-slurm")]


@pytest.mark.parametrize(
    "other",
    [
        replace(WANTED, image_key="def"),
        replace(WANTED, authorized_key="ssh-ed25519 DDDD operator"),
        replace(WANTED, host_keys={**WANTED.host_keys, "slurm": "ssh-ed25519 EEEE t-slurm"}),
        replace(WANTED, nameservers=("192.0.2.53",)),
        replace(WANTED, cgroup="hybrid"),
    ],
)
def test_what_a_machine_is_made_from_is_in_its_definition(other: mp.Wanted) -> None:
    network = mp.Network(SUBNET)
    assert mp.definition(other, MACHINES[0], network) != mp.definition(WANTED, MACHINES[0], network)


def test_another_network_name_is_the_same_machine() -> None:
    options = mp.create_options(WANTED, MACHINES[0], mp.Network(SUBNET), "t-6b059512")
    assert "--network=t-6b059512" in options
    assert "--ip=10.89.3.11" in options
    assert actions(replace(seen(slurm=running("slurm"), kube=running("kube")), network="t-6b059512")) == []


@given(st.lists(st.integers(0, 255), max_size=256))
def test_the_subnet_overlaps_nothing_in_use(taken: list[int]) -> None:
    used = [f"10.89.{number}.7" for number in taken]
    subnet = mp.free_subnet(["10.89.0.0/16"], used)
    if subnet is None:
        assert set(taken) == set(range(256))
    else:
        assert not any(ipaddress.ip_address(address) in subnet for address in used)


def test_no_free_subnet_says_which_variable() -> None:
    with pytest.raises(mp.Conflict, match="local_machines_subnet_pools"):
        mp.plan(WANTED, mp.Seen(True, None, {}, VOLUMES, ("10.0.0.0/8",)))


def test_routes_that_count() -> None:
    routes = [
        {"dst": "default", "gateway": "192.0.2.1"},
        {"dst": "192.0.2.0/24"},
        {"type": "local", "dst": "127.0.0.0/8"},
        {"type": "broadcast", "dst": "192.0.2.255"},
    ]
    assert mp.routed_networks(routes) == ["192.0.2.0/24", "127.0.0.0/8"]


def test_removal_takes_all_that_carries_the_label() -> None:
    steps = mp.plan_removal(replace(seen(slurm=running("slurm", alive=False)), network="t-6b059512"))
    assert [(step.action, step.subject) for step in steps] == [
        ("discard machine", "t-slurm"),
        ("remove volume", "t-slurm-mysql"),
        ("remove volume", "t-storage"),
        ("remove network", "t-6b059512"),
    ]


def test_the_hosts_systemd_tree_is_unmounted_where_cgroups_are_version_1_only() -> None:
    assert "umount /sys/fs/cgroup/systemd;" in mp.start_command("hybrid")[-1]
    assert "umount" not in mp.start_command("v2")[-1]


@pytest.mark.parametrize(
    ("cgroup", "systemd", "manager"), [("hybrid", True, "cgroupfs"), ("v2", True, "systemd"), ("v2", False, "cgroupfs")]
)
def test_the_cgroup_manager_is_one_that_works(cgroup: str, systemd: bool, manager: str) -> None:
    assert f'cgroup_manager = "{manager}"' in mp.containers_conf(cgroup, systemd, 20000, 32768, "runc")


def test_rules_of_a_network_that_is_gone() -> None:
    nat = """\
:NETAVARK-67C9F5E7F901C - [0:0]
-A POSTROUTING -j NETAVARK-HOSTPORT-MASQ
-A POSTROUTING -s 10.89.0.0/24 -j NETAVARK-C6E3B78967170
-A POSTROUTING -s 10.89.3.0/24 -j NETAVARK-67C9F5E7F901C
-A NETAVARK-67C9F5E7F901C -d 10.89.3.0/24 -j ACCEPT
-A NETAVARK-67C9F5E7F901C ! -d 224.0.0.0/4 -j MASQUERADE
"""
    assert mp.leftover_rules(nat, SUBNET) == [
        ["-D", "POSTROUTING", "-s", SUBNET, "-j", "NETAVARK-67C9F5E7F901C"],
        ["-F", "NETAVARK-67C9F5E7F901C"],
        ["-X", "NETAVARK-67C9F5E7F901C"],
    ]


def test_files_for_the_operator() -> None:
    address = mp.addresses(mp.Network(SUBNET), MACHINES)
    assert json.loads(mp.machines_json(mp.Network(SUBNET), address, "0123456789ab")) == {
        "image": "0123456789ab",
        "subnet": SUBNET,
        "gateway": "10.89.3.1",
        "machines": {"kube": {"address": "10.89.3.12"}, "slurm": {"address": "10.89.3.11"}},
    }
    config = mp.ssh_config(WANTED, address, "/state dir")
    assert "StrictHostKeyChecking yes" in config
    assert 'UserKnownHostsFile "/state dir/known_hosts"' in config
    assert mp.known_hosts(WANTED) == "t-slurm ssh-ed25519 AAAA\nt-kube ssh-ed25519 BBBB\n"


def test_files_are_written_once_and_for_the_operator_alone(tmp_path: Path) -> None:
    files = module.Files(tmp_path / "state", check=False)
    files.directory()
    files.write("ssh_config", "Host x\n")
    assert files.changed == [str(tmp_path / "state"), str(tmp_path / "state/ssh_config")]
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state/ssh_config").stat().st_mode & 0o777 == 0o600
    again = module.Files(tmp_path / "state", check=False)
    again.directory()
    again.write("ssh_config", "Host x\n")
    assert again.changed == []


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    files = module.Files(tmp_path / "state", check=True)
    files.directory()
    files.write("ssh_config", "Host x\n")
    assert files.key("ssh_ed25519", "operator") == ""
    assert len(files.changed) == 3
    assert not (tmp_path / "state").exists()


def test_a_machines_packages_are_shared_between_testbeds(tmp_path: Path) -> None:
    (tmp_path / "one-kube").mkdir()
    (tmp_path / "one-kube/x_1_all.deb").write_text("x")
    (tmp_path / "one-slurm").mkdir()
    (tmp_path / "one-slurm/y_1_all.deb").write_text("y")
    module.seed_archives(tmp_path / "two-kube")
    assert [path.name for path in (tmp_path / "two-kube").iterdir()] == ["x_1_all.deb"]


def test_the_network_namespace_of_a_container(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    assert module.network_namespace(config) is None
    config.write_text(json.dumps({"linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/x"}]}}))
    assert module.network_namespace(config) == Path("/run/x")


def test_a_machine_keeps_its_hardware_address() -> None:
    """A new one at each start would leave it out of reach until the neighbours forget the old one."""
    assert mp.mac_address("10.89.0.11") == "02:42:0a:59:00:0b"
    assert mp.mac_address("10.89.0.11") != mp.mac_address("10.89.1.11")
