"""Asking all planners at once, and making an answer of whatever comes back."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from time import monotonic
from typing import Any
from urllib.parse import urljoin
from uuid import UUID

from pydantic import ValidationError

from planner_app.execution_broker import kinds
from planner_app.execution_broker.codecs import JSON, MalformedBody
from planner_app.execution_broker.models import OfferSet, Phase, Session, SimpleCompute, field_name
from planner_app.voter.alike import Alike
from planner_app.voter.answers import Answer, Offer, Unusable, Verdict
from planner_app.voter.planners import Before, NoReply, Planner, Planners, Reply
from planner_app.voter.quick import MAX_OFFERS, read_plain, read_plain_set
from planner_app.voter.requests import traceparent
from planner_app.voter.text import one_line

_NONE = timedelta(0)
_MANY = 20
"""Planners from which on a template of their answers pays: making one takes as long as reading ten without it."""


async def collect(
    planners: Planners,
    asked: Iterable[Planner],
    request: bytes,
    deadline: timedelta,
    *,
    trace: str = "",
    with_load: bool = False,
) -> tuple[Answer, ...]:
    """Ask all planners at once and wait until all have answered or the deadline is over. Raises nothing.

    `with_load` asks each before the request how much of its platform is taken: afterwards its offers would count.
    """
    asked = list(asked)
    began, sent = monotonic(), datetime.now(UTC)
    answers: dict[str, Answer] = {}
    again: dict[str, asyncio.Task[Answer]] = {}
    loads: dict[str, float | None] = {}
    since: dict[str, datetime] = {}
    alike = Alike() if len(asked) >= _MANY else None

    def took(planner: Planner, outcome: Reply | NoReply) -> None:
        # Read as they come, while others are waited for. What needs a second call is rare, and has a task.
        asked_at = since.get(planner.name, sent)
        if _to_be_asked_again(outcome):
            again[planner.name] = asyncio.create_task(
                _go_on(planners, planner, outcome, request, deadline, trace, began, asked_at)
            )
        else:
            answers[planner.name] = _answer_of(planner, outcome, deadline, began, asked_at, alike)

    def took_load(planner: Planner, outcome: Reply | NoReply) -> None:
        loads[planner.name] = _load_of(outcome)
        since[planner.name] = datetime.now(UTC)

    # A third of the time and no more: who does not say loses by that criterion, not its vote.
    before = Before("/capabilities", deadline / 3, took_load) if with_load else None
    try:
        await planners.call_all(asked, "/requests", deadline, request, _headers(trace), took, before)
        for name, task in again.items():
            answers[name] = await task
    finally:
        for task in again.values():
            task.cancel()
    late = NoReply("", timeout=True)
    found = [answers.get(planner.name) or _answer_of(planner, late, deadline, began, sent) for planner in asked]
    return tuple([_loaded(answer, loads.get(answer.planner)) for answer in found] if with_load else found)


def _load_of(outcome: Reply | NoReply) -> float | None:
    with suppress(MalformedBody):
        return read_load(outcome.document()) if isinstance(outcome, Reply) and outcome.status == 200 else None
    return None


def _loaded(answer: Answer, load: float | None) -> Answer:
    if load is None:
        return answer
    return answer._replace(load=load, offers=tuple(offer._replace(load=load) for offer in answer.offers))


def read_load(document: Any) -> float | None:
    """Find in a planner's capabilities the share of its quota that is taken: the larger of cores and memory."""
    try:
        quota, free = document["quota"], document["free"]
        shares = [1 - float(free[name]) / float(quota[name]) for name in ("cores", "memory_gib")]
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return round(min(max(*shares, 0.0), 1.0), 3)


def _headers(trace: str) -> dict[str, str]:
    return {"traceparent": traceparent(trace)} if trace else {}


