"""The final table: fits its width, tells troubles, names commands that exist."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import testbed_summary  # type: ignore[import-not-found]

PLATFORM = {
    "name": "slurm-account-001",
    "physical_platform": "cirasa",
    "port": 8101,
    "quota": {"cores": 8, "memory_gib": 32, "disc_gb": 512},
    "limits": {"cores": 4, "memory_gib": 16, "jobs": 4, "walltime": "PT90M"},
}
SMOKE = {
    "sources": 58, "components": 70, "image": "1904-66_AZP.fits", "planner": "slurm-account-001",
    "reason": "cheapest of those equal in: finishes first", "offers": 12, "asked": 6, "policy": "monetary",
    "vote_ms": 99.6, "seconds": 9.3, "time": "2026-11-24T14:05:58.581Z", "directory": str(Path.home() / "state/smoke"),
}  # fmt: skip


def data(**more: Any) -> dict[str, Any]:
    return {
        "testbed": "caesar",
        "state": str(Path.home() / "state"),
        "groups": {
            "slurm_controllers": ["slurm"],
            "slurm_nodes": ["slurm"],
            "kubernetes_nodes": ["kube"],
            "planners": ["planner"],
            "voters": ["planner"],
        },
        "machines": ["kube", "planner", "slurm"],
        "addresses": ["10.89.0.12", "10.89.0.13", "10.89.0.11"],
        "platforms": [PLATFORM, PLATFORM | {"name": "k8s-namespace-001", "physical_platform": "kube", "port": 8201}],
        "planner_address": "10.89.0.13",
        "voter": "http://10.89.0.13:8100",
        "capabilities": {
            "platforms": [
                {"name": "slurm-account-001", "free": {"cores": 6, "memory_gib": 28, "disc_gb": 500}, "reason": None},
                {"name": "k8s-namespace-001", "reason": "the planner does not answer"},
            ]
        },
        "smoke": SMOKE,
        **more,
    }


@pytest.mark.parametrize(
    ("iso", "text"),
    [("PT1H", "1 h"), ("PT90M", "1.5 h"), ("P1D", "24 h"), ("P2D", "2 d"), ("P1W", "7 d"), ("PT30M", "30 min"),
     ("PT100M", "1.7 h"), ("PT45S", "45 s"), ("PT0S", "0 s"), ("soon", "soon")],
)  # fmt: skip
def test_spans(iso: str, text: str) -> None:
    assert testbed_summary.span(iso) == text


def test_all_is_said() -> None:
    text = "\n".join(testbed_summary.summary_lines(data()))
    assert "The testbed caesar is up." in text
    assert "slurm    10.89.0.11  Slurm's controller and accounting, Slurm's virtual nodes" in text
    assert "planner  10.89.0.13  the planners, the voter" in text
    rows = [line.split() for line in text.splitlines() if line.startswith(("slurm-account", "k8s-namespace"))]
    assert rows == [
        ["slurm-account-001", "cirasa", "8", "32", "512", "4", "16", "4", "1.5", "h", "6/28/500"],
        ["k8s-namespace-001", "kube", "8", "32", "512", "4", "16", "4", "1.5", "h", "-/-/-"],
    ]
    assert "  k8s-namespace-001: the planner does not answer" in text
    assert "58 sources (70 components) found in 1904-66_AZP.fits" in text
    assert "won by slurm-account-001: cheapest of those equal in: finishes first" in text
    assert "voted in 100 ms, done in 9.3 s, at 2026-11-24 14:05 UTC" in text
    assert "outputs: ~/state/smoke" in text
    assert "ssh -F ~/state/ssh_config slurm squeue" in text
    assert "--testbed" not in text


def test_columns_stand_under_their_heads() -> None:
    lines = testbed_summary.platform_lines(data()["platforms"], {})
    above, head, row = lines[:3]
    assert above.index("one job") == head.index("cores", head.index("cores") + 1)
    assert above.endswith("cores/GiB/GB")
    assert len(above) == len(head) == len(row)


def test_nothing_is_wider_than_a_terminal() -> None:
    long = data(
        testbed="a-rather-long-name-of-a-testbed",
        smoke=SMOKE | {"reason": "because " * 40, "image": "a name " * 30},
        platforms=[PLATFORM | {"name": f"slurm-account-{number:03}", "port": 8100 + number} for number in range(40)],
        capabilities={"platforms": [{"name": "slurm-account-000", "reason": "a reason of many words " * 20}]},
    )
    lines = testbed_summary.summary_lines(long)
    wide = [line for line in lines if len(line) > testbed_summary.WIDTH]
    assert wide == []
    # Commands lose their explanation rather than be broken.
    assert f"  .venv/bin/caesar-vote ballots --testbed {long['testbed']}" in lines


def test_a_testbed_of_another_name_is_named_in_the_commands() -> None:
    lines = testbed_summary.summary_lines(data(testbed="other"))
    commands = [line for line in lines if "caesar-vote" in line]
    assert len(commands) == 5
    assert all("--testbed other" in line for line in commands)


def test_what_is_switched_off_is_left_out() -> None:
    groups = {"planners": ["planner"], "voters": []}
    text = "\n".join(testbed_summary.summary_lines(data(groups=groups, voter="", capabilities={}, smoke={})))
    assert "squeue" not in text
    assert "kubectl" not in text
    assert "voter      http" not in text
    assert "none has run on this deployment" in text


def test_the_stand_in_of_caesar_rest_is_told_in_capitals() -> None:
    about = {"url": "http://10.89.0.12:30031/caesar/api/v1.0", "commit": "6c34a9c247", "image": "i", "reason": "no git"}
    text = "\n".join(testbed_summary.summary_lines(data(caesar_rest=about | {"kind": "stand-in"})))
    assert "rest       http://10.89.0.12:30031/caesar/api/v1.0" in text
    assert "THE STAND-IN OF CAESAR-REST, NOT CAESAR-REST ITSELF: no git" in text
    text = "\n".join(testbed_summary.summary_lines(data(caesar_rest=about | {"kind": "upstream"})))
    assert "caesar-rest itself, unpatched, commit 6c34a9c" in text
    assert "STAND-IN" not in text


def test_a_platform_that_does_not_answer_its_planner_is_told() -> None:
    answer = {"slurm-account-001": {"reason": None, "platform": {"answers": False, "why": "no answer within 2 s"}}}
    assert "  slurm-account-001: no answer within 2 s" in testbed_summary.platform_lines([PLATFORM], answer)


def test_a_drained_platform_and_one_without_a_planner_are_told_apart() -> None:
    answer = {PLATFORM["name"]: {"reason": "", "free": {}, "drained": {"words": "drained by ops since nine"}}}
    off = PLATFORM | {"name": "slurm-account-002", "planner": False}
    lines = testbed_summary.platform_lines([PLATFORM, off], answer)
    assert lines[2].endswith("drained")
    assert lines[3].endswith("no planner")
    assert lines[4:] == ["  slurm-account-001: drained by ops since nine"]


@pytest.mark.parametrize(
    ("playbook", "failures", "expected"),
    [
        ("site.yml", 1, ["", "The testbed is not up: machines : Make it on localhost. The message above says why."]),
        ("site.yml", 0, ["", "The testbed caesar is up."]),
        ("slurm.yml", 1, []),
    ],
)
def test_a_failure_shows_the_next_step_and_no_table(playbook: str, failures: int, expected: list[str]) -> None:
    callback = testbed_summary.CallbackModule()
    shown: list[str] = []
    callback._display = SimpleNamespace(display=lambda line, color=None: shown.append(line))
    callback.v2_playbook_on_start(SimpleNamespace(_file_name=f"/project/{playbook}"))
    if failures:
        host = SimpleNamespace(get_name=lambda: "localhost")
        callback.v2_runner_on_failed(SimpleNamespace(task_name="machines : Make it", host=host))
    callback.v2_playbook_on_stats(
        SimpleNamespace(
            custom={"_run": {"testbed_summary": data()}},
            processed={"localhost": 1},
            summarize=lambda _host: {"failures": failures, "unreachable": 0},
        )
    )
    assert shown[:2] == expected


def test_health_is_told_where_it_was_asked_for() -> None:
    assert not any(line.startswith("health") for line in testbed_summary.summary_lines(data()))
    well = testbed_summary.summary_lines(data(health={"slurm": [], "kube": []}))
    assert well[0] == "The testbed caesar is up."
    assert any(line.startswith("health     all machines answer") for line in well)
    ill = testbed_summary.summary_lines(data(health={"slurm": ["unit slurmd.service has failed"], "kube": ["a", "b"]}))
    assert ill[0] == "The testbed caesar has troubles."
    told = [line for line in ill if "slurm: " in line or "kube: " in line]
    assert told == ["health     slurm: unit slurmd.service has failed", "           kube: a", "           kube: b"]


def test_one_node_of_kubernetes_is_the_control_plane() -> None:
    groups = {"kubernetes_nodes": ["kube", "worker"]}
    lines = testbed_summary.machine_lines(["kube", "worker"], ["10.89.0.14", "10.89.0.15"], groups)
    assert [line.split("  ")[-1] for line in lines[1:]] == [
        "Kubernetes' control plane and node",
        "a node of Kubernetes",
    ]
    lines = testbed_summary.machine_lines(
        ["kube", "worker"], ["a", "b"], groups | {"kubernetes_control_planes": ["worker"]}
    )
    assert [line.split("  ")[-1] for line in lines[1:]] == [
        "a node of Kubernetes",
        "Kubernetes' control plane and node",
    ]
