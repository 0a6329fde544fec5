"""What a control plane has before anybody uses it. Runs in the control plane's own environment.

Usage: initialise.py tables URL           neutron's tables, since its own migrations do not run on SQLite
       initialise.py accounts DIRECTORY   users, roles, projects and the catalogue; keystone must be up
       initialise.py cloud DIRECTORY      flavors, quota, an image, a network to the world; all must be up
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import openstack
import sqlalchemy

RULES = "alembic_migrations/versions/2023.2/expand/c33da356b165_security_group_default_rules.py"
CATALOGUE = {
    "placement": ("placement", ""),
    "image": ("glance", ""),
    "network": ("neutron", ""),
    "compute": ("nova", "/v2.1"),
    "volumev3": ("cinder", "/v3"),
}
FLAVORS = {"desktop": (4, 16, 250), "desktop-x2": (8, 32, 512), "desktop-x4": (16, 64, 1000)}


def tables(url: str) -> None:
    """Make what neutron's models say, and the rules that every security group starts with: a migration inserts them."""
    from neutron.db import migration
    from neutron.db.migration.models import head
    from oslo_utils import uuidutils

    spec = importlib.util.spec_from_file_location("rules", Path(migration.__file__).parent / RULES)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    engine = sqlalchemy.create_engine(url)
    metadata = head.get_metadata()
    metadata.create_all(engine)
    attributes, rules = metadata.tables["standardattributes"], metadata.tables["securitygroupdefaultrules"]
    with engine.begin() as connection:
        for rule in module.default_template_rules:
            row = sqlalchemy.insert(attributes).values(resource_type=module.table_name, description=rule["description"])
            number = connection.execute(row).inserted_primary_key[0]
            columns = {key: value for key, value in rule.items() if key != "description"}
            columns |= {"id": uuidutils.generate_uuid(), "standard_attr_id": number}
            connection.execute(sqlalchemy.insert(rules).values(**columns))


def accounts(cloud: openstack.connection.Connection, directory: Path) -> None:
    """Make the services' users and one plain member of a project, and say where the services are."""
    passwords = json.loads((directory / "passwords.json").read_text())
    ports = json.loads((directory / "ports.json").read_text())
    identity = cloud.identity
    roles = {role.name: role for role in identity.roles()}
    for name in ("service", "member", "admin"):
        roles.setdefault(name, None)
        roles[name] = roles[name] or identity.create_role(name=name)
    service = identity.create_project(name="service", domain_id="default")
    lab = identity.create_project(name="lab", domain_id="default")
    for name in ("placement", "glance", "neutron", "nova", "cinder"):
        user = identity.create_user(name=name, password=passwords[name], domain_id="default")
        identity.assign_project_role_to_user(service, user, roles["admin"])
        identity.assign_project_role_to_user(service, user, roles["service"])
    member = identity.create_user(name="member", password=passwords["member"], domain_id="default")
    identity.assign_project_role_to_user(lab, member, roles["member"])
    for kind, (name, path) in CATALOGUE.items():
        made = identity.create_service(type=kind, name=name)
        where = f"http://127.0.0.1:{ports[name]}{path}"
        for interface in ("public", "internal"):
            identity.create_endpoint(service_id=made.id, interface=interface, url=where, region_id="RegionOne")


def cloud_things(cloud: openstack.connection.Connection) -> None:
    """Make what a cloud's administrator makes: flavors, a project's quota, an image, the way to the world."""
    for name, (cores, gib, disc) in FLAVORS.items():
        cloud.compute.create_flavor(name=name, vcpus=cores, ram=gib * 1024, disk=disc)
    lab = cloud.identity.find_project("lab")
    cloud.compute.put(
        f"/os-quota-sets/{lab.id}",
        json={"quota_set": {"cores": 240, "ram": 960 * 1024, "instances": 60, "server_group_members": 60}},
    ).raise_for_status()
    cloud.block_storage.create_type(name="discs")
    cloud.block_storage.put(
        f"/os-quota-sets/{lab.id}", json={"quota_set": {"volumes": 60, "gigabytes": 60 * 1000}}
    ).raise_for_status()
    image = cloud.image.create_image(
        name="debian-12", disk_format="raw", container_format="bare", visibility="public", data=b"\0" * 512
    )
    assert cloud.image.get_image(image.id).status == "active"
    public = cloud.network.create_network(
        name="public",
        is_router_external=True,
        provider_network_type="flat",
        provider_physical_network="outside",
    )
    cloud.network.create_subnet(network_id=public.id, ip_version=4, cidr="203.0.113.0/24", is_dhcp_enabled=False)


def main() -> None:
    """Do what the command line says."""
    verb, where = sys.argv[1:]
    if verb == "tables":
        tables(where)
        return
    clouds = Path(where) / "clouds.yaml"
    cloud = openstack.config.OpenStackConfig(config_files=[str(clouds)]).get_one("admin")
    connection = openstack.connection.Connection(config=cloud)
    if verb == "accounts":
        accounts(connection, Path(where))
    else:
        cloud_things(connection)


main()
