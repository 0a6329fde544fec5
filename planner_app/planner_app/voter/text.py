"""Words of others made fit for a line of ours."""

import unicodedata

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