def _to_be_asked_again(outcome: Reply | NoReply) -> bool:
    """Whether the first outcome is not the last: an idle connection that the planner closed, or a redirect."""
    if isinstance(outcome, NoReply):
        return outcome.closed_idle  # a question may be asked again
    return outcome.status in (301, 302, 303, 307, 308)


async def _go_on(
    planners: Planners,
    planner: Planner,
    outcome: Reply | NoReply,
    request: bytes,
    deadline: timedelta,
    trace: str,
    began: float,
    sent: datetime,
) -> Answer:
    """Make the answer of the first outcome, and of a second call where that needs one, within the same deadline."""

    def left() -> timedelta:
        return max(deadline - timedelta(seconds=monotonic() - began), timedelta(0))

    try:
        if isinstance(outcome, NoReply) and _to_be_asked_again(outcome):
            outcome = await planners.call(planner, "POST", "/requests", left(), request, _headers(trace))
        if isinstance(outcome, Reply) and _to_be_asked_again(outcome):
            outcome = await _follow(planners, planner, outcome, left())
    except NoReply as failure:
        outcome = failure
    return _answer_of(planner, outcome, deadline, began, sent)


def _answer_of(
    planner: Planner,
    outcome: Reply | NoReply,
    deadline: timedelta,
    began: float,
    sent: datetime,
    alike: Alike | None = None,
) -> Answer:
    """Make an answer of what came, or did not come, at last."""
    elapsed = monotonic() - began
    if isinstance(outcome, NoReply):
        if outcome.timeout:
            reason, verdict = f"no answer within {deadline.total_seconds():g} s", Verdict.TIMEOUT
        else:
            reason, verdict = str(outcome), Verdict.NONSENSE if outcome.cut else Verdict.UNREACHABLE
        return Answer(planner.name, verdict, (reason,), elapsed=elapsed)
    answered = read_answer(planner, outcome, sent, datetime.now(UTC), elapsed, alike)
    if answered.verdict in (Verdict.NONSENSE, Verdict.ERROR):
        return answered._replace(excerpt=one_line(outcome.body[:1000].decode("utf-8", "replace")))
    return answered


async def _follow(planners: Planners, planner: Planner, reply: Reply, timeout: timedelta) -> Reply:
    """Fetch what a redirect points to, from the same planner only: our token is not for others."""
    location = urljoin(planner.url + "/requests", reply.headers.get("location", ""))
    if not location.startswith(planner.url + "/"):
        raise NoReply("redirects to somewhere else", cut=True)
    target = location.removeprefix(planner.url)
    return await planners.call(planner, "GET", target, timeout)


def read_answer(
    planner: Planner,
    reply: Reply,
    sent: datetime,
    received: datetime,
    elapsed: float = 0.0,
    alike: Alike | None = None,
) -> Answer:
    """Make an answer of a reply; nothing that a reply can be raises. `alike` knows those that were read before."""
    if reply.status not in (200, 201):
        if reply.status >= 500:
            verdict, reason = Verdict.ERROR, f"answered {reply.status}{problem(reply)}"
        elif reply.status >= 400:
            verdict, reason = Verdict.REFUSED, f"refused with {reply.status}{problem(reply)}"
        else:
            verdict, reason = Verdict.NONSENSE, f"answered status {reply.status}"
        return Answer(planner.name, verdict, (reason,), elapsed=elapsed)
    name, url, plain = planner.name, planner.sessions_url, None
    if alike is not None and reply.headers.get("content-type") == JSON:
        plain = alike.read(name, url, reply.body)
    if plain is None:
        try:
            document = reply.document()
        except MalformedBody as error:
            return Answer(name, Verdict.NONSENSE, (one_line(str(error)),), elapsed=elapsed)
        plain = read_plain_set(name, url, document)
        if plain is None:
            return _read_part_by_part(planner, reply, document, sent, received, elapsed)
        if alike is not None:
            alike.learn(name, url, reply.body, document, plain)
    made, offers = plain
    return Answer(name, Verdict.OFFERS, (), offers, (), _clock_offset(made, reply, sent, received), elapsed)


