#!/usr/bin/python
"""Ansible module: enable, start, restart and mask several systemd units in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: services
short_description: Bring several systemd units to their wanted states in one call
description:
  - One question to systemd for all units, then at most one systemctl call for each kind of change.
  - A unit is restarted where one of the files in O(units[].restart_on) changed in this run
    (O(changed_paths)) or is newer than the unit's last start, so that an interrupted run is made good
    by the next one.
  - systemd reads its files again where it says that it must, where O(changed_paths) names a file of
    its own, or where O(daemon_reload) is true.
options:
  units:
    description: The units. Units of one systemctl call start in the order their After= gives.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Full name, C(munge.service) or C(slurmd@node1.service).
        type: str
        required: true
      state:
        description: V(reloaded) and V(restarted) act at every run; prefer O(units[].restart_on).
        type: str
        choices: [started, stopped, restarted, reloaded]
      enabled:
        description: Whether it starts at boot.
        type: bool
      masked:
        description: Whether it is masked. Units may be masked before their package is installed.
        type: bool
      restart_on:
        description: Restart a running unit where one of these files changed.
        type: list
        elements: path
        default: []
      reload_on:
        description: Reload a running unit where one of these files changed in this run.
        type: list
        elements: path
        default: []
  changed_paths:
    description: The files that an earlier task wrote (RV(files.changed_paths) of the files module).
    type: list
    elements: path
    default: []
  daemon_reload:
    description: Let systemd read its files again in any case (no change is reported for that).
    type: bool
    default: false
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Run the services
  services:
    changed_paths: "{{ role_files.changed_paths }}"
    units:
      - {name: munge.service, state: started, enabled: true, restart_on: [/etc/munge/munge.key]}
      - {name: thing@one.service, state: started, enabled: true, restart_on: [/etc/thing.conf]}
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode.
  type: list
  elements: dict
  sample: [{unit: munge.service, action: restart, why: /etc/munge/munge.key changed}]
  returned: always
"""

import datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

PROPERTIES = "Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload,InactiveExitTimestamp"
SYSTEMD_PATHS = (
    "/etc/systemd/system/",
    "/usr/lib/systemd/system/",
    "/lib/systemd/system/",
    "/run/systemd/system/",
)
# What `systemctl enable` cannot or need not change.
ENABLED = frozenset({"enabled", "enabled-runtime", "static", "alias", "indirect", "generated", "transient"})
RUNNING = frozenset({"active", "reloading", "activating"})
# The order of the calls: a mask must not meet a running unit, and what is enabled is started last.
ORDER = ("unmask", "disable", "stop", "mask", "enable", "restart", "reload", "start")


def parse_show(text: str) -> list[dict[str, str]]:
    """Parse the blocks that ``systemctl show`` prints, one for each unit, in the order asked."""
    blocks = [block for block in text.strip().split("\n\n") if block.strip()]
    return [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]


def parse_time(text: str) -> float | None:
    """Give the seconds since the epoch of ``Tue 2026-11-24 13:26:09.123456 UTC``; None for no time."""
    words = text.split()
    if len(words) != 4:
        return None
    form = "%Y-%m-%d %H:%M:%S.%f" if "." in words[2] else "%Y-%m-%d %H:%M:%S"
    moment = datetime.datetime.strptime(f"{words[1]} {words[2]}", form)
    return moment.replace(tzinfo=datetime.timezone.utc).timestamp()  # noqa: UP017 - Python 3.9 has no UTC


