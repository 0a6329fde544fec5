"""What the module `services` decides from what systemd says."""

from __future__ import annotations

from typing import Any

import pytest
import services

SHOWN = """\
Id=munge.service
LoadState=loaded
ActiveState=active
UnitFileState=enabled
NeedDaemonReload=no
InactiveExitTimestamp=Tue 2026-11-24 13:38:20.500000 UTC

Id=slurmctld.service
LoadState=loaded
ActiveState=failed
UnitFileState=disabled
NeedDaemonReload=no
InactiveExitTimestamp=
"""
STARTED = services.parse_time("Tue 2026-11-24 13:38:20.500000 UTC")


def unit(**wanted: Any) -> dict[str, Any]:
    return {"name": "x.service", "restart_on": [], "reload_on": []} | wanted


def actions(wanted: dict[str, Any], state: dict[str, str], changed: list[str], mtimes: dict[str, float]) -> list[str]:
    return [entry["action"] for entry in services.plan([wanted], [state], changed, mtimes)]


def test_blocks_come_in_the_order_asked() -> None:
    states = services.parse_show(SHOWN)
    assert [state["Id"] for state in states] == ["munge.service", "slurmctld.service"]
    assert states[1]["InactiveExitTimestamp"] == ""


def test_times() -> None:
    assert STARTED == 1795527500.5
    assert services.parse_time("Tue 2026-11-24 13:38:20 UTC") == 1795527500.0
    assert services.parse_time("") is None


RUNS = {
    "ActiveState": "active",
    "UnitFileState": "enabled",
    "InactiveExitTimestamp": "Tue 2026-11-24 13:38:20.500000 UTC",
}
DEAD = {"ActiveState": "inactive", "UnitFileState": "disabled", "InactiveExitTimestamp": ""}
ABSENT = {"ActiveState": "inactive", "LoadState": "not-found", "UnitFileState": ""}


@pytest.mark.parametrize(
    ("wanted", "state", "changed", "mtimes", "expected"),
    [
        (unit(state="started", enabled=True), RUNS, [], {}, []),
        (unit(state="started", enabled=True), DEAD, [], {}, ["enable", "start"]),
        (unit(state="started", enabled=True), ABSENT, [], {}, ["enable", "start"]),
        (unit(state="started"), RUNS | {"ActiveState": "failed"}, [], {}, ["start"]),
        (unit(state="started", enabled=True), RUNS | {"UnitFileState": "static"}, [], {}, []),
        (unit(state="started", restart_on=["/a"]), RUNS, ["/a"], {}, ["restart"]),
        (unit(state="started", restart_on=["/a"]), RUNS, ["/b"], {"/a": STARTED - 1}, []),
        # An interrupted run wrote the file and never came to the restart.
        (unit(state="started", restart_on=["/a"]), RUNS, [], {"/a": STARTED + 1}, ["restart"]),
        (unit(state="started", restart_on=["/a"]), DEAD, ["/a"], {}, ["start"]),
        (unit(state="started", reload_on=["/a"]), RUNS, ["/a"], {}, ["reload"]),
        (unit(state="started", restart_on=["/a"], reload_on=["/a"]), RUNS, ["/a"], {}, ["restart"]),
        (unit(restart_on=["/a"]), RUNS, ["/a"], {}, []),
        (unit(state="restarted"), RUNS, [], {}, ["restart"]),
        (unit(state="stopped", enabled=False, masked=True), RUNS, [], {}, ["disable", "stop", "mask"]),
        (unit(masked=True), {"LoadState": "masked", "UnitFileState": "masked"}, [], {}, []),
        (unit(masked=False, state="started"), {"LoadState": "masked"}, [], {}, ["unmask", "start"]),
    ],
)
def test_plan(
    wanted: dict[str, Any], state: dict[str, str], changed: list[str], mtimes: dict[str, float], expected: list[str]
) -> None:
    assert actions(wanted, state, changed, mtimes) == expected
