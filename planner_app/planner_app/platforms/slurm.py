"""A Slurm account as a virtual platform, through Slurm's own commands.

The commands' text with an explicit format is the only interface that Slurm 22.05 and 24.11 share; nothing is
decided by the text of a message where the exit code or a second question can decide. Commands run as the
service's own unix user, whose default account is the platform's.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import structlog

from planner_app.planner.config import PlannerConfig
from planner_app.platforms.protocol import JobSpec, JobState, JobStatus, PlatformDown, Snapshot, SubmissionRefused

log = structlog.get_logger(__name__)

GRES = "disk"
"""The count-only generic resource that stands for disc, in GB."""

# Slurm prints and reads local time without a zone: the commands are given UTC.
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/local/bin:/usr/bin:/bin"}

STARTED = "started"
"""A directory that a job makes when it begins, and that is there if it begins again."""
SCRATCH = "scratch"
"""The job's /tmp, in the session's directory."""

_TIMEOUT = 25.0
"""Seconds for one command: commands give up by themselves after twice MessageTimeout (10 s) and less."""

# Fields of squeue with a width each (it cuts at the width, and at 20 where none is given); the name is last,
# since somebody else's may hold the separator.
_SQUEUE_FIELDS = (
    ("jobid", 20),
    ("state", 20),
    ("reason", 60),
    ("exit_code", 20),
    ("numcpus", 12),
    ("tres-alloc", 160),
    ("submittime", 24),
    ("starttime", 24),
    ("endtime", 24),
    ("name", 200),
)
SQUEUE_FORMAT = ",".join(f"{name}:{width}|" for name, width in _SQUEUE_FIELDS)

SACCT_FORMAT = "JobIDRaw,State,ExitCode,AllocTRES,ReqTRES,Submit,Start,End,TimelimitRaw,JobName%200"

_PENDING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
_FAILED = frozenset(
    {"FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "PREEMPTED", "REVOKED",
     "LAUNCH_FAILED", "RECONFIG_FAIL"}
)  # fmt: skip

# A submission that fails with one of these says nothing about the job. Texts, since sbatch has one exit code:
# they only ever turn a refusal into a later attempt, which finds the job where it was accepted after all.
_TRANSIENT = re.compile(
    r"unable to contact slurm controller|socket timed out|zero bytes were transmitted|munge|authentication"
    r"|connection (refused|reset)|temporarily unable|standby|communication",
    re.IGNORECASE,
)


# What Slurm says, and what it means: pure.


def parse_tres(text: str) -> dict[str, int]:
    """Read ``cpu=4,mem=16G,gres/disk=250`` into numbers; memory in MiB, rounded up.

    Values that are no numbers are left out: the list grows by what a site defines.
    """
    found: dict[str, int] = {}
    for word in text.split(","):
        name, _, value = word.partition("=")
        matched = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]?)", value.strip())
        if matched is None:
            continue
        number = float(matched[1])
        if name == "mem":
            # Without a unit Slurm means MiB.
            factor = {"K": 1 / 1024, "M": 1, "": 1, "G": 1024, "T": 1024**2, "P": 1024**3}[matched[2]]
        else:
            factor = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4, "P": 1024**5}[matched[2]]
        found[name.strip()] = math.ceil(number * factor)
    return found


def parse_time(text: str) -> datetime | None:
    """Read a time that was printed in UTC; None for N/A, Unknown and the like."""
    try:
        return datetime.strptime(text.strip(), "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def parse_exit(text: str) -> tuple[int, int] | None:
    """Read sacct's ``CODE:SIGNAL``, or squeue's status as wait(2) gives it; None where there is no number."""
    matched = re.fullmatch(r"(\d+)(?::(\d+))?", text.strip())
    if matched is None:
        return None
    if matched[2] is not None:
        return int(matched[1]), int(matched[2])
    status = int(matched[1])
    return status >> 8, status & 0x7F


def job_state(word: str) -> JobState:
    """Map Slurm's word for a state, such as ``CANCELLED by 20001``.

    Words of later versions count as running: what is not known to have ended holds its share of the quota.
    """
    base = word.split()[0].rstrip("+") if word.split() else ""
    if base in _PENDING:
        return JobState.PENDING
    if base == "COMPLETED":
        return JobState.COMPLETED
    if base == "CANCELLED":
        return JobState.CANCELLED
    return JobState.FAILED if base in _FAILED else JobState.RUNNING


def exit_code(state: JobState, code: tuple[int, int] | None) -> int | None:
    """Give the exit code as a shell would: 128 + signal for a killed job; None while it lives.

    Slurm marks a job that ran out of memory with signal 125, which is none: no code is made up for it.
    """
    if not state.ended or code is None:
        return None
    status, signal = code
    if signal:
        return 128 + signal if signal < 65 else None
    return status


def session_of(name: str) -> UUID | None:
    """Read the session from a job's name; None for somebody else's job."""
    try:
        session = UUID(name)
    except ValueError:
        return None
    return session if str(session) == name else None


def _words(state: JobState, word: str, reason: str, code: tuple[int, int] | None) -> str:
    if not state.ended:
        return "" if reason == "None" else reason
    return f"{word.split()[0]} {code[0]}:{code[1]}" if code is not None else word


def parse_squeue(text: str) -> tuple[JobStatus, ...]:
    """Read the lines of ``squeue --noheader --Format=SQUEUE_FORMAT``."""
    jobs = []
    for line in text.splitlines():
        columns = [column.strip() for column in line.split("|", len(_SQUEUE_FIELDS) - 1)]
        if len(columns) != len(_SQUEUE_FIELDS):
            continue
        field = dict(zip((name for name, _ in _SQUEUE_FIELDS), columns, strict=True))
        state, code = job_state(field["state"]), parse_exit(field["exit_code"])
        tres = parse_tres(field["tres-alloc"])
        start, end = parse_time(field["starttime"]), parse_time(field["endtime"])
        # A pending job's times are the scheduler's guess.
        began = state is not JobState.PENDING
        jobs.append(
            JobStatus(
                job_id=field["jobid"],
                session=session_of(field["name"].removesuffix("|").rstrip()),
                state=state,
                reason=_words(state, field["state"], field["reason"], code),
                cores=tres.get("cpu") or int(field["numcpus"] or 0),
                memory_gib=math.ceil(tres.get("mem", 0) / 1024),
                disc_gb=tres.get(f"gres/{GRES}", 0),
                submitted=parse_time(field["submittime"]),
                started=start if began else None,
                ended=end if state.ended else None,
                ends_by=end if state is JobState.RUNNING else None,
                exit_code=exit_code(state, code),
            )
        )
    return tuple(jobs)


def parse_sacct(text: str) -> tuple[JobStatus, ...]:
    """Read the lines of ``sacct -XnP -o SACCT_FORMAT``."""
    jobs = []
    for line in text.splitlines():
        columns = line.split("|", 9)
        if len(columns) != 10:
            continue
        job_id, word, code_text, allocated, requested, submit, start_text, end_text, limit, name = columns
        state, code = job_state(word), parse_exit(code_text)
        tres = parse_tres(allocated) or parse_tres(requested)
        start = parse_time(start_text)
        ends_by = None
        if state is JobState.RUNNING and start is not None and limit.isdigit():
            ends_by = start + timedelta(minutes=int(limit))
        jobs.append(
            JobStatus(
                job_id=job_id,
                session=session_of(name.strip()),
                state=state,
                reason=_words(state, word, "", code),
                cores=tres.get("cpu", 0),
                memory_gib=math.ceil(tres.get("mem", 0) / 1024),
                disc_gb=tres.get(f"gres/{GRES}", 0),
                submitted=parse_time(submit),
                started=start if state is not JobState.PENDING else None,
                ended=parse_time(end_text) if state.ended else None,
                ends_by=ends_by,
                exit_code=exit_code(state, code),
            )
        )
    return tuple(jobs)


def latest(jobs: Sequence[JobStatus]) -> JobStatus | None:
    """Choose among the jobs of one session: one that lives, else the last one submitted."""
    never = datetime.min.replace(tzinfo=UTC)
    return max(jobs, key=lambda job: (not job.state.ended, job.submitted or never), default=None)


# What Slurm is told: pure.


def submit_arguments(job: JobSpec, account: str, partition: str, disc: bool = True) -> list[str]:
    """Give the arguments of sbatch; the script comes on its standard input. `disc`: Slurm counts discs."""
    # sbatch takes %j and the like in file names for patterns.
    directory = str(job.directory).replace("%", "%%")
    return [
        "--parsable",
        f"--job-name={job.session}",
        *([f"--comment={job.trace}"] if job.trace else []),
        f"--account={account}",
        f"--partition={partition}",
        *shape_arguments(job.cores, job.memory_gib, job.disc_gb if disc else 0, job.walltime),
        f"--chdir={job.directory}",
        f"--output={directory}/stdout.log",
        f"--error={directory}/stderr.log",
        "--open-mode=truncate",
        # A job that is started twice would write its outputs twice; the planner decides.
        "--no-requeue",
        # What sbatch is started with, which is nothing of the service's own: with any other value, NONE and NIL
        # too, slurmd runs a login shell of the user for each job.
        "--export=ALL",
        # The service's limits are not the job's.
        "--propagate=NONE",
    ]


def shape_arguments(cores: int, memory_gib: int, disc_gb: int, walltime: timedelta) -> list[str]:
    """Give the arguments of sbatch that say how large a job is."""
    return [
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={cores}",
        f"--mem={memory_gib}G",
        # Slurm counts in minutes.
        f"--time={max(1, math.ceil(walltime / timedelta(minutes=1)))}",
        *([f"--gres={GRES}:{disc_gb}"] if disc_gb else []),
    ]


def parse_test_only(text: str) -> datetime | None:
    """Read the start that ``sbatch --test-only`` names on its standard error."""
    matched = re.search(r"to start at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", text)
    return parse_time(matched[1]) if matched else None


def _quoted(word: str) -> str:
    """Quote a word for the shell."""
    return shlex.quote(word).replace("\r", """'"$CR"'""")


def batch_script(job: JobSpec) -> str:
    """Write the batch script: the image's program under charliecloud, shut off from the node as far as it can.

    No word of a request is ever read by the shell: everything is quoted, and the environment goes through a
    file that only the platform's user can read, so that it shows in no process list.

    Raises SubmissionRefused for an environment that charliecloud cannot be given.
    """
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/tmp",  # noqa: S108 - the job's own
        "LANG": "C.UTF-8",
    }
    environment |= job.environment
    for name, value in environment.items():
        if re.search(r"[\n\0]", value) or not re.fullmatch(r"[^=\s\0]+", name):
            raise SubmissionRefused(f"environment variable {name!r} cannot be handed to charliecloud: line break")
    # charliecloud takes one pair of single quotes off a value, and leaves all others.
    lines = "".join(f"{name}='{value}'\n" for name, value in environment.items())
    isolate = ["unshare", "--user", "--map-current-user", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    run = ["ch-run", "--unset-env=*", "--env-no-expand", "--set-env=./environment", "--cd=/tmp"]
    # Not --private-tmp: what lies in a tmpfs is the job's memory, and when that is full the kernel kills whom it
    # finds, slurmstepd too, while the tmpfs stays.
    run += [f"--bind={job.directory}/{SCRATCH}:/tmp"]
    run += [f"--bind={mount.source}:{mount.target}" for mount in job.mounts]
    run += [str(job.image.slurm), "--", job.entrypoint or "/entrypoint", *job.command]
    return "\n".join(
        (
            "#!/bin/sh",
            f"# Session {job.session}: {shlex.quote(job.image.name)}",
            "set -eu",
            "export PATH=/usr/local/bin:/usr/bin:/bin",
            # ch-run asks who it is.
            'export USER="${USER:-$(id -un)}"',
            # As in a container on Kubernetes; the directory above is closed to others.
            "umask 022",
            # A slurmctld that is killed may start a job again that had begun: it runs once.
            f"mkdir {STARTED} 2>/dev/null || {{ echo 'Slurm starts this job a second time' >&2; exit 75; }}",
            f"mkdir -p {SCRATCH}",
            # sbatch takes no script with a carriage return before a line's end, not even between quotes.
            "CR=$(printf '\\r')",
            "(umask 077; printf %s " + _quoted(lines) + " > environment)",
            f"exec {shlex.join(isolate)} -- {' '.join(map(_quoted, run))}",
            "",
        )
    )


# Doing it.


@dataclass(frozen=True)
class _Done:
    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        text = self.err.strip() or self.out.strip()
        return "; ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in text.splitlines())


async def _run(*arguments: str, stdin: str = "") -> _Done:
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            # Nothing to say, no pipe: uvloop cannot write, not even nothing, to a process that has ended already.
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_ENVIRONMENT,
        )
    except OSError as error:
        raise PlatformDown(f"{arguments[0]}: {error.strerror}") from error
    try:
        async with asyncio.timeout(_TIMEOUT):
            out, err = await process.communicate(stdin.encode() or None)
    except TimeoutError as error:
        raise PlatformDown(f"{arguments[0]} did not end within {_TIMEOUT:g} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return _Done(process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace"))


class SlurmPlatform:
    """One account of one Slurm."""

    separates_stderr = True
    tells = False
    foretells = True

    def __init__(self, config: PlannerConfig) -> None:
        if config.slurm is None:
            raise ValueError("slurm: missing")
        self._account = config.slurm.account
        self._partition = config.slurm.partition
        self._disc = config.slurm.disc

    async def changed(self) -> None:
        """Slurm does not tell."""
        await asyncio.Event().wait()

    async def observe(self) -> Snapshot:
        """Read the account's jobs that live or ended within slurmctld's memory (MinJobAge, 5 minutes)."""
        taken = datetime.now(UTC)
        jobs = await self._queue()
        return Snapshot(taken=taken, jobs=tuple(job for job in jobs if not job.state.ended or job.session is not None))

    async def earliest(self, cores: int, memory_gib: int, disc_gb: int, walltime: timedelta) -> datetime | None:
        """Ask sbatch --test-only, which submits nothing; it gives no start for what Slurm would refuse."""
        shape = shape_arguments(cores, memory_gib, disc_gb if self._disc else 0, walltime)
        done = await _run(
            "sbatch", "--test-only", f"--account={self._account}", f"--partition={self._partition}", *shape,
            stdin="#!/bin/sh\n",
        )  # fmt: skip
        if done.code == 0:
            return parse_test_only(done.err)
        if _TRANSIENT.search(done.err):
            raise PlatformDown(f"sbatch: {done.words}")
        return None

    async def submit(self, job: JobSpec) -> str:
        """Submit by sbatch, unless slurmctld knows a job of the session.

        One that it has forgotten is found by `find`, which needs the accounting: submitting does without it.
        """
        script = batch_script(job)
        there = latest(await self._queue(f"--name={job.session}"))
        if there is not None:
            return there.job_id
        arguments = submit_arguments(job, self._account, self._partition, self._disc)
        done = await _run("sbatch", *arguments, stdin=script)
        job_id = done.out.strip().split(";")[0]
        if done.code == 0 and job_id.isdigit():
            return job_id
        # sbatch ends with 1 for a job that breaks a limit and for a controller that is away.
        if _TRANSIENT.search(done.err) or not await self._answers():
            raise PlatformDown(f"sbatch: {done.words}")
        raise SubmissionRefused(done.words or f"sbatch ended with {done.code}")

    async def find(self, session: UUID) -> JobStatus | None:
        """Look in slurmctld's memory, then in the accounting of the last month."""
        job = latest(await self._queue(f"--name={session}"))
        if job is not None:
            return job
        done = await _run(
            "sacct", "-XnP", f"--name={session}", f"--accounts={self._account}", "--starttime=now-30days",
            # A job that was never due has no start before then.
            "--endtime=now+365days",
            f"--format={SACCT_FORMAT}",
        )  # fmt: skip
        if done.code != 0:
            raise PlatformDown(f"sacct: {done.words}")
        found = latest([job for job in parse_sacct(done.out) if job.session == session])
        if found is None or found.state.ended:
            return found
        # A slurmctld that is killed forgets what it had not written yet; its accounting never hears of an end then.
        words = f"LOST: slurmctld does not know it any more, its accounting says {found.state}"
        return replace(found, state=JobState.FAILED, reason=words, ends_by=None, ended=datetime.now(UTC))

    async def cancel(self, job_id: str) -> None:
        """Cancel by scancel; a job that has ended or is forgotten is cancelled enough."""
        done = await _run("scancel", job_id)
        if done.code == 0:
            return
        jobs = await self._queue()
        if any(job.job_id == job_id and not job.state.ended for job in jobs):
            raise PlatformDown(f"scancel: {done.words}")

    async def peek(self, job_id: str, directory: Path) -> None:
        """Nothing is to be brought: Slurm writes the job's output where it belongs."""

    async def collect(self, job_id: str, directory: Path) -> None:
        """Remove the job's /tmp; Slurm wrote the output where it belongs."""
        await asyncio.to_thread(shutil.rmtree, directory / SCRATCH, ignore_errors=True)

    async def close(self) -> None:
        """Nothing is kept open between calls."""

    async def _queue(self, *filters: str) -> tuple[JobStatus, ...]:
        done = await _run(
            "squeue", "--noheader", "--array", "--states=all", f"--account={self._account}", *filters,
            f"--Format={SQUEUE_FORMAT}",
        )  # fmt: skip
        if done.code != 0:
            raise PlatformDown(f"squeue: {done.words}")
        return parse_squeue(done.out)

    async def _answers(self) -> bool:
        # 6 ms when the controller is away, where every other command hangs for MessageTimeout and more.
        return (await _run("scontrol", "ping")).code == 0
