"""Which rights the testbed needs on a Kubernetes that exists already. Pure: nothing here asks a cluster.

For the virtual platforms all of it follows from the objects that the module `kubernetes_namespaces` makes: what is made
must be readable and writable under its name, and what planners are granted must be held by who grants it. The objects
of caesar-rest and its database are listed here; tests/unit/test_kubernetes_rights.py compares them with the manifests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible.module_utils import object_sets
from ansible.module_utils.namespace_objects import KINDS, desired_objects, makes_volumes

#: Server-side apply asks for patch, and for create where the object is new.
WRITES = ("get", "create", "patch", "update", "delete")
#: What caesar-rest and its database consist of, beside their namespace and volumes.
SERVICES: tuple[tuple[str, str], ...] = (
    ("NetworkPolicy", "default-deny"),
    ("NetworkPolicy", "mongodb"),
    ("NetworkPolicy", "caesar-rest"),
    ("NetworkPolicy", "caesar-rest-clients"),
    ("ServiceAccount", "mongodb"),
    ("ServiceAccount", "caesar-rest"),
    ("ServiceAccount", "caesar-rest-jobmonitor"),
    ("Secret", "mongodb"),
    ("Secret", "slurmrestd"),
    ("PersistentVolumeClaim", "shared"),
    ("Service", "mongodb"),
    ("Service", "caesar-rest"),
    ("StatefulSet", "mongodb"),
    ("Deployment", "caesar-rest"),
    ("Deployment", "caesar-rest-jobmonitor"),
)
#: They go with their namespace, so nothing of them is deleted.
SERVICE_WRITES = ("get", "create", "patch")
#: The pod of the database is reached through the API server; which verb that takes depends on the server's version.
FORWARD = "mongodb-0"
_EXAMPLE = {
    "name": "example",
    "uid": 1,
    "quota": {"cores": 1, "memory_gib": 1, "disc_gb": 1},
    "limits": {"cores": 1, "memory_gib": 1, "walltime_minutes": 1, "jobs": 1},
}


@dataclass(frozen=True, order=True)
class Right:
    """One verb on one resource, in all namespaces; `name` where one name is enough."""

    group: str
    resource: str
    verb: str
    name: str = ""

    def __str__(self) -> str:
        where = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {where}" + (f" named {self.name}" if self.name else "")

    @property
    def review(self) -> dict[str, Any]:
        """The SelfSubjectAccessReview that asks for it."""
        resource, _, subresource = self.resource.partition("/")
        attributes = {"group": self.group, "resource": resource, "subresource": subresource, "verb": self.verb}
        if self.name:
            attributes["name"] = self.name
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }


def needed(storage: Mapping[str, Any]) -> list[Right]:
    """All rights that the virtual platforms need, with the volumes that `storage` tells of."""
    objects = desired_objects([_EXAMPLE], instance="x", storage_path="/x", job_factor=1, storage=storage)
    found: set[Right] = set()
    for kind, _, name in objects:
        group = KINDS[kind].version.rpartition("/")[0]
        plural = KINDS[kind].plural
        # Names of namespaces and volumes are the site's to choose.
        named = name if KINDS[kind].namespaced else ""
        found |= {Right(group, plural, verb, named) for verb in WRITES}
        found.add(Right(group, plural, "list", KINDS[kind].only))
    for (kind, _, _), item in objects.items():
        if kind != "Role":
            continue
        for rule in item["rules"]:
            found |= {
                Right(group, resource, verb)
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            }
    return sorted(found)


def needed_for_services(storage: Mapping[str, Any]) -> list[Right]:
    """What caesar-rest and its database need beyond the virtual platforms, with the volume that `storage` tells of."""
    found = {Right("", "pods/portforward", verb, FORWARD) for verb in ("get", "create")}
    for kind, name in SERVICES:
        version, plural, _ = object_sets.KINDS[kind]
        group = version.rpartition("/")[0]
        found |= {Right(group, plural, verb, name) for verb in SERVICE_WRITES}
    if makes_volumes(storage):
        # On the cluster, so that it does not go with the namespace.
        found |= {Right("", "persistentvolumes", verb) for verb in (*SERVICE_WRITES, "delete")}
    return sorted(found - set(needed({"volume": "-"})))


def grants(rules: Iterable[Mapping[str, Any]], right: Right) -> bool:
    """Whether rules of RBAC, as in a ClusterRole, give a right."""
    return any(
        _has(rule.get("apiGroups"), right.group)
        and _has(rule.get("resources"), right.resource)
        and _has(rule.get("verbs"), right.verb)
        and (not rule.get("resourceNames") or right.name in rule["resourceNames"])
        for rule in rules
    )


def _has(values: Iterable[str] | None, value: str) -> bool:
    given = list(values or [])
    return value in given or "*" in given


def missing_text(missing: Iterable[Right]) -> list[str]:
    """Rights that are missing as people read them: one line for each resource."""
    lines: dict[tuple[str, str], dict[str, list[str]]] = {}
    for right in sorted(missing):
        verbs = lines.setdefault((right.group, right.resource), {})
        verbs.setdefault(right.verb, []).extend([right.name] if right.name else [])
    found = []
    for (group, resource), verbs in lines.items():
        where = f"{resource}.{group}" if group else resource
        names = sorted({name for given in verbs.values() for name in given})
        found.append(f"{', '.join(verbs)} {where}" + (f" (named {', '.join(names)})" if names else ""))
    return found
