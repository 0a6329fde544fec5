"""Words of others made fit for a line of ours."""

import unicodedata
from datetime import timedelta

MAX_LINE = 300


def one_line(text: str, longest: int = MAX_LINE) -> str:
    """Give a text as one line without control characters, cut to `longest` characters.

    What planners say ends up on terminals and in logs, so escape sequences must not come along.
    """
    # Far more than is kept, since runs of blanks shrink; never all of a body of a megabyte.
    words = "".join(
        " " if unicodedata.category(character) in ("Cc", "Zl", "Zp") else character
        for character in text[: longest * 4]
        if unicodedata.category(character) != "Cf"
    ).split()
    line = " ".join(words)
    return line if len(line) <= longest and len(text) <= longest * 4 else line[: longest - 1].rstrip() + "…"


def amount_of_time(duration: timedelta) -> str:
    """Write a length of time as people say it: 40 s, 12 min, 3 h 20 min, 2 d."""
    seconds = round(duration.total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"
