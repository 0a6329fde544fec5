"""What versions of Slurm printed, recorded in tests/data/slurm, is read into the same values."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils import slurm_state

DATA = Path(__file__).parents[1] / "data" / "slurm"
VERSIONS = sorted(path.name for path in DATA.iterdir() if path.is_dir())
every_version = pytest.mark.parametrize("version", VERSIONS)


def answer(version: str, name: str) -> str:
    return (DATA / version / f"{name}.txt").read_text()


def recorded(version: str) -> slurm_state.State:
    """The state of the cluster that was recorded, whatever its name is."""
    [cluster] = slurm_state.parse_clusters(answer(version, "cluster"))
    return slurm_state.parse_state(cluster, *(answer(version, name) for name in ("assoc", "user", "qos")))


def test_three_versions_are_recorded() -> None:
    assert {"22.05.8", "24.11.5", "26.05.5"} <= set(VERSIONS)


@every_version
def test_accounts_and_users(version: str) -> None:
    state = recorded(version)
    lab_a, lab_b = state.accounts["lab-a"], state.accounts["lab-b"]
    assert lab_a.parent == lab_b.parent == "labtest"
    assert lab_a.row == slurm_state.Row(
        {
            "GrpTRES=cpu": 5,
            "GrpTRES=gres/disk": 2048,
            "GrpTRES=mem": 16385,
            "GrpJobs": 4,
            "MaxTRESPerJob=cpu": 1024,
            "MaxTRESPerJob=mem": 1536 * 1024,
            "MaxWall": 4380,
        },
        "labqos",
        ("labqos",),
    )
    assert lab_b.row.limits == {
        "GrpTRESMins=cpu": 100000,
        "GrpTRESRunMins=cpu": 5000,
        "GrpJobsAccrue": 9,
        "GrpWall": 90,
        "MaxTRESPerNode=cpu": 2,
        "MaxTRESMinsPerJob=cpu": 77,
        "MaxJobs": 3,
        "MaxJobsAccrue": 8,
        "MaxSubmitJobs": 7,
    }
    assert (sorted(lab_a.users), sorted(lab_b.users)) == (["laba"], ["laba", "labb"])
    assert state.accounts["labother"] == slurm_state.Account("root", slurm_state.Row({"GrpJobs": 2}, "", ("normal",)))
    assert state.defaults["labb"] == "lab-b"
    assert state.qos["labqos"] == {"DenyOnLimit"}
    assert state.qos["normal"] == frozenset()


@every_version
def test_rights(version: str) -> None:
    config = answer(version, "config")

    def rights(user: str, number: int, name: str) -> slurm_state.Rights:
        return slurm_state.parse_rights(user, number, answer(version, name), config)

    coordinator = rights("laba", 29051, "rights-coordinator")
    assert (coordinator.user, coordinator.level) == ("laba", "none")
    assert "labtest" in coordinator.coordinates
    assert rights("labb", 29052, "rights-operator").level == "operator"
    assert rights("nobody", 65534, "rights-nobody") == slurm_state.Rights("nobody", "none")
    assert rights("slurm", 64030, "rights-nobody").level == "administrator"
    assert rights("root", 0, "rights-nobody").level == "administrator"


@every_version
def test_jobs_resources_clusters_and_numbers(version: str) -> None:
    [job] = slurm_state.parse_jobs(answer(version, "jobs"))
    assert (job.account, job.user, job.name) == ("lab-b", "labb", "a|b c")
    assert str(job) == f"job {job.number} ({job.state}) of labb in lab-b"
    assert {"cpu", "mem", "gres/disk"} <= slurm_state.parse_tres(answer(version, "tres"))
    assert all(slurm_state.parse_clusters(answer(version, "cluster")).values())
    numbers = slurm_state.parse_numbers(answer(version, "numbers"))
    assert (numbers["laba"], numbers["labb"]) == ({29051}, {29052})


@every_version
def test_refusals_have_an_exit_code(version: str) -> None:
    """What the rules about rights rest on (slurm_steps.denied); nothing is decided by the words."""
    refused = (
        "coordinator-adds-qos",
        "coordinator-sets-parent",
        "coordinator-adds-with-qos",
        "coordinator-sets-other-qos",
        "coordinator-sets-default",
        "coordinator-loads",
        "operator-loads",
        "operator-adds-qos",
        "coordinator-reconfigures",
    )
    allowed = (
        "coordinator-adds",
        "coordinator-adds-user",
        "coordinator-sets",
        "coordinator-deletes-one",
        "coordinator-deletes-last",
        "coordinator-deletes",
    )
    if "rc=" not in answer(version, "coordinator-deletes-mixed"):
        # 24.11 lets a coordinator do at once what 22.05 refuses: nothing is left for the two calls after it.
        allowed = tuple(name for name in allowed if name not in ("coordinator-deletes-one", "coordinator-deletes-last"))
    assert [name for name in refused if "rc=" not in answer(version, name)] == []
    assert [name for name in allowed if "rc=" in answer(version, name)] == []


@pytest.mark.parametrize("text", ["a|b|c\n", "sacctmgr: error: something\n"])
def test_output_of_another_shape_is_no_state(text: str) -> None:
    with pytest.raises(ValueError, match="columns"):
        slurm_state.table(text, "Name,Flags")


def test_rows_of_other_clusters_are_no_accounts_of_this_one() -> None:
    line = "elsewhere|theirs|root|bob|||" + "|" * 13 + "\n"
    state = slurm_state.parse_state("cirasa", line, "", "")
    assert state.accounts == {}
    assert state.users_elsewhere == {"bob"}
    assert state.accounts_elsewhere == {"theirs"}


def test_a_name_with_the_separator_in_it_is_a_name() -> None:
    assert slurm_state.parse_jobs("7|a|bob|RUNNING|x|y\n\n") == [slurm_state.Job("7", "a", "bob", "RUNNING", "x|y")]
