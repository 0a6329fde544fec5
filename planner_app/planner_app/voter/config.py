"""The configuration of the voter, a YAML file that the role `voter` writes."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    SecretStr,
    model_validator,
)

from planner_app.execution_broker.times import parse_duration
from planner_app.voter.policy import Key, Policy


def _is_absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def _is_positive(duration: timedelta) -> timedelta:
    if duration <= timedelta(0):
        raise ValueError("must be longer than nothing")
    return duration


def _read_duration(value: Any) -> Any:
    return parse_duration(value) if isinstance(value, str) else value


AbsolutePath = Annotated[Path, AfterValidator(_is_absolute)]
Duration = Annotated[timedelta, BeforeValidator(_read_duration), AfterValidator(_is_positive)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Url = Annotated[str, Field(pattern=r"^https?://[^\s/]+(/[^\s]*[^\s/])?$")]
User = Annotated[str, Field(pattern=r"^[A-Za-z0-9._@*-]{1,255}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(_Section):
    """Where the service listens."""

    host: str
    port: Annotated[int, Field(ge=1, le=65535)]


class Storage(_Section):
    """Where uploads go on the storage that all platforms see."""

    data: AbsolutePath
    max_upload_bytes: PositiveInt = 2_000_000_000
    keep_free_bytes: Annotated[int, Field(ge=0)] = 500_000_000
    """Uploads are refused where they would leave less than this."""


class Amount(_Section):
    """From min to max; without a max there is no upper end."""

    min: PositiveInt
    max: PositiveInt | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class App(_Section):
    """An application that can be asked for by name, and what it needs where nothing else is said."""

    image: str
    digest: str | None = None
    cores: Amount = Amount(min=1, max=1)
    memory_gib: Amount = Amount(min=1)
    disc_gib: PositiveInt = 1
    duration: Duration
    options: list[str] = []
    """Words of JOB_OPTIONS; a client's own come after them, and the last one wins."""


class BudgetEntry(_Section):
    """What a user may spend in a period; `*` is each user who has no entry of his own for the cost."""

    user: User
    cost: Name
    amount: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    period: Duration


class Slurmrestd(_Section):
    """The three calls of slurmrestd v0.0.36 that caesar-rest makes."""

    key_file: AbsolutePath
    """The key that tokens are signed with (HS256), the same bytes as caesar-rest has; a line break at its end is none
    of it."""
    user: User = "caesar"
    """Whom the tokens are for: caesar-rest's --slurm_user."""
    data: AbsolutePath
    """Where caesar-rest's data are on the shared storage, a directory for each user: its --slurm_datadir."""
    jobs: AbsolutePath
    """Where caesar-rest's jobs are on the shared storage: its --slurm_jobdir."""
    images: dict[str, Name]
    """Which application runs what caesar-rest calls by the path of a Singularity image."""
    attempts: PositiveInt = 3
    """Votes on one job at most, where accepted sessions fail before they start."""
    votes_at_once: PositiveInt = 4
    """Ballots that are held behind the answers at the same time."""
    try_again: Duration = timedelta(seconds=10)
    """Pause before the next vote on a job for which no planner answered, doubled each time."""


class PlannerEntry(_Section):
    """A planner to ask."""

    name: Name
    url: Url
    token: SecretStr


class VoterConfig(_Section):
    """Everything the voter knows."""

    listen: Listen
    url: Url
    database: str
    """SQLAlchemy URL of the ballots."""
    storage: Storage
    deadline: Duration = timedelta(seconds=3)
    """Of the question to all planners; who has not answered by then has no vote."""
    accept_timeout: Duration = timedelta(seconds=5)
    poll_every: Duration = timedelta(seconds=1)
    clock_tolerance: Duration = timedelta(seconds=5)
    policy: str = "default"
    """How to choose where a ballot does not say."""
    policies: dict[Name, str] = {}
    """Names for policies, beside those that every voter knows."""
    references: dict[Key, Positive] = {}
    """What counts as one in a weighted sum that does not say, where the request has no limit of it either."""
    budgets: list[BudgetEntry] = []
    clients_file: AbsolutePath
    """Lines of a client's name and the SHA-256 of its token in hexadecimal digits."""
    planners_file: AbsolutePath
    apps: dict[Name, App]
    slurmrestd: Slurmrestd | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name, text in self.policies.items():
            if name == "default" or name in set(Key):
                raise ValueError(f"policies: {name} is the name of a key")
            try:
                Policy.parse(text)
            except ValueError as error:
                raise ValueError(f"policies.{name}: {error}") from None
        Policy.parse(self.policy, self.policies)
        if self.slurmrestd is not None:
            strangers = sorted(set(self.slurmrestd.images.values()) - set(self.apps))
            if strangers:
                raise ValueError(f"slurmrestd.images: no application {strangers[0]}; there are: {', '.join(self.apps)}")
            if not self.slurmrestd.data.is_relative_to(self.storage.data):
                raise ValueError(f"slurmrestd.data: must lie below {self.storage.data}, where jobs may read")
        return self


class _Planners(_Section):
    planners: list[PlannerEntry]

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [planner.name for planner in self.planners]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"planners named twice: {', '.join(twice)}")
        return self


def load_config(path: Path) -> VoterConfig:
    """Read a configuration file.

    Raises OSError where it cannot be read, yaml.YAMLError where it is no YAML and
    pydantic.ValidationError where a value is wrong.
    """
    return VoterConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def load_planners(path: Path) -> list[PlannerEntry]:
    """Read the list of planners; raises as `load_config`."""
    return _Planners.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))).planners


def load_clients(path: Path) -> dict[str, str]:
    """Read who may use the voter: the name of each client by the digest of its token.

    Raises OSError where the file cannot be read and ValueError that names the line which is no client.
    """
    clients: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"(\S+)\s+([0-9a-f]{64})", line.strip())
        if match is None:
            raise ValueError(f"{path}, line {number}: must be a name and 64 hexadecimal digits")
        clients[match[2]] = match[1]
    return clients
