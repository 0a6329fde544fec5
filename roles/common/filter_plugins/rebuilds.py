"""Jinja filters about machines that are made anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible.module_utils

# Ansible gives modules the path of module_utils in ansible.cfg, but not the plugins that run on the controller.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.rebuilds import keeping, question  # noqa: E402


class FilterModule:
    """`kept_state` and `rebuild_question`; see ansible.module_utils.rebuilds."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as Jinja knows them."""
        return {"kept_state": keeping, "rebuild_question": question}
