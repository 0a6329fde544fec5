"""Jinja filters for Kubernetes: namespaces of the virtual platforms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ansible.module_utils

# Ansible gives modules the path of module_utils in ansible.cfg, but not the plugins that run on the controller.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.plain_values import of_cluster  # noqa: E402

LIMITS = ("cores", "memory_gib", "walltime_minutes", "jobs")


def namespace_list(platforms: Sequence[Mapping[str, Any]], ratio: float) -> list[dict[str, Any]]:
    """Describe resolved platforms for the module `kubernetes_namespaces`, and say nothing that it has no use for.

    Args:
        platforms: as `resolved_platforms` gives them.
        ratio: what pods ask for is their limits divided by this.
    """
    return [
        {
            "name": platform["name"],
            "uid": platform["uid"],
            "quota": platform["quota"],
            "limits": {key: platform["limits"][key] for key in LIMITS},
            "cpu_allocation_ratio": ratio,
        }
        for platform in platforms
    ]


class FilterModule:
    """Filters whose names begin with `kubernetes_`."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as Jinja knows them."""
        return {"kubernetes_namespace_list": of_cluster(namespace_list)}
