"""Holding ballots: collect, choose, accept, reject, follow."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any
from uuid import UUID

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from planner_app.execution_broker.codecs import JSON, MalformedBody, encode
from planner_app.execution_broker.times import format_duration, format_instant, parse_duration, parse_instant
from planner_app.voter.accept import Outcome, accept, dismiss
from planner_app.voter.ballots import Ballots, Fate, HeldOffer, State, now_text
from planner_app.voter.choose import Answer, Candidate, Choice, Demand, Offer, Policy, Range, Verdict, choose
from planner_app.voter.collect import collect
from planner_app.voter.config import App, VoterConfig
from planner_app.voter.follow import followed
from planner_app.voter.planners import NoReply, Planner, Planners
from planner_app.voter.requests import Wish, build_request, demand_of
from planner_app.voter.text import one_line

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0
"""Seconds between two attempts to reject or cancel; each is twice the one before, up to the longest."""
_KEPT_HISTORY = 100


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


class Metrics:
    """What is counted, for Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.ballots = Counter(
            "caesar_voter_ballots", "Ballots by what became of them.", ["state"], registry=self.registry
        )
        self.answers = Counter(
            "caesar_voter_answers", "Planners' answers by verdict.", ["planner", "verdict"], registry=self.registry
        )
        self.wins = Counter("caesar_voter_wins", "Offers accepted.", ["planner"], registry=self.registry)
        self.vote = Histogram(
            "caesar_voter_vote_seconds",
            "From the question to the accepted offer.",
            buckets=(0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2, 4, 8),
            registry=self.registry,
        )
        self.followed = Gauge("caesar_voter_followed_sessions", "Sessions that run.", registry=self.registry)
        self.unwanted = Gauge(
            "caesar_voter_unwanted_offers", "Offers still to be rejected or cancelled.", registry=self.registry
        )


