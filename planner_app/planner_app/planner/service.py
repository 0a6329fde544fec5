"""What a planner does for its clients."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any
from uuid import UUID

import structlog

from planner_app.execution_broker import codecs, kinds
from planner_app.execution_broker.models import EnumValueUpdate, ExecutionRequest, Phase
from planner_app.execution_broker.times import Interval, format_duration, format_instant
from planner_app.planner.config import PlannerConfig
from planner_app.planner.demand import Reading, read_request
from planner_app.planner.documents import Document, legal_changes, offerset_document, session_document
from planner_app.planner.drain import Drain
from planner_app.planner.files import OpenFile, list_below, open_below
from planner_app.planner.ledger import IllegalChange, Note, SessionRow
from planner_app.planner.lifecycle import Lifecycle, program_document
from planner_app.planner.quoting import (
    PREPARING,
    RELEASING,
    Amount,
    Quote,
    holds_of,
    quote,
    refusal,
)
from planner_app.platforms.images import ImageTable
from planner_app.platforms.protocol import PlatformDown, Snapshot

log = structlog.get_logger(__name__)

ANSWER_WITHIN = 2.0
"""Seconds that a request waits for the platform; clients that ask many planners do not wait longer."""


class Unknown(LookupError):
    """There is no such thing, or it is somebody else's, which is the same to who asks."""


class IllegalUpdate(Exception):
    """The update cannot be made now; nothing was changed."""

    def __init__(self, why: str, phase: Phase) -> None:
        super().__init__(why)
        self.phase = phase
        self.legal = legal_changes(phase)


