"""caesar-rest's sources at one commit and no other, what keeps secrets out of its logs, and faults of the inventory."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROLE = Path(__file__).parents[2] / "roles/caesar_rest/files"
SOURCES = ("apps/run_app.py", "apps/run_jobmonitor.py", "caesar_rest/slurm_client.py")


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"caesar_rest_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


serve = load(ROLE / "upstream/serve.py")
faults = load(Path(__file__).parents[2] / "roles/common/filter_plugins/caesar_rest.py").caesar_rest_faults


def git(place: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    return subprocess.run(["git", "-C", place, *who, *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    place = tmp_path / "checkout"
    for name in SOURCES:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("1\n")
    git(tmp_path, "init", "-q", str(place))
    git(place, "add", ".")
    git(place, "commit", "-q", "-m", "one")
    return place


def get(source: str | Path, commit: str, output: Path, timeout: float = 10) -> subprocess.CompletedProcess[str]:
    words = [f"--source={source}", f"--commit={commit}", f"--output={output}", f"--timeout={timeout}"]
    return subprocess.run([sys.executable, ROLE / "get_source.py", *words], capture_output=True, text=True, check=False)


def test_a_checkout_at_the_commit_is_taken_without_what_lies_beside_it(checkout: Path, tmp_path: Path) -> None:
    (checkout / "beside").write_text("x")
    commit = git(checkout, "rev-parse", "HEAD")
    assert get(checkout, commit, tmp_path / "out").returncode == 0
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.py")) == sorted(SOURCES)
    assert not (tmp_path / "out/beside").exists()
    assert get(f"file://{checkout}", commit, tmp_path / "again").returncode == 0


def test_another_commit_or_a_change_is_named(checkout: Path, tmp_path: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    (checkout / SOURCES[0]).write_text("2\n")
    run = get(checkout, commit, tmp_path / "out")
    assert (run.returncode, SOURCES[0] in run.stdout) == (1, True)
    git(checkout, "commit", "-q", "-a", "-m", "two")
    run = get(checkout, commit, tmp_path / "out")
    assert run.returncode == 1
    assert f"is at commit {git(checkout, 'rev-parse', 'HEAD')}, not at {commit}" in run.stdout
    assert not (tmp_path / "out").exists()
    assert get(f"file://{checkout}", "f" * 40, tmp_path / "out").returncode == 1


def test_what_is_no_caesar_rest_is_not_taken(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "rm", "-q", SOURCES[0])
    git(checkout, "commit", "-q", "-m", "less")
    run = get(checkout, git(checkout, "rev-parse", "HEAD"), tmp_path / "out")
    assert (run.returncode, "it is not caesar-rest" in run.stdout) == (1, True)
    assert get(tmp_path, "f" * 40, tmp_path / "out").returncode == 1
    assert get(tmp_path / "none", "f" * 40, tmp_path / "out").returncode == 1


def test_an_address_that_does_not_answer_is_another_matter(tmp_path: Path) -> None:
    run = get("http://127.0.0.1:1/caesar-rest", "f" * 40, tmp_path / "out")
    assert (run.returncode, "cannot be had" in run.stdout) == (3, True)


def test_passwords_do_not_reach_the_logs(tmp_path: Path) -> None:
    stream = io.StringIO()
    address = "mongodb://caesar:s3cr%2Ft@mongodb:27017/caesardb"
    redacted = serve.Redacted(stream, serve.passwords(address), str(tmp_path / "alive"))
    redacted.write(f"connecting to {address}")
    assert stream.getvalue() == "connecting to mongodb://caesar:***@mongodb:27017/caesardb"
    assert (tmp_path / "alive").exists()
    assert serve.passwords("caesar:abc@mongodb") == ["abc"]
    assert serve.passwords("mongodb") == []


def test_each_program_gets_its_own_settings() -> None:
    environment = {"DATADIR": "/d", "JOBDIR": "/j", "ACCOUNTING_PERIOD": "7", "MONGO_TIMEOUT_MS": "5"} | {
        f"SLURM_{name}": name.lower() for name in ("HOST", "PORT", "USER", "KEYFILE")
    }
    _, accounter = serve.PROGRAMS["accounter"]
    assert accounter(environment, "mongodb://a:b@c:1/d") == [
        "--datadir=/d",
        "--jobdir=/j",
        "--job_monitoring_period=7",
        "--dbhost=mongodb://a:b@c:1/d?serverSelectionTimeoutMS=5&connectTimeoutMS=5",
        "--dbname=caesardb",
    ]
    _, monitor = serve.PROGRAMS["monitor"]
    assert "--slurm_keyfile=keyfile" in monitor(environment, "x")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"platform": "slurm"}, "give kube"),
        ({"platform": "kube", "slurmrestd": False}, "voter_slurmrestd is false"),
        ({"platform": "kube", "source": "/none/such"}, "no directory"),
        ({"platform": "kube", "commit": "6c34a9c"}, "all 40 digits"),
        ({"platform": "kube", "node_port": "3031"}, "from 30000"),
        ({"platform": "kube", "node_port": "x"}, "from 30000"),
    ],
)
def test_faults_of_the_inventory(said: dict[str, Any], words: str) -> None:
    physical = {"slurm": {"kind": "slurm"}, "kube": {"kind": "kubernetes"}}
    [fault] = faults(said, physical)
    assert words in fault


SITE = {"platform": "kube", "site": True, "image": "r.example.org/rest:1", "address": "192.0.2.7"}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"image": ""}, "caesar_rest_image is empty"),
        ({"address": ""}, "caesar_rest_address is empty"),
        ({"address": "rest.example.org"}, "give its IP address, or caesar_rest_clients"),
        ({"clients": ["192.0.2.1/24"]}, "caesar_rest_clients has '192.0.2.1/24'"),
        ({"voter_address": "services.example.org"}, "the voter's machine_address is 'services.example.org'"),
    ],
)
def test_what_only_a_site_has_to_say(said: dict[str, Any], words: str) -> None:
    physical = {"kube": {"kind": "kubernetes"}}
    [fault] = faults(SITE | said, physical)
    assert words in fault
    assert faults(SITE | said | {"site": False}, physical) == []


def test_a_site_that_says_all() -> None:
    said = {"address": "rest.example.org", "clients": ["192.0.2.0/24"], "voter_address": "192.0.2.8"}
    assert faults(SITE | said, {"kube": {"kind": "kubernetes"}}) == []


def test_no_faults() -> None:
    good = {"platform": "kube", "source": "https://x/y", "commit": "a" * 40, "node_port": "30031", "slurmrestd": True}
    assert faults(good, {"kube": {"kind": "kubernetes"}}) == []
    assert faults({"platform": "", "commit": "x"}, None) == []
