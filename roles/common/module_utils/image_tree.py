"""Container images from Debian's archive and a lock file: no registry, no container engine.

A root tree is bootstrapped, gets the packages of a lock file and a program, is tidied, tried and packed. The same
sources give the same bytes. What is particular to an image (its program, its trial) is with its role.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

# Found there by the programs that build images, which put this directory on their path.
import docker_archive
import machine_image

# What the root tree, the layer and the images take together at most.
ROOM = 3 * 2**30
# Where Debian's Python looks for what is not Debian's.
SITE = Path("usr/local/lib/python3.11/dist-packages")
# Documentation, translations, package lists, logs: nothing of it runs.
DEBIAN_ONLY = (
    "usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/bug",
    "var/cache", "var/log", "var/lib/apt/lists", "var/lib/systemd",
)  # fmt: skip
# Tests that the libraries import when they run.
KEPT_TESTS = ("astropy/tests", "numpy/_core/tests", "numpy/testing/tests")


@dataclass(frozen=True)
class Tree:
    """What is made, of what and where."""

    names: Sequence[str]
    suite: str
    packages: Sequence[str]
    sources: Sequence[str]
    output: Path
    """Appears only when all of it is made."""
    uv: str
    locked: Path
    """Directory with pyproject.toml and uv.lock."""
    mount_points: Sequence[str] = ("tmp", "var/tmp")
    """Directories that the root, which is read-only, must have."""
    mount_files: Sequence[str] = ("etc/resolv.conf", "etc/hosts", "etc/hostname", "etc/machine-id")
    kept_files: Sequence[Path] = ()
    """Files below the packages' directory that stay, though they are tests' data."""
    compiled: Sequence[str] = (f"/{SITE}", "/usr/lib/python3.11")
    config: docker_archive.ImageConfig = field(default_factory=docker_archive.ImageConfig)
    squashfs: bool = False


def say(text: str) -> None:
    """Tell what happens now."""
    print(text, flush=True)


def run(*argv: str | Path, **environment: str) -> None:
    """Run a program; leave with its exit code where it fails."""
    subprocess.run([str(word) for word in argv], check=True, env={**os.environ, **environment})


def enter_namespace() -> None:
    """Go on in a mount namespace of this process's own, where it is not in one yet."""
    if "TESTBED_IMAGE_NAMESPACE" not in os.environ:
        os.execvpe(  # noqa: S606 - a fixed program
            "unshare",  # noqa: S607
            ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv],
            {**os.environ, "TESTBED_IMAGE_NAMESPACE": "1"},
        )


def scratch() -> Path:
    """Give a directory to build in: a tmpfs in this process's own mount namespace where memory allows."""
    available = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    if available < 2 * ROOM:
        return Path(tempfile.mkdtemp(prefix="job-image-", dir="/var/tmp"))
    place = Path("/run/testbed-job-image")
    place.mkdir(exist_ok=True)
    # Gone with the process, however that ends.
    run("mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=0755", "tmpfs", place)
    return place


def bootstrap(recipe: machine_image.Recipe, work: Path) -> Path:
    """Make Debian's part of the tree."""
    inputs = work / "apt"
    inputs.mkdir()
    for name, lines in (("apt.conf", recipe.apt_settings), ("sources.list", recipe.sources)):
        (inputs / name).write_text("\n".join(lines) + "\n")
    # Keyrings and credentials are for the download only, and stay out of the image.
    borrowed = [path for path in recipe.files if path.startswith("/etc/apt/") or "keyring" in path]
    hooks = []
    for path in borrowed:
        copy = inputs / "files" / path.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(recipe.files[path], encoding="utf-8", errors="surrogateescape")
        copy.chmod(0o600 if "auth.conf" in path else 0o644)
    if borrowed:
        hooks.append(f'--setup-hook=cp -a "{inputs}/files/." "$1/"')
        hooks += [f'--customize-hook=rm -f "$1{path}"' for path in borrowed]
    root = work / "root"
    run(
        "mmdebstrap", "--mode=root", "--variant=essential", f"--include={','.join(recipe.packages)}",
        f"--aptopt={inputs / 'apt.conf'}", "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude=/{path}/*" for path in DEBIAN_ONLY if path.startswith("usr")),
        *hooks, "--format=directory", recipe.suite, root, inputs / "sources.list",
        TMPDIR=str(work),
    )  # fmt: skip
    return root


def install(tree: Tree, root: Path, work: Path) -> None:
    """Put the locked packages into the tree, without their tests."""
    requirements = work / "requirements.txt"
    run(
        tree.uv, "export", "--quiet", "--frozen", "--no-emit-project", f"--project={tree.locked}",
        f"--output-file={requirements}",
    )  # fmt: skip
    site = root / SITE
    run(
        tree.uv, "pip", "install", f"--target={site}", f"--python={sys.executable}", "--python-version=3.11",
        "--python-platform=x86_64-manylinux_2_36", "--only-binary=:all:", "--link-mode=copy", "--require-hashes",
        f"--requirements={requirements}",
    )  # fmt: skip
    # Programs that name the controller's Python.
    shutil.rmtree(site / "bin", ignore_errors=True)
    kept = {site / name for name in KEPT_TESTS}
    for tests in sorted(site.rglob("tests")):
        if tests.is_dir() and tests not in kept and not any(parent in kept for parent in tests.parents):
            stay = {
                site / name: (site / name).read_bytes()
                for name in tree.kept_files
                if (site / name).is_relative_to(tests)
            }
            shutil.rmtree(tests)
            for path, content in stay.items():
                path.parent.mkdir(parents=True)
                path.write_bytes(content)