class Voter:
    """The voter. `start` takes up what an earlier one left, `close` leaves it for the next."""

    def __init__(self, config: VoterConfig, planners: Planners, ballots: Ballots) -> None:
        self.config = config
        self.planners = planners
        self.ballots = ballots
        self.metrics = Metrics()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watched: dict[str, dict[str, Any]] = {}
        """Ballots in state RUNNING, which the follower looks at."""
        self._wake = asyncio.Event()
        self._dismissing: set[tuple[str, str, str]] = set()

    async def start(self) -> None:
        """Take up unfinished ballots and offers that are to be rejected."""
        for ballot in await self.ballots.unfinished():
            if ballot["state"] == State.RUNNING:
                self._watch(ballot)
            else:
                self._spawn(self._resume(ballot))
        self._dismiss(await self.ballots.unwanted())
        self._spawn(self._follow())

    async def close(self) -> None:
        """Stop; what is unfinished is on record."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.planners.close()
        self.ballots.close()

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background work failed", exc_info=error)

    # --- one vote -------------------------------------------------------------------------------------

    async def vote(self, order: Order) -> dict[str, Any]:
        """Hold a ballot and return it, accepted or not. Planners' faults are in it; none is raised."""
        request = build_request(order.app, order.wish, order.input_path, f"{order.app_name}-{order.ballot[:8]}")
        demand = demand_of(order.app, order.wish)
        document: dict[str, Any] = {
            "created": now_text(),
            "client": order.client,
            "app": order.app_name,
            "upload": None if order.upload is None else str(order.upload),
            "policy": str(order.policy),
            "only": list(order.only),
            "accept": order.accept,
            "demand": _demand_document(demand),
            "request": request,
            "candidates": [],
            "message": "",
            "history": [],
            "timings": {},
        }
        _note(document, "VOTING")
        # Put on record while the planners think; nothing is accepted before both are done.
        creating = asyncio.ensure_future(self.ballots.create(order.ballot, document))
        return await self._hold(order.ballot, document, order.policy, demand, creating)

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
        answers = await collect(self.planners, asked, encode(document["request"], JSON), self.config.deadline)
        if creating is not None:
            await creating
        collected = monotonic()
        choice = choose(policy, demand, answers, datetime.now(UTC), self.config.clock_tolerance)
        chosen = monotonic()
        for answer in answers:
            self.metrics.answers.labels(answer.planner, answer.verdict).inc()
        document["candidates"] = _candidates(choice, answers)
        document["timings"] = {"collect_ms": _ms(collected - began), "choose_ms": _ms(chosen - collected)}
        wanted = document["accept"] and choice.winner is not None
        if not wanted:
            state = State.NO_OFFER if choice.winner is None else State.ASKED
            document["message"] = _summary(choice, len(answers))
            _note(document, state, document["message"])
            document["timings"]["total_ms"] = _ms(monotonic() - began)
            await self.ballots.decide(ballot, state, document, _fates(choice, answers, keep=False))
            self._count(state)
            self._spawn(self._dismiss_unwanted(ballot))
            return _ballot(ballot, state, document)
        await self.ballots.decide(ballot, State.ACCEPTING, document, _fates(choice, answers, keep=True))
        held = [HeldOffer(ballot, offer.planner, str(offer.uuid), offer.expires, Fate.HELD) for offer in choice.ranked]
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
            if planner is None:
                outcome = Outcome(None, "is not among the planners any more", settled=True)
            else:
                outcome = await accept(
                    self.planners, planner, offer.session, self.config.accept_timeout, look_first=resumed
                )
            if outcome.phase is not None:
                document["message"] = f"accepted by {offer.planner}"
                _mark(document, offer, chosen=True)
                _note(document, outcome.phase, document["message"])
                document["timings"]["total_ms"] = _ms(monotonic() - began)
                await self.ballots.accepted(ballot, offer.planner, offer.session, outcome.phase, document)
                if not resumed:
                    self.metrics.vote.observe(monotonic() - began)
                self.metrics.wins.labels(offer.planner).inc()
                log.info("accepted", ballot=ballot, planner=offer.planner, session=offer.session)
                winner = {"planner": offer.planner, "session": offer.session}
                accepted = _ballot(ballot, State.RUNNING, document, outcome.phase, winner)
                self._watch(accepted)
                self._spawn(self._dismiss_unwanted(ballot))
                return accepted
            log.warning("offer lost", ballot=ballot, planner=offer.planner, reason=outcome.reason)
            _mark(document, offer, lost=outcome.reason)
            _note(document, State.ACCEPTING, f"{offer.planner}: {outcome.reason}")
            fate = Fate.LOST if outcome.settled else Fate.TO_CANCEL
            await self.ballots.settle(ballot, offer.planner, offer.session, fate)
        document["message"] = "no planner gave what it had offered"
        _note(document, State.NO_OFFER, document["message"])
        document["timings"]["total_ms"] = _ms(monotonic() - began)
        await self.ballots.end(ballot, State.NO_OFFER, document)
        self._count(State.NO_OFFER)
        self._spawn(self._dismiss_unwanted(ballot))
        return _ballot(ballot, State.NO_OFFER, document)

    async def _resume(self, ballot: dict[str, Any]) -> None:
        """Take up a ballot that an earlier voter left in the middle of the vote."""
        document = _bare(ballot)
        _note(document, ballot["state"], "taken up again by a restarted voter")
        if ballot["state"] == State.ACCEPTING:
            held = await self.ballots.held(ballot["id"])
            await self._accept(ballot["id"], document, held, monotonic(), resumed=True)
        elif document["accept"]:
            # No offer of the first round was accepted, and those that are held expire: ask again.
            demand = _read_demand(document["demand"])
            await self._hold(ballot["id"], document, Policy.parse(document["policy"]), demand)
        else:
            document["message"] = "the voter was restarted during the question"
            _note(document, State.NO_OFFER, document["message"])
            await self.ballots.end(ballot["id"], State.NO_OFFER, document)
            self._count(State.NO_OFFER)

    def _count(self, state: State) -> None:
        self.metrics.ballots.labels(state).inc()

    # --- what is not wanted any more --------------------------------------------------------------------

    async def _dismiss_unwanted(self, ballot: str) -> None:
        """Begin with what is on record, which takes a moment: the answer to the client goes out first."""
        self._dismiss(await self.ballots.unwanted(ballot))

    def _dismiss(self, offers: Sequence[HeldOffer]) -> None:
        """Reject or cancel offers behind everybody's back, until each is settled or expired."""
        for offer in offers:
            key = (offer.ballot, offer.planner, offer.session)
            if key not in self._dismissing:
                self._dismissing.add(key)
                self.metrics.unwanted.set(len(self._dismissing))
                self._spawn(self._dismiss_one(offer, key))

    async def _dismiss_one(self, offer: HeldOffer, key: tuple[str, str, str]) -> None:
        planner = self.planners.get(offer.planner)
        cancel, wait = offer.fate is Fate.TO_CANCEL, _FIRST_WAIT
        try:
            # An offer that was perhaps accepted may run: only its planner's word settles it.
            while planner is not None and not await dismiss(
                self.planners, planner, offer.session, self.config.accept_timeout, cancel=cancel
            ):
                if not cancel and (offer.expires is None or offer.expires < datetime.now(UTC)):
                    break
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
            await self.ballots.settle(offer.ballot, offer.planner, offer.session, Fate.GONE)
        finally:
            self._dismissing.discard(key)
            self.metrics.unwanted.set(len(self._dismissing))

    # --- what runs --------------------------------------------------------------------------------------

    def _watch(self, ballot: dict[str, Any]) -> None:
        self._watched[ballot["id"]] = ballot
        self.metrics.followed.set(len(self._watched))
        self._wake.set()

    async def _follow(self) -> None:
        """Look at all running sessions once an interval; without any there is nothing to wake up for."""
        while True:
            if not self._watched:
                self._wake.clear()
                await self._wake.wait()
            await asyncio.sleep(self.config.poll_every.total_seconds())
            await asyncio.gather(*(self._look(ballot) for ballot in list(self._watched.values())))

    async def _look(self, ballot: dict[str, Any]) -> None:
        planner = self.planners.get(ballot["winner"]["planner"])
        if planner is None:
            await self._end(ballot, State.FAILED, None, "its planner is not among the planners any more")
            return
        seen = await followed(self.planners, planner, ballot["winner"]["session"], self.config.accept_timeout)
        if seen.state.ended:
            await self._end(ballot, seen.state, seen.phase, seen.message)
        elif seen.phase not in (None, ballot["phase"]) or seen.message != ballot.get("trouble", ""):
            document = _bare(ballot)
            document["trouble"] = seen.message
            _note(document, seen.phase or ballot["phase"], seen.message)
            phase = seen.phase or ballot["phase"]
            await self.ballots.follow(ballot["id"], phase, document)
            self._watched[ballot["id"]] = ballot | document | {"phase": phase}

    async def _end(self, ballot: dict[str, Any], state: State, phase: str | None, message: str) -> None:
        document = _bare(ballot)
        document["message"] = message
        document.pop("trouble", None)
        _note(document, phase or state, message)
        await self.ballots.end(ballot["id"], state, document, phase)
        self._watched.pop(ballot["id"], None)
        self.metrics.followed.set(len(self._watched))
        self._count(state)
        log.info("ended", ballot=ballot["id"], state=state, message=message)

    async def cancel(self, ballot: dict[str, Any]) -> tuple[bool, str]:
        """Ask the winner's planner to cancel; say whether it took that, and what it said if not.

        The ballot itself ends when the session is seen to have ended.
        """
        planner = self.planners.get(ballot["winner"]["planner"])
        if planner is None:
            return False, "its planner is not among the planners any more"
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


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _note(document: dict[str, Any], phase: str, message: str = "") -> None:
    """Add a line to a ballot's history."""
    history = document["history"]
    history.append({"time": now_text(), "phase": str(phase), "message": message})
    del history[:-_KEPT_HISTORY]


