"""Inventory plugin: the servers of one testbed that an OpenStack cloud has, in the groups that their metadata name."""

from __future__ import annotations

DOCUMENTATION = r"""
name: openstack_servers
short_description: Servers of one testbed on an OpenStack cloud
description:
  - Asks the cloud once for the servers that carry the testbed's mark. Each is a host of the group
    C(openstack_servers) with C(openstack_server) (id, status, flavor, addresses), and of the groups in its metadata.
  - Servers that the other sources of the inventory do not name in C(openstack_machines), where they name any, are in
    C(openstack_servers) alone.
  - Where the cloud cannot be asked there are no such hosts, and a warning says why.
options:
  plugin:
    description: The name of this plugin.
    required: true
    choices: [openstack_servers]
  cloud:
    description:
      - Name of the cloud in clouds.yaml; OS_CLOUD where empty.
      - The extra variable openstack_machines_cloud has precedence.
    type: str
    default: ""
  testbed:
    description: The testbed's name. The extra variable testbed_name has precedence.
    type: str
    required: true
"""

from pathlib import Path
from typing import Any

from ansible.plugins.inventory import BaseInventoryPlugin

MARK = "caesar-testbed"


class InventoryModule(BaseInventoryPlugin):  # type: ignore[misc]
    """The plugin."""

    NAME = "openstack_servers"

    def verify_file(self, path: str) -> bool:
        """Tell whether a file may be one of this plugin's."""
        return super().verify_file(path) and Path(path).name.endswith(("openstack.yml", "openstack.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Ask the cloud and fill the inventory."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        extra = getattr(self, "_vars", {})
        testbed = str(extra.get("testbed_name") or self.get_option("testbed"))
        cloud = str(extra.get("openstack_machines_cloud") or self.get_option("cloud"))
        inventory.add_group("openstack_servers")
        machines = inventory.groups.get("openstack_machines")
        wanted = {host.name for host in machines.get_hosts()} if machines else set()
        try:
            servers = ask(cloud, testbed)
        except Exception as error:  # noqa: BLE001 - no cloud is no reason to have no inventory
            self.display.warning(f"openstack_servers: cannot ask the cloud {cloud or '(OS_CLOUD)'}: {error}")
            return
        for server in servers:
            metadata = server["metadata"]
            name = inventory.add_host(metadata.get("caesar-machine", server["name"]), group="openstack_servers")
            addresses = [one for found in server["addresses"].values() for one in found]
            described = {
                "id": server["id"],
                "status": server["status"],
                "flavor": server["flavor"]["original_name"],
                "fixed": [one["addr"] for one in addresses if one["OS-EXT-IPS:type"] == "fixed"],
                "floating": [one["addr"] for one in addresses if one["OS-EXT-IPS:type"] == "floating"],
            }
            inventory.set_variable(name, "openstack_server", described)
            for group in metadata.get("caesar-groups", "").split(",") if not wanted or name in wanted else []:
                if group:
                    inventory.add_group(group)
                    inventory.add_child(group, name)


def ask(cloud: str, testbed: str) -> list[dict[str, Any]]:
    """Ask for the servers that carry the mark, in the order of their names."""
    import openstack

    connection = openstack.connect(cloud=cloud or None, app_name="caesar-testbed")
    answer = connection.compute.get(f"/servers/detail?name=^{testbed}-", microversion="2.64")
    openstack.exceptions.raise_from_response(answer)
    servers = [one for one in answer.json()["servers"] if one["metadata"].get(MARK) == testbed]
    return sorted(servers, key=lambda one: str(one["name"]))
