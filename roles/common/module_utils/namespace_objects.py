"""Virtual platforms as namespaces: which objects they are, and how two of them are compared.

Pure: nothing here asks a cluster.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

Object = dict[str, Any]
Key = tuple[str, str, str]  # kind, namespace ("" for cluster-wide kinds), name

MANAGER = "caesar-testbed"
CLAIM = "storage"
ACCOUNT = "planner"
TOKEN = "planner-token"  # noqa: S105 - an object's name
UID = f"{MANAGER}/uid"
WALLTIME = f"{MANAGER}/walltime-seconds"


@dataclass(frozen=True)
class Kind:
    """Where the objects of a kind are, and which of their fields are ours to say."""

    version: str
    plural: str
    namespaced: bool
    fields: tuple[str, ...]
    #: A change of one of these needs a new object.
    immutable: tuple[str, ...] = ()
    #: The one name that is asked for; whoever may read secrets of this name need not be allowed to read all.
    only: str = ""

    def path(self, namespace: str = "", name: str = "") -> str:
        """Path of the kind, or of one object."""
        root = f"/api/{self.version}" if "/" not in self.version else f"/apis/{self.version}"
        parts = [root, *(["namespaces", namespace] if self.namespaced and namespace else []), self.plural]
        return "/".join([*parts, name] if name else parts)


#: In the order in which they are made: what restricts comes before what permits. The claim comes before the quota,
#: which refuses everything until the controller has counted for the first time.
KINDS: dict[str, Kind] = {
    "Namespace": Kind("v1", "namespaces", False, ()),
    "NetworkPolicy": Kind("networking.k8s.io/v1", "networkpolicies", True, ("spec",)),
    "LimitRange": Kind("v1", "limitranges", True, ("spec.limits",)),
    "PersistentVolume": Kind(
        "v1",
        "persistentvolumes",
        False,
        (
            "spec.capacity",
            "spec.accessModes",
            "spec.persistentVolumeReclaimPolicy",
            "spec.storageClassName",
            "spec.hostPath",
            "spec.nfs",
            "spec.claimRef.namespace",
            "spec.claimRef.name",
            "status.usable",
        ),
        immutable=("spec.hostPath", "spec.nfs", "spec.claimRef.namespace", "spec.claimRef.name", "status.usable"),
    ),
    "PersistentVolumeClaim": Kind(
        "v1",
        "persistentvolumeclaims",
        True,
        ("spec.accessModes", "spec.resources.requests", "spec.storageClassName", "spec.volumeName", "status.usable"),
        immutable=(
            "spec.accessModes",
            "spec.resources.requests",
            "spec.storageClassName",
            "spec.volumeName",
            "status.usable",
        ),
    ),
    "ResourceQuota": Kind("v1", "resourcequotas", True, ("spec.hard",)),
    "ServiceAccount": Kind("v1", "serviceaccounts", True, ("automountServiceAccountToken",)),
    "Secret": Kind("v1", "secrets", True, ("type",), immutable=("type",), only=TOKEN),
    "Role": Kind("rbac.authorization.k8s.io/v1", "roles", True, ("rules",)),
    "RoleBinding": Kind(
        "rbac.authorization.k8s.io/v1", "rolebindings", True, ("roleRef", "subjects"), immutable=("roleRef",)
    ),
}
PROTECTED = re.compile(r"default|kube-.*")

_UNITS: dict[str, Fraction | int] = {"": 1, "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000)}
_UNITS |= {unit: 1000**power for power, unit in enumerate("kMGTPE", start=1)}
_UNITS |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGTPE", start=1)}
_QUANTITY = re.compile(r"([+-]?\d+(?:\.\d*)?|[+-]?\.\d+)(?:[eE]([+-]?\d+)|([a-zA-Z]{0,2}))")
#: The fields whose values are quantities.
_QUANTITIES = frozenset({"hard", "max", "min", "default", "defaultRequest", "capacity", "requests", "limits"})


# A few dozen are all that hundreds of namespaces have. By type, since 1 and True are equal.
@functools.lru_cache(maxsize=10000, typed=True)
def quantity(text: str | float) -> Fraction:
    """The value of a Kubernetes quantity: `500m`, `16Gi`, `1e3`, `2`.

    Raises:
        ValueError: for what is none.
    """
    found = _QUANTITY.fullmatch(str(text).strip())
    if not found or (found.group(3) or "") not in _UNITS:
        raise ValueError(f"{text!r} is no quantity")
    if found.group(2):
        return Fraction(found.group(1)) * Fraction(10) ** int(found.group(2))
    return Fraction(found.group(1)) * _UNITS[found.group(3) or ""]


def labels(instance: str) -> dict[str, str]:
    """The labels by which a testbed knows its own objects."""
    return {"app.kubernetes.io/managed-by": MANAGER, "app.kubernetes.io/instance": instance}


def selector(instance: str) -> str:
    """The same as a selector."""
    return ",".join(f"{key}={value}" for key, value in labels(instance).items())


def key_of(item: Object) -> Key:
    """What tells an object from all others."""
    metadata = item["metadata"]
    return str(item["kind"]), str(metadata.get("namespace") or ""), str(metadata["name"])


def faults(platforms: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the list, one sentence each, before anything is sent."""
    found = []
    seen: set[str] = set()
    for platform in platforms:
        name = str(platform.get("name", ""))
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
            found.append(f"{name!r} is no name of a namespace: give lower-case letters, digits and hyphens")
        if PROTECTED.fullmatch(name):
            found.append(f"{name!r} is one of Kubernetes' own namespaces: give another name")
        if name in seen:
            found.append(f"{name!r} is there twice")
        seen.add(name)
        numbers = {
            "uid": platform.get("uid"),
            "cpu_allocation_ratio": platform.get("cpu_allocation_ratio", 1),
            **{f"quota.{key}": (platform.get("quota") or {}).get(key) for key in ("cores", "memory_gib", "disc_gb")},
            **{
                f"limits.{key}": (platform.get("limits") or {}).get(key)
                for key in ("cores", "memory_gib", "walltime_minutes", "jobs")
            },
        }
        for key, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                found.append(f"{name}: {key} is {value!r}: give a number above zero")
    return found


