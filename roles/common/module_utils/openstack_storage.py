"""Volumes of state on an OpenStack cloud: make them, wait for them, remove them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from ansible.module_utils import openstack_plan as op
from ansible.module_utils.openstack_cloud import POLL_SECONDS, POLL_SECONDS_MOST, Cloud, Failure, VolumesFailed

#: Waited for as a state: that a volume is there no more.
GONE = ""
#: States of a volume in which it can be deleted.
LOOSE = ("available", "error", "error_restoring", "error_extending", "error_managing", GONE)


def make(cloud: Cloud, machine: str, size_gb: int) -> None:
    """Ask for the volume of a machine's state; it is being made then."""
    body = {
        "name": f"{cloud.testbed}-{machine}-state",
        "description": f"What outlives machine {machine} of testbed {cloud.testbed}",
        "size": size_gb,
        "metadata": {op.MARK: cloud.testbed, op.MACHINE: machine},
    }
    made = cloud.call("block_storage", "POST", "/volumes", {"volume": body})["volume"]
    cloud.ids["volume", machine] = str(made["id"])


def attach(cloud: Cloud, server: str, ident: str) -> None:
    """Ask for a volume to be attached to a server that is there."""
    body = {"volumeAttachment": {"volumeId": ident}}
    cloud.call("compute", "POST", f"/servers/{server}/os-volume_attachments", body)


def delete(cloud: Cloud, ident: str) -> None:
    """Ask for a volume to be deleted."""
    cloud.call("block_storage", "DELETE", f"/volumes/{ident}", ok=(404,))


def wait(cloud: Cloud, idents: Iterable[str], seconds: float, states: Collection[str]) -> None:
    """Wait until volumes are in one of these states.

    Raises:
        VolumesFailed: where some are in error, and that is none of the states.
        Failure: where time is over; the message names them.
    """
    waiting, end = set(idents), time.monotonic() + seconds
    while waiting:
        asked = time.monotonic()
        there = {volume["id"]: volume for volume in cloud.call("block_storage", "GET", cloud.volumes_path)["volumes"]}
        now = {ident: str(there.get(ident, {}).get("status", GONE)) for ident in waiting}
        waiting = {ident for ident, state in now.items() if state not in states}
        failed = {ident: str(there[ident]["name"]) for ident in waiting if now[ident].startswith("error")}
        if failed:
            raise VolumesFailed(failed)
        if waiting and time.monotonic() > end:
            told = sorted(f"{there.get(ident, {}).get('name', ident)}, {now[ident] or 'gone'}" for ident in waiting)
            wanted = " or ".join(state or "gone" for state in states)
            raise Failure(f"after {seconds:g} s these volumes are not {wanted}: {'; '.join(told)}")
        if waiting:
            # A cloud that takes long to answer has enough to do.
            time.sleep(min(max(POLL_SECONDS, time.monotonic() - asked), POLL_SECONDS_MOST))
