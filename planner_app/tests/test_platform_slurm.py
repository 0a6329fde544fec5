"""The Slurm driver: what it makes of recorded answers, what it tells, and its dealings with the commands."""

# ruff: noqa: E501 - recorded answers are as long as they are

import shlex
import stat
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_app.planner.config import PlannerConfig
from planner_app.platforms import slurm
from planner_app.platforms.protocol import Image, JobSpec, JobState, Mount, PlatformDown, SubmissionRefused
from planner_app.platforms.slurm import (
    SCRATCH,
    SlurmPlatform,
    batch_script,
    job_state,
    latest,
    parse_exit,
    parse_sacct,
    parse_squeue,
    parse_test_only,
    parse_tres,
    submit_arguments,
)

NOW = datetime(2026, 11, 24, 13, 0, tzinfo=UTC)
SESSION = UUID("93cd64b7-5eef-42fc-b03a-74e3edf63bc0")
DIRECTORY = Path(f"/mnt/storage/jobs/slurm-account-001/{SESSION}")
JOB = JobSpec(
    session=SESSION,
    image=Image("caesar/aegean-job:2.3.5", "sha256:" + "a" * 64, "x", Path("/mnt/storage/images/a.sqfs")),
    entrypoint=None,
    command=("--run", "a b", "$(id)", "c'd"),
    environment={"JOB_OPTIONS": "--run --ncores=2", "QUOTED": "'x'"},
    cores=2,
    memory_gib=4,
    disc_gb=5,
    walltime=timedelta(seconds=90),
    mounts=(Mount(Path("/mnt/storage/data/x"), "/data", True), Mount(DIRECTORY / "outputs", "/output", False)),
    directory=DIRECTORY,
)


def at(hour: int, minute: int, second: int) -> datetime:
    return datetime(2026, 11, 24, hour, minute, second, tzinfo=UTC)


# Recorded from Slurm 22.05.8 with SQUEUE_FORMAT; the widths are the format's own.
SQUEUE = "\n".join(
    "|".join(value.ljust(width) for value, (_, width) in zip(row.split("|"), slurm._SQUEUE_FIELDS, strict=True)) + "|"
    for row in (
        "19|PENDING|BeginTime|0|1|cpu=1,mem=1G,node=1,billing=1,gres/disk=3|2026-11-24T13:43:31|2026-11-24T14:43:31|2026-11-24T14:45:31|37587092-e3dc-474e-9163-db44d66f970a",
        "17|RUNNING|None|0|1|cpu=1,mem=1G,node=1,billing=1,gres/disk=3|2026-11-24T13:43:31|2026-11-24T13:43:31|2026-11-24T13:45:31|93cd64b7-5eef-42fc-b03a-74e3edf63bc0",
        "16|FAILED|NonZeroExitCode|768|1|cpu=1,mem=1G,node=1,billing=1,gres/disk=3|2026-11-24T13:43:31|2026-11-24T13:43:31|2026-11-24T13:43:32|68f72f49-0e0f-487a-b654-be15346c2b81",
        "15|COMPLETED|None|0|1|cpu=1,mem=1G,node=1,billing=1,gres/disk=3|2026-11-24T13:43:31|2026-11-24T13:43:31|2026-11-24T13:43:33|cbcda0f3-1487-4c75-8a00-226a88c6f374",
        "11|CANCELLED|None|9|1|cpu=1,mem=1G,node=1,billing=1,gres/disk=3|2026-11-24T13:42:35|2026-11-24T13:42:35|2026-11-24T13:42:38|2febb005-0036-4890-9548-2e87e5330028",
        "7|OUT_OF_MEMORY|OutOfMemory|253|1|cpu=1,mem=200M,node=1,billing=1|2026-11-24T13:42:03|2026-11-24T13:42:05|2026-11-24T13:42:06|wrap",
    )
) + "\n"  # fmt: skip

