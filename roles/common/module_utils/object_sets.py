"""Sets of Kubernetes objects from manifests: what they are, whether the cluster has them, and why they do not start.

Pure: nothing here asks a cluster.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from ansible.module_utils.namespace_objects import quantity

Object = dict[str, Any]
Key = tuple[str, str, str]  # kind, namespace ("" for cluster-wide kinds), name

MANAGER = "caesar-testbed"
#: Not the label of the virtual platforms, whose module deletes what carries that and is not in its list.
MANAGED_BY = f"{MANAGER}-services"

#: Where the objects of a kind are: group and version, plural, whether they are in namespaces.
KINDS: dict[str, tuple[str, str, bool]] = {
    "Namespace": ("v1", "namespaces", False),
    "PersistentVolume": ("v1", "persistentvolumes", False),
    "ClusterRole": ("rbac.authorization.k8s.io/v1", "clusterroles", False),
    "ClusterRoleBinding": ("rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    "ValidatingAdmissionPolicy": ("admissionregistration.k8s.io/v1", "validatingadmissionpolicies", False),
    "ValidatingAdmissionPolicyBinding": (
        "admissionregistration.k8s.io/v1",
        "validatingadmissionpolicybindings",
        False,
    ),
    "PriorityClass": ("scheduling.k8s.io/v1", "priorityclasses", False),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies", True),
    "LimitRange": ("v1", "limitranges", True),
    "ResourceQuota": ("v1", "resourcequotas", True),
    "ServiceAccount": ("v1", "serviceaccounts", True),
    "Role": ("rbac.authorization.k8s.io/v1", "roles", True),
    "RoleBinding": ("rbac.authorization.k8s.io/v1", "rolebindings", True),
    "Secret": ("v1", "secrets", True),
    "ConfigMap": ("v1", "configmaps", True),
    "PersistentVolumeClaim": ("v1", "persistentvolumeclaims", True),
    "Service": ("v1", "services", True),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets", True),
    "Deployment": ("apps/v1", "deployments", True),
    "StatefulSet": ("apps/v1", "statefulsets", True),
    "DaemonSet": ("apps/v1", "daemonsets", True),
    "Job": ("batch/v1", "jobs", True),
    "CronJob": ("batch/v1", "cronjobs", True),
    "Ingress": ("networking.k8s.io/v1", "ingresses", True),
}
#: Kinds that are waited for.
WORKLOADS = frozenset({"Deployment", "StatefulSet", "DaemonSet"})
#: Fields whose values, or the values in them, are quantities.
_QUANTITIES = frozenset({"hard", "max", "min", "default", "defaultRequest", "capacity", "requests", "limits"})
_QUANTITY_FIELDS = frozenset({"sizeLimit"})
#: What the server writes into an object's metadata.
_OF_THE_SERVER = ("managedFields", "resourceVersion", "generation", "creationTimestamp", "uid")
#: A container that waits for one of these will not start by waiting.
HOPELESS = frozenset(
    {"ErrImagePull", "ErrImageNeverPull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"}
)


def path_of(kind: str, namespace: str = "", name: str = "") -> str:
    """Path of a kind, or of one object, in the API."""
    version, plural, namespaced = KINDS[kind]
    root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    parts = [root, *(["namespaces", namespace] if namespaced and namespace else []), plural]
    return "/".join([*parts, name] if name else parts)


def labels(instance: str) -> dict[str, str]:
    """The labels by which a testbed knows what it has made this way."""
    return {"app.kubernetes.io/managed-by": MANAGED_BY, "app.kubernetes.io/instance": instance}


def key_of(item: Mapping[str, Any]) -> Key:
    """What tells an object from all others."""
    metadata = item["metadata"]
    return str(item["kind"]), str(metadata.get("namespace") or ""), str(metadata["name"])


def called(key: Key) -> str:
    """An object's name for people: `Secret caesar-rest/mongodb`."""
    kind, namespace, name = key
    return f"{kind} {namespace + '/' if namespace else ''}{name}"


