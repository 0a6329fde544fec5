"""What is not free: offers, sessions, and jobs that somebody else runs in the account or namespace."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sized
from datetime import UTC, datetime, timedelta
from uuid import UUID

from planner_app.execution_broker.models import Phase
from planner_app.planner.quoting.amounts import RELEASING, Amount, Hold, Reservation, together
from planner_app.planner.quoting.profile import Profile
from planner_app.platforms.protocol import JobState, JobStatus, Snapshot

_EVER = datetime.min.replace(tzinfo=UTC)
_NEVER = datetime.max.replace(tzinfo=UTC)
_MOMENT = timedelta(microseconds=1)
_LATER = timedelta(days=10_000)


def holds_of(reservations: Iterable[Reservation], snapshot: Snapshot, now: datetime) -> list[Hold]:
    """Tell what is not free.

    A running job holds its share until it must have ended, however late it started; one that nobody knows
    the end of holds it for good.
    """
    jobs = {job.session: job for job in snapshot.jobs if job.session is not None}
    offered: defaultdict[UUID, list[Reservation]] = defaultdict(list)
    holds: list[Hold] = []
    sessions: set[UUID] = set()
    for reservation in reservations:
        if reservation.phase is not Phase.OFFERED:
            sessions.add(reservation.session)
            holds.append(hold_of(reservation, jobs.get(reservation.session), now))
        elif reservation.expires > now:
            offered[reservation.offerset].append(reservation)
    for job in snapshot.jobs:
        if not job.state.ended and job.session not in sessions:
            holds.append(hold_of_job(job, now))
    return [*(hold for offers in offered.values() for hold in together(offers)), *holds]


def hold_of(reservation: Reservation, job: JobStatus | None, now: datetime) -> Hold:
    """What a session holds that was accepted."""
    if reservation.ended or (job is not None and job.state.ended):
        return Hold(reservation.amount, now, now + RELEASING)
    if job is None or job.state is JobState.PENDING:
        end = reservation.reserved.end
        if reservation.phase not in (Phase.ACCEPTED, Phase.WAITING):
            # Not seen to run yet: it may start now, and then runs for all of its time.
            end = max(end, now + reservation.duration + RELEASING)
        return Hold(reservation.amount, reservation.reserved.start, end)
    end = job.ends_by or (job.started or now) + reservation.duration
    return Hold(reservation.amount, now, max(end, now) + RELEASING)


def hold_of_job(job: JobStatus, now: datetime) -> Hold:
    """What somebody else's job holds."""
    until = None if job.ends_by is None else max(job.ends_by, now) + RELEASING
    return Hold(Amount(job.cores, job.memory_gib, job.disc_gb, 1), now, until)