# Recorded from Slurm 22.05.8 with SACCT_FORMAT; 24.11 prints the same.
SACCT = """\
11|CANCELLED|0:9|billing=1,cpu=1,gres/disk=3,mem=1G,node=1|billing=1,cpu=1,gres/disk=3,mem=1G,node=1|2026-11-24T13:42:35|2026-11-24T13:42:35|2026-11-24T13:42:38|2|2febb005-0036-4890-9548-2e87e5330028
17|CANCELLED by 20001|0:0||billing=1,cpu=1,gres/disk=3,mem=1G,node=1|2026-11-24T13:43:31|None|2026-11-24T13:43:35|2|93cd64b7-5eef-42fc-b03a-74e3edf63bc0
18|RUNNING|0:0|billing=1,cpu=1,gres/disk=3,mem=1G,node=1|billing=1,cpu=1,gres/disk=3,mem=1G,node=1|2026-11-24T13:43:31|2026-11-24T13:43:31|Unknown|2|b9db4b27-5a86-4d84-a09c-30ea52929b32
7|OUT_OF_MEMORY|0:125|billing=1,cpu=1,mem=200M,node=1|billing=1,cpu=1,mem=200M,node=1|2026-11-24T13:42:03|2026-11-24T13:42:05|2026-11-24T13:42:06|60|wrap
"""


def test_the_queue() -> None:
    jobs = {job.job_id: job for job in parse_squeue(SQUEUE)}
    assert {name: (job.state.value, job.reason, job.exit_code) for name, job in jobs.items()} == {
        "19": ("PENDING", "BeginTime", None),
        "17": ("RUNNING", "", None),
        "16": ("FAILED", "FAILED 3:0", 3),
        "15": ("COMPLETED", "COMPLETED 0:0", 0),
        "11": ("CANCELLED", "CANCELLED 0:9", 137),
        "7": ("FAILED", "OUT_OF_MEMORY 0:125", None),
    }
    running, pending = jobs["17"], jobs["19"]
    assert (running.session, running.cores, running.memory_gib, running.disc_gb) == (SESSION, 1, 1, 3)
    assert (running.started, running.ends_by, running.ended) == (at(13, 43, 31), at(13, 45, 31), None)
    # The scheduler's guess is no start.
    assert (pending.started, pending.ends_by) == (None, None)
    assert jobs["16"].ended == at(13, 43, 32)
    assert jobs["7"].session is None
    assert jobs["7"].memory_gib == 1


def test_a_foreign_name_may_hold_the_separator() -> None:
    line = SQUEUE.splitlines()[1].replace(str(SESSION), "a|b")
    assert [(job.job_id, job.session) for job in parse_squeue(line)] == [("17", None)]


def test_the_accounting() -> None:
    jobs = {job.job_id: job for job in parse_sacct(SACCT)}
    assert {name: (job.state.value, job.reason, job.exit_code) for name, job in jobs.items()} == {
        "11": ("CANCELLED", "CANCELLED 0:9", 137),
        "17": ("CANCELLED", "CANCELLED 0:0", 0),
        "18": ("RUNNING", "", None),
        "7": ("FAILED", "OUT_OF_MEMORY 0:125", None),
    }
    assert (jobs["17"].session, jobs["17"].cores, jobs["17"].started) == (SESSION, 1, None)
    assert jobs["18"].ends_by == at(13, 45, 31)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("PENDING", "PENDING"), ("REQUEUED", "PENDING"), ("CONFIGURING", "RUNNING"), ("COMPLETING", "RUNNING"),
        ("SUSPENDED", "RUNNING"), ("COMPLETED", "COMPLETED"), ("CANCELLED by 0", "CANCELLED"),
        ("CANCELLED+", "CANCELLED"), ("TIMEOUT", "FAILED"), ("OUT_OF_MEMORY", "FAILED"), ("NODE_FAIL", "FAILED"),
        ("A_STATE_OF_TOMORROW", "RUNNING"),
    ],
)  # fmt: skip
def test_states(word: str, state: str) -> None:
    assert job_state(word) is JobState(state)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu=4,mem=16G,node=1,billing=4,gres/disk=250", {"cpu": 4, "mem": 16384, "node": 1, "billing": 4, "gres/disk": 250}),
        ("cpu=1,mem=200M", {"cpu": 1, "mem": 200}),
        ("mem=1.50G,gres/disk=1K", {"mem": 1536, "gres/disk": 1024}),
        ("mem=1500K", {"mem": 2}),
        ("N/A", {}),
        ("", {}),
        ("gres/gpu:a100=2,energy=18446744073709551614", {"gres/gpu:a100": 2, "energy": 2**64}),
    ],
)  # fmt: skip
def test_resources(text: str, expected: dict[str, int]) -> None:
    assert parse_tres(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0:125", (0, 125)), ("3:0", (3, 0)), ("768", (3, 0)), ("9", (0, 9)), ("", None), ("N/A", None)],
)
def test_exit_codes(text: str, expected: tuple[int, int] | None) -> None:
    assert parse_exit(text) == expected


