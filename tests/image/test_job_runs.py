"""The job's program on real and made maps, in an environment made from its lock file.

Not among the fast tests: the environment is 390 MB. Run by `make test`, or by hand: pytest tests/image
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.uv_program import find_uv

JOB = Path(__file__).parents[2] / "roles/job_images/files/aegean-job"
SAMPLE_SHA256 = "51d95450d35cb6c8c60a59e72e693b7127ae7607cece5905206f646b0a4c0246"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "caesar-testbed"
# Makes maps for the tests; runs in the job's environment. A beam of 6 pixels, noise of 1 that is correlated like
# that of a radio map: where it is not, Aegean's fits go astray.
MAKE_MAP = """
import sys
import numpy as np
from astropy.io import fits
from scipy.ndimage import gaussian_filter
kind, path = sys.argv[1:]
random = np.random.default_rng(1)
size = 400 if kind == 'large' else 200
y, x = np.mgrid[:size, :size]
data = gaussian_filter(random.normal(0, 1, (size, size)), 2.55)
data = (data / data.std()).astype('f4')
if kind != 'empty':
    for row in range(30, size - 20, 25 if kind == 'large' else 70):
        for column in range(30, size - 20, 25 if kind == 'large' else 70):
            data += (20 + row / 10) * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 2 / 2.55**2)
header = fits.Header(dict(
    CTYPE1='RA---SIN', CTYPE2='DEC--SIN', CRVAL1=150.0, CRVAL2=-30.0, CRPIX1=100.0, CRPIX2=100.0,
    CDELT1=-1e-3, CDELT2=1e-3, BUNIT='JY/BEAM', BMAJ=6e-3, BMIN=6e-3, BPA=0.0))
if kind == 'blank':
    data[:] = np.nan
if kind == 'no-beam':
    del header['BMAJ']
if kind == 'cube':
    data = np.stack([data, data])
if kind == 'stokes':
    data = data[None, None]
    header.update(CTYPE3='FREQ', CRVAL3=1.4e9, CRPIX3=1.0, CDELT3=1e6)
    header.update(CTYPE4='STOKES', CRVAL4=1.0, CRPIX4=1.0, CDELT4=1.0)
if kind == 'scaled':
    scaled = fits.PrimaryHDU(data, header)
    scaled.scale('int16', bscale=0.005, bzero=2.0)
    scaled.writeto(path)
else:
    fits.PrimaryHDU(data, header).writeto(path)
