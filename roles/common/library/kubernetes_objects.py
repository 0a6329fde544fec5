#!/usr/bin/python
"""Ansible module: a set of Kubernetes objects from manifests, and their pods running."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kubernetes_objects
short_description: Apply manifests, writing only what differs, and wait until what they start is ready
description:
  - Takes all manifests of a service as one text, usually a template. Reads each object, compares, and applies what
    differs and nothing else (server-side apply, one field manager), in the order of the text.
  - All objects get the labels C(app.kubernetes.io/managed-by=caesar-testbed-services) and
    C(app.kubernetes.io/instance). One that exists without them is somebody else's and is an error.
  - A field that an earlier manifest had and this one has not is removed; what others have added stays.
  - A PersistentVolume whose claim is gone is made anew; what is on it stays where its policy is Retain.
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
    description: The testbed's name.
    type: str
    required: true
  manifests:
    description:
      - Documents of YAML. C(stringData) of secrets is compared as C(data). Nothing of it is logged or shown; the diff
        says of a secret's entries only which are new, old or as they were.
    type: str
    required: true
  state:
    description: V(absent) deletes those of the objects that are ours, the last first, and waits until they are gone.
    type: str
    choices: [present, absent]
    default: present
  wait:
    description:
      - Wait until Deployments, StatefulSets and DaemonSets have all their pods new and ready. Where they have not, also
        in a run that changes nothing, the module fails with the pods' own reasons and last lines.
    type: bool
    default: true
  wait_timeout:
    description: Seconds to wait for each, or for objects to go.
    type: int
    default: 180
attributes:
  check_mode:
    support: full
    details: The server tries every change without keeping it, except in namespaces that do not exist yet.
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Run the database
  kubernetes_objects:
    kubeconfig: "{{ state }}/kubeconfig"
    instance: caesar
    manifests: "{{ lookup('ansible.builtin.template', 'mongodb.yaml.j2') }}"
"""

RETURN = r"""
steps:
  description: What was done, or would be in check mode, in that order.
  type: list
  elements: str
  sample: [create Namespace caesar-rest, update Secret caesar-rest/mongodb]
  returned: always
"""

import time
from collections.abc import Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.kubernetes_api import ACCESS_OPTIONS, Api, ApiError, parallel, run_module
from ansible.module_utils.object_sets import (
    MANAGER,
    WORKLOADS,
    Key,
    Object,
    called,
    difference,
    kept,
    key_of,
    ours,
    parse,
    path_of,
    plain,
    pod_troubles,
    same,
    spent,
    waits_for,
    warnings,
)

#: So long a pod may lack its image or its secret before that counts as final.
HOPELESS_SECONDS = 20.0
#: An object that is made anew holds nothing any more.
DELETION_SECONDS = 60.0


def read(api: Api, key: Key) -> Object | None:
    """An object of the cluster; None where there is none."""
    try:
        return api.request("GET", path_of(*key)) | {"kind": key[0]}
    except ApiError as error:
        if error.status == 404:
            return None
        raise


def refuse_strangers(current: dict[Key, Object | None], instance: str) -> None:
    """Raise ValueError where objects are somebody else's."""
    theirs = [called(key) for key, item in current.items() if item and not ours(item, instance)]
    if theirs:
        raise ValueError(
            f"nothing was changed: {', '.join(theirs)} exists and is not of the testbed {instance} (it lacks the "
            "labels of what is made here): delete it, or give ours another name"
        )


def apply(api: Api, wanted: Object, dry: bool) -> Object:
    """Server-side apply; the object as it is then."""
    query = {"fieldManager": MANAGER, "force": "true"} | ({"dryRun": "All"} if dry else {})
    try:
        return api.request(
            "PATCH", path_of(*key_of(wanted)), query=query, body=wanted, content_type="application/apply-patch+yaml"
        )
    except ApiError as error:
        raise ApiError(error.status, f"{called(key_of(wanted))}: {error.message}") from error


def make(
    api: Api, wanted: Sequence[Object], current: dict[Key, Object | None], check: bool
) -> tuple[list[str], list[dict[str, str]]]:
    """Apply what differs; the steps and the diff."""
    steps, differences = [], []
    unmade = {key[2] for key, item in current.items() if key[0] == "Namespace" and item is None}
    for item in wanted:
        key = key_of(item)
        found = current[key]
        if found is not None and spent(found):
            steps.append(f"replace {called(key)}")
            differences.append(difference(found, item))
            if not check:
                delete(api, [key], DELETION_SECONDS)
                apply(api, item, False)
            continue
        if found is not None and same(found, item):
            continue
        # Nothing can be tried in a namespace that is not there.
        said = kept(found, item) if found else item
        after = item if check and key[1] in unmade else apply(api, said, check) | {"kind": key[0]}
        if found is not None and plain(after) == plain(found):
            continue  # the server writes the same in another way
        steps.append(f"{'create' if found is None else 'update'} {called(key)}")
        differences.append(difference(found, after))
    return steps, differences


def delete(api: Api, keys: Sequence[Key], seconds: float) -> None:
    """Delete objects and wait until they are gone; raises ApiError where one stays."""
    for key in keys:
        try:
            api.request("DELETE", path_of(*key), query={"propagationPolicy": "Foreground"})
        except ApiError as error:
            if error.status != 404:
                raise
    deadline = time.monotonic() + seconds
    for key in keys:
        while (left := read(api, key)) is not None:
            if time.monotonic() > deadline:
                told = [str(entry.get("message")) for entry in (left.get("status") or {}).get("conditions") or []]
                raise ApiError(0, f"{called(key)} is still there {seconds:.0f} s after its deletion: {'; '.join(told)}")
            time.sleep(0.3)  # a watch would cost a connection for each


