"""What is held over time, as a step function that grows and shrinks with each hold."""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import accumulate, compress

from planner_app.planner.quoting.amounts import Amount, Hold

#: For so many spans it is faster to look at each alone, and who sweeps often has seen enough by then.
_FEW = 16
_EVER = datetime.min.replace(tzinfo=UTC)


class Profile:
    """What is held from each instant at which it changes until the next.

    One list of instants, and one of numbers for each resource: they are added up and compared without a step of
    Python for each. Kept is by how much each instant changes what is held, so that a hold changes two numbers; what is
    held is added up when somebody looks.
    """

    __slots__ = ("_changes", "_held", "_times")

    def __init__(self, holds: Iterable[Hold] = ()) -> None:
        changes: dict[datetime, list[int]] = {_EVER: [0, 0, 0, 0]}
        for hold in holds:
            if hold.end is not None and hold.end <= hold.start:
                continue
            values = hold.amount
            begins = changes.setdefault(hold.start, [0, 0, 0, 0])
            for index, value in enumerate(values):
                begins[index] += value
            if hold.end is not None:
                ends = changes.setdefault(hold.end, [0, 0, 0, 0])
                for index, value in enumerate(values):
                    ends[index] -= value
        self._times = sorted(changes)
        self._changes = [list(column) for column in zip(*(changes[time] for time in self._times), strict=True)]
        self._held: list[list[int]] | None = None

    def copy(self) -> "Profile":
        """The same, to be changed by itself."""
        other = Profile.__new__(Profile)
        other._times = self._times.copy()
        other._changes = [column.copy() for column in self._changes]
        other._held = None
        return other

    def __len__(self) -> int:
        return len(self._times)

    def add(self, hold: Hold) -> None:
        """Hold something more."""
        self._change(hold, 1)

    def remove(self, hold: Hold) -> None:
        """Hold something no more; the instants stay until `tidy`."""
        self._change(hold, -1)

    def tidy(self) -> None:
        """Forget the instants at which nothing changes."""
        changing = [True, *map(any, zip(*(column[1:] for column in self._changes), strict=True))]
        self._times = list(compress(self._times, changing))
        self._changes = [list(compress(column, changing)) for column in self._changes]
        self._held = None

    def _change(self, hold: Hold, sign: int) -> None:
        if hold.end is not None and hold.end <= hold.start:
            return
        self._held = None
        first = self._at(hold.start)
        after = None if hold.end is None else self._at(hold.end)
        for column, value in zip(self._changes, hold.amount, strict=True):
            column[first] += sign * value
            if after is not None:
                column[after] -= sign * value

    def _at(self, time: datetime) -> int:
        """The index of an instant, which is put in where it is not there."""
        index = bisect_left(self._times, time)
        if index == len(self._times) or self._times[index] != time:
            self._times.insert(index, time)
            for column in self._changes:
                column.insert(index, 0)
        return index

    def _columns(self) -> list[list[int]]:
        """What is held of each resource from each instant on."""
        if self._held is None:
            self._held = [list(accumulate(column)) for column in self._changes]
        return self._held

    def _segments(self, start: datetime, end: datetime) -> tuple[int, int]:
        first = max(bisect_right(self._times, start) - 1, 0)
        return first, max(bisect_left(self._times, end), first + 1)

    def most_held(self, start: datetime, end: datetime) -> Amount:
        """The most of each that is held at some time from `start` until before `end`."""
        first, after = self._segments(start, end)
        return Amount(*[max(column[first:after]) for column in self._columns()])

    def blocked_until(self, room: Amount, start: datetime, end: datetime) -> datetime | None:
        """When the last time between `start` and `end` at which more than `room` is held is over.

        Returns `start` where there is none, and None where it will never be over.
        """
        first, after = self._segments(start, end)
        last = -1
        for column, most in zip(self._columns(), room, strict=True):
            part = column[first:after]
            if max(part) > most:
                last = max(last, max(index for index, held in enumerate(part, first) if held > most))
        if last < 0:
            return start
        return self._times[last + 1] if last + 1 < len(self._times) else None

    def changes(self, start: datetime, end: datetime) -> Sequence[datetime]:
        """The instants after `start` and not after `end` at which something changes."""
        return self._times[bisect_right(self._times, start) : bisect_right(self._times, end)]

    def sweep(self, spans: Sequence[tuple[datetime, datetime]], room: Amount) -> Iterator[Amount]:
        """Much as `most_held` for each of many spans, of which none begins or ends before the one before.

        For a resource of which `room` is never exceeded it gives the most of all spans for each of them.
        """
        if not spans:
            return
        start, end = self._segments(spans[0][0], spans[-1][1])
        most = [max(column[start:end]) for column in self._columns()]
        tight = [index for index, limit in enumerate(room) if most[index] > limit]
        # Of what was seen, those that nothing later and larger hides: the first of them is the largest.
        windows = [(index, self._columns()[index], deque[int]()) for index in tight]
        for span in spans[:_FEW]:
            first, after = self._segments(*span)
            for resource, column, _ in windows:
                most[resource] = max(column[first:after])
            yield Amount(*most)
        seen = start
        for span in spans[_FEW:]:
            first, after = self._segments(*span)
            seen = max(seen, first)
            for resource, column, kept in windows:
                for index in range(seen, after):
                    held = column[index]
                    while kept and column[kept[-1]] <= held:
                        kept.pop()
                    kept.append(index)
                while kept[0] < first:
                    kept.popleft()
                most[resource] = column[kept[0]]
            seen = max(seen, after)
            yield Amount(*most)