class BadUpdate(ValueError):
    """The update can never be made; names the field."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(why)
        self.field = field


class Service:
    """One planner: reads requests, quotes, changes sessions and shows what became of them."""

    def __init__(self, config: PlannerConfig, images: ImageTable, lifecycle: Lifecycle) -> None:
        self.config = config
        self.images = images
        self.lifecycle = lifecycle
        self.ledger = lifecycle.ledger
        self.drain = Drain(config, lifecycle)
        self.answers = {"YES": 0, "NO": 0}

    async def request(self, client: str, request: ExecutionRequest) -> Document:
        """Answer a request with offers that are reserved, or with every reason why there are none."""
        # Locations are looked at on the shared storage, which may be slow: not in the loop.
        reading = await asyncio.to_thread(read_request, request, self.config, self.images)
        snapshot, why = await self._snapshot()
        now = self.lifecycle.clock()

        def make(reservations: Any) -> Quote:
            if snapshot is None:
                down = refusal(self.config, "platform-down", "the platform does not answer: ${why}", why=why)
                return Quote(reasons=(*reading.reasons, down))
            return self._quote(reading, holds_of(reservations, snapshot, now), now)

        offerset, rows = await self.lifecycle.in_thread(
            self.ledger.reserve,
            client=client,
            request=request.document(),
            program=None if reading.program is None else program_document(reading.program),
            now=now,
            make=make,
        )
        if rows:
            self.lifecycle.wake()  # it sleeps until the next expiry, and this may be the first
        document = offerset_document(self.config, offerset, rows)
        self.answers[document["result"]] += 1
        log.info("request", client=client, offerset=str(offerset.uuid), result=document["result"], offers=len(rows))
        return document

    def _quote(self, reading: Reading, holds: Any, now: Any) -> Quote:
        if (drained := self.drain.refusal()) is not None:
            return Quote(reasons=(*reading.reasons, drained))
        made = quote(self.config, reading.demand, holds, now)
        if reading.reasons:
            return Quote(reasons=(*reading.reasons, *made.reasons))
        return made

    async def _snapshot(self) -> tuple[Snapshot | None, str]:
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                return await self.lifecycle.snapshot(self.config.observe_every), ""
        except PlatformDown as error:
            return None, str(error)
        except TimeoutError:
            return None, f"no answer within {ANSWER_WITHIN:g} s"

    async def offerset(self, client: str, uuid: UUID) -> Document:
        """Show an offer set, its offers as they are now."""
        found = await self.lifecycle.in_thread(self.ledger.offerset, uuid)
        if found is None or found[0].client != client:
            raise Unknown(f"no offer set {uuid}")
        return offerset_document(self.config, *found)

    async def session(self, client: str, uuid: UUID) -> Document:
        """Show a session."""
        found = await self.lifecycle.in_thread(self.ledger.session, uuid)
        if found is None or found[0].client != client:
            raise Unknown(f"no session {uuid}")
        return session_document(self.config, *found)

    async def update(self, client: str, uuid: UUID, update: object) -> Document:
        """Accept, reject or cancel.

        Raises BadUpdate where no session takes such an update, and IllegalUpdate where this one does not now.
        """
        row = await self._row(client, uuid)
        if not isinstance(update, EnumValueUpdate):
            raise BadUpdate("kind", f"only {kinds.ENUM_VALUE_UPDATE} is taken")
        if update.path.removeprefix("/") != "phase":
            raise BadUpdate("path", "only /phase can be changed")
        try:
            match update.value:
                case "ACCEPTED":
                    await self._accept(client, row)
                case "REJECTED":
                    await self._reject(client, row)
                case "CANCELLED":
                    await self._cancel(client, row)
                case _:
                    raise BadUpdate("value", "must be ACCEPTED, REJECTED or CANCELLED")
        except IllegalChange as error:
            raise IllegalUpdate(str(error), error.phase) from error
        self.lifecycle.wake()
        log.info("update", client=client, session=str(uuid), value=update.value)
        return await self.session(client, uuid)

    async def _row(self, client: str, uuid: UUID) -> SessionRow:
        found = await self.lifecycle.in_thread(self.ledger.session, uuid)
        if found is None or found[0].client != client:
            raise Unknown(f"no session {uuid}")
        return found[0]

    async def _accept(self, client: str, row: SessionRow) -> None:
        now = self.lifecycle.clock()
        start = max(row.start.start, now + PREPARING)
        await self.lifecycle.in_thread(
            self.ledger.accept,
            row.uuid,
            now,
            Interval(start, start),
            Interval(start - PREPARING, start + row.duration + RELEASING),
            _by(client, "accepted"),
        )

    async def _reject(self, client: str, row: SessionRow) -> None:
        if not await self._change(row, [Phase.OFFERED], Phase.REJECTED, _by(client, "rejected")):
            await self._refuse(row)

    async def _cancel(self, client: str, row: SessionRow) -> None:
        note = _by(client, "cancelled")
        # What has a job is released first; which of both it is can change until the transaction.
        if await self._change(row, [Phase.ACCEPTED, Phase.WAITING], Phase.CANCELLED, note):
            return
        running = [Phase.PREPARING, Phase.AVAILABLE]
        if not await self._change(row, running, Phase.RELEASING, note, outcome=Phase.CANCELLED):
            await self._refuse(row)

    async def _change(self, row: SessionRow, allowed: list[Phase], phase: Phase, note: Note, **columns: Any) -> bool:
        return await self.lifecycle.in_thread(
            self.ledger.change, row.uuid, self.lifecycle.clock(), allowed, phase, note, **columns
        )

    async def _refuse(self, row: SessionRow) -> None:
        phase = (await self._row(row.client, row.uuid)).phase
        raise IllegalChange(phase, f"the session is {phase}")

    async def stdout(self, client: str, uuid: UUID) -> OpenFile:
        """Open what the job has written so far to its standard output.

        Raises FileNotFoundError where there is nothing yet.
        """
        row = await self._row(client, uuid)
        directory = self.lifecycle.directory(uuid)
        if row.phase is Phase.AVAILABLE and row.job_id is not None:
            # While the platform does not answer, what is there already is all there is to show.
            with suppress(PlatformDown, TimeoutError):
                async with asyncio.timeout(ANSWER_WITHIN):
                    await self.lifecycle.platform.peek(row.job_id, directory)
        return await asyncio.to_thread(open_below, directory, "stdout.log")

    async def outputs(self, client: str, uuid: UUID) -> list[Mapping[str, object]]:
        """List the job's results."""
        await self._row(client, uuid)
        listed = await asyncio.to_thread(list_below, self.lifecycle.directory(uuid) / "outputs")
        return [{"name": name, "size": size} for name, size in listed]

    async def output(self, client: str, uuid: UUID, name: str) -> OpenFile:
        """Open one of the job's results; raises FileNotFoundError where there is none of that name."""
        await self._row(client, uuid)
        return await asyncio.to_thread(open_below, self.lifecycle.directory(uuid) / "outputs", name)

    async def capabilities(self) -> Document:
        """Tell what the platform may use, what of it is in use, reserved and free, prices and kinds."""
        config = self.config
        snapshot, why = await self._snapshot()
        now = self.lifecycle.clock()
        reservations = await self.lifecycle.in_thread(self.ledger.reservations)
        document: Document = {
            "name": config.name,
            "kind": config.kind,
            "time": format_instant(now),
            "quota": {**config.quota.model_dump(), "jobs": config.limits.jobs},
            "limits": {**config.limits.model_dump(), "walltime": format_duration(config.limits.walltime)},
            "costs": config.costs,
            "metrics": config.metrics,
            "offers": {"expire_after": format_duration(config.offers.expire_after)},
            "images": list(self.images.names),
            "kinds": [
                kinds.DOCKER_CONTAINER,
                kinds.SINGULARITY_CONTAINER,
                kinds.SIMPLE_COMPUTE,
                kinds.SIMPLE_STORAGE,
                kinds.SIMPLE_DATA,
                kinds.SIMPLE_VOLUME_MOUNT,
                kinds.SIMPLE_COST,
                kinds.SIMPLE_METRIC,
            ],
            "media_types": list(codecs.MEDIA_TYPES),
        } | await self.drain.document(snapshot)
        if snapshot is None:
            return document | {"platform": {"answers": False, "why": why}}
        used = Amount()
        for job in snapshot.jobs:
            if not job.state.ended:
                used += Amount(job.cores, job.memory_gib, job.disc_gb, 1)
        held = Amount()
        for hold in holds_of(reservations, snapshot, now):
            # What an offer for now keeps begins this moment.
            if hold.start <= now and (hold.end is None or hold.end > now):
                held += hold.amount
        quota = Amount(config.quota.cores, config.quota.memory_gib, config.quota.disc_gb, config.limits.jobs)
        nothing = Amount()
        return document | {
            "platform": {"answers": True, "observed": format_instant(snapshot.taken)},
            "in_use": asdict(used),
            "reserved": asdict((held - used).most(nothing)),
            "free": asdict((quota - held.most(used)).most(nothing)),
        }

    def health(self) -> Document:
        """Tell whether the platform answered when it was last asked."""
        observation = self.lifecycle.observation
        state = "unknown" if observation.snapshot is None else "up"
        if observation.failed is not None:
            state = "down"
        return {"name": self.config.name, "status": "ok", "platform": state}


def _by(client: str, kind: str) -> Note:
    return Note(f"urn:caesar:planner:{kind}", "${client} " + kind + " it", {"client": client})
