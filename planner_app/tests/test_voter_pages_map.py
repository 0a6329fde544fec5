"""Images and positions on them, against what astropy says and what is in files made here."""

import json
import math
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planner_app.voter.pages.fits import NoImage, open_image, parse_header, read_image, read_pixels
from planner_app.voter.pages.job_views import map_view, read_catalogue, rows_of
from planner_app.voter.pages.picture import draw
from planner_app.voter.pages.wcs import NotKnown, Wcs

POSITIONS = json.loads((Path(__file__).parent / "data/positions.json").read_text())["cases"]
SKY = {
    "CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN", "CRVAL1": 150.0, "CRVAL2": -30.0,
    "CRPIX1": 20.0, "CRPIX2": 15.0, "CDELT1": -0.01, "CDELT2": 0.01, "BUNIT": "Jy/beam",
}  # fmt: skip
FORMATS = {8: ">B", 16: ">h", 32: ">i", 64: ">q", -32: ">f", -64: ">d"}


def card(name: str, value: Any) -> str:
    if isinstance(value, str):
        text = "'" + value.replace("'", "''").ljust(8) + "'"
    else:
        text = ("T" if value else "F").rjust(20) if isinstance(value, bool) else repr(value).rjust(20)
    return f"{name:<8}= {text} / of the test".ljust(80)[:80]


