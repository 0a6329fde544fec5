"""Offers that nobody wants any more: rejected or cancelled in the background until each is settled or expired."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import Gauge

from planner_app.execution_broker.models import Phase
from planner_app.voter.accept import dismiss, is_rejected
from planner_app.voter.ballots import Ballots, Fate, HeldOffer
from planner_app.voter.planners import NoReply, Planner, Planners, Reply

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0
"""Seconds between two attempts to reject or cancel; each is twice the one before, up to the longest."""


class Unwanted:
    """What is being rejected and cancelled; `gauge` shows how much."""

    def __init__(
        self,
        planners: Planners,
        ballots: Ballots,
        timeout: timedelta,
        gauge: Gauge,
        spawn: Callable[[Any], None],
    ) -> None:
        """Take what bounds each call, and how something is done in the background."""
        self._planners, self._ballots, self._timeout = planners, ballots, timeout
        self._gauge, self._spawn = gauge, spawn
        self._under_way: set[tuple[str, str, str]] = set()

    async def dismiss_of(self, ballot: str) -> None:
        """Begin with what is on record, which takes a moment: the answer to the client goes out first."""
        self.dismiss(await self._ballots.unwanted(ballot))

    def dismiss(self, offers: Sequence[HeldOffer]) -> None:
        """Reject or cancel offers behind everybody's back, until each is settled or expired."""
        new = [offer for offer in offers if offer.key not in self._under_way]
        self._under_way.update(offer.key for offer in new)
        self._gauge.set(len(self._under_way))
        plain: dict[str, list[HeldOffer]] = {}
        for offer in new:
            if offer.fate is Fate.TO_CANCEL or self._planners.get(offer.planner) is None:
                self._spawn(self._dismiss_one(offer))
            else:
                plain.setdefault(offer.planner, []).append(offer)
        if plain:
            self._spawn(self._reject_all(plain))

    async def _reject_all(self, plain: Mapping[str, Sequence[HeldOffer]]) -> None:
        """Reject at once what many planners have offered; what is not settled by that is gone on with one by one."""
        left = {(offer.planner, offer.session): offer for offers in plain.values() for offer in offers}
        rejected: list[HeldOffer] = []
        recording = False

        async def record() -> None:
            nonlocal recording
            try:
                while rejected:
                    done = rejected.copy()
                    rejected.clear()
                    await self._ballots.settle_all(done, Fate.GONE)
                    self._dismissed(done)
            finally:
                recording = False

        def took(planner: Planner, session: str, outcome: Reply | NoReply) -> None:
            nonlocal recording
            key = (planner.name, session)
            if key in left and isinstance(outcome, Reply) and is_rejected(outcome):
                rejected.append(left.pop(key))
                if not recording:
                    recording = True
                    self._spawn(record())

        sessions = {
            planner: [offer.session for offer in offers]
            for name, offers in plain.items()
            if (planner := self._planners.get(name)) is not None
        }
        await self._planners.update_phases(sessions, Phase.REJECTED, self._timeout, took)
        for offer in left.values():
            self._spawn(self._dismiss_one(offer, after=_FIRST_WAIT))

    async def _dismiss_one(self, offer: HeldOffer, after: float = 0.0) -> None:
        planner = self._planners.get(offer.planner)
        cancel, wait = offer.fate is Fate.TO_CANCEL, _FIRST_WAIT
        try:
            await asyncio.sleep(after)
            # An offer that was perhaps accepted may run: only its planner's word settles it.
            while planner is not None and not await dismiss(
                self._planners, planner, offer.session, self._timeout, cancel=cancel
            ):
                if not cancel and (offer.expires is None or offer.expires < datetime.now(UTC)):
                    break
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
            await self._ballots.settle(offer.ballot, offer.planner, offer.session, Fate.GONE)
        finally:
            self._dismissed([offer])

    def _dismissed(self, offers: Sequence[HeldOffer]) -> None:
        self._under_way.difference_update(offer.key for offer in offers)
        self._gauge.set(len(self._under_way))
