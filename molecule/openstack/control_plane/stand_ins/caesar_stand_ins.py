"""What stands in for the agents on the hosts of a cloud: ports are bound and floating addresses active at once."""

from __future__ import annotations

from neutron.services.l3_router import l3_router_plugin
from neutron_lib import constants
from neutron_lib.api.definitions import portbindings
from neutron_lib.plugins.ml2 import api


class PortsAreUp(api.MechanismDriver):
    """Binds every port, as an agent for layer 2 on the server's host would."""

    def initialize(self):
        """Do nothing: there is nobody to talk to."""

    def bind_port(self, context):
        """Bind to the first segment."""
        segment = context.segments_to_bind[0]
        details = {portbindings.CAP_PORT_FILTER: True}
        context.set_binding(segment[api.ID], portbindings.VIF_TYPE_OVS, details, constants.PORT_STATUS_ACTIVE)


class AddressesAreUp(l3_router_plugin.L3RouterPlugin):
    """The real router plugin; a floating address with a port is active, as an agent for layer 3 would report."""

    def _settle(self, context, address):
        status = constants.FLOATINGIP_STATUS_ACTIVE if address["port_id"] else constants.FLOATINGIP_STATUS_DOWN
        self.update_floatingip_status(context, address["id"], status)
        return {**address, "status": status}

    def create_floatingip(self, context, floatingip, *args, **kwargs):
        """Make it and say that it works."""
        return self._settle(context, super().create_floatingip(context, floatingip, *args, **kwargs))

    def update_floatingip(self, context, id, floatingip):
        """Change it and say that it works."""
        return self._settle(context, super().update_floatingip(context, id, floatingip))
