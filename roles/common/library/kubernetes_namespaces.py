#!/usr/bin/python
"""Ansible module: make a cluster's namespaces what a list of virtual platforms says, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kubernetes_namespaces
short_description: Namespaces with quotas, limits, rights and storage, from one list
description:
  - Takes the whole list. Reads all objects that carry the testbed's labels, one LIST for each kind, compares what the
    list says with what is there, and applies what differs and nothing else (server-side apply, one field manager).
    Where nothing differs, nothing is written.
  - A namespace has a ResourceQuota, a LimitRange, Pod Security C(restricted), network policies that deny all but names,
    a claim on the shared storage, and a service account with the rights of a planner in that namespace only.
  - Objects without the testbed's labels are never read or changed. A namespace of somebody else under a name of the
    list is an error.
options:
  kubeconfig:
    description: How the cluster is reached.
    type: path
    required: true
  context:
    description: Its context; the current one where empty.
    type: str
    default: ""
  instance:
    description: The testbed's name, part of the labels by which it knows its own.
    type: str
    required: true
  namespaces:
    description:
      - Each with C(name), C(uid), C(quota) (C(cores), C(memory_gib), C(disc_gb)), C(limits) (C(cores), C(memory_gib),
        C(walltime_minutes), C(jobs)) and C(cpu_allocation_ratio). Other keys are left alone.
    type: list
    elements: dict
    required: true
  storage_path:
    description: Where the shared storage is on every node.
    type: path
    required: true
  storage:
    description:
      - Where the volumes of the claims are. C(nfs) (C(server), C(path)) or C(host_path)
        for volumes that are made here; C(volume), the name of volumes that exist, with C({name}) for the platform's;
        C(storage_class). Volumes in O(storage_path) are made where it is empty.
    type: dict
    default: {}
  job_factor:
    description: Job objects that may exist for each job that may run, waiting and ended ones together.
    type: int
    default: 5
  prune:
    description: Delete what carries the testbed's labels and is not in the list any more.
    type: bool
    default: true
  max_deletions:
    description: Namespaces that one run may delete. With more to delete nothing is changed and the module fails.
    type: int
    default: 3
  drain:
    description:
      - What happens to jobs in namespaces that would be deleted, or whose storage must be made anew. V(refuse) names
        them and changes nothing.
      - V(wait) lets no new jobs in (C(count/jobs.batch=0)) and waits for those that are there; V(cancel) cancels them.
        What is new or changed is done before.
    type: str
    choices: [refuse, wait, cancel]
    default: refuse
  drain_timeout:
    description:
      - Seconds to wait until no jobs are left (two minutes at most for V(cancel)). Afterwards the module fails, having
        deleted nothing; the namespaces stay closed until they are in the list again or a later run has deleted them.
    type: int
    default: 3600
  protected:
    description: Namespaces that are never deleted, whatever the list says.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
    details:
      - The server tries every change without keeping it, except in namespaces that do not exist yet.
      - Where there is no O(kubeconfig) yet, it foretells what is made on a cluster that has nothing.
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Make the namespaces
  kubernetes_namespaces:
    kubeconfig: "{{ state }}/kubeconfig"
    instance: caesar
    storage_path: /mnt/storage
    namespaces:
      - name: k8s-namespace-001
        uid: 20101
        quota: {cores: 4, memory_gib: 16, disc_gb: 250}
        limits: {cores: 4, memory_gib: 8, walltime_minutes: 120, jobs: 4}
        cpu_allocation_ratio: 32
"""

RETURN = r"""
plan:
  description: What was done, or would be in check mode, in that order.
  type: list
  elements: dict
  sample:
    - action: update
      kind: ResourceQuota
      namespace: k8s-namespace-001
      name: quota
      says: update ResourceQuota k8s-namespace-001/quota
  returned: always
jobs:
  description: Jobs, and pods without one, of the namespaces that were, or would be, deleted.
  type: list
  elements: str
  returned: where there are any
"""