def test_a_live_job_is_chosen_before_an_ended_one() -> None:
    ended, running = (job for job in parse_sacct(SACCT) if job.job_id in ("17", "18"))
    assert latest([running, replace(ended, submitted=at(23, 0, 0))]) == running
    assert latest([]) is None


def test_the_arguments() -> None:
    arguments = submit_arguments(JOB, "slurm-account-001", "vp")
    assert {
        f"--job-name={SESSION}", "--account=slurm-account-001", "--partition=vp", "--cpus-per-task=2", "--mem=4G",
        "--time=2", "--gres=disk:5", "--no-requeue", f"--output={DIRECTORY}/stdout.log", f"--error={DIRECTORY}/stderr.log",
    } <= set(arguments)  # fmt: skip


def test_arguments_that_depend() -> None:
    def given_(**changes: Any) -> list[str]:
        return submit_arguments(replace(JOB, **changes), "a", "vp")

    assert not any(argument.startswith("--gres") for argument in given_(disc_gb=0))
    uncounted = submit_arguments(JOB, "a", "vp", disc=False)
    assert not any(argument.startswith("--gres") for argument in uncounted)
    assert {"--output=/a/100%%j/stdout.log", "--error=/a/100%%j/stderr.log"} <= set(given_(directory=Path("/a/100%j")))


def test_the_trace_of_the_client_is_the_job_s_comment() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    traced = replace(JOB, environment={"TRACEPARENT": f"00-{trace}-00f067aa0ba902b7-01"})
    assert f"--comment={trace}" in submit_arguments(traced, "a", "vp")
    for wrong in ("", trace, f"00-{trace}-00f067aa0ba902b7-01 --uid=0"):
        arguments = submit_arguments(replace(JOB, environment={"TRACEPARENT": wrong}), "a", "vp")
        assert not any(argument.startswith("--comment") for argument in arguments)


def test_the_script_shuts_the_program_off() -> None:
    run = shlex.split(batch_script(JOB).splitlines()[-1])
    assert run[0] == "exec"
    assert {"--unset-env=*", "--env-no-expand", "--bind=/mnt/storage/data/x:/data"} <= set(run)
    assert run[-6:] == ["--", "/entrypoint", "--run", "a b", "$(id)", "c'd"]
    assert f"--bind={DIRECTORY}/scratch:/tmp" in run
    # In a tmpfs it would be the job's memory.
    assert "--private-tmp" not in run


def test_the_environment_shows_in_no_process_list() -> None:
    run = batch_script(replace(JOB, environment={"SECRET": "hunter2"})).splitlines()[-1]
    assert "hunter2" not in run


@pytest.mark.parametrize("environment", [{"A": "two\nlines"}, {"A B": "x"}, {"A=B": "x"}, {"": "x"}, {"A": "\0"}])
def test_an_environment_that_cannot_be_handed_over_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(SubmissionRefused, match="environment variable"):
        batch_script(replace(JOB, environment=environment))


ANYTHING = st.text(st.characters(exclude_characters="\0\n", exclude_categories=["Cs"]), max_size=30)


