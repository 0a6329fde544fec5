"""Words of messages. Pure."""

from __future__ import annotations

from collections.abc import Iterable


def listed(names: Iterable[str]) -> str:
    """Names as a sentence lists them: `a`, `a and b`, `a, b and c`; there is at least one."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
