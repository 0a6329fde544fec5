"""An image that keeps what the documentation of MongoDB's official image promises, with FerretDB for its engine.

There is no registry to pull the official one from, and no package of mongod. What the role asks of the image can be
tried all the same: the names of its variables, the file with root's password, the user 999, the places that it
writes to, mongosh in the probes, a first server that only its container reaches, the options of mongod.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from handles import PROJECT, STATE, machine

sys.path.append(str(PROJECT / "roles/common/module_utils"))

import docker_archive

FILES = Path(__file__).parent / "mongo_image"
NAME = "caesar/mongo-like:1"
REFERENCE = f"docker.io/{NAME}"
#: With what they are linked with: the scripts' shell, and what is no part of it.
TOOLS = ("/bin/dash", "/bin/sleep")
KUBECTL = "KUBECONFIG=/etc/kubernetes/admin.conf kubectl"


def ferretdb(place: Path) -> Path:
    """The program, out of the image that the testbed's own database runs."""
    reference = machine("kube").check_output(
        f"{KUBECTL} -n caesar-rest get statefulset mongodb -o jsonpath={{.spec.template.spec.containers[0].image}}"
    )
    caches = Path.home() / ".cache" / STATE.parent.name
    archive = caches / "ferretdb" / reference.rpartition(":")[2] / "image.tar.zst"
    subprocess.run(["zstd", "-dq", archive, "-o", place / "image.tar"], check=True)
    with tarfile.open(place / "image.tar") as image:
        manifest = image.extractfile("manifest.json")
        assert manifest
        layer = image.extractfile(json.load(manifest)[0]["Layers"][0])
        assert layer
        with tarfile.open(fileobj=layer) as files:
            # Python 3.11 before 3.11.4 has no filters.
            files.extraction_filter = getattr(tarfile, "data_filter", None)
            files.extract("ferretdb", place)
    return place / "ferretdb"


def fill(root: Path, program: Path) -> None:
    """Lay the image's files."""
    for name in ("bin", "data/db", "data/configdb", "etc", "run", "tmp", "usr/local/bin", "docker-entrypoint-initdb.d"):
        (root / name).mkdir(parents=True)
    shutil.copy(program, root / "bin/mongod")
    for name in ("docker-entrypoint.sh", "mongosh"):
        shutil.copy(FILES / name, root / "usr/local/bin" / name)
        (root / "usr/local/bin" / name).chmod(0o755)
    for tool in TOOLS:
        shutil.copy(tool, root / "bin")
        linked = subprocess.run(["ldd", tool], capture_output=True, text=True, check=True).stdout.split()
        for library in {Path(word) for word in linked if word.startswith("/")}:
            target = root / library.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
    (root / "bin/sh").symlink_to("dash")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nmongodb:x:999:999::/data/db:/bin/sh\n")


def bring() -> str:
    """Make the image and give it to the node, as if the cluster had pulled it; its reference."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        fill(place / "root", ferretdb(place))
        docker_archive.write_layer(place / "root", place / "layer.tar")
        docker_archive.write_docker_archive(
            place / "layer.tar",
            place / "made.tar",
            tags=[NAME],
            config=docker_archive.ImageConfig(
                entrypoint=["docker-entrypoint.sh"],
                command=["mongod"],
                environment={"PATH": "/usr/local/bin:/bin", "HOME": "/data/db"},
            ),
        )
        with (place / "made.tar").open("rb") as archive:
            subprocess.run(
                ["ssh", "-F", STATE / "ssh_config", "kube", "ctr -n k8s.io images import -"],
                stdin=archive,
                stdout=subprocess.DEVNULL,
                check=True,
            )
    return REFERENCE


def take_away() -> None:
    """Forget the image."""
    machine("kube").check_output(f"ctr -n k8s.io images rm {REFERENCE} >/dev/null 2>&1; true")
