"""What a testbed on an OpenStack cloud consists of, as it should be and as it is: pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MARK = "caesar-testbed"


@dataclass(frozen=True)
class Size:
    """A size of machines."""

    cores: int
    memory_gib: float
    disc_gb: int


@dataclass(frozen=True)
class Machine:
    """A machine as it should be."""

    name: str
    size: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, order=True)
class Rule:
    """What may come in: protocol and ports (0, 0 for all), from addresses or from another security group."""

    protocol: str
    low: int = 0
    high: int = 0
    cidr: str = ""
    group: str = ""


@dataclass(frozen=True)
class Desired:
    """A testbed's machines on a cloud as they should be."""

    testbed: str
    machines: tuple[Machine, ...]
    sizes: Mapping[str, Size]
    #: Size to the name of the cloud's flavor.
    flavors: Mapping[str, str]
    image: str
    #: The cloud's network from which floating addresses come.
    external_network: str
    cidr: str
    #: The machine that has the floating address, through which all others are reached.
    entry: str
    #: Security group (short name) to what it lets in.
    security_groups: Mapping[str, frozenset[Rule]]
    #: Machines that should be on different hosts, by name of their server group.
    apart: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    policy: str = "soft-anti-affinity"
    public_key: str = ""
    boot_volumes: bool = True
    nameservers: tuple[str, ...] = ()
    #: Machines to install anew although nothing is wrong with them.
    rebuild: frozenset[str] = frozenset()
    #: Machine to the gigabytes of the volume for what must outlive it; none for those that have no state.
    state_gb: Mapping[str, int] = field(default_factory=dict)
    #: Machine to the address that it had, where that is known: its certificates name it.
    addresses: Mapping[str, str] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        """Give what marks this testbed's things."""
        return f"{MARK}={self.testbed}"

    @property
    def own(self) -> str:
        """Give the name of what has no room for a mark."""
        return f"{MARK}-{self.testbed}"


@dataclass(frozen=True)
class Flavor:
    """A flavor of the cloud."""

    name: str
    cores: int
    memory_mib: int
    disc_gb: int


@dataclass(frozen=True)
class Server:
    """A server that carries the mark."""

    id: str
    machine: str
    status: str
    flavor: str
    groups: str = ""
    cores: int = 0
    memory_mib: int = 0
    #: Its security groups, by their short names; of those that are this testbed's.
    security_groups: frozenset[str] = frozenset()
    address: str = ""
    port: str = ""
    fault: str = ""
    #: Whether its disc is a volume.
    volume: bool = False
    #: Ids of its volumes.
    volumes: tuple[str, ...] = ()
    #: Of these those that stay when it is deleted: somebody attached them.
    kept_volumes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Volume:
    """A volume that carries the mark: what must outlive its machine lies on it."""

    id: str
    machine: str
    status: str
    size_gb: int
    #: Ids of the servers that it is attached to.
    servers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Thing:
    """A thing of the network service that carries the mark."""

    id: str
    tagged: bool = True
    #: Of a subnet.
    cidr: str = ""


@dataclass(frozen=True)
class Group:
    """A security group that carries the mark; rule to its id."""

    id: str
    tagged: bool = True
    rules: Mapping[Rule, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Floating:
    """A floating address that carries the mark."""

    id: str
    address: str
    port: str | None
    tagged: bool = True


@dataclass(frozen=True)
class Limit:
    """A limit of the project: how much there may be (None: no limit), and how much there is."""

    limit: int | None
    used: int


@dataclass(frozen=True)
class Current:
    """What the cloud has of a testbed, and what the project may have.

    What is made of nothing else than this testbed's own things is read always. Flavors, images and limits only where
    something is to be made: a run that changes nothing does without.
    """

    flavors: Mapping[str, Flavor] = field(default_factory=dict)
    images: frozenset[str] = frozenset()
    #: What the wanted image asks of a machine.
    image_disc_gb: int = 0
    image_memory_mib: int = 0
    #: Whether the cloud can write an image to the boot volume of a server that is there (Zed, 2022).
    rewrites_volumes: bool = True
    external_networks: frozenset[str] = frozenset()
    #: Name to public key.
    key_pairs: Mapping[str, str] = field(default_factory=dict)
    networks: tuple[Thing, ...] = ()
    subnets: tuple[Thing, ...] = ()
    routers: tuple[Thing, ...] = ()
    #: Ids of the marked subnets that the marked router has an interface in.
    joined: frozenset[str] = frozenset()
    security_groups: Mapping[str, Group] = field(default_factory=dict)
    server_groups: Mapping[str, str] = field(default_factory=dict)
    #: Of the server groups; the cloud cannot change it.
    policies: Mapping[str, str] = field(default_factory=dict)
    servers: tuple[Server, ...] = ()
    floating: tuple[Floating, ...] = ()
    #: Volumes of state.
    volumes: tuple[Volume, ...] = ()
    #: Addresses of ports in the project that are none of these servers'.
    others: frozenset[str] = frozenset()
    limits: Mapping[str, Limit] = field(default_factory=dict)
    #: Id of a volume to its size.
    volume_gb: Mapping[str, int] = field(default_factory=dict)
    block_storage: bool = False
    may_make_flavors: bool = False


@dataclass(frozen=True)
class Step:
    """One thing to do, to what, and why; `data` is what doing it takes."""

    action: str
    subject: str
    why: str
    data: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def shown(self) -> dict[str, str]:
        """Give it for people."""
        return {"action": self.action, "subject": self.subject, "why": self.why}
