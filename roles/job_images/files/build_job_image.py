"""Make the job's container image from Debian's archive and the lock file: no registry, no container engine.

Usage: build_job_image.py OPTIONS --output DIRECTORY

One root tree becomes image.tar.zst (a docker-archive: containerd, podman), image.sqfs (charliecloud, apptainer) and
image.json (its digest). The same sources give the same bytes. DIRECTORY appears only when the image was made and
has found sources in a real map.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

# The build's own modules lie with the Ansible ones.
sys.path.insert(0, str(Path(__file__).parents[2] / "common/module_utils"))

import docker_archive
import machine_image
from uv_program import find_uv

# What the root tree, the layer and both images take together at most.
ROOM = 3 * 2**30
# Where Debian's Python looks for what is not Debian's.
SITE = Path("usr/local/lib/python3.11/dist-packages")
# A map that astropy's own tests read: a Parkes continuum survey at 1.4 GHz (BSD-3-Clause).
SAMPLE = Path("astropy/modeling/tests/data/1904-66_AZP.fits")
# charliecloud cannot bind to what is not there, and the root is read-only: where jobs' directories are mounted,
# and the files that it brings from the host.
MOUNT_POINTS = ("data", "output", "mnt/storage", "opt/caesar-rest/jobs", "opt/caesar-rest/data", "tmp", "var/tmp")
MOUNT_FILES = ("etc/resolv.conf", "etc/hosts", "etc/hostname", "etc/machine-id")
# Documentation, translations, package lists, logs: nothing of it runs.
DEBIAN_ONLY = (
    "usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/bug",
    "var/cache", "var/log", "var/lib/apt/lists", "var/lib/systemd",
)  # fmt: skip
# Tests that the libraries import when they run.
KEPT_TESTS = ("astropy/tests", "numpy/_core/tests", "numpy/testing/tests")


def say(text: str) -> None:
    """Tell what happens now."""
    print(text, flush=True)


def run(*argv: str | Path, **environment: str) -> None:
    """Run a program; leave with its exit code where it fails."""
    subprocess.run([str(word) for word in argv], check=True, env={**os.environ, **environment})


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


def install(job: Path, root: Path, uv: str, work: Path) -> None:
    """Put the locked packages and the job's program into the tree."""
    requirements = work / "requirements.txt"
    run(uv, "export", "--quiet", "--frozen", "--no-emit-project", f"--project={job}", f"--output-file={requirements}")
    site = root / SITE
    run(
        uv, "pip", "install", f"--target={site}", f"--python={sys.executable}", "--python-version=3.11",
        "--python-platform=x86_64-manylinux_2_36", "--only-binary=:all:", "--link-mode=copy", "--require-hashes",
        f"--requirements={requirements}",
    )  # fmt: skip
    # Programs that name the controller's Python.
    shutil.rmtree(site / "bin", ignore_errors=True)
    kept = {site / name for name in KEPT_TESTS}
    for tests in sorted(site.rglob("tests")):
        if tests.is_dir() and tests not in kept and not any(parent in kept for parent in tests.parents):
            sample = site / SAMPLE
            keep = sample.read_bytes() if sample.is_relative_to(tests) else None
            shutil.rmtree(tests)
            if keep is not None:
                sample.parent.mkdir(parents=True)
                sample.write_bytes(keep)
    program = root / "entrypoint"
    shutil.copyfile(job / "aegean_job.py", program)
    program.chmod(0o755)


def tidy(root: Path, epoch: int) -> None:
    """Remove what differs from build to build or does nothing, and compile what the job loads."""
    for path in DEBIAN_ONLY:
        for entry in (root / path).iterdir() if (root / path).is_dir() else ():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    for entry in (root / "dev").iterdir():
        entry.unlink() if not entry.is_dir() or entry.is_symlink() else shutil.rmtree(entry)
    for name in MOUNT_POINTS:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    for name in MOUNT_FILES:
        (root / name).unlink(missing_ok=True)
        (root / name).touch(mode=0o644)
    for compiled in root.rglob("__pycache__"):
        shutil.rmtree(compiled)
    # Without times in them, so that the compiled files are the same every time and always taken for valid.
    run(
        "chroot", root, "/usr/bin/python3", "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
        f"/{SITE}", "/usr/lib/python3.11",
        SOURCE_DATE_EPOCH=str(epoch), PYTHONDONTWRITEBYTECODE="", PYTHONHASHSEED="0",
    )  # fmt: skip