def desired_objects(
    platforms: Iterable[Mapping[str, Any]],
    *,
    instance: str,
    storage_path: str,
    job_factor: int,
    storage: Mapping[str, Any] | None = None,
) -> dict[Key, Object]:
    """All objects of all platforms.

    Args:
        platforms: each with `name`, `uid`, `quota` (cores, memory_gib, disc_gb), `limits` (cores, memory_gib,
            walltime_minutes, jobs) and `cpu_allocation_ratio` (1 where it is missing).
        instance: the testbed's name.
        storage_path: the shared storage on every node.
        job_factor: Job objects that may exist for each that may run: those that wait and those that have ended but
            have not been collected.
        storage: where the claims' volumes come from: `nfs` (`server`, `path`) or `host_path` for volumes that are made
            here, `volume` for existing ones by a name with {name} in it, `storage_class`. A directory
            `storage_path` of the nodes where empty.
    """
    objects: dict[Key, Object] = {}
    for platform in platforms:
        for item in _objects_of(platform, instance, storage or {"host_path": storage_path}, job_factor):
            objects[key_of(item)] = item
    return objects


def makes_volumes(storage: Mapping[str, Any]) -> bool:
    """Whether the volumes are made here, or are somebody else's."""
    return not storage or "nfs" in storage or "host_path" in storage


def volume_of(storage: Mapping[str, Any], platform: str) -> str:
    """Name of the existing volume of a platform; empty where a class or this testbed makes it."""
    return str(storage.get("volume") or "").replace("{name}", platform)


