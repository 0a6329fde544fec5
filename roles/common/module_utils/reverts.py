"""What keeps copies that an upgrade made from being put back: pure, nothing is asked here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.upgrades import DEBIAN


def faults(
    copied: Mapping[str, Mapping[str, Any]], there: Mapping[str, Mapping[str, Any]], suite: str, kubernetes: str
) -> list[str]:
    """Say why copies are not put back, one line for each reason.

    Args:
        copied: what machines had when they were copied, each with any of `debian` and `slurm` (package to version).
        there: machines that would be made anew, each with any of `kubernetes` (version of the control plane).
        suite: the release of Debian that machines would get.
        kubernetes: the version that they would get.
    """
    new = str(DEBIAN.get(suite, suite))
    found = []
    for name, machine in sorted(copied.items()):
        old = str(machine.get("debian") or "").partition(".")[0]
        if "slurmdbd" in (machine.get("slurm") or {}) and old != new:
            own = next((key for key, number in DEBIAN.items() if str(number) == old), old)
            found.append(
                f"The accounting of {name} was copied from Debian {old}, and the machine would have Debian {new}: give "
                f"-e local_machines_suite={own}."
            )
    for name, machine in sorted(there.items()):
        has = str(machine.get("kubernetes") or "")
        if has and has != kubernetes:
            found.append(
                f"{name} would be made anew with Kubernetes {kubernetes}, and has a control plane of {has}, which "
                "stays: take a checkout that makes this one."
            )
    return found