def plan(
    units: list[dict[str, Any]],
    states: list[dict[str, str]],
    changed_paths: list[str],
    mtimes: dict[str, float],
) -> list[dict[str, str]]:
    """Decide what must be done: pure.

    Args:
        units: the module's `units`.
        states: systemd's properties of the same units, in the same order.
        changed_paths: files written in this run.
        mtimes: times of last change (seconds since the epoch) of the files in `restart_on` that exist.

    Returns:
        Actions {unit, action, why} in the order in which they must be done.
    """
    actions: list[dict[str, str]] = []
    changed = set(changed_paths)

    def act(unit: dict[str, Any], action: str, why: str) -> None:
        actions.append({"unit": unit["name"], "action": action, "why": why})

    for unit, state in zip(units, states, strict=True):
        masked = "masked" in state.get("UnitFileState", "") or state.get("LoadState") == "masked"
        enabled = state.get("UnitFileState", "") in ENABLED
        running = state.get("ActiveState") in RUNNING
        if unit.get("masked") is True and not masked:
            act(unit, "mask", "not masked")
        if unit.get("masked") is False and masked:
            act(unit, "unmask", "masked")
        if unit.get("enabled") is True and not enabled:
            act(unit, "enable", "not enabled")
        if unit.get("enabled") is False and state.get("UnitFileState") in ("enabled", "enabled-runtime"):
            act(unit, "disable", "enabled")
        wanted = unit.get("state")
        if wanted == "stopped" and running:
            act(unit, "stop", "running")
        if wanted in ("started", "restarted", "reloaded") and not running:
            act(unit, "start", state.get("ActiveState") or "not running")
        elif wanted == "restarted":
            act(unit, "restart", "asked for")
        elif wanted in ("started", "reloaded"):
            began = parse_time(state.get("InactiveExitTimestamp", ""))
            files = unit.get("restart_on") or []
            touched = [path for path in files if path in changed]
            newer = [path for path in files if began is not None and mtimes.get(path, 0.0) > began]
            reload = [path for path in unit.get("reload_on") or [] if path in changed]
            if touched:
                act(unit, "restart", f"{touched[0]} changed")
            elif newer:
                act(unit, "restart", f"{newer[0]} is newer than its start")
            elif wanted == "reloaded":
                act(unit, "reload", "asked for")
            elif reload:
                act(unit, "reload", f"{reload[0]} changed")
    return sorted(actions, key=lambda entry: ORDER.index(entry["action"]))


def journal(module: AnsibleModule, unit: str) -> str:
    """Give the last lines of a unit's journal, for an error message."""
    _, out, _ = module.run_command(["journalctl", "--no-pager", "--output=cat", "--lines=15", f"--unit={unit}"])
    return f"{unit}:\n{out.rstrip()}"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "units": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "state": {"type": "str", "choices": ["started", "stopped", "restarted", "reloaded"]},
                    "enabled": {"type": "bool"},
                    "masked": {"type": "bool"},
                    "restart_on": {"type": "list", "elements": "path", "default": []},
                    "reload_on": {"type": "list", "elements": "path", "default": []},
                },
            },
            "changed_paths": {"type": "list", "elements": "path", "default": []},
            "daemon_reload": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C", "SYSTEMD_COLORS": "0"}
    units: list[dict[str, Any]] = module.params["units"]
    names = [unit["name"] for unit in units]
    changed_paths: list[str] = module.params["changed_paths"]
    if not units:
        module.exit_json(changed=False, actions=[])

    def show() -> list[dict[str, str]]:
        code, out, err = module.run_command(
            ["systemctl", "show", "--timestamp=us+utc", f"--property={PROPERTIES}", "--", *names]
        )
        states = parse_show(out)
        if code != 0 or len(states) != len(names):
            module.fail_json(msg=f"systemctl show failed for {', '.join(names)}: {err.strip() or out.strip()}")
        return states

    states = show()
    stale = any(state.get("NeedDaemonReload") == "yes" for state in states)
    ours = any(path.startswith(SYSTEMD_PATHS) for path in changed_paths)
    if (stale or ours or module.params["daemon_reload"]) and not module.check_mode:
        module.run_command(["systemctl", "daemon-reload"], check_rc=True)
        states = show()

    mtimes: dict[str, float] = {}
    for path in {path for unit in units for path in unit["restart_on"]}:
        file = Path(path)
        if file.exists():
            mtimes[path] = file.stat().st_mtime

    actions = plan(units, states, changed_paths, mtimes)
    result: dict[str, Any] = {"changed": bool(actions), "actions": actions}
    if module._diff and actions:
        lines = "".join(f"{entry['action']} {entry['unit']} ({entry['why']})\n" for entry in actions)
        result["diff"] = [{"before": "", "after": lines, "before_header": "units", "after_header": "actions"}]
    if module.check_mode or not actions:
        module.exit_json(**result)

    for verb in ORDER:
        chosen = [entry["unit"] for entry in actions if entry["action"] == verb]
        if not chosen:
            continue
        code, out, err = module.run_command(["systemctl", verb, "--", *chosen])
        if code != 0:
            failed = [
                name
                for name, state in zip(names, show(), strict=True)
                if name in chosen and (state.get("ActiveState") == "failed" or state.get("LoadState") == "not-found")
            ]
            module.fail_json(
                msg=f"systemctl {verb} {' '.join(chosen)}: {(err or out).strip()}",
                journal=[journal(module, name) for name in failed or chosen[:3]],
                **result,
            )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