def fits(rows: list[list[float]], bitpix: int = -32, **more: Any) -> bytes:
    """A FITS file; its first row is the lowest."""
    header = {"SIMPLE": True, "BITPIX": bitpix, "NAXIS": 2, "NAXIS1": len(rows[0]), "NAXIS2": len(rows)} | SKY | more
    head = "".join(card(name, value) for name, value in header.items()) + "END".ljust(80)
    head = head.ljust(-(-len(head) // 2880) * 2880)
    data = b"".join(struct.pack(FORMATS[bitpix], value) for row in rows for value in row)
    return head.encode() + data.ljust(-(-len(data) // 2880) * 2880, b"\x00")


def pixels(picture: bytes) -> list[bytes]:
    """The shades of a PNG of ours, the highest row first."""
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    parts, at = {}, 8
    while at < len(picture):
        size, name = struct.unpack(">I4s", picture[at : at + 8])
        body = picture[at + 8 : at + 8 + size]
        assert struct.unpack(">I", picture[at + 8 + size : at + 12 + size])[0] == zlib.crc32(name + body)
        parts[name] = body
        at += 12 + size
    width, height, depth, kind = struct.unpack(">IIBB", parts[b"IHDR"][:10])
    assert (depth, kind, len(parts[b"PLTE"])) == (8, 3, 256 * 3)
    raw = zlib.decompress(parts[b"IDAT"])
    assert len(raw) == (width + 1) * height
    return [raw[row * (width + 1) + 1 : (row + 1) * (width + 1)] for row in range(height)]


@pytest.mark.parametrize("case", POSITIONS, ids=lambda case: case["name"])
def test_positions_lie_where_astropy_says(case: dict[str, Any]) -> None:
    wcs = Wcs.of(case["header"])
    for ra, dec, x, y in case["points"]:
        assert wcs.pixel(ra, dec) == pytest.approx((x, y), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"CTYPE1": "GLON-SIN", "CTYPE2": "GLAT-SIN"}, "GLON-SIN"),
        ({"CTYPE1": "RA---ZPN", "CTYPE2": "DEC--ZPN"}, "ZPN is not known"),
        ({"CTYPE2": "DEC--TAN"}, "not RA and DEC"),
        ({"CDELT1": 0.0}, "no size"),
        ({"CRVAL1": "here"}, "CRVAL1"),
    ],
)
def test_a_header_without_known_positions_says_so(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(NotKnown, match=said):
        Wcs.of(SKY | changes)


def test_what_is_behind_the_horizon_is_not_shown() -> None:
    assert Wcs.of(SKY).pixel(330.0, 30.0) is None
    assert Wcs.of(SKY | {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}).pixel(330.0, 30.0) is None
    assert Wcs.of(SKY).outline(330.0, 30.0, 0.1, 0.1, 0) == []


def test_an_outline_has_the_size_and_the_direction_of_the_source() -> None:
    points = Wcs.of(SKY).outline(150.0, -30.0, 0.08, 0.04, 90.0)
    assert max(x for x, _ in points) - min(x for x, _ in points) == pytest.approx(16, abs=0.01)
    assert max(y for _, y in points) - min(y for _, y in points) == pytest.approx(8, abs=0.01)


def test_a_header_is_read() -> None:
    header = parse_header(
        "SIMPLE  =                    T"
        .ljust(80) + "OBJECT  = 'it''s one' / a 'quoted' one".ljust(80) + "COMMENT = no value".ljust(80)
        + "BSCALE  =            1.5D-03".ljust(80) + "END".ljust(80) + "BSCALE  = 2".ljust(80)
    )  # fmt: skip
    assert header == {"SIMPLE": True, "OBJECT": "it's one", "BSCALE": 1.5e-3}


@pytest.mark.parametrize("bitpix", FORMATS)
def test_a_source_is_marked_on_its_brightest_pixel(tmp_path: Path, bitpix: int) -> None:
    """The whole way: a file with one bright pixel, its picture, and the mark that a catalogue puts there."""
    rows = [[1.0 if (x, y) == (31, 4) else 0.0 for x in range(40)] for y in range(30)]
    path = tmp_path / "image.fits"
    path.write_bytes(fits(rows if bitpix < 0 else [[int(100 * v) for v in row] for row in rows], bitpix))
    shown = pixels(draw(path))
    brightest = max((shade, x, y) for y, row in enumerate(shown) for x, shade in enumerate(row))
    assert brightest[1:] == (31, 25)
    # Pixel (32, 5), counted from 1, is 12 west and 10 south of the reference.
    source = {"ra": 150.0 - 0.12 / math.cos(math.radians(30.1)), "dec": -30.1, "peak_flux": 1.0}
    view = map_view(open_image(path), [source])
    [mark] = view["marks"]
    assert (mark["x"], mark["y"]) == pytest.approx((31.5, 25.5), abs=0.02)


def test_pixels_without_value_are_clear(tmp_path: Path) -> None:
    path = tmp_path / "image.fits"
    path.write_bytes(fits([[math.nan, 1.0, 2.0]]))
    assert pixels(draw(path))[0][0] == 0
    path.write_bytes(fits([[-5, 1, 2]], 16, BLANK=-5, BSCALE=0.5, BZERO=10.0))
    assert pixels(draw(path))[0][0] == 0
    with path.open("rb") as file:
        assert read_pixels(file, read_image(file), 9) == [[pytest.approx(math.nan, nan_ok=True), 10.5, 11.0]]
    path.write_bytes(fits([[math.nan] * 3]))
    assert pixels(draw(path)) == [bytes(3)]
    path.write_bytes(fits([[4.0] * 3]))
    assert 0 not in pixels(draw(path))[0]


def test_a_large_image_becomes_a_small_picture(tmp_path: Path) -> None:
    path = tmp_path / "image.fits"
    path.write_bytes(fits([[float(x + y) for x in range(2000)] for y in range(30)]))
    shown = pixels(draw(path))
    assert len(shown[0]) == 667
    assert len(shown) == 10
    assert map_view(open_image(path), [])["width"] == 2000


@given(st.binary(max_size=6000))
def test_a_file_that_is_no_image_is_refused(body: bytes) -> None:
    file = BytesIO(body)
    with pytest.raises(NoImage):
        read_pixels(file, read_image(file), 100)


CARDS = st.sampled_from(["BITPIX", "NAXIS1", "NAXIS2", "BSCALE", "BLANK", "CRVAL1"])
WORDS = st.text(st.characters(codec="ascii", categories=("L", "N")), max_size=9)


@given(st.dictionaries(CARDS, st.integers(-(10**12), 10**12) | st.floats() | WORDS))
def test_a_header_that_lies_is_refused_or_drawn(changes: dict[str, Any]) -> None:
    file = BytesIO(fits([[1.0, 2.0]] * 2, **changes))
    try:
        image = read_image(file)
        read_pixels(file, image, 100)
        map_view(image, [{"ra": 150.0, "dec": -30.0, "a": 20.0, "b": 10.0}])
    except NoImage:
        pass


def test_the_picture_comes_of_a_process_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "image.fits"
    path.write_bytes(fits([[1.0, 2.0]]))
    command = [sys.executable, "-m", "planner_app.voter.pages.picture"]
    done = subprocess.run([*command, path], capture_output=True, check=True)
    assert pixels(done.stdout)
    path.write_bytes(b"SIMPLE  = T")
    refused = subprocess.run([*command, path], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr) == (1, "it is no FITS file\n")


def test_a_catalogue_is_read() -> None:
    entries = [{"ra": 1, "dec": 2.5, "peak_flux": 1.0}, {"ra": 3.0, "dec": -4.0, "peak_flux": 9.5, "a": 120, "b": 60}]
    document = {"metadata": {"unit": "Jy/beam", "sources": 1}, "components": [*entries, {"ra": "x"}, None, {"ra": 1}]}
    catalogue = read_catalogue(json.dumps(document).encode())
    assert (catalogue.title, catalogue.unit) == ("1 source of 2 components", "Jy/beam")
    assert [row["peak"] for row in rows_of(catalogue.entries)] == ["9.500", "1.000"]
    assert read_catalogue(b'{"sources": []}').title == "0 sources"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"sources": 3}', b"\xff", b"[" * 100_000])
def test_what_is_no_catalogue_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_catalogue(body)
