#!/usr/bin/python
"""Ansible module: Slurm's accounts under one managed parent as a declared list."""

from __future__ import annotations

DOCUMENTATION = r"""
module: slurm_accounts
short_description: Make the accounts under one parent account those of a list, with their users and limits
description:
  - Runs on a machine where sacctmgr may write, with the whole list in one call. Everything is read once, compared
    after both sides are brought to one notation, changed with the fewest calls of sacctmgr, and read back.
  - Accounts outside O(parent) and their limits are neither changed nor shown; the one thing outside it that is
    made is the QOS O(qos).
  - Writers are serialised by a lock, since concurrent sacctmgr writers lose data.
  - Values are checked before anything is sent; sacctmgr reads C(cpu=abc) as 0 and C(32Gi) as 32 GB.
options:
  cluster:
    description: Slurm's name of the cluster. It must be registered already.
    type: str
    required: true
  parent:
    description: Account that holds all managed accounts and nothing else; made under C(root) where it is missing.
    type: str
    required: true
  accounts:
    description: The whole list.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Name of the account., type: str, required: true}
      users:
        description: Unix users of the account; the first account of a user is its default account.
        type: list
        elements: str
        default: []
      limits:
        description:
          - Limits by sacctmgr's words, C({GrpTRES: {cpu: 8, mem: 32G, gres/disk: 250}, GrpJobs: 4, MaxWall: 60}).
          - Memory in MiB or with K, M, G, T; walltimes in minutes or as C([days-]hours:minutes:00).
          - A limit that is not named is removed.
        type: dict
        default: {}
  qos:
    description: QOS that all managed accounts use, and only it. Made where it is missing.
    type: str
    required: true
  qos_flags:
    description: Flags that the QOS must have. V(DenyOnLimit) refuses at once what can never run.
    type: list
    elements: str
    default: [DenyOnLimit]
  prune:
    description: Whether accounts under O(parent), and users in them, that are not in the list are removed.
    type: bool
    default: true
  max_deletions:
    description: With more deletions than this nothing is changed and the module fails.
    type: int
    default: 3
  drain:
    description:
      - What happens to jobs in accounts that the list no longer has. V(refuse) names them and changes nothing.
      - V(wait) lets nothing new into these accounts and waits for what is there; V(cancel) cancels it.
    type: str
    choices: [refuse, wait, cancel]
    default: refuse
  drain_timeout:
    description: Seconds to wait until the accounts are empty. Afterwards the module fails and deletes nothing.
    type: int
    default: 3600
  protected:
    description: Accounts and users that are never deleted, whatever the list says. C(root) always is one.
    type: list
    elements: str
    default: []
  lock:
    description: File that writers lock.
    type: path
    default: /run/lock/slurm-accounts.lock
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Set the accounts' quotas
  slurm_accounts:
    cluster: cirasa
    parent: caesar
    qos: caesar
    accounts:
      - name: slurm-account-001
        users: [slurm-account-001]
        limits:
          GrpTRES: {cpu: 8, mem: 32G, gres/disk: 512}
          GrpJobs: 4
          MaxTRESPerJob: {cpu: 4, mem: 16G}
          MaxWall: 02:00:00
"""

RETURN = r"""
plan:
  description: What was done, or would be in check mode, in order.
  type: list
  elements: dict
  sample:
    - kind: modify_accounts
      names: [slurm-account-001]
      values: {MaxWall: 60}
      says: "account slurm-account-001: set MaxWall=60"
  returned: always
introduced:
  description: Users whose numbers slurmctld did not know, and was made to look up.
  type: list
  elements: str
  returned: where there is a cluster
"""

import fcntl
import os
import pwd
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.module_utils import slurm_accounting as accounting
from ansible.module_utils.basic import AnsibleModule

