"""What is written for machines on OpenStack: for cloud-init at their first start, and how ssh reaches them. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def user_data(private: str, public: str) -> str:
    """Write what cloud-init does at the first start: the host key is the one that is known here, and the only one."""
    block = "".join(f"    {line}\n" for line in private.strip().splitlines())
    return (
        "#cloud-config\n"
        "ssh_deletekeys: true\n"
        "ssh_genkeytypes: []\n"
        "ssh_pwauth: false\n"
        "ssh_keys:\n"
        f"  ed25519_private: |\n{block}"
        f"  ed25519_public: {public}\n"
    )


def ssh_config(testbed: str, address: Mapping[str, str], entry: str, outside: str, user: str, state_dir: object) -> str:
    """Write the ssh configuration that reaches the machines by name, all but the entry machine through that."""
    hosts = []
    for name, where in sorted(address.items()):
        jump = "" if name == entry else f'  ProxyCommand ssh -F "{state_dir}/ssh_config" -W %h:%p {entry}\n'
        hosts.append(
            f"Host {name}\n  HostName {outside if name == entry else where}\n  HostKeyAlias {testbed}-{name}\n{jump}"
        )
    common = f"""\
Host *
  User {user}
  IdentityFile "{state_dir}/secrets/ssh_ed25519"
  IdentitiesOnly yes
  UserKnownHostsFile "{state_dir}/known_hosts"
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  UpdateHostKeys no
  ConnectTimeout 20
  LogLevel ERROR
"""
    return f"# Written by roles/openstack_machines: ssh -F THIS-FILE {entry}\n" + "".join(hosts) + common
