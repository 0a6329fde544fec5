"""What an upgrade does and what it refuses."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
import software_facts as facts
from ansible.module_utils import machine_software, reverts, upgrades  # type: ignore[attr-defined]
from hypothesis import given, settings
from hypothesis import strategies as st

ORDER = ["slurm", "compute1", "kube", "worker", "planner"]
THERE: dict[str, dict[str, Any]] = {
    "slurm": {"image": "aaa", "debian": "13.1", "slurm": {"slurmctld": "24.11.5-4", "slurmdbd": "24.11.5-4"}},
    "compute1": {"image": "aaa", "debian": "13.1", "slurm": {"slurmd": "24.11.5-4", "slurm-client": "24.11.5-4"}},
    "kube": {"image": "aaa", "debian": "13.1", "kubernetes": "v1.36.3", "kubelet": "v1.36.3", "programs": "0" * 24},
    "worker": {"image": "aaa", "debian": "13.1", "kubelet": "v1.36.3", "programs": "0" * 24},
    "planner": {
        "image": "aaa",
        "debian": "13.1",
        "slurm": {"slurm-client": "24.11.5-4"},
        "bundle": "0123456789abcdef",
        "ledgers": {"slurm-account-001": "0003", "k8s-namespace-001": "0003"},
    },
}
SAME: dict[str, Any] = {
    "image": "aaa",
    "suite": "trixie",
    "slurm": "24.11.5-4",
    "kubernetes": "v1.36.3",
    "programs": "0" * 24,
    "bundle": "0123456789abcdef",
    "ledger": "0003",
}


def plan(anew: list[str] | None = None, **wanted: Any) -> dict[str, Any]:
    made: dict[str, Any] = upgrades.plan(THERE, SAME | wanted, anew or [], ORDER)
    return made


@pytest.mark.parametrize(
    ("has", "wants", "said"),
    [
        ("22.05.8-4+deb12u2", "22.05.8-4+deb12u3", ""),
        ("22.05.8-4", "23.11.4-1", ""),
        ("22.05.8-4", "24.05.1-1", "24.05 takes over from 23.02 or later only"),
        ("22.05.8-4", "24.11.5-4", "4 major releases at once, where 3 are possible"),
        ("23.02.7-1", "24.11.5-4", ""),
        ("24.11.5-4", "26.05.1-1", ""),
        ("24.11.5-4", "26.11.1-1", "takes over from 25.05 or later only"),
        ("24.11.5-4", "22.05.8-4", "would go back to 22.05.8-4"),
        ("24.11.5-4", "24.11.5-4~old1", "would go back"),
        ("24.11.5-4", "", ""),
    ],
)
def test_slurm_goes_where_its_makers_let_it(has: str, wants: str, said: str) -> None:
    fault = upgrades.slurm_fault(has, wants)
    assert (said in fault) if said else fault == ""


@pytest.mark.parametrize(
    ("has", "wants", "said"),
    [
        ("v1.36.3", "v1.36.4", ""),
        ("v1.36.3", "v1.37.0", ""),
        ("v1.35.9", "v1.37.0", "to v1.36 first, not to v1.37.0"),
        ("v1.36.3", "v1.36.2", "would go back to v1.36.2"),
        ("v1.36.3", "v2.0.0", "one minor at a time"),
        ("", "v1.36.3", ""),
    ],
)
def test_kubernetes_goes_one_minor_at_a_time(has: str, wants: str, said: str) -> None:
    fault = upgrades.kubernetes_fault(has, wants)
    assert (said in fault) if said else fault == ""


@pytest.mark.parametrize(
    ("has", "wants", "said"),
    [
        ("docker.io/caesar/ferretdb:aa", "docker.io/caesar/ferretdb:bb", ""),
        ("docker.io/library/mongo:7.0.1", "registry.site/mongo:8.0", ""),
        ("mongo:6.0", "mongo:8.0", "to 7 first, not to 8"),
        ("mongo:8.0", "mongo:7.0", "would go back to 7"),
        ("docker.io/caesar/ferretdb:aa", "mongo:8.0", "would be another database"),
    ],
)
def test_the_database_goes_one_major_at_a_time_and_stays_what_it_is(has: str, wants: str, said: str) -> None:
    fault = upgrades.mongodb_fault(has, wants)
    assert (said in fault) if said else fault == ""


@pytest.mark.parametrize(
    ("has", "wants", "said"),
    [
        ("", "13", ""),
        ("12", "12", ""),
        ("12", "13", "and Slurm has 22.05, and 24.11 takes over from 23.02 or later only"),
        ("12", "14", "and Slurm has 22.05, and 26.05 takes over from 24.11 or later only"),
        ("11", "12", "give -e openstack_machines_state_other_release=true"),
        ("13", "14", "give -e openstack_machines_state_other_release=true"),
        ("13", "12", "do not read what newer ones wrote"),
    ],
)
def test_what_lies_on_a_volume_is_not_taken_over_unasked(has: str, wants: str, said: str) -> None:
    fault = upgrades.release_fault(has, wants)
    assert (said in fault and f"give an image of Debian {has}" in fault) if said else fault == ""


def test_nothing_to_do_touches_nothing() -> None:
    made = plan()
    assert made["faults"] == []
    assert [made[step] for step in ("anew", "slurm", "kubernetes", "all")] == [[], [], [], []]
    assert all(line.endswith("the same") for line in made["table"][1:])


def test_slurm_goes_controller_first_and_the_rest_stays() -> None:
    made = plan(slurm="24.11.5-5")
    assert made["slurm"] == made["all"] == ["slurm", "compute1", "planner"]
    assert [each["machine"] for each in made["members"] if each["group"] == "upgrade_slurm"] == made["slurm"]
    assert [each["machine"] for each in made["members"] if each["group"] == "upgrade_kept"] == [
        "slurm",
        "kube",
        "planner",
    ]
    assert made["anew"] == made["kubernetes"] == []


def test_kubernetes_goes_control_plane_first() -> None:
    made = plan(kubernetes="v1.36.4", programs="1" * 24)
    assert made["kubernetes"] == ["kube", "worker"]
    assert made["slurm"] == []


def test_a_node_left_behind_by_a_run_that_broke_off_is_upgraded_alone() -> None:
    behind = THERE | {"worker": THERE["worker"] | {"kubelet": "v1.36.2"}}
    assert upgrades.plan(behind, SAME, [], ORDER)["kubernetes"] == ["worker"]


def test_other_programs_of_the_same_version_need_no_kubeadm() -> None:
    made = plan(programs="1" * 24)
    assert made["kubernetes"] == []
    assert made["all"] == ["kube", "worker"]


def test_machines_made_anew_get_their_slurm_then() -> None:
    made = plan(anew=ORDER, image="bbb", slurm="25.05.1-1")
    assert made["anew"] == ORDER
    assert made["slurm"] == []
    assert made["faults"] == []


def test_a_jump_with_the_machines_image_is_one_fault_and_names_its_machines() -> None:
    old = {
        name: there | {"debian": "12.5", "slurm": dict.fromkeys(there.get("slurm", {}), "22.05.8-4+deb12u3")}
        for name, there in THERE.items()
    }
    made = upgrades.plan(old, SAME | {"image": "bbb"}, ORDER, ORDER)
    [fault] = made["faults"]
    assert fault.startswith("Slurm on slurm, compute1, planner has 22.05, and 24.11 takes over from 23.02 or later")


def test_the_way_back_is_refused_for_each_part() -> None:
    made = plan(suite="bookworm", image="bbb", slurm="22.05.8-4", kubernetes="v1.35.1", ledger="0002")
    assert [fault.split(" ")[0] for fault in made["faults"]] == ["Debian", "Slurm", "Kubernetes", "ledger"]
    assert "drain is wait, cancel or nowait" in upgrades.faults([], drain="please")[0]


def test_all_that_runs_caesar_rests_image_is_compared_with_it() -> None:
    running = {"caesar-rest": "a:1", "caesar-rest-monitor": "a:1", "mongodb": "f:1", "another": "x:1"}
    there = {"kube": THERE["kube"] | {"images": running}}
    found = upgrades.rows(there, SAME | {"images": {"caesar-rest": "a:2", "mongodb": "f:1"}})
    assert {row.part for row in found if row.changes} == {"caesar-rest", "caesar-rest-monitor"}


def test_a_machine_that_was_upgraded_by_half_is_finished() -> None:
    half = THERE | {"slurm": THERE["slurm"] | {"slurm": {"slurmctld": "24.11.5-5", "slurmdbd": "24.11.5-4"}}}
    made = upgrades.plan(half, SAME | {"slurm": "24.11.5-5"}, [], ORDER)
    assert "slurm" in made["slurm"]
    assert any("24.11.5-4 and 24.11.5-5" in line for line in made["table"])


def test_what_is_not_known_changes_nothing() -> None:
    made = upgrades.plan(THERE, {}, [], ORDER)
    assert made["all"] == []
    assert made["faults"] == []


VERSIONS = st.from_regex(r"[0-9][0-9a-cZ+~.]{0,6}(-[0-9a-c+~.]{1,4})?", fullmatch=True)


@pytest.mark.skipif(not shutil.which("dpkg"), reason="dpkg is what it is compared with")
@settings(max_examples=50)
@given(VERSIONS, VERSIONS)
def test_versions_are_compared_as_dpkg_does(one: str, other: str) -> None:
    def holds(relation: str) -> bool:
        return subprocess.run(["dpkg", "--compare-versions", one, relation, other], check=False).returncode == 0

    assert upgrades.compare_debian(one, other) == (1 if holds("gt") else -1 if holds("lt") else 0)


def test_packages_of_slurm_are_found_by_their_source() -> None:
    report = (
        "slurm-wlm slurmctld 24.11.5-4 installed\nslurm-wlm slurmd 24.11.5-3 config-files\nmunge munge 0.5 installed\n"
    )
    assert facts.slurm_packages(report) == {"slurmctld": "24.11.5-4"}


def test_what_apt_would_install() -> None:
    assert facts.candidate("slurmctld:\n  Installed: (none)\n  Candidate: 24.11.5-4\n  Version table:\n") == "24.11.5-4"
    assert facts.candidate("slurmctld:\n  Installed: (none)\n  Candidate: (none)\n") == ""
    assert facts.candidate("") == ""


def test_what_kubeadm_units_and_workloads_say() -> None:
    assert facts.cluster_version("kind: ClusterConfiguration\nkubernetesVersion: v1.36.3\n") == "v1.36.3"
    assert facts.bundle("Environment=A=1\nEnvironment=PYTHONPATH=/opt/x/0123456789abcdef\n") == "0123456789abcdef"
    container = {"spec": {"template": {"spec": {"containers": [{"image": "docker.io/caesar/ferretdb:ab"}]}}}}
    listed = {"items": [{"metadata": {"name": "mongodb"}} | container]}
    assert facts.workload_images(listed) == {"mongodb": "docker.io/caesar/ferretdb:ab"}


def test_a_ledgers_revision(tmp_path: Path) -> None:
    for name, script, revision in (
        ("new", "CREATE TABLE alembic_version (version_num); INSERT INTO alembic_version VALUES ('0003')", "0003"),
        ("first", "CREATE TABLE schema_version (version)", "0001"),
        ("empty", "", ""),
    ):
        connection = sqlite3.connect(tmp_path / name)
        connection.executescript(script)
        connection.close()
        assert facts.revision(tmp_path / name) == revision
    (tmp_path / "broken").write_text("no database, but long enough to be looked into" * 50)
    with pytest.raises(sqlite3.Error):
        facts.revision(tmp_path / "broken")


BOOKWORM = {
    "slurm": {"debian": "12.12", "slurm": {"slurmctld": "22.05.8-4+deb12u3", "slurmd": "22.05.8-4+deb12u3"}},
    "kube": {"debian": "12.12", "slurm": {}, "kubernetes": "v1.36.3"},
}


def test_a_release_that_slurm_does_not_go_to_is_refused_with_what_there_is_and_what_can_be_done() -> None:
    [fault] = upgrades.unasked(BOOKWORM, "trixie", "v1.36.3")
    assert fault.startswith(
        "kube, slurm would be made anew with Debian 13, and have Debian 12: Slurm 22.05.8-4+deb12u3 "
    )
    assert "would become 24.11, for good" in fault
    assert "-e local_machines_suite=bookworm" in fault
    assert "-e testbed_name=other" in fault
    assert "playbooks/upgrade.yml refuses it too: Slurm has 22.05, and 24.11 takes over from 23.02" in fault


@pytest.mark.parametrize(
    ("debian", "suite", "part"),
    [
        ("12.12", "bookworm", ""),
        ("12.11", "bookworm", ""),
        ("13.1", "bookworm", "refuses it too: Debian is 13 and would go back to 12"),
        ("13.1", "forky", "playbooks/upgrade.yml -e local_machines_suite=forky says what it changes, and asks"),
        ("13.1", "forky", "Slurm 24.11.0 would become 26.05, for good"),
        ("12.12", "forky", "refuses it too: Slurm has 22.05, and 26.05 takes over from 24.11 or later only"),
        ("11.9", "bookworm", "playbooks/upgrade.yml -e local_machines_suite=bookworm says what it changes, and asks"),
        ("", "trixie", ""),
    ],
)
def test_another_release_of_debian_is_an_upgrade_and_a_point_release_is_none(
    debian: str, suite: str, part: str
) -> None:
    found = upgrades.unasked({"kube": {"debian": debian}}, suite, "v1.36.3")
    assert (len(found) == 1 and part in found[0]) if part else found == []


@pytest.mark.parametrize(
    ("text", "release"),
    [("13.1\n", "13.1"), ("forky/sid\n", "14"), ("trixie/sid", "13"), ("unheard/sid", "unheard"), ("", "")],
)
def test_a_release_that_is_not_out_yet_has_a_number_too(text: str, release: str) -> None:
    assert upgrades.debian_of(text) == release


COPIED = {"slurm": {"debian": "13.1", "slurm": {"slurmdbd": "24.11.5-4"}}, "kube": {"debian": "13.1", "slurm": {}}}


@pytest.mark.parametrize(
    ("there", "suite", "said"),
    [
        ({}, "trixie", []),
        ({"kube": {"debian": "14", "kubernetes": "v1.36.3"}}, "trixie", []),
        (
            {},
            "forky",
            ["accounting of slurm was copied from Debian 13, and the machine would have Debian 14: give -e local_m"],
        ),
        ({}, "", ["give -e local_machines_suite=trixie"]),
        (
            {"kube": {"kubernetes": "v1.37.1"}},
            "trixie",
            ["kube would be made anew with Kubernetes v1.36.3, and has a control pl"],
        ),
    ],
)
def test_copies_go_back_to_the_release_that_they_are_of(there: dict[str, Any], suite: str, said: list[str]) -> None:
    found = reverts.faults(COPIED, there, suite, "v1.36.3")
    assert len(found) == len(said)
    assert all(part in fault for part, fault in zip(said, found, strict=True))


def test_programs_of_another_kubernetes_are_an_upgrade_of_its_control_plane() -> None:
    there = {"kube": {"debian": "12.12", "kubernetes": "v1.36.1"}}
    [fault] = upgrades.unasked(there, "bookworm", "v1.36.3")
    assert fault == (
        "kube would be made anew with Kubernetes v1.36.3, and has a control plane of v1.36.1: playbooks/upgrade.yml "
        "takes it there, and asks first"
    )
    [fault] = upgrades.unasked(there, "bookworm", "v1.38.0")
    assert "refuses it too: it has v1.36.1, and kubeadm goes one minor at a time" in fault
    assert len(upgrades.unasked(there, "trixie", "v1.36.3")) == 2


def test_what_a_machine_has_is_read_from_its_files(tmp_path: Path) -> None:
    status = (
        "Package: slurmctld\nStatus: install ok installed\nSource: slurm-wlm\nVersion: 24.11.5-4\n\n"
        "Package: slurmd\nStatus: deinstall ok config-files\nSource: slurm-wlm\nVersion: 24.11.5-3\n\n"
        "Package: slurm-client\nStatus: install ok installed\nSource: slurm-wlm (24.11.5)\nVersion: 24.11.5-4+b1\n"
        "Description: client\n Source: of nothing\n\nPackage: munge\nStatus: install ok installed\nVersion: 0.5\n"
    )
    assert machine_software.slurm_packages(status) == {"slurmctld": "24.11.5-4", "slurm-client": "24.11.5-4+b1"}
    manifest = "spec:\n  containers:\n  - image: registry.k8s.io/kube-apiserver:v1.36.3\n"
    assert machine_software.server_version(manifest) == "v1.36.3"
    handle = tmp_path / "machines.json"
    assert machine_software.image_of(handle) == ""
    handle.write_text('{"machines": {}}')
    assert machine_software.image_of(handle) == ""
    handle.write_text('{"image": "0123456789ab"}')
    assert machine_software.image_of(handle) == "0123456789ab"
