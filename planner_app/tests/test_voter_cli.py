"""The command line: what it asks, what it prints, and what it says when something is wrong."""

import asyncio
import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from planner_app.voter import client, show
from planner_app.voter.arguments import make_parser, question
from planner_app.voter.cli import execute
from planner_app.voter.client import state_file
from planner_app.voter.outputs import count_sources, inside
from planner_app.voter.text import one_line
from rich.console import Console
from tests.voter_stubs import StubPlanner, VoterUnderTest, gives, http, running

NO = {"result": "NO", "meta": {"messages": [{"message": "8 cores asked, one job may have 4"}]}}


def completes() -> Any:
    """A planner whose jobs run and are done after a second of looks."""
    looks = {"count": 0}

    async def behaviour(stub: StubPlanner, method: str, path: str, body: bytes) -> bytes | None:
        if method == "GET" and path.startswith("/sessions/") and path.count("/") == 2:
            looks["count"] += 1
            stub.sessions[path.rpartition("/")[2]] = "AVAILABLE" if looks["count"] < 20 else "COMPLETED"
        if path.endswith("/outputs"):
            names = ["catalog-x.json", "../../evil", ".hidden", "plot_x.png"]
            return http(200, [{"name": name, "size": 1} for name in names])
        if path.endswith("/catalog-x.json"):
            return http(200, {"sources": [{"name": "S1"}, {"name": "S2"}]})
        return http(200, b"png", "image/png") if path.endswith("/plot_x.png") else None

    return behaviour


@contextmanager
def served(directory: Path, *planners: StubPlanner) -> Iterator[str]:
    """A voter on a port of its own, in a thread; the state directory knows it as the testbed `caesar`."""
    ready, stop, port = threading.Event(), threading.Event(), [0]

    async def serve() -> None:
        async with running(*planners):
            server = uvicorn.Server(
                uvicorn.Config(VoterUnderTest(directory, *planners).app(), port=0, log_level="error")
            )
            task = asyncio.create_task(server.serve())
            while not server.started:
                await asyncio.sleep(0.01)
            port[0] = server.servers[0].sockets[0].getsockname()[1]
            ready.set()
            while not stop.is_set():
                await asyncio.sleep(0.02)
            server.should_exit = True
            await task

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(10)
        url = f"http://127.0.0.1:{port[0]}"
        leave_state(directory, url)
        yield url
    finally:
        stop.set()
        thread.join()


