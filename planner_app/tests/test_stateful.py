"""Any interleaving of what clients, the platform, the clock and a kill can do to a planner, in virtual time.

What is promised is read from the planner's replies, as a client sees it, and added up by brute force here:
nothing of how the planner counts is used to check it.
"""

import asyncio
import random
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from planner_app.execution_broker import kinds
from planner_app.execution_broker.models import EnumValueUpdate, ExecutionRequest
from planner_app.execution_broker.times import parse_duration, parse_instant, parse_interval
from planner_app.planner.quoting import RELEASING, Amount, Profile, holds_of
from planner_app.planner.service import IllegalUpdate
from planner_app.platforms.protocol import JobState
from tests.fakes import Clock, FakePlanner, FakePlatform, request_of

HOUR = timedelta(hours=1)
FINAL = {"REJECTED", "EXPIRED", "COMPLETED", "FAILED", "CANCELLED"}
_T = TypeVar("_T")


class Platform(FakePlatform):
    """Starts jobs when there is room in the account for them, the oldest first, as Slurm and Kubernetes do."""

    def __init__(self, clock: Clock, quota: Amount) -> None:
        super().__init__(clock)
        self.quota = quota
        self.walltimes: dict[str, timedelta | None] = {}

    def used(self) -> Amount:
        running = [job for job in self.jobs.values() if job.state is JobState.RUNNING]
        return sum((Amount(job.cores, job.memory_gib, job.disc_gb, 1) for job in running), Amount())

    def progress(self) -> None:
        for job in list(self.jobs.values()):
            if job.state is JobState.RUNNING and job.ends_by is not None and job.ends_by <= self.clock():
                self.end(job.job_id, JobState.FAILED, None, "TIMEOUT")
        for job in list(self.jobs.values()):
            if job.state is JobState.PENDING:
                if not (self.used() + Amount(job.cores, job.memory_gib, job.disc_gb, 1)).fits(self.quota):
                    break
                walltime = next((spec.walltime for spec in self.specs if spec.session == job.session), None)
                self.run(job.job_id, walltime if job.session else self.walltimes.get(job.job_id))


@dataclass
class Promise:
    """A session as the latest reply showed it."""

    uuid: str
    offerset: str
    phase: str
    amount: Amount
    start: datetime
    end: datetime
    duration: timedelta
    expires: datetime | None


def promise_of(document: dict[str, Any], offerset: str) -> Promise:
    compute, schedule = document["compute"], document["schedule"]
    disc = sum(each["size"]["min"] for each in document.get("storage", ()))
    duration = parse_duration(schedule["available"]["duration"])
    return Promise(
        uuid=document["meta"]["uuid"],
        offerset=offerset,
        phase=document["phase"],
        amount=Amount(compute["cores"]["min"], compute["memory"]["min"], disc, 1),
        start=parse_instant(schedule["preparing"]["start"]),
        end=parse_interval(schedule["available"]["start"]).end + duration + RELEASING,
        duration=duration,
        expires=parse_instant(document["expires"]) if "expires" in document else None,
    )


