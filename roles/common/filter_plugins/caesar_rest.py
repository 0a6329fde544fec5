"""What is wrong with what an inventory says about caesar-rest, before anything is touched."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def caesar_rest_faults(said: Mapping[str, Any], physical: Mapping[str, Any] | None) -> list[str]:
    """Find faults, one sentence each.

    Args:
        said: the variables that are set, by their names without `caesar_rest_`; and `slurmrestd`, whether the voter
            can be taken for a Slurm; `site`, whether the cluster exists already, and `voter_address`.
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
    return found + (_of_a_site(said) if said.get("site") else [])


def _of_a_site(said: Mapping[str, Any]) -> list[str]:
    found = []
    if not said.get("image"):
        found.append(
            "caesar_rest_image is empty, and there are no kubernetes_nodes to bring an image to: give one that the "
            "cluster pulls; docs/site.md says how it gets there"
        )
    address = str(said.get("address") or "")
    if not address:
        found.append(
            "caesar_rest_address is empty: give the address of a node or of a balancer, as astronomers reach it"
        )
    elif not said.get("clients") and not _is_address(address):
        found.append(
            f"caesar_rest_address is {address!r}: give its IP address, or caesar_rest_clients, networks to let in"
        )
    for network in said.get("clients") or []:
        if not _is_network(str(network)):
            found.append(f"caesar_rest_clients has {network!r}: give networks, as 192.0.2.0/24")
    voter = str(said.get("voter_address") or "")
    if voter and not _is_address(voter):
        found.append(
            f"the voter's machine_address is {voter!r}: give its IP address, or caesar_rest_voter_address, since a "
            "network policy lets caesar-rest reach it and knows no names"
        )
    return found


def _is_address(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters of this file."""
        return {"caesar_rest_faults": caesar_rest_faults}
