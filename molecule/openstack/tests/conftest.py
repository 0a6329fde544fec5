"""A control plane for the time of the tests."""

from __future__ import annotations

from collections.abc import Iterator

import openstack
import pytest
from openstack_lab import Lab, plane


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("openstack") / "control-plane"
    with plane.running(directory) as clouds:
        configuration = openstack.config.OpenStackConfig(config_files=[str(clouds)])
        member, admin = (
            openstack.connection.Connection(config=configuration.get_one(name)) for name in ("member", "admin")
        )
        yield Lab(directory, directory.parent / "state", member, admin)