# Also what ends lines elsewhere, and what a shell is awake for.
WORDS = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30),
    st.text(st.sampled_from("'\"\\$`!&|;<>(){}[]*?~# \t\r\n"), max_size=30),
)


@given(words=st.lists(WORDS, max_size=4), value=ANYTHING)
@settings(max_examples=60, deadline=None)  # a shell is started for each
def test_no_word_of_a_request_reaches_the_shell(words: list[str], value: str) -> None:
    """What a real shell makes of the script is the words of the request, whatever is in them."""
    script = batch_script(replace(JOB, command=tuple(words), environment={"A": value}))
    assert "\r\n" not in script, "sbatch refuses that"
    with tempfile.TemporaryDirectory() as place:
        # In place of what shuts the program off: it shows its words.
        show = Path(place) / "unshare"
        show.write_text('#!/bin/sh\nprintf "%s\\0" "$@" > words\n')
        show.chmod(0o755)
        run = script.replace("export PATH=", f"export PATH={place}:")
        subprocess.run(["/bin/sh"], input=run.encode(), cwd=place, env={"USER": "x"}, check=True, timeout=60)
        seen = (Path(place) / "words").read_bytes().decode().split("\0")[:-1]
        written = (Path(place) / "environment").read_bytes().decode()
        assert {each.name for each in Path(place).iterdir()} == {"unshare", "words", "environment", SCRATCH, "started"}
    assert seen[seen.index("/entrypoint") + 1 :] == words
    assert f"A='{value}'\n" in written


def test_a_job_that_is_started_again_does_not_run_again(tmp_path: Path) -> None:
    (tmp_path / "unshare").write_text("#!/bin/sh\necho >>runs\n")
    (tmp_path / "unshare").chmod(0o755)
    run = batch_script(JOB).replace("export PATH=", f"export PATH={tmp_path}:").encode()
    ends = [subprocess.run(["/bin/sh"], input=run, cwd=tmp_path, check=False, timeout=60).returncode for _ in "12"]
    assert ends == [0, 75]
    assert (tmp_path / "runs").read_text() == "\n"


# The commands, played by scripts of the shell.

