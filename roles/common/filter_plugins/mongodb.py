"""What is wrong with the inventory's variables of the database, before anything is touched."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

ENGINES = ("mongodb", "ferretdb")
STORAGE = ("host_path", "storage_class")
NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SIZE = re.compile(r"[1-9][0-9]*(Mi|Gi|Ti|M|G|T)")


def mongodb_faults(
    said: Mapping[str, Any], platforms: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]
) -> list[str]:
    """One sentence for each fault, with what would be right; none where the database is switched off.

    Args:
        said: `platform`, `namespace`, `image`, `engine`, `storage`, `size` and `memory`; what is empty is
            the role's to say.
        platforms: the virtual platforms, whose names are namespaces too.
        groups: the inventory's groups.
    """
    return list(_faults(said, platforms, groups)) if said.get("platform") else []


def _faults(
    said: Mapping[str, Any], platforms: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    namespace = str(said.get("namespace") or "caesar-rest")
    if not NAMESPACE.fullmatch(namespace) or namespace == "default" or namespace.startswith("kube-"):
        yield f"caesar_rest_namespace is {namespace!r}: give lower-case letters, digits and hyphens, not kube-"
    if any(isinstance(each, Mapping) and each.get("name") == namespace for each in platforms):
        yield f"caesar_rest_namespace is {namespace!r}, which is a virtual platform: give it another name"
    if not said.get("image") and not groups.get("kubernetes_nodes"):
        yield (
            "mongodb_image is empty, and there are no kubernetes_nodes to bring an image to: give the reference of a "
            'mongo image that the cluster pulls, or caesar_rest_platform: "" for no caesar-rest'
        )
    if said.get("engine") and said["engine"] not in ENGINES:
        yield f"mongodb_engine is {said['engine']!r}: give one of {', '.join(ENGINES)}"
    storage = said.get("storage")
    if storage and (not isinstance(storage, Mapping) or len(storage) != 1 or next(iter(storage)) not in STORAGE):
        yield f"mongodb_storage is {storage!r}: give one of {', '.join(STORAGE)}, as in {{storage_class: fast}}"
    for name, variable in (("size", "mongodb_storage_size"), ("memory", "mongodb_memory")):
        if said.get(name) and not SIZE.fullmatch(str(said[name])):
            yield f"{variable} is {said[name]!r}: give a whole number with its unit, as in 5Gi"


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters of this file."""
        return {"mongodb_faults": mongodb_faults}
