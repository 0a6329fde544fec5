"""Reading what a page needs of a FITS image: its header, and so many of its pixels as a picture has.

A file of a stranger's: whatever it claims is checked, and nothing is read that is not needed.
"""

import sys
from array import array
from dataclasses import dataclass
from math import ceil, nan
from pathlib import Path
from typing import Any, BinaryIO

_BLOCK, _CARD = 2880, 80
_MOST_BLOCKS = 200
"""Of a header; a map that was made of many observations has thousands of lines of history."""
_LARGEST = 1 << 20
_TYPES = {8: "B", 16: "h", 32: "i", 64: "q", -32: "f", -64: "d"}


class NoImage(ValueError):
    """The file is no FITS image that can be drawn; the message says why."""


def parse_header(cards: str) -> dict[str, Any]:
    """Read the cards of a header: numbers, texts and truths; what is none of them is left out."""
    header: dict[str, Any] = {}
    for begin in range(0, len(cards), _CARD):
        card = cards[begin : begin + _CARD]
        name = card[:8].rstrip()
        if name == "END":
            break
        if card[8:10] == "= " and name and name not in header:
            value = _value(card[10:])
            if value is not None:
                header[name] = value
    return header


def _value(text: str) -> Any:
    text = text.strip()
    if text.startswith("'"):
        # Two quotes are one of the text's own.
        end = 1
        while (end := text.find("'", end)) != -1 and text[end + 1 : end + 2] == "'":
            end += 2
        return None if end == -1 else text[1:end].replace("''", "'").rstrip()
    word = text.partition("/")[0].strip()
    if word in ("T", "F"):
        return word == "T"
    try:
        return int(word)
    except ValueError:
        pass
    try:
        return float(word.replace("D", "E").replace("d", "e"))
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Image:
    """An image whose pixels are still on the disc."""

    header: dict[str, Any]
    width: int
    height: int
    offset: int
    """Bytes before the first pixel."""


def read_image(file: BinaryIO) -> Image:
    """Read the header of a file's first image. Raises NoImage, and OSError where it can not be read."""
    cards = ""
    for block in range(1, _MOST_BLOCKS + 1):
        data = file.read(_BLOCK)
        if len(data) < _BLOCK or (block == 1 and not data.startswith(b"SIMPLE  =")):
            raise NoImage("it is no FITS file")
        cards += data.decode("latin-1")
        if any(cards[at : at + 8] == "END     " for at in range(len(cards) - _BLOCK, len(cards), _CARD)):
            break
    else:
        raise NoImage("its header has no end")
    header = parse_header(cards)
    sides = [header.get(f"NAXIS{axis}") for axis in (1, 2)]
    if header.get("BITPIX") not in _TYPES or not all(type(side) is int and 0 < side <= _LARGEST for side in sides):
        raise NoImage("its first part is no image")
    return Image(header, sides[0], sides[1], block * _BLOCK)  # type: ignore[arg-type]


def open_image(path: Path) -> Image:
    """Read the header of a file. Raises as `read_image`."""
    with path.open("rb") as file:
        return read_image(file)


def step_of(width: int, height: int, most: int) -> int:
    """Tell every which pixel to take so that neither side has more than `most`."""
    return max(1, ceil(max(width, height) / most))


def read_pixels(file: BinaryIO, image: Image, most: int) -> list[list[float]]:
    """Read rows of pixels from the bottom up, every so many that neither side has more than `most`.

    A pixel without a value is not a number. Raises NoImage where the file ends before its image does.
    """
    kind = _TYPES[image.header["BITPIX"]]
    scale, zero = (_factor(image.header, name, default) for name, default in (("BSCALE", 1.0), ("BZERO", 0.0)))
    blank = image.header.get("BLANK") if kind not in "fd" else None
    step, row_bytes = step_of(image.width, image.height, most), image.width * array(kind).itemsize
    rows = []
    for row in range(step // 2, image.height, step):
        file.seek(image.offset + row * row_bytes)
        values = array(kind)
        data = file.read(row_bytes)
        if len(data) < row_bytes:
            raise NoImage("it ends in the middle of its image")
        values.frombytes(data)
        if sys.byteorder == "little":
            values.byteswap()
        taken = values[step // 2 :: step]
        rows.append([nan if value == blank else zero + scale * value for value in taken])
    return rows


def _factor(header: dict[str, Any], name: str, default: float) -> float:
    value = header.get(name, default)
    return float(value) if isinstance(value, int | float) else default
