"""The job's program, as far as it needs no astronomy: options, values, tables."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from importlib import util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "roles/job_images/files/aegean-job/aegean_job.py"
spec = util.spec_from_file_location("aegean_job", PROGRAM)
assert spec is not None
assert spec.loader is not None
aegean_job: Any = util.module_from_spec(spec)
sys.modules["aegean_job"] = aegean_job
spec.loader.exec_module(aegean_job)


def test_what_caesar_rest_sends_is_understood() -> None:
    options = aegean_job.parse(
        {
            "CHANGE_RUNUSER": "0",
            "JOB_DIR": "/home/cirasa/0123",
            "JOB_OPTIONS": "--run --save-summaryplot --save-regions  --save-catalog-to-json  --seedthr=5.5 "
            "--mergethr=2.6 --bkgbox=100 --bkggrid=20 --fit-maxcomponents=3 --ncores=2 --save-bkgmap --save-rmsmap "
            "--no-logredir --inputfile=/opt/caesar-rest/data/anonymous/4711.fits",
            "JOB_OUTDIR": "/opt/caesar-rest/jobs/anonymous/job_0123",
        }
    )
    assert options == aegean_job.Options(
        inputfile=Path("/opt/caesar-rest/data/anonymous/4711.fits"),
        outdir=Path("/opt/caesar-rest/jobs/anonymous/job_0123"),
        jobdir=Path("/home/cirasa/0123"),
        seed_threshold=5.5,
        merge_threshold=2.6,
        background_box=100,
        background_grid=20,
        max_components=3,
        save_regions=True,
        save_background=True,
        save_noise=True,
    )


def test_the_last_word_wins_and_words_win_over_the_environment() -> None:
    options = aegean_job.parse(
        {
            "JOB_OPTIONS": "--seedthr=4 --seedthr=7 --inputfile=/b.fits --outdir=/c",
            "INPUTFILE": "/a.fits",
            "JOB_OUTDIR": "/d",
        }
    )
    assert (options.seed_threshold, options.inputfile, options.outdir) == (7.0, Path("/b.fits"), Path("/c"))


def test_an_island_never_grows_from_a_seed_below_its_edge() -> None:
    assert aegean_job.parse({"JOB_OPTIONS": "--seedthr=3", "INPUTFILE": "/a"}).merge_threshold == 3


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "JOB_OPTIONS and INPUTFILE are both empty"),
        ({"JOB_OPTIONS": " ", "INPUTFILE": ""}, "JOB_OPTIONS and INPUTFILE are both empty"),
        ({"JOB_OPTIONS": "--run"}, "no image is named"),
        ({"JOB_OPTIONS": "--sedthr=5", "INPUTFILE": "/a"}, "unknown option '--sedthr'"),
        ({"JOB_OPTIONS": "/a.fits", "INPUTFILE": "/a"}, "unknown option '/a.fits'"),
        ({"JOB_OPTIONS": "--run=yes", "INPUTFILE": "/a"}, "--run takes no value"),
        ({"JOB_OPTIONS": "--seedthr=five", "INPUTFILE": "/a"}, "--seedthr=five: could not convert"),
        ({"JOB_OPTIONS": "--seedthr=0", "INPUTFILE": "/a"}, "--seedthr=0: must be above 0"),
        ({"JOB_OPTIONS": "--seedthr=nan", "INPUTFILE": "/a"}, "--seedthr=nan: must be above 0"),
        ({"JOB_OPTIONS": "--seedthr=inf", "INPUTFILE": "/a"}, "--seedthr=inf: must be above 0"),
        ({"JOB_OPTIONS": "--seedthr", "INPUTFILE": "/a"}, "--seedthr="),
        ({"JOB_OPTIONS": "--bkgbox=0", "INPUTFILE": "/a"}, "--bkgbox=0: must be 1 or more"),
        ({"JOB_OPTIONS": "--bkgbox=2.5", "INPUTFILE": "/a"}, "--bkgbox=2.5: invalid literal"),
        ({"JOB_OPTIONS": "--inputfile=", "INPUTFILE": "/a"}, "--inputfile=: must not be empty"),
    ],
)
def test_wrong_options_are_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(aegean_job.JobError, match=message.replace("(", r"\(")):
        aegean_job.parse(environment)


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("ra", 274.88117384730583, 274.8812),
        ("peak_flux", 0.7686419283, 0.7686419),
        ("background", float("nan"), None),
        ("int_flux", float("inf"), None),
        ("err_pa", -1.0, None),
        ("pa", -1.0, -1),
        ("components", 3.0, 3),
        ("ra_str", " 18:11:53.24 ", "18:11:53.24"),
        ("residual_mean", -1.2345678912e-20, -1.234568e-20),
    ],
)
def test_values_are_rounded_and_what_was_not_measured_is_none(name: str, value: object, plain: object) -> None:
    assert aegean_job.plain(name, value) == plain


def test_a_catalogue_says_the_same_as_json_and_as_text(tmp_path: Path) -> None:
    columns = {"island": "", "peak_flux": "{unit}", "err_peak_flux": "{unit}", "pa": "deg"}
    found = [
        SimpleNamespace(island=2, peak_flux=1.5, err_peak_flux=-1, pa=float("nan")),
        SimpleNamespace(island=1, peak_flux=11.310707, err_peak_flux=0.1, pa=-3.02),
    ]
    table = aegean_job.rows(found, columns, lambda one: f"S{one.island}")
    stem = tmp_path / "catalog-a.b"
    aegean_job.write_catalogue(stem, {"image": "a.b.fits", "unit": "Jy/beam"}, table, columns)
    document = json.loads((tmp_path / "catalog-a.b.json").read_text())
    assert document == {
        "metadata": {"image": "a.b.fits", "unit": "Jy/beam"},
        "units": {"peak_flux": "Jy/beam", "err_peak_flux": "Jy/beam", "pa": "deg"},
        "sources": [
            {"name": "S1", "island": 1, "peak_flux": 11.31071, "err_peak_flux": 0.1, "pa": -3.02},
            {"name": "S2", "island": 2, "peak_flux": 1.5, "err_peak_flux": None, "pa": None},
        ],
    }
    lines = (tmp_path / "catalog-a.b.dat").read_text().splitlines()
    assert lines[:2] == ["# image: a.b.fits", "# unit: Jy/beam"]
    assert lines[2].split() == ["#", "name", "island", "peak_flux", "err_peak_flux", "pa"]
    assert [line.split() for line in lines[4:]] == [
        ["S1", "1", "11.31071", "0.1", "-3.02"],
        ["S2", "2", "1.5", "-", "-"],
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalog-a.b.dat", "catalog-a.b.json"]


def test_sigterm_ends_it_while_it_writes_to_somebody_who_does_not_read() -> None:
    write = (
        "import aegean_job, signal\nsignal.signal(signal.SIGTERM, aegean_job.ended)\nwhile True: aegean_job.say('x')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", write], cwd=PROGRAM.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        state = Path(f"/proc/{process.pid}/wchan")
        limit = time.monotonic() + 5  # where the kernel does not tell, it has filled the pipe by then
        while "pipe_w" not in state.read_text() and time.monotonic() < limit:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143
