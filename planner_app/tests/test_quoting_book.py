"""What is held, kept up to date: the same as seen anew, and no more of it than is to be looked at."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from planner_app.execution_broker.models import Phase
from planner_app.execution_broker.times import Interval
from planner_app.planner.quoting import Amount, Book, Hold, Reservation, holds_of
from planner_app.planner.quoting.profile import Profile
from planner_app.platforms.protocol import Snapshot
from tests.fakes import NINE
from tests.test_quoting import hold_lists

SECOND = timedelta(seconds=1)


@given(hold_lists, hold_lists, st.lists(st.tuples(st.integers(-90, 300), st.integers(1, 300)), max_size=8))
@settings(max_examples=100, deadline=None)
def test_a_tidy_profile_holds_the_same(
    kept: Sequence[Hold], gone: Sequence[Hold], spans: Sequence[tuple[int, int]]
) -> None:
    profile, anew = Profile([*kept, *gone]), Profile(kept)
    for each in gone:
        profile.remove(each)
    profile.most_held(NINE, NINE + SECOND)
    profile.tidy()
    assert len(profile) <= len(anew)
    for start, length in spans:
        span = NINE + timedelta(minutes=start), NINE + timedelta(minutes=start + length)
        assert profile.most_held(*span) == anew.most_held(*span)
        assert profile.blocked_until(Amount(2, 9, 50, 1), *span) == anew.blocked_until(Amount(2, 9, 50, 1), *span)
    for each in kept:
        profile.remove(each)
    profile.tidy()
    assert len(profile) == 1


def offer(number: int, made: int) -> Reservation:
    """One that is made in this second, and over three seconds later."""
    now = NINE + made * SECOND
    reserved = Interval(now, now + timedelta(hours=1))
    uuid = UUID(int=number)
    return Reservation(uuid, uuid, Phase.OFFERED, Amount(1, 1, 0, 1), reserved, timedelta(hours=1), now + 3 * SECOND)


def test_offers_that_come_and_go_leave_nothing_to_look_at() -> None:
    book, snapshot = Book(), Snapshot(NINE, ())
    longest = 0
    for second in range(500):
        now = NINE + second * SECOND
        for each in [each for each in book if each.expires <= now]:
            book.drop(each.session)
        book.put(offer(second, second))
        profile = book.profile(snapshot, now)
        longest = max(longest, len(profile))
        anew = Profile(holds_of(book, snapshot, now))
        for later in range(0, 4000, 400):
            span = now + later * SECOND, now + (later + 400) * SECOND
            assert profile.most_held(*span) == anew.most_held(*span)
    # Three offers are held at a time, from six instants.
    assert longest < 60
