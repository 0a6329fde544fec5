"""ISO 8601 instants, durations and intervals as the schema uses them, to and from Python's."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_DURATION = re.compile(
    r"P(?!$)(?:(?P<weeks>\d{1,9})W|(?:(?P<days>\d{1,9})D)?"
    r"(?:T(?!$)(?:(?P<hours>\d{1,9})H)?(?:(?P<minutes>\d{1,9})M)?(?:(?P<seconds>\d{1,9}(?:\.\d{1,9})?)S)?)?)"
)
_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}(?:T\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?:Z|[+-]\d{2}:\d{2})?)?", re.ASCII)

# The same for readers of a JSON schema, in what all of its dialects have.
_DAY = r"\d{4}-\d{2}-\d{2}"
_CLOCK = r"T\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:\d{2})?"
_SPAN = r"P(\d{1,9}W|\d{1,9}D(T_)?|T_)".replace(
    "T_", r"T(\d{1,9}H(\d{1,9}M)?(\d{1,9}(\.\d{1,9})?S)?|\d{1,9}M(\d{1,9}(\.\d{1,9})?S)?|\d{1,9}(\.\d{1,9})?S)"
)
INSTANT_PATTERN = f"^{_DAY}({_CLOCK})?$"
DURATION_PATTERN = f"^{_SPAN}$"
INTERVAL_PATTERN = f"^({_DAY}({_CLOCK})?/{_DAY}({_CLOCK})?|{_DAY}({_CLOCK})?/{_SPAN}|{_SPAN}/{_DAY}({_CLOCK})?)$"


@dataclass(frozen=True, slots=True)
class Interval:
    """A span of time between two instants, both included."""

    start: datetime
    end: datetime


def parse_duration(text: str) -> timedelta:
    """Read a duration such as ``PT1H30M``.

    Raises ValueError where the text is no duration, is negative, or counts in years or months, whose
    length is not fixed.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("must be an ISO 8601 duration of weeks, days, hours, minutes or seconds such as PT1H30M")
    try:
        return timedelta(**{unit: float(count) for unit, count in match.groupdict().items() if count is not None})
    except OverflowError:
        raise ValueError("is longer than any job can be") from None


@lru_cache(256)
def format_duration(duration: timedelta) -> str:
    """Write a duration of zero or more, to the microsecond."""
    if duration < timedelta(0):
        raise ValueError("durations are not negative")
    minutes, seconds = divmod(duration.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{duration.microseconds:06d}".rstrip("0") if duration.microseconds else ""
    clock = (
        f"{hours}H" * bool(hours) + f"{minutes}M" * bool(minutes) + f"{seconds}{fraction}S" * bool(seconds or fraction)
    )
    days = f"{duration.days}D" * bool(duration.days)
    if clock:
        return f"P{days}T{clock}"
    return f"P{days}" if days else "PT0S"


def parse_instant(text: str) -> datetime:
    """Read an instant; without a zone it is UTC, without a time it is midnight.

    Raises ValueError where the text is no instant.
    """
    if len(text) == 27 and text[4:20:3] == "--T::." and text[26] == "Z":
        # As programs write it: what is left to check are digits, which Python's own reader does sooner than a pattern.
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            pass  # what is wrong is said below
    if _INSTANT.fullmatch(text) is None:
        raise ValueError("must be an ISO 8601 instant such as 2026-11-24T09:00:00Z")
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is UTC:
        return instant
    if instant.tzinfo is None:
        return instant.replace(tzinfo=UTC)
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside the years 1 to 9999") from None


@lru_cache(256)
def format_instant(instant: datetime) -> str:
    """Write an instant in UTC, with as many decimals of a second as it has."""
    if instant.tzinfo is not UTC:
        instant = instant.astimezone(UTC)
    return instant.isoformat().removesuffix("+00:00") + "Z"


def parse_interval(text: str) -> Interval:
    """Read ``start/end``, ``start/duration`` or ``duration/end``.

    Raises ValueError where the text is none of these or the end lies before the start.
    """
    first, slash, second = text.partition("/")
    if not slash or (first.startswith("P") and second.startswith("P")):
        raise ValueError("must be an ISO 8601 interval such as 2026-11-24T09:00:00Z/PT4H")
    try:
        if first.startswith("P"):
            end = parse_instant(second)
            interval = Interval(end - parse_duration(first), end)
        elif second.startswith("P"):
            start = parse_instant(first)
            interval = Interval(start, start + parse_duration(second))
        else:
            interval = Interval(parse_instant(first), parse_instant(second))
    except OverflowError:
        raise ValueError("is outside the years 1 to 9999") from None
    if interval.end < interval.start:
        raise ValueError("ends before it starts")
    return interval


def format_interval(interval: Interval) -> str:
    """Write an interval as ``start/duration``."""
    return f"{format_instant(interval.start)}/{format_duration(interval.end - interval.start)}"
