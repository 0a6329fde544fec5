"""What the module `kubernetes_namespaces` asks of a cluster and does to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from ansible.module_utils.kubernetes_api import Api, ApiError, Object, parallel
from ansible.module_utils.namespace_objects import (
    KINDS,
    MANAGER,
    Key,
    comparable,
    key_of,
    labels,
    makes_volumes,
    selector,
)
from ansible.module_utils.namespace_plan import LAST, Step

#: A namespace that is deleted takes some seconds: its pods are stopped first.
DELETION_SECONDS = 120.0
#: Of many the cluster takes away one or two a second, in an order of its own.
EACH_DELETION_SECONDS = 2.0


#: Jobs that are cancelled end after their pods' grace, 30 s unless they say otherwise.
CANCEL_SECONDS = 120.0


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

    # One first: where the server does not answer, that takes as long as one question and not as all of them.
    first, *others = KINDS
    found = read(first)
    found += [item for items in parallel(read, others) for item in items]
    leaving = {item["metadata"]["name"] for item in found if item["kind"] == "Namespace" and _is_leaving(item)}
    return {
        key_of(item): item
        for item in found
        if not _is_leaving(item) and item["metadata"].get("namespace") not in leaving
    }


def _is_leaving(item: Object) -> bool:
    return "deletionTimestamp" in item["metadata"]


def _gone(api: Api, key: Key, seconds: float) -> None:
    """Wait until an object that is being deleted is no more; raises ApiError where it stays."""
    path, pause = KINDS[key[0]].path(key[1], key[2]), 0.1
    deadline = time.monotonic() + seconds
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
            raise ApiError(0, f"{key[0]} {key[2]} is still there {seconds:.0f} s after its deletion: {reasons}")
        time.sleep(pause)
        pause = min(2 * pause, 1.6)  # many that wait must not be what the server is busy with


def _apply(api: Api, step: Step, dry: bool) -> None:
    """Server-side apply; then, where somebody added to what is ours to say, put the whole in its place."""
    if step.wanted is None:
        raise ValueError(f"{step} has nothing to apply")
    kind, namespace, name = step.key
    path = KINDS[kind].path(namespace, name)
    query = {"fieldManager": MANAGER, "force": "true"} | ({"dryRun": "All"} if dry else {})
    for again in (True, True, False):
        try:
            got = api.request("PATCH", path, query=query, body=step.wanted, content_type="application/apply-patch+yaml")
        except ApiError as error:
            # Another run makes or changes the same at the same time.
            if error.status != 409 or not again:
                raise
        else:
            break
    if comparable(got, step.wanted) == comparable(step.wanted, step.wanted) or dry:
        return
    whole = got | {key: value for key, value in step.wanted.items() if key not in ("metadata", "apiVersion", "kind")}
    # Whatever version it has: controllers write their status into the same object meanwhile.
    for field in ("managedFields", "resourceVersion"):
        whole["metadata"].pop(field, None)
    api.request("PUT", path, query={"fieldManager": MANAGER}, body=whole)


def _delete(api: Api, key: Key, dry: bool) -> None:
    _delete_path(api, KINDS[key[0]].path(key[1], key[2]), {"dryRun": "All"} if dry else {})


def _delete_path(api: Api, path: str, query: Mapping[str, str]) -> None:
    try:
        api.request("DELETE", path, query=query)
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

    parallel(do, steps)


def carry_out(api: Api, steps: Sequence[Step], dry: bool, seconds: float = 0) -> None:
    """Do what the plan says, kind by kind.

    Args:
        api: the cluster.
        steps: the plan.
        dry: let the server try without keeping anything.
        seconds: how long to wait for jobs.

    Raises:
        ApiError: where a step fails; those before it are done.
    """

    def those(*actions: str) -> list[Step]:
        return [step for step in steps if step.action in actions]

    def gone(group: Sequence[Step]) -> None:
        if not dry:
            seconds = DELETION_SECONDS + EACH_DELETION_SECONDS * len(group)
            _each(group, lambda step: _gone(api, step.key, seconds))

    def apply(group: Iterable[Step]) -> None:
        # Nothing can be tried in a namespace that is not there yet.
        _each((step for step in group if not (dry and step.key[1] in new)), lambda step: _apply(api, step, dry))

    new = {step.key[2] for step in those("create") if step.key[0] == "Namespace"}
    small = [step for step in those("delete") if step.key[0] not in LAST]
    _each(small, lambda step: _delete(api, step.key, dry))
    # A namespace of the same name may still be on its way out.
    gone([*small, *(step for step in those("create") if step.key[0] == "Namespace")])
    for _, group in groupby(those("create", "update"), key=lambda step: step.key[0]):
        apply(group)
    apply(those("close"))
    if not dry:
        for step in those("wait", "cancel"):
            _empty(api, step, seconds)
    # Claims hold their volumes: they go first.
    replaced = sorted(those("replace"), key=lambda step: step.key[0], reverse=True)
    for _, group in groupby(replaced, key=lambda step: step.key[0]):
        _each(group, lambda step: _delete(api, step.key, dry))
    large = [step for step in those("delete") if step.key[0] in LAST]
    for _, group in groupby(large, key=lambda step: step.key[0]):
        _each(group, lambda step: _delete(api, step.key, dry))
    gone([*replaced, *large])
    if not dry:
        for _, group in groupby(those("replace"), key=lambda step: step.key[0]):
            apply(group)
        apply(those("open"))


def _unfinished(api: Api, namespace: str) -> tuple[list[Object], list[Object]]:
    """Jobs that have not ended, and pods that have not and belong to none of these."""
    jobs = [
        job
        for job in api.list_all(f"/apis/batch/v1/namespaces/{namespace}/jobs")
        if not any(
            condition.get("type") in ("Complete", "Failed") and condition.get("status") == "True"
            for condition in (job.get("status") or {}).get("conditions") or []
        )
    ]
    names = {job["metadata"]["name"] for job in jobs}
    pods = [
        pod
        for pod in api.list_all(f"/api/v1/namespaces/{namespace}/pods")
        if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
        and not any(owner.get("name") in names for owner in pod["metadata"].get("ownerReferences") or [])
    ]
    return jobs, pods


def in_use(api: Api, namespaces: Sequence[str]) -> dict[str, list[str]]:
    """Names of the jobs of each namespace that have not ended, and of pods without a job."""

    def names(namespace: str) -> list[str]:
        jobs, pods = _unfinished(api, namespace)
        return sorted(
            f"{kind} {item['metadata']['name']}" for kind, items in (("job", jobs), ("pod", pods)) for item in items
        )

    return dict(zip(namespaces, parallel(names, namespaces), strict=True))


def _empty(api: Api, step: Step, seconds: float) -> None:
    """Cancel the jobs of a namespace or wait for them; raises ApiError where some are left."""
    namespace = step.key[2]
    jobs, pods = _unfinished(api, namespace)
    if step.action == "cancel":
        seconds = min(seconds, CANCEL_SECONDS)
        for path, items in (
            (f"/apis/batch/v1/namespaces/{namespace}/jobs", jobs),
            (f"/api/v1/namespaces/{namespace}/pods", pods),
        ):
            for item in items:
                _delete_path(api, f"{path}/{item['metadata']['name']}", {"propagationPolicy": "Background"})
    deadline = time.monotonic() + seconds
    while left := in_use(api, [namespace])[namespace]:
        if time.monotonic() > deadline:
            raise ApiError(
                0,
                f"after {seconds:.0f} s there are still {', '.join(left)} in {namespace}, which takes no new jobs; "
                "nothing was deleted",
            )
        time.sleep(0.5)  # a job's end could be watched, but that is one connection for each namespace


def strangers(api: Api, steps: Sequence[Step], instance: str) -> list[str]:
    """Namespaces that the plan would make, but that somebody else has made already."""

    def theirs(name: str) -> bool:
        try:
            item = api.request("GET", KINDS["Namespace"].path(name=name))
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        given = item["metadata"].get("labels") or {}
        return any(given.get(key) != value for key, value in labels(instance).items())

    names = [step.key[2] for step in steps if step.action == "create" and step.key[0] == "Namespace"]
    return [name for name, foreign in zip(names, parallel(theirs, names), strict=True) if foreign]
