"""Make the image of caesar-rest, or of its stand-in: Debian's Python, the packages of a lock file, the program.

Usage: build_caesar_rest_image.py --kind upstream|stand-in --program DIRECTORY OPTIONS --output DIRECTORY

The program is a checkout of caesar-rest, or the directory of planner_app.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

# The build's own modules lie with the Ansible ones.
sys.path.insert(0, str(Path(__file__).parents[2] / "common/module_utils"))

import docker_archive
import image_tree
from uv_program import find_uv

HERE = Path(__file__).parent
HOME = Path("opt/caesar-rest")
# What the stand-in is made of, of all that planner_app has.
STAND_IN = ("__init__.py", "caesar_rest", "voter/__init__.py", "voter/slurm_token.py")
SETTINGS = {
    "DATADIR": "/tmp/data", "JOBDIR": "/tmp/jobs", "SLURM_HOST": "localhost", "SLURM_PORT": "1", "SLURM_USER": "caesar",
    "SLURM_KEYFILE": "/tmp/key", "SLURM_DATADIR": "/tmp/data", "SLURM_JOBDIR": "/tmp/jobs",
    "MONGO_APP_FILE": "/tmp/app", "MONGO_MONITOR_FILE": "/tmp/monitor", "MPLCONFIGDIR": "/tmp", "HOME": "/tmp",
}  # fmt: skip
# Without a database it must say which applications there are.
TRIALS = {
    "upstream": """
import os, sys
sys.path[:0] = ['/opt/caesar-rest', '/opt/caesar-rest/source']
import serve
app = serve.load_app(serve.app_arguments(os.environ, 'caesar:x@localhost'))
from caesar_rest import jobmgr_slurm
assert jobmgr_slurm is not None
got = app.test_client().get('/caesar/api/v1.0/apps')
assert got.status_code == 200 and 'aegean' in got.json['apps'], got.data
""",
    "stand-in": """
import asyncio, os, httpx
from planner_app.caesar_rest.api import make_app
from planner_app.caesar_rest.settings import Settings
app = make_app(Settings.of_environment(os.environ))
async def ask():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url='http://x') as client:
        return await client.get('/caesar/api/v1.0/apps')
got = asyncio.run(ask())
assert got.status_code == 200 and 'aegean' in got.json()['apps'], got.text
""",
}


def main() -> int:
    """Build the image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=sorted(TRIALS), required=True)
    parser.add_argument("--program", type=Path, required=True)
    parser.add_argument("--name", action="append", required=True, help="the image's name with tag; repeat it")
    parser.add_argument("--packages", required=True, help="Debian's, comma separated")
    parser.add_argument("--suite", required=True)
    parser.add_argument("--source", action="append", default=[], help="a line of sources.list; repeat it")
    parser.add_argument("--cache", type=Path, required=True, help="the testbed's cache directory")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    image_tree.enter_namespace()
    locked = HERE / arguments.kind
    python = ["/usr/bin/python3", "-B"]
    if arguments.kind == "upstream":
        entrypoint, paths = [*python, f"/{HOME}/serve.py"], f"/{HOME}/shim"
    else:
        entrypoint, paths = [*python, "-m", "planner_app.caesar_rest"], f"/{HOME}/source"

    def program(root: Path) -> None:
        source = root / HOME / "source"
        source.mkdir(parents=True)
        if arguments.kind == "upstream":
            for part in ("apps", "caesar_rest", "config", "LICENSE"):
                origin = arguments.program / part
                (shutil.copytree if origin.is_dir() else shutil.copyfile)(origin, source / part)
            shutil.copyfile(locked / "serve.py", root / HOME / "serve.py")
            (root / HOME / "shim").mkdir()
            shutil.copyfile(locked / "sitecustomize.py", root / HOME / "shim/sitecustomize.py")
            return
        for part in STAND_IN:
            origin, target = arguments.program / "planner_app" / part, source / "planner_app" / part
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if origin.is_dir() else shutil.copyfile)(origin, target)

    def prove(root: Path) -> None:
        (root / "tmp/key").write_text("k" * 48)
        (root / "tmp/app").write_text("caesar:x@localhost")
        (root / "tmp/monitor").write_text("mongodb://caesar:x@localhost:27017/caesardb")
        image_tree.run_within(root, [*python, "-c", TRIALS[arguments.kind]], {"PYTHONPATH": paths, **SETTINGS})

    tree = image_tree.Tree(
        names=arguments.name,
        suite=arguments.suite,
        packages=arguments.packages.split(","),
        sources=arguments.source,
        output=arguments.output,
        uv=find_uv(arguments.cache),
        locked=locked,
        mount_points=(f"{HOME}/data", f"{HOME}/jobs", "run/secrets", "tmp", "var/tmp"),
        compiled=(f"/{image_tree.SITE}", "/usr/lib/python3.11", f"/{HOME}"),
        config=docker_archive.ImageConfig(
            entrypoint=entrypoint,
            environment={
                "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "MPLCONFIGDIR": "/tmp",
                "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1",
            },
            working_dir="/tmp",
            labels={"org.opencontainers.image.title": arguments.name[0]},
        ),
    )  # fmt: skip
    image_tree.make(tree, program, prove)
    return 0


if __name__ == "__main__":
    sys.exit(main())
