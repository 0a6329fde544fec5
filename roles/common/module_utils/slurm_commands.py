"""Slurm's commands as the module `slurm_accounts` calls them; what they print is read by `slurm_state`."""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ansible.module_utils import slurm_state as read
from ansible.module_utils.slurm_plan import Step
from ansible.module_utils.slurm_steps import arguments, load_file

#: Printed with exit code 0 where a value was misread.
MISREAD = re.compile(r"Invalid unit type|Bad format|Problem with|error:", re.IGNORECASE)
#: slurmctld is registered within seconds of its start; longer means that it does not start.
REGISTERED_SECONDS = 10
#: It answers in milliseconds; one that is just being restarted, after a moment.
ANSWER_SECONDS = 3
#: A command that only reads answers within MessageTimeout (10 s) or not at all.
READ_SECONDS = 12
#: The longest write that was seen, of 1000 accounts on a slow machine, took a tenth of it.
WRITE_SECONDS = 600
CANCEL_SECONDS = 120
#: Exit code of timeout(1) where it ended the command.
TIMED_OUT = 124
LOCK_SECONDS = 120
LOCK = "/run/lock/slurm-accounts.lock"
#: For users who may not make that one, where root has not made it.
OWN_LOCK = "~/.slurm-accounts.lock"


class Slurm:
    """The calls of Slurm's commands; whatever fails ends the module with the command's own words.

    Args:
        module: an AnsibleModule.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.cluster: str = module.params["cluster"]
        self.lock = -1
        #: What the error of a failed command begins with.
        self.so_far = "nothing was changed: "

    def fail(self, message: str, **more: Any) -> NoReturn:
        """End the module, saying first what has been changed so far."""
        self.module.fail_json(msg=f"{self.so_far}{message}", **more)
        raise AssertionError("fail_json returned")

    def _run(self, command: Sequence[str], seconds: int, **more: Any) -> tuple[int, str, str]:
        code, out, err = self.module.run_command(["timeout", str(seconds), *command], **more)
        if code == TIMED_OUT:
            self.fail(f"{' '.join(command)[:200]}: no answer within {seconds} s", rc=code)
        return code, out, err

    def run(self, *command: str) -> str:
        """Run a command and give its standard output."""
        code, out, err = self._run(command, READ_SECONDS)
        if code != 0:
            words = err.strip() or out.strip()
            self.fail(f"{' '.join(command)[:200]}: {words}", rc=code, stdout=out, stderr=err)
        return out

    def show(self, what: str, columns: str) -> str:
        """Give the rows of `sacctmgr show` with the columns asked for."""
        return self.run("sacctmgr", "-nP", "show", *what.split(), f"format={columns}")

    def registered(self) -> tuple[str, float]:
        """Say what is wrong with the cluster's registration, nothing where all is well, and how long to wait."""
        code, out, err = self._run(["scontrol", "ping"], READ_SECONDS)
        if code != 0:
            # It answers at once, while everything else that needs slurmctld hangs until MessageTimeout.
            return f"slurmctld does not answer: {out.strip() or err.strip()}", ANSWER_SECONDS
        hosts = read.parse_clusters(self.show("cluster", read.CLUSTER_FORMAT))
        if self.cluster not in hosts:
            known = ", ".join(sorted(hosts)) or "none"
            return f"cluster {self.cluster} is not known to slurmdbd (it knows {known})", ANSWER_SECONDS
        if not hosts[self.cluster]:
            # Until then sacctmgr answers 0 and slurmctld never learns of the accounts.
            trouble = f"slurmctld of {self.cluster} has not registered with slurmdbd: is it running?"
            return trouble, REGISTERED_SECONDS
        return "", 0

    def wait_registered(self, patient: bool) -> None:
        """Wait until slurmctld and slurmdbd know each other, a moment where `patient`; ends the module otherwise."""
        start = time.monotonic()
        while True:
            trouble, seconds = self.registered()
            if not trouble:
                return
            if not patient or time.monotonic() - start > seconds:
                self.fail(trouble)
            time.sleep(0.2)  # slurmdbd tells nobody when a controller registers

    def state(self) -> read.State:
        """Read everything that the plan looks at."""
        return read.parse_state(
            self.cluster,
            self.show("assoc", read.ASSOCIATION_FORMAT),
            self.show("user", read.USER_FORMAT),
            self.show("qos", read.QOS_FORMAT),
        )

    def rights(self) -> read.Rights:
        """Read what the user that runs the module may do."""
        number = os.geteuid()
        if number == 0:
            return read.Rights()
        user = pwd.getpwuid(number).pw_name
        known = self.show(f"user name={user} withcoord", read.RIGHTS_FORMAT)
        return read.parse_rights(user, number, known, self.run("scontrol", "show", "config"))

    def resources(self) -> frozenset[str]:
        """Read which resources can be limited."""
        known: frozenset[str] = read.parse_tres(self.show("tres", read.TRES_FORMAT))
        return known

    def jobs(self, accounts: Sequence[str]) -> list[read.Job]:
        """Read the jobs that run or wait in the accounts."""
        if not accounts:
            return []
        names = ",".join(accounts)
        jobs: list[read.Job] = read.parse_jobs(
            self.run("squeue", "--noheader", f"--accounts={names}", f"--format={read.JOBS_FORMAT}")
        )
        return jobs

    def do(self, step: Step) -> None:
        """Make one step that is a call of sacctmgr."""
        # A QOS says who made it, as accounts do, so that a teardown leaves those of a site alone.
        made = ["Description=caesar-testbed"] if step.kind == "add_qos" else []
        command = ["sacctmgr", "-iQ", *arguments(step, self.cluster), *made]
        # No file: it would be left behind by a module that is killed.
        data = {"data": load_file(step, self.cluster)} if step.kind == "load" else {}
        self.so_far = ""
        # The lock goes with the call: where the module is killed, the next one waits for what this one still writes.
        code, out, err = self._run(command, WRITE_SECONDS, pass_fds=[self.lock], **data)
        if code != 0 or MISREAD.search(out + err):
            self.fail(
                f"could not {step.describe()}: {err.strip() or out.strip()}",
                command=" ".join(command)[:2000],
                rc=code,
                stdout=out,
                stderr=err,
            )

    def empty(self, in_the_way: Callable[[], list[read.Job]], how: str, seconds: float) -> None:
        """Cancel jobs, or wait for them, until none are in the way.

        Args:
            in_the_way: asks for those that are.
            how: `cancel` or `wait`.
            seconds: afterwards the module fails.
        """
        so_far, self.so_far = self.so_far, "nothing was deleted: "
        if how == "cancel" and (jobs := in_the_way()):
            self.run("scancel", *(job.number for job in jobs))
            seconds = min(seconds, CANCEL_SECONDS)
        deadline = time.monotonic() + seconds
        while jobs := in_the_way():
            if time.monotonic() > deadline:
                left = ", ".join(map(str, jobs))
                self.fail(f"after {seconds:.0f} s there are still {left}; their accounts take no new jobs")
            time.sleep(1)  # Slurm tells nobody when a job ends
        self.so_far = so_far

    def strangers(self, users: Sequence[str]) -> list[str]:
        """Name users that slurmctld has under another number than this machine.

        An association that came to slurmctld before its unix user was made has no number there, and every job of
        the user is refused with "Invalid account". That is so after a machine was rebuilt over an old database.
        """
        if not users:
            return []
        out = self.run("scontrol", "-o", "show", "assoc_mgr", "flags=assoc,users", f"users={','.join(users)}")
        known = read.parse_numbers(out)
        return sorted(user for user in users if known.get(user, set()) - {pwd.getpwnam(user).pw_uid})

    def introduce(self, users: Sequence[str], rights: read.Rights) -> None:
        """Let slurmctld look the users' numbers up again."""
        left = users
        for _ in range(2 if rights.level == "administrator" else 0):  # Slurm 24.11 was seen to miss one
            self.run("scontrol", "reconfigure")
            left = self.strangers(users)
            if not left:
                return
        self.so_far = "the accounts are as they should be, but "
        self.fail(
            f"slurmctld does not know the unix users {', '.join(left)} and refuses their jobs: an administrator runs "
            "`scontrol reconfigure`, or restarts slurmctld"
        )

    def take_lock(self, path: str) -> None:
        """Lock the file until the process and what it writes have ended, however they end.

        The file is opened for reading: it may be somebody else's, in a directory where nobody may write to those.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW
        try:
            try:
                self.lock = os.open(path, flags)
            except FileNotFoundError:
                self.lock = os.open(path, flags | os.O_CREAT, 0o644)
        except OSError as fault:
            if path == LOCK and os.geteuid() != 0:
                self.take_lock(str(Path(OWN_LOCK).expanduser()))
                return
            self.fail(f"cannot open the lock {path} ({fault.strerror}): give another one with `lock`")
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self.fail(f"another run has held {path} for {LOCK_SECONDS} s")
                time.sleep(0.2)  # flock has no timeout of its own
            else:
                return


def unknown_users(users: Sequence[str]) -> list[str]:
    """Name users that this machine does not know."""
    missing = []
    for user in users:
        try:
            pwd.getpwnam(user)
        except KeyError:
            missing.append(user)
    return missing