class Book:
    """The same as `holds_of`, kept up to date as sessions and snapshots come and go.

    Most holds stay what they are from one quote to the next; those that move with the time are put to each.
    """

    def __init__(self, reservations: Iterable[Reservation] = ()) -> None:
        self._sessions: dict[UUID, Reservation] = {}
        self._sets: defaultdict[UUID, dict[UUID, Reservation]] = defaultdict(dict)
        self._outstanding: Counter[str] = Counter()
        self._snapshot: Snapshot | None = None
        self._jobs: dict[UUID | None, list[JobStatus]] = {}
        self._profile = Profile()
        self._tidy_at = 0
        self._held: dict[UUID | str, list[Hold]] = {}
        self._moving: dict[UUID | str, Reservation | JobStatus] = {}
        self._moves_after = _EVER
        self._changed_sets: set[UUID] = set()
        # No offers: whoever has none yet or no more holds what their job holds, as before.
        self._changed: set[UUID | None] = set()
        for each in reservations:
            self.put(each)

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Reservation]:
        return iter(self._sessions.values())

    def outstanding(self, client: str) -> int:
        """How many offer sets a client has of which it could still accept one."""
        return self._outstanding[client]

    def put(self, reservation: Reservation) -> None:
        """Keep something for a session, instead of what was kept for it before."""
        self.drop(reservation.session)
        self._sessions[reservation.session] = reservation
        if reservation.phase is not Phase.OFFERED:
            self._changed.add(reservation.session)
        else:
            offers = self._sets[reservation.offerset]
            self._outstanding[reservation.client] += not offers
            offers[reservation.session] = reservation
            self._changed_sets.add(reservation.offerset)

    def drop(self, session: UUID) -> None:
        """Keep nothing for a session any more."""
        before = self._sessions.pop(session, None)
        if before is None:
            return
        if before.phase is not Phase.OFFERED:
            self._changed.add(session)
        else:
            self._changed_sets.add(before.offerset)
            offers = self._sets[before.offerset]
            del offers[session]
            if not offers:
                del self._sets[before.offerset]
                self._outstanding[before.client] -= 1
                if not self._outstanding[before.client]:
                    del self._outstanding[before.client]

    def profile(self, snapshot: Snapshot, now: datetime) -> Profile:
        """What is held; offers whose time is over must have been dropped."""
        if self._snapshot is None or now > self._moves_after:
            self._see(snapshot, now)
        else:
            if snapshot.jobs is not self._snapshot.jobs and snapshot.jobs != self._snapshot.jobs:
                self._compare(self._snapshot, snapshot)
            self._correct(now)
        self._snapshot = snapshot
        if len(self._profile) > self._tidy_at:
            self._profile.tidy()
            self._tidy_at = _untidy(self._profile)
        profile = self._profile.copy()
        for each in self._moving.values():
            profile.add(self._hold(each, now))
        return profile

    def _see(self, snapshot: Snapshot, now: datetime) -> None:
        """Look at everything anew."""
        self._jobs = _by_session(snapshot)
        before, self._held, self._moving, self._moves_after = self._held, {}, {}, _NEVER
        for offerset, offers in self._sets.items():
            known = None if offerset in self._changed_sets else before.get(offerset)
            self._held[offerset] = known or together(offers.values())
        for session in self._sessions.values():
            if session.phase is not Phase.OFFERED:
                self._place(session.session, session, now)
        for job in snapshot.jobs:
            if self._is_foreign(job):
                self._place(_key(job), job, now)
        self._profile = Profile(hold for holds in self._held.values() for hold in holds)
        self._tidy_at = _untidy(self._profile)
        self._changed.clear()
        self._changed_sets.clear()

    def _compare(self, before: Snapshot, after: Snapshot) -> None:
        """Note whose jobs came, went or changed."""
        jobs = {job.job_id: job for job in after.jobs}
        for job in before.jobs:
            now = jobs.pop(job.job_id, None)
            if now != job:
                self._remove(_key(job))
                self._changed.add(job.session)
                if now is not None:
                    self._changed.add(now.session)
        self._changed.update(job.session for job in jobs.values())
        self._jobs = _by_session(after)

    def _correct(self, now: datetime) -> None:
        """Look again at what has changed since."""
        for offerset in self._changed_sets:
            self._remove(offerset)
            if offerset in self._sets:
                self._held[offerset] = together(self._sets[offerset].values())
                self._add(offerset)
        for uuid in self._changed:
            if uuid is not None:
                self._remove(uuid)
            session = None if uuid is None else self._sessions.get(uuid)
            if session is not None and session.phase is not Phase.OFFERED:
                self._place(session.session, session, now)
                self._add(session.session)
            for job in self._jobs.get(uuid, ()):
                self._remove(_key(job))
                if self._is_foreign(job):
                    self._place(_key(job), job, now)
                    self._add(_key(job))
        self._changed.clear()
        self._changed_sets.clear()

    def _remove(self, key: UUID | str) -> None:
        self._moving.pop(key, None)
        for hold in self._held.pop(key, ()):
            self._profile.remove(hold)

    def _add(self, key: UUID | str) -> None:
        for hold in self._held.get(key, ()):
            self._profile.add(hold)

    def _place(self, key: UUID | str, what: Reservation | JobStatus, now: datetime) -> None:
        """Sort out whether what something holds moves with the time."""
        hold, next_hold = self._hold(what, now), self._hold(what, now + _MOMENT)
        if self._hold(what, now + _LATER) == hold:
            self._held[key] = [hold]  # a slot of its own, whenever one looks
        elif (hold.start, next_hold.start) == (now, now + _MOMENT) and hold.end == next_hold.end:
            # It runs, and holds until it must have ended; since when does not matter.
            self._held[key] = [Hold(hold.amount, _EVER, hold.end)]
            if hold.end is not None:
                self._moves_after = min(self._moves_after, hold.end - RELEASING)
        else:
            self._moving[key] = what

    def _hold(self, what: Reservation | JobStatus, now: datetime) -> Hold:
        if isinstance(what, JobStatus):
            return hold_of_job(what, now)
        jobs = self._jobs.get(what.session)
        return hold_of(what, jobs[-1] if jobs else None, now)

    def _is_foreign(self, job: JobStatus) -> bool:
        session = None if job.session is None else self._sessions.get(job.session)
        return not job.state.ended and (session is None or session.phase is Phase.OFFERED)


def _by_session(snapshot: Snapshot) -> dict[UUID | None, list[JobStatus]]:
    jobs: dict[UUID | None, list[JobStatus]] = {}
    for job in snapshot.jobs:
        jobs.setdefault(job.session, []).append(job)
    return jobs


def _key(job: JobStatus) -> str:
    return f"job {job.job_id}"


def _untidy(profile: Sized) -> int:
    """So many instants are worth a look at which of them are of holds that are gone: each quote adds all of them up."""
    return len(profile) * 5 // 4 + 32
