"""An OpenStack cloud as one testbed sees it: read once for each kind of thing, and do the steps of a plan.

The services' own interfaces are spoken, by openstacksdk's sessions: one request reads a kind of thing, however many.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.module_utils import openstack_plan as op

#: Of the compute service: policies of server groups that may be broken, flavors embedded in servers (Stein, 2019).
MICROVERSION = "2.64"
BLOCK_STORAGE = frozenset({"block-storage", "block-store", "volumev3", "volume"})
THREADS = 8
POLL_SECONDS = 0.5
NETWORK_LIMITS = {
    "network": "networks",
    "subnet": "subnets",
    "router": "routers",
    "port": "ports",
    "floatingip": "floating addresses",
    "security_group": "security groups",
    "security_group_rule": "security group rules",
}
HOST_KEY = "caesar-host-key"


class Failure(Exception):
    """The cloud did not do what it must do."""


class Cloud:
    """One project of a cloud, by the credential of one name in clouds.yaml."""

    def __init__(self, connection: Any, testbed: str) -> None:
        self._connection = connection
        self.testbed = testbed
        self.mark = f"{op.MARK}={testbed}"
        self.own = f"{op.MARK}-{testbed}"
        access = connection.session.auth.get_access(connection.session)
        self.project = access.project_id
        self.roles = frozenset(access.role_names)
        types = {service["type"] for service in access.service_catalog.catalog}
        self.block_storage = bool(types & BLOCK_STORAGE)
        #: Ids by kind and name, of what was read or made.
        self.ids: dict[tuple[str, str], str] = {}
        #: Host key by machine, as the servers' metadata have it.
        self.host_keys: dict[str, str] = {}

    def call(self, service: str, method: str, path: str, body: Any = None, ok: Sequence[int] = ()) -> Any:
        """Ask a service and give its answer.

        Raises:
            Failure: where it says no, with what it says; statuses in `ok` are no failure.
        """
        adapter = getattr(self._connection, service)
        more: dict[str, Any] = {"microversion": MICROVERSION} if service == "compute" else {}
        if body is not None:
            more["json"] = body
        try:
            answer = adapter.request(path, method, raise_exc=False, **more)
        except Exception as error:  # noqa: BLE001 - whatever keystoneauth raises has one meaning here
            raise Failure(f"{service} did not answer to {method} {path}: {error}") from None
        if answer.status_code >= 400 and answer.status_code not in ok:
            raise Failure(f"{service} refused {method} {path} with {answer.status_code}: {said(answer.text)}")
        return answer.json() if answer.content and "json" in answer.headers.get("Content-Type", "") else {}

    def read(self, desired: op.Desired | None = None) -> op.Current:
        """Read what there is; without `desired` only what carries the mark."""
        asked = {
            "servers": ("compute", f"/servers/detail?name=^{self.testbed}-"),
            "key pairs": ("compute", "/os-keypairs"),
            "server groups": ("compute", "/os-server-groups"),
            "networks": ("network", "/networks"),
            "subnets": ("network", "/subnets"),
            "routers": ("network", "/routers"),
            "ports": ("network", f"/ports?project_id={self.project}"),
            "security groups": ("network", f"/security-groups?project_id={self.project}"),
            "floating": ("network", f"/floatingips?project_id={self.project}"),
        }
        if desired is not None:
            asked |= {
                "flavors": ("compute", "/flavors/detail"),
                "limits": ("compute", "/limits"),
                "images": ("image", "/images?limit=500"),
                "quota": ("network", f"/quotas/{self.project}/details"),
            }
            if self.block_storage:
                asked["volumes"] = ("block_storage", "/limits")
        with ThreadPoolExecutor(THREADS) as pool:
            answers = pool.map(lambda what: self.call(what[0], "GET", what[1]), asked.values())
            found = dict(zip(asked, answers, strict=True))
        return self._parsed(found, desired)

    def _parsed(self, found: Mapping[str, Any], desired: op.Desired | None) -> op.Current:
        flavors = {
            flavor["name"]: op.Flavor(flavor["name"], flavor["vcpus"], flavor["ram"], flavor["disk"])
            for flavor in found.get("flavors", {}).get("flavors", [])
        }
        for flavor in found.get("flavors", {}).get("flavors", []):
            self.ids["flavor", flavor["name"]] = flavor["id"]
        images = [image for image in found.get("images", {}).get("images", []) if image["status"] == "active"]
        for image in images:
            self.ids["image", image["name"]] = self.ids["image", image["id"]] = image["id"]
        ours = {kind: self._marked(found[kind][kind]) for kind in ("networks", "subnets", "routers")}
        for kind, things in ours.items():
            if things:
                self.ids[kind[:-1], self.testbed] = things[0]["id"]
        outside = [network for network in found["networks"]["networks"] if network.get("router:external")]
        for network in outside:
            self.ids["outside", network["name"]] = network["id"]
        ports = found["ports"]["ports"]
        router = self.ids.get(("router", self.testbed))
        joined = {ip["subnet_id"] for port in ports if port["device_id"] == router for ip in port["fixed_ips"]}
        groups = self._marked(found["security groups"]["security_groups"])
        names = {group["id"]: short_name(group["name"], self.testbed) for group in groups}
        for ident, name in names.items():
            self.ids["security group", name] = ident
        own_pairs = {pair["keypair"]["name"]: pair["keypair"] for pair in found["key pairs"]["keypairs"]}
        server_groups = {
            group["name"].removeprefix(self.own + "-"): group["id"]
            for group in found["server groups"]["server_groups"]
            if group["name"].startswith(self.own + "-")
        }
        for name, ident in server_groups.items():
            self.ids["server group", name] = ident
        floating = self._marked(found["floating"]["floatingips"])
        return op.Current(
            flavors=flavors,
            images=frozenset(name for kind, name in self.ids if kind == "image"),
            external_networks=frozenset(name for kind, name in self.ids if kind == "outside"),
            key_pairs={name: pair["public_key"] for name, pair in own_pairs.items() if name == self.own},
            networks=tuple(self._thing(network) for network in ours["networks"]),
            subnets=tuple(self._thing(subnet) for subnet in ours["subnets"]),
            routers=tuple(self._thing(router) for router in ours["routers"]),
            joined=frozenset(joined),
            security_groups={
                names[group["id"]]: op.Group(group["id"], self.mark in group["tags"], rules_of(group, names))
                for group in groups
            },
            server_groups=server_groups,
            servers=tuple(self._servers(found["servers"]["servers"], ports, names)),
            floating=tuple(
                op.Floating(one["id"], one["floating_ip_address"], one["port_id"], self.mark in one["tags"])
                for one in sorted(floating, key=lambda one: one["port_id"] is None)
            ),
            limits=limits_of(found, len(own_pairs)) if desired else {},
            block_storage=self.block_storage,
            may_make_flavors="admin" in self.roles,
        )

    def _marked(self, things: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        return [one for one in things if one["description"] == self.mark or self.mark in one["tags"]]

    def _thing(self, thing: Mapping[str, Any]) -> op.Thing:
        return op.Thing(thing["id"], self.mark in thing["tags"])

    def _servers(
        self, servers: Iterable[Mapping[str, Any]], ports: Iterable[Mapping[str, Any]], names: Mapping[str, str]
    ) -> Iterable[op.Server]:
        port_of = {port["device_id"]: port for port in ports}
        for server in servers:
            metadata = server["metadata"]
            if metadata.get(op.MARK) != self.testbed:
                continue
            machine, port = metadata.get(op.MACHINE, server["name"]), port_of.get(server["id"], {})
            self.host_keys[machine] = metadata.get(HOST_KEY, "")
            fixed = [ip["ip_address"] for ip in port.get("fixed_ips", [])]
            yield op.Server(
                id=server["id"],
                machine=machine,
                status=server["status"],
                flavor=server["flavor"]["original_name"],
                groups=metadata.get(op.GROUPS, ""),
                cores=server["flavor"]["vcpus"],
                memory_mib=server["flavor"]["ram"],
                security_groups=frozenset(names.get(one, one) for one in port.get("security_groups", [])),
                address=fixed[0] if fixed else "",
                port=port.get("id", ""),
                fault=(server.get("fault") or {}).get("message", ""),
            )

    # --- Doing ---------------------------------------------------------------------------------------------------

    def tag(self, kind: str, ident: str) -> None:
        """Put the mark on a thing of the network service as a tag, beside those it has."""
        self.call("network", "PUT", f"/{kind}/{ident}/tags/{self.mark}")

    def make(self, kind: str, **values: Any) -> str:
        """Make a thing of the network service, marked; give its id."""
        plural = f"{kind.replace('_', '-')}s"
        body = {kind: {"name": self.testbed, "description": self.mark, **values}}
        if kind == "floatingip":
            del body[kind]["name"]
        ident = str(self.call("network", "POST", f"/{plural}", body)[kind]["id"])
        self.tag(plural, ident)
        return ident

    def wait_for_servers(self, idents: Iterable[str], seconds: float, gone: bool = False) -> None:
        """Wait until servers are active, or gone.

        Raises:
            Failure: where one is in ERROR, or time is over; the message names them.
        """
        waiting, end = set(idents), time.monotonic() + seconds
        while waiting:
            listed = self.call("compute", "GET", f"/servers/detail?name=^{self.testbed}-")["servers"]
            servers = {server["id"]: server for server in listed}
            bad = [server for ident in waiting if (server := servers.get(ident)) and server["status"] == "ERROR"]
            if bad and not gone:
                told = "; ".join(f"{one['name']}: {(one.get('fault') or {}).get('message', 'ERROR')}" for one in bad)
                raise Failure(f"the cloud could not make {told}. The next run makes them anew.")
            waiting = {
                ident
                for ident in waiting
                if (ident in servers if gone else servers.get(ident, {}).get("status") != "ACTIVE")
            }
            if waiting and time.monotonic() > end:
                told = ", ".join(sorted(servers.get(ident, {}).get("name", ident) for ident in waiting))
                raise Failure(f"after {seconds:g} s these are not {'gone' if gone else 'active'}: {told}")
            if waiting:
                time.sleep(POLL_SECONDS)

    def create_server(self, desired: op.Desired, machine: op.Machine, user_data: str, host_key: str) -> str:
        """Ask for a server and give its id; it is being built then."""
        server: dict[str, Any] = {
            "name": f"{self.testbed}-{machine.name}",
            "flavorRef": self.ids["flavor", desired.flavors[machine.size]],
            "key_name": self.own,
            "networks": [{"uuid": self.ids["network", self.testbed]}],
            "security_groups": [
                {"name": self.ids["security group", name]} for name in sorted(op.groups_of(desired, machine))
            ],
            "metadata": {
                op.MARK: self.testbed,
                op.MACHINE: machine.name,
                op.GROUPS: ",".join(sorted(machine.groups)),
                HOST_KEY: host_key,
            },
            "user_data": base64.b64encode(user_data.encode()).decode(),
        }
        image = self.ids["image", desired.image]
        if desired.boot_volumes and self.block_storage:
            server["block_device_mapping_v2"] = [
                {
                    "boot_index": 0,
                    "uuid": image,
                    "source_type": "image",
                    "destination_type": "volume",
                    "volume_size": desired.sizes[machine.size].disc_gb,
                    "delete_on_termination": True,
                }
            ]
        else:
            server["imageRef"] = image
        body: dict[str, Any] = {"server": server}
        apart = next((name for name, members in sorted(desired.apart.items()) if machine.name in members), None)
        if apart is not None:
            body["os:scheduler_hints"] = {"group": self.ids["server group", apart]}
        self.host_keys[machine.name] = host_key
        return str(self.call("compute", "POST", "/servers", body)["server"]["id"])


def said(text: str) -> str:
    """Take the message out of an error's body."""
    try:
        body = json.loads(text)
    except ValueError:
        return text[:300]
    inner = next(iter(body.values()), body) if isinstance(body, dict) else body
    return str(inner.get("message", inner) if isinstance(inner, dict) else inner)[:600]