def _objects_of(
    platform: Mapping[str, Any], instance: str, storage: Mapping[str, Any], job_factor: int
) -> Iterable[Object]:
    name = str(platform["name"])
    quota, limits = platform["quota"], platform["limits"]
    ratio = Fraction(str(platform.get("cpu_allocation_ratio", 1)))
    default_cores, default_mib = min(1, limits["cores"]), min(1024, limits["memory_gib"] * 1024)
    most = {"cpu": str(limits["cores"]), "memory": f"{limits['memory_gib']}Gi"}

    def item(kind: str, object_name: str, **content: Any) -> Object:
        metadata: Object = {"name": object_name, "labels": labels(instance)}
        if KINDS[kind].namespaced:
            metadata["namespace"] = name
        metadata |= content.pop("metadata", {})
        return {"apiVersion": KINDS[kind].version, "kind": kind, "metadata": metadata, **content}

    yield item(
        "Namespace",
        name,
        metadata={
            "labels": labels(instance)
            | {
                "pod-security.kubernetes.io/enforce": "restricted",
                "pod-security.kubernetes.io/enforce-version": "latest",
            },
            "annotations": {UID: str(platform["uid"]), WALLTIME: str(limits["walltime_minutes"] * 60)},
        },
    )
    # Jobs compute; they need nobody and nobody needs them. What names mean they may ask.
    yield item("NetworkPolicy", "default-deny", spec={"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
    yield item(
        "NetworkPolicy",
        "allow-dns",
        spec={
            "podSelector": {},
            "policyTypes": ["Egress"],
            "egress": [
                {
                    "to": [
                        {
                            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
                        }
                    ],
                    "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
                }
            ],
        },
    )
    yield item(
        "LimitRange",
        "limits",
        spec={
            "limits": [
                {"type": "Pod", "max": most},
                {
                    "type": "Container",
                    "max": most,
                    "default": {"cpu": str(default_cores), "memory": f"{default_mib}Mi"},
                    "defaultRequest": {
                        "cpu": f"{math.ceil(default_cores * 1000 / ratio)}m",
                        "memory": f"{math.ceil(default_mib / ratio)}Mi",
                    },
                },
            ]
        },
    )
    volume = volume_of(storage, name)
    if makes_volumes(storage):
        volume = f"{instance}-{name}-{CLAIM}"
        source = (
            {"nfs": dict(storage["nfs"])}
            if "nfs" in storage
            else {"hostPath": {"path": storage["host_path"], "type": "Directory"}}
        )
        yield item(
            "PersistentVolume",
            volume,
            spec={
                "capacity": {"storage": f"{quota['disc_gb']}G"},
                "accessModes": ["ReadWriteMany"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                **source,
                "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": name, "name": CLAIM},
            },
        )
    # A way to the shared storage, not an amount of it: a claim cannot be resized, and the planner books the disc.
    yield item(
        "PersistentVolumeClaim",
        CLAIM,
        spec={
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1G"}},
            "storageClassName": storage.get("storage_class") or "",
            # Where a class gives the volume, the cluster writes its name here.
            **({"volumeName": volume} if volume else {}),
        },
    )
    yield item(
        "ResourceQuota",
        "quota",
        spec={
            "hard": {
                "limits.cpu": str(quota["cores"]),
                "limits.memory": f"{quota['memory_gib']}Gi",
                "requests.storage": f"{quota['disc_gb']}G",
                "pods": str(limits["jobs"]),
                "count/jobs.batch": str(limits["jobs"] * job_factor),
            }
        },
    )
    yield item("ServiceAccount", ACCOUNT, automountServiceAccountToken=False)
    yield item(
        "Secret",
        TOKEN,
        metadata={"annotations": {"kubernetes.io/service-account.name": ACCOUNT}},
        type="kubernetes.io/service-account-token",
    )
    yield item(
        "Role",
        ACCOUNT,
        rules=[
            {
                "apiGroups": ["batch"],
                "resources": ["jobs"],
                "verbs": ["get", "list", "watch", "create", "patch", "delete"],
            },
            {"apiGroups": [""], "resources": ["pods", "events"], "verbs": ["list", "watch"]},
            {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        ],
    )
    yield item(
        "RoleBinding",
        ACCOUNT,
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT},
        subjects=[{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": name}],
    )


def _field(item: Mapping[str, Any], path: str) -> Any:
    if path == "status.usable":
        # A volume whose claim was deleted by hand is never bound again, nor a claim whose volume was.
        return (item.get("status") or {}).get("phase") not in ("Released", "Failed", "Lost")
    value: Any = item
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _canonical(value: Any, quantities: bool = False) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _canonical(inner, key in _QUANTITIES or (quantities and not isinstance(inner, Mapping)))
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_canonical(inner) for inner in value]
    if quantities:
        try:
            return quantity(value)
        except ValueError:
            return value
    return value


def comparable(item: Object, wanted: Object) -> Object:
    """The part of an object that `wanted` says something about, with equal quantities written alike.

    Labels and annotations of others are left out, so that they are neither shown nor fought over.
    """
    kind = KINDS[wanted["kind"]]
    found: Object = {}
    for group in ("labels", "annotations"):
        ours = wanted["metadata"].get(group) or {}
        theirs = item["metadata"].get(group) or {}
        if ours:
            found[f"metadata.{group}"] = {key: theirs[key] for key in ours if key in theirs}
    for path in kind.fields:
        value = _field(item, path)
        if path == "spec.volumeName" and _field(wanted, path) is None:
            continue
        # The server leaves some empty texts out and keeps others.
        found[path] = None if value == "" else _canonical(value, path.rsplit(".", 1)[-1] in _QUANTITIES)
    return found


def shown(item: Object, wanted: Object) -> Object:
    """The same part as people read it, for a diff."""
    raw = comparable(item, wanted)
    for path in KINDS[wanted["kind"]].fields:
        if path in raw:
            raw[path] = _field(item, path)
    return {path: value for path, value in raw.items() if value not in (None, "", {}, True)}
