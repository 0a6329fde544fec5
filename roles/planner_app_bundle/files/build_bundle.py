"""Make the application bundle: planner_app and its locked dependencies, for the machines' Python, as one tar.

Run on the controller by roles/planner_app_bundle. Only wheels are taken, so nothing is compiled and nothing
of the controller's own Python gets in. The tar appears under its name only when it is whole.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

# The project's own modules lie with the Ansible ones.
sys.path.insert(0, str(Path(__file__).parents[2] / "common/module_utils"))

from uv_program import find_uv


def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Make a member the same whoever builds: no owner, no time; compiled files stay out."""
    if "__pycache__" in Path(member.name).parts:
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def main() -> None:
    """Export, install, pack."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--project", type=Path, required=True)
    arguments.add_argument("--cache", type=Path, required=True, help="the testbed's cache directory")
    arguments.add_argument("--python", required=True)
    arguments.add_argument("--platform", required=True)
    arguments.add_argument("--output", type=Path, required=True)
    chosen = arguments.parse_args()

    uv = find_uv(chosen.cache)
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=chosen.output.parent, prefix=".building-") as scratch:
        requirements, site, packed = (Path(scratch) / name for name in ("requirements.txt", "site", "bundle.tar"))
        subprocess.run(
            [uv, "export", "--quiet", "--frozen", "--no-dev", "--package=planner-app", "--no-emit-workspace",
             f"--output-file={requirements}"],
            cwd=chosen.project, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        subprocess.run(
            [uv, "pip", "install", "--quiet", f"--target={site}", f"--python={sys.executable}",
             f"--python-version={chosen.python}", f"--python-platform={chosen.platform}", "--only-binary=:all:",
             "--link-mode=copy", "--require-hashes", f"--requirements={requirements}"],
            cwd=chosen.project, check=True,
        )  # fmt: skip
        shutil.copytree(chosen.project / "planner_app" / "planner_app", site / "planner_app")
        # Scripts that name the controller's Python.
        shutil.rmtree(site / "bin", ignore_errors=True)
        with tarfile.open(packed, "w") as tar:
            tar.add(site, arcname=".", filter=plain)
        packed.replace(chosen.output)


if __name__ == "__main__":
    main()
