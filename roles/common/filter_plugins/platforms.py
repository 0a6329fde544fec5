"""Jinja filters over the inventory's list of virtual platforms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ansible.module_utils

# Ansible gives modules the path of module_utils in ansible.cfg, but not the plugins that run on the controller.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.plain_values import on_plain  # noqa: E402
from ansible.module_utils.platforms import faults, resolve  # noqa: E402
from ansible.module_utils.site_inventory import site_faults, site_platforms, told  # noqa: E402


def names(platforms: Iterable[Mapping[str, Any]], cluster: str, planned: bool = False) -> list[str]:
    """Name the virtual platforms of a physical platform; with `planned` those alone that have a planner."""
    return [
        platform["name"]
        for platform in platforms
        if platform["physical_platform"] == cluster and (not planned or platform.get("planner", True))
    ]


class FilterModule:
    """What ansible.module_utils.platforms and site_inventory have to say."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as Jinja knows them."""
        return {
            "resolved_platforms": on_plain(resolve),
            "inventory_faults": on_plain(faults),
            "platform_names": names,
            "site_faults": site_faults,
            "site_platforms": site_platforms,
            "site_told": told,
        }
