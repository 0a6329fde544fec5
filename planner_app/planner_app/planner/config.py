"""The configuration of one planner, a YAML file that the role `planner` writes."""

import ipaddress
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, IPvAnyNetwork, PositiveInt, model_validator


def _is_absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def _is_host(host: str) -> str:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", host):
            raise ValueError("must be an address or a host name") from None
    return host


def _is_positive(duration: timedelta) -> timedelta:
    if duration <= timedelta(0):
        raise ValueError("must be longer than nothing")
    return duration


AbsolutePath = Annotated[Path, AfterValidator(_is_absolute)]
Duration = Annotated[timedelta, AfterValidator(_is_positive)]
Share = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(_Section):
    """Where the service listens."""

    host: Annotated[str, AfterValidator(_is_host)]
    port: Annotated[int, Field(ge=1, le=65535)]


class Quota(_Section):
    """What all jobs of the platform may hold together."""

    cores: PositiveInt
    memory_gib: PositiveInt
    disc_gb: Annotated[int, Field(ge=0)]


class Limits(_Section):
    """What one job may ask for, and how many jobs there may be at once."""

    cores: PositiveInt
    memory_gib: PositiveInt
    walltime: Duration
    jobs: PositiveInt


class Offers(_Section):
    """How long an offer holds its reservation, how far ahead is looked where a request names no start, and so on."""

    expire_after: Duration = timedelta(seconds=60)
    start_window: Annotated[timedelta, Field(ge=timedelta(0))] = timedelta(hours=1)
    snapshot_age: Annotated[timedelta, Field(ge=timedelta(0))] = timedelta(seconds=30)
    """While the platform does not answer, offers are made from what it said last, if that is no older."""
    share: Share = 0.5
    """What one client's outstanding offers may hold of the quota; its first may hold more."""
    shares: dict[str, Share] = {}
    """The same for some clients, by name: one that asks for many people needs more."""
    keep_keys: Duration = timedelta(hours=24)
    """How long an Idempotency-Key is remembered."""


class Storage(_Section):
    """Directories on the shared storage."""

    root: AbsolutePath
    data: AbsolutePath
    jobs: AbsolutePath


class Staging(_Section):
    """What may be fetched from http(s) locations for a session before its job starts."""

    max_bytes: Annotated[int, Field(ge=0)] = 10 * 10**9
    """Of one session's data together; 0 fetches nothing."""
    timeout: Duration = timedelta(minutes=10)
    """For one session's data together."""
    redirects: Annotated[int, Field(ge=0, le=20)] = 5
    allow: list[IPvAnyNetwork] = []
    """Networks to fetch from beside the public internet; whoever may ask the planner then reaches all in them."""


class Slurm(_Section):
    """The account, used by the service's own unix user."""

    account: Name
    partition: str
    disc: bool = True
    """Whether Slurm counts discs (gres/disk); else the planner's ledger alone does."""


class Kubernetes(_Section):
    """The namespace and how to reach it."""

    credentials_file: AbsolutePath
    """JSON with `server`, `ca` (PEM) and `token`."""
    namespace: Name
    claim: Name
    allocation_ratio: Annotated[float, Field(ge=1)] = 1
    """Pods request their limits divided by this, as OpenStack Nova's cpu_allocation_ratio."""
    pull: bool = False
    """Whether the cluster pulls images from a registry; else its nodes hold them."""
    uid: Annotated[int, Field(gt=0)]


class PlannerConfig(_Section):
    """Everything one planner knows of its virtual platform."""

    name: Name
    kind: Literal["slurm", "kubernetes"]
    listen: Listen
    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+(/[^\s]*[^\s/])?$")]
    """As clients reach the service; no slash at the end."""
    database: str
    """SQLAlchemy URL of the ledger."""
    quota: Quota
    limits: Limits
    costs: dict[Name, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}
    """Per core-hour."""
    metrics: dict[Name, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}
    offers: Offers = Offers()
    observe_every: Duration = timedelta(seconds=2)
    storage: Storage
    staging: Staging = Staging()
    images_file: AbsolutePath
    tokens_file: AbsolutePath
    drain_file: AbsolutePath | None = None
    """While it is there the planner makes no offers; see `drain`."""
    slurm: Slurm | None = None
    kubernetes: Kubernetes | None = None

    @model_validator(mode="after")
    def _section_of_kind(self) -> Self:
        if getattr(self, self.kind) is None:
            raise ValueError(f"{self.kind}: missing, and kind is {self.kind}")
        for key in ("cores", "memory_gib"):
            if getattr(self.limits, key) > getattr(self.quota, key):
                limit, quota = getattr(self.limits, key), getattr(self.quota, key)
                raise ValueError(f"limits.{key}: {limit} is above the quota's {quota}")
        return self


def load_config(path: Path) -> PlannerConfig:
    """Read a configuration file.

    Raises OSError where it cannot be read, yaml.YAMLError where it is no YAML and
    pydantic.ValidationError where a value is wrong.
    """
    return PlannerConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
