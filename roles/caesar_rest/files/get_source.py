"""Get caesar-rest's sources at one commit, from a repository's address or from a checkout.

Usage: get_source.py --source URL|PATH --commit SHA --output DIRECTORY [--timeout SECONDS]

DIRECTORY then holds what that commit holds, and nothing of what may lie beside it in a checkout. The last line that is
printed says what was found. The exit status is 0 where DIRECTORY is there, 3 where the address did not answer (or is
none), and 1 where something else is there than was asked for.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

UNREACHABLE = 3


class Unreachable(Exception):
    """There is nobody to get it from."""


class Another(Exception):
    """Something else is there."""


def git(*words: str | Path, timeout: float) -> str:
    """Run git, which asks nobody for a password and reads nobody's settings; give what it printed.

    Raises:
        Unreachable: where it fails or takes too long, with its own words.
    """
    quiet = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": "/nonexistent",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "LC_ALL": "C.UTF-8",
    } | {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    try:
        done = subprocess.run(
            ["git", "-c", "safe.directory=*", *(str(word) for word in words)],
            env=quiet,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unreachable(f"no answer within {timeout:g} s") from None
    except FileNotFoundError:
        raise Unreachable("git is not installed") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"git ended with {done.returncode}"]
        raise Unreachable(lines[-1].strip())
    return done.stdout


def check_checkout(path: Path, commit: str) -> None:
    """Look whether a checkout is the commit, and nothing else.

    Raises:
        Another: naming what was found instead.
    """
    try:
        found = git("-C", path, "rev-parse", "HEAD", timeout=30).strip()
    except Unreachable as error:
        raise Another(f"{path} is no checkout of caesar-rest: {error}") from None
    if not found.startswith(commit):
        raise Another(f"{path} is at commit {found}, not at {commit}: check that commit out")
    changed = git("-C", path, "status", "--porcelain", "--untracked-files=no", timeout=30).splitlines()
    if changed:
        names = ", ".join(line[3:] for line in changed[:3])
        raise Another(f"{path} has changes in {names}: caesar-rest is run as it was published; undo them")


def fetch(source: str, commit: str, work: Path, timeout: float) -> Path:
    """Get one commit from an address into a repository of its own.

    Raises:
        Unreachable: where the address does not answer in time.
        Another: where it does not have the commit.
    """
    place = work / "repository"
    git("init", "--quiet", "--bare", place, timeout=30)
    git("-C", place, "fetch", "--quiet", source, "+refs/heads/*:refs/heads/*", timeout=timeout)
    try:
        git("-C", place, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}", timeout=30)
    except Unreachable:
        raise Another(f"{source} has no commit {commit}") from None
    return place


def export(repository: Path, commit: str, output: Path, work: Path) -> str:
    """Write what the commit holds to `output`; give the commit's whole name."""
    whole = git("-C", repository, "rev-parse", f"{commit}^{{commit}}", timeout=30).strip()
    archive, made = work / "source.tar", output.with_name(f"{output.name}.partial")
    git("-C", repository, "archive", f"--output={archive}", whole, timeout=60)
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    subprocess.run(["tar", "-xf", archive, "-C", made], check=True)
    for part in ("apps/run_app.py", "apps/run_jobmonitor.py", "caesar_rest/slurm_client.py"):
        if not (made / part).is_file():
            shutil.rmtree(made)
            raise Another(f"commit {whole} has no {part}: it is not caesar-rest")
    shutil.rmtree(output, ignore_errors=True)
    made.rename(output)
    return whole


def main() -> int:
    """Get it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--timeout", type=float, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="caesar-rest-") as name:
        work = Path(name)
        try:
            if "://" in arguments.source or "@" in arguments.source.partition("/")[0]:
                repository = fetch(arguments.source, arguments.commit, work, arguments.timeout)
            else:
                repository = Path(arguments.source).expanduser()
                if not repository.is_dir():
                    raise Another(f"{repository} is no directory")
                check_checkout(repository, arguments.commit)
            whole = export(repository, arguments.commit, arguments.output, work)
        except Unreachable as error:
            print(f"{arguments.source} cannot be had: {error}")
            return UNREACHABLE
        except Another as error:
            print(error)
            return 1
    print(f"caesar-rest {whole} of {arguments.source}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
