"""Votes over the six real planners, and the real jobs of their winners."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from handles import PLATFORMS, PROJECT, answering
from testinfra.host import Host

NAMES = [platform["name"] for platform in PLATFORMS]
ONLY_ONE_FITS = yaml.safe_load((PROJECT / "tests/data/only_one_fits.yml").read_text())
Command = Callable[..., subprocess.CompletedProcess[str]]


def ask(caesar_vote: Command, *options: str) -> dict[str, Any]:
    run = caesar_vote("ask", "--json", *options)
    assert run.returncode in (0, 3), run.stderr
    ballot: dict[str, Any] = json.loads(run.stdout)
    return ballot


def chosen(ballot: dict[str, Any]) -> str | None:
    return next((candidate["planner"] for candidate in ballot["candidates"] if candidate["chosen"]), None)


@pytest.mark.parametrize("case", ONLY_ONE_FITS, ids=lambda case: case["won_by"] or "nobody")
def test_what_fits_one_platform_only_is_won_by_it(caesar_vote: Command, case: dict[str, Any]) -> None:
    ballot = ask(caesar_vote, *case["options"].split())
    assert chosen(ballot) == case["won_by"], ballot
    refused = {c["planner"]: c["reason"] for c in ballot["candidates"] if c["offer"] is None}
    assert set(refused) == set(NAMES) - {case["won_by"]}
    assert all(reason and "\n" not in reason for reason in refused.values()), refused


def test_the_six_have_each_a_request_of_their_own() -> None:
    assert {case["won_by"] for case in ONLY_ONE_FITS} == {*NAMES, None}


def test_the_table_shows_the_chosen_and_every_reason(caesar_vote: Command) -> None:
    run = caesar_vote("ask", "--cores", "16")
    assert run.returncode == 0, run.stderr
    for name in NAMES:
        assert name in run.stdout
    assert run.stdout.count("16 cores asked") >= 5, run.stdout


def test_a_policy_decides_who_wins(caesar_vote: Command) -> None:
    assert chosen(ask(caesar_vote, "--policy", "monetary")) == "slurm-account-001"
    assert chosen(ask(caesar_vote, "--policy", "carbon")) == "k8s-namespace-001"
    assert chosen(ask(caesar_vote, "--policy", "performance")) == "k8s-namespace-003"


def test_questions_leave_nothing_reserved(caesar_vote: Command) -> None:
    """slurm-account-001 has four cores: were offers kept until they expire, the third question would be refused."""
    for _ in range(6):
        ballot = ask(caesar_vote, "--only", "slurm-account-001", "--cores", "4")
        assert chosen(ballot) == "slurm-account-001", ballot


@pytest.mark.parametrize("name", NAMES)
def test_killing_a_planner_during_a_vote_costs_its_vote_only(
    caesar_vote: Command, planner: Host, address: dict[str, str], name: str
) -> None:
    """The planner is stopped in the middle of its work, not only gone: it has the connection and never answers."""
    unit = f"planner@{name}.service"
    port = next(platform["port"] for platform in PLATFORMS if platform["name"] == name)
    # Something was sent that the planner has not read.
    unread = f'ss -Htn state established "sport = :{port}" | grep -q "^[1-9]"'
    kill = f"timeout 60 sh -c 'until {unread}; do sleep 0.05; done' && systemctl kill -s KILL {unit}"
    planner.check_output(f"systemctl kill -s STOP {unit}")
    try:
        with ThreadPoolExecutor(1) as pool:
            voting = pool.submit(ask, caesar_vote)
            planner.check_output(kill)
            ballot = voting.result()
    finally:
        planner.run(f"systemctl kill -s CONT {unit}")
        answering(address, name)
    answers = {candidate["planner"]: candidate for candidate in ballot["candidates"]}
    assert set(answers) == set(NAMES)
    lost = [planner for planner, candidate in answers.items() if candidate["offer"] is None]
    assert lost == [name], {planner: candidate["reason"] for planner, candidate in answers.items()}
    assert chosen(ballot) not in (None, name)


@pytest.fixture(scope="module")
def catalogues(caesar_vote: Command, fits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The outputs of the same job on a Slurm account and in a namespace, side by side."""

    def run(name: str) -> dict[str, Any]:
        home = tmp_path_factory.mktemp(name)
        done = caesar_vote("run", "--json", "--app", "aegean", "--only", name, "--outdir", str(home), str(fits))
        assert done.returncode == 0, done.stdout + done.stderr
        return {"ballot": json.loads(done.stdout), "home": home}

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(BOTH, pool.map(run, BOTH), strict=True))


BOTH = ("slurm-account-002", "k8s-namespace-002")


def contents(home: Path, pattern: str) -> bytes:
    [file] = home.rglob(pattern)
    return file.read_bytes()


def test_the_same_image_gives_the_same_catalogue_on_slurm_and_kubernetes(catalogues: dict[str, Any]) -> None:
    for pattern in ("catalog-*.json", "catalog-*.dat", "catalog_fitcomp-*.json", "catalog_fitcomp-*.dat"):
        digests = {name: hashlib.sha256(contents(run["home"], pattern)).hexdigest() for name, run in catalogues.items()}
        assert len(set(digests.values())) == 1, (pattern, digests)


def test_the_catalogue_holds_what_is_in_the_sky(catalogues: dict[str, Any]) -> None:
    """The brightest component of the Parkes map: 13.7 Jy/beam at RA 294.86, Dec -63.72 (aegean says the same)."""
    for run in catalogues.values():
        document = json.loads(contents(run["home"], "catalog_fitcomp-*.json"))
        assert len(document["components"]) == 70
        brightest = max(document["components"], key=lambda one: one["peak_flux"])
        found = [brightest[name] for name in ("peak_flux", "ra", "dec")]
        assert found == pytest.approx([13.713, 294.858, -63.724], abs=0.002)
        text = contents(run["home"], "catalog-*.json").decode()
        assert "NaN" not in text
        assert len(json.loads(text)["sources"]) == 58
    assert all(contents(run["home"], "plot_*.png").startswith(b"\x89PNG") for run in catalogues.values())


def test_the_job_was_a_real_one(catalogues: dict[str, Any], slurm: Host) -> None:
    session = catalogues[BOTH[0]]["ballot"]["winner"]["session"]
    accounted = slurm.check_output(f"sacct -XnP --name {session} -o account,state -S now-1hour -A {BOTH[0]}")
    assert accounted == f"{BOTH[0]}|COMPLETED"


def test_a_running_job_is_cancelled_on_its_platform(caesar_vote: Command, fits: Path, slurm: Host) -> None:
    run = caesar_vote("run", "--json", "--no-wait", "--only", "slurm-account-003", str(fits))
    assert run.returncode == 0, run.stderr
    ballot = json.loads(run.stdout)
    assert caesar_vote("cancel", ballot["id"]).returncode == 0
    left = slurm.check_output(f"squeue -h -o %i --name {ballot['winner']['session']} -t R,PD")
    assert left == ""
