"""Holding ballots: collect, choose, accept, reject, follow."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any
from uuid import UUID

import structlog

from planner_app.execution_broker.codecs import JSON, MalformedBody, encode
from planner_app.voter.accept import Outcome, accept
from planner_app.voter.answers import Demand
from planner_app.voter.ballots import Ballots, Fate, HeldOffer, State, now_text
from planner_app.voter.budgets import Budget, Budgets
from planner_app.voter.choose import choose
from planner_app.voter.collect import collect
from planner_app.voter.config import App, VoterConfig
from planner_app.voter.documents import (
    answer_documents,
    ballot_document,
    bare,
    candidate_documents,
    costs_of,
    demand_document,
    fates,
    mark,
    ms,
    note,
    read_demand,
    references,
    summary,
)
from planner_app.voter.follow import followed
from planner_app.voter.metrics import Metrics
from planner_app.voter.planners import NoReply, Planner, Planners
from planner_app.voter.policy import Key, Policy
from planner_app.voter.requests import Wish, build_request, demand_of
from planner_app.voter.text import one_line
from planner_app.voter.unwanted import Unwanted

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_LOOKS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Order:
    """What a client wants to be voted on."""

    ballot: str
    app_name: str
    app: App
    wish: Wish
    policy: Policy
    only: tuple[str, ...]
    """Names of the planners to ask; none for all."""
    accept: bool
    input_path: str | None
    upload: UUID | None
    client: str
    user: str
    """Whose budget it is."""
    trace: str
    """32 hexadecimal digits under which planners and platforms know the job too."""
    job: Mapping[str, Any] | None = None
    """The job of caesar-rest that it is for: its id and the number of the attempt."""


class Voter:
    """The voter. `start` takes up what an earlier one left, `close` leaves it for the next."""

    def __init__(self, config: VoterConfig, planners: Planners, ballots: Ballots) -> None:
        self.config = config
        self.planners = planners
        self.ballots = ballots
        self.budgets = Budgets(
            ballots.database, [Budget(each.user, each.cost, each.amount, each.period) for each in config.budgets]
        )
        self.metrics = Metrics()
        self.on_change: Callable[[dict[str, Any]], None] = lambda _ballot: None
        """Told of every ballot that is followed, when it begins to be and when its phase changes."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._watched: dict[str, dict[str, Any]] = {}
        """Ballots in state RUNNING, which the follower looks at."""
        self._wake = asyncio.Event()
        self._looks = asyncio.Semaphore(_LOOKS_AT_ONCE)
        self._waiting: dict[str, asyncio.Event] = {}
        self._unwanted = Unwanted(planners, ballots, config.accept_timeout, self.metrics.unwanted, self.spawn)

    async def start(self) -> None:
        """Take up unfinished ballots and offers that are to be rejected."""
        for ballot in await self.ballots.unfinished():
            if ballot["state"] == State.RUNNING:
                self._watch(ballot)
            else:
                self.spawn(self._resume(ballot))
        self._unwanted.dismiss(await self.ballots.unwanted())
        self.spawn(self._follow())

    async def close(self) -> None:
        """Stop; what is unfinished is on record."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.planners.close()
        self.ballots.close()

    def spawn(self, work: Any) -> None:
        """Do something in the background until the voter closes; what goes wrong is logged."""
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background work failed", exc_info=error)

    async def wait(self, ballot: str) -> dict[str, Any] | None:
        """Wait until a ballot has ended and return it; None where there is none of that id."""
        while True:
            event = self._waiting.setdefault(ballot, asyncio.Event())
            found = await self.ballots.get(ballot)
            if found is None or State(found["state"]).ended:
                self._waiting.pop(ballot, None)
                return found
            await event.wait()
            self._waiting.pop(ballot, None)

    # --- one vote -------------------------------------------------------------------------------------

    async def vote(self, order: Order) -> dict[str, Any]:
        """Hold a ballot and return it, accepted or not. Planners' faults are in it; none is raised."""
        # The one name that planners show with a session, and hand on to the platform's job.
        request = build_request(order.app, order.wish, order.input_path, f"{order.app_name}-{order.trace}", order.trace)
        demand = demand_of(order.app, order.wish)
        policy = order.policy.with_references(references(demand), self.config.references)
        document: dict[str, Any] = {
            "created": now_text(),
            "client": order.client,
            "user": order.user,
            "trace": order.trace,
            "job": order.job,
            "app": order.app_name,
            "upload": None if order.upload is None else str(order.upload),
            "policy": str(policy),
            "criteria": [str(criterion) for criterion in policy.criteria],
            "only": list(order.only),
            "accept": order.accept,
            "demand": demand_document(demand),
            "request": request,
            "answers": [],
            "candidates": [],
            "message": "",
            "history": [],
            "timings": {},
        }
        note(document, "VOTING")
        # Put on record while the planners think; nothing is accepted before both are done.
        creating = asyncio.ensure_future(self.ballots.create(order.ballot, document))
        return await self._hold(order.ballot, document, policy, demand, creating)

    async def _hold(
        self,
        ballot: str,
        document: dict[str, Any],
        policy: Policy,
        demand: Demand,
        creating: Awaitable[None] | None = None,
    ) -> dict[str, Any]:
        began = monotonic()
        names = document["only"] or self.planners.names()
        asked = [planner for name in names if (planner := self.planners.get(name)) is not None]
        answers = await collect(
            self.planners,
            asked,
            encode(document["request"], JSON),
            self.config.deadline,
            trace=document["trace"],
            with_load=Key.LOAD in policy.keys,
        )
        collected = monotonic()
        if creating is not None:
            await creating
        demand = replace(demand, budgets=await self.budgets.left(document["user"]))
        choice = choose(policy, demand, answers, datetime.now(UTC), self.config.clock_tolerance)
        chosen = monotonic()
        for answer in answers:
            self.metrics.answers.labels(answer.planner, answer.verdict).inc()
        document["answers"] = answer_documents(answers)
        document["candidates"] = candidate_documents(choice, answers, policy)
        document["timings"] = {"collect_ms": ms(collected - began), "choose_ms": ms(chosen - collected)}
        wanted = document["accept"] and choice.winner is not None
        if not wanted:
            state = State.NO_OFFER if choice.winner is None else State.ASKED
            document["message"] = summary(choice, len(answers))
            note(document, state, document["message"])
            document["timings"]["total_ms"] = ms(monotonic() - began)
            await self.ballots.decide(ballot, state, document, fates(choice, answers, keep=False))
            self._over(ballot, state)
            self.spawn(self._unwanted.dismiss_of(ballot))
            return ballot_document(ballot, state, document)
        await self.ballots.decide(ballot, State.ACCEPTING, document, fates(choice, answers, keep=True))
        held = [HeldOffer(ballot, offer.planner, offer.uuid, offer.expires, Fate.HELD) for offer in choice.ranked]
        return await self._accept(ballot, document, held, began)

    async def _accept(
        self,
        ballot: str,
        document: dict[str, Any],
        held: Sequence[HeldOffer],
        began: float,
        *,
        resumed: bool = False,
    ) -> dict[str, Any]:
        """Accept the first offer that its planner gives, in order of rank."""
        for offer in held:
            planner = self.planners.get(offer.planner)
            too_much = await self.budgets.take(ballot, document["user"], costs_of(document, offer))
            if too_much is not None:
                outcome = Outcome(None, too_much, unwanted=True)
            elif planner is None:
                outcome = Outcome(None, "is not among the planners any more")
            else:
                outcome = await accept(
                    self.planners, planner, offer.session, self.config.accept_timeout, look_first=resumed
                )
            if outcome.phase is not None:
                document["message"] = f"accepted by {offer.planner}"
                mark(document, offer, chosen=True)
                note(document, outcome.phase, document["message"])
                document["timings"]["total_ms"] = ms(monotonic() - began)
                await self.ballots.accepted(ballot, offer.planner, offer.session, outcome.phase, document)
                if not resumed:
                    self.metrics.vote.observe(monotonic() - began)
                self.metrics.wins.labels(offer.planner).inc()
                log.info(
                    "accepted", ballot=ballot, trace=document["trace"], planner=offer.planner, session=offer.session
                )
                winner = {"planner": offer.planner, "session": offer.session}
                accepted = ballot_document(ballot, State.RUNNING, document, outcome.phase, winner)
                self._watch(accepted)
                self.spawn(self._unwanted.dismiss_of(ballot))
                return accepted
            log.warning("offer lost", ballot=ballot, planner=offer.planner, reason=outcome.reason)
            mark(document, offer, lost=outcome.reason)
            note(document, State.ACCEPTING, f"{offer.planner}: {outcome.reason}")
            fate = Fate.TO_REJECT if outcome.unwanted else Fate.LOST if outcome.settled else Fate.TO_CANCEL
            await self.ballots.settle(ballot, offer.planner, offer.session, fate)
        document["message"] = "no planner gave what it had offered"
        note(document, State.NO_OFFER, document["message"])
        document["timings"]["total_ms"] = ms(monotonic() - began)
        await self.ballots.end(ballot, State.NO_OFFER, document, free_of_charge=True)
        self._over(ballot, State.NO_OFFER)
        self.spawn(self._unwanted.dismiss_of(ballot))
        return ballot_document(ballot, State.NO_OFFER, document)

    async def _resume(self, ballot: dict[str, Any]) -> None:
        """Take up a ballot that an earlier voter left in the middle of the vote."""
        # An older voter's ballots had neither.
        document = {"trace": UUID(ballot["id"]).hex, "user": ballot["client"]} | bare(ballot)
        note(document, ballot["state"], "taken up again by a restarted voter")
        if ballot["state"] == State.ACCEPTING:
            held = await self.ballots.held(ballot["id"])
            await self._accept(ballot["id"], document, held, monotonic(), resumed=True)
        elif document["accept"]:
            # No offer of the first round was accepted, and those that are held expire: ask again.
            demand = read_demand(document["demand"])
            await self._hold(ballot["id"], document, Policy.parse(document["policy"]), demand)
        else:
            document["message"] = "the voter was restarted during the question"
            note(document, State.NO_OFFER, document["message"])
            await self.ballots.end(ballot["id"], State.NO_OFFER, document)
            self._over(ballot["id"], State.NO_OFFER)

    def _over(self, ballot: str, state: State) -> None:
        self.metrics.ballots.labels(state).inc()
        if (event := self._waiting.get(ballot)) is not None:
            event.set()

    # --- what runs --------------------------------------------------------------------------------------

    def _watch(self, ballot: dict[str, Any]) -> None:
        self._watched[ballot["id"]] = ballot
        self.metrics.followed.set(len(self._watched))
        self._wake.set()
        self.on_change(ballot)

    async def _follow(self) -> None:
        """Look at all running sessions once an interval; without any there is nothing to wake up for."""
        while True:
            if not self._watched:
                self._wake.clear()
                await self._wake.wait()
            await asyncio.sleep(self.config.poll_every.total_seconds())
            await asyncio.gather(*(self._look_in_turn(ballot) for ballot in list(self._watched.values())))

    async def _look_in_turn(self, ballot: dict[str, Any]) -> None:
        async with self._looks:
            if ballot["id"] in self._watched:
                await self._look(ballot)

    async def _look(self, ballot: dict[str, Any]) -> None:
        planner = self.planners.get(ballot["winner"]["planner"])
        if planner is None:
            await self._end(ballot, State.FAILED, None, "its planner is not among the planners any more")
            return
        seen = await followed(self.planners, planner, ballot["winner"]["session"], self.config.accept_timeout)
        if seen.state.ended:
            await self._end(ballot, seen.state, seen.phase, seen.message, seen.facts)
            return
        news = {name: value for name, value in seen.facts.items() if name not in ballot}
        if news or seen.phase not in (None, ballot["phase"]) or seen.message != ballot.get("trouble", ""):
            document = bare(ballot) | news
            document["trouble"] = seen.message
            phase = seen.phase or ballot["phase"]
            if phase != ballot["phase"] or seen.message:
                note(document, phase, seen.message)
            await self.ballots.follow(ballot["id"], phase, document)
            self._watched[ballot["id"]] = changed = ballot | document | {"phase": phase}
            self.on_change(changed)

    async def _end(
        self,
        ballot: dict[str, Any],
        state: State,
        phase: str | None,
        message: str,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        document = bare(ballot) | dict(facts or {})
        document["message"] = message
        document.pop("trouble", None)
        note(document, phase or state, message)
        # What never ran costs nothing.
        await self.ballots.end(ballot["id"], state, document, phase, free_of_charge=not document.get("started"))
        self._watched.pop(ballot["id"], None)
        self.metrics.followed.set(len(self._watched))
        self._over(ballot["id"], state)
        log.info("ended", ballot=ballot["id"], trace=document.get("trace"), state=state, message=message)

    async def cancel(self, ballot: dict[str, Any]) -> tuple[bool, str]:
        """Ask the winner's planner to cancel; say whether it took that, and what it said if not.

        The ballot itself ends when the session is seen to have ended.
        """
        planner = self.planners.get(ballot["winner"]["planner"])
        if planner is None:
            return False, "its planner is not among the planners any more"
        # On record before it is asked: that the session ends cancelled is then what somebody wanted.
        if (watched := self._watched.get(ballot["id"])) is not None and not watched.get("cancelled"):
            watched["cancelled"] = now_text()
            await self.ballots.follow(ballot["id"], watched["phase"], bare(watched))
        try:
            reply = await self.planners.update_phase(
                planner, ballot["winner"]["session"], "CANCELLED", self.config.accept_timeout
            )
            document = reply.document()
        except (NoReply, MalformedBody) as failure:
            return False, f"{planner.name}: {failure}"
        # Taken or not: it may have ended meanwhile, which is then on record before the answer goes out.
        if (watched := self._watched.get(ballot["id"])) is not None:
            await self._look(watched)
        if reply.status == 200:
            return True, ""
        detail = document.get("detail") if isinstance(document, dict) else None
        return False, one_line(f"{planner.name} refused with {reply.status}: {detail or 'no reason given'}")

    # --- the platforms ----------------------------------------------------------------------------------

    async def platforms(self) -> list[dict[str, Any]]:
        """Ask all planners what they have; one that does not answer has a reason instead."""

        async def one(planner: Planner) -> dict[str, Any]:
            row: dict[str, Any] = {"name": planner.name, "url": planner.url, "answers": False, "reason": ""}
            try:
                reply = await self.planners.call(planner, "GET", "/capabilities", self.config.deadline)
                document = reply.document()
            except (NoReply, MalformedBody) as failure:
                return row | {"reason": str(failure)}
            if reply.status != 200 or not isinstance(document, dict):
                return row | {"reason": f"answered {reply.status}"}
            return document | row | {"answers": True}

        planners = [planner for name in self.planners.names() if (planner := self.planners.get(name))]
        return await asyncio.gather(*(one(planner) for planner in planners))