Commands = Callable[..., SlurmPlatform]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    def make(**bodies: str) -> SlurmPlatform:
        for name, body in bodies.items():
            file = tmp_path / name
            file.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n{body}\n')
            file.chmod(file.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setitem(slurm._ENVIRONMENT, "PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        config = {
            "name": "slurm-account-001",
            "kind": "slurm",
            "listen": {"host": "127.0.0.1", "port": 8101},
            "url": "http://127.0.0.1:8101",
            "database": "sqlite://",
            "quota": {"cores": 4, "memory_gib": 16, "disc_gb": 250},
            "limits": {"cores": 4, "memory_gib": 8, "walltime": "PT1H", "jobs": 4},
            "storage": {"root": "/mnt/storage", "data": "/mnt/storage/data", "jobs": "/mnt/storage/jobs/a"},
            "images_file": "/none",
            "tokens_file": "/none",
            "slurm": {"account": "slurm-account-001", "partition": "vp"},
        }
        return SlurmPlatform(PlannerConfig.model_validate(config))

    return make


def show(text: str) -> str:
    return f"cat <<'END'\n{text}END"


async def test_a_submission_gives_the_id_and_the_script_goes_in_by_stdin(commands: Commands, tmp_path: Path) -> None:
    driver = commands(squeue="", sbatch=f"cat > {tmp_path}/script; echo '42;cirasa'")
    assert await driver.submit(JOB) == "42"
    assert (tmp_path / "script").read_text() == batch_script(JOB)


async def test_a_session_that_has_a_job_gets_no_second_one(commands: Commands, tmp_path: Path) -> None:
    driver = commands(squeue=show(SQUEUE.splitlines()[1] + "\n"), sbatch="echo 43")
    assert await driver.submit(JOB) == "17"
    assert "sbatch" not in (tmp_path / "calls").read_text()


async def test_a_refusal_is_slurms_reason(commands: Commands) -> None:
    driver = commands(
        squeue="",
        scontrol="",
        sbatch="echo 'sbatch: error: AssocMaxCpuPerJobLimit' >&2; echo 'sbatch: error: Batch job submission failed: "
        "Job violates accounting/QOS policy' >&2; exit 1",
    )
    with pytest.raises(SubmissionRefused, match=r"^AssocMaxCpuPerJobLimit; Batch job submission failed"):
        await driver.submit(JOB)


@pytest.mark.parametrize(
    ("sbatch", "scontrol"),
    [
        ("echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1", ""),
        ("echo 'sbatch: error: Munge encode failed: Failed to access' >&2; exit 1", ""),
        ("echo 'sbatch: error: something' >&2; exit 1", "exit 1"),
    ],
)
async def test_a_controller_that_is_away_refuses_nothing(commands: Commands, sbatch: str, scontrol: str) -> None:
    with pytest.raises(PlatformDown, match="sbatch: "):
        await commands(squeue="", sbatch=sbatch, scontrol=scontrol).submit(JOB)


async def test_observing_leaves_out_what_others_have_ended(commands: Commands) -> None:
    taken = await commands(squeue=show(SQUEUE)).observe()
    assert sorted(job.job_id for job in taken.jobs) == ["11", "15", "16", "17", "19"]


async def test_a_forgotten_job_is_found_in_the_accounting(commands: Commands) -> None:
    found = await commands(squeue="", sacct=show(SACCT)).find(SESSION)
    assert found is not None
    assert (found.job_id, found.state) == ("17", JobState.CANCELLED)


async def test_a_job_that_slurmctld_lost_has_ended(commands: Commands) -> None:
    """Accounting alone says that it runs, and would say so for ever."""
    runs = f"119|RUNNING|0:0|cpu=1,mem=1G|cpu=1,mem=1G|2026-11-24T18:46:13|2026-11-24T18:46:14|Unknown|1|{SESSION}"
    found = await commands(squeue="", sacct=show(runs + "\n")).find(SESSION)
    assert found is not None
    assert (found.state, found.exit_code) == (JobState.FAILED, None)
    assert found.reason == "LOST: slurmctld does not know it any more, its accounting says RUNNING"


async def test_a_queue_that_cannot_be_read_is_no_empty_one(commands: Commands) -> None:
    driver = commands(squeue="echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(PlatformDown, match="squeue: slurm_load_jobs error"):
        await driver.observe()


async def test_a_command_that_hangs_is_ended(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "_TIMEOUT", 0.2)
    with pytest.raises(PlatformDown, match=r"squeue did not end within 0\.2 s"):
        await commands(squeue="exec sleep 60").observe()


async def test_a_missing_command_is_a_platform_that_is_down(commands: Commands) -> None:
    driver = commands(sbatch="")
    with pytest.raises(PlatformDown, match="squeue"):
        await driver.observe()


async def test_cancelling_what_has_ended_is_no_fault(commands: Commands) -> None:
    failing = "echo 'scancel: error: Kill job error on job id 16: Invalid job id specified' >&2; exit 1"
    driver = commands(scancel=failing, squeue=show(SQUEUE))
    await driver.cancel("16")
    await driver.cancel("99")
    with pytest.raises(PlatformDown, match="scancel"):
        await driver.cancel("17")


async def test_collecting_removes_the_scratch_directory(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "scratch" / "deep").mkdir(parents=True)
    await commands().collect("1", tmp_path)
    assert not (tmp_path / "scratch").exists()
    await commands().collect("1", tmp_path)


def test_what_test_only_says() -> None:
    said = "sbatch: Job 26 to start at 2026-11-24T00:12:14 using 4 processors on nodes vnode1 in partition vp\n"
    assert parse_test_only(said) == datetime(2026, 11, 24, 0, 12, 14, tzinfo=UTC)
    assert parse_test_only("allocation failure: Requested node configuration is not available") is None
