"""Names of what is new: uuids of version 7 (RFC 9562), which begin with the time."""

import time
from secrets import randbits
from uuid import UUID


def new_uuid() -> UUID:
    """Make a uuid greater than those of earlier moments: what is written together lies together in the indexes.

    Of random ones each goes to a page of its own, and each page is written to disc as a whole.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = nanoseconds * 4096 // 1_000_000
    return UUID(int=milliseconds << 80 | 7 << 76 | fraction << 64 | 2 << 62 | randbits(62))
