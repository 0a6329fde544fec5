#!/usr/bin/python
"""Ansible module: Slurm's accounts under one managed parent as a declared list."""

from __future__ import annotations

DOCUMENTATION = r"""
module: slurm_accounts
short_description: Make the accounts under one parent account those of a list, with their users and limits
description:
  - Takes the whole list in one call. Everything is read once, compared after both sides are brought to one notation,
    changed with the fewest calls of sacctmgr, and read back.
  - Runs on the controller, or on any machine where sacctmgr, scontrol, squeue and scancel work, as root, as an
    administrator or operator of Slurm, or as coordinator of O(parent). What the user may not do is said, a sentence
    for each fault with the command that an administrator runs, before anything is changed. Operators and coordinators
    cannot make or change a QOS; coordinators cannot make O(parent), give it its QOS, or change default accounts.
  - Accounts outside O(parent) and their limits are neither changed nor shown; the one thing outside it that is
    made is the QOS O(qos).
  - Writers are serialised by a lock, since concurrent sacctmgr writers lose data. It serialises runs on one machine.
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
    description:
      - QOS that O(parent) and all managed accounts use, and only it. Made where it is missing.
      - Where empty, QOS are left as the cluster has them; accounts inherit those of O(parent).
    type: str
    default: ""
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
      - What happens to jobs of accounts and users that the list no longer has. V(refuse) names them and changes
        nothing.
      - V(wait) lets no new jobs in (C(GrpSubmitJobs=0), C(MaxSubmitJobs=0)) and waits for those that are there;
        V(cancel) cancels them. What is new or changed is done before.
    type: str
    choices: [refuse, wait, cancel]
    default: refuse
  drain_timeout:
    description:
      - Seconds to wait until no jobs are left (two minutes at most for V(cancel)). Afterwards the module fails, having
        deleted nothing; the accounts stay closed until they are in the list again or a later run has deleted them.
    type: int
    default: 3600
  protected:
    description: Accounts and users that are never deleted, whatever the list says. C(root) always is one.
    type: list
    elements: str
    default: []
  lock:
    description:
      - File that writers lock; made where it is missing. The user must be able to read it, or to make it. Whoever
        cannot do so with the default uses C(.slurm-accounts.lock) in the home directory.
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
jobs:
  description: Jobs of accounts and users that were, or would be, deleted.
  type: list
  elements: str
  returned: where there are any
faults:
  description: Why nothing was changed, each reason apart.
  type: list
  elements: str
  returned: where the plan cannot be carried out
introduced:
  description: Users whose numbers slurmctld did not know, and was made to look up.
  type: list
  elements: str
  returned: where there is a cluster
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.slurm_commands import LOCK, Slurm, unknown_users
from ansible.module_utils.slurm_limits import Invalid, name
from ansible.module_utils.slurm_plan import Conflict, Desired, Step, desired_of, plan, unknown_resources
from ansible.module_utils.slurm_state import Job, Rights, State
from ansible.module_utils.slurm_steps import (
    apply,
    deletions,
    denied,
    described,
    difference,
    in_the_way,
    protected,
    taken,
)


def jobs_in_the_way(slurm: Slurm, steps: list[Step], state: State) -> list[Job]:
    """Read the jobs of those accounts and users that the steps take away."""
    accounts, pairs = taken(steps, state)
    found: list[Job] = in_the_way(steps, slurm.jobs(sorted(accounts | {account for account, _ in pairs})), state)
    return found


def check(slurm: Slurm, desired: Desired, steps: list[Step], state: State, rights: Rights) -> list[Job]:
    """End the module where the plan cannot or must not be carried out; give the jobs that it ends or waits for."""
    parameters = slurm.module.params
    if not steps:
        return []
    faults = [
        f"Slurm does not count {resource}: AccountingStorageTRES in slurm.conf names what it counts"
        for resource in unknown_resources(desired, slurm.resources())
    ]
    faults += denied(steps, rights, desired, state, slurm.cluster)
    faults += [
        f"{kept} would be deleted and is protected"
        for kept in protected(steps, {"root", *parameters["protected"]}, state)
    ]
    gone = deletions(steps, state)
    if len(gone) > parameters["max_deletions"]:
        faults.append(
            f"{len(gone)} deletions are more than max_deletions={parameters['max_deletions']}: {', '.join(gone)}"
        )
    jobs = jobs_in_the_way(slurm, steps, state)
    if jobs and parameters["drain"] == "refuse":
        faults.append(
            f"what the list no longer has is in use: {', '.join(map(str, jobs))}. Wait for these jobs or cancel them, "
            "or let it be done with drain: wait or drain: cancel"
        )
    if faults:
        slurm.fail("; ".join(faults), faults=faults)
    return jobs


def carry_out(slurm: Slurm, steps: list[Step], state: State) -> None:
    """Make the steps, in order."""
    parameters = slurm.module.params
    for step in steps:
        if step.kind == "empty":
            slurm.empty(lambda: jobs_in_the_way(slurm, steps, state), parameters["drain"], parameters["drain_timeout"])
        else:
            slurm.do(step)


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
            "qos": {"type": "str", "default": ""},
            "qos_flags": {"type": "list", "elements": "str", "default": ["DenyOnLimit"]},
            "prune": {"type": "bool", "default": True},
            "max_deletions": {"type": "int", "default": 3},
            "drain": {"type": "str", "choices": ["refuse", "wait", "cancel"], "default": "refuse"},
            "drain_timeout": {"type": "int", "default": 3600},
            "protected": {"type": "list", "elements": "str", "default": []},
            "lock": {"type": "path", "default": LOCK},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C"}
    parameters = module.params
    slurm = Slurm(module)
    try:
        desired = desired_of(parameters["parent"], parameters["qos"], parameters["qos_flags"], parameters["accounts"])
        name("cluster", parameters["cluster"])
    except Invalid as fault:
        slurm.fail(str(fault))

    def result(steps: list[Step], before: State, after: State) -> dict[str, Any]:
        answer: dict[str, Any] = {"changed": bool(steps), "plan": described(steps)}
        if module._diff and steps:
            header = f"accounts under {desired.parent} in {slurm.cluster}"
            texts = difference(desired, before, after)
            answer["diff"] = dict(zip(("before", "after"), texts, strict=True))
            answer["diff"] |= {"before_header": header, "after_header": header}
        return answer

    if module.check_mode and module.get_bin_path("sacctmgr") is None:
        # A cluster that the same run would have made.
        empty = State()
        steps = plan(desired, empty, parameters["prune"])
        module.exit_json(**result(steps, empty, apply(steps, empty)))

    users = list(dict.fromkeys(user for wanted in desired.accounts.values() for user in wanted.users))
    missing = unknown_users(users)
    if missing and not module.check_mode:
        slurm.fail(
            f"this machine has no unix user {', '.join(missing)}; slurmctld refuses the jobs of users that are made "
            "after their association"
        )
    if not module.check_mode:
        slurm.take_lock(parameters["lock"])
    slurm.wait_registered(patient=not module.check_mode)
    rights = slurm.rights()
    before = current = slurm.state()
    done: list[Step] = []
    jobs: list[Job] = []
    # Twice at most: a user's own limit that was hidden by an equal one of its account shows after the first time.
    for last in (False, True):
        try:
            steps = plan(desired, current, parameters["prune"], rights, parameters["drain"])
        except Conflict as fault:
            slurm.fail(str(fault))
        if not done:
            jobs = check(slurm, desired, steps, current, rights)
        if module.check_mode:
            done, current = steps, apply(steps, current)
            break
        if not steps:
            break
        carry_out(slurm, steps, current)
        done += steps
        current = slurm.state()
        if last:
            left = plan(desired, current, parameters["prune"], rights, parameters["drain"])
            if left:
                slurm.fail(
                    "Slurm did not keep what it was told: " + "; ".join(step.describe() for step in left),
                    **result(done, before, current),
                )
    answer = result(done, before, current)
    if jobs:
        answer["jobs"] = [str(job) for job in jobs]
    strangers = slurm.strangers([user for user in users if user not in missing and user in current.defaults])
    if strangers and not module.check_mode:
        slurm.introduce(strangers, rights)
    answer["introduced"] = strangers
    answer["changed"] = answer["changed"] or bool(strangers)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
