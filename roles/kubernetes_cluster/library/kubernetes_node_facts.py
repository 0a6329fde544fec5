#!/usr/bin/python
"""Ansible module: everything that the role must know of a node, in one call that changes nothing."""

# ruff: noqa: E402 - Ansible reads the documentation blocks before the imports.

from __future__ import annotations

DOCUMENTATION = r"""
module: kubernetes_node_facts
short_description: What a Kubernetes node has, lacks and allows
description:
  - Reads the node's kernel interface, packages, programs and images, and asks its API server, where there is one,
    whether node and name service are ready.
  - Changes nothing.
options:
  packages:
    description: Debian packages that the node needs.
    type: list
    elements: str
    default: []
  images:
    description: Names of images that containerd must have.
    type: list
    elements: str
    default: []
  key:
    description: The programs' version, as build.py names it.
    type: str
    required: true
  directory:
    description: Where the programs lie, each version under its key.
    type: path
    required: true
  node:
    description: The node's name in Kubernetes.
    type: str
    required: true
  joins:
    description: Whether the node has joined a control plane on another machine; it has no word on CoreDNS then.
    type: bool
    default: false
  wait:
    description: Seconds to wait until node and name service are ready; where they are not by then, the module fails.
    type: int
    default: 0
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: See what the node has
  kubernetes_node_facts: {key: "{{ key }}", directory: /opt/kubernetes, node: kube}
  register: role_node
"""

RETURN = r"""
cgroups: {description: "v1, hybrid or v2.", type: str, returned: always}
open_files: {description: The hard limit of open files of a process here., type: int, returned: always}
oom_adjustable: {description: Whether a process here may lower its oom_score_adj., type: bool, returned: always}
missing_packages: {description: Those of O(packages) that are not installed., type: list, returned: always}
unpacked: {description: Whether the programs of O(key) are there., type: bool, returned: always}
imported: {description: Whether containerd has the images of O(key)., type: bool, returned: always}
initialised: {description: Whether kubeadm init or join was done to its end., type: bool, returned: always}
authority_sha256: {description: Checksum of the cluster's authority or nothing., type: str, returned: always}
version: {description: The control plane's version; empty on other nodes., type: str, returned: always}
kubeconfigs: {description: Names of the kubeconfigs in /etc/kubernetes., type: list, returned: always}
admin_sha256: {description: Checksum of admin.conf; empty where there is none., type: str, returned: always}
ready: {description: "Whether API server, node and CoreDNS are ready.", type: bool, returned: always}
state: {description: The reason why they are not., type: str, returned: always}
certificate_days: {description: Days until the API server's certificate ends or -1., type: int, returned: always}
"""

import base64
import hashlib
import json
import re
import resource
import shutil
import ssl
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

CAP_SYS_RESOURCE = 24
KUBERNETES = Path("/etc/kubernetes")
NOT_INITIALISED = "kubeadm init or join has not been done"
CONTAINERD_STATE = Path("/var/lib/containerd")


def cgroups(root: Path = Path("/sys/fs/cgroup")) -> str:
    """Which version of control groups systemd and containers here work with.

    On a hybrid host the controllers are those of v1, with an empty v2 hierarchy beside them.
    """
    if (root / "cgroup.controllers").exists():
        return "v2"
    return "hybrid" if (root / "unified" / "cgroup.procs").exists() else "v1"


def has_capability(number: int, status: str) -> bool:
    """Whether /proc/self/status names the capability as one that a process here can have at most."""
    found = re.search(r"^CapBnd:\s+([0-9a-f]+)$", status, re.MULTILINE)
    return bool(found and int(found.group(1), 16) >> number & 1)


def missing_packages(wanted: list[str], report: str) -> list[str]:
    """Those of `wanted` that dpkg-query (lines `package status`) does not call installed."""
    have = {line.split()[0] for line in report.splitlines() if line.endswith(" installed")}
    return [package for package in wanted if package not in have]


class Api:
    """The API server, asked with the certificates of a kubeconfig that kubeadm wrote: one of each key.

    admin.conf holds its certificate, kubelet.conf names the file, which the kubelet renews.
    """

    def __init__(self, kubeconfig: str) -> None:
        def named(key: str) -> str | None:
            found = re.search(rf"^\s*{key}: (\S+)$", kubeconfig, re.MULTILINE)
            return found.group(1) if found else None

        def value(key: str) -> str:
            found = named(key)
            if found is None:
                raise ValueError(f"the kubeconfig has no {key}")
            return found

        self.server = value("server")
        authority = base64.b64decode(value("certificate-authority-data")).decode()
        self._context = ssl.create_default_context(cadata=authority)
        if (held := named("client-certificate")) is not None:
            self._context.load_cert_chain(held, value("client-key"))
            return
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(base64.b64decode(value("client-certificate-data")))
            pair.write(base64.b64decode(value("client-key-data")))
            pair.flush()
            self._context.load_cert_chain(pair.name)

    def get(self, path: str) -> dict[str, Any]:
        """GET a document; raises OSError where the server does not answer or answers with an error."""
        # kubeadm writes https addresses only.
        request = urllib.request.Request(f"{self.server}{path}", headers={"Accept": "application/json"})  # noqa: S310
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._context)
        )
        with opener.open(request, timeout=5) as reply:
            return dict(json.load(reply))


