#!/usr/bin/python
"""Ansible module: Debian packages that must be there, found by one question to dpkg."""

from __future__ import annotations

DOCUMENTATION = r"""
module: packages
short_description: Install Debian packages where they are missing
description:
  - Asks dpkg, which takes 10 ms, where C(ansible.builtin.apt) opens the whole package cache on every run.
  - Recommended packages are not installed, and packages that are there are not upgraded.
options:
  names:
    description: Names of packages (no virtual ones).
    type: list
    elements: str
    required: true
  mask:
    description: Units that the installation must not start; masked before packages are installed.
    type: list
    elements: str
    default: []
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Install Slurm
  packages:
    names: [slurmctld, slurmd]
    mask: [slurmd.service]
"""

RETURN = r"""
installed:
  description: Packages that were missing.
  type: list
  elements: str
  returned: always
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

APT = (
    "apt-get",
    "--yes",
    "--quiet",
    "--no-install-recommends",
    # A configuration file that a role wrote before stays.
    "--option=Dpkg::Options::=--force-confold",
    # The machine's own timers may be at work.
    "--option=DPkg::Lock::Timeout=120",
)


def missing(names: list[str], dpkg: str) -> list[str]:
    """Name what is not installed, in the order asked, by the output of dpkg-query."""
    installed = {line.removeprefix("installed ") for line in dpkg.splitlines() if line.startswith("installed ")}
    return [name for name in dict.fromkeys(names) if name not in installed]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "mask": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    names: list[str] = module.params["names"]
    # The exit code is 1 where a name is not known, which is what is asked.
    _, out, _ = module.run_command(["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n", *names])
    wanted = missing(names, out)
    result = {"changed": bool(wanted), "installed": wanted}
    if module._diff and wanted:
        result["diff"] = {"before": "", "after": "".join(f"{name}\n" for name in wanted)}
    if module.check_mode or not wanted:
        module.exit_json(**result)
    for unit in module.params["mask"]:
        link = Path("/etc/systemd/system", unit)
        if not link.is_symlink():
            link.symlink_to("/dev/null")
    command = [*APT, "install", *wanted]
    code, _, _ = module.run_command(command)
    if code != 0:
        # Most often the lists are older than the archive, or there are none.
        module.run_command([*APT, "update"], check_rc=True)
        code, out, err = module.run_command(command)
        if code != 0:
            module.fail_json(msg=f"{' '.join(command)}: {err.strip() or out.strip()}", rc=code, stdout=out)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
