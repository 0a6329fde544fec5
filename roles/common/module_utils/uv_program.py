"""Where uv is, for the programs that build on the controller."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def find_uv(cache: Path) -> str:
    """Give the path of a uv that runs: on PATH, or where `make env` keeps its own in the testbed's cache.

    Also sets UV_SYSTEM_CERTS, so that it trusts whom this host's other programs trust.
    Leaves the program with a message where there is none.
    """
    os.environ.setdefault("UV_SYSTEM_CERTS", "true")
    on_path = shutil.which("uv")
    for uv in [*([on_path] if on_path else []), *map(str, sorted((cache / "uv").glob("*/bin/uv"), reverse=True))]:
        # A command named uv may be a shim that has none behind it.
        if subprocess.run([uv, "--version"], capture_output=True, check=False).returncode == 0:
            return uv
    sys.exit(f"uv is neither on PATH nor in {cache / 'uv'}; `make env` brings it")
