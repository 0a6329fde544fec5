"""Files in the place of discs that a cloud attaches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from testinfra.host import Host


@contextmanager
def file_as_disc(host: Host, file: str, size: str) -> Iterator[str]:
    """Have an empty disc on the machine, a file of this size (as "64M"); gives its device."""
    host.check_output(f"truncate --size={size} {file}")
    # The machine's /dev was filled when it was made.
    device = host.check_output(
        "number=$(losetup --find | tr -dc 0-9); "
        "[ -b /dev/loop$number ] || mknod /dev/loop$number b 7 $number; "
        f"losetup --find --show {file}"
    )
    try:
        yield device
    finally:
        host.check_output(f"losetup --detach {device}; rm {file}")
