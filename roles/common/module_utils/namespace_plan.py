"""What turns a cluster's namespaces into those of a list: steps, their order, and what must not be done.

Pure: nothing here asks a cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ansible.module_utils.namespace_objects import KINDS, Key, Object, comparable, labels


def _kept(wanted: Object, found: Object) -> Object:
    """`wanted` with what the cluster has written into a field that is ours.

    The controller of volumes writes the claim's uid into a volume's claimRef, which is applied as a whole: without the
    uid the claim would be Lost.
    """
    if wanted["kind"] != "PersistentVolume":
        return wanted
    return wanted | {"spec": wanted["spec"] | {"claimRef": found["spec"]["claimRef"]}}


#: What is deleted after everything else, in this order: it takes jobs and their files away.
LAST = ("Namespace", "PersistentVolume")
#: Job objects of a namespace that may exist; none lets no new ones in and leaves those alone that are there.
JOBS = "count/jobs.batch"


@dataclass(frozen=True)
class Step:
    """One thing to do.

    `action` is create, update, replace, delete, close (let no new jobs in), wait or cancel (until no jobs are left),
    open (let jobs in again).
    """

    action: str
    key: Key
    wanted: Object | None = None
    found: Object | None = None

    def __str__(self) -> str:
        kind, namespace, name = self.key
        if self.action in ("wait", "cancel"):
            return f"{'wait for' if self.action == 'wait' else 'cancel'} the jobs in {name}"
        return f"{self.action} {kind} {namespace + '/' if namespace else ''}{name}"


def make_plan(
    desired: Mapping[Key, Object], current: Mapping[Key, Object], *, prune: bool, drain: str = "refuse"
) -> list[Step]:
    """What turns `current` into `desired`, in the order in which it must be done.

    Args:
        desired: from `desired_objects`.
        current: all objects that carry the testbed's labels.
        prune: delete those that are in `current` only.
        drain: `wait` or `cancel` closes namespaces to new jobs before anything that no job survives, and lets none be
            left.
    """
    order = {kind: index for index, kind in enumerate(KINDS)}
    steps = []
    for key, wanted in desired.items():
        found = current.get(key)
        if found is None:
            steps.append(Step("create", key, wanted))
            continue
        is_now, shall_be = comparable(found, wanted), comparable(wanted, wanted)
        if is_now != shall_be:
            fixed = any(is_now.get(path) != shall_be.get(path) for path in KINDS[key[0]].immutable)
            steps.append(
                Step("replace", key, wanted, found) if fixed else Step("update", key, _kept(wanted, found), found)
            )
    # A volume and its claim are bound to each other and are made anew together.
    new = {step.key for step in steps if step.action == "replace"}
    for key, wanted in desired.items():
        if key in new or key not in current:
            continue
        if key[0] == "PersistentVolumeClaim" and ("PersistentVolume", "", wanted["spec"].get("volumeName", "")) in new:
            steps = [step for step in steps if step.key != key]
            steps.append(Step("replace", key, wanted, current[key]))
        if key[0] == "PersistentVolume":
            claim = wanted["spec"]["claimRef"]
            if ("PersistentVolumeClaim", claim["namespace"], claim["name"]) in new:
                steps = [step for step in steps if step.key != key]
                steps.append(Step("replace", key, wanted, current[key]))
    steps.sort(key=lambda step: order[step.key[0]])
    gone = {key[2] for key in current if key[0] == "Namespace" and key not in desired}
    extra = [
        Step("delete", key, found=found)
        for key, found in current.items()
        # What is in a namespace goes with it.
        if prune and key not in desired and key[1] not in gone
    ]
    # Rights that are no more go first; what is new or changed need not wait until jobs have ended.
    gentle = [step for step in extra if step.key[0] not in LAST]
    gentle += [step for step in steps if step.action != "replace"]
    # Claims before their volumes, namespaces before the volumes that they hold.
    harsh = [step for step in steps if step.action == "replace"]
    harsh += sorted((step for step in extra if step.key[0] in LAST), key=lambda step: LAST.index(step.key[0]))
    before, after = _drain(harsh, desired, current, drain) if drain != "refuse" else ([], [])
    return [*gentle, *before, *harsh, *after]


def _closed(
    namespace: str, desired: Mapping[Key, Object], current: Mapping[Key, Object]
) -> tuple[Object, Object | None]:
    """The quota that lets no new jobs into a namespace, and the one that is there."""
    key = ("ResourceQuota", namespace, "quota")
    found = current.get(key)
    like = desired.get(key) or found or {}
    about = current.get(("Namespace", "", namespace)) or like
    ours = {name: value for name, value in (about["metadata"].get("labels") or {}).items() if name in labels("")}
    hard = ((like.get("spec") or {}).get("hard") or {}) | {JOBS: "0"}
    metadata = {"name": "quota", "namespace": namespace, "labels": ours}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": hard}}, found


def _drain(
    steps: Sequence[Step], desired: Mapping[Key, Object], current: Mapping[Key, Object], how: str
) -> tuple[list[Step], list[Step]]:
    """What comes before and after steps that no job survives."""
    close, empty, reopen = [], [], []
    for namespace in disturbed(steps):
        key = ("ResourceQuota", namespace, "quota")
        wanted, found = _closed(namespace, desired, current)
        if found is None or comparable(found, wanted) != comparable(wanted, wanted):
            close.append(Step("close", key, wanted, found))
        empty.append(Step(how, ("Namespace", "", namespace)))
        if key in desired:
            reopen.append(Step("open", key, desired[key], wanted))
    return [*close, *empty], reopen


def refusals(
    steps: Sequence[Step],
    running: Mapping[str, Sequence[str]],
    *,
    max_deletions: int,
    protected: Iterable[str] = (),
    drain: str = "refuse",
) -> list[str]:
    """Why the plan is not carried out, one sentence each; none where it is.

    Args:
        steps: the plan.
        running: for each namespace that the plan takes away or takes the storage of, what runs there.
        max_deletions: namespaces that one run may delete.
        protected: namespaces that are never deleted.
        drain: what happens to what runs; `refuse` makes it a reason.
    """
    doomed = sorted(step.key[2] for step in steps if step.action == "delete" and step.key[0] == "Namespace")
    found = [f"namespace {name} would be deleted and is protected" for name in doomed if name in set(protected)]
    if len(doomed) > max_deletions:
        found.append(
            f"{len(doomed)} namespaces would be deleted ({', '.join(doomed)}), more than max_deletions "
            f"({max_deletions}): raise it if that is meant"
        )
    busy = [f"{namespace}: {', '.join(names)}" for namespace, names in sorted(running.items()) if names]
    if busy and drain == "refuse":
        found.append(
            f"jobs are in namespaces that would be deleted or lose their storage ({'; '.join(busy)}). Wait for them or "
            "cancel them, or let it be done with drain: wait or drain: cancel"
        )
    return found


def disturbed(steps: Sequence[Step]) -> list[str]:
    """The namespaces where no pod may run for the plan to be carried out."""
    found = {step.key[2] for step in steps if step.action == "delete" and step.key[0] == "Namespace"}
    found |= {step.key[1] for step in steps if step.action == "replace" and step.key[0] == "PersistentVolumeClaim"}
    return sorted(found)