"""


@pytest.fixture(scope="session")
def python() -> str:
    """Python of an environment made from the lock file, kept in the cache under its hash."""
    key = hashlib.sha256((JOB / "uv.lock").read_bytes() + sys.version.encode()).hexdigest()[:12]
    environment = CACHE / "job-image" / f"environment-{key}"
    subprocess.run(
        [find_uv(CACHE), "sync", "--quiet", "--frozen", f"--project={JOB}", f"--python={sys.executable}"],
        env={**os.environ, "UV_PROJECT_ENVIRONMENT": str(environment), "UV_COMPILE_BYTECODE": "1"},
        check=True,
    )
    return str(environment / "bin/python")


@pytest.fixture(scope="session")
def sample(python: str) -> Path:
    """The Parkes map that astropy's tests read."""
    code = (
        "import astropy, pathlib; print(pathlib.Path(astropy.__file__).parent / 'modeling/tests/data/1904-66_AZP.fits')"
    )
    path = Path(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SAMPLE_SHA256
    return path


def run(python: str, out: Path, image: Path, words: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": "/usr/bin:/bin",
        "JOB_OUTDIR": str(out),
        "INPUTFILE": str(image),
        "JOB_OPTIONS": words,
        **more,
    }
    return subprocess.run([python, JOB / "aegean_job.py"], env=environment, capture_output=True, text=True)


def make_map(python: str, kind: str, path: Path) -> Path:
    subprocess.run([python, "-c", MAKE_MAP, kind, path], check=True)
    return path


@pytest.fixture(scope="session")
def real(python: str, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("real")
    done = run(
        python, out, sample, "--run --save-summaryplot --save-regions --save-catalog-to-json --seedthr=5 --mergethr=4"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "sources=58 components=70"
    return out


def test_the_parkes_map_has_its_sources(real: Path) -> None:
    document = json.loads((real / "catalog_fitcomp-1904-66_AZP.json").read_text())
    components = sorted(document["components"], key=lambda one: -one["peak_flux"])
    assert len(components) == 70
    first, second = components[:2]
    assert first["peak_flux"] == pytest.approx(13.71, abs=0.02)
    assert (first["ra"], first["dec"]) == (pytest.approx(294.858, abs=0.002), pytest.approx(-63.724, abs=0.002))
    assert second["peak_flux"] == pytest.approx(11.31, abs=0.02)
    assert (second["ra"], second["dec"]) == (pytest.approx(274.881, abs=0.002), pytest.approx(-63.795, abs=0.002))
    sources = json.loads((real / "catalog-1904-66_AZP.json").read_text())["sources"]
    assert len(sources) == 58
    assert sum(source["components"] for source in sources) == 70


def test_all_that_caesar_rest_serves_is_there(real: Path) -> None:
    for pattern in ("catalog-*.json", "catalog-*.dat", "catalog_fitcomp-*.json", "catalog_fitcomp-*.dat", "plot_*.png"):
        (found,) = real.glob(pattern)
        assert found.stat().st_size > 1000
    assert (real / "plot_1904-66_AZP.png").read_bytes().startswith(b"\x89PNG")
    assert (real / "ds9-1904-66_AZP.reg").read_text().count("ellipse(") == 70
    assert not [path.name for path in real.iterdir() if path.name.startswith(".")]


def test_the_same_bytes_whatever_the_machine_says(python: str, sample: Path, real: Path, tmp_path: Path) -> None:
    more = {
        "OMP_NUM_THREADS": "4",
        "OPENBLAS_NUM_THREADS": "4",
        "PYTHONHASHSEED": "7",
        "TZ": "Asia/Tokyo",
        "LC_ALL": "C",
    }
    done = run(python, tmp_path, sample, "--seedthr=5 --mergethr=4 --ncores=4", **more)
    assert done.returncode == 0, done.stderr
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (real / path.name).read_bytes(), path.name


@pytest.mark.parametrize("kind", ["plain", "stokes", "scaled"])
def test_made_sources_are_found_where_they_were_put(python: str, kind: str, tmp_path: Path) -> None:
    done = run(python, tmp_path / "out", make_map(python, kind, tmp_path / "map.fits"))
    assert done.returncode == 0, done.stderr
    components = json.loads((tmp_path / "out/catalog_fitcomp-map.json").read_text())["components"]
    bright = [one for one in components if one["peak_flux"] > 15]
    assert len(bright) == 9
    # The second of the three columns is at the reference pixel, the first row at declination -30 - 0.069.
    assert min(one["dec"] for one in bright) == pytest.approx(-30.069, abs=0.0005)
    assert sorted(one["peak_flux"] for one in bright)[::4] == pytest.approx([23, 30, 37], abs=3)


def test_nothing_found_is_no_failure(python: str, tmp_path: Path) -> None:
    done = run(python, tmp_path / "out", make_map(python, "empty", tmp_path / "map.fits"), "--seedthr=9 --mergethr=8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "sources=0 components=0"
    assert json.loads((tmp_path / "out/catalog-map.json").read_text())["sources"] == []
    assert (tmp_path / "out/plot_map.png").exists()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("blank", "has no pixel with a value"),
        ("no-beam", "lacks BMAJ and BMIN"),
        ("cube", "is a cube of 2 planes"),
        ("text", "cannot be read as FITS"),
        ("missing", "does not exist in this container"),
    ],
)
def test_an_image_that_will_not_do_is_refused_with_its_fault(
    python: str, kind: str, message: str, tmp_path: Path
) -> None:
    image = tmp_path / "map.fits"
    if kind == "text":
        image.write_text("no FITS at all\n" * 500)
    elif kind != "missing":
        make_map(python, kind, image)
    done = run(python, tmp_path / "out", image)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {image}")
    assert message in line


def test_sigterm_ends_it_at_once(python: str, tmp_path: Path) -> None:
    image = make_map(python, "large", tmp_path / "map.fits")
    with subprocess.Popen(
        [python, JOB / "aegean_job.py"],
        env={"PATH": "/usr/bin:/bin", "JOB_OUTDIR": str(tmp_path / "out"), "INPUTFILE": str(image)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "noise" in line:
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 143
    assert not list((tmp_path / "out").glob("catalog*"))