class Planner(RuleBasedStateMachine):
    """A planner, its clients, its platform and the time."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp(prefix="stateful-"))
        self.clock = Clock()
        self.quota = Amount(8, 32, 250, 4)
        self.platform = Platform(self.clock, self.quota)
        self.planner = FakePlanner(self.directory, self.platform)
        self.sessions: dict[str, Promise] = {}
        self.order: list[str] = []

    def run(self, call: Coroutine[Any, Any, _T]) -> _T:
        return self.loop.run_until_complete(call)

    def see(self, document: dict[str, Any], offerset: str) -> Promise:
        seen = promise_of(document, offerset)
        if seen.uuid not in self.sessions:
            self.order.append(seen.uuid)
        self.sessions[seen.uuid] = seen
        return seen

    def read(self, uuid: str) -> Promise:
        return self.see(self.run(self.planner.service.session("voter", UUID(uuid))), self.sessions[uuid].offerset)

    # What is promised, added up from the replies and from the jobs that could be seen.

    def promised(self, time: datetime) -> Amount:
        """What is promised for one instant, of all that is known now."""
        now, snapshot = self.clock(), self.planner.lifecycle.observation.snapshot
        seen = snapshot.jobs if snapshot is not None else ()
        jobs = {str(job.session): job for job in seen if job.session is not None}
        total, sets = Amount(), dict[str, Amount]()
        for session in self.sessions.values():
            job, start, end = jobs.get(session.uuid), session.start, session.end
            if session.phase in FINAL:
                continue
            if session.phase == "OFFERED":
                assert session.expires is not None
                if session.expires > now and start <= time < end:
                    sets[session.offerset] = sets.get(session.offerset, Amount()).most(session.amount)
                continue
            if job is not None and job.state is JobState.RUNNING:
                assert job.ends_by is not None
                start, end = now, max(job.ends_by, now)
            elif session.phase == "RELEASING" or (job is not None and job.state.ended):
                continue  # the platform counts it no more
            elif session.phase in ("PREPARING", "AVAILABLE"):
                end = max(end, now + session.duration)
            if start <= time < end:
                total += session.amount
        for job in seen:
            ours = job.session is not None and self.sessions[str(job.session)].phase not in FINAL
            if not ours and not job.state.ended and (job.ends_by is None or time < max(job.ends_by, now)):
                total += Amount(job.cores, job.memory_gib, job.disc_gb, 1)
        return sum(sets.values(), total)

    @rule(
        cores=st.tuples(st.integers(1, 5), st.none() | st.integers(0, 8)),
        memory=st.tuples(st.integers(1, 17), st.none() | st.integers(0, 20)),
        disc=st.none() | st.tuples(st.integers(0, 200), st.integers(0, 40)),
        start=st.none() | st.tuples(st.integers(-10, 150), st.integers(0, 60)),
        minutes=st.none() | st.integers(1, 125),
    )
    def request(
        self,
        cores: tuple[int, int | None],
        memory: tuple[int, int | None],
        disc: tuple[int, int] | None,
        start: tuple[int, int] | None,
        minutes: int | None,
    ) -> None:
        parts: dict[str, Any] = {}
        requested: dict[str, str] = {}
        if start is not None:
            begin = self.clock() + timedelta(minutes=start[0])
            requested["start"] = f"{begin.isoformat()}/PT{start[1]}M"
        if minutes is not None:
            requested["duration"] = f"PT{minutes}M"
        if disc is not None:
            parts["storage"] = [{"kind": kinds.SIMPLE_STORAGE, "size": {"min": disc[0], "max": disc[0] + disc[1]}}]
        asked = request_of(
            cores=(cores[0], None if cores[1] is None else cores[0] + cores[1]),
            memory=(memory[0], None if memory[1] is None else memory[0] + memory[1]),
            schedule={"requested": requested},
            **parts,
        )
        for session in self.sessions:
            self.read(session)
        before = {uuid: session.phase for uuid, session in self.sessions.items()}
        reply = self.run(self.planner.service.request("voter", ExecutionRequest.model_validate(asked)))
        offers = [self.see(document, reply["meta"]["uuid"]) for document in reply["offers"]]
        assert (reply["result"] == "YES") == bool(offers)
        assert offers or reply["meta"]["messages"]
        for uuid, phase in before.items():
            assert self.read(uuid).phase == phase  # an offer takes nothing away from anybody
        times = {time for session in self.sessions.values() for time in (session.start, session.end, self.clock())}
        for offer in offers:
            assert offer.start >= self.clock() - timedelta(seconds=1)
            for time in (*times, offer.start):
                if offer.start <= time < offer.end:
                    assert self.promised(time).fits(self.quota), f"{self.promised(time)} of {self.quota} at {time}"

    def change(self, number: int, value: str) -> tuple[str, str]:
        """Update a session; returns its phase before, and after or that it was refused."""
        uuid = self.order[number % len(self.order)]
        before = self.read(uuid).phase
        update = EnumValueUpdate(path="/phase", value=value)
        document = None
        with suppress(IllegalUpdate):
            document = self.run(self.planner.service.update("voter", UUID(uuid), update))
        if document is None:
            assert self.read(uuid).phase == before
            return before, "REFUSED"
        return before, self.see(document, self.sessions[uuid].offerset).phase

    @precondition(lambda self: self.order)
    @rule(number=st.integers(0, 1000))
    def accept(self, number: int) -> None:
        before, after = self.change(-1 - number, "ACCEPTED")
        assert after == ("ACCEPTED" if before == "OFFERED" else "REFUSED")
        if after == "ACCEPTED":
            mine = self.order[(-1 - number) % len(self.order)]
            for uuid, session in list(self.sessions.items()):
                if uuid != mine and session.offerset == self.sessions[mine].offerset:
                    assert self.read(uuid).phase in ("REJECTED", "EXPIRED")

    @precondition(lambda self: self.order)
    @rule(number=st.integers(0, 1000))
    def reject(self, number: int) -> None:
        before, after = self.change(-1 - number, "REJECTED")
        assert after == ("REJECTED" if before == "OFFERED" else "REFUSED")

    @precondition(lambda self: self.order)
    @rule(number=st.integers(0, 1000))
    def cancel(self, number: int) -> None:
        before, after = self.change(number, "CANCELLED")
        if before in ("ACCEPTED", "WAITING"):
            assert after == "CANCELLED"
        elif before in ("PREPARING", "AVAILABLE"):
            assert after == "RELEASING"
        else:
            assert after == "REFUSED"

    @rule(seconds=st.sampled_from([1, 5, 30, 59, 60, 61, 600, 3600, 7300]), looks=st.integers(0, 3))
    def wait(self, seconds: int, looks: int) -> None:
        self.clock.forward(seconds)
        self.platform.progress()
        self.run(self.planner.look(looks))

    @rule(looks=st.integers(1, 3))
    def look(self, looks: int) -> None:
        self.clock.forward(2.5)
        for _ in range(looks):
            self.run(self.planner.look())
            self.platform.progress()

    @rule(number=st.integers(0, 100), good=st.booleans())
    def job_ends(self, number: int, good: bool) -> None:
        running = [job.job_id for job in self.platform.jobs.values() if job.state is JobState.RUNNING]
        if running:
            state = JobState.COMPLETED if good else JobState.FAILED
            self.platform.end(running[number % len(running)], state, 0 if good else 3)
            self.platform.progress()

    @rule(
        cores=st.integers(1, 4),
        memory=st.integers(1, 8),
        minutes=st.none() | st.integers(1, 90),
    )
    def foreign_job(self, cores: int, memory: int, minutes: int | None) -> None:
        job = self.platform.add(None, cores, memory)
        self.platform.walltimes[job] = None if minutes is None else timedelta(minutes=minutes)
        self.platform.progress()

    @rule(down=st.booleans())
    def platform_goes_or_comes(self, down: bool) -> None:
        self.platform.down = "no route to host" if down else ""

    @rule()
    def answer_of_the_next_submission_is_lost(self) -> None:
        self.platform.loses_answer = True

    @rule()
    def kill(self) -> None:
        """The planner is gone at once and a new one finds what is in the ledger."""
        self.run(self.planner.client.aclose())
        self.planner.lifecycle._thread.stop()
        self.planner.lifecycle.ledger.close()
        self.planner = FakePlanner(self.directory, self.platform)

    @invariant()
    def the_account_is_never_overdrawn_by_us(self) -> None:
        assert self.platform.used().fits(self.quota)
        sessions = [job.session for job in self.platform.jobs.values() if job.session is not None]
        assert len(sessions) == len(set(sessions))  # and no job runs twice

    @invariant()
    def memory_is_what_the_ledger_says(self) -> None:
        ledger = self.planner.lifecycle.ledger
        again = type(ledger)(self.planner.config.database)
        assert {row.uuid: row for row in again.live()} == {row.uuid: row for row in ledger.live()}
        again.close()

    @invariant()
    def the_book_holds_what_is_held(self) -> None:
        snapshot, now = self.planner.lifecycle.observation.snapshot, self.clock()
        if snapshot is None or any(row.phase == "OFFERED" and row.expires <= now for row in self.live()):
            return
        book = self.planner.lifecycle.ledger._book.profile(snapshot, now)
        plain = Profile(holds_of(self.planner.lifecycle.ledger.reservations(), snapshot, now))
        times = [now, *plain.changes(now, now + 100 * HOUR), *book.changes(now, now + 100 * HOUR)]
        moment = timedelta(microseconds=1)
        for time in times:
            assert book.most_held(time, time + moment) == plain.most_held(time, time + moment)

    def live(self) -> list[Any]:
        return self.planner.lifecycle.ledger.live()

    def teardown(self) -> None:
        """Let everything come to its end: every session has a final phase, and nothing stays reserved."""
        try:
            self.platform.down = ""
            self.platform.loses_answer = False
            for _ in range(40):
                self.clock.forward(1800)
                self.platform.progress()
                self.run(self.planner.look(2))
                for job in list(self.platform.jobs.values()):
                    if job.state is JobState.RUNNING and job.ends_by is None:
                        self.platform.end(job.job_id, JobState.COMPLETED, 0)
                if not self.live():
                    break
            for uuid in self.sessions:
                assert self.read(uuid).phase in FINAL
            assert self.planner.lifecycle.ledger.reservations() == []
            ours = [job for job in self.platform.jobs.values() if job.session is not None]
            assert all(job.state.ended for job in ours)  # none is left running without a session
            assert {str(job.session) for job in ours} <= set(self.sessions)
        finally:
            self.run(self.planner.client.aclose())
            self.run(self.planner.lifecycle.stop())
            self.loop.close()
            shutil.rmtree(self.directory)


TestPlanner = Planner.TestCase
TestPlanner.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("seed", range(6))
def test_a_busy_afternoon(seed: int) -> None:
    """The same, longer and busier than what is found by shrinking: three in four steps ask or accept something."""
    dice = random.Random(seed)
    planner = Planner()
    try:
        for _ in range(60):
            act = dice.choices(
                ["request", "accept", "look", "wait", "reject", "cancel", "ends", "foreign", "down", "lost", "kill"],
                [8, 6, 6, 3, 1, 1, 2, 1, 0.7, 0.5, 0.7],
            )[0]
            if act == "request":
                start = (dice.randint(-5, 150), dice.randint(0, 60)) if dice.random() < 0.5 else None
                disc = (dice.randint(0, 100), dice.randint(0, 99)) if dice.random() < 0.3 else None
                planner.request(
                    cores=(dice.randint(1, 4), dice.randint(0, 8)),
                    memory=(dice.randint(1, 12), dice.randint(0, 20)),
                    disc=disc,
                    start=start,
                    minutes=dice.choice([None, 1, 20, 60, 120]),
                )
            elif act in ("accept", "reject", "cancel"):
                if planner.order:
                    getattr(planner, act)(number=dice.randint(0, 5))
            elif act == "look":
                planner.look(looks=2)
            elif act == "wait":
                planner.wait(seconds=dice.choice([5, 30, 61, 600, 3600]), looks=2)
            elif act == "ends":
                planner.job_ends(number=dice.randint(0, 9), good=dice.random() < 0.5)
            elif act == "foreign":
                planner.foreign_job(cores=2, memory=dice.randint(1, 8), minutes=dice.choice([None, 30, 90]))
            elif act == "down":
                planner.platform_goes_or_comes(down=not planner.platform.down)
            elif act == "lost":
                planner.answer_of_the_next_submission_is_lost()
            else:
                planner.kill()
            planner.the_account_is_never_overdrawn_by_us()
            planner.memory_is_what_the_ledger_says()
            planner.the_book_holds_what_is_held()
    finally:
        planner.teardown()
