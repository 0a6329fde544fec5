"""Make the job's container image from Debian's archive and the lock file: no registry, no container engine.

Usage: build_job_image.py OPTIONS --output DIRECTORY

One root tree becomes image.tar.zst (a docker-archive: containerd, podman), image.sqfs (charliecloud, apptainer) and
image.json (its digest). The same sources give the same bytes. DIRECTORY appears only when the image was made and
has found sources in a real map.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from pathlib import Path

# The build's own modules lie with the Ansible ones.
sys.path.insert(0, str(Path(__file__).parents[2] / "common/module_utils"))

import docker_archive
import image_tree
from uv_program import find_uv

# A map that astropy's own tests read: a Parkes continuum survey at 1.4 GHz (BSD-3-Clause).
SAMPLE = Path("astropy/modeling/tests/data/1904-66_AZP.fits")
# charliecloud cannot bind to what is not there, and the root is read-only: where jobs' directories are mounted.
MOUNT_POINTS = ("data", "output", "mnt/storage", "opt/caesar-rest/jobs", "opt/caesar-rest/data", "tmp", "var/tmp")


def prove(root: Path) -> None:
    """Run the job within the tree on a real map."""
    place = root / "tmp/proof"
    (place / "in").mkdir(parents=True)
    place.chmod(0o1777)
    shutil.copyfile(root / image_tree.SITE / SAMPLE, place / "in/map.fits")
    image_tree.run_within(
        root, ["/entrypoint"], {"INPUTFILE": "/tmp/proof/in/map.fits", "JOB_OUTDIR": "/tmp/proof/out"}
    )
    written = sorted(path.name for path in (place / "out").iterdir())
    tables = [f"{table}-map.{suffix}" for table in ("catalog", "catalog_fitcomp") for suffix in ("dat", "json")]
    wanted = [*tables, "plot_map.png"]
    if written != wanted:
        sys.exit(f"the job in the new image wrote {written}, not {wanted}")


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
    image_tree.enter_namespace()

    def program(root: Path) -> None:
        entrypoint = root / "entrypoint"
        shutil.copyfile(arguments.job / "aegean_job.py", entrypoint)
        entrypoint.chmod(0o755)

    tree = image_tree.Tree(
        names=arguments.name,
        suite=arguments.suite,
        packages=arguments.packages.split(","),
        sources=arguments.source,
        output=arguments.output,
        uv=find_uv(arguments.cache),
        locked=arguments.job,
        mount_points=MOUNT_POINTS,
        kept_files=[SAMPLE],
        config=docker_archive.ImageConfig(
            entrypoint=["/entrypoint"],
            environment={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"},
            working_dir="/tmp",
            labels={"org.opencontainers.image.title": arguments.name[0]},
        ),
        squashfs=True,
    )
    image_tree.make(
        tree,
        program,
        prove,
        lambda made: {"sqfs_sha256": hashlib.sha256((made / "image.sqfs").read_bytes()).hexdigest()},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
