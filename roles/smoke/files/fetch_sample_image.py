"""Take the sample image out of the astropy package that the job's lock file pins.

Usage: fetch_sample_image.py --job DIRECTORY --cache DIRECTORY --sha256 HEX --output FILE

The map is one that astropy's own tests read (BSD-3-Clause); no copy of it is kept in the project.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# The project's own modules lie with the Ansible ones.
sys.path.insert(0, str(Path(__file__).parents[2] / "common/module_utils"))

from uv_program import find_uv

INSIDE = "astropy/modeling/tests/data"


def main() -> int:
    """Export the pin, install it into a scratch directory, take the file, check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, required=True, help="directory with pyproject.toml and uv.lock")
    parser.add_argument("--cache", type=Path, required=True, help="the testbed's cache directory")
    parser.add_argument("--sha256", required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    uv = find_uv(arguments.cache)
    exported = subprocess.run(
        [uv, "export", "--quiet", "--frozen", "--no-emit-project", f"--project={arguments.job}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    # One requirement with its hashes: lines that end in a backslash go on.
    pin = re.search(r"^astropy==(?:.*\\\n)*.*$", exported, re.MULTILINE)
    if pin is None:
        sys.exit(f"the lock file in {arguments.job} has no astropy")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.output.parent) as scratch:
        requirements = Path(scratch, "requirements.txt")
        requirements.write_text(pin[0] + "\n")
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", f"--target={scratch}/site",
             f"--python={sys.executable}", "--python-version=3.11", "--only-binary=:all:",
             f"--requirements={requirements}"],
            check=True,
        )  # fmt: skip
        content = Path(scratch, "site", INSIDE, arguments.output.name).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != arguments.sha256:
        sys.exit(f"{arguments.output.name} of {pin[0].split()[0]} has sha256 {found}, not {arguments.sha256}")
    partial = arguments.output.with_name(f".{arguments.output.name}.part")
    partial.write_bytes(content)
    partial.replace(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
