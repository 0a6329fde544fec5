"""Who closes a machine for new jobs, and what is waited for there: playbooks/files/machine-use on stand-ins."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "playbooks/files/machine-use"
NODE = "NodeName={name} Arch=x86_64 NodeHostName={host} State={state} ThreadsPerCore=1 {reason}"
OURS = "Reason=rebuild of compute1 [root@2026-11-28T10:00:00]"


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A directory of stand-ins: each notes how it was called, and says what lies in a file of its name."""
    for name in ("scontrol", "squeue", "sinfo", "kubectl"):
        program = tmp_path / name
        program.write_text(
            f'#!/bin/bash\necho "{name} $*" >>"{tmp_path}/calls"\ncase " $* " in\n'
            f'*" update "*|*" cordon "*|*" uncordon "*|*" annotate "*) ;;\n*) cat "{tmp_path}/{name}.says" ;;\nesac\n'
        )
        program.chmod(0o755)
        (tmp_path / f"{name}.says").write_text("")
    return tmp_path


def use(commands: Path, *arguments: str, **environment: str) -> tuple[str, list[str]]:
    """What it printed, and the commands that changed something."""
    (commands / "calls").write_text("")
    run = subprocess.run(
        [PROGRAM, *arguments],
        env={"PATH": f"{commands}:{os.environ['PATH']}"} | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    verbs = (" update ", " cordon ", " uncordon ", " annotate ")
    return run.stdout, [line for line in (commands / "calls").read_text().splitlines() if any(v in line for v in verbs)]


def nodes(commands: Path, *described: tuple[str, str, str, str]) -> None:
    (commands / "scontrol.says").write_text(
        "\n".join(NODE.format(name=n, host=h, state=s, reason=r) for n, h, s, r in described)
    )


def test_only_open_nodes_of_the_machine_are_closed(commands: Path) -> None:
    nodes(
        commands,
        ("a", "compute1", "IDLE", ""),
        ("b", "compute1", "MIXED+DRAIN", "Reason=bad disc [root@2026-11-28T09:00:00]"),
        ("c", "compute1", "MIXED", ""),
        ("d", "compute10", "IDLE", ""),
    )
    _, did = use(commands, "slurm", "stop", "compute1")
    assert did == ["scontrol update nodename=a,c state=drain reason=rebuild of compute1"]
    _, did = use(commands, "slurm", "stop", "compute1", MACHINE_USE="upgrade")
    assert did == ["scontrol update nodename=a,c state=drain reason=upgrade of compute1"]


def test_only_what_was_closed_for_this_is_opened(commands: Path) -> None:
    nodes(
        commands,
        ("a", "compute1", "IDLE+DRAIN", OURS),
        ("b", "compute1", "IDLE+DRAIN", "Reason=bad disc [root@2026-11-28T09:00:00]"),
        ("c", "compute10", "IDLE+DRAIN", OURS.replace("compute1", "compute10")),
        ("d", "compute1", "IDLE+DRAIN", OURS.replace("rebuild", "upgrade")),
        ("e", "compute1", "IDLE+DRAIN", OURS.replace("rebuild", "care")),
        # It was away for longer than slurmctld waits.
        ("f", "compute1", "IDLE+DRAIN", "Reason=rebuild of compute1 : Not responding [slurm@2026-11-30T12:44:45]"),
        ("g", "compute10", "IDLE+DRAIN", "Reason=rebuild of compute10 : Not responding [slurm@2026-11-30T12:44:45]"),
    )
    (commands / "sinfo.says").write_text("drained a\ndrained b\ndrained d\ndrained e\ndrained f\n")
    # Whatever it was closed for: a rebuild opens what an upgrade that broke off has left, and the other way round.
    for verb in ("rebuild", "upgrade"):
        _, did = use(commands, "slurm", "start", "compute1", MACHINE_USE=verb)
        assert did == ["scontrol update nodename=a,d,f state=resume"]


def test_nothing_is_closed_twice(commands: Path) -> None:
    nodes(commands, ("a", "compute1", "IDLE+DRAIN", OURS))
    assert use(commands, "slurm", "stop", "compute1") == ("", [])


@pytest.mark.parametrize(
    ("cluster", "program"), [("slurm", "scontrol"), ("slurm", "squeue"), ("kubernetes", "kubectl")]
)
def test_of_a_silent_cluster_nothing_is_listed_but_that_it_is_told(commands: Path, cluster: str, program: str) -> None:
    nodes(commands, ("a", "compute1", "IDLE", ""))
    assert use(commands, cluster, "list", "compute1") == ("", [])
    (commands / program).write_text("#!/bin/sh\necho no answer >&2\nexit 1\n")
    with pytest.raises(subprocess.CalledProcessError) as raised:
        use(commands, cluster, "list", "compute1")
    # By ansible.builtin.script both streams are one, and what runs is waited for.
    assert (raised.value.stdout, raised.value.stderr) == ("", "")
    if program == "scontrol":
        assert use(commands, cluster, "stop", "compute1") == ("", [])


def test_jobs_are_listed_and_services_are_not(commands: Path) -> None:
    (commands / "kubectl.says").write_text(
        "work-1  k8s-namespace-001  Job\nby-hand  k8s-namespace-001  <none>\n"
        "mongodb-0  caesar-rest  StatefulSet\ncaesar-rest-5f  caesar-rest  ReplicaSet\nproxy  other  DaemonSet\n"
    )
    said, _ = use(commands, "kubernetes", "list", "kube")
    assert said.splitlines() == ["pod work-1 of k8s-namespace-001", "pod by-hand of k8s-namespace-001"]


def test_services_are_not_cancelled(commands: Path) -> None:
    use(commands, "kubernetes", "cancel", "kube")
    [call] = [line for line in (commands / "calls").read_text().splitlines() if line.startswith("kubectl drain kube ")]
    assert "--pod-selector=!pod-template-hash,!controller-revision-hash" in call.split()


def test_a_node_that_somebody_else_closed_stays_closed(commands: Path) -> None:
    (commands / "kubectl.says").write_text("true")
    assert use(commands, "kubernetes", "stop", "kube")[1] == []
    (commands / "kubectl.says").write_text("")
    assert use(commands, "kubernetes", "start", "kube")[1] == []
    assert [line.split()[2] for line in use(commands, "kubernetes", "stop", "kube")[1]] == ["annotate", "cordon"]
    assert use(commands, "kubernetes", "stop", "kube", MACHINE_USE="upgrade")[1][0].endswith("=upgrade of kube")
    (commands / "kubectl.says").write_text("rebuild of kube")
    assert [line.split()[2] for line in use(commands, "kubernetes", "start", "kube")[1]] == ["uncordon", "annotate"]
