"""What is asked before machines are made anew: what is lost with their discs, and what runs there. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible.module_utils.sentences import listed

_HELD = {
    "slurm_controllers": "accounting",
    "kubernetes_control_planes": "etcd",
    "kubernetes_nodes": "the volumes of pods",
    "planners": "ledgers",
    "voters": "ballots",
    "storage_servers": "the shared storage",
}
_MEANT = {"wait": "waited for", "cancel": "cancelled", "nowait": "lost"}


def keeping(groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Name what each machine holds that a testbed must not lose, from the inventory's groups."""
    # The first node is the control plane where no machine is one by its group.
    control = groups.get("kubernetes_control_planes") or groups.get("kubernetes_nodes", [])[:1]
    held: dict[str, list[str]] = {}
    for group, what in _HELD.items():
        for machine in control if group == "kubernetes_control_planes" else groups.get(group, []):
            held.setdefault(machine, []).append(what)
    return held


def running(asked: Mapping[str, Sequence[Mapping[str, Any]]], drain: str) -> str:
    """Name what runs and what becomes of it, and who could not be asked.

    Args:
        asked: the results of `machine-use CLUSTER list`, one for each machine; by the cluster's name.
        drain: what becomes of what runs: wait, cancel or nowait.
    """
    answers = {cluster: [one for one in results if not one.get("skipped")] for cluster, results in asked.items()}
    told = dict.fromkeys(
        line for results in answers.values() for one in results for line in one.get("stdout_lines") or []
    )
    said = [f"{', '.join(told)} ({_MEANT[drain]})"] if told else []
    silent = [cluster for cluster, results in answers.items() if any(_failed(one) for one in results)]
    if silent:
        said.append(f"{' and '.join(silent)} cannot say, and what it may be is lost")
    return "; ".join(said) or "nothing"


def _failed(result: Mapping[str, Any]) -> bool:
    return bool(result.get("unreachable")) or result.get("rc", 0) != 0


def question(
    machines: Sequence[str],
    testbed: str,
    bare: Mapping[str, Sequence[str]],
    asked: Mapping[str, Sequence[Mapping[str, Any]]],
    drain: str,
) -> str:
    """Say what a rebuild would do, for who has to agree.

    Args:
        machines: those that are made anew.
        testbed: its name.
        bare: what those of them hold that have no volume for it (`keeping`).
        asked: see `running`.
        drain: see `running`.
    """
    are = "is" if len(machines) == 1 else "are"
    said = f"{listed(machines)} of testbed '{testbed}' {are} removed and made anew."
    said += " Volumes stay; the rest of the disc is lost"
    if bare:
        said += ", and with that, since no volume holds it, "
        said += "; ".join(f"{listed(what)} of {machine}" for machine, what in bare.items())
    return f"{said}. Running there: {running(asked, drain)}."
