#!/usr/bin/python3 -I
"""Find sources in a FITS image with AegeanTools, as a container job that honours caesar-rest's contract.

Environment: JOB_OPTIONS (blank-separated words, see WORDS; the last one wins), INPUTFILE (where no --inputfile is
among them), JOB_DIR (to work in), JOB_OUTDIR (for results). JOB_OPTIONS and INPUTFILE may not both be empty.

Writes into the output directory, NAME being the image's name without its suffix:
    catalog-NAME.json, .dat            the sources: islands of pixels above the threshold
    catalog_fitcomp-NAME.json, .dat    the Gaussian components fitted to them
    plot_NAME.png                      the map with the components
and with the words for them ds9-NAME.reg, bkg_NAME.fits, rms_NAME.fits.

Exit codes: 0 done (also when nothing was found), 1 wrong options or image, 143 ended by SIGTERM.

The same image gives the same catalogue, byte for byte, on any number of cores and on any x86-64 machine of the
last ten years: one thread, one stripe, one kind of vector instructions, no random identifiers, no times.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

STARTED = time.monotonic()
# Of all numbers in a catalogue: more than the fits are worth, few enough to print them exactly.
SIGNIFICANT_DIGITS = 7


class JobError(Exception):
    """Something the one who asked for the job can put right."""


def say(text: str) -> None:
    """Tell how far the job is."""
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", flush=True)


# --- What is asked for ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """The job's options. Thresholds are in units of the local noise, box and grid in pixels."""

    inputfile: Path
    outdir: Path
    jobdir: Path
    seed_threshold: float = 5.0
    merge_threshold: float = 4.0
    background_box: int | None = None
    background_grid: int | None = None
    max_components: int | None = None
    save_regions: bool = False
    save_background: bool = False
    save_noise: bool = False