def parse(text: str, instance: str) -> list[Object]:
    """The objects of a multi-document YAML text, with the testbed's labels.

    Texts in a Secret's `stringData` become `data`, which is what the server keeps and gives back.

    Raises:
        ValueError: says all that is wrong with the text, without its contents: there may be secrets in it.
    """
    try:
        documents = [item for item in yaml.safe_load_all(text) if item is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"the manifests are no YAML{where}: {getattr(error, 'problem', '')}") from None
    faults: list[str] = []
    found: dict[Key, Object] = {}
    for number, document in enumerate(documents, 1):
        trouble = _fault(document)
        if trouble:
            faults.append(f"manifest {number} {trouble}")
            continue
        item = copy.deepcopy(document)
        if key_of(item) in found:
            faults.append(f"manifest {number} is a second {called(key_of(item))}")
            continue
        metadata = item["metadata"]
        metadata["labels"] = (metadata.get("labels") or {}) | labels(instance)
        if item["kind"] == "Secret" and "stringData" in item:
            texts = item.pop("stringData") or {}
            coded = {name: base64.b64encode(str(value).encode()).decode() for name, value in texts.items()}
            item["data"] = (item.get("data") or {}) | coded
        found[key_of(item)] = item
    if faults:
        raise ValueError("; ".join(faults))
    return list(found.values())


def _fault(document: Any) -> str:
    """What is wrong with a manifest; empty where nothing is."""
    if not isinstance(document, Mapping):
        return "is no mapping"
    kind = document.get("kind")
    if kind not in KINDS:
        return f"is of the kind {kind!r}; known are {', '.join(sorted(KINDS))}"
    metadata = document.get("metadata")
    if not isinstance(metadata, Mapping) or not metadata.get("name"):
        return f"({kind}) has no metadata.name"
    version, _, namespaced = KINDS[kind]
    if document.get("apiVersion") != version:
        return f"({kind} {metadata['name']}) must have the apiVersion {version}"
    if namespaced != bool(metadata.get("namespace")):
        return f"({kind} {metadata['name']}) {'needs a' if namespaced else 'cannot have a'} metadata.namespace"
    return ""


def ours(item: Mapping[str, Any], instance: str) -> bool:
    """Whether the testbed has made an object this way."""
    given = item["metadata"].get("labels") or {}
    return labels(instance).items() <= given.items()


