"""What is wrong with what an inventory says about caesar-rest, before anything is touched."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def caesar_rest_faults(said: Mapping[str, Any], physical: Mapping[str, Any] | None) -> list[str]:
    """Find faults, one sentence each.

    Args:
        said: the variables that are set, by their names without `caesar_rest_`; and `slurmrestd`, whether the voter
            can be taken for a Slurm.
        physical: `physical_platforms`.
    """
    name = said.get("platform") or ""
    if not name:
        return []
    found = []
    clusters = [key for key, each in (physical or {}).items() if (each or {}).get("kind") == "kubernetes"]
    if name not in clusters:
        which = " or ".join(sorted(clusters)) or "one of kind kubernetes, of which there is none"
        found.append(f"caesar_rest_platform is {name!r}: give {which}, or '' for no caesar-rest")
    if not said.get("slurmrestd", True):
        found.append("caesar_rest_platform is set and voter_slurmrestd is false: the voter must be caesar-rest's Slurm")
    source = str(said.get("source") or "")
    if source and "://" not in source and "@" not in source.split("/")[0] and not Path(source).expanduser().is_dir():
        found.append(f"caesar_rest_source is {source!r}, which is no directory here: give a checkout or an address")
    commit = str(said.get("commit") or "")
    if commit and not re.fullmatch(r"[0-9a-f]{40}", commit):
        found.append(f"caesar_rest_commit is {commit!r}: give all 40 digits")
    port = said.get("node_port")
    if port is not None and not (str(port).isdecimal() and 30000 <= int(port) <= 32767):
        found.append(f"caesar_rest_node_port is {port!r}: give one from 30000 to 32767")
    return found


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters of this file."""
        return {"caesar_rest_faults": caesar_rest_faults}