def tidy(tree: Tree, root: Path, epoch: int) -> None:
    """Remove what differs from build to build or does nothing, and compile what is loaded."""
    for path in DEBIAN_ONLY:
        for entry in (root / path).iterdir() if (root / path).is_dir() else ():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    for entry in (root / "dev").iterdir():
        entry.unlink() if not entry.is_dir() or entry.is_symlink() else shutil.rmtree(entry)
    for name in tree.mount_points:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    for name in tree.mount_files:
        (root / name).unlink(missing_ok=True)
        (root / name).touch(mode=0o644)
    for compiled in root.rglob("__pycache__"):
        shutil.rmtree(compiled)
    # Without times in them, so that the compiled files are the same every time and always taken for valid.
    run(
        "chroot", root, "/usr/bin/python3", "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
        *tree.compiled,
        SOURCE_DATE_EPOCH=str(epoch), PYTHONDONTWRITEBYTECODE="", PYTHONHASHSEED="0",
    )  # fmt: skip


@contextmanager
def mounted(root: Path) -> Iterator[None]:
    """Let programs in the tree find /proc and /dev."""
    run("mount", "--bind", "/proc", root / "proc")
    run("mount", "--bind", "/dev", root / "dev")
    try:
        yield
    finally:
        run("umount", root / "dev")
        run("umount", root / "proc")


def run_within(root: Path, argv: Sequence[str], environment: Mapping[str, str], user: int = 65534) -> None:
    """Run a program within the tree as somebody without rights.

    Raises:
        subprocess.CalledProcessError: where it fails.
    """
    with mounted(root):
        subprocess.run(
            [str(shutil.which("chroot")), f"--userspec={user}:{user}", str(root), *argv],
            env={"PATH": "/usr/bin:/bin", **environment},
            check=True,
        )


def empty_temporary(root: Path) -> None:
    """Leave nothing of a trial behind."""
    for left in (root / "tmp").iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def pack(tree: Tree, root: Path, output: Path, epoch: int) -> str:
    """Write the images of the tree; return their digest."""
    layer, archive = root.parent / "layer.tar", root.parent / "image.tar"
    docker_archive.write_layer(root, layer)
    digest = docker_archive.write_docker_archive(layer, archive, tags=tree.names, config=tree.config)
    layer.unlink()
    run("zstd", "-q", "-9", "-T2", archive, "-o", output / "image.tar.zst")
    archive.unlink()
    if tree.squashfs:
        # It takes a time either from the environment or from these.
        del os.environ["SOURCE_DATE_EPOCH"]
        run(
            "mksquashfs", root, output / "image.sqfs", "-noappend", "-quiet", "-no-progress", "-no-xattrs", "-comp",
            "zstd", "-Xcompression-level", "9", "-all-time", str(epoch), "-mkfs-time", str(epoch), "-processors", "2",
        )  # fmt: skip
    return digest


def make(
    tree: Tree,
    program: Callable[[Path], None],
    prove: Callable[[Path], None],
    about: Callable[[Path], Mapping[str, str]] = lambda made: {},
) -> None:
    """Make an image.

    Args:
        tree: what and where.
        program: puts the image's own program into the tree.
        prove: tries it there; an image that cannot do its work is none.
        about: more to say of the finished images in image.json.

    Raises:
        subprocess.CalledProcessError: where a step fails; nothing is left at the output then.
    """
    # None of the build's files may carry today's date, nor a mode of the operator's taste.
    epoch = docker_archive.epoch()
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch)
    os.umask(0o022)
    recipe = machine_image.read_controller(list(tree.packages), tree.suite, list(tree.sources))
    tree.output.parent.mkdir(parents=True, exist_ok=True)
    work = scratch()
    try:
        say(f"1/5 Debian {recipe.suite} with {', '.join(recipe.packages)}")
        root = bootstrap(recipe, work)
        say("2/5 packages of the lock file")
        install(tree, root, work)
        program(root)
        say("3/5 compiling, so that it starts at once")
        tidy(tree, root, epoch)
        say("4/5 a trial within the new image")
        prove(root)
        empty_temporary(root)
        say("5/5 writing the image")
        made = Path(tempfile.mkdtemp(prefix=f"{tree.output.name}.partial-", dir=tree.output.parent))
        made.chmod(0o755)
        digest = pack(tree, root, made, epoch)
        (made / "image.json").write_text(json.dumps({"digest": digest, **about(made)}) + "\n")
        try:
            made.rename(tree.output)
        except OSError:
            # Another run was faster. What it made is the same: the name says what of.
            if not (tree.output / "image.json").exists():
                raise
            shutil.rmtree(made)
            digest = json.loads((tree.output / "image.json").read_text())["digest"]
    finally:
        if work.name.startswith("job-image-"):
            shutil.rmtree(work, ignore_errors=True)
    say(f"made {tree.names[0]}, {digest}")