def short_name(name: str, testbed: str) -> str:
    """Give a security group's short name."""
    return name.removeprefix(f"{testbed}-")


def rules_of(group: Mapping[str, Any], names: Mapping[str, str]) -> dict[op.Rule, str]:
    """Read what a security group lets in."""
    found = {}
    for rule in group["security_group_rules"]:
        if rule["direction"] == "ingress":
            source = names.get(rule["remote_group_id"] or "", rule["remote_group_id"] or "")
            low, high = rule["port_range_min"] or 0, rule["port_range_max"] or 0
            cidr = rule["remote_ip_prefix"] or ""
            found[op.Rule(rule["protocol"] or "any", low, high, cidr, source)] = rule["id"]
    return found


def limits_of(found: Mapping[str, Any], key_pairs: int) -> dict[str, op.Limit]:
    """Read the project's limits and what is used of them."""

    def limit(most: int, used: int) -> op.Limit:
        return op.Limit(None if most < 0 else most, used)

    compute = found["limits"]["limits"]["absolute"]
    limits = {
        "instances": limit(compute["maxTotalInstances"], compute["totalInstancesUsed"]),
        "cores": limit(compute["maxTotalCores"], compute["totalCoresUsed"]),
        "memory in MiB": limit(compute["maxTotalRAMSize"], compute["totalRAMUsed"]),
        "server groups": limit(compute["maxServerGroups"], compute.get("totalServerGroupsUsed", 0)),
        "key pairs": limit(compute["maxTotalKeypairs"], key_pairs),
    }
    for name, shown in NETWORK_LIMITS.items():
        quota = found["quota"]["quota"].get(name)
        if quota:
            limits[shown] = limit(quota["limit"], quota["used"] + quota.get("reserved", 0))
    if "volumes" in found:
        volumes = found["volumes"]["limits"]["absolute"]
        limits["volumes"] = limit(volumes["maxTotalVolumes"], volumes["totalVolumesUsed"])
        limits["volume gigabytes"] = limit(volumes["maxTotalVolumeGigabytes"], volumes["totalGigabytesUsed"])
    return limits


def in_parallel(calls: Iterable[Callable[[], Any]]) -> list[Any]:
    """Do calls at the same time, all of them to their end, and give what they give.

    Raises:
        Failure: the first one's, after all have ended.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(call) for call in calls]
    return [future.result() for future in futures]
