"""Make the root file system of the local machines as a tar, from the distribution's own archive.

Usage: build_machine_image.py RECIPE-OPTIONS --output FILE

The tar is written beside FILE and renamed, so that FILE is always whole.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

# The build's own modules lie with the Ansible ones, since the preflight computes the same key.
sys.path.insert(0, str(Path(__file__).parents[2] / "common/module_utils"))

import machine_image  # noqa: E402

GIB = 2**30
# What the unpacked system, the packages and the tar's own buffers take at most.
ROOM = 2 * GIB

# As Debian's own images for containers do it: a third of the size, and quicker installs ever after.
LEFT_OUT = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
)
CUSTOMIZE = Path(__file__).with_name("customize_machine_image.sh")


def _build_root() -> Path:
    """Give the directory to build in: on a tmpfs of our own where memory allows, which is three times faster."""
    available = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    place = Path("/run/testbed-machine-image")
    place.mkdir(exist_ok=True)
    if available < 2 * ROOM:
        return Path(os.environ.get("TMPDIR", "/var/tmp"))  # noqa: S108 - the choice of where temporary files lie
    # In a mount namespace of this process alone: it is gone with the process, however that ends.
    # /dev/shm will not do: it is often mounted nodev, and packages need /dev/null.
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=0755", "tmpfs", str(place)], check=True)
    return place


def build(recipe: machine_image.Recipe, output: Path) -> None:
    """Run mmdebstrap for `recipe` and leave its tar at `output`."""
    root = _build_root()
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
            "--variant=minbase",
            f"--include={','.join(recipe.packages)}",
            f"--aptopt={settings}",
            # Stays in the image: what a machine loses by a crash is made again, and installs are quicker.
            "--dpkgopt=force-unsafe-io",
            *(f"--dpkgopt={option}" for option in LEFT_OUT),
            # Machines start with the package lists of the day they were made: no update at once.
            "--skip=cleanup/apt/lists",
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
    recipe = machine_image.read_controller(
        arguments.packages.split(","), arguments.suite, arguments.source, (Path(__file__), CUSTOMIZE)
    )
    if arguments.key and recipe.key != arguments.key:
        sys.exit(f"the controller's package sources changed meanwhile: {recipe.key}, not {arguments.key}; run again")
    build(recipe, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
