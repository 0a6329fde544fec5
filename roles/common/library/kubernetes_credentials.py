#!/usr/bin/python
"""Ansible module: the planners' credentials for their namespaces, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kubernetes_credentials
short_description: Read the planners' tokens of all namespaces
description:
  - Reads the tokens that the cluster made for the service accounts of M(kubernetes_namespaces), with one LIST, and
    waits where it has not made one yet. Changes nothing. Use it with C(no_log).
options:
  kubeconfig:
    description: How the cluster is reached.
    type: path
    required: true
  context:
    description: Its context; the current one where empty.
    type: str
    default: ""
  instance:
    description: The testbed's name.
    type: str
    required: true
  namespaces:
    description: Names of the namespaces.
    type: list
    elements: str
    required: true
  timeout:
    description: Seconds after which a token that is not there is an error; in check mode none is waited for.
    type: int
    default: 15
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Read the planners' tokens
  kubernetes_credentials: {kubeconfig: "{{ state }}/kubeconfig", instance: caesar, namespaces: [k8s-namespace-001]}
  register: role_credentials
  no_log: true
"""

RETURN = r"""
credentials:
  description: For each namespace the API server's address, its authority as PEM, and the token.
  type: dict
  sample: {k8s-namespace-001: {server: "https://10.89.0.12:6443", ca: "-----BEGIN ...", token: "..."}}
  returned: always
"""

import base64
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.kubernetes_api import ACCESS_OPTIONS, Api, run_module
from ansible.module_utils.namespace_objects import KINDS, TOKEN, selector


def read_credentials(api: Api, instance: str, namespaces: list[str]) -> dict[str, dict[str, str]]:
    """The credentials of those namespaces that have them; raises ApiError."""
    found = {}
    for secret in api.list_all(KINDS["Secret"].path(), selector(instance), TOKEN):
        namespace, data = secret["metadata"]["namespace"], secret.get("data") or {}
        if secret["metadata"]["name"] == TOKEN and namespace in namespaces and data.get("token"):
            found[namespace] = {
                "server": api.access.server,
                "ca": base64.b64decode(data["ca.crt"]).decode(),
                "token": base64.b64decode(data["token"]).decode(),
            }
    return found


def run(api: Api | None, parameters: dict[str, Any], check: bool) -> dict[str, Any]:
    """Give the credentials, as soon as all are there.

    Raises:
        ApiError: where the API server does not answer or refuses.
        ValueError: where a namespace has none in time.
    """
    if api is None:
        return {"changed": False, "credentials": {}}
    deadline = time.monotonic() + parameters["timeout"]
    while True:
        found = read_credentials(api, parameters["instance"], parameters["namespaces"])
        missing = sorted(set(parameters["namespaces"]) - set(found))
        if not missing or check:
            return {"changed": False, "credentials": found}
        if time.monotonic() > deadline:
            raise ValueError(f"no token for the planner of {', '.join(missing)}: run the stage quotas")
        time.sleep(0.2)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ACCESS_OPTIONS
        | {
            "instance": {"type": "str", "required": True},
            "namespaces": {"type": "list", "elements": "str", "required": True},
            "timeout": {"type": "int", "default": 15},
        },
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
