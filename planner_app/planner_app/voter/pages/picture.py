"""A picture of a FITS image, made by a process of its own: python3 -m planner_app.voter.pages.picture IMAGE > PNG

Its own, since the file is a stranger's, an hour of the voter's time may not go into it, and the memory is given back.
"""

import resource
import struct
import sys
import zlib
from collections.abc import Sequence
from math import asinh, isfinite
from pathlib import Path

from planner_app.voter.pages.fits import NoImage, read_image, read_pixels

MOST_PIXELS = 768
"""Of a side of the picture."""
_MOST_MEMORY = 400 << 20
_MOST_SECONDS = 20
_SHADES = 255
_FAINTEST, _BRIGHTEST = 0.01, 0.998
"""The shares of the pixels that are darker than the darkest shade, and not brighter than the brightest."""


def shades(rows: Sequence[Sequence[float]]) -> list[bytes]:
    """Give each pixel a shade from 1 on, 0 where it has no value; faint sources show beside bright ones."""
    known = sorted(value for row in rows for value in row if isfinite(value))
    if not known:
        return [bytes(len(row)) for row in rows]
    low, high = known[int(_FAINTEST * (len(known) - 1))], known[int(_BRIGHTEST * (len(known) - 1))]
    soft = (high - low) / 10 or 1.0
    top = asinh((high - low) / soft) or 1.0

    def shade(value: float) -> int:
        if not isfinite(value):
            return 0
        return 1 + round((_SHADES - 1) * max(0.0, min(1.0, asinh((value - low) / soft) / top)))

    return [bytes(map(shade, row)) for row in rows]


def png(rows: Sequence[bytes]) -> bytes:
    """Write a picture of shades, the first row at the top: 0 is clear, the others go from night blue to white."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    palette = bytearray(3)
    for step in range(_SHADES):
        share = step / (_SHADES - 1)
        palette += bytes(round(low + (high - low) * share) for low, high in ((8, 255), (16, 250), (38, 235)))
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 3, 0, 0, 0)
    body = zlib.compress(b"".join(b"\x00" + row for row in rows), 6)
    parts = ((b"IHDR", header), (b"PLTE", bytes(palette)), (b"tRNS", b"\x00"), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def draw(path: Path) -> bytes:
    """Make the picture of an image. Raises NoImage, and OSError where it can not be read."""
    with path.open("rb") as file:
        rows = read_pixels(file, read_image(file), MOST_PIXELS)
    # FITS counts its rows from the bottom.
    return png(shades(rows)[::-1])


def main() -> None:
    """Write the picture to the standard output, or say in a line why there is none."""
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_MOST_SECONDS, _MOST_SECONDS))
    try:
        sys.stdout.buffer.write(draw(Path(sys.argv[1])))
    except (NoImage, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