def _read_part_by_part(
    planner: Planner, reply: Reply, document: Any, sent: datetime, received: datetime, elapsed: float
) -> Answer:
    """Make an answer of what is not plain, or wrong somewhere; what is wrong costs no more than itself."""

    def answer(verdict: Verdict, *reasons: str, **more: Any) -> Answer:
        return Answer(planner.name, verdict, reasons, elapsed=elapsed, **more)

    if not isinstance(document, dict):
        return answer(Verdict.NONSENSE, "answered something that is no offer set")
    # Offers are read one by one, so that a bad one does not spoil the others.
    offers = document.pop("offers", None) or []
    try:
        offer_set = OfferSet.model_validate(document, extra="ignore")
    except ValidationError as error:
        return answer(Verdict.NONSENSE, _first_error(error))
    if not isinstance(offers, list) or len(offers) > MAX_OFFERS:
        return answer(Verdict.NONSENSE, f"offers: must be a list of at most {MAX_OFFERS}")
    created = offer_set.meta.created if offer_set.meta else None
    clock_offset = _clock_offset(created, reply, sent, received)

    if offer_set.result == "NO":
        messages = (offer_set.meta.messages if offer_set.meta else None) or []
        # The name stands beside the reason already.
        said = [one_line(message.message.removeprefix(f"{planner.name}: ")) for message in messages if message.message]
        if not said and offer_set.description:
            said = [one_line(offer_set.description)]
        unread = tuple(
            Unusable("; ".join(["says NO, and offers all the same", *said]), *_identity(planner, offer))
            for offer in offers
        )
        return answer(Verdict.NO, *dict.fromkeys(said), unusable=unread, clock_offset=clock_offset)
    if offer_set.result is None:
        return answer(Verdict.NONSENSE, "says neither YES nor NO")
    if not offers:
        return answer(Verdict.NONSENSE, "says YES without an offer")

    good: list[Offer] = []
    bad: list[Unusable] = []
    identities = [_identity(planner, offer) for offer in offers]
    times = Counter(uuid for uuid, _ in identities)
    told: set[str] = set()
    for index, (offer, (uuid, url)) in enumerate(zip(offers, identities, strict=True)):
        if uuid is None:
            bad.append(Unusable(f"offers[{index}].meta.uuid: missing or no uuid"))
        elif times[uuid] > 1:
            if uuid not in told:
                told.add(uuid)
                bad.append(Unusable(f"gives the id {uuid} to {times[uuid]} offers", uuid, url))
        elif (quick := read_plain(planner.name, planner.sessions_url, offer)) is not None:
            good.append(quick)
        else:
            read = read_offer(planner, offer, uuid, index)
            if isinstance(read, Offer):
                good.append(read)
            else:
                bad.append(Unusable(read, uuid, url))
    return answer(Verdict.OFFERS, offers=tuple(good), unusable=tuple(bad), clock_offset=clock_offset)


