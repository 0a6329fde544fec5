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
    description: Namespaces that one run may delete.
    type: int
    default: 3
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
  sample: [{action: update, kind: ResourceQuota, namespace: k8s-namespace-001, name: quota}]
  returned: always
"""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.kubernetes_api import CONNECTIONS, Api, ApiError, Object, read_kubeconfig
from ansible.module_utils.namespace_plan import (
    KINDS,
    MANAGER,
    Key,
    Step,
    comparable,
    desired_objects,
    disturbed,
    faults,
    key_of,
    labels,
    make_plan,
    makes_volumes,
    refusal,
    selector,
    shown,
)

#: A namespace that is deleted takes some seconds: its pods are stopped first.
DELETION_SECONDS = 120.0


def read_current(api: Api, instance: str, storage: Mapping[str, Any] | None = None) -> dict[Key, Object]:
    """Everything that carries the testbed's labels, without what is being deleted already."""

    def read(kind: str) -> list[Object]:
        try:
            items = api.list_all(KINDS[kind].path(), selector(instance), KINDS[kind].only)
        except ApiError as error:
            # Who makes no volumes needs no right to them.
            if error.status == 403 and kind == "PersistentVolume" and not makes_volumes(storage or {}):
                return []
            raise
        return [item | {"kind": kind} for item in items]  # a list's items do not name their kind

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        found = [item for items in pool.map(read, KINDS) for item in items]
    leaving = {item["metadata"]["name"] for item in found if item["kind"] == "Namespace" and _is_leaving(item)}
    return {
        key_of(item): item
        for item in found
        if not _is_leaving(item) and item["metadata"].get("namespace") not in leaving
    }


def _is_leaving(item: Object) -> bool:
    return "deletionTimestamp" in item["metadata"]


def _gone(api: Api, key: Key) -> None:
    """Wait until an object that is being deleted is no more; raises ApiError where it stays."""
    path = KINDS[key[0]].path(key[1], key[2])
    deadline = time.monotonic() + DELETION_SECONDS
    while True:
        try:
            found = api.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return
            raise
        if not _is_leaving(found):
            return
        if time.monotonic() > deadline:
            conditions = (found.get("status") or {}).get("conditions") or []
            reasons = "; ".join(str(entry.get("message")) for entry in conditions if entry.get("status") == "True")
            raise ApiError(
                0, f"{key[0]} {key[2]} is still there {DELETION_SECONDS:.0f} s after its deletion: {reasons}"
            )
        time.sleep(0.2)


def _apply(api: Api, step: Step, dry: bool) -> None:
    """Server-side apply; then, where somebody added to what is ours to say, put the whole in its place."""
    if step.wanted is None:
        raise ValueError(f"{step} has nothing to apply")
    kind, namespace, name = step.key
    path = KINDS[kind].path(namespace, name)
    query = {"fieldManager": MANAGER, "force": "true"} | ({"dryRun": "All"} if dry else {})
    got = api.request("PATCH", path, query=query, body=step.wanted, content_type="application/apply-patch+yaml")
    if comparable(got, step.wanted) == comparable(step.wanted, step.wanted) or dry:
        return
    whole = got | {key: value for key, value in step.wanted.items() if key not in ("metadata", "apiVersion", "kind")}
    # Whatever version it has: controllers write their status into the same object meanwhile.
    for field in ("managedFields", "resourceVersion"):
        whole["metadata"].pop(field, None)
    api.request("PUT", path, query={"fieldManager": MANAGER}, body=whole)


def _delete(api: Api, key: Key, dry: bool) -> None:
    try:
        api.request("DELETE", KINDS[key[0]].path(key[1], key[2]), query={"dryRun": "All"} if dry else None)
    except ApiError as error:
        if error.status != 404:
            raise


def _each(steps: Iterable[Step], act: Callable[[Step], None]) -> None:
    """Do steps that do not depend on one another, several at once; the error of one names it."""

    def do(step: Step) -> None:
        try:
            act(step)
        except ApiError as error:
            raise ApiError(error.status, f"{step}: {error.message}") from error

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(do, steps))


