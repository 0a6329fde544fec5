#!/usr/bin/env python3
"""Write each role's README.md from its meta/: what it is for, its entry points and their variables.

Usage: tools/role_readmes.py [--check]   (--check writes nothing and ends with 1 where a README is out of date)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parents[1] / "roles"


def readme(role: Path) -> str:
    """The text of one role's README.md.

    Raises:
        FileNotFoundError: where the role lacks meta/main.yml or meta/argument_specs.yml.
    """
    meta = yaml.safe_load((role / "meta" / "main.yml").read_text())
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    defaults_file = role / "defaults" / "main.yml"
    defaults = (yaml.safe_load(defaults_file.read_text()) or {}) if defaults_file.exists() else {}
    lines = [
        f"# {role.name}",
        "",
        f"{meta['galaxy_info']['description'].rstrip('.')}.",
        "",
        "_Written by tools/role_readmes.py from meta/argument_specs.yml: change that, then run the tool._",
    ]
    for entry_point, spec in specs.items():
        lines += ["", f"## Entry point `{entry_point}`", "", f"{_text(spec['short_description']).rstrip('.')}.", ""]
        if spec.get("description"):
            lines += [_text(spec["description"]), ""]
        lines += _table(spec.get("options") or {}, defaults) or ["It takes no variables of its own."]
    return "\n".join(lines) + "\n"


def _table(options: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    if not options:
        return []
    rows = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    for name, option in options.items():
        default = "required" if option.get("required") else _value(defaults.get(name, option.get("default")))
        meaning = _text(option.get("description", ""))
        inner = option.get("options")
        if inner:
            meaning += " Keys: " + "; ".join(
                f"`{key}` ({value.get('type', 'str')}{', required' if value.get('required') else ''}): "
                f"{_text(value.get('description', '')).rstrip('.')}"
                for key, value in inner.items()
            )
        rows.append(f"| `{name}` | {option.get('type', 'str')} | {default} | {meaning} |".replace("\n", " "))
    return rows


def _text(description: str | list[str]) -> str:
    return (" ".join(description) if isinstance(description, list) else description).strip().replace("|", "\\|")


def _value(value: Any) -> str:
    if value is None:
        return ""
    text = " ".join(str(value).split()).replace("|", "\\|")
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`"


def main() -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write each role's README.md from its meta/argument_specs.yml.")
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where one is out of date")
    arguments = parser.parse_args()
    stale = []
    for role in sorted(path for path in ROLES.iterdir() if (path / "meta").is_dir()):
        file, text = role / "README.md", readme(role)
        if not file.exists() or file.read_text() != text:
            stale.append(file)
            if not arguments.check:
                file.write_text(text)
    for file in stale:
        print(f"{file.relative_to(ROLES.parent)}: {'out of date' if arguments.check else 'written'}")
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