def _identity(planner: Planner, offer: Any) -> tuple[str | None, str | None]:
    """Find the id of an offer, however wrong the rest of it is; its address is made of the planner's own."""
    try:
        uuid = str(UUID(offer["meta"]["uuid"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None, None
    return uuid, planner.session_url(uuid)


def read_offer(planner: Planner, offer: Any, uuid: str, index: int) -> Offer | str:
    """Read an offer, or say in one line what is wrong with it."""
    where = f"offers[{index}]"
    try:
        session = Session.model_validate(offer, extra="ignore")
    except ValidationError as error:
        return f"{where}.{_first_error(error)}"
    if session.phase is not Phase.OFFERED:
        return f"{where}.phase: is {session.phase or 'missing'}, not OFFERED"
    if session.expires is None:
        return f"{where}.expires: missing"
    compute = session.compute
    if not isinstance(compute, SimpleCompute):
        return f"{where}.compute: missing or of an unknown kind"
    if compute.cores is None or (cores := _sure(compute.cores.min, compute.cores.max)) is None:
        return f"{where}.compute.cores: must say how many"
    if compute.memory is None or (memory := _sure(compute.memory.min, compute.memory.max)) is None:
        return f"{where}.compute.memory: must say how much"
    available = session.schedule.available if session.schedule else None
    if available is None or available.start is None or available.duration is None:
        return f"{where}.schedule.available: must have start and duration"
    costs: dict[str, float] = {}
    for cost in session.costs or []:
        number = _upper(getattr(cost, "min", None), getattr(cost, "max", None))
        kind = getattr(cost, "type", None)
        if isinstance(kind, str) and number is not None:
            name = kind.removeprefix(kinds.COST_TYPE_PREFIX)
            if number < 0:
                return f"{where}.costs: {one_line(name, 40)} is negative"
            # Said twice, the worse of the two counts.
            costs[name] = max(number, costs.get(name, number))
    metrics: dict[str, float] = {}
    for metric in session.metrics or []:
        number = _lower(getattr(metric, "min", None), getattr(metric, "max", None))
        kind = getattr(metric, "type", None)
        if isinstance(kind, str) and number is not None:
            name = kind.removeprefix(kinds.METRIC_TYPE_PREFIX)
            metrics[name] = min(number, metrics.get(name, number))
    try:
        finish = available.start.start + available.duration
    except OverflowError:
        return f"{where}.schedule.available: ends after the year 9999"
    del finish
    return Offer(
        planner=planner.name,
        uuid=uuid,
        url=planner.session_url(uuid),
        cores=cores,
        memory_gib=memory,
        start=available.start.start,
        duration=available.duration,
        expires=session.expires,
        costs=costs,
        metrics=metrics,
    )


def _sure(least: int | None, most: int | None) -> int | None:
    """What is surely given: the lower end of a range."""
    return least if least is not None else most


def _upper(least: Any, most: Any) -> float | None:
    return most if isinstance(most, float | int) else least if isinstance(least, float | int) else None


def _lower(least: Any, most: Any) -> float | None:
    return least if isinstance(least, float | int) else most if isinstance(most, float | int) else None


def _clock_offset(said: datetime | None, reply: Reply, sent: datetime, received: datetime) -> timedelta | None:
    """Tell how far a planner's clock is ahead of ours, from the time it says it made its answer."""
    if said is not None and sent <= said <= received:
        return _NONE
    slack = _NONE
    if said is None:
        try:
            said = parsedate_to_datetime(reply.headers["date"])
        except (KeyError, ValueError, TypeError):
            return None
        if said.tzinfo is None:
            return None
        slack = timedelta(seconds=1)  # the header has whole seconds only
    if said < sent - slack:
        return said - sent
    if said > received + slack:
        return said - received
    return _NONE


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return one_line(f"{field_name(first['loc']) or 'body'}: {first['msg'].removeprefix('Value error, ')}")


def problem(reply: Reply) -> str:
    """The reason in a problem body (RFC 9457), as the end of a line."""
    try:
        document = reply.document()
    except MalformedBody:
        return ""
    if not isinstance(document, dict):
        return ""
    said = [document.get(key) for key in ("detail", "title")]
    words = next((text for text in said if isinstance(text, str) and text.strip()), None)
    return f": {one_line(words)}" if words else ""


def read_phase(document: Any) -> Phase | None:
    """Find the phase of a session in a reply; None where there is none."""
    try:
        return Phase(document["phase"])
    except (KeyError, TypeError, ValueError):
        return None


def read_messages(document: Any) -> list[str]:
    """Find what a session's planner says about it, oldest first."""
    try:
        messages = document["meta"]["messages"] or []
        return [one_line(m["message"]) for m in messages if isinstance(m.get("message"), str)]
    except (KeyError, TypeError, AttributeError):
        return []
