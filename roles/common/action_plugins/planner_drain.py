"""Drain planners and wait until nothing runs on their platforms, showing what is waited for."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# Ansible gives modules the path of module_utils in ansible.cfg, but not the plugins that run on the controller.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.planner_drains import silent, summary  # noqa: E402

#: Between two questions, which are one ssh round trip each.
PAUSE = 1.0


class ActionModule(ActionBase):  # type: ignore[misc]
    """See library/planner_drain.py for the options."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task."""
        super().run(tmp, task_vars)
        args = dict(self._task.args)
        wait, patient = boolean(args.pop("wait", False)), boolean(args.pop("patient", True))
        timeout, every = float(args.pop("timeout", 3600)), float(args.pop("every", 10))
        result = self._module(args, task_vars)
        if result.get("failed") or not wait:
            return result
        if self._task.check_mode:
            told = summary(result["planners"])
            return result | {"msg": f"would wait for {told}" if told else "nothing runs"}
        changed, began = result["changed"], time.monotonic()
        answer = self._wait(args | {"state": "asked"}, task_vars, result, timeout, every, patient)
        return result | answer | {"changed": changed, "waited": round(time.monotonic() - began, 1)}

    def _module(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        return dict(self._execute_module(module_name="planner_drain", module_args=args, task_vars=task_vars))

    def _wait(
        self,
        args: dict[str, Any],
        task_vars: dict[str, Any] | None,
        first: dict[str, Any],
        timeout: float,
        every: float,
        patient: bool,
    ) -> dict[str, Any]:
        """Ask until nothing runs; `first` is the answer that is there already."""
        display, began = Display(), time.monotonic()
        said, due, planners = "", began, first["planners"]
        while True:
            trouble, told = silent(planners) if patient else "", summary(planners)
            if not trouble and not told:
                return {"planners": planners, "msg": "nothing runs any more"}
            now = time.monotonic()
            line = "; ".join(part for part in (told, trouble) if part)
            if now >= began + timeout:
                return {
                    "failed": True,
                    "planners": {},  # the message has it all
                    "msg": f"after {timeout:.0f} s there is still {line}. The platforms stay drained: run this again "
                    "to wait on, with -e drain=cancel to cancel sessions, or with -e drain=undo to take it back",
                }
            # At once where something changed, else as a sign of life.
            if line != said or now >= due:
                display.display(f"    {now - began:4.0f}s  waiting for {line}")
                said, due = line, now + every
            time.sleep(PAUSE)
            result = self._module(args, task_vars)
            if result.get("failed"):
                return result
            planners = result["planners"]