def positive_float(text: str) -> float:
    """Read a number above zero."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError("must be above 0")
    return value


def positive_int(text: str) -> int:
    """Read a whole number above zero."""
    value = int(text)
    if value < 1:
        raise ValueError("must be 1 or more")
    return value


def filled(text: str) -> str:
    """Read a text that is not empty."""
    if not text:
        raise ValueError("must not be empty")
    return text


# Word -> its value's type; None for a flag.
WORDS: Mapping[str, Callable[[str], object] | None] = {
    "--run": None,
    "--save-summaryplot": None,
    "--save-regions": None,
    "--save-catalog-to-json": None,
    "--save-bkgmap": None,
    "--save-rmsmap": None,
    "--no-logredir": None,
    "--seedthr": positive_float,
    "--mergethr": positive_float,
    "--bkgbox": positive_int,
    "--bkggrid": positive_int,
    "--fit-maxcomponents": positive_int,
    "--ncores": positive_int,
    "--inputfile": filled,
    "--jobdir": filled,
    "--outdir": filled,
}


def parse(environment: Mapping[str, str]) -> Options:
    """Read the options from the job's environment.

    Raises JobError that names the word and what would be right.
    """
    words = environment.get("JOB_OPTIONS", "").split()
    if not words and not environment.get("INPUTFILE"):
        raise JobError("JOB_OPTIONS and INPUTFILE are both empty: there is no image to search")
    given: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if name not in WORDS:
            raise JobError(f"unknown option {name!r} in JOB_OPTIONS; there are: {' '.join(WORDS)}")
        convert = WORDS[name]
        if convert is None:
            if equals:
                raise JobError(f"option {name} takes no value, and got {text!r}")
            given[name] = True
            continue
        try:
            given[name] = convert(text)
        except ValueError as error:
            raise JobError(f"option {name}={text}: {error}") from error
    inputfile = given.get("--inputfile") or environment.get("INPUTFILE")
    if not inputfile:
        raise JobError("no image is named: give --inputfile=PATH in JOB_OPTIONS, or INPUTFILE")
    # Aegean itself would quietly lower the one to the other; so do we, but the catalogue says so.
    seed = given.get("--seedthr", Options.seed_threshold)
    merge = min(seed, given.get("--mergethr", Options.merge_threshold))
    jobdir = given.get("--jobdir") or environment.get("JOB_DIR") or tempfile.gettempdir()
    return Options(
        inputfile=Path(inputfile),
        outdir=Path(given.get("--outdir") or environment.get("JOB_OUTDIR") or jobdir),
        jobdir=Path(jobdir),
        seed_threshold=seed,
        merge_threshold=merge,
        background_box=given.get("--bkgbox"),
        background_grid=given.get("--bkggrid"),
        max_components=given.get("--fit-maxcomponents"),
        save_regions="--save-regions" in given,
        save_background="--save-bkgmap" in given,
        save_noise="--save-rmsmap" in given,
    )


# --- The image --------------------------------------------------------------------------------------------------


def load_image(path: Path) -> tuple[Any, Any]:
    """Read the first image of a FITS file as two dimensions; axes of length 1 (frequency, Stokes) are dropped.

    Returns pixels and header. Raises JobError where there is no such image.
    """
    import numpy as np
    from AegeanTools.wcs_helpers import fix_aips_header
    from astropy.io import fits

    try:
        with fits.open(path, memmap=False) as hdus:
            hdu = next((hdu for hdu in hdus if hdu.is_image and hdu.header.get("NAXIS", 0) >= 2), None)
            if hdu is None or hdu.data is None:
                raise JobError(f"{path} has no image in it")
            data, header = hdu.data, hdu.header.copy()
    except FileNotFoundError as error:
        raise JobError(f"{path} does not exist in this container: is its directory mounted?") from error
    except (OSError, TypeError, ValueError) as error:
        raise JobError(f"{path} cannot be read as FITS: {error}") from error
    planes = data.reshape(-1, *data.shape[-2:])
    if planes.shape[0] != 1:
        raise JobError(f"{path} is a cube of {planes.shape[0]} planes; cut out one of them")
    # The machine's byte order: some of the libraries cannot do with FITS's.
    pixels = planes[0].astype(np.float32 if data.dtype.itemsize <= 4 else np.float64)
    if not np.isfinite(pixels).any():
        raise JobError(f"{path} has no pixel with a value")
    for axis in range(3, header.get("NAXIS", 2) + 1):
        for key in ("NAXIS", "CTYPE", "CRVAL", "CRPIX", "CDELT", "CUNIT", "CROTA"):
            header.remove(f"{key}{axis}", ignore_missing=True)
        for other in range(1, header["NAXIS"] + 1):
            for key in (f"PC{axis}_{other}", f"PC{other}_{axis}", f"CD{axis}_{other}", f"CD{other}_{axis}"):
                header.remove(key, ignore_missing=True)
    header["NAXIS"] = 2
    for key in ("BSCALE", "BZERO", "BLANK", "WCSAXES"):
        header.remove(key, ignore_missing=True)
    if "HISTORY" in header:
        header = fix_aips_header(header)
    for key in ("BMAJ", "BMIN"):
        if not header.get(key, 0) > 0:
            raise JobError(f"{path} does not tell the telescope's beam: its header lacks BMAJ and BMIN in degrees")
    if not str(header.get("CTYPE1", "")).strip() or not str(header.get("CTYPE2", "")).strip():
        raise JobError(f"{path} does not tell where it lies on the sky: its header lacks CTYPE1 and CTYPE2")
    return pixels, header


def background_and_noise(image: Path, shape: tuple[int, int], options: Options, header: Any) -> tuple[Any, Any]:
    """Run BANE on a plain two-dimensional FITS file, within this process and over the whole image at once.

    BANE's own way cuts the image into as many stripes as there are cores, and each number of stripes gives
    another background. It also keeps 16 bytes a pixel in /dev/shm, of which a pod has 64 MiB.
    """
    import numpy as np
    from AegeanTools import BANE

    class Memory:
        """A shared memory that nobody else shares."""

        buffers: dict[str, bytearray] = {}  # noqa: RUF012 - by name, as the real one

        def __init__(self, name: str, create: bool) -> None:
            self.buf = self.buffers.setdefault(name, bytearray(8 * shape[0] * shape[1]))

    class Barrier:
        """One stripe waits for nobody."""

        def wait(self) -> int:
            return 0

        def reset(self) -> None:
            pass

    step = (options.background_grid,) * 2 if options.background_grid else BANE.get_step_size(header)
    # As BANE has it: about thirty beams in a box.
    box = (options.background_box,) * 2 if options.background_box else tuple(6 * side for side in step)
    BANE.SharedMemory = Memory
    BANE.init(Barrier(), "job")
    BANE.sigma_filter(str(image), (0, shape[0]), step, box, shape, True, 0)
    maps = (np.ndarray(shape, np.float64, Memory.buffers[f"{name}_job"]) for name in ("ibkg", "irms"))
    background, noise = (values.astype(np.float32) for values in maps)
    return background, noise


# --- The catalogue ----------------------------------------------------------------------------------------------

# Column -> unit, of Aegean's names. Its random identifiers are left out: a name from the numbers does as well.
SOURCE_COLUMNS = {
    "island": "", "components": "", "background": "{unit}", "local_rms": "{unit}", "ra_str": "", "dec_str": "",
    "ra": "deg", "dec": "deg", "peak_flux": "{unit}", "int_flux": "Jy", "err_int_flux": "Jy", "eta": "",
    "x_width": "pixel", "y_width": "pixel", "max_angular_size": "deg", "pa": "deg", "pixels": "", "area": "deg2",
    "beam_area": "deg2", "flags": "",
}  # fmt: skip
COMPONENT_COLUMNS = {
    "island": "", "source": "", "background": "{unit}", "local_rms": "{unit}", "ra_str": "", "dec_str": "",
    "ra": "deg", "err_ra": "deg", "dec": "deg", "err_dec": "deg", "peak_flux": "{unit}", "err_peak_flux": "{unit}",
    "int_flux": "Jy", "err_int_flux": "Jy", "a": "arcsec", "err_a": "arcsec", "b": "arcsec", "err_b": "arcsec",
    "pa": "deg", "err_pa": "deg", "flags": "", "residual_mean": "{unit}", "residual_std": "{unit}",
    "psf_a": "arcsec", "psf_b": "arcsec", "psf_pa": "deg",
}  # fmt: skip
Row = dict[str, str | int | float | None]


def plain(name: str, value: Any) -> str | int | float | None:
    """Turn a value of Aegean's into one that JSON has; what was not measured becomes None."""
    import math

    if isinstance(value, str):
        return value.strip()
    number = float(value)
    # Aegean marks an error that could not be computed by -1.
    if not math.isfinite(number) or (name.startswith("err_") and number < 0):
        return None
    if number == int(number) and abs(number) < 1e15:
        return int(number)
    return float(f"{number:.{SIGNIFICANT_DIGITS}g}")


