"""Jinja filters about what an upgrade would change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible.module_utils

# Ansible gives modules the path of module_utils in ansible.cfg, but not the plugins that run on the controller.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.upgrades import plan, unasked  # noqa: E402


class FilterModule:
    """`upgrade_plan` and `unasked_upgrades`; see ansible.module_utils.upgrades."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as Jinja knows them."""
        return {"upgrade_plan": plan, "unasked_upgrades": unasked}
