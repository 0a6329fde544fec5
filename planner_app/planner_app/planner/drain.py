"""A planner that is drained: it makes no offers, takes back those it has made, and lets run what runs.

The state is a file beside the ledger, so that it outlives restarts and does not wait for a client. Whoever
writes or removes it sends SIGHUP afterwards (`systemctl reload planner@NAME`).
"""

import asyncio
import json
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from planner_app.execution_broker.models import Phase
from planner_app.execution_broker.times import format_instant
from planner_app.planner.config import PlannerConfig
from planner_app.planner.ledger import Ledger, Note, SessionRow
from planner_app.planner.lifecycle import Lifecycle
from planner_app.planner.quoting import Reason, refusal
from planner_app.platforms.protocol import Snapshot

log = structlog.get_logger(__name__)

_WITHDRAW = {Phase.OFFERED: Phase.REJECTED}
# What has a job is released first.
_CANCEL = {
    Phase.ACCEPTED: Phase.CANCELLED,
    Phase.WAITING: Phase.CANCELLED,
    Phase.PREPARING: Phase.RELEASING,
    Phase.AVAILABLE: Phase.RELEASING,
}


@dataclass(frozen=True)
class Drained:
    """Who drained the planner, when and why; what is not known is empty."""

    by: str = ""
    since: str = ""
    reason: str = ""
    cancel: bool = False
    """Whether sessions that were accepted before are cancelled."""

    @property
    def words(self) -> str:
        """Say it, from the second word of a sentence on: "drained by ... since ..."."""
        who = f" by {self.by}" if self.by else ""
        when = f" since {self.since}" if self.since else ""
        return f"drained{who}{when}" + (f": {self.reason}" if self.reason else "")


def read_drained(path: Path | None) -> Drained | None:
    """Read the file; None where there is none. One that cannot be read drains as well, without saying who."""
    if path is None:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("drained by a file that cannot be read", path=str(path), why=str(error))
        return Drained()
    if not isinstance(found, Mapping):
        return Drained()
    texts = {key: str(found.get(key) or "")[:200] for key in ("by", "since", "reason")}
    return Drained(**texts, cancel=found.get("cancel") is True)


class Drain:
    """Whether a planner is drained, and what that means for its sessions."""

    def __init__(self, config: PlannerConfig, lifecycle: Lifecycle) -> None:
        self.config = config
        self.lifecycle = lifecycle
        self.state = read_drained(config.drain_file)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Act on what there is, and again at each SIGHUP."""
        # There are no signals where the loop is not the main thread's.
        with suppress(NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reread)
        self._reread()

    def _reread(self) -> None:
        self._task = asyncio.create_task(self.reread(), name="drain")

    async def reread(self) -> None:
        """Read the file, and end what must not go on."""
        before = self.state
        self.state = await asyncio.to_thread(read_drained, self.config.drain_file)
        if self.state is None:
            if before is not None:
                log.info("makes offers again")
            return
        # Requests that are under way quote in the ledger's thread too, those before this with the old state.
        ended = await self.lifecycle.in_thread(self._end, self.state)
        log.info(self.state.words, withdrawn_or_cancelled=ended)
        self.lifecycle.wake()

    def _end(self, state: Drained) -> int:
        ledger: Ledger = self.lifecycle.ledger
        changes = _WITHDRAW | _CANCEL if state.cancel else _WITHDRAW
        note = Note("urn:caesar:planner:drained", "the platform is ${words}", {"words": state.words}, "WARN")
        ended = 0
        for row in ledger.live():
            if (phase := changes.get(row.phase)) is not None:
                more = {"outcome": Phase.CANCELLED} if phase is Phase.RELEASING else {}
                ended += ledger.change(row.uuid, self.lifecycle.clock(), [row.phase], phase, note, **more)
        return ended

    def refusal(self) -> Reason | None:
        """Why there are no offers; None where the planner is not drained."""
        if self.state is None:
            return None
        state = self.state
        return refusal(
            self.config, "drained", "the platform is ${words}", words=state.words, by=state.by, since=state.since
        )

    async def document(self, snapshot: Snapshot | None) -> dict[str, Any]:
        """Tell whether it is drained, and what runs: sessions, and jobs that somebody else runs there."""
        if self.lifecycle.observation.failed is not None:
            snapshot = None  # offers are made from its last answer for a while; an empty platform is not told from it
        live = [row for row in await self.lifecycle.in_thread(self.lifecycle.ledger.live) if _accepted(row)]
        own = {row.uuid for row in live}
        document: dict[str, Any] = {
            "sessions": [
                {"session": str(row.uuid), "phase": str(row.phase), "job": row.job_id, "cores": row.amount.cores}
                for row in live
            ],
            # Nobody knows where the platform does not answer.
            "others": None
            if snapshot is None
            else [
                {
                    "job": job.job_id,
                    "state": str(job.state),
                    "cores": job.cores,
                    "ends_by": None if job.ends_by is None else format_instant(job.ends_by),
                }
                for job in snapshot.jobs
                if not job.state.ended and job.session not in own
            ],
        }
        drained: dict[str, Any] = {}
        if self.state is not None:
            state = self.state
            drained = {
                "drained": {"by": state.by, "since": state.since, "reason": state.reason, "cancel": state.cancel,
                            "words": state.words}
            }  # fmt: skip
        return {"live": document, **drained}


def _accepted(row: SessionRow) -> bool:
    return row.phase is not Phase.OFFERED
