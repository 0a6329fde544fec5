"""The voter's pages in a real browser, after real ballots and with a real job's catalogue.

CAESAR_SCREENSHOTS=docs/images makes the pictures in the docs; otherwise they are made and looked at all the same.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import DESKTOP, PHONE, Browser, browser
from handles import PLATFORMS, STATE

NAMES = [platform["name"] for platform in PLATFORMS]
IN_THE_DOCS = ("platforms", "ballot", "job", "job-phone")
Command = Callable[..., subprocess.CompletedProcess[str]]


def link(caesar_vote: Command) -> str:
    run = caesar_vote("page")
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.fixture(scope="module")
def chromium(caesar_vote: Command) -> Iterator[Browser]:
    with browser() as window:
        window.log_in(link(caesar_vote))
        yield window


@pytest.fixture(scope="module")
def smoke() -> str:
    """The ballot of the job that the stage `smoke` ran."""
    return str(json.loads((STATE / "smoke.json").read_text())["ballot"])


@pytest.fixture(scope="module")
def running(caesar_vote: Command, fits: Path) -> Iterator[dict[str, Any]]:
    """A job that is on its way while pages are looked at, and that some platforms cannot run."""
    run = caesar_vote("run", "--json", "--no-wait", "--cores", "8", "--duration", "PT90M", str(fits))
    assert run.returncode == 0, run.stderr
    ballot: dict[str, Any] = json.loads(run.stdout)
    yield ballot
    caesar_vote("cancel", ballot["id"])  # where it has not ended by itself


def keep(picture: bytes, name: str, tmp_path: Path) -> None:
    """Write a picture where it is wanted, and see that something is drawn in it."""
    wanted = os.environ.get("CAESAR_SCREENSHOTS") if name in IN_THE_DOCS else None
    directory = Path(wanted or tmp_path)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.png").write_bytes(picture)
    width, height = struct.unpack(">II", picture[16:24])
    # A page of one colour is a hundredth of a bit for each of its pixels; words and lines are many times that.
    assert 8 * len(picture) > 0.1 * width * height, f"{name} is empty"


def shades(picture: bytes) -> list[bytes]:
    """The rows of one of the voter's pictures of a map, the highest first."""
    at, body, width = 8, b"", struct.unpack(">I", picture[16:20])[0]
    while at < len(picture):
        size, name = struct.unpack(">I4s", picture[at : at + 8])
        body += picture[at + 8 : at + 8 + size] if name == b"IDAT" else b""
        at += 12 + size
    raw = zlib.decompress(body)
    return [raw[begin + 1 : begin + 1 + width] for begin in range(0, len(raw), width + 1)]


def test_nobody_sees_a_page_without_a_link(caesar_vote: Command, smoke: str) -> None:
    address = link(caesar_vote)
    base = address.partition("/login/")[0]
    with httpx.Client(base_url=base, headers={"Accept": "text/html"}, timeout=30) as stranger:
        for path in ("/", "/ballots", f"/ballots/{smoke}", f"/jobs/{smoke}", f"/jobs/{smoke}/image.png"):
            reply = stranger.get(path)
            assert reply.status_code == 401
            assert "caesar-vote page" in reply.text
            assert not any(name in reply.text for name in NAMES)
        assert stranger.get(address).status_code == 200
        assert stranger.get("/").status_code == 200
        stranger.cookies.clear()
        assert stranger.get(address).status_code == 401


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_pages_keep_nobody_out_and_are_drawn(
    chromium: Browser, smoke: str, running: dict[str, Any], width: int, tmp_path: Path
) -> None:
    suffix = "" if width == DESKTOP else "-phone"
    chromium.complaints()
    for name, path in (
        ("platforms", "/"),
        ("ballots", "/ballots"),
        ("ballot", f"/ballots/{running['id']}"),
        ("job", f"/jobs/{smoke}"),
        ("running", f"/jobs/{running['id']}"),
    ):
        chromium.open(path, width)
        assert chromium.barriers() == [], path
        assert chromium.wider_than(width) <= 0, path
        assert chromium.complaints() == [], path
        if name != "running":
            keep(chromium.picture(width), name + suffix, tmp_path)


def test_platforms_are_shown_with_what_they_have(chromium: Browser, running: dict[str, Any]) -> None:
    chromium.open("/")
    shown = chromium.text
    for platform in PLATFORMS:
        assert platform["name"] in shown
    assert f"{len(NAMES)} of {len(NAMES)} platforms can take jobs now" in shown
    labels = chromium.run("return [...document.querySelectorAll('figure svg')].map(x => x.getAttribute('aria-label'))")
    assert len(labels) == 2 * len(NAMES)
    [cores] = [label for label in labels if label.startswith(f"Cores of {running['winner']['planner']} ")]
    taken = re.search(r"at most (\d+) used .* at most (\d+) taken", cores)
    assert taken is not None
    # The job runs, or did so in the last hour.
    assert max(map(int, taken.groups())) >= 8


def test_the_ballot_shows_the_winner_and_why_the_others_lost(chromium: Browser, running: dict[str, Any]) -> None:
    chromium.open(f"/ballots/{running['id']}")
    cards = chromium.run(
        "return [...document.querySelectorAll('.candidates > li')].map(x => [x.className, x.innerText])"
    )
    assert [kind for kind, _ in cards].count("card won") == 1
    assert all("answered in" in text for _, text in cards)
    assert {text.split("\n")[0] for _, text in cards} == set(NAMES)
    refused = {text.split("\n")[0] for kind, text in cards if kind == "card out" and "8 cores asked" in text}
    assert refused == {"slurm-account-001", "k8s-namespace-001"}


def test_the_brightest_source_is_marked_where_the_map_is_brightest(
    chromium: Browser, caesar_vote: Command, smoke: str
) -> None:
    """13.71 Jy/beam at RA 294.858, Dec -63.724: the brightest pixel of the Parkes map, as aegean finds it."""
    chromium.open(f"/jobs/{smoke}")
    assert "58 sources of 70 components found" in chromium.text
    first = chromium.run(
        "const mark = document.querySelector('.marks path');"
        "return [mark.dataset.x, mark.dataset.y, mark.textContent, document.querySelectorAll('.marks path').length]"
    )
    assert first[2:] == ["1: RA 294.858°, Dec -63.724°", 70]
    # The picture is the one that the browser shows: its loading was not complained of.
    with httpx.Client(headers={"Accept": "text/html"}, timeout=60) as client:
        address = link(caesar_vote)
        client.get(address)
        picture = client.get(f"{address.partition('/login/')[0]}/jobs/{smoke}/image.png").content
    rows = shades(picture)
    x, y = int(float(first[0])), int(float(first[1]))
    # Several pixels have the brightest shade; the source is in the middle of the only patch at the top of the map.
    patch = [
        (column, row) for row, line in enumerate(rows) for column, value in enumerate(line) if value == 255 and row < 20
    ]
    assert (x, y) in patch
    middle = [sum(values) / len(patch) for values in zip(*patch, strict=True)]
    assert abs(middle[0] - x) <= 1
    assert abs(middle[1] - y) <= 1


def test_the_way_of_a_job_is_shown_from_upload_to_catalogue(chromium: Browser, smoke: str) -> None:
    chromium.open(f"/jobs/{smoke}")
    stages = chromium.run("return [...document.querySelectorAll('.line tbody th')].map(x => x.innerText)")
    assert stages == ["Uploaded", "Vote", "Waiting", "Running", "Seen done"]
    for name in ("catalog-1904-66_AZP.json", "plot_1904-66_AZP.png"):
        assert name in chromium.text