def _ballot(
    ballot: str,
    state: State,
    document: Mapping[str, Any],
    phase: str | None = None,
    winner: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Put a ballot together as `Ballots.get` gives it."""
    return {"id": ballot, "state": state, "phase": phase, "winner": winner} | dict(document)


def _bare(ballot: Mapping[str, Any]) -> dict[str, Any]:
    """Take off a ballot what its row has columns for; the history may then be added to."""
    bare = {key: value for key, value in ballot.items() if key not in ("id", "state", "phase", "winner")}
    return bare | {"history": list(ballot["history"])}


def _candidates(choice: Choice, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    by_planner = {answer.planner: answer for answer in answers}
    return [_candidate(candidate, by_planner[candidate.planner]) for candidate in choice.candidates]


def _candidate(candidate: Candidate, answer: Answer) -> dict[str, Any]:
    offer = candidate.offer
    document: dict[str, Any] = {
        "planner": candidate.planner,
        "verdict": candidate.verdict,
        "rank": candidate.rank,
        "chosen": candidate.rank == 1,
        "reason": candidate.reason,
        "elapsed_ms": _ms(answer.elapsed),
        "offer": None,
    }
    if offer is not None:
        document["offer"] = {
            "session": str(offer.uuid),
            "url": offer.url,
            "cores": offer.cores,
            "memory_gib": offer.memory_gib,
            "start": format_instant(offer.start),
            "duration": format_duration(offer.duration),
            "expires": format_instant(offer.expires),
            "costs": dict(offer.costs),
            "metrics": dict(offer.metrics),
        }
    return document


def _mark(document: dict[str, Any], offer: HeldOffer, *, chosen: bool = False, lost: str = "") -> None:
    """Write into the candidates what became of an offer when it was to be accepted."""
    for candidate in document["candidates"]:
        if candidate["offer"] is not None and candidate["offer"]["session"] == offer.session:
            if candidate["planner"] != offer.planner:
                continue
            candidate["chosen"] = chosen
            if lost:
                candidate["reason"] = lost
            elif candidate["rank"] != 1:
                candidate["reason"] = f"taken after the better ones were lost; {candidate['reason']}"


def _fates(
    choice: Choice, answers: Sequence[Answer], *, keep: bool
) -> list[tuple[str, UUID, int | None, datetime | None, Fate]]:
    """Say what is to become of every offer that has an id."""
    rows: list[tuple[str, UUID, int | None, datetime | None, Fate]] = []
    for candidate in choice.candidates:
        if (offer := candidate.offer) is not None:
            fate = Fate.HELD if keep and candidate.rank is not None else Fate.TO_REJECT
            rows.append((offer.planner, offer.uuid, candidate.rank, offer.expires, fate))
    rows.extend(
        (answer.planner, bad.uuid, None, None, Fate.TO_REJECT)
        for answer in answers
        for bad in answer.unusable
        if bad.uuid is not None
    )
    return rows


def _summary(choice: Choice, asked: int) -> str:
    winner: Offer | None = choice.winner
    if winner is not None:
        return f"{winner.planner} would win; {len(choice.ranked)} offers can"
    silent = sum(candidate.verdict is not Verdict.NO and candidate.offer is None for candidate in choice.candidates)
    return f"none of {asked} planners can" + (f"; {silent} gave no proper answer" if silent else "")


def _demand_document(demand: Demand) -> dict[str, Any]:
    return {
        "cores": {"min": demand.cores.min, "max": demand.cores.max},
        "memory_gib": {"min": demand.memory_gib.min, "max": demand.memory_gib.max},
        "duration": format_duration(demand.duration),
        "start": None if demand.start is None else [format_instant(instant) for instant in demand.start],
        "max_costs": dict(demand.max_costs),
        "min_metrics": dict(demand.min_metrics),
    }


def _read_demand(document: Mapping[str, Any]) -> Demand:
    start = document["start"]
    return Demand(
        cores=Range(**document["cores"]),
        memory_gib=Range(**document["memory_gib"]),
        duration=parse_duration(document["duration"]),
        start=None if start is None else (parse_instant(start[0]), parse_instant(start[1])),
        max_costs=document["max_costs"],
        min_metrics=document["min_metrics"],
    )
