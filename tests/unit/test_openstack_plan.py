"""Machines on OpenStack as a plan: what is made, repaired, refused. No cloud is needed."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from ansible.module_utils import openstack_handles, openstack_limits
from ansible.module_utils import openstack_plan as op
from hypothesis import given, settings
from hypothesis import strategies as st

SIZES = {"desktop": op.Size(4, 16, 250), "desktop-x2": op.Size(8, 32, 512)}
FLAVORS = {
    "desktop": op.Flavor("desktop", 4, 16384, 250),
    "desktop-x2": op.Flavor("desktop-x2", 8, 32768, 512),
    "m1.big": op.Flavor("m1.big", 8, 32768, 512),
}
RULES = [
    {"to": "slurm_controllers", "from": ["slurm_nodes", "planners"], "ports": "6817"},
    {"to": "storage_servers", "from": ["inside"], "ports": "2049"},
    {"to": "planners", "from": ["voters"], "ports": "8101-8399"},
]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOurs me"


def desired(*machines: op.Machine, **changes: object) -> op.Desired:
    machines = machines or (
        op.Machine("entry", "desktop", ("planners", "voters")),
        op.Machine("slurm", "desktop", ("slurm_controllers",)),
        op.Machine("compute1", "desktop-x2", ("slurm_nodes",)),
        op.Machine("compute2", "desktop-x2", ("slurm_nodes",)),
    )
    nodes = tuple(machine.name for machine in machines if "slurm_nodes" in machine.groups)
    wanted = op.Desired(
        testbed="lab",
        machines=machines,
        sizes=SIZES,
        flavors={"desktop": "desktop", "desktop-x2": "desktop-x2"},
        image="debian-12",
        external_network="public",
        cidr="10.20.0.0/24",
        entry=machines[0].name,
        security_groups=op.security_groups(machines, RULES, ["192.0.2.0/24"]),
        apart={"slurm_nodes": nodes} if len(nodes) > 1 else {},
        public_key=KEY,
    )
    return replace(wanted, **changes)  # type: ignore[arg-type]


EMPTY = op.Current(flavors=FLAVORS, images=frozenset({"debian-12"}), external_networks=frozenset({"public"}))


IDS = itertools.count(1)


def applied(wanted: op.Desired, now: op.Current, steps: list[op.Step]) -> op.Current:
    """What the cloud has after the steps, as it would do them."""
    servers = {server.id: server for server in now.servers}
    volumes = {volume.machine: volume for volume in now.volumes}
    groups = {name: replace(group, rules=dict(group.rules)) for name, group in now.security_groups.items()}
    changes: dict[str, object] = {}
    floating = list(now.floating)
    for step in steps:
        data, new = step.data, f"new-{next(IDS)}"
        match step.action:
            case "delete server":
                del servers[data["id"]]
                for name, volume in volumes.items():
                    if data["id"] in volume.servers:
                        volumes[name] = replace(volume, status="available", servers=())
            case "create volume":
                volumes[step.subject] = op.Volume(new, step.subject, "available", data["size_gb"])
            case "create server":
                machine = data["machine"]
                flavor = FLAVORS[wanted.flavors[machine.size]]
                servers[new] = op.Server(
                    new,
                    machine.name,
                    "ACTIVE",
                    flavor.name,
                    ",".join(sorted(machine.groups)),
                    flavor.cores,
                    flavor.memory_mib,
                    op.groups_of(wanted, machine),
                    "10.20.0.9",
                    f"port-{new}",
                )
                if now.block_storage and machine.name in wanted.state_gb:
                    assert volumes[machine.name].status == "available"
                    volumes[machine.name] = replace(volumes[machine.name], status="in-use", servers=(new,))
            case "start server":
                servers[data["id"]] = replace(servers[data["id"]], status="ACTIVE")
            case "rebuild server":
                assert servers[data["id"]].status == "ACTIVE"
            case "set groups":
                servers[data["id"]] = replace(servers[data["id"]], groups=data["groups"])
            case "set security groups":
                [ident] = [one.id for one in servers.values() if one.port == data["port"]]
                servers[ident] = replace(servers[ident], security_groups=frozenset(data["groups"]))
            case "create key pair":
                changes["key_pairs"] = {step.subject: wanted.public_key}
            case "create network" | "create subnet" | "create router":
                changes[step.action.split()[1] + "s"] = (op.Thing(new),)
            case "tag network" | "tag subnet" | "tag router":
                changes[step.action.split()[1] + "s"] = (op.Thing(data["id"]),)
            case "join subnet":
                subnets = changes.get("subnets", now.subnets)
                changes["joined"] = frozenset({subnets[0].id})  # type: ignore[index]
            case "create security group":
                groups[step.subject] = op.Group(new)
            case "tag security group":
                groups[step.subject] = replace(groups[step.subject], tagged=True)
            case "create rule":
                groups[data["in"]].rules[data["rule"]] = new  # type: ignore[index]
            case "delete rule":
                for group in groups.values():
                    for rule in [rule for rule, ident in group.rules.items() if ident == data["id"]]:
                        del group.rules[rule]  # type: ignore[attr-defined]
            case "create server group":
                changes["server_groups"] = {**changes.get("server_groups", now.server_groups), step.subject: new}  # type: ignore[dict-item]
            case "create address":
                port = next(one.port for one in servers.values() if one.machine == wanted.entry)
                floating.append(op.Floating(new, "203.0.113.9", port))
            case "tag address":
                floating = [replace(one, tagged=True) if one.address == step.subject else one for one in floating]
            case "delete address":
                floating = [one for one in floating if one.id != data["id"]]
            case "give address":
                port = next(one.port for one in servers.values() if one.machine == wanted.entry)
                floating = [replace(one, port=port) if one.id == data["id"] else one for one in floating]
            case "attach volume" if "server" in data:
                volumes[step.subject] = replace(volumes[step.subject], status="in-use", servers=(data["server"],))
            case "delete key pair" | "create flavor" | "attach volume":
                pass
            case _:
                raise AssertionError(step.action)
    return replace(
        now,
        servers=tuple(servers.values()),
        security_groups=groups,
        floating=tuple(floating),
        volumes=tuple(volumes.values()),
        **changes,  # type: ignore[arg-type]
    )


def up(wanted: op.Desired) -> op.Current:
    return applied(wanted, EMPTY, op.plan(wanted, EMPTY))


def shown(steps: list[op.Step]) -> list[str]:
    return [f"{step.action} {step.subject}" for step in steps]


def test_from_nothing_everything_in_order() -> None:
    order = list(dict.fromkeys(step.action for step in op.plan(desired(), EMPTY)))
    assert order == [
        "create key pair",
        "create network",
        "create subnet",
        "create router",
        "join subnet",
        "create security group",
        "create rule",
        "create server group",
        "create server",
        "create address",
    ]


def test_the_second_plan_is_empty() -> None:
    assert op.plan(desired(), up(desired())) == []


def test_only_parts_that_are_there_have_security_groups_and_only_what_they_need_is_let_in() -> None:
    groups = desired().security_groups
    assert set(groups) == {"entry", "inside", "planners", "voters", "slurm_controllers", "slurm_nodes"}
    assert groups["entry"] == {op.Rule("tcp", 22, 22, cidr="192.0.2.0/24")}
    assert groups["slurm_controllers"] == {
        op.Rule("tcp", 6817, 6817, group="slurm_nodes"),
        op.Rule("tcp", 6817, 6817, group="planners"),
    }
    assert [rule for rules in groups.values() for rule in rules if rule.cidr and rule.group] == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"status": "ERROR"}, ["delete server slurm", "create server slurm"]),
        ({"status": "SHUTOFF"}, ["start server slurm"]),
        ({"status": "SHELVED_OFFLOADED"}, ["start server slurm"]),
        ({"status": "BUILD"}, []),
        *(({"status": status}, []) for status in ("RESIZE", "VERIFY_RESIZE", "MIGRATING", "REBUILD", "UNKNOWN")),
        ({"groups": "voters"}, ["set groups slurm"]),
        ({"security_groups": frozenset({"inside"})}, ["set security groups slurm"]),
        ({"machine": "gone"}, ["delete server gone", "create server slurm"]),
    ],
)
def test_a_machine_that_is_not_as_it_should_be(change: dict[str, object], expected: list[str]) -> None:
    now = up(desired())
    servers = tuple(replace(one, **change) if one.machine == "slurm" else one for one in now.servers)  # type: ignore[arg-type]
    assert shown(op.plan(desired(), replace(now, servers=servers))) == expected


@pytest.mark.parametrize(
    ("status", "way_out"),
    [("SHUTOFF", "os-start"), ("PAUSED", "unpause"), ("SUSPENDED", "resume"), ("RESCUE", "unrescue")],
)
def test_each_state_has_its_own_way_out(status: str, way_out: str) -> None:
    now = up(desired())
    servers = tuple(replace(one, status=status) if one.machine == "slurm" else one for one in now.servers)
    [step] = op.plan(desired(), replace(now, servers=servers))
    assert step.data["action"] == way_out


def rebuilt(name: str, volume: bool = False, rewrites: bool = True, **change: object) -> list[str]:
    now = up(desired())
    servers = tuple(
        replace(one, volume=volume, **(change if one.machine == name else {}))  # type: ignore[arg-type]
        for one in now.servers
    )
    now = replace(now, servers=servers, rewrites_volumes=rewrites)
    return shown(op.plan(desired(rebuild=frozenset({name})), now))


def test_a_machine_is_installed_anew_where_it_is_asked_for_and_no_other() -> None:
    assert rebuilt("slurm") == rebuilt("slurm", volume=True) == ["rebuild server slurm"]
    assert rebuilt("slurm", status="SHUTOFF") == ["start server slurm", "rebuild server slurm"]
    assert rebuilt("slurm", status="ERROR") == ["delete server slurm", "create server slurm"]


def test_a_boot_volume_that_the_cloud_cannot_write_anew_is_made_anew_with_its_machine() -> None:
    steps = rebuilt("entry", volume=True, rewrites=False)
    assert steps == ["delete server entry", "create server entry", "give address entry"]
    assert rebuilt("entry", rewrites=False) == ["rebuild server entry"]


def test_volumes_that_somebody_attached_are_attached_to_what_comes_in_its_place() -> None:
    change = {"status": "ERROR", "volumes": ("boot", "data"), "kept_volumes": ("data",)}
    assert rebuilt("slurm", **change) == ["delete server slurm", "create server slurm", "attach volume slurm"]
    assert rebuilt("slurm", kept_volumes=("data",)) == ["rebuild server slurm"]


def test_a_run_that_changes_nothing_needs_to_know_nothing_of_what_the_cloud_offers() -> None:
    now = replace(up(desired()), flavors={}, images=frozenset(), limits={})
    assert op.plan(desired(), now) == []
    assert openstack_limits.faults(desired(), now, []) == []
    assert op.takes(op.plan(desired(), EMPTY))
    assert not op.takes([op.Step("start server", "slurm", "it is SHUTOFF")])


def test_machines_that_must_be_apart_are_made_one_after_the_other() -> None:
    def turns(policy: str) -> list[list[str]]:
        wanted = desired(policy=policy)
        steps = [step for step in op.plan(wanted, EMPTY) if step.action == "create server"]
        return [[step.subject for step in turn] for turn in op.in_turn(wanted, steps)]

    assert turns("anti-affinity") == [["entry"], ["slurm"], ["compute1", "compute2"]]
    assert turns("soft-anti-affinity") == [["entry"], ["slurm"], ["compute1"], ["compute2"]]


def test_what_a_run_made_is_known_from_what_was_there() -> None:
    whole = up(desired())
    assert shown(op.plan_removal(op.since(EMPTY, whole), "lab")) == shown(op.plan_removal(whole, "lab"))
    assert op.plan_removal(op.since(whole, whole), "lab") == []
    before = replace(whole, servers=whole.servers[:2], server_groups={})
    assert shown(op.plan_removal(op.since(before, whole), "lab")) == [
        "delete server compute1",
        "delete server compute2",
        "delete server group slurm_nodes",
    ]


def test_what_was_opened_by_hand_is_closed() -> None:
    now = up(desired())
    inside = now.security_groups["inside"]
    opened = replace(inside, rules={**inside.rules, op.Rule("tcp", 1, 65535, cidr="0.0.0.0/0"): "hand"})
    steps = op.plan(desired(), replace(now, security_groups={**now.security_groups, "inside": opened}))
    assert [(step.action, step.data["id"]) for step in steps] == [("delete rule", "hand")]


def test_a_machine_that_is_there_twice_stays_once_and_it_is_the_one_that_runs() -> None:
    now = up(desired())
    [slurm] = [one for one in now.servers if one.machine == "slurm"]
    twin = replace(slurm, id="0", status="BUILD", port="port-0")
    steps = op.plan(desired(), replace(now, servers=(twin, *now.servers)))
    assert [(step.action, step.data["id"]) for step in steps] == [("delete server", "0")]


def test_what_a_run_that_was_cut_off_made_is_used_and_tagged() -> None:
    now = replace(EMPTY, networks=(op.Thing("n", tagged=False),), security_groups={"entry": op.Group("e", False)})
    steps = shown(op.plan(desired(), now))
    assert "tag network lab" in steps
    assert "create network lab" not in steps
    assert "tag security group entry" in steps
    assert "create security group entry" not in steps


def test_the_address_moves_to_the_new_entry_machine() -> None:
    now = up(desired())
    servers = tuple(one for one in now.servers if one.machine != "entry")
    address = tuple(replace(one, port=None) for one in now.floating)
    steps = op.plan(desired(), replace(now, servers=servers, floating=address))
    assert shown(steps) == ["create server entry", "give address entry"]


def limits(**left: int) -> dict[str, op.Limit]:
    return {name.replace("_", " "): op.Limit(amount + 3, 3) for name, amount in left.items()}


def test_each_limit_that_is_short_is_said_with_what_is_needed_and_left() -> None:
    wanted = desired()
    now = replace(EMPTY, limits=limits(cores=20, instances=4, ports=2) | {"networks": op.Limit(None, 7)})
    assert openstack_limits.short(wanted, now, op.plan(wanted, now)) == [
        "ports: 5 needed, 2 left of 5, short by 3",
        "cores: 24 needed, 20 left of 23, short by 4",
    ]


def test_what_is_given_back_counts() -> None:
    wanted = desired()
    now = up(wanted)
    broken = replace(now, servers=tuple(replace(one, status="ERROR") for one in now.servers), limits=limits(cores=0))
    assert openstack_limits.short(wanted, broken, op.plan(wanted, broken)) == []


def test_volumes_of_what_is_replaced_are_given_back() -> None:
    wanted = desired()
    now = up(wanted)
    servers = tuple(replace(one, status="ERROR", volumes=(f"of-{one.machine}",)) for one in now.servers)
    sizes = {f"of-{machine.name}": SIZES[machine.size].disc_gb for machine in wanted.machines}
    now = replace(
        now, servers=servers, block_storage=True, volume_gb=sizes, limits=limits(volumes=0, volume_gigabytes=0)
    )
    assert openstack_limits.short(wanted, now, op.plan(wanted, now)) == []


def test_machines_that_cannot_be_kept_apart_are_told_with_what_would_help() -> None:
    told = openstack_limits.not_apart(desired(policy="anti-affinity"), {"compute2": "No valid host was found."})
    assert "no host of its own for each of the 2 of slurm_nodes" in told
    assert "openstack_machines_policy: soft-anti-affinity" in told
    assert told.endswith("\n- compute2: No valid host was found.")


def test_volumes_are_counted_where_there_are_any() -> None:
    wanted = desired()
    now = replace(EMPTY, block_storage=True, limits=limits(volumes=3, volume_gigabytes=2000))
    assert openstack_limits.short(wanted, now, op.plan(wanted, now)) == ["volumes: 4 needed, 3 left of 6, short by 1"]


@pytest.mark.parametrize(
    ("wanted", "now", "part"),
    [
        (desired(image="other"), EMPTY, "no image other"),
        (desired(external_network="out"), EMPTY, "those that are: public"),
        (desired(), replace(EMPTY, flavors={}), "no flavor desktop (4 cores, 16 GiB, 250 GB)"),
        (
            desired(flavors={"desktop": "desktop", "desktop-x2": "x2"}),
            EMPTY,
            "of this size: desktop-x2, m1.big (openstack_machines_flavors)",
        ),
        (desired(flavors={"desktop": "m1.big", "desktop-x2": "m1.big"}), EMPTY, "m1.big has 8 cores, 32 GiB"),
        (desired(public_key="ssh-ed25519 AAAAtheirs"), up(desired()), "let in another key"),
        (desired(image="debain-12"), EMPTY, "(openstack_machines_image); those that are: debian-12"),
        (desired(), replace(EMPTY, images=frozenset()), "the project sees none"),
        (
            desired(),
            replace(EMPTY, image_disc_gb=300, image_memory_mib=2048),
            "image debian-12 wants 2 GiB of memory and 300 GB of disc at least, and desktop has 16 GiB and 250 GB",
        ),
        (
            desired(cidr="10.30.0.0/24"),
            replace(up(desired()), subnets=(op.Thing("s", cidr="10.20.0.0/24"),), joined=frozenset({"s"})),
            "the machines' network is 10.20.0.0/24, and openstack_machines_cidr is 10.30.0.0/24",
        ),
        (
            desired(policy="anti-affinity"),
            replace(up(desired()), policies={"slurm_nodes": "soft-anti-affinity"}),
            "the machines of slurm_nodes are kept apart by soft-anti-affinity, and openstack_machines_policy is anti",
        ),
    ],
)
def test_what_the_cloud_lacks_is_said(wanted: op.Desired, now: op.Current, part: str) -> None:
    found = openstack_limits.faults(wanted, now, op.plan(wanted, now))
    assert [fault for fault in found if part in fault]
    assert len(found) == len(set(found))


def test_flavors_are_made_where_the_credential_may() -> None:
    now = replace(EMPTY, flavors={}, may_make_flavors=True)
    assert openstack_limits.faults(desired(), now, op.plan(desired(), now)) == []
    assert shown(op.plan(desired(), now))[:2] == ["create flavor desktop", "create flavor desktop-x2"]


def test_a_machine_in_use_is_not_made_anew_for_its_size() -> None:
    now = up(desired())
    bigger = desired(*(replace(one, size="desktop-x2") for one in desired().machines))
    assert op.plan(bigger, now) == []
    assert any(
        "slurm is of flavor desktop" in fault for fault in openstack_limits.faults(bigger, now, op.plan(bigger, now))
    )


def test_removal_takes_all_and_security_groups_after_servers() -> None:
    steps = shown(op.plan_removal(up(desired()), "lab"))
    assert steps.index("delete server slurm") < steps.index("delete network lab")
    assert steps.index("delete server slurm") < steps.index("delete security group inside")
    assert len(steps) == len(set(steps)) == 1 + 4 + 1 + 1 + 1 + 6 + 1


def keeping(wanted: op.Desired) -> op.Desired:
    """The same with a volume for each machine that keeps something."""
    kept = {"slurm_controllers": 20, "planners": 5, "voters": 5, "storage_servers": 200}
    sizes = {one.name: sum(gb for group, gb in kept.items() if group in one.groups) for one in wanted.machines}
    return replace(wanted, state_gb={name: size for name, size in sizes.items() if size})


NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
MACHINES = st.lists(
    st.builds(
        op.Machine,
        NAMES,
        st.sampled_from(sorted(SIZES)),
        st.sets(st.sampled_from(["planners", "voters", "slurm_controllers", "slurm_nodes", "storage_servers"])).map(
            lambda groups: tuple(sorted(groups))
        ),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda machine: machine.name,
)


@st.composite
def clouds(draw: st.DrawFn) -> op.Current:
    """What may be left of any run with any machines that was cut off anywhere, with servers in any state."""
    before = keeping(desired(*draw(MACHINES)))
    empty = replace(EMPTY, block_storage=draw(st.booleans()))
    steps = op.plan(before, empty)
    whole = applied(before, empty, steps)
    cut = draw(st.integers(0, len(whole.servers)))
    states = st.sampled_from(["ACTIVE", "ERROR", "SHUTOFF", "BUILD", "DELETED"])
    servers = [replace(one, status=draw(states)) for one in whole.servers[:cut]]
    servers += [replace(one, id=f"twin-{one.id}", port=f"twin-{one.port}") for one in servers if draw(st.booleans())]
    groups = {
        name: replace(
            group, tagged=draw(st.booleans()), rules={r: i for r, i in group.rules.items() if draw(st.booleans())}
        )
        for name, group in whole.security_groups.items()
        if draw(st.booleans())
    }
    tagged = st.booleans()
    # Of those that were cut off some have lost their server, and some were never made.
    there = {server.id for server in servers}
    volumes = [
        one if set(one.servers) <= there else replace(one, status="available", servers=())
        for one in whole.volumes
        if set(one.servers) <= there or draw(st.booleans())
    ]
    return replace(
        whole,
        servers=tuple(servers),
        volumes=tuple(replace(one, status="available", servers=()) if draw(st.booleans()) else one for one in volumes),
        security_groups=groups,
        networks=tuple(replace(one, tagged=draw(tagged)) for one in whole.networks),
        floating=draw(
            st.sampled_from([(), whole.floating, (*whole.floating, op.Floating("x", "203.0.113.8", None, False))])
        ),
        joined=draw(st.sampled_from([frozenset(), whole.joined])),
        key_pairs=draw(st.sampled_from([{}, whole.key_pairs, {"caesar-testbed-lab": "ssh-ed25519 AAAAother"}])),
    )


@settings(max_examples=40)
@given(MACHINES, clouds())
def test_one_run_brings_any_cloud_to_what_it_should_be(machines: list[op.Machine], now: op.Current) -> None:
    wanted = keeping(desired(*machines))
    after = applied(wanted, now, op.plan(wanted, now))
    left = [step for step in op.plan(wanted, after) if step.action not in ("create flavor",)]
    # One that is broken for good is told, and left.
    assert left == []
    assert {server.machine for server in after.servers} == {machine.name for machine in machines}
    # What lies on a volume is nobody's to lose: each that was there is there, and is its machine's.
    assert {one.id for one in now.volumes} <= {one.id for one in after.volumes}
    servers = {server.machine: server.id for server in after.servers}
    held = {one.machine: one.servers for one in after.volumes if one.machine in wanted.state_gb}
    assert held == ({name: (servers[name],) for name in wanted.state_gb} if now.block_storage else {})


@settings(max_examples=40)
@given(MACHINES, clouds())
def test_servers_that_do_what_they_should_are_left_alone(machines: list[op.Machine], now: op.Current) -> None:
    wanted = desired(*machines)
    deleted = {step.data["id"] for step in op.plan(wanted, now) if step.action == "delete server"}
    for name in {machine.name for machine in machines}:
        active = [one.id for one in now.servers if one.machine == name and one.status == "ACTIVE"]
        assert not active or set(active) - deleted


@settings(max_examples=40)
@given(MACHINES, clouds(), st.integers(0, 40))
def test_a_limit_is_short_exactly_where_more_is_needed_than_left(
    machines: list[op.Machine], now: op.Current, left: int
) -> None:
    wanted = desired(*machines)
    steps = op.plan(wanted, now)
    needed = openstack_limits.needs(wanted, now, steps)
    now = replace(now, limits={name: op.Limit(left + 5, 5) for name in needed})
    told = {fault.partition(":")[0] for fault in openstack_limits.short(wanted, now, steps)}
    assert told == {name for name, amount in needed.items() if amount > left}


def test_ssh_goes_through_the_entry_machine_and_checks_host_keys() -> None:
    where = {"entry": "10.20.0.5", "slurm": "10.20.0.6"}
    text = openstack_handles.ssh_config("lab", where, "entry", "203.0.113.9", "debian", "/state dir")
    entry, slurm = text.split("Host slurm")
    assert "HostName 203.0.113.9" in entry
    assert "ProxyCommand" not in entry
    assert 'ProxyCommand ssh -F "/state dir/ssh_config" -W %h:%p entry' in slurm
    assert "StrictHostKeyChecking yes" in slurm
