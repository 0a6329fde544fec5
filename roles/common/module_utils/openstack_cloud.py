"""An OpenStack cloud as one testbed sees it: read once for each kind of thing, and do the steps of a plan.

The services' own interfaces are spoken, by openstacksdk's sessions: one request reads a kind of thing, however many.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from ansible.module_utils import openstack_answers as oa
from ansible.module_utils import openstack_plan as op

#: Of the compute service: policies of server groups that may be broken, flavors embedded in servers (Stein, 2019).
MICROVERSION = "2.64"
#: And of the one that writes an image to the boot volume of a server that is there (Zed, 2022).
REWRITES_VOLUMES = "2.93"
#: What the compute service does with a server of which it knows the host.
PLACED = frozenset({"networking", "block_device_mapping", "spawning"})
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
BLOCK_STORAGE = frozenset({"block-storage", "block-store", "volumev3", "volume"})
THREADS = 8
POLL_SECONDS = 0.5
POLL_SECONDS_MOST = 2.0
HOST_KEY = "caesar-host-key"


class Failure(Exception):
    """The cloud did not do what it must do."""


class NotMade(Failure):
    """The cloud could not make servers."""

    def __init__(self, why: Mapping[str, str]) -> None:
        told = "".join(f"\n- {name}: {fault}" for name, fault in sorted(why.items()))
        super().__init__(f"the cloud could not make these machines; the next run makes them anew:{told}")
        #: What the cloud says, by machine.
        self.why = dict(why)


class VolumesFailed(Failure):
    """The cloud has volumes in error."""

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__(f"the cloud has these volumes in error: {', '.join(sorted(names.values()))}")
        #: Their ids.
        self.idents = frozenset(names)


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
        #: How many key pairs the user has, of any testbed: they have a limit together.
        self._key_pairs = 0
        #: Kind and id of what was made and has no tag yet.
        self.untagged: list[tuple[str, str]] = []

    def call(
        self,
        service: str,
        method: str,
        path: str,
        body: Any = None,
        ok: Sequence[int] = (),
        version: str = MICROVERSION,
    ) -> Any:
        """Ask a service and give its answer.

        Raises:
            Failure: where it says no, with what it says; statuses in `ok` are no failure.
        """
        adapter = getattr(self._connection, service)
        more: dict[str, Any] = {"microversion": version} if service == "compute" else {}
        if body is not None:
            more["json"] = body
        try:
            answer = adapter.request(path, method, raise_exc=False, **more)
        except Exception as error:  # noqa: BLE001 - whatever keystoneauth raises has one meaning here
            raise Failure(f"{service} did not answer to {method} {path}: {error}") from None
        if answer.status_code >= 400 and answer.status_code not in ok:
            raise Failure(f"{service} refused {method} {path} with {answer.status_code}: {oa.said(answer.text)}")
        return answer.json() if answer.content and "json" in answer.headers.get("Content-Type", "") else {}

    def read(self) -> op.Current:
        """Read what there is of the testbed: one request for each kind of thing, all at the same time."""
        asked = {
            "servers": ("compute", self._servers_path),
            "key pairs": ("compute", "/os-keypairs"),
            "server groups": ("compute", "/os-server-groups"),
            "networks": ("network", "/networks"),
            "subnets": ("network", "/subnets"),
            "routers": ("network", "/routers"),
            "ports": ("network", f"/ports?project_id={self.project}"),
            "security groups": ("network", f"/security-groups?project_id={self.project}"),
            "floating": ("network", f"/floatingips?project_id={self.project}"),
        }
        if self.block_storage:
            asked["volumes"] = ("block_storage", self.volumes_path)
        return self._parsed(self._ask(asked))

    def read_again(self, current: op.Current) -> op.Current:
        """Read once more what machines are reached by: servers, their ports and floating addresses."""
        found = self._ask(
            {
                "servers": ("compute", self._servers_path),
                "ports": ("network", f"/ports?project_id={self.project}"),
                "floating": ("network", f"/floatingips?project_id={self.project}"),
            }
        )
        return replace(
            current,
            servers=tuple(self._servers(found["servers"]["servers"], found["ports"]["ports"], {})),
            floating=self._floating(found["floating"]["floatingips"]),
        )

    def read_offers(self, desired: op.Desired, current: op.Current) -> op.Current:
        """Read beside it what the cloud offers and what the project may have, for what is to be made."""
        asked = {
            "flavors": ("compute", "/flavors/detail"),
            "limits": ("compute", "/limits"),
            "images": ("image", f"/images?name={quote(desired.image)}"),
            "quota": ("network", f"/quotas/{self.project}/details"),
        }
        if UUID.fullmatch(desired.image):
            asked["image"] = ("image", f"/images/{desired.image}")
        if self.block_storage:
            asked["volumes"] = ("block_storage", "/limits")
            if current.servers:
                asked["sizes"] = ("block_storage", "/volumes/detail")
        found = self._ask(asked)
        flavors = {
            flavor["name"]: op.Flavor(flavor["name"], flavor["vcpus"], flavor["ram"], flavor["disk"])
            for flavor in found["flavors"]["flavors"]
        }
        for flavor in found["flavors"]["flavors"]:
            self.ids["flavor", flavor["name"]] = flavor["id"]
        images = [image for image in found["images"]["images"] if image["status"] == "active"]
        if found.get("image", {}).get("status") == "active":
            images.append(found["image"])
        # Of several that have the name the newest.
        image = max(images, key=lambda one: str(one.get("created_at", "")), default=None)
        names = {desired.image} if image else set()
        if image:
            self.ids["image", desired.image] = image["id"]
        else:
            listed = self.call("image", "GET", "/images?limit=1000")["images"]
            names = {one["name"] for one in listed if one["status"] == "active" and one["name"]}
        return replace(
            current,
            flavors=flavors,
            images=frozenset(names),
            image_disc_gb=(image or {}).get("min_disk") or 0,
            image_memory_mib=(image or {}).get("min_ram") or 0,
            rewrites_volumes=bool(desired.rebuild) and self._rewrites_volumes(),
            limits=oa.limits_of(found, self._key_pairs),
            volume_gb={one["id"]: one["size"] for one in found.get("sizes", {}).get("volumes", [])},
        )

    @property
    def _servers_path(self) -> str:
        return f"/servers/detail?name=^{self.testbed}-"

    @property
    def volumes_path(self) -> str:
        """Give how volumes of state are asked for."""
        # Those with the mark alone: a list that is cut off where it is long would hide one.
        return f"/volumes/detail?metadata={quote(json.dumps({op.MARK: self.testbed}))}"

    def _ask(self, asked: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
        with ThreadPoolExecutor(THREADS) as pool:
            # What is asked for by its id may be missing: an image's name may look like one.
            answers = pool.map(
                lambda item: self.call(item[1][0], "GET", item[1][1], ok=(404,) if item[0] == "image" else ()),
                asked.items(),
            )
            return dict(zip(asked, answers, strict=True))

    def _rewrites_volumes(self) -> bool:
        """Tell whether the compute service writes images to boot volumes of servers that are there."""
        data = self._connection.compute.get_endpoint_data()
        newest = data.max_microversion if data else None
        return bool(newest and tuple(newest) >= tuple(int(part) for part in REWRITES_VOLUMES.split(".")))

    def _parsed(self, found: Mapping[str, Any]) -> op.Current:
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
        names = {group["id"]: oa.short_name(group["name"], self.testbed) for group in groups}
        for ident, name in names.items():
            self.ids["security group", name] = ident
        pairs = {pair["keypair"]["name"]: pair["keypair"] for pair in found["key pairs"]["keypairs"]}
        self._key_pairs = len(pairs)
        apart = {
            group["name"].removeprefix(self.own + "-"): group
            for group in found["server groups"]["server_groups"]
            if group["name"].startswith(self.own + "-")
        }
        for name, group in apart.items():
            self.ids["server group", name] = group["id"]
        servers = tuple(self._servers(found["servers"]["servers"], ports, names))
        idents = {server.id for server in servers}
        volumes = oa.volumes_of(found["volumes"]["volumes"], self.testbed) if self.block_storage else ()
        self.ids |= {("volume", volume.machine): volume.id for volume in volumes}
        return op.Current(
            external_networks=frozenset(name for kind, name in self.ids if kind == "outside"),
            key_pairs={name: pair["public_key"] for name, pair in pairs.items() if name == self.own},
            networks=tuple(self._thing(network) for network in ours["networks"]),
            subnets=tuple(self._thing(subnet) for subnet in ours["subnets"]),
            routers=tuple(self._thing(router) for router in ours["routers"]),
            joined=frozenset(joined),
            security_groups={
                names[group["id"]]: op.Group(group["id"], self.mark in group["tags"], oa.rules_of(group, names))
                for group in groups
            },
            server_groups={name: group["id"] for name, group in apart.items()},
            policies={name: group["policy"] for name, group in apart.items()},
            servers=servers,
            volumes=volumes,
            others=frozenset(
                ip["ip_address"] for port in ports if port["device_id"] not in idents for ip in port["fixed_ips"]
            ),
            floating=self._floating(found["floating"]["floatingips"]),
            block_storage=self.block_storage,
            may_make_flavors="admin" in self.roles,
        )

    def _floating(self, addresses: Iterable[dict[str, Any]]) -> tuple[op.Floating, ...]:
        ours = sorted(self._marked(addresses), key=lambda one: one["port_id"] is None)
        return tuple(
            op.Floating(one["id"], one["floating_ip_address"], one["port_id"], self.mark in one["tags"]) for one in ours
        )

    def _marked(self, things: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        return [one for one in things if one["description"] == self.mark or self.mark in one["tags"]]

    def _thing(self, thing: Mapping[str, Any]) -> op.Thing:
        return op.Thing(thing["id"], self.mark in thing["tags"], str(thing.get("cidr", "")))

    def _servers(
        self, servers: Iterable[Mapping[str, Any]], ports: Iterable[Mapping[str, Any]], names: Mapping[str, str]
    ) -> Iterable[op.Server]:
        port_of = {port["device_id"]: port for port in ports}
        for server in servers:
            metadata = server["metadata"]
            if metadata.get(op.MARK) != self.testbed:
                continue
            volumes = server.get("os-extended-volumes:volumes_attached", [])
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
                volume=not server.get("image"),
                volumes=tuple(one["id"] for one in volumes),
                kept_volumes=tuple(one["id"] for one in volumes if not one.get("delete_on_termination")),
            )

    # --- Doing ---------------------------------------------------------------------------------------------------

    def tag(self, kind: str, ident: str) -> None:
        """Put the mark on a thing of the network service as a tag, beside those it has."""
        self.call("network", "PUT", f"/{kind}/{ident}/tags/{self.mark}")

    def make(self, kind: str, **values: Any) -> str:
        """Make a thing of the network service, with the mark in its description; give its id. The tag comes later."""
        plural = f"{kind.replace('_', '-')}s"
        body = {kind: {"name": self.testbed, "description": self.mark, **values}}
        if kind == "floatingip":
            del body[kind]["name"]
        ident = str(self.call("network", "POST", f"/{plural}", body)[kind]["id"])
        self.untagged.append((plural, ident))
        return ident

    def wait_for_servers(self, idents: Iterable[str], seconds: float, gone: bool = False) -> None:
        """Wait until servers are active and nothing is done to them, or gone.

        Raises:
            NotMade: where one is in ERROR.
            Failure: where time is over; the message names them.
        """
        waiting, end = set(idents), time.monotonic() + seconds
        while waiting:
            asked = time.monotonic()
            servers = {server["id"]: server for server in self.call("compute", "GET", self._servers_path)["servers"]}
            # All of them to their end: what is known of one says little of the others.
            failed = {ident for ident in waiting if not gone and servers.get(ident, {}).get("status") == "ERROR"}
            left = {ident for ident in waiting if (ident in servers if gone else not oa.active(servers.get(ident, {})))}
            if failed and failed == left:
                raise NotMade({self._machine(servers[one]): oa.fault_of(servers[one]) for one in failed})
            waiting = left
            if waiting and time.monotonic() > end:
                if failed:
                    late = dict.fromkeys(left, f"after {seconds:g} s it is not active")
                    late |= {one: oa.fault_of(servers[one]) for one in failed}
                    raise NotMade({self._machine(servers[one]): why for one, why in late.items() if one in servers})
                told = ", ".join(sorted(servers.get(ident, {}).get("name", ident) for ident in waiting))
                raise Failure(f"after {seconds:g} s these are not {'gone' if gone else 'active'}: {told}")
            if waiting:
                # A cloud that takes long to answer has enough to do.
                time.sleep(min(max(POLL_SECONDS, time.monotonic() - asked), POLL_SECONDS_MOST))

    def is_placed(self, ident: str, seconds: float) -> bool:
        """Wait until a server that is being built has a host; false where it got none."""
        end = time.monotonic() + seconds
        while True:
            server = self.call("compute", "GET", f"/servers/{ident}")["server"]
            if server["status"] != "BUILD" or server.get("OS-EXT-STS:task_state") in PLACED:
                return bool(server["status"] != "ERROR")
            if time.monotonic() > end:
                raise Failure(f"after {seconds:g} s there is no host for {server['name']}")
            time.sleep(POLL_SECONDS)

    def _machine(self, server: Mapping[str, Any]) -> str:
        return str(server["metadata"].get(op.MACHINE, server["name"]))

    def create_server(
        self, desired: op.Desired, machine: op.Machine, address: str, user_data: str, host_key: str
    ) -> str:
        """Ask for a server and give its id; it is being built then. Without `address` the cloud chooses one."""
        network = {"uuid": self.ids["network", self.testbed]}
        server: dict[str, Any] = {
            "name": f"{self.testbed}-{machine.name}",
            "flavorRef": self.ids["flavor", desired.flavors[machine.size]],
            "key_name": self.own,
            "networks": [network | ({"fixed_ip": address} if address else {})],
            "security_groups": [
                {"name": self.ids["security group", name]} for name in sorted(op.groups_of(desired, machine))
            ],
            "metadata": self._metadata(machine, host_key),
            "user_data": base64.b64encode(user_data.encode()).decode(),
        }
        image = self.ids["image", desired.image]
        disc: dict[str, Any] = {"boot_index": 0, "uuid": image, "source_type": "image", "delete_on_termination": True}
        on_volume = desired.boot_volumes and self.block_storage
        if on_volume:
            size = {"volume_size": desired.sizes[machine.size].disc_gb}
            server["block_device_mapping_v2"] = [disc | size | {"destination_type": "volume"}]
        else:
            server["imageRef"] = image
        if self.block_storage and machine.name in desired.state_gb:
            # The list names all discs, that of the flavor too.
            discs = server.setdefault("block_device_mapping_v2", [disc | {"destination_type": "local"}])
            state = {"uuid": self.ids["volume", machine.name], "source_type": "volume", "destination_type": "volume"}
            discs.append(state | {"boot_index": -1, "delete_on_termination": False})
        body: dict[str, Any] = {"server": server}
        apart = op.apart_of(desired, machine)
        if apart is not None:
            body["os:scheduler_hints"] = {"group": self.ids["server group", apart]}
        self.host_keys[machine.name] = host_key
        return str(self.call("compute", "POST", "/servers", body)["server"]["id"])

    def rebuild_server(self, desired: op.Desired, step: op.Step, user_data: str, host_key: str) -> None:
        """Ask for a server to be installed anew; it keeps id, port, addresses and volumes other than its disc."""
        body = {
            "imageRef": self.ids["image", desired.image],
            "key_name": self.own,
            "metadata": self._metadata(step.data["machine"], host_key),
            "user_data": base64.b64encode(user_data.encode()).decode(),
        }
        # With an older version the compute service would take a boot volume for written, and leave it as it is.
        version = REWRITES_VOLUMES if step.data["volume"] else MICROVERSION
        self.host_keys[step.subject] = host_key
        self.call("compute", "POST", f"/servers/{step.data['id']}/action", {"rebuild": body}, version=version)

    def _metadata(self, machine: op.Machine, host_key: str) -> dict[str, str]:
        return {
            op.MARK: self.testbed,
            op.MACHINE: machine.name,
            op.GROUPS: ",".join(sorted(machine.groups)),
            HOST_KEY: host_key,
        }


def in_parallel(calls: Iterable[Callable[[], Any]]) -> list[Any]:
    """Do calls at the same time, all of them to their end, and give what they give.

    Raises:
        Failure: the first one's, after all have ended.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(call) for call in calls]
    return [future.result() for future in futures]
