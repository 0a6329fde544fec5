"""Sessions from the offer to the end, on a platform in memory."""

import asyncio
import random
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_app.execution_broker import kinds
from planner_app.execution_broker.models import Phase
from planner_app.execution_broker.times import parse_instant
from planner_app.planner.ledger import SessionRow
from planner_app.planner.quoting import Amount
from planner_app.platforms.protocol import JobState, JobStatus
from tests.fakes import NINE, FakePlanner, start_in


async def test_a_session_runs_to_its_end(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        session = await planner.accepted()
        await planner.look()
        assert await planner.phase(session) == "PREPARING"
        job = planner.platform.only()
        planner.clock.forward(3)
        planner.platform.run(job)
        await planner.look()
        assert await planner.phase(session) == "AVAILABLE"
        planner.clock.forward(60)
        planner.platform.end(job, JobState.COMPLETED, 0, "COMPLETED 0:0")
        await planner.look()
        assert await planner.phase(session) == "RELEASING"
        await planner.look()
        document = await planner.session(session)
        assert document["phase"] == "COMPLETED"
        assert "options" not in document["meta"]
        assert planner.platform.collected == [job]
        said = [message["message"] for message in document["meta"]["messages"]]
        assert "the job ended: COMPLETED 0:0" in said
        assert (await planner.client.get(f"/sessions/{session}/stdout")).text == "58 islands\n"


async def test_the_job_is_what_was_offered(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        await planner.accepted(cores=(3, 4), memory=(5, 6))
        await planner.look()
        (job,) = planner.platform.specs
        assert (job.cores, job.memory_gib, job.walltime) == (3, 5, timedelta(hours=1))
        assert job.command == ("--run",)
        assert dict(job.environment) == {"JOB_OUTDIR": "/output"}
        assert (job.directory / "outputs").is_dir()


@pytest.mark.parametrize(
    ("state", "phase"),
    [(JobState.FAILED, "FAILED"), (JobState.CANCELLED, "CANCELLED"), (JobState.COMPLETED, "COMPLETED")],
)
async def test_a_job_that_was_never_seen_running(tmp_path: Path, state: JobState, phase: str) -> None:
    async with FakePlanner(tmp_path) as planner:
        session = await planner.accepted()
        await planner.look()
        planner.clock.forward(3)
        planner.platform.end(planner.platform.only(), state, 125, "OUT_OF_MEMORY 0:125")
        await planner.look(2)
        document = await planner.session(session)
        assert document["phase"] == phase
        said = "the session failed: the job ended: OUT_OF_MEMORY 0:125"
        assert (document["meta"]["messages"][-1]["message"] == said) == (phase == "FAILED")


async def test_accepting_rejects_the_sibling_and_frees_it(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        offers = (await planner.ask(cores=(1, 4)))["offers"]
        assert [offer["compute"]["cores"]["min"] for offer in offers] == [1, 4]
        small, large = (offer["meta"]["uuid"] for offer in offers)
        await planner.update(small, "ACCEPTED")
        assert await planner.phase(large) == "REJECTED"
        assert (await planner.client.get("/capabilities")).json()["free"]["cores"] == 7


async def test_an_offer_expires_and_frees_its_share(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        for _ in range(2):
            assert (await planner.ask(cores=(4, 4)))["result"] == "YES"
        # The earliest is after the first two, which may be accepted until their last moment.
        session = (await planner.ask(cores=(4, 4), schedule=start_in(0, 7200)))["offers"][0]
        assert session["schedule"]["available"]["start"] == "2026-11-24T10:01:15Z/PT0S"
        planner.clock.forward(61)
        await planner.look()
        assert await planner.phase(session["meta"]["uuid"]) == "EXPIRED"
        assert (await planner.client.get("/capabilities")).json()["free"]["cores"] == 8


async def test_a_start_in_the_future_waits(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        session = await planner.accepted(schedule=start_in(1800))
        await planner.look()
        assert await planner.phase(session) == "WAITING"
        assert not planner.platform.specs
        planner.clock.forward(1796)
        await planner.look()
        assert await planner.phase(session) == "PREPARING"
        assert len(planner.platform.specs) == 1


async def test_a_waiting_session_is_cancelled_at_once(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        session = await planner.accepted(schedule=start_in(1800))
        await planner.look()
        assert (await planner.update(session, "CANCELLED")).json()["phase"] == "CANCELLED"
        planner.clock.forward(1800)
        await planner.look()
        assert not planner.platform.specs


async def test_a_running_session_is_cancelled_when_its_job_has_ended(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        session = await planner.accepted()
        await planner.look()
        job = planner.platform.only()
        planner.platform.run(job)
        planner.clock.forward(3)
        await planner.look()
        assert (await planner.update(session, "CANCELLED")).json()["phase"] == "RELEASING"
        await planner.look()
        assert planner.platform.jobs[job].state is JobState.CANCELLED
        planner.clock.forward(3)
        await planner.look(2)
        assert await planner.phase(session) == "CANCELLED"
        assert planner.platform.collected == [job]


async def test_a_session_cancelled_before_it_was_submitted(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        session = await planner.accepted()
        planner.platform.down = "slurmctld is away"
        await planner.look()
        assert await planner.phase(session) == "PREPARING"
        assert (await planner.update(session, "CANCELLED")).json()["phase"] == "RELEASING"
        planner.platform.down = ""
        planner.clock.forward(3)
        await planner.look()
        assert await planner.phase(session) == "CANCELLED"
        assert not planner.platform.specs


async def test_a_platform_that_is_down_delays_the_submission(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        session = await planner.accepted()
        planner.platform.down = "slurmctld is away"
        await planner.look(3)
        assert await planner.phase(session) == "PREPARING"
        planner.platform.down = ""
        planner.clock.forward(3)
        await planner.look()
        assert len(planner.platform.specs) == 1


async def test_a_submission_whose_answer_is_lost_is_not_made_twice(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        await planner.accepted()
        planner.platform.loses_answer = True
        await planner.look()
        planner.clock.forward(3)
        await planner.look(2)
        assert len(planner.platform.jobs) == 1


async def test_a_platform_that_stays_down_fails_the_session_in_the_end(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        session = await planner.accepted()
        planner.platform.down = "slurmctld is away"
        planner.clock.forward(2 * 3600)
        await planner.look()
        assert await planner.phase(session) == "FAILED"


async def test_a_refused_job_fails_with_the_platforms_reason(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        session = await planner.accepted()
        planner.platform.refuses = "QOSMaxCpuPerJobLimit"
        await planner.look()
        document = await planner.session(session)
        assert document["phase"] == "FAILED"
        assert document["meta"]["messages"][-1]["message"] == "the platform refused the job: QOSMaxCpuPerJobLimit"
        assert document["meta"]["messages"][-1]["level"] == "ERROR"
        # What was kept for it is free at once.
        assert (await planner.client.get("/capabilities")).json()["free"]["cores"] == 8


async def test_components_follow_their_session(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        location = f"file://{planner.config.storage.data}/one/map.fits"
        offered = await planner.ask(
            data=[{"kind": kinds.SIMPLE_DATA, "meta": {"name": "map"}, "location": location}],
            storage=[{"kind": kinds.SIMPLE_STORAGE, "meta": {"name": "out"}, "size": {"min": 1}}],
        )
        session = str(offered["offers"][0]["meta"]["uuid"])

        async def phases() -> tuple[str, set[str | None]]:
            document = await planner.session(session)
            components = [document["executable"], document["compute"], *document["data"], *document["storage"]]
            return document["phase"], {each.get("phase") for each in components}

        # The schema's components have no word for what is only offered or accepted.
        assert await phases() == ("OFFERED", {None})
        await planner.update(session, "ACCEPTED")
        assert await phases() == ("ACCEPTED", {None})
        await planner.look()
        assert await phases() == ("PREPARING", {"PREPARING"})
        job = planner.platform.only()
        planner.platform.run(job)
        planner.clock.forward(3)
        await planner.look()
        assert await phases() == ("AVAILABLE", {"AVAILABLE"})
        planner.platform.end(job, JobState.COMPLETED, 0, "COMPLETED 0:0")
        planner.clock.forward(3)
        await planner.look()
        assert await phases() == ("RELEASING", {"RELEASING"})
        await planner.look()
        assert await phases() == ("COMPLETED", {"COMPLETED"})


async def test_an_offer_holds_for_a_minute_unless_the_configuration_says_otherwise(tmp_path: Path) -> None:
    for name, changes, seconds in (("a", {}, 60), ("b", {"offers": {"expire_after": "PT5S"}}, 5)):
        (tmp_path / name).mkdir()
        async with FakePlanner(tmp_path / name, **changes) as planner:
            offer = (await planner.ask())["offers"][0]
            assert parse_instant(offer["expires"]) - parse_instant(offer["meta"]["created"]) == timedelta(
                seconds=seconds
            )


async def test_a_job_that_vanished(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        session = await planner.accepted()
        await planner.look()
        planner.platform.jobs.clear()
        planner.clock.forward(10)
        await planner.look()
        assert await planner.phase(session) == "PREPARING"  # a snapshot may lag behind a submission
        planner.clock.forward(30)
        await planner.look(2)
        assert await planner.phase(session) == "FAILED"


@pytest.mark.parametrize("lost", ["answer", "id", "nothing"])
async def test_a_killed_planner_goes_on_where_it_was(tmp_path: Path, lost: str) -> None:
    first = FakePlanner(tmp_path)
    session = await first.accepted()
    if lost == "nothing":
        await first.look()
    else:
        # Killed between the submission and its record, or before the submission.
        first.platform.loses_answer = lost == "answer"
        first.platform.down = "" if lost == "answer" else "killed before it could ask"
        await first.look()
        first.platform.down = ""
    assert await first.phase(session) == "PREPARING"
    await first.client.aclose()  # and nothing else: as if killed
    first.clock.forward(5)
    async with FakePlanner(tmp_path, first.platform) as second:
        await second.look()
        assert len(second.platform.jobs) == 1
        second.clock.forward(5)
        second.platform.run(second.platform.only())
        await second.look()
        assert await second.phase(session) == "AVAILABLE"
    await first.lifecycle.stop()


async def test_one_observation_for_all(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        for _ in range(4):
            await planner.accepted(cores=(1, 1), memory=(1, 1))
        await planner.look()
        planner.clock.forward(3)
        before = planner.platform.observations
        await planner.look()
        assert planner.platform.observations == before + 1


async def test_requests_at_once_share_one_observation(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        answers = await asyncio.gather(*(planner.ask(cores=(1, 1), memory=(1, 1)) for _ in range(4)))
        assert [answer["result"] for answer in answers] == ["YES"] * 4
        assert planner.platform.observations == 1


async def test_the_same_core_is_not_offered_twice(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        # Eight cores, four jobs: of ten that want three cores at nine, two get an offer for nine.
        answers = await asyncio.gather(*(planner.ask(cores=(3, 3), schedule=start_in(10, 55)) for _ in range(10)))
        assert sum(answer["result"] == "YES" for answer in answers) == 2


async def test_an_idle_planner_sleeps(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        assert await planner.lifecycle.look() is None
        assert planner.platform.observations == 0
        await planner.ask()
        assert await planner.lifecycle.look() == pytest.approx(60)
        assert planner.platform.observations == 1


async def test_the_loop_drives_a_session_by_itself(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path, observe_every="PT0.05S") as planner:
        planner.clock.now = NINE
        planner.lifecycle.start()
        session = await planner.accepted()
        async with asyncio.timeout(5):
            while not planner.platform.jobs:
                await asyncio.sleep(0.01)
            planner.platform.run(planner.platform.only())
            while await planner.phase(session) != "AVAILABLE":
                planner.clock.forward(0.1)
                await asyncio.sleep(0.01)
            planner.platform.end(planner.platform.only(), JobState.COMPLETED, 0)
            while await planner.phase(session) != "COMPLETED":
                planner.clock.forward(0.1)
                await asyncio.sleep(0.01)


async def test_the_loop_survives_a_driver_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakePlanner(tmp_path, offers={"snapshot_age": "PT0S"}) as planner:
        session = await planner.accepted()
        await planner.look()

        async def nonsense() -> None:
            raise KeyError("jobs")

        with monkeypatch.context() as broken:
            broken.setattr(planner.platform, "observe", nonsense)
            planner.clock.forward(3)
            await planner.look()
            assert (await planner.ask())["result"] == "NO"
        planner.platform.run(planner.platform.only())
        planner.clock.forward(3)
        await planner.look()
        assert await planner.phase(session) == "AVAILABLE"


# Any interleaving of what clients, jobs and restarts do: what is promised never exceeds the quota.


@dataclass(frozen=True)
class Ask:
    cores: tuple[int, int]
    memory: tuple[int, int]
    minutes: int
    start: int
    window: int


@dataclass(frozen=True)
class Change:
    which: int
    value: str


@dataclass(frozen=True)
class Forward:
    seconds: int


@dataclass(frozen=True)
class End:
    which: int


@dataclass(frozen=True)
class Restart:
    pass


def story(seed: int, length: int) -> list[object]:
    """The beginning of a story. Dice make longer and odder ones than hypothesis does of lists."""
    dice = random.Random(seed)
    return [dice_action(dice) for _ in range(length)]


def dice_action(dice: random.Random) -> object:
    match dice.choice(["ask"] * 4 + ["change"] * 4 + ["forward"] * 2 + ["end", "restart"]):
        case "ask":
            cores = dice.choice([(1, 1), (3, 3), (4, 4), (1, 4), (3, 4)])
            return Ask(cores, (1, 1), dice.choice([1, 10, 60]), dice.choice([0, 0, 10, 60]), dice.choice([1, 180]))
        case "change":
            return Change(dice.randint(1, 4), dice.choice(["ACCEPTED"] * 4 + ["REJECTED", "CANCELLED"]))
        case "forward":
            return Forward(dice.choice([1, 20, 58, 60, 600, 4000]))
        case "end":
            return End(dice.randrange(4))
        case _:
            return Restart()


class World:
    """A planner, clients and jobs, one action after the other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.planner = FakePlanner(directory, observe_every="PT300S")
        self.sessions: list[str] = []

    async def act(self, action: object) -> None:
        match action:
            case Ask():
                await self.ask(action)
            case Change(which, value) if self.sessions:
                reply = await self.planner.update(self.sessions[-min(which, len(self.sessions))], value)
                assert reply.status_code in (200, 409)
            case Forward(seconds):
                await self.forward(seconds)
            case End(which) if jobs := self.running():
                self.planner.platform.end(jobs[which % len(jobs)], JobState.COMPLETED, 0)
            case Restart():
                old = self.planner
                await old.client.aclose()
                await old.lifecycle.stop()
                self.planner = FakePlanner(self.directory, old.platform, observe_every="PT300S")
        await self.settle()
        self.check()

    async def ask(self, action: Ask) -> None:
        start = (self.planner.clock() + timedelta(minutes=action.start)).isoformat()
        requested = {"start": f"{start}/PT{action.window}M", "duration": f"PT{action.minutes}M"}
        schedule = {"requested": requested}
        answer = await self.planner.ask(cores=action.cores, memory=action.memory, schedule=schedule)
        self.sessions.extend(offer["meta"]["uuid"] for offer in answer["offers"])

    def running(self) -> list[str]:
        return [job.job_id for job in self.planner.platform.jobs.values() if not job.state.ended]

    async def settle(self) -> None:
        """Jobs start as soon as they are submitted, and the planner sees it."""
        for _ in range(4):
            self.planner.lifecycle.observation.snapshot = None
            await self.planner.look()
            for spec in self.planner.platform.specs:
                job = await self.planner.platform.find(spec.session)
                assert job is not None
                if job.state is JobState.PENDING:
                    self.planner.platform.run(job.job_id, spec.walltime)

    async def forward(self, seconds: float) -> None:
        """Let time pass from one due moment to the next; jobs end when their time is over."""
        end = self.planner.clock() + timedelta(seconds=seconds)
        while (now := self.planner.clock()) < end:
            pause = await self.planner.lifecycle.look()
            ends = [job.ends_by for job in self.planner.platform.jobs.values() if not job.state.ended and job.ends_by]
            due = [end, *ends] if pause is None else [end, *ends, now + timedelta(seconds=pause)]
            self.planner.clock.now = max(min(due), now + timedelta(milliseconds=1))
            for job in list(self.planner.platform.jobs.values()):
                if not job.state.ended and job.ends_by is not None and job.ends_by <= self.planner.clock():
                    self.planner.platform.end(job.job_id, JobState.FAILED, None, "TIMEOUT")
            await self.settle()
            self.check()

    def check(self) -> None:
        """What would run if all offers were accepted now, and if all were at their last moment."""
        now = self.planner.clock()
        rows = self.planner.service.ledger.live()
        jobs = {job.session: job for job in self.planner.platform.jobs.values()}
        for last_moment in (False, True):
            spans = [self.span(row, jobs.get(row.uuid), now, last_moment) for row in rows]
            for time in {start for start, _ in spans}:
                running = [row for row, (start, end) in zip(rows, spans, strict=True) if start <= time < end]
                sets: dict[object, Amount] = {}
                for row in running:
                    key = row.offerset if row.phase is Phase.OFFERED else row.uuid
                    sets[key] = row.amount.most(sets.get(key, Amount()))
                total = sum(sets.values(), start=Amount())
                assert total.fits(Amount(8, 32, 250, 4)), f"{total} at {time}"
        # No job twice, and none without a session.
        assert len(jobs) == len(self.planner.platform.jobs)
        assert {uuid for uuid, job in jobs.items() if not job.state.ended} <= {row.uuid for row in rows}

    @staticmethod
    def span(row: SessionRow, job: JobStatus | None, now: datetime, last_moment: bool) -> tuple[datetime, datetime]:
        if job is not None:
            end = job.ended if job.state.ended else job.ends_by
            assert end is not None
            return now, end
        if row.phase is Phase.OFFERED and row.expires > now:
            accepted = row.expires if last_moment else now
            start = max(row.start.start, accepted + timedelta(seconds=5))
        else:
            start = row.start.start
        return start, start + row.duration if row.phase is not Phase.OFFERED or row.expires > now else start


@given(st.integers(0, 2**32).flatmap(lambda seed: st.builds(story, st.just(seed), st.integers(5, 30))))
@settings(max_examples=30, deadline=None)
def test_what_is_promised_never_exceeds_the_quota(happens: list[object]) -> None:
    async def play() -> None:
        with tempfile.TemporaryDirectory() as directory:
            world = World(Path(directory))
            for action in happens:
                await world.act(action)
            await world.planner.client.aclose()
            await world.planner.lifecycle.stop()

    asyncio.run(play())


async def test_what_a_platform_tells_is_acted_on_at_once(tmp_path: Path) -> None:
    """Else the next look at a platform that tells by itself is half a minute away."""
    async with FakePlanner(tmp_path) as planner:
        planner.platform.tells = True
        session = await planner.accepted()
        planner.lifecycle.start()

        async def reaches(phase: str) -> None:
            async with asyncio.timeout(20):
                while await planner.phase(session) != phase:
                    await asyncio.sleep(0.01)

        async with asyncio.timeout(20):
            while not planner.platform.specs:
                await asyncio.sleep(0.01)
        planner.platform.run(planner.platform.only())
        planner.platform.news.set()
        await reaches("AVAILABLE")
        planner.platform.end(planner.platform.only(), JobState.COMPLETED, 0)
        planner.platform.news.set()
        await reaches("COMPLETED")


async def test_a_step_that_failed_is_tried_again(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path, observe_every="PT0.05S") as planner:
        session = await planner.accepted()
        planner.platform.down = "away"
        planner.lifecycle.start()
        async with asyncio.timeout(20):
            while planner.platform.submissions < 2:
                planner.clock.forward(0.05)
                await asyncio.sleep(0.01)
        planner.platform.down = ""
        async with asyncio.timeout(20):
            while await planner.phase(session) != "PREPARING" or not planner.platform.specs:
                planner.clock.forward(0.05)
                await asyncio.sleep(0.01)


async def test_a_job_that_comes_back_after_its_session_is_cancelled(tmp_path: Path) -> None:
    """As slurmctld brings one back that was killed before it wrote the job's end."""
    async with FakePlanner(tmp_path) as planner:
        session = await planner.accepted()
        await planner.look()
        job = planner.platform.only()
        planner.clock.forward(3)
        planner.platform.end(job, JobState.COMPLETED, 0)
        await planner.look(2)
        assert await planner.phase(session) == "COMPLETED"
        planner.platform.run(job)
        foreign = planner.platform.add(uuid4(), 1, 1)
        planner.platform.run(foreign)
        await planner.accepted(cores=(1, None))  # something is live, so that it looks
        planner.clock.forward(3)
        await planner.look(2)
        assert planner.platform.jobs[job].state is JobState.CANCELLED
        assert planner.platform.jobs[foreign].state is JobState.RUNNING, "another ledger's session is not ours to end"