#: Printed with exit code 0 where a value was misread.
MISREAD = re.compile(r"Invalid unit type|Bad format|Problem with|error:", re.IGNORECASE)
#: slurmctld is registered within seconds of its start; longer means that it does not start.
REGISTERED_SECONDS = 10
#: A command that only reads answers within MessageTimeout (10 s) or not at all.
READ_SECONDS = 12
CANCEL_SECONDS = 120
#: Exit code of timeout(1) where it ended the command.
TIMED_OUT = 124
LOCK_SECONDS = 120


class Slurm:
    """The calls of Slurm's commands that the module makes."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.cluster: str = module.params["cluster"]

    def run(self, *command: str) -> str:
        """Run a command and give its standard output; a failure ends the module with the command's own words."""
        code, out, err = self.module.run_command(["timeout", str(READ_SECONDS), *command])
        if code == TIMED_OUT:
            self.module.fail_json(msg=f"{' '.join(command)}: no answer within {READ_SECONDS} s", rc=code)
        if code != 0:
            self.module.fail_json(
                msg=f"{' '.join(command)}: {(err.strip() or out.strip())}", rc=code, stdout=out, stderr=err
            )
        return str(out)

    def show(self, what: str, columns: str) -> str:
        """Give the rows of `sacctmgr show` with the columns asked for."""
        return self.run("sacctmgr", "-nP", "show", what, f"format={columns}")

    def registered(self) -> str:
        """Say what is wrong with the cluster's registration; empty where nothing is."""
        code, out, err = self.module.run_command(["timeout", str(READ_SECONDS), "scontrol", "ping"])
        if code != 0:
            # It answers at once, while everything else that needs slurmctld hangs until MessageTimeout.
            return f"slurmctld does not answer: {out.strip() or err.strip()}"
        columns = "Cluster,ControlHost"
        hosts = {row["Cluster"]: row["ControlHost"] for row in accounting.table(self.show("cluster", columns), columns)}
        if self.cluster not in hosts:
            return f"cluster {self.cluster} is not known to slurmdbd (it knows {', '.join(sorted(hosts)) or 'none'})"
        if not hosts[self.cluster]:
            # Until then sacctmgr answers 0 and slurmctld never learns of the accounts.
            return f"slurmctld of {self.cluster} has not registered with slurmdbd: is it running?"
        return ""

    def state(self) -> accounting.State:
        """Read everything that the plan looks at."""
        return accounting.parse_state(
            self.cluster,
            self.show("assoc", accounting.ASSOCIATION_FORMAT),
            self.show("user", accounting.USER_FORMAT),
            self.show("qos", accounting.QOS_FORMAT),
        )

    def do(self, step: accounting.Step) -> None:
        """Make one step."""
        if step.kind == "load":
            handle, path = tempfile.mkstemp(prefix="slurm-accounts-")
            try:
                with os.fdopen(handle, "w") as stream:
                    stream.write(accounting.load_file(step, self.cluster))
                command = ["sacctmgr", "-iQ", "load", f"file={path}"]
                code, out, err = self.module.run_command(command)
            finally:
                Path(path).unlink()
        else:
            command = ["sacctmgr", "-iQ", *accounting.arguments(step, self.cluster)]
            code, out, err = self.module.run_command(command)
        if code != 0 or MISREAD.search(out + err):
            self.module.fail_json(
                msg=f"could not {step.describe()}: {(err.strip() or out.strip())}",
                command=" ".join(command),
                rc=code,
                stdout=out,
                stderr=err,
            )

    def jobs(self, accounts: list[str]) -> list[str]:
        """Name the jobs that run or wait in the accounts."""
        out = self.run("squeue", "--noheader", f"--accounts={','.join(accounts)}", "--format=%A %a %T")
        return [f"job {job} ({state}) in {account}" for job, account, state in map(str.split, out.splitlines())]

    def drain(self, accounts: list[str], how: str, seconds: int) -> None:
        """Let no job into the accounts, cancel or wait for those that are there; ends the module where it fails."""
        names = ",".join(accounts)
        where = ["where", f"name={names}", f"cluster={self.cluster}"]
        self.run("sacctmgr", "-iQ", "modify", "account", *where, "set", "GrpSubmitJobs=0")
        if how == "cancel":
            for account in accounts:
                self.run("scancel", f"--account={account}")
            seconds = min(seconds, CANCEL_SECONDS)
        deadline = time.monotonic() + seconds
        while jobs := self.jobs(accounts):
            if time.monotonic() > deadline:
                self.module.fail_json(
                    msg=f"after {seconds} s there are still {', '.join(jobs)}; these accounts take no new jobs, "
                    "nothing else was changed"
                )
            time.sleep(1)  # Slurm tells nobody when a job ends

    def strangers(self, users: list[str]) -> list[str]:
        """Name users that slurmctld has under another number than this machine.

        An association that came to slurmctld before its unix user was made has no number there, and every job of
        the user is refused with "Invalid account". That is so after a machine was rebuilt over an old database.
        """
        if not users:
            return []
        out = self.run("scontrol", "-o", "show", "assoc_mgr", "flags=assoc,users", f"users={','.join(users)}")
        pairs = re.findall(r"UserName=([^\s(]+)\((\d+)\)", out)
        return sorted({user for user, number in pairs if user in users and int(number) != pwd.getpwnam(user).pw_uid})

    def introduce(self, users: list[str]) -> None:
        """Let slurmctld look the users' numbers up again."""
        for _ in range(2):  # Slurm 24.11 was seen to miss one
            self.run("scontrol", "reconfigure")
            left = self.strangers(users)
            if not left:
                return
        self.module.fail_json(msg=f"slurmctld does not know the unix users {', '.join(left)}; restart slurmctld")