def leave_state(directory: Path, url: str, token: str = "secret") -> Path:
    path = state_file("caesar", {"XDG_STATE_HOME": str(directory / "state")})
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"url": url, "token": token}))
    return path


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("CAESAR_TESTBED", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.fits").write_bytes(b"SIMPLE  = T")


def caesar_vote(*words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    status = execute(make_parser().parse_args(words), out, err)
    return status, out.getvalue(), err.getvalue()


def test_run_brings_the_outputs_home(tmp_path: Path) -> None:
    winner = StubPlanner("slurm-account-001", completes(), monetary=0.01)
    planners = (winner, StubPlanner("k8s-namespace-001"), StubPlanner("k8s-namespace-003", gives(http(200, NO))))
    with served(tmp_path, *planners):
        status, out, err = caesar_vote("run", "image.fits", "--outdir", "results")
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0] == ("aegean: 1 to 4 cores, 2 to 8 GiB, 60 min, by earliest-finish,monetary")
    chosen = "▶ slurm-account-001 chosen at once 2 4 0.01 - - cheapest of those that finish first"
    assert " ".join(lines[2].split()) == chosen
    assert "monetary 0.1, slurm-account-001 0.01" in lines[3]
    assert " ".join(lines[4].split()) == "k8s-namespace-003 no - - - - - - 8 cores asked, one job may have 4"
    assert lines[-2:] == ["2 files in results", "2 sources found in catalog-x.json"]
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["catalog-x.json", "plot_x.png"]
    assert not (tmp_path.parent / "evil").exists()
    assert "left out '../../evil': no name for a file here" in err
    assert "AVAILABLE on slurm-account-001" in err


def test_json_is_all_that_is_on_stdout(tmp_path: Path) -> None:
    with served(tmp_path, StubPlanner("one", completes())):
        status, out, _ = caesar_vote("run", "image.fits", "--json")
        document = json.loads(out)
        assert status == 0
        assert (document["state"], document["sources"], document["winner"]["planner"]) == ("COMPLETED", 2, "one")
        assert document["outputs"] == ["catalog-x.json", "plot_x.png"]
        assert document["directory"] == document["id"][:8]
        short = document["id"][:8]
        for words in (["ballots"], ["platforms"], ["show", short], ["why", short], ["why", document["trace"]], ["ask"]):
            status, out, _ = caesar_vote(*words, "--json")
            assert status == 0
            assert json.loads(out)


def test_ask_needs_no_image_and_says_who_would_win(tmp_path: Path) -> None:
    with served(tmp_path, StubPlanner("one"), StubPlanner("two", monetary=0.5)):
        status, out, _ = caesar_vote("ask", "--cores", "1-2")
    assert status == 0
    assert out.splitlines()[2].split()[:3] == ["▶", "one", "best"]
    assert "two offers can" not in out
    assert "one would win; 2 offers can" in out


def test_no_offer_is_a_status_of_its_own(tmp_path: Path) -> None:
    with served(tmp_path, StubPlanner("one", gives(http(200, NO)))):
        for words in (["ask"], ["run", "image.fits"]):
            status, out, _ = caesar_vote(*words)
            assert status == client.NO_OFFER
            assert "no offer (none of 1 planners can)" in out


def test_a_failed_job_shows_the_end_of_what_it_printed(tmp_path: Path) -> None:
    async def behaviour(stub: StubPlanner, method: str, path: str, body: bytes) -> bytes | None:
        if method == "GET" and path.count("/") == 2:
            stub.messages, stub.sessions[path.rpartition("/")[2]] = ["OUT_OF_MEMORY 0:125"], "FAILED"
        return http(200, b"one\n\x1b[2Jtwo\n", "text/plain") if path.endswith("/stdout") else None

    with served(tmp_path, StubPlanner("one", behaviour)):
        status, out, err = caesar_vote("run", "image.fits")
    assert status == client.JOB_FAILED
    assert "failed on one (OUT_OF_MEMORY 0:125)" in out
    assert "  | [2Jtwo" in err
    assert "\x1b" not in err


def test_cancel_and_follow(tmp_path: Path) -> None:
    with served(tmp_path, StubPlanner("one")):
        status, out, _ = caesar_vote("run", "image.fits", "--no-wait", "--json")
        ballot = json.loads(out)["id"]
        assert status == 0
        status, out, _ = caesar_vote("cancel", ballot[:8])
        assert (status, "cancelled on one" in out) == (0, True)
        assert caesar_vote("follow", ballot[:8])[0] == client.CANCELLED
        assert caesar_vote("cancel", ballot)[0] == client.USAGE
        status, _, err = caesar_vote("show", "ffffffff")
        assert (status, err) == (client.USAGE, "caesar-vote: no ballot ffffffff\n")


def test_interrupted_it_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    with served(tmp_path, StubPlanner("one")):
        monkeypatch.setattr("planner_app.voter.cli.time.sleep", interrupt)
        status, _, err = caesar_vote("run", "image.fits")
    assert status == client.INTERRUPTED
    assert "the job goes on; `caesar-vote follow " in err


def test_a_voter_that_is_restarted_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, failures = client.VoterClient.call, {"POST /ballots": 1, "GET": 2}

    def flaky(self: client.VoterClient, method: str, path: str, **arguments: Any) -> Any:
        reply = original(self, method, path, **arguments)
        key = f"{method} {path}" if method == "POST" else method
        if failures.get(key, 0) > 0:
            failures[key] -= 1
            raise client.Trouble("the voter does not answer", passing=True)
        return reply

    planner = StubPlanner("one", completes())
    with served(tmp_path, planner):
        monkeypatch.setattr(client.VoterClient, "call", flaky)
        status, out, err = caesar_vote("run", "image.fits")
    assert status == 0, err
    assert "the voter does not answer; trying again" in err
    assert "2 sources found" in out
    assert sum(path == "/requests" for _, path, _ in planner.calls) == 1


def test_why_says_what_each_counted_and_what_was_wrong_with_whom(tmp_path: Path) -> None:
    planners = [
        StubPlanner("cheap", monetary=0.01),
        StubPlanner("dear"),
        StubPlanner("odd", gives(http(200, b"<html>"))),
    ]
    with served(tmp_path, *planners):
        _, out, _ = caesar_vote("ask", "--json", "--policy", "cheapest")
        ballot = json.loads(out)
        status, out, _ = caesar_vote("why", ballot["id"])
        assert status == 0
        lines = [" ".join(line.split()) for line in out.splitlines()]
        assert lines[0] == "cheap would win: cheapest"
        assert re.fullmatch(r"1 cheap \d+ ms 0.01 60 min cheapest", lines[2]), lines
        assert re.fullmatch(r"2 dear \d+ ms 0.1 60 min monetary 0.1, cheap 0.01", lines[3])
        assert re.fullmatch(r"- odd \d+ ms - - line 1, column 1: .*", lines[4]), lines
        assert any(line.startswith("odd: ") and 'It said: "<html>"' in line for line in lines), lines
        assert ballot["trace"] in " ".join(lines)
        status, _, err = caesar_vote("ask", "--policy", "nicest")
        assert status == client.USAGE
        assert "policy: no policy 'nicest'; there are: default, earliest-start," in err


def test_what_is_missing_is_said_with_the_next_step(tmp_path: Path) -> None:
    path = state_file("caesar", {"XDG_STATE_HOME": str(tmp_path / "state")})
    status, _, err = caesar_vote("ballots")
    assert status == client.NO_VOTER
    assert err == f"caesar-vote: no testbed caesar: {path} is not there; run `make testbed`\n"
    leave_state(tmp_path, "http://127.0.0.1:9")
    status, _, err = caesar_vote("ballots")
    assert status == client.NO_VOTER
    assert "does not answer: " in err
    assert err.endswith("; is the testbed up? run `make testbed`\n")
    status, _, err = caesar_vote("ballots", "--testbed", "other")
    assert "(there is caesar: --testbed); run `ansible-playbook site.yml -e testbed_name=other`" in err
    path.write_text("url: [")
    assert "can not be understood; run `make testbed` to write it anew" in caesar_vote("ballots")[2]


def test_a_wrong_token_and_a_missing_image(tmp_path: Path) -> None:
    with served(tmp_path, StubPlanner("one")) as url:
        status, _, err = caesar_vote("run", "nowhere.fits")
        assert (status, err) == (client.USAGE, "caesar-vote: nowhere.fits: No such file or directory\n")
        state_file("caesar", {"XDG_STATE_HOME": str(tmp_path / "state")}).write_text(f"url: {url}\ntoken: wrong\n")
        status, _, err = caesar_vote("ballots")
    assert status == client.NO_VOTER
    assert "does not know the token; is the testbed up? run `make testbed`" in err


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["--cores", "4"], {"cores": {"min": 4, "max": 4}}),
        (["--cores", "1-4", "--memory", "2-"], {"cores": {"min": 1, "max": 4}, "memory_gib": {"min": 2}}),
        (["--max-carbon", "1", "--max-monetary", "0"], {"max_costs": {"monetary": 0.0, "carbon": 1.0}}),
        (["--min-performance", "200"], {"min_metrics": {"compute-performance": 200.0}}),
        (["--only", "a", "--only", "b"], {"only": ["a", "b"]}),
        (["--option=--seedthr=6"], {"options": ["--seedthr=6"]}),
        (["--policy", "carbon", "--duration", "PT30M"], {"policy": "carbon", "duration": "PT30M"}),
    ],
)
def test_what_the_options_mean(words: list[str], asked: dict[str, Any]) -> None:
    body = question(make_parser().parse_args(["ask", *words]))
    del body["id"]
    assert body == {"app": "aegean", "accept": False, "max_costs": {}} | asked


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cores", "0"], "'0': must be a number, a range such as 1-4, or 2- for 2 or more"),
        (["--cores", "4-2"], "'4-2': must be"),
        (["--duration", "1h"], "'1h' must be an ISO 8601 duration"),
        (["--start", "now"], "'now' must be"),
        (["--max-monetary", "-1"], "must be a number from 0 on"),
        (["--max-monetary", "nan"], "must be a number from 0 on"),
    ],
)
def test_wrong_options(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        make_parser().parse_args(["ask", *words])
    assert exit_info.value.code == client.USAGE
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", ".hidden", "a/.x", "", "a\x1b"])
def test_names_that_lead_astray(name: str) -> None:
    assert inside(Path("here"), name) is None


def test_names_inside() -> None:
    assert inside(Path("here"), "maps/rms.fits") == Path("here/maps/rms.fits")


def test_counting_sources(tmp_path: Path) -> None:
    (tmp_path / "catalog-a.json").write_text('{"sources": [1, 2, 3]}')
    (tmp_path / "catalog-b.json").write_text("not json")
    assert count_sources(tmp_path, ["plot_a.png", "catalog-a.json", "catalog_fitcomp-a.json"]) == 3
    assert count_sources(tmp_path, ["catalog-b.json"]) is None
    assert count_sources(tmp_path, []) is None


BALLOT = {
    "id": "4c1f0e5a-0000-0000-0000-000000000000",
    "created": "2026-11-24T12:00:00Z",
    "winner": None,
    "candidates": [
        {
            "planner": "slurm-account-001",
            "verdict": "OFFERS",
            "rank": 1,
            "chosen": True,
            "reason": "cheapest of those that finish first",
            "offer": {
                "start": "2026-11-24T12:05:00Z",
                "cores": 16,
                "memory_gib": 128,
                "costs": {"monetary": 0.0123456, "carbon": 1234.5},
                "metrics": {"compute-performance": 250.0},
            },
        },
        {
            "planner": "k8s-namespace-003",
            "verdict": "UNREACHABLE",
            "rank": None,
            "chosen": False,
            "reason": "can not be reached: No route to host, " + "and more of it, " * 5,
            "offer": None,
        },
    ],
}


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_table_fits_the_window(width: int) -> None:
    out = io.StringIO()
    show.candidates(Console(file=out, width=width), BALLOT)
    lines = out.getvalue().splitlines()
    assert max(len(line) for line in lines) <= width
    assert "slurm-account-001" in out.getvalue()
    assert "…" not in out.getvalue(), "no column is cut off"
    for word in ("best", "+5 min", "16", "128", "0.0123", "250", "down"):
        assert word in out.getvalue()
    assert "cheapest of those that" in " ".join(out.getvalue().split())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb\tc  d", "a b c d"),
        ("\x1b]0;title\x07x", "]0;title x"),
        ("\u202egnp", "gnp"),
        ("x" * 500, "x" * 299 + "…"),
        (" " * 5000, "…"),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert one_line(text) == line