def not_ready(node: dict[str, Any], dns: dict[str, Any] | None) -> str:
    """The reason why jobs cannot run yet; empty where they can: pure. Without `dns` nothing is said of CoreDNS."""
    conditions = {entry["type"]: entry for entry in node.get("status", {}).get("conditions", [])}
    ready = conditions.get("Ready", {})
    if ready.get("status") != "True":
        return f"the node is not Ready: {ready.get('message') or 'it has not said anything yet'}"
    if dns is not None and not dns.get("status", {}).get("availableReplicas"):
        return "CoreDNS has no ready pod"
    return ""


def control_plane_version(manifest: str) -> str:
    """Read the version of the API server off its static pod."""
    found = re.search(r"^\s*image: \S+/kube-apiserver:(v\S+)$", manifest, re.MULTILINE)
    return found.group(1) if found else ""


def certificate_days(module: AnsibleModule) -> int:
    """Days until the API server's certificate ends."""
    path = KUBERNETES / "pki" / "apiserver.crt"
    if not path.exists():
        return -1
    code, out, _ = module.run_command(["openssl", "x509", "-noout", "-enddate", "-in", str(path)])
    if code != 0 or "=" not in out:
        return -1
    return int((ssl.cert_time_to_seconds(out.strip().split("=", 1)[1]) - time.time()) // 86400)


def readiness(node: str, joins: bool) -> str:
    """Ask the API server for the reason why jobs cannot run yet; a node that joined may ask for itself only."""
    try:
        api = Api((KUBERNETES / ("kubelet.conf" if joins else "admin.conf")).read_text())
        dns = None if joins else api.get("/apis/apps/v1/namespaces/kube-system/deployments/coredns")
        return not_ready(api.get(f"/api/v1/nodes/{node}"), dns)
    except (OSError, ValueError) as error:
        return f"the API server does not answer: {error}"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "default": []},
            "images": {"type": "list", "elements": "str", "default": []},
            "key": {"type": "str", "required": True, "no_log": False},
            "directory": {"type": "path", "required": True},
            "node": {"type": "str", "required": True},
            "joins": {"type": "bool", "default": False},
            "wait": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    report = ""
    if parameters["packages"]:
        # Unknown packages make dpkg-query end with 1 and are told from the others by what it prints.
        form = "--showformat=${Package} ${db:Status-Status}\n"
        _, report, _ = module.run_command(["dpkg-query", "--show", form, *parameters["packages"]])
    missing = missing_packages(parameters["packages"], report)

    imported = (CONTAINERD_STATE / f"imported-{parameters['key']}").exists()
    # A machine made anew has what is on its volumes and no programs yet.
    if imported and parameters["images"] and shutil.which("ctr"):
        code, out, _ = module.run_command(["ctr", "--namespace", "k8s.io", "images", "list", "--quiet"])
        # A containerd that does not run is started further on; what it has, it keeps.
        imported = code != 0 or set(parameters["images"]) <= set(out.split())

    admin = KUBERNETES / "admin.conf"
    own = KUBERNETES / "kubelet.conf" if parameters["joins"] else admin
    initialised = own.exists() and (KUBERNETES / ".initialised").exists()
    authority = KUBERNETES / "pki" / "ca.crt"
    server = KUBERNETES / "manifests" / "kube-apiserver.yaml"
    deadline = time.monotonic() + parameters["wait"]
    state = readiness(parameters["node"], parameters["joins"]) if initialised else NOT_INITIALISED
    while state and parameters["wait"] and not module.check_mode:
        if time.monotonic() > deadline:
            module.fail_json(
                msg=f"not ready after {parameters['wait']} s: {state}; docs/kubernetes.md says where to look"
            )
        time.sleep(1)
        state = readiness(parameters["node"], parameters["joins"])

    module.exit_json(
        changed=False,
        cgroups=cgroups(),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        oom_adjustable=has_capability(CAP_SYS_RESOURCE, Path("/proc/self/status").read_text()),
        missing_packages=missing,
        unpacked=(Path(parameters["directory"]) / parameters["key"]).is_dir(),
        imported=imported,
        initialised=initialised,
        authority_sha256=hashlib.sha256(authority.read_bytes()).hexdigest() if authority.exists() else "",
        version=control_plane_version(server.read_text()) if server.exists() else "",
        kubeconfigs=sorted(path.name for path in KUBERNETES.glob("*.conf")),
        admin_sha256=hashlib.sha256(admin.read_bytes()).hexdigest() if admin.exists() else "",
        ready=not state,
        state=state,
        certificate_days=certificate_days(module),
    )


if __name__ == "__main__":
    main()