def carry_out(api: Api, steps: list[Step], dry: bool) -> None:
    """Do what the plan says, kind by kind.

    Args:
        api: the cluster.
        steps: the plan.
        dry: let the server try without keeping anything.

    Raises:
        ApiError: where a step fails; those before it are done.
    """
    new = {step.key[2] for step in steps if step.action == "create" and step.key[0] == "Namespace"}
    _each((step for step in steps if step.action == "delete"), lambda step: _delete(api, step.key, dry))
    # Claims hold their volumes: they go first.
    replaced = sorted((step for step in steps if step.action == "replace"), key=lambda step: step.key[0], reverse=True)
    for _, group in groupby(replaced, key=lambda step: step.key[0]):
        _each(group, lambda step: _delete(api, step.key, dry))
    if not dry:
        _each((step for step in steps if step.action in ("delete", "replace")), lambda step: _gone(api, step.key))
        _each((step for step in steps if step.key[2] in new), lambda step: _gone(api, step.key))
    changes = [step for step in steps if step.action in ("create", "update") or (step.action == "replace" and not dry)]
    for _, group in groupby(changes, key=lambda step: step.key[0]):
        # Nothing can be tried in a namespace that is not there yet.
        _each((step for step in group if not (dry and step.key[1] in new)), lambda step: _apply(api, step, dry))


def strangers(api: Api, steps: list[Step], instance: str) -> list[str]:
    """Namespaces that the plan would make, but that somebody else has made already."""
    found = []
    for step in steps:
        if step.action != "create" or step.key[0] != "Namespace":
            continue
        try:
            item = api.request("GET", KINDS["Namespace"].path(name=step.key[2]))
        except ApiError as error:
            if error.status != 404:
                raise
            continue
        theirs = item["metadata"].get("labels") or {}
        if any(theirs.get(key) != value for key, value in labels(instance).items()):
            found.append(step.key[2])
    return found


def running_pods(api: Api, namespaces: list[str]) -> dict[str, list[str]]:
    """Names of the pods of each namespace that have not ended."""
    return {
        namespace: [
            pod["metadata"]["name"]
            for pod in api.list_all(f"/api/v1/namespaces/{namespace}/pods")
            if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
        ]
        for namespace in namespaces
    }


def difference(steps: list[Step]) -> list[dict[str, str]]:
    """The plan as people read it, one entry for each object."""
    entries = []
    for step in steps:
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
    steps = make_plan(desired, current, prune=parameters["prune"])
    result: dict[str, Any] = {
        "changed": bool(steps),
        "plan": [
            {"action": step.action, "kind": step.key[0], "namespace": step.key[1], "name": step.key[2]}
            for step in steps
        ],
    }
    if not steps:
        return result
    result["diff"] = difference(steps)
    if api is None:
        return result
    foreign = strangers(api, steps, instance)
    if foreign:
        raise ValueError(
            f"nothing was changed: {', '.join(foreign)} exists and is not this testbed's (it lacks the label "
            f"app.kubernetes.io/instance={instance}); give the platform another name"
        )
    reason = refusal(steps, running_pods(api, disturbed(steps)), parameters["max_deletions"])
    if reason:
        raise ValueError(reason)
    carry_out(api, steps, check)
    if not check:
        left = make_plan(desired, read_current(api, instance, parameters["storage"]), prune=parameters["prune"])
        if left:
            raise ValueError("after all was done, this is still to do: " + "; ".join(str(step) for step in left[:10]))
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "kubeconfig": {"type": "path", "required": True},
            "context": {"type": "str", "default": ""},
            "instance": {"type": "str", "required": True},
            "namespaces": {"type": "list", "elements": "dict", "required": True},
            "storage_path": {"type": "path", "required": True},
            "storage": {"type": "dict", "default": {}},
            "job_factor": {"type": "int", "default": 5},
            "prune": {"type": "bool", "default": True},
            "max_deletions": {"type": "int", "default": 3},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    try:
        kubeconfig = Path(parameters["kubeconfig"])
        unmade = module.check_mode and not kubeconfig.exists()
        api = None if unmade else Api(read_kubeconfig(kubeconfig, parameters["context"]))
        result = run(api, parameters, module.check_mode)
    except ApiError as error:
        module.fail_json(msg=error.message, status=error.status)
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    else:
        module.exit_json(**result)


if __name__ == "__main__":
    main()
