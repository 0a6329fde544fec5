"""What stands in for a store of volumes: cinder keeps their records, and nothing is written anywhere."""

from __future__ import annotations

from cinder.volume import driver


class PretendedVolumes(driver.VolumeDriver):
    """Makes every volume, with an image's content too, by saying that it is there."""

    def check_for_setup_error(self):
        """Find nothing wrong."""

    def _update_volume_stats(self):
        """Have more room than any test needs."""
        self._stats = {
            "volume_backend_name": self.configuration.volume_backend_name,
            "vendor_name": "caesar",
            "driver_version": "1",
            "storage_protocol": "iSCSI",
            "total_capacity_gb": 1000000,
            "free_capacity_gb": 1000000,
            "reserved_percentage": 0,
        }

    def create_volume(self, volume):
        """Make it."""

    def clone_image(self, context, volume, image_location, image_meta, image_service):
        """Make it with an image's content, without a copy."""
        return {}, True

    def copy_image_to_volume(self, context, volume, image_service, image_id, disable_sparse=False):
        """Put an image's content into it, for a rebuilt server."""

    def delete_volume(self, volume):
        """Remove it."""

    def ensure_export(self, context, volume):
        """Find it within reach of the hosts."""

    def create_export(self, context, volume, connector):
        """Bring it within reach of the hosts."""

    def remove_export(self, context, volume):
        """Take it out of reach."""

    def initialize_connection(self, volume, connector):
        """Say how a host reaches it; the fake hypervisor does not."""
        return {"driver_volume_type": "iscsi", "data": {"volume_id": volume.id}}

    def terminate_connection(self, volume, connector, **kwargs):
        """End that."""
