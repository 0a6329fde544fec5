#!/usr/bin/python
"""Ansible module: what cannot be done on a Kubernetes that exists already, with the rights at hand."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kubernetes_site
short_description: Say what cannot be done on an existing Kubernetes, all of it at once
description:
  - Asks the API server whether it answers, which of the needed rights its user lacks (one SelfSubjectAccessReview for
    each), whether namespaces of the list are somebody else's, and whether the volumes or the storage class are there.
  - Changes nothing and never fails; RV(faults) has one sentence for each fault, with the next step.
options:
  kubeconfig:
    description: How the cluster is reached.
    type: path
    required: true
  context:
    description: Its context; the current one where empty.
    type: str
    default: ""
  platform:
    description: The cluster's name in the inventory, for the sentences.
    type: str
    required: true
  instance:
    description: The testbed's name.
    type: str
    required: true
  namespaces:
    description: Names of the namespaces.
    type: list
    elements: str
    required: true
  storage:
    description: As for M(kubernetes_namespaces).
    type: dict
    default: {}
  services:
    description: The namespace of caesar-rest and its database; empty where this cluster does not carry them.
    type: str
    default: ""
  services_storage:
    description: Where the volume of caesar-rest comes from, if not from O(storage); one of its values.
    type: dict
    default: {}
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Ask what cannot be done
  kubernetes_site: {kubeconfig: ~/.kube/site, platform: kube, instance: caesar, namespaces: [k8s-namespace-001]}
"""

RETURN = r"""
faults:
  description: What cannot be done, and what to do about it.
  type: list
  elements: str
  returned: always
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.kubernetes_api import CONNECTIONS, Api, ApiError, Object, read_kubeconfig
from ansible.module_utils.kubernetes_rights import Right, missing_text, needed, needed_for_services
from ansible.module_utils.namespace_objects import CLAIM, KINDS, labels, makes_volumes, volume_of
from ansible.module_utils.object_sets import labels as service_labels

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
MANIFEST = "docs/kubernetes-operator.yaml"
#: The claim of caesar-rest on the shared storage.
SERVICES_CLAIM = "shared"


def lacking(api: Api, rights: Sequence[Right]) -> list[Right]:
    """Those rights that the user does not have; raises ApiError."""

    def has(right: Right) -> bool:
        reply = api.request("POST", REVIEWS, body=right.review)
        return bool((reply.get("status") or {}).get("allowed"))

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return [right for right, given in zip(rights, pool.map(has, rights), strict=True) if not given]


def _get(api: Api, path: str) -> Object | None:
    """An object; None where there is none or it may not be seen."""
    try:
        return api.request("GET", path)
    except ApiError as error:
        if error.status in (403, 404):
            return None
        raise


def strangers(api: Api, names: Sequence[str], ours: Mapping[str, str]) -> list[str]:
    """Namespaces under our names that lack our labels: somebody else has made them."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        found = list(pool.map(lambda name: _get(api, KINDS["Namespace"].path(name=name)), names))
    return [
        name
        for name, item in zip(names, found, strict=True)
        if item and not ours.items() <= (item["metadata"].get("labels") or {}).items()
    ]


def volume_fault(item: Mapping[str, Any], namespace: str, name: str = CLAIM) -> str:
    """Why a volume cannot be claimed in a namespace; empty where it can."""
    claim = item["spec"].get("claimRef") or {}
    phase = (item.get("status") or {}).get("phase")
    if claim and (claim.get("namespace"), claim.get("name")) != (namespace, name):
        return f"is claimed by {claim.get('namespace')}/{claim.get('name')}"
    if phase in ("Released", "Failed"):
        return f"is {phase}: its claim was deleted; take spec.claimRef.uid away"
    if "ReadWriteMany" not in item["spec"].get("accessModes", []):
        return "is not ReadWriteMany"
    return ""


