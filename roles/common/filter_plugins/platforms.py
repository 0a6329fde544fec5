"""Jinja filters over the inventory's list of virtual platforms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible.module_utils

# Ansible gives modules the path of module_utils in ansible.cfg, but not the plugins that run on the controller.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.platforms import faults, resolve  # noqa: E402


class FilterModule:
    """`resolved_platforms` and `inventory_faults`; see ansible.module_utils.platforms."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as Jinja knows them."""
        return {"resolved_platforms": resolve, "inventory_faults": faults}