def rows(sources: Sequence[Any], columns: Mapping[str, str], name: Callable[[Any], str]) -> list[Row]:
    """Tabulate sources, in the order of their numbers."""
    return [
        {"name": name(source), **{column: plain(column, getattr(source, column)) for column in columns}}
        for source in sorted(sources, key=lambda source: (source.island, getattr(source, "source", 0)))
    ]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that never appears in part."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_bytes(content)
    partial.replace(path)


def write_catalogue(stem: Path, metadata: Mapping[str, object], table: list[Row], columns: Mapping[str, str]) -> None:
    """Write one table as JSON and as blank-separated text; `stem` is the path without suffix."""
    import json

    units = {"name": "", **{column: unit.format(unit=metadata["unit"]) for column, unit in columns.items()}}
    kind = "components" if "source" in columns else "sources"
    document = {"metadata": metadata, "units": {key: unit for key, unit in units.items() if unit}, kind: table}
    write_whole(stem.with_name(f"{stem.name}.json"), (json.dumps(document, indent=1) + "\n").encode())

    cells = [list(units), [units[column] or "-" for column in units]]
    cells += [["-" if row[column] is None else str(row[column]) for column in units] for row in table]
    widths = [max(len(line[index]) for line in cells) for index in range(len(units))]
    lines = [" ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    text = [f"# {key}: {value}" for key, value in metadata.items()]
    text += ["# " + lines[0], "# " + lines[1], *("  " + line for line in lines[2:])]
    write_whole(stem.with_name(f"{stem.name}.dat"), ("\n".join(text) + "\n").encode())


def write_regions(path: Path, components: list[Row], frame: str) -> None:
    """Write the components as ellipses for SAOImage DS9."""
    lines = ["# Region file format: DS9 version 4.1", "global color=cyan", frame]
    for row in components:
        lines.append(
            f'ellipse({row["ra"]},{row["dec"]},{row["a"]}",{row["b"]}",{float(row["pa"] or 0) + 90:g}) '
            f"# text={{{row['name']}}}"
        )
    write_whole(path, ("\n".join(lines) + "\n").encode())


# --- The plot ---------------------------------------------------------------------------------------------------


def plot(
    path: Path, pixels: Any, header: Any, helper: Any, components: list[Row], title: str, noise: float, unit: str
) -> None:
    """Draw the map with its components, the beam and a colour bar."""
    import io

    import matplotlib as mpl
    import numpy as np
    from astropy.visualization import AsinhStretch, ImageNormalize
    from astropy.wcs import WCS
    from matplotlib import pyplot as plt
    from matplotlib.patches import Ellipse, Rectangle
    from matplotlib.patheffects import withStroke

    mpl.rcParams.update({"font.size": 11, "axes.titlesize": 14})
    wcs = WCS(header).celestial
    rows_, columns_ = pixels.shape
    scale = 8.2 / max(rows_, columns_)
    figure = plt.figure(figsize=(max(6.0, columns_ * scale) + 2.6, max(4.0, rows_ * scale) + 1.4), layout="constrained")
    axes = figure.add_subplot(projection=wcs)
    # Faint sources beside bright ones: linear around the noise, logarithmic above. The brightest pixels may
    # saturate only a little.
    top = max(float(np.nanpercentile(pixels, 99.9)), 10 * noise)
    norm = ImageNormalize(vmin=-3 * noise, vmax=top, stretch=AsinhStretch(a=min(1.0, 3 * noise / top)), clip=False)
    colours = mpl.colormaps["inferno"].copy()
    colours.set_bad("#d9d9d9")
    image = axes.imshow(pixels, origin="lower", cmap=colours, norm=norm, interpolation="nearest")

    halo = [withStroke(linewidth=2.6, foreground="black", alpha=0.55)]
    ellipses = []
    for row in components:
        if row["a"] is None or row["b"] is None:
            continue
        position = (float(row["ra"] or 0), float(row["dec"] or 0))
        x, y, a, b, angle = helper.sky2pix_ellipse(
            position, float(row["a"]) / 3600, float(row["b"]) / 3600, float(row["pa"] or 0)
        )
        # Aegean counts rows and columns from 1, and gives the row first.
        centre = (y - 1, x - 1)
        ellipses.append((row, centre))
        axes.add_patch(
            Ellipse(centre, b, a, angle=-angle, fill=False, edgecolor="#40e0ff", linewidth=1.3, path_effects=halo)
        )
    for row, (x, y) in sorted(ellipses, key=lambda pair: -float(pair[0]["peak_flux"] or 0))[:5]:
        left = x > 0.8 * columns_
        axes.annotate(
            f"{float(row['peak_flux'] or 0):.3g} {unit}",
            (x, y),
            xytext=(-12 if left else 12, 10),
            textcoords="offset points",
            ha="right" if left else "left",
            color="white",
            fontsize=9,
            path_effects=[withStroke(linewidth=2.2, foreground="black")],
        )

    # The beam in the lower left corner, in its true size, on a plate that shows it on any map.
    corner = helper.pix2sky((2.0, 2.0))
    _, _, a, b, angle = helper.sky2pix_ellipse(corner, header["BMAJ"], header["BMIN"], header.get("BPA", 0) or 0)
    if np.isfinite([a, b, angle]).all():
        plate = max(1.6 * a, 0.03 * min(rows_, columns_))
        middle = 0.012 * min(rows_, columns_) + plate / 2
        axes.add_patch(
            Rectangle(
                (middle - plate / 2, middle - plate / 2), plate, plate, facecolor="white", edgecolor="black", lw=0.8
            )
        )
        axes.add_patch(Ellipse((middle, middle), b, a, angle=-angle, facecolor="black"))
        axes.text(middle + 0.6 * plate, middle, "beam", color="black", fontsize=9, va="center",
                  path_effects=[withStroke(linewidth=2.5, foreground="white")])  # fmt: skip

    axes.set_title(title, pad=12)
    galactic = "lon" in str(header["CTYPE1"]).lower()
    equinox = " (J2000)" if wcs.wcs.equinox == 2000 or wcs.wcs.radesys in ("FK5", "ICRS") else ""
    axes.coords[0].set_axislabel("Galactic longitude" if galactic else f"Right ascension{equinox}")
    axes.coords[1].set_axislabel("Galactic latitude" if galactic else f"Declination{equinox}", minpad=0.6)
    axes.coords.grid(color="white", alpha=0.35, linewidth=0.6, linestyle="-")
    bar = figure.colorbar(image, ax=axes, extend="both", pad=0.02, shrink=0.94)
    ticks = [0.0] + [sign * 10.0**power * step for power in range(-9, 6) for step in (1, 3) for sign in (1, -1)]
    bar.set_ticks(sorted(tick for tick in ticks if -3 * noise <= tick <= top and (tick == 0 or abs(tick) > noise)))
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    bar.set_label(f"Brightness ({unit}), asinh scale")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    plt.close(figure)
    write_whole(path, buffer.getvalue())


# --- The job ----------------------------------------------------------------------------------------------------


def find(options: Options) -> tuple[int, int]:
    """Do the whole job; return the numbers of sources and components.

    Raises JobError for what is wrong with the image, OSError where nothing can be written.
    """
    say(f"searching {options.inputfile.name}: seeds above {options.seed_threshold:g} sigma, "
        f"grown down to {options.merge_threshold:g} sigma")  # fmt: skip
    quieten()
    import numpy as np
    from AegeanTools import __version__ as aegean_version
    from AegeanTools.models import classify_catalog
    from AegeanTools.source_finder import SourceFinder
    from astropy.io import fits

    pixels, header = load_image(options.inputfile)
    unit = {"JY/BEAM": "Jy/beam", "MJY/BEAM": "mJy/beam"}.get(
        str(header.get("BUNIT", "")).strip().upper(), str(header.get("BUNIT", "")).strip() or "Jy/beam"
    )
    name = options.inputfile.name.removesuffix(".gz").removesuffix(".fits").removesuffix(".FITS")
    options.outdir.mkdir(parents=True, exist_ok=True)
    options.jobdir.mkdir(parents=True, exist_ok=True)
    # On NFS a file that is still mapped stays under another name until it is not; the whole scratch goes after the job.
    with tempfile.TemporaryDirectory(dir=options.jobdir, prefix="aegean-", ignore_cleanup_errors=True) as scratch:
        image, background_map, noise_map = (Path(scratch, f"{what}.fits") for what in ("image", "bkg", "rms"))
        fits.PrimaryHDU(pixels, header).writeto(image, output_verify="silentfix")
        say(f"image of {pixels.shape[1]} x {pixels.shape[0]} pixels, {np.isfinite(pixels).sum()} with a value")
        background, noise = background_and_noise(image, pixels.shape, options, fits.getheader(image))
        middle = float(np.nanmedian(noise))
        say(f"background and noise measured: noise {middle:.3g} {unit}")
        fits.PrimaryHDU(background, header).writeto(background_map, output_verify="silentfix")
        fits.PrimaryHDU(noise, header).writeto(noise_map, output_verify="silentfix")

        class Finder(SourceFinder):  # type: ignore[misc]
            """Tells now and then how many islands are done."""

            done = 0
            due = time.monotonic() + 5

            def _fit_island(self, island_data: Any) -> Any:
                self.done += 1
                if time.monotonic() > self.due:
                    say(f"fitting: {self.done} islands done")
                    self.due = time.monotonic() + 5
                return super()._fit_island(island_data)

        finder = Finder()
        found = finder.find_sources_in_image(
            str(image),
            innerclip=options.seed_threshold,
            outerclip=options.merge_threshold,
            max_summits=options.max_components,
            bkgin=str(background_map),
            rmsin=str(noise_map),
            cores=1,
            doislandflux=True,
            nonegative=True,
            progress=False,
        )
        for wanted, source, prefix in (
            (options.save_background, background_map, "bkg"),
            (options.save_noise, noise_map, "rms"),
        ):
            if wanted:
                write_whole(options.outdir / f"{prefix}_{name}.fits", source.read_bytes())
    component_sources, island_sources, _ = classify_catalog(found)
    components = rows(component_sources, COMPONENT_COLUMNS, lambda one: f"S{one.island}_C{one.source + 1}")
    # An island whose components are all negative has none left.
    used = {one.island for one in component_sources}
    sources = rows([one for one in island_sources if one.island in used], SOURCE_COLUMNS, lambda one: f"S{one.island}")
    say(f"fitted: {len(sources)} sources with {len(components)} components")

    metadata: dict[str, object] = {
        "image": options.inputfile.name,
        "program": f"AegeanTools {aegean_version}",
        "seed_threshold_sigma": options.seed_threshold,
        "merge_threshold_sigma": options.merge_threshold,
        "unit": unit,
        "noise_median": plain("", middle),
        "beam_major_deg": plain("", header["BMAJ"]),
        "beam_minor_deg": plain("", header["BMIN"]),
        "beam_pa_deg": plain("", header.get("BPA", 0) or 0),
        "sources": len(sources),
        "components": len(components),
    }
    if options.save_regions:
        galactic = "lon" in str(header["CTYPE1"]).lower()
        write_regions(options.outdir / f"ds9-{name}.reg", components, "galactic" if galactic else "fk5")
    telescope = str(header.get("TELESCOP", "")).strip()
    title = f"{name}" + (f" ({telescope})" if telescope else "")
    title += f": {len(components)} components in {len(sources)} sources above {options.seed_threshold:g}$\\,\\sigma$"
    plot(options.outdir / f"plot_{name}.png", pixels, header, finder.wcshelper, components, title, middle, unit)
    say("map drawn")
    # The catalogues last: who sees one has all the rest.
    write_catalogue(options.outdir / f"catalog_fitcomp-{name}", metadata, components, COMPONENT_COLUMNS)
    write_catalogue(options.outdir / f"catalog-{name}", metadata, sources, SOURCE_COLUMNS)
    if components:
        brightest = max(components, key=lambda row: float(row["peak_flux"] or 0))
        say(f"brightest: {brightest['name']} with {float(brightest['peak_flux'] or 0):.4g} {unit} "
            f"at RA {float(brightest['ra'] or 0):.4f} Dec {float(brightest['dec'] or 0):.4f} deg")  # fmt: skip
    say(f"results are in {options.outdir}")
    return len(sources), len(components)


def quieten() -> None:
    """Let the libraries say only what is wrong: of the rest this program tells."""
    import logging
    import warnings

    # Before the first of them is loaded: one warns of a /dev/shm that it cannot use and does without.
    warnings.simplefilter("ignore")
    from AegeanTools.logging import logger

    logger.setLevel(logging.ERROR)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)


