"""Which rights the testbed needs on a Kubernetes that exists already. Pure: nothing here asks a cluster.

All of it follows from the objects that the module `kubernetes_namespaces` makes: what is made must be readable and
writable under its name, and what planners are granted must be held by who grants it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.namespace_objects import KINDS, desired_objects

#: Server-side apply asks for patch, and for create where the object is new.
WRITES = ("get", "create", "patch", "update", "delete")
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