def same(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether an object certainly is what its manifest says.

    It is where all that the manifest says is so, whatever else the server or others have added, and where nothing is
    left of what an earlier manifest said. Where this is False the server's own answer decides.
    """
    return _covers(found, wanted) and not _left_over(found, wanted)


def _covers(found: Any, wanted: Any, field: str = "", quantities: bool = False) -> bool:
    if not wanted and wanted is not True and not found:
        return True  # the server leaves out what is empty
    if isinstance(wanted, Mapping):
        amounts = field in _QUANTITIES
        return isinstance(found, Mapping) and all(
            _covers(found.get(key), value, key, amounts or key in _QUANTITY_FIELDS) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(_covers(there, here) for there, here in zip(found, wanted, strict=True))
        )
    if quantities and found is not None and not isinstance(found, Mapping | list):
        try:
            return bool(quantity(found) == quantity(wanted))
        except ValueError:
            return bool(found == wanted)
    return bool(found == wanted) and isinstance(found, bool) == isinstance(wanted, bool)


def _left_over(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether we own a field that the manifest does not speak of any more."""
    return any(
        _more_than(entry.get("fieldsV1") or {}, wanted)
        for entry in found["metadata"].get("managedFields") or []
        if entry.get("manager") == MANAGER and entry.get("operation") == "Apply" and not entry.get("subresource")
    )


def _more_than(fields: Mapping[str, Any], wanted: Any) -> bool:
    """Walk fieldsV1: `f:` a field, `k:` an item of a list by some of its fields, `v:` an item by its value."""
    for mark, inner in fields.items():
        form, _, name = mark.partition(":")
        if form == "f":
            if not isinstance(wanted, Mapping) or name not in wanted or _more_than(inner, wanted[name]):
                return True
        elif form == "k":
            keys = json.loads(name)
            items = [
                item
                for item in (wanted if isinstance(wanted, list) else [])
                if all(item.get(key, value) == value for key, value in keys.items())
            ]
            if not items or _more_than(inner, items[0]):
                return True
        elif form == "v" and json.loads(name) not in (wanted or []):
            return True
    return False


def spent(found: Mapping[str, Any]) -> bool:
    """Whether an object must be made anew: a volume whose claim was deleted is never bound again."""
    return found["kind"] == "PersistentVolume" and (found.get("status") or {}).get("phase") in ("Released", "Failed")


def kept(found: Mapping[str, Any], wanted: Object) -> Object:
    """`wanted` with what the cluster has written into a field that is ours.

    It writes the claim's uid into a volume's claimRef, which is applied as a whole: without it the claim would be Lost.
    """
    claim = (wanted.get("spec") or {}).get("claimRef")
    theirs = (found.get("spec") or {}).get("claimRef")
    if wanted["kind"] != "PersistentVolume" or not claim or not _covers(theirs, claim):
        return wanted
    return wanted | {"spec": wanted["spec"] | {"claimRef": theirs}}


def plain(item: Mapping[str, Any]) -> Object:
    """An object without what the server keeps for itself."""
    metadata = {key: value for key, value in item["metadata"].items() if key not in _OF_THE_SERVER}
    return {key: value for key, value in item.items() if key not in ("status", "metadata")} | {"metadata": metadata}


def difference(found: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> dict[str, str]:
    """An entry of Ansible's diff. Of a Secret's data it says only which entries are new, changed or gone."""
    about = after or found
    if about is None:
        raise ValueError("a difference is one between something and something else")
    texts = {}
    for side, item, other in (("before", found, after), ("after", after, found)):
        document = plain(item) if item else {}
        if item and item["kind"] == "Secret":
            values = (other or {}).get("data") or {}
            document["data"] = {
                name: "(hidden)" if values.get(name) == value else f"(hidden, {'new' if side == 'after' else 'old'})"
                for name, value in (item.get("data") or {}).items()
            }
        texts[side] = yaml.safe_dump(document, sort_keys=True) if document else ""
    return texts | {"before_header": called(key_of(about)), "after_header": called(key_of(about))}


def waits_for(item: Mapping[str, Any]) -> str:
    """What a workload still lacks, for people; empty where all of it is new and ready."""
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    if status.get("observedGeneration", 0) < metadata.get("generation", 0):
        return "has not been seen by its controller"
    if item["kind"] == "DaemonSet":
        wanted, new = status.get("desiredNumberScheduled", 0), status.get("updatedNumberScheduled", 0)
        ready = status.get("numberReady", 0)
    else:
        wanted, new = spec.get("replicas", 1), status.get("updatedReplicas", 0)
        ready = status.get("readyReplicas", 0)
        if item["kind"] == "Deployment":
            ready = min(ready, status.get("availableReplicas", 0))
            if status.get("replicas", 0) > new:
                return f"still has {status['replicas'] - new} of its former pods"
        elif wanted and status.get("currentRevision") != status.get("updateRevision") and new < wanted:
            return f"has {new} of {wanted} pods of the new kind"
        else:
            new = wanted  # a StatefulSet that is not being updated does not count
    if new < wanted:
        return f"has {new} of {wanted} pods of the new kind"
    return "" if ready >= wanted else f"has {ready} of {wanted} pods ready"


def pod_troubles(pods: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, bool]]:
    """Why pods are not ready: (pod, sentence, whether waiting is hopeless)."""
    found: list[tuple[str, str, bool]] = []
    for pod in pods:
        name, status = str(pod["metadata"]["name"]), pod.get("status") or {}
        before = len(found)
        for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
            state, last = container.get("state") or {}, container.get("lastState") or {}
            ended = state.get("terminated") or last.get("terminated") or {}
            waiting = state.get("waiting") or {}
            if container.get("ready") or (ended.get("exitCode") == 0 and not waiting and "running" not in state):
                continue
            words = [str(waiting.get("reason") or ""), str(waiting.get("message") or "")]
            if ended:
                words.append(f"ended with {ended.get('exitCode')} ({ended.get('reason')}) {ended.get('message') or ''}")
            text = ", ".join(word.strip() for word in words if word.strip()) or "runs and is not ready"
            found.append((name, f"container {container['name']}: {text}", waiting.get("reason") in HOPELESS))
        if len(found) == before:
            found += [
                (name, f"{condition.get('reason')}: {condition['message']}", False)
                for condition in status.get("conditions") or []
                if condition.get("status") == "False" and condition.get("message")
            ]
    return found


def warnings(events: Sequence[Mapping[str, Any]], name: str, most: int = 3) -> list[str]:
    """The last warnings about an object, or about what was made for it and carries its name."""
    told = [
        f"{event.get('reason')}: {event.get('message')}"
        for event in sorted(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
        if event.get("type") == "Warning"
        and f"{(event.get('involvedObject') or {}).get('name', '')}-".startswith(f"{name}-")
    ]
    return list(dict.fromkeys(reversed(told)))[:most]