from typing import Any

import yaml
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.kubernetes_api import ACCESS_OPTIONS, Api, run_module
from ansible.module_utils.namespace_calls import carry_out, in_use, read_current, strangers
from ansible.module_utils.namespace_objects import desired_objects, faults, shown
from ansible.module_utils.namespace_plan import Step, disturbed, make_plan, refusals


def difference(steps: list[Step]) -> list[dict[str, str]]:
    """The plan as people read it, one entry for each object."""
    entries = []
    for step in steps:
        if step.action in ("wait", "cancel"):
            entries.append({"prepared": f"{step}\n"})
            continue
        texts = {}
        for side, item in (("before", step.found), ("after", step.wanted)):
            about = step.wanted or step.found
            document = {} if item is None or about is None else shown(item, about)
            texts[side] = yaml.safe_dump(document, sort_keys=True) if document else ""
        kind, namespace, name = step.key
        header = f"{kind} {namespace + '/' if namespace else ''}{name}"
        entries.append(texts | {"before_header": header, "after_header": f"{header} ({step.action})"})
    return entries


def run(api: Api | None, parameters: dict[str, Any], check: bool) -> dict[str, Any]:
    """Bring the namespaces to what the parameters say; give the module's result.

    Args:
        api: the cluster; None where a dry run is asked what it would make on one that is not there yet.
        parameters: the module's.
        check: let the server try without keeping anything.

    Raises:
        ApiError: where the API server does not answer or refuses a step.
        ValueError: where the list or the plan is not to be carried out.
    """
    instance = parameters["instance"]
    found = faults(parameters["namespaces"])
    if found:
        raise ValueError("nothing was changed: " + "; ".join(found))
    desired = desired_objects(
        parameters["namespaces"],
        instance=instance,
        storage_path=parameters["storage_path"],
        job_factor=parameters["job_factor"],
        storage=parameters["storage"],
    )
    current = read_current(api, instance, parameters["storage"]) if api else {}
    steps = make_plan(desired, current, prune=parameters["prune"], drain=parameters["drain"])
    result: dict[str, Any] = {
        "changed": bool(steps),
        "plan": [
            {
                "action": step.action,
                "kind": step.key[0],
                "namespace": step.key[1],
                "name": step.key[2],
                "says": str(step),
            }
            for step in steps
        ],
    }
    if not steps:
        return result
    result["diff"] = difference(steps)
    if api is None:
        return result
    reasons = [
        f"namespace {name} exists and is not this testbed's (it lacks the label "
        f"app.kubernetes.io/instance={instance}): give the platform another name"
        for name in strangers(api, steps, instance)
    ]
    running = in_use(api, disturbed(steps))
    reasons += refusals(
        steps,
        running,
        max_deletions=parameters["max_deletions"],
        protected=parameters["protected"],
        drain=parameters["drain"],
    )
    if reasons:
        raise ValueError("nothing was changed: " + "; ".join(reasons))
    if any(running.values()):
        result["jobs"] = [f"{name} in {namespace}" for namespace, names in running.items() for name in names]
    carry_out(api, steps, check, parameters["drain_timeout"])
    if not check:
        left = make_plan(desired, read_current(api, instance, parameters["storage"]), prune=parameters["prune"])
        if left:
            raise ValueError("after all was done, this is still to do: " + "; ".join(str(step) for step in left[:10]))
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ACCESS_OPTIONS
        | {
            "instance": {"type": "str", "required": True},
            "namespaces": {"type": "list", "elements": "dict", "required": True},
            "storage_path": {"type": "path", "required": True},
            "storage": {"type": "dict", "default": {}},
            "job_factor": {"type": "int", "default": 5},
            "prune": {"type": "bool", "default": True},
            "max_deletions": {"type": "int", "default": 3},
            "drain": {"type": "str", "choices": ["refuse", "wait", "cancel"], "default": "refuse"},
            "drain_timeout": {"type": "int", "default": 3600},
            "protected": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
