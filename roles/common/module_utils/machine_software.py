"""Which software local machines have that would be made anew from another image: read from outside, running or not."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.upgrades import debian_of

#: The source of Debian's packages of Slurm.
SLURM_SOURCE = "slurm-wlm"
MANIFEST = "manifests/kube-apiserver.yaml"


class Podman:
    """podman with the testbed's own configuration."""

    def __init__(self, conf: Path) -> None:
        self._environment = os.environ | ({"CONTAINERS_CONF": str(conf)} if conf.exists() else {})

    def __call__(self, *words: str) -> str:
        """Run it; give what it prints."""
        argv = ["podman", *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True, env=self._environment).stdout


def slurm_packages(status: str) -> dict[str, str]:
    """Read dpkg's database of packages: those of Slurm that are installed, with their versions. Pure."""
    found = {}
    for stanza in status.split("\n\n"):
        lines = (line.partition(": ") for line in stanza.splitlines())
        fields = {key: value for key, _, value in lines if key in ("Package", "Source", "Version", "Status")}
        source = fields.get("Source", fields.get("Package", "")).split(" ")[0]
        if source == SLURM_SOURCE and fields.get("Status", "").endswith(" installed"):
            found[fields["Package"]] = fields["Version"]
    return found


def server_version(manifest: str) -> str:
    """Read the version of the API server off its static pod. Pure."""
    found = re.search(r"^\s*(?:- )?image: \S+/kube-apiserver:(v\S+)$", manifest, re.MULTILINE)
    return str(found[1]) if found else ""


def image_of(handle: Path) -> str:
    """Read from machines.json which image the machines were made from; nothing where it does not say."""
    return str(json.loads(handle.read_text()).get("image", "")) if handle.is_file() else ""


def made_anew(testbed: str, state_dir: Path, image_key: str) -> dict[str, dict[str, Any]]:
    """Look into the machines of a testbed that were made from another image than this.

    Returns:
        By machine any of `debian`, `slurm` (package to version) and `kubernetes` (of a control plane).

    Raises:
        subprocess.CalledProcessError: where podman does not answer.
    """
    podman = Podman(state_dir / "containers.conf")
    form = "{{.Names}} {{.Image}}"
    listed = podman("ps", "--all", f"--filter=label=caesar-testbed.name={testbed}", f"--format={form}")
    found = {}
    for name, image in (line.split() for line in listed.splitlines()):
        if not image.endswith(f":{image_key}"):
            machine = name.removeprefix(f"{testbed}-")
            found[machine] = look(podman, name) | {"kubernetes": control_plane(podman, f"{name}-kubernetes")}
    return found


def look(podman: Podman, container: str) -> dict[str, Any]:
    """Read a machine's release of Debian and its packages of Slurm."""
    root = Path(podman("mount", container).strip())
    try:
        release, status = root / "etc/debian_version", root / "var/lib/dpkg/status"
        return {
            "debian": debian_of(release.read_text()) if release.exists() else "",
            "slurm": slurm_packages(status.read_text()) if status.exists() else {},
        }
    finally:
        podman("unmount", container)


def control_plane(podman: Podman, volume: str) -> str:
    """Read which Kubernetes a volume's control plane has; nothing where there is none."""
    if not podman("volume", "ls", "--quiet", f"--filter=name=^{re.escape(volume)}$").strip():
        return ""
    manifest = Path(podman("volume", "inspect", "--format={{.Mountpoint}}", volume).strip(), MANIFEST)
    return server_version(manifest.read_text()) if manifest.exists() else ""
