"""Jinja filters over the inventory's list of virtual platforms."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ansible.module_utils

# Ansible gives modules the path of module_utils in ansible.cfg, but not the plugins that run on the controller.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.platforms import faults, resolve  # noqa: E402
from ansible.module_utils.site_inventory import site_faults, site_platforms, told  # noqa: E402


def plain(value: Any) -> Any:
    """Copy what Ansible hands over into plain dictionaries and lists.

    Ansible looks for templates at each access to a variable; with hundreds of platforms, each looked at many times,
    that takes seconds.
    """
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def on_plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function have plain values."""

    @functools.wraps(function)
    def called(*arguments: Any) -> Any:
        return function(*(plain(each) for each in arguments))

    return called


class FilterModule:
    """What ansible.module_utils.platforms and site_inventory have to say."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as Jinja knows them."""
        return {
            "resolved_platforms": on_plain(resolve),
            "inventory_faults": on_plain(faults),
            "site_faults": site_faults,
            "site_platforms": site_platforms,
            "site_told": told,
        }
