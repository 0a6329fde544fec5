"""What the page of a job shows: its way from upload to catalogue as a time line, and what was found. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isfinite
from typing import Any

from planner_app.voter.ballots import State
from planner_app.voter.pages import words
from planner_app.voter.pages.ballot_views import history
from planner_app.voter.pages.fits import Image
from planner_app.voter.pages.wcs import NotKnown, Wcs
from planner_app.voter.pages.words import instant, mapping

SCALE = 1000
"""Width of the time line."""
_THINNEST = 4
_STILL_ONE = timedelta(minutes=10)
"""An upload longer before the vote is not drawn: the rest would shrink to a line."""
_MOST_SOURCES = 2000
_NUMBERED = 8
"""Sources whose numbers are written on the map."""
_COLUMNS = ("ra", "dec", "peak_flux", "local_rms", "a", "b", "pa")


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a job's way."""

    name: str
    kind: str
    """For the style: data, vote, wait, run, end."""
    start: datetime
    end: datetime | None
    """None where it goes on."""
    what: str


def stages_of(
    ballots: Sequence[Mapping[str, Any]], uploaded: Mapping[str, Any] | None, submitted: str | None
) -> list[Stage]:
    """Find the parts of a job's way, in order, from all ballots on it."""
    stages = []
    if uploaded is not None and (moment := instant(uploaded["created"])) is not None:
        what = f"{words.text(uploaded['name'], 80)}, {uploaded['size'] / 1e6:.3g} MB"
        stages.append(Stage("Uploaded", "data", moment, moment, what))
    if (moment := instant(submitted)) is not None:
        stages.append(Stage("Submitted", "data", moment, moment, "by caesar-rest"))
    for number, ballot in enumerate(ballots, 1):
        of = f" {number}" if len(ballots) > 1 else ""
        stages += _attempt(ballot, of)
    return stages


def _attempt(ballot: Mapping[str, Any], of: str) -> list[Stage]:
    begin = instant(ballot["created"])
    if begin is None:
        return []
    took = ballot["timings"].get("total_ms")
    decided = None if took is None else begin + timedelta(milliseconds=took)
    asked = len(ballot["answers"])
    offers = sum(candidate["offer"] is not None for candidate in ballot["candidates"])
    words_of_vote = f"{offers} offers of {asked} planners" if asked else "asking the planners"
    stages = [Stage(f"Vote{of}", "vote", begin, decided, words_of_vote)]
    if decided is None or ballot["winner"] is None:
        return stages
    where, closed = str(ballot["winner"]["planner"]), not State(ballot["state"]).ended
    last = None if closed else instant(ballot["history"][-1]["time"]) if ballot["history"] else None
    started, ended = instant(ballot.get("started")), instant(ballot.get("ended"))
    # The platform's clock may be behind: nothing ends before it begins.
    started = None if started is None else max(started, decided)
    ended = None if ended is None or started is None else max(ended, started)
    stages.append(Stage(f"Waiting{of}", "wait", decided, started or last, f"data and start on {where}"))
    if started is not None:
        stages.append(Stage(f"Running{of}", "run", started, ended or last, f"{ballot['app']} on {where}"))
    if ended is not None and last is not None:
        stages.append(Stage(f"Seen done{of}", "end", ended, max(last, ended), "outputs kept, the voter told"))
    return stages


def time_line(stages: Sequence[Stage], now: datetime) -> list[dict[str, Any]]:
    """Lay the parts out along one line of time."""
    if not stages:
        return []
    votes = [stage.start for stage in stages if stage.kind != "data"]
    begin = min([stage.start for stage in stages if not votes or stage.start > votes[0] - _STILL_ONE] + votes)
    end = max(stage.end or now for stage in stages)
    whole = max((end - begin).total_seconds(), 1e-3)
    rows = []
    for stage in stages:
        length = max(((stage.end or now) - stage.start).total_seconds(), 0.0)
        left = (stage.start - begin).total_seconds() / whole
        width = max(_THINNEST, round(SCALE * length / whole))
        rows.append(
            {
                "name": stage.name,
                "kind": stage.kind,
                "start": stage.start,
                "took": words.seconds(length) if length else "",
                "live": stage.end is None,
                "what": stage.what,
                "drawn": left >= 0,
                "left": min(SCALE - width, max(0, round(SCALE * left))),
                "width": width,
            }
        )
    return rows


