"""The manifests of caesar-rest and its database as Ansible makes them of the roles' templates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.object_sets import parse
from ansible.plugins.filter.core import FilterModule
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.nativetypes import NativeEnvironment

ROLES = Path(__file__).parents[2] / "roles"
Object = dict[str, Any]

MONGODB: Object = {
    "testbed_name": "caesar", "mongodb_namespace": "caesar-rest", "mongodb_secret": "s3cr/t", "mongodb_user": "caesar",
    "mongodb_database": "caesardb", "mongodb_engine": "ferretdb", "mongodb_storage": {"storage_class": ""},
    "mongodb_storage_size": "5Gi", "mongodb_uid": 27017, "mongodb_reference": "r.example.org/ferretdb:1",
    "mongodb_memory": "256Mi", "testbed_storage_root": "/mnt/storage", "groups": {},
}  # fmt: skip
CAESAR_REST: Object = {
    "testbed_name": "caesar", "testbed_storage_root": "/mnt/storage", "caesar_rest_namespace": "caesar-rest",
    "caesar_rest_storage": {"volume": "site-{name}"}, "caesar_rest_key": "k", "caesar_rest_voter_address": "192.0.2.1",
    "caesar_rest_voter_port": 8100, "caesar_rest_reference": "", "caesar_rest_uid": 20000,
    "caesar_rest_clients": ["192.0.2.0/24"], "caesar_rest_node": "",
    "caesar_rest_image": "r.example.org/caesar-rest:1", "caesar_rest_slurm_user": "caesar",
    "caesar_rest_directory": "data/caesar-rest", "caesar_rest_mongo_timeout_ms": 5000,
    "caesar_rest_monitoring_period": 5, "caesar_rest_accounting_period": 60, "caesar_rest_threads": 8,
    "caesar_rest_node_port": 30031, "caesar_rest_database_password": "s3cr/t",
}  # fmt: skip


def render(role: str, template: str, values: Object, own: Sequence[str] = ()) -> list[Object]:
    """The objects of a role's template, which sees the values and those of the role's own variables."""
    # As Ansible sets it up; an undefined variable is an error there, too.
    environment = Environment(
        loader=FileSystemLoader(ROLES / role / "templates"), trim_blocks=True, undefined=StrictUndefined
    )
    environment.filters = FilterModule().filters() | environment.filters
    if own:
        native = NativeEnvironment(undefined=StrictUndefined)
        variables = yaml.safe_load((ROLES / role / "vars" / "main.yml").read_text())
        values = {name: native.from_string(variables[name]).render(values) for name in own} | values
    text = environment.get_template(template).render(values)
    made: list[Object] = parse(text, "caesar")
    return made


def mongodb(**changes: Any) -> list[Object]:
    """The database's."""
    return render("mongodb", "mongodb.yaml.j2", MONGODB | changes, ("mongodb_node",))


def caesar_rest(**changes: Any) -> list[Object]:
    """Those of caesar-rest."""
    own = ("caesar_rest_volume", "caesar_rest_makes_volume")
    return render("caesar_rest", "caesar-rest.yaml.j2", CAESAR_REST | changes, own)
