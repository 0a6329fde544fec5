"""Jinja filters about planners that are drained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible.module_utils

# Ansible gives modules the path of module_utils in ansible.cfg, but not the plugins that run on the controller.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.planner_drains import states, summary, unknown  # noqa: E402


class FilterModule:
    """`planner_running`, `planner_states` and `unknown_platforms`; see ansible.module_utils.planner_drains."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as Jinja knows them."""
        return {"planner_running": summary, "planner_states": states, "unknown_platforms": unknown}
