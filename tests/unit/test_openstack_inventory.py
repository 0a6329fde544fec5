"""What is wrong with machines wanted on a cloud is said before the cloud is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from cloud_machines import CHECKS, PREFIX, cloud_faults, machine_state

PROJECT = Path(__file__).parents[2]
SIZES = {"desktop": {}, "desktop-x2": {}}
GROUPS = {
    "openstack_machines": ["planner", "slurm"],
    "planners": ["planner"],
    "slurm_nodes": ["slurm"],
    "kubernetes_nodes": ["planner"],
}


def faults(groups=GROUPS, hostvars=None, ssh_from=("192.0.2.0/24",), **said) -> list[str]:  # type: ignore[no-untyped-def]
    values = {PREFIX + name: value for name, value in {"ssh_from": list(ssh_from), **said}.items() if name != "testbed"}
    values |= {"testbed_name": said.get("testbed", "lab")}
    return cloud_faults(groups, {"planner": {}, "slurm": {}} | (hostvars or {}), SIZES, values)


def test_nothing_is_said_of_a_good_inventory_or_of_one_without_a_cloud() -> None:
    assert faults() == []
    assert faults(groups={}, ssh_from=(), entry="nobody", policy="none") == []


def test_nothing_is_said_of_the_roles_own_defaults_and_of_the_example() -> None:
    defaults = yaml.safe_load((PROJECT / "roles/openstack_machines/defaults/main.yml").read_text())
    example = yaml.safe_load((PROJECT / "inventories/openstack/group_vars/all/main.yml").read_text())
    said = {name.removeprefix(PREFIX): value for name, value in (defaults | example).items() if name.startswith(PREFIX)}
    said["state"] = state_of_the_role()
    assert (
        faults(
            **said
            | {"entry": "planner", "control_prefix": "/tmp/.caesar-testbed-ssh/caesar-", "ssh_from": ["192.0.2.1/32"]}
        )
        == []
    )


def state_of_the_role() -> dict[str, Any]:
    """What the role keeps for machines of each group, as an inventory with NFS has it."""
    state: dict[str, Any] = yaml.safe_load((PROJECT / "roles/openstack_machines/defaults/main.yml").read_text())[
        f"{PREFIX}state"
    ]
    state["kubernetes_nodes"]["paths"]["mongodb"] = "/var/lib/caesar-mongodb"
    state["storage_servers"]["paths"]["storage"] = "/mnt/storage"
    return state


@pytest.mark.parametrize("example", ["local", "local-large"])
def test_a_machine_on_a_cloud_keeps_what_one_on_this_host_does(example: str) -> None:
    """One list: what has a volume of podman here has a place on the volume there."""
    children = yaml.safe_load((PROJECT / f"inventories/{example}/hosts.yml").read_text())["all"]["children"]
    file = {
        "local": "roles/local_machines/defaults/main.yml",
        "local-large": "inventories/local-large/group_vars/all/platforms.yml",
    }
    definitions = yaml.safe_load((PROJECT / file[example]).read_text())["local_machines_definitions"]
    for name, machine in definitions.items():
        groups = [group for group, described in children.items() if name in described["hosts"]]
        here = {short: path for short, path in machine["volumes"].items() if short != "storage"}
        there = machine_state(state_of_the_role(), groups)["paths"]
        assert here.items() <= there.items(), name
        # Of these a control plane has one, and the database's files are on the podman volume here.
        assert there.keys() - here.keys() <= {"etcd", "mongodb"}, name


def test_sizes_of_a_machines_groups_add_up_unless_it_has_its_own() -> None:
    state = state_of_the_role()
    groups = ["planners", "storage_servers", "voters", "openstack_machines"]
    assert machine_state(state, groups) == {
        "size_gb": 210,
        "paths": {"planners": "/var/lib/caesar-planner", "voter": "/var/lib/caesar-voter", "storage": "/mnt/storage"},
    }
    assert machine_state(state, groups, 500)["size_gb"] == 500
    assert machine_state(state, ["slurm_nodes"], 500) == {"size_gb": 0, "paths": {}}
    state["storage_servers"]["paths"]["storage"] = ""
    assert machine_state(state, groups)["size_gb"] == 10


def test_every_variable_of_the_role_is_looked_at() -> None:
    specs = yaml.safe_load((PROJECT / "roles/openstack_machines/meta/argument_specs.yml").read_text())
    of_role = {name.removeprefix(PREFIX) for name in specs["argument_specs"]["main"]["options"]}
    assert of_role == {*CHECKS, "flavors", "ssh_from"}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"ssh_from": ()}, "openstack_machines_ssh_from is []: say from which addresses you reach the cloud"),
        ({"ssh_from": ("192.0.2.7/24",)}, "192.0.2.7/24 is no network"),
        ({"entry": "kube"}, "none of openstack_machines: planner, slurm"),
        ({"hostvars": {"slurm": {"openstack_size": "huge"}}}, "none of desktop_sizes: desktop, desktop-x2"),
        ({"hostvars": {"slurm": {"openstack_sise": "desktop"}}}, "machine slurm: there is no variable openstack_sise"),
        ({"groups": GROUPS | {"local_machines": ["x"]}}, "on this host or on a cloud"),
        ({"groups": {"openstack_machines": ["My_Host"]}, "hostvars": {"My_Host": {}}}, "My_Host"),
        ({"testbed": "My Testbed"}, "testbed_name is 'My Testbed': it is the beginning of the names of servers"),
        ({"imgae": "debian"}, "there is no variable openstack_machines_imgae; openstack_machines_image is meant?"),
        ({"colour": "red"}, "there is no variable openstack_machines_colour"),
        ({"image": ""}, "openstack_machines_image is '': give the name or id of an image"),
        ({"image": 12}, "openstack_machines_image is 12"),
        ({"user": "Debian User"}, "openstack_machines_user is 'Debian User'"),
        ({"cloud": None}, "openstack_machines_cloud is None: give the cloud's name in clouds.yaml"),
        ({"external_network": " public"}, "openstack_machines_external_network is ' public'"),
        ({"flavors": ["m1.big"]}, "openstack_machines_flavors is ['m1.big']: give the cloud's name"),
        ({"flavors": {"huge": "m1.big"}}, "openstack_machines_flavors.huge is of no size: desktop_sizes are desktop, "),
        ({"flavors": {"desktop": ""}}, "openstack_machines_flavors.desktop is ''"),
        ({"cidr": "10.20.0.7/24"}, "openstack_machines_cidr is '10.20.0.7/24': give a network of IPv4"),
        ({"cidr": "fd00::/64"}, "give a network of IPv4"),
        ({"cidr": "10.20.0.0/30"}, "has addresses for 0 machines, and there are 2"),
        ({"cidr": "8.8.8.0/24"}, "give private addresses"),
        ({"nameservers": "192.0.2.53"}, "openstack_machines_nameservers is '192.0.2.53': give a list"),
        ({"nameservers": ["dns.example.org"]}, "'dns.example.org' is no address"),
        ({"boot_volumes": "maybe"}, "openstack_machines_boot_volumes is 'maybe': give true or false"),
        ({"reach": "later"}, "openstack_machines_reach is 'later': give true or false"),
        ({"control_prefix": "ssh-"}, "openstack_machines_control_prefix is 'ssh-': give an absolute path"),
        ({"apart": "slurm_nodes"}, "openstack_machines_apart is 'slurm_nodes': give a list of groups"),
        (
            {"apart": ["computers"]},
            "'computers' is no group of the inventory; those that are: kubernetes_nodes, planners",
        ),
        (
            {"policy": "affinity"},
            "openstack_machines_policy is 'affinity': give one of soft-anti-affinity, anti-affinity",
        ),
        (
            {"policy": "anti-affinity", "apart": ["planners", "kubernetes_nodes"]},
            "machine planner is in planners and kubernetes_nodes, and a cloud keeps it apart from the machines of one",
        ),
        ({"state": []}, "openstack_machines_state is []: give what outlives machines by group"),
        (
            {"state": {"slurm_node": {"size_gb": 1, "paths": {}}}},
            "openstack_machines_state.slurm_node: that is no group",
        ),
        ({"state": {"planners": {"size_gb": 5}}}, "give size_gb and paths"),
        ({"state": {"planners": {"size_gb": 0, "paths": {}}}}, "planners.size_gb is 0: give whole gigabytes"),
        ({"state": {"planners": {"size_gb": 5, "paths": {"../x": "/x"}}}}, "'../x' is a directory on the volume"),
        (
            {"state": {"planners": {"size_gb": 5, "paths": {"x": "var"}}}},
            "planners.paths.x is 'var': give an absolute path",
        ),
        (
            {"state": {one: {"size_gb": 5, "paths": {"x": f"/{one}"}} for one in ("planners", "voters")}},
            "openstack_machines_state.voters.paths.x is /voters, and another group has /planners under that name",
        ),
        ({"state_root": "state"}, "openstack_machines_state_root is 'state': give an absolute path"),
        ({"state_other_release": 13}, "openstack_machines_state_other_release is 13: give true or false"),
        ({"hostvars": {"slurm": {"openstack_state_gb": "big"}}}, "machine slurm: openstack_state_gb is 'big'"),
        ({"hostvars": {"slurm": {"openstack_state_device": "vdb"}}}, "machine slurm: openstack_state_device is 'vdb'"),
        ({"timeout": "soon"}, "openstack_machines_timeout is 'soon': give whole seconds"),
        ({"timeout": 0}, "openstack_machines_timeout is 0"),
        ({"rebuild": "slurm"}, "openstack_machines_rebuild is 'slurm': give a list of machines, as [planner]"),
        ({"rebuild": ["kube"]}, "openstack_machines_rebuild: 'kube' is none of openstack_machines: planner, slurm"),
        ({"rules": {}}, "openstack_machines_rules is {}: give a list"),
        ({"rules": ["6817"]}, "openstack_machines_rules[0] is '6817': give a mapping"),
        (
            {"rules": [{"to": "planners", "from": "voters"}]},
            "openstack_machines_rules[0].from is 'voters': give a list",
        ),
        (
            {"rules": [{"to": "planers", "from": ["voters"]}]},
            "[0].to is 'planers', which is no group: give one of entry",
        ),
        (
            {"rules": [{"to": "planners", "from": ["voters"], "port": 1}]},
            "openstack_machines_rules[0] has 'port': known",
        ),
        (
            {"rules": [{"to": "planners", "from": ["voters"], "protocol": "sctp"}]},
            "[0].protocol is 'sctp': give one of tcp, udp, icmp, any",
        ),
        (
            {"rules": [{"to": "planners", "from": ["voters"], "protocol": "any", "ports": "22"}]},
            "[0].ports is '22', but any has no ports",
        ),
        *(
            (
                {"rules": [{"to": "planners", "from": ["voters"], "ports": ports}]},
                f"[0].ports is {ports!r}: give a port",
            )
            for ports in ("ssh", "0", "70000", "8399-8101", "1-2-3")
        ),
    ],
)
def test_each_fault_is_said_once_with_what_would_be_right(change: dict[str, object], part: str) -> None:
    found = faults(**change)
    assert len(found) == 1, found
    assert part in found[0]


def test_all_faults_are_said_at_once() -> None:
    assert len(faults(image="", timeout=-1, policy="x", cidr="x", ssh_from=())) == 5
