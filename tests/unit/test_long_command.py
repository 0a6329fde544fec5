"""The action plugin long_command: what is shown, how it ends, what it leaves behind."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "roles/common/action_plugins/long_command.py"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


long_command = load(PLUGIN)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.9, "59s"), (60, "1m00s"), (65, "1m05s"), (3599, "59m59s"), (3720, "1h02m")]
)
def test_clock(seconds: float, text: str) -> None:
    assert long_command.clock(seconds) == text


def test_lines_are_whole_and_clean_however_they_arrive() -> None:
    text = b"one\n\n\x1b[32mtwo\x1b[0m\r 50%\r100%\nno line end"
    for size in (1, 3, 1000):
        lines = long_command.Lines()
        for start in range(0, len(text), size):
            lines.feed(text[start : start + size])
        lines.close()
        assert list(lines.tail) == ["one", "two", " 50%", "100%", "no line end"]


def test_progress_tells_time_and_last_line(tmp_path: Path) -> None:
    shown: list[str] = []
    outcome = long_command.run(
        ["bash", "-c", "echo first; echo second >&2; sleep 0.5; echo third; exit 3"],
        shown.append,
        every=0.2,
        log=tmp_path / "logs" / "log",
    )
    assert outcome.rc == 3
    assert outcome.tail == ["first", "second", "third"]
    assert (tmp_path / "logs" / "log").read_text() == "first\nsecond\nthird\n"
    assert [line.split() for line in shown] == [["0s", "second"], ["0s", "second"]]


def test_a_command_that_talks_all_the_time_is_reported_in_time_all_the_same() -> None:
    shown: list[str] = []
    began = time.monotonic()
    long_command.run(["bash", "-c", "for i in {1..40}; do echo $i; sleep 0.02; done"], shown.append, every=0.25)
    # However long a busy machine takes for it: one line each quarter of a second, and not one for each that was said.
    assert 2 <= len(shown) <= (time.monotonic() - began) / 0.25 + 1


def test_environment_and_directory(tmp_path: Path) -> None:
    outcome = long_command.run(["bash", "-c", "echo $WORD in $PWD"], print, cwd=tmp_path, environment={"WORD": "here"})
    assert outcome.tail == [f"here in {tmp_path}"]


def play(tmp_path: Path, *options: str, **args: object) -> subprocess.Popen[str]:
    tasks = [{"name": "Run", "long_command": args, "environment": {"WORD": "from the task"}}]
    book = [{"name": "Play", "hosts": "localhost", "gather_facts": False, "tasks": tasks}]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(book))
    (tmp_path / "ansible.cfg").touch()
    environment = {
        **os.environ,
        "ANSIBLE_ACTION_PLUGINS": str(PLUGIN.parent),
        "ANSIBLE_LIBRARY": str(ROOT / "roles/common/library"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
    }
    return subprocess.Popen(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            "-i",
            "localhost,",
            "-c",
            "local",
            *options,
            "play.yml",
        ],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_in_a_play(tmp_path: Path) -> None:
    made = tmp_path / "made"
    args = {"message": "Making it, once.", "creates": str(made), "every": 0.2}
    args["script"] = f"echo $WORD; sleep 0.5; echo done > {made}"

    check, _ = (run := play(tmp_path, "--check", **args)).communicate()
    assert run.returncode == 0, check
    assert "changed=1" in check
    assert not made.exists()

    first, _ = (run := play(tmp_path, **args)).communicate()
    assert run.returncode == 0, first
    assert "changed=1" in first
    assert "\nMaking it, once.\n" in first
    assert "0s  from the task" in first

    second, _ = (run := play(tmp_path, **args)).communicate()
    assert run.returncode == 0, second
    assert "changed=0" in second
    assert "Making it" not in second


def test_a_failure_shows_the_end_of_the_output(tmp_path: Path) -> None:
    out, _ = (
        run := play(tmp_path, message="x", script="echo the reason; exit 7", log=str(tmp_path / "log"))
    ).communicate()
    assert run.returncode == 2
    assert "ended with 7" in out
    assert "the reason" in out
    assert str(tmp_path / "log") in out


def test_a_command_that_makes_nothing_has_failed(tmp_path: Path) -> None:
    out, _ = (run := play(tmp_path, message="x", argv=["true"], creates=str(tmp_path / "never"))).communicate()
    assert run.returncode == 2
    assert "did not make" in out


def test_stopping_the_run_stops_the_command_and_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    run = play(tmp_path, message="x", script=f"sleep 300 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; wait")
    for _ in range(200):
        if pids.exists():
            break
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=30)
    alive = [pid for pid in pids.read_text().split() if Path("/proc", pid).exists()]
    for _ in range(100):
        alive = [pid for pid in alive if Path("/proc", pid).exists()]
        if not alive:
            break
        time.sleep(0.05)
    assert json.dumps(alive) == "[]"