def settle(environment: dict[str, str]) -> None:
    """Set what the libraries read when they are loaded, so that they compute the same everywhere."""
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        environment[variable] = "1"
    # One kernel of BLAS and one level of numpy's vector code on all processors that have AVX2.
    processor = Path("/proc/cpuinfo")
    if processor.exists() and "avx2" in processor.read_text().split():
        environment["OPENBLAS_CORETYPE"] = "Haswell"
        environment["NPY_DISABLE_CPU_FEATURES"] = (
            "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"
        )
    environment["MPLBACKEND"] = "Agg"
    environment["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="matplotlib-")


def ended(number: int, frame: FrameType | None) -> None:
    """End at once on SIGTERM, also as the first process of a container, for which the kernel would ignore it."""
    # Not by say(): the signal may have come while that writes, and stdout's buffer is not reentrant. Nor may a reader
    # who does not read keep it from ending.
    with contextlib.suppress(OSError):
        os.set_blocking(1, False)
        os.write(1, f"[{time.monotonic() - STARTED:6.1f} s] ended by SIGTERM\n".encode())
    os._exit(128 + number)


def main() -> int:
    """Run the job of this environment."""
    signal.signal(signal.SIGTERM, ended)
    try:
        options = parse(os.environ)
        settle(os.environ)  # type: ignore[arg-type]
        sources, components = find(options)
    except (JobError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    print(f"sources={sources} components={components}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
