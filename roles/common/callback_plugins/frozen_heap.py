"""Keep Python's collector of garbage away from what Ansible has loaded, which stays until the run's end."""

from __future__ import annotations

import gc
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: frozen_heap
type: aggregate
short_description: Let the collector of garbage leave alone what stays
description:
  - Plays, roles and the inventory are hundreds of thousands of objects, of which none goes before the run ends. Each
    task is a fork of Ansible that would look through all of them, and copy the pages where they lie, again and again.
  - Prints nothing.
requirements: [enabled in ansible.cfg]
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Takes what is there at the begin of each play out of the collector's sight; a play brings roles of its own."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "frozen_heap"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Freeze."""
        gc.freeze()
