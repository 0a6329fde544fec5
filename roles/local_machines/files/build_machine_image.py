"""Make the root file system of the local machines as a tar, from the distribution's own archive.

Usage: build_machine_image.py RECIPE-OPTIONS --output FILE

The tar is written beside FILE and renamed, so that FILE is always whole.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# The build's own modules lie with the Ansible ones, since the preflight computes the same key.
sys.path.insert(0, str(Path(__file__).parents[2] / "common/module_utils"))

import machine_image

GIB = 2**30
# What the unpacked system, the packages and the tar's own buffers take at most.
ROOM = 2 * GIB

CUSTOMIZE = Path(__file__).with_name("customize_machine_image.sh")


@contextlib.contextmanager
def _build_root() -> Iterator[Path]:
    """Give a directory to build in: on a tmpfs of our own where memory allows, which is three times faster."""
    available = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    with tempfile.TemporaryDirectory(prefix="machine-image-", dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        if available < 2 * ROOM:
            yield Path(name)
            return
        # In a mount namespace of this process alone: it is gone with the process, however that ends.
        # /dev/shm will not do: it is often mounted nodev, and packages need /dev/null.
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=0755", "tmpfs", name], check=True)
        yield Path(name)
        subprocess.run(["umount", name], check=True)


def build(recipe: machine_image.Recipe, output: Path, root: Path) -> None:
    """Run mmdebstrap for `recipe` below the directory `root` and leave its tar at `output`."""
    # mmdebstrap's user for downloads must get in.
    root.chmod(0o755)
    inputs = root / "inputs"
    for path, text in recipe.files.items():
        target = inputs / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", errors="surrogateescape")
        target.chmod(0o600 if "auth.conf" in path else 0o644)
    inputs.mkdir(exist_ok=True)
    settings = root / "apt.conf"
    settings.write_text("\n".join(recipe.apt_settings) + "\n")
    sources = root / "sources.list"
    sources.write_text("\n".join(recipe.sources) + "\n")
    partial = output.with_name(output.name + ".partial")
    partial.unlink(missing_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            "mmdebstrap",
            "--verbose",
            "--mode=root",
            *recipe.options,
            f"--include={','.join(recipe.packages)}",
            f"--aptopt={settings}",
            f'--setup-hook=cp -a "{inputs}/." "$1/"',
            f"--customize-hook={CUSTOMIZE}",
            "--format=tar",
            recipe.suite,
            str(partial),
            str(sources),
        ],
        check=True,
        env={**os.environ, "TMPDIR": str(root)},
    )
    partial.rename(output)


def main() -> int:
    """Read the recipe, check that it is the one that was asked for, build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", required=True, help="comma separated")
    parser.add_argument("--suite", default="")
    parser.add_argument("--source", action="append", default=[], help="a line of sources.list; repeat it")
    parser.add_argument("--key", help="the key that the recipe must have")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    if "TESTBED_IMAGE_NAMESPACE" not in os.environ:
        os.execvpe(
            "unshare",
            ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv],
            {**os.environ, "TESTBED_IMAGE_NAMESPACE": "1"},
        )
    recipe = machine_image.read_controller(arguments.packages.split(","), arguments.suite, arguments.source, CUSTOMIZE)
    if arguments.key and recipe.key != arguments.key:
        sys.exit(f"the controller's package sources changed meanwhile: {recipe.key}, not {arguments.key}; run again")
    with _build_root() as root:
        build(recipe, arguments.output, root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