def prove(root: Path) -> None:
    """Run the job within the tree on a real map: an image that cannot do it is none."""
    place = root / "tmp/proof"
    (place / "in").mkdir(parents=True)
    place.chmod(0o1777)
    try:
        shutil.copyfile(root / SITE / SAMPLE, place / "in/map.fits")
        run("mount", "--bind", "/proc", root / "proc")
        run("mount", "--bind", "/dev", root / "dev")
        try:
            subprocess.run(
                [str(shutil.which("chroot")), "--userspec=65534:65534", root, "/entrypoint"],
                env={"PATH": "/usr/bin:/bin", "INPUTFILE": "/tmp/proof/in/map.fits", "JOB_OUTDIR": "/tmp/proof/out"},
                check=True,
            )
        finally:
            run("umount", root / "dev")
            run("umount", root / "proc")
        written = sorted(path.name for path in (place / "out").iterdir())
        tables = [f"{table}-map.{suffix}" for table in ("catalog", "catalog_fitcomp") for suffix in ("dat", "json")]
        wanted = [*tables, "plot_map.png"]
        if written != wanted:
            sys.exit(f"the job in the new image wrote {written}, not {wanted}")
    finally:
        shutil.rmtree(place)
        for left in (root / "tmp").iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def pack(root: Path, output: Path, names: Sequence[str], epoch: int) -> str:
    """Write both images of the tree; return their digest."""
    layer, archive = root.parent / "layer.tar", root.parent / "image.tar"
    docker_archive.write_layer(root, layer)
    digest = docker_archive.write_docker_archive(
        layer,
        archive,
        tags=names,
        config=docker_archive.ImageConfig(
            entrypoint=["/entrypoint"],
            environment={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"},
            working_dir="/tmp",
            labels={"org.opencontainers.image.title": names[0]},
        ),
    )
    layer.unlink()
    run("zstd", "-q", "-9", "-T2", archive, "-o", output / "image.tar.zst")
    archive.unlink()
    # It takes a time either from the environment or from these.
    del os.environ["SOURCE_DATE_EPOCH"]
    run(
        "mksquashfs", root, output / "image.sqfs", "-noappend", "-quiet", "-no-progress", "-no-xattrs", "-comp", "zstd",
        "-Xcompression-level", "9", "-all-time", str(epoch), "-mkfs-time", str(epoch), "-processors", "2",
    )  # fmt: skip
    return digest


def main() -> int:
    """Build the image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, required=True, help="directory with pyproject.toml, uv.lock, the program")
    parser.add_argument("--name", action="append", required=True, help="the image's name with tag; repeat it")
    parser.add_argument("--packages", required=True, help="Debian's, comma separated")
    parser.add_argument("--suite", required=True)
    parser.add_argument("--source", action="append", default=[], help="a line of sources.list; repeat it")
    parser.add_argument("--cache", type=Path, required=True, help="the testbed's cache directory")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    if "TESTBED_IMAGE_NAMESPACE" not in os.environ:
        os.execvpe(
            "unshare",
            ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv],
            {**os.environ, "TESTBED_IMAGE_NAMESPACE": "1"},
        )
    # None of the build's files may carry today's date, nor a mode of the operator's taste.
    epoch = docker_archive.epoch()
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch)
    os.umask(0o022)
    uv = find_uv(arguments.cache)
    recipe = machine_image.read_controller(arguments.packages.split(","), arguments.suite, arguments.source)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    work = scratch()
    try:
        say(f"1/5 Debian {recipe.suite} with {', '.join(recipe.packages)}")
        root = bootstrap(recipe, work)
        say("2/5 packages of the lock file")
        install(arguments.job, root, uv, work)
        say("3/5 compiling, so that jobs start at once")
        tidy(root, epoch)
        say("4/5 a run on a real map, within the new image")
        prove(root)
        say("5/5 writing the images")
        made = arguments.output.with_name(f"{arguments.output.name}.partial")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        digest = pack(root, made, arguments.name, epoch)
        squashed = hashlib.sha256((made / "image.sqfs").read_bytes()).hexdigest()
        (made / "image.json").write_text(json.dumps({"digest": digest, "sqfs_sha256": squashed}) + "\n")
        made.rename(arguments.output)
    finally:
        if str(work).startswith("/var/tmp/"):
            shutil.rmtree(work, ignore_errors=True)
    say(f"made {arguments.name[0]}, {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