def take_lock(module: AnsibleModule, path: str) -> Any:
    """Give the locked file; it is held until the process ends, however it ends."""
    stream = Path(path).open("w")  # noqa: SIM115 - held until the end
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return stream
        except BlockingIOError:
            if time.monotonic() > deadline:
                module.fail_json(msg=f"another run has held {path} for {LOCK_SECONDS} s; nothing was changed")
            time.sleep(0.2)  # flock has no timeout of its own


def unknown_users(users: list[str]) -> list[str]:
    """Name users that this machine does not know."""
    missing = []
    for user in users:
        try:
            pwd.getpwnam(user)
        except KeyError:
            missing.append(user)
    return missing


def described(steps: list[accounting.Step]) -> list[dict[str, Any]]:
    """Give steps in a form that programs can read."""
    return [
        {
            "kind": step.kind,
            "names": list(step.names),
            "values": dict(step.values),
            "account": step.account,
            "says": step.describe(),
        }
        for step in steps
    ]


def check_deletions(module: AnsibleModule, slurm: Slurm, steps: list[accounting.Step], state: accounting.State) -> None:
    """End the module where the plan takes away too much, what is protected, or what is in use."""
    gone = accounting.deletions(steps, state)
    kept = accounting.protected(steps, {"root", *module.params["protected"]})
    if kept:
        module.fail_json(msg=f"nothing was changed: {', '.join(kept)} would be deleted and is protected")
    if len(gone) > module.params["max_deletions"]:
        module.fail_json(
            msg=f"{len(gone)} deletions are more than max_deletions={module.params['max_deletions']}; "
            f"nothing was changed: {', '.join(gone)}"
        )
    doomed = [account for step in steps if step.kind in accounting.DELETE_ACCOUNTS for account in step.names]
    jobs = slurm.jobs(doomed) if doomed else []
    if not jobs:
        return
    if module.params["drain"] == "refuse":
        module.fail_json(
            msg=f"accounts that the list no longer has are in use; nothing was changed: {', '.join(jobs)}. "
            "Wait for these jobs or cancel them, or let it be done with drain: wait or drain: cancel"
        )
    if not module.check_mode:
        slurm.drain(doomed, module.params["drain"], module.params["drain_timeout"])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "cluster": {"type": "str", "required": True},
            "parent": {"type": "str", "required": True},
            "accounts": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "users": {"type": "list", "elements": "str", "default": []},
                    "limits": {"type": "dict", "default": {}},
                },
            },
            "qos": {"type": "str", "required": True},
            "qos_flags": {"type": "list", "elements": "str", "default": ["DenyOnLimit"]},
            "prune": {"type": "bool", "default": True},
            "max_deletions": {"type": "int", "default": 3},
            "drain": {"type": "str", "choices": ["refuse", "wait", "cancel"], "default": "refuse"},
            "drain_timeout": {"type": "int", "default": 3600},
            "protected": {"type": "list", "elements": "str", "default": []},
            "lock": {"type": "path", "default": "/run/lock/slurm-accounts.lock"},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C"}
    slurm = Slurm(module)
    try:
        desired = accounting.desired_of(
            module.params["parent"], module.params["qos"], module.params["qos_flags"], module.params["accounts"]
        )
        accounting.name("cluster", module.params["cluster"])
    except accounting.Invalid as fault:
        module.fail_json(msg=f"nothing was changed: {fault}")
    users = list(dict.fromkeys(user for wanted in desired.accounts.values() for user in wanted.users))

    def result(steps: list[accounting.Step], before: accounting.State, after: accounting.State) -> dict[str, Any]:
        answer: dict[str, Any] = {"changed": bool(steps), "plan": described(steps)}
        if module._diff and steps:
            answer["diff"] = {
                "before": accounting.listing(desired, before),
                "after": accounting.listing(desired, after),
                "before_header": f"accounts under {desired.parent} in {slurm.cluster}",
                "after_header": f"accounts under {desired.parent} in {slurm.cluster}",
            }
        return answer

    if module.check_mode and module.get_bin_path("sacctmgr") is None:
        # A cluster that the same run would have made.
        empty = accounting.State()
        steps = accounting.plan(desired, empty, module.params["prune"])
        module.exit_json(**result(steps, empty, accounting.apply(steps, empty)))

    missing = unknown_users(users)
    if missing and not module.check_mode:
        module.fail_json(
            msg=f"nothing was changed: this machine has no unix user {', '.join(missing)}; slurmctld refuses the "
            "jobs of users that are made after their association"
        )
    held = None if module.check_mode else take_lock(module, module.params["lock"])
    deadline = time.monotonic() + (0 if module.check_mode else REGISTERED_SECONDS)
    while trouble := slurm.registered():
        if time.monotonic() >= deadline:
            module.fail_json(msg=f"nothing was changed: {trouble}")
        time.sleep(0.2)  # slurmdbd tells nobody when a controller registers

    before = current = slurm.state()
    done: list[accounting.Step] = []
    # Twice at most: a user's own limit that was hidden by an equal one of its account shows after the first time.
    for last in (False, True):
        try:
            steps = accounting.plan(desired, current, module.params["prune"])
        except accounting.Conflict as fault:
            module.fail_json(msg=f"nothing was changed: {fault}")
        if not done:
            check_deletions(module, slurm, steps, current)
        if module.check_mode:
            done, current = steps, accounting.apply(steps, current)
            break
        if not steps:
            break
        for step in steps:
            slurm.do(step)
        done += steps
        current = slurm.state()
        if last:
            left = accounting.plan(desired, current, module.params["prune"])
            if left:
                module.fail_json(
                    msg="Slurm did not keep what it was told: " + "; ".join(step.describe() for step in left),
                    **result(done, before, current),
                )
    known = [user for user in users if user not in missing and user in current.defaults]
    strangers = slurm.strangers(known)
    if strangers and not module.check_mode:
        slurm.introduce(strangers)
    answer = result(done, before, current)
    answer["introduced"] = strangers
    answer["changed"] = answer["changed"] or bool(strangers)
    if held is not None:
        held.close()
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
