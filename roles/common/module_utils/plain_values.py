"""What Ansible hands to a filter as plain dictionaries and lists, and filters that start from the inventory's list.

Ansible looks for templates at each access to a variable, and once more at all that a filter gives: one filter that
reads the list once and gives what is needed of it is several times as quick as a chain of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ansible.module_utils.platforms import resolve


def plain(value: Any) -> Any:
    """Copy what Ansible hands over into plain dictionaries and lists."""
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


def of_cluster(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function of resolved platforms be a filter over the inventory's list.

    The filter takes the list, the physical platforms, the sizes and the name of a physical platform, whose virtual
    platforms alone the function gets, and then what else the function takes.
    """

    @functools.wraps(function)
    def called(virtual: Any, physical: Any, sizes: Any, cluster: str, *arguments: Any) -> Any:
        platforms = resolve(plain(virtual), plain(physical), plain(sizes))
        return function([each for each in platforms if each["physical_platform"] == cluster], *arguments)

    return called