def volumes(api: Api, claims: Mapping[str, str], storage: Mapping[str, Any], where: str) -> list[str]:
    """What is wrong with volumes that should be there, as far as the user may see them; a claim in each namespace."""

    def seen(group: str, resource: str) -> bool:
        return not lacking(api, [Right(group, resource, "get")])

    found = []
    if storage.get("volume"):
        for name, claim in claims.items() if seen("", "persistentvolumes") else ():
            volume = volume_of(storage, name)
            item = _get(api, KINDS["PersistentVolume"].path(name=volume))
            trouble = volume_fault(item, name, claim) if item else "is not there"
            if trouble:
                found.append(f"volume {volume} {trouble}")
    elif storage.get("storage_class") and seen("storage.k8s.io", "storageclasses"):
        kind = storage["storage_class"]
        if not _get(api, f"/apis/storage.k8s.io/v1/storageclasses/{kind}"):
            found.append(f"there is no storage class {kind}")
    return [f"{where}: {text}; ask the cluster's administrator for it" for text in found]


def faults(api: Api, parameters: Mapping[str, Any]) -> list[str]:
    """All that cannot be done; raises ApiError where the server does not answer."""
    where = f"physical_platforms.{parameters['platform']}"
    storage = parameters["storage"]
    found = []
    missing = lacking(api, needed(storage))
    if missing:
        roles = "caesar-testbed-operator" + (" and caesar-testbed-operator-volumes" if makes_volumes(storage) else "")
        found.append(
            f"{where}.kubeconfig: its user may not: {'; '.join(missing_text(missing))}. "
            f"Ask the cluster's administrator to bind {roles} of {MANIFEST} to it"
        )
    theirs = strangers(api, parameters["namespaces"], labels(parameters["instance"]))
    if theirs:
        found.append(
            f"virtual_platforms: {where} has the namespace {', '.join(theirs)} already, and it is not of the testbed "
            f"{parameters['instance']}; give the platform another name"
        )
    found += volumes(api, dict.fromkeys(parameters["namespaces"], CLAIM), storage, f"{where}.storage")
    services = parameters["services"]
    if services:
        own = parameters["services_storage"] or storage
        lacks = [right for right in lacking(api, needed_for_services(own)) if right not in missing]
        if lacks:
            roles = "caesar-testbed-operator-services" + (
                " and caesar-testbed-operator-volumes" if makes_volumes(own) else ""
            )
            found.append(
                f"{where}.kubeconfig: caesar_rest_platform is set, and its user may not: "
                f"{'; '.join(missing_text(lacks))}. Ask the cluster's administrator to bind "
                f'{roles} of {MANIFEST} to it, or give caesar_rest_platform: ""'
            )
        if strangers(api, [services], service_labels(parameters["instance"])):
            found.append(
                f"caesar_rest_namespace: {where} has the namespace {services} already, and it is not of the testbed "
                f"{parameters['instance']}; give another name"
            )
        named = f"{where}.storage" if own == storage else "caesar_rest_storage"
        found += volumes(api, {services: SERVICES_CLAIM}, own, named)
    return found


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "kubeconfig": {"type": "path", "required": True},
            "context": {"type": "str", "default": ""},
            "platform": {"type": "str", "required": True},
            "instance": {"type": "str", "required": True},
            "namespaces": {"type": "list", "elements": "str", "required": True},
            "storage": {"type": "dict", "default": {}},
            "services": {"type": "str", "default": ""},
            "services_storage": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    where = f"physical_platforms.{parameters['platform']}"
    try:
        found = faults(Api(read_kubeconfig(Path(parameters["kubeconfig"]), parameters["context"])), parameters)
    except ApiError as error:
        found = [f"{where}.kubeconfig ({parameters['kubeconfig']}): {error.message}"]
    except (OSError, ValueError, KeyError) as error:
        found = [f"{where}.kubeconfig: {error}"]
    module.exit_json(changed=False, faults=found)


if __name__ == "__main__":
    main()