def catalogue_names(names: Sequence[str]) -> list[str]:
    """Name the catalogues among the outputs, the one with components first."""
    kinds = (r"catalog_fitcomp-[^/]*\.json", r"catalog-[^/]*\.json")
    return [name for kind in kinds for name in sorted(names) if re.fullmatch(kind, name)]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What was found: components, or sources where no components were fitted, the brightest first."""

    entries: list[dict[str, float]]
    unit: str
    """Of the brightness."""
    title: str
    """How many of what there are."""


def read_catalogue(body: bytes) -> Catalogue:
    """Read a catalogue.

    Raises ValueError where it is none. What is no source in it is left out.
    """
    try:
        document = json.loads(body)
    except RecursionError:
        raise ValueError("too deep") from None
    fitted = "components" in mapping(document)
    found = mapping(document).get("components" if fitted else "sources")
    if not isinstance(found, list):
        raise ValueError("it has no sources")
    sources = []
    for each in found[:_MOST_SOURCES]:
        values = {name: _float(mapping(each).get(name)) for name in _COLUMNS}
        source = {name: value for name, value in values.items() if value is not None}
        if "ra" in source and abs(source.get("dec", 100)) <= 90:
            sources.append(source)
    sources.sort(key=lambda source: -source.get("peak_flux", 0.0))
    metadata = mapping(mapping(document).get("metadata"))
    title = _count(len(sources), "component" if fitted else "source")
    if fitted and type(metadata.get("sources")) is int:
        title = f"{_count(metadata['sources'], 'source')} of {title}"
    return Catalogue(sources, words.text(metadata.get("unit", ""), 20), title)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return float(value)


def rows_of(sources: Sequence[Mapping[str, float]]) -> list[dict[str, str]]:
    """Write the table of sources."""
    return [
        {
            "number": str(number),
            "ra": f"{source['ra']:.4f}",
            "dec": f"{source['dec']:+.4f}".replace("-", "\N{MINUS SIGN}"),
            "peak": f"{source['peak_flux']:.3f}" if "peak_flux" in source else words.NOTHING,
            "sigma": f"{source['peak_flux'] / source['local_rms']:.0f}"
            if source.get("local_rms", 0) > 0 and "peak_flux" in source
            else words.NOTHING,
            "size": f"{source['a'] / 60:.1f} \N{MULTIPLICATION SIGN} {source['b'] / 60:.1f}"
            if {"a", "b"} <= set(source)
            else words.NOTHING,
        }
        for number, source in enumerate(sources, 1)
    ]


def map_view(image: Image, sources: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Place the sources over the picture of their image; positions count pixels from the picture's upper left corner.

    Where the positions cannot be told, `why` says so and there are no marks.
    """
    view: dict[str, Any] = {"width": image.width, "height": image.height, "marks": [], "why": "", "outside": 0}
    try:
        wcs = Wcs.of(image.header)
    except NotKnown as error:
        return view | {"why": str(error)}
    small = max(image.width, image.height) / 60
    for number, source in enumerate(sources, 1):
        centre = wcs.pixel(source["ra"], source["dec"])
        if centre is None or not (0.5 <= centre[0] <= image.width + 0.5 and 0.5 <= centre[1] <= image.height + 0.5):
            view["outside"] += 1
            continue
        x, y = _on_picture(centre, image)
        major, minor = source.get("a", 0) / 3600, source.get("b", 0) / 3600
        outline = []
        if 0 < minor <= major < 10:
            outline = wcs.outline(source["ra"], source["dec"], major, minor, source.get("pa", 0.0))
        points = [_on_picture(point, image) for point in outline]
        if not points or max(abs(px - x) + abs(py - y) for px, py in points) < small / 2:
            points = [(x - small, y), (x, y - small), (x + small, y), (x, y + small)]
        path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in points) + "Z"
        title = f"{number}: RA {source['ra']:.3f}°, Dec {source['dec']:.3f}°"
        label = str(number) if number <= _NUMBERED else ""
        # Written to the left where the picture ends to the right.
        reach = max(abs(px - x) for px, _ in points) + small / 4
        right = x + reach + 2 * small < image.width
        place = {"label_x": f"{x + reach if right else x - reach:.1f}", "anchor": "start" if right else "end"}
        mark = {"x": round(x, 2), "y": round(y, 2), "path": path, "title": title, "label": label}
        view["marks"].append(mark | place)
    return view | {"line": f"{max(image.width, image.height) / 400:.2f}", "letter": f"{small * 2:.1f}"}


def _on_picture(pixel: tuple[float, float], image: Image) -> tuple[float, float]:
    # FITS counts from 1 at a pixel's centre and from the bottom up.
    return pixel[0] - 0.5, image.height - (pixel[1] - 0.5)


def job_view(
    ballots: Sequence[Mapping[str, Any]],
    uploaded: Mapping[str, Any] | None,
    job: Mapping[str, Any] | None,
    now: datetime,
) -> dict[str, Any]:
    """Say what the page of a job shows of its way; `ballots` are those on it, the oldest first, at least one."""
    last = ballots[-1]
    rows = time_line(stages_of(ballots, uploaded, None if job is None else str(job["submitted"])), now)
    return {
        "id": last["id"],
        "short": last["id"][:8],
        "app": last["app"],
        "user": words.text(last.get("user") or last["client"], 60),
        "trace": last.get("trace") or "",
        "state": words.state(last),
        "platform": last["winner"]["planner"] if last["winner"] else "",
        "session": last["winner"]["session"] if last["winner"] else "",
        "message": words.text(last.get("trouble") or last["message"]),
        "live": not State(last["state"]).ended,
        "number": None if job is None else job["id"],
        "ballots": [
            {"id": each["id"], "short": each["id"][:8], "state": words.state(each), "why": words.text(each["message"])}
            for each in ballots
        ],
        "stages": rows,
        "scale": SCALE,
        "history": [line for ballot in ballots for line in history(ballot)],
    }