def remove(
    api: Api, current: dict[Key, Object | None], check: bool, seconds: float
) -> tuple[list[str], list[dict[str, str]]]:
    """Delete what is there, the last first, and wait until it is gone; the steps and the diff."""
    there = [(key, item) for key, item in reversed(current.items()) if item is not None]
    going = {key[2] for key, _ in there if key[0] == "Namespace"}
    # What is in a namespace goes with it; a volume goes when its claim does not hold it any more.
    alone = [(key, item) for key, item in there if key[1] not in going]
    alone.sort(key=lambda pair: pair[0][0] == "PersistentVolume")
    if not check:
        for volumes in (False, True):
            delete(api, [key for key, _ in alone if (key[0] == "PersistentVolume") == volumes], seconds)
    return [f"delete {called(key)}" for key, _ in alone], [difference(item, None) for _, item in alone]


def explain(api: Api, item: Object) -> tuple[str, bool]:
    """Why a workload's pods are not ready, in one text, and whether waiting is hopeless."""
    _, namespace, name = key_of(item)
    matching = (item["spec"].get("selector") or {}).get("matchLabels") or {}
    pods = api.list_all(path_of("Secret", namespace).replace("/secrets", "/pods"), _selector(matching))
    troubles = pod_troubles(pods)
    told = [f"{pod}: {text}" for pod, text, _ in troubles]
    for pod in sorted({pod for pod, text, _ in troubles if "ended with" in text})[:1]:
        for previous in ("true", "false"):
            try:
                lines = api.request(
                    "GET",
                    f"/api/v1/namespaces/{namespace}/pods/{pod}/log",
                    query={"tailLines": "3", "previous": previous},
                )
            except ApiError:
                continue  # it has none, or may not be read
            if lines.get("message") and "unable to retrieve" not in lines["message"]:
                told.append(f"its last lines: {lines['message']}")
                break
    told += warnings(api.list_all(f"/api/v1/namespaces/{namespace}/events"), name)
    return "; ".join(told) or "there is no pod, and no warning says why", any(hopeless for *_, hopeless in troubles)


def _selector(matching: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in matching.items())


def wait_ready(api: Api, key: Key, seconds: float) -> None:
    """Wait until a workload's pods are new and ready; raises ApiError with their reasons."""
    begun, hopeless_since = time.monotonic(), 0.0
    while True:
        item = read(api, key)
        if item is None:
            raise ApiError(404, f"{called(key)} was deleted while it was waited for")
        lacks = waits_for(item)
        if not lacks:
            return
        now = time.monotonic()
        late = now - begun > seconds
        if late or now - begun > HOPELESS_SECONDS:
            reasons, hopeless = explain(api, item)
            hopeless_since = (hopeless_since or now) if hopeless else 0.0
            if late or (hopeless and now - hopeless_since > HOPELESS_SECONDS):
                raise ApiError(0, f"{called(key)} {lacks} after {now - begun:.0f} s: {reasons}")
        time.sleep(0.5 if now - begun < HOPELESS_SECONDS else 2)  # a watch would cost a connection for each


def run(api: Api | None, parameters: dict[str, Any], check: bool) -> dict[str, Any]:
    """Bring the objects to what the parameters say; give the module's result.

    Args:
        api: the cluster; None where a dry run is asked what it would make on one that is not there yet.
        parameters: the module's.
        check: let the server try without keeping anything.

    Raises:
        ApiError: where the API server does not answer or refuses, or pods do not get ready.
        ValueError: where the manifests are wrong or objects are somebody else's.
    """
    wanted = parse(parameters["manifests"], parameters["instance"])
    keys = [key_of(item) for item in wanted]
    current: dict[Key, Object | None] = dict.fromkeys(keys)
    if api is not None and keys:
        # One first: where the server does not answer, that takes as long as one question and not as all of them.
        first, *others = keys
        current[first] = read(api, first)
        current |= dict(zip(others, parallel(lambda key: read(api, key), others), strict=True))
    if parameters["state"] == "absent":
        # What is somebody else's stays.
        mine = {key: item for key, item in current.items() if item and ours(item, parameters["instance"])}
        steps, differences = remove(api, dict(mine), check, parameters["wait_timeout"]) if api else ([], [])
        return {"changed": bool(steps), "steps": steps, "diff": differences}
    refuse_strangers(current, parameters["instance"])
    if api is None:
        steps = [f"create {called(key)}" for key in keys]
        return {"changed": bool(steps), "steps": steps, "diff": [difference(None, item) for item in wanted]}
    steps, differences = make(api, wanted, current, check)
    if parameters["wait"] and not check:
        for key in keys:
            if key[0] in WORKLOADS:
                wait_ready(api, key, parameters["wait_timeout"])
    return {"changed": bool(steps), "steps": steps, "diff": differences}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ACCESS_OPTIONS
        | {
            "instance": {"type": "str", "required": True},
            "manifests": {"type": "str", "required": True, "no_log": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "wait": {"type": "bool", "default": True},
            "wait_timeout": {"type": "int", "default": 180},
        },
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
