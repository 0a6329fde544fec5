"""What is asked before machines are made anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from ansible.module_utils.rebuilds import keeping, question, running  # type: ignore[import-not-found]

Asked = Mapping[str, Sequence[Mapping[str, Any]]]
SKIPPED = {"changed": False, "skipped": True}
IDLE = {"rc": 0, "stdout_lines": []}
BUSY = {"rc": 0, "stdout_lines": ["job 7 of slurm-account-001"]}
SILENT = {"rc": 1, "stdout_lines": []}
AWAY = {"unreachable": True, "msg": "Failed to connect"}


def test_each_machine_holds_what_its_groups_say() -> None:
    groups = {
        "kubernetes_nodes": ["kube", "kube2"],
        "planners": ["planner"],
        "voters": ["planner"],
        "slurm_nodes": ["n1"],
    }
    assert keeping(groups) == {
        "kube": ["etcd", "the volumes of pods"],
        "kube2": ["the volumes of pods"],
        "planner": ["ledgers", "ballots"],
    }
    assert keeping(groups | {"kubernetes_control_planes": ["control"]})["control"] == ["etcd"]
    assert keeping(groups | {"kubernetes_control_planes": ["control"]})["kube"] == ["the volumes of pods"]
    assert keeping({"slurm_controllers": ["slurm"], "storage_servers": ["slurm"]}) == {
        "slurm": ["accounting", "the shared storage"]
    }


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"Slurm": [SKIPPED], "Kubernetes": [SKIPPED]}, "nothing"),
        ({"Slurm": [IDLE], "Kubernetes": [SKIPPED]}, "nothing"),
        (
            {"Slurm": [BUSY, BUSY], "Kubernetes": [IDLE]},
            "job 7 of slurm-account-001 (waited for)",
        ),
        ({"Slurm": [SILENT], "Kubernetes": [IDLE]}, "Slurm cannot say, and what it may be is lost"),
        (
            {"Slurm": [BUSY], "Kubernetes": [AWAY, IDLE]},
            "job 7 of slurm-account-001 (waited for); Kubernetes cannot say, and what it may be is lost",
        ),
        ({"Slurm": [AWAY], "Kubernetes": [SILENT]}, "Slurm and Kubernetes cannot say, and what it may be is lost"),
    ],
)
def test_who_could_not_be_asked_is_not_taken_for_idle(asked: Asked, said: str) -> None:
    assert running(asked, "wait") == said


def test_the_question_says_what_goes_and_what_runs() -> None:
    assert question(["compute1"], "caesar", {}, {"Slurm": [IDLE]}, "wait") == (
        "compute1 of testbed 'caesar' is removed and made anew. Volumes stay; the rest of the disc is lost. "
        "Running there: nothing."
    )
    bare = {"a": ["ledgers", "ballots", "the shared storage"], "b": ["etcd"]}
    said = question(["a", "b"], "caesar", bare, {"Slurm": [BUSY]}, "cancel")
    assert said == (
        "a and b of testbed 'caesar' are removed and made anew. Volumes stay; the rest of the disc is lost, and with "
        "that, since no volume holds it, ledgers, ballots and the shared storage of a; etcd of b. "
        "Running there: job 7 of slurm-account-001 (cancelled)."
    )
