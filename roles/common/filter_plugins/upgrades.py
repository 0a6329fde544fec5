"""Jinja filters about what an upgrade would change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible.module_utils

# Ansible gives modules the path of module_utils in ansible.cfg, but not the plugins that run on the controller.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils import reverts  # noqa: E402
from ansible.module_utils.upgrades import plan, unasked  # noqa: E402


class FilterModule:
    """`upgrade_plan`, `unasked_upgrades` and `revert_faults`; see upgrades and reverts of module_utils."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as Jinja knows them."""
        return {"upgrade_plan": plan, "unasked_upgrades": unasked, "revert_faults": reverts.faults}
