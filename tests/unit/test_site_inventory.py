"""What an inventory of a site must say, and the example that is shipped."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.site_inventory import site_faults, site_platforms, told

SLURM = {"kind": "slurm", "parent_account": "caesar", "partition": "batch"}
KUBE = {
    "kind": "kubernetes",
    "kubeconfig": "~/.kube/caesar",
    "storage": {"volume": "scratch-{name}"},
    "image": "registry.example.org:5000/caesar/aegean-job:2.3.5",
}
GROUPS = {"slurm_submit_hosts": ["login"], "slurm_controllers": [], "kubernetes_nodes": []}


def test_nothing_is_wrong() -> None:
    assert site_faults({"cirasa": SLURM, "kube": KUBE}, GROUPS) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"partition": None}, "partition is None"),
        ({"nodes": {"desktop": 1}}, "take it away"),
        ({"qos": ""}, "DenyOnLimit"),
        ({"disc_tres": "gres/tape"}, "give gres/disk, or ''"),
    ],
)
def test_faults_of_a_slurm(changes: dict[str, Any], words: str) -> None:
    [fault] = site_faults({"cirasa": SLURM | changes}, GROUPS)
    assert words in fault


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kubeconfig": 7}, "kubeconfig is 7"),
        ({"image": "aegean-job"}, "as the cluster pulls it"),
        ({"storage": {}}, "by which pods see"),
        ({"storage": {"tape": 1}}, "unknown key 'tape'"),
        ({"storage": {"nfs": {"server": "x", "path": "/y"}, "volume": "{name}"}}, "give one"),
        ({"storage": {"nfs": "x:/y"}}, "give server and path"),
        ({"storage": {"host_path": "scratch"}}, "absolute path"),
        ({"storage": {"volume": "scratch"}}, "put {name} into it"),
    ],
)
def test_faults_of_a_kubernetes(changes: dict[str, Any], words: str) -> None:
    [fault] = site_faults({"kube": KUBE | changes}, GROUPS)
    assert words in fault


def test_no_submit_host() -> None:
    [fault] = site_faults({"cirasa": SLURM}, {})
    assert "slurm_submit_hosts" in fault


def test_what_is_made_has_no_keys_of_a_site() -> None:
    groups = {"slurm_controllers": ["slurm"], "kubernetes_nodes": ["kube"]}
    found = site_faults({"cirasa": SLURM, "kube": KUBE}, groups)
    assert len(found) == 4
    assert all("machines that make one" in fault for fault in found)


def test_only_what_exists_already_is_a_site() -> None:
    assert set(site_platforms({"cirasa": SLURM, "kube": KUBE}, {"slurm_controllers": ["slurm"]})) == {"kube"}


@pytest.mark.parametrize(
    ("answer", "faults"),
    [
        ({}, []),
        (None, []),
        ({"skipped": True}, []),
        ({"faults": []}, []),
        ({"faults": ["a", "b"], "failed": False}, ["a", "b"]),
        ({"unreachable": True, "msg": "no route"}, ["login is not reached by ssh: no route"]),
        ({"msg": "Missing sudo password"}, ["login: Missing sudo password"]),
    ],
)
def test_what_hosts_answer(answer: dict[str, Any], faults: list[str]) -> None:
    assert told(answer, "login") == faults


def test_nonsense_is_left_to_others() -> None:
    assert site_faults(None, {}) == site_faults({"a": 7, "b": {"kind": "tape"}}, {}) == []
