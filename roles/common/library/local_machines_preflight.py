#!/usr/bin/python
"""Ansible module: whether this host can carry the local machines, and which image they need."""

# ruff: noqa: E402 - Ansible reads the documentation blocks before the imports.

from __future__ import annotations

DOCUMENTATION = r"""
module: local_machines_preflight
short_description: Say what this host lacks to carry the local machines, and which image they need
options:
  packages: {description: Packages of the image., type: list, elements: str, required: true}
  suite: {description: Release of the machines; the controller's where empty., type: str, default: ""}
  sources: {description: One-line apt sources; the controller's where empty., type: list, elements: str, default: []}
  programs: {description: The programs that build the image., type: list, elements: path, required: true}
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: Look at this host
  local_machines_preflight: {packages: [systemd], programs: [/x/build_machine_image.py]}
"""

RETURN = r"""
image_key: {description: Names the image., type: str, returned: success}
"""

from pathlib import Path

from ansible.module_utils import machine_image
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "required": True},
            "suite": {"type": "str", "default": ""},
            "sources": {"type": "list", "elements": "str", "default": []},
            "programs": {"type": "list", "elements": "path", "required": True},
        },
        supports_check_mode=True,
    )
    recipe = machine_image.read_controller(
        module.params["packages"], module.params["suite"], module.params["sources"], map(Path, module.params["programs"])
    )
    module.exit_json(changed=False, image_key=recipe.key)


if __name__ == "__main__":
    main()
