"""Models of what clients send and planners answer, told apart by `kind`.

A component's model is chosen by its kind (see `_by_kind`), so the models themselves take any `kind`.

Known kinds are strict: a field that the schema does not have is refused, so that a misspelt limit is not
silently no limit. A reader of other services' replies may be lenient with `model_validate(..., extra="ignore")`.
Kinds that are not known are kept as `UnknownKind`: it is for the reader to say no to them, with a reason.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar
from uuid import UUID

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    StrictBool,
    StrictInt,
    StringConstraints,
    Tag,
    TypeAdapter,
    WithJsonSchema,
    model_validator,
)

from planner_app.execution_broker import kinds
from planner_app.execution_broker.times import (
    DURATION_PATTERN,
    INSTANT_PATTERN,
    INTERVAL_PATTERN,
    Interval,
    format_duration,
    format_instant,
    format_interval,
    parse_duration,
    parse_instant,
    parse_interval,
)


class Phase(StrEnum):
    """Where a session stands.

    AVAILABLE is a session whose job runs; RUNNING exists in the schema and is never set, as other
    implementations do.
    """

    INITIAL = "INITIAL"
    OFFERED = "OFFERED"
    ACCEPTED = "ACCEPTED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    WAITING = "WAITING"
    PREPARING = "PREPARING"
    AVAILABLE = "AVAILABLE"
    RUNNING = "RUNNING"
    RELEASING = "RELEASING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether no other phase can follow."""
        return self in _ENDED


_ENDED = frozenset({Phase.REJECTED, Phase.EXPIRED, Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED})

ComponentPhase = Literal[
    "INITIALIZING", "WAITING", "PREPARING", "AVAILABLE", "RUNNING", "RELEASING", "COMPLETED", "FAILED", "CANCELLED"
]


_T = TypeVar("_T")


def _reader(kind: type[_T], parse: Callable[[str], _T], pattern: str) -> PlainValidator:
    def read(value: object) -> _T:
        if isinstance(value, kind):
            return value
        if not isinstance(value, str):
            raise ValueError("must be a string")
        return parse(value)

    return PlainValidator(read, json_schema_input_type=Annotated[str, Field(pattern=pattern)])


Instant = Annotated[
    datetime, _reader(datetime, parse_instant, INSTANT_PATTERN), PlainSerializer(format_instant, return_type=str)
]
Duration = Annotated[
    timedelta, _reader(timedelta, parse_duration, DURATION_PATTERN), PlainSerializer(format_duration, return_type=str)
]
TimeInterval = Annotated[
    Interval, _reader(Interval, parse_interval, INTERVAL_PATTERN), PlainSerializer(format_interval, return_type=str)
]
Long = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Uri = Annotated[str, StringConstraints(max_length=2000)]


class Model(BaseModel):
    """Base of all: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")

    def document(self) -> dict[str, Any]:
        """Give the plain values to encode, without what is absent."""
        return self.model_dump(mode="json", exclude_none=True)


class UnknownKind(BaseModel):
    """A component of a kind that is not known here, as it came."""

    model_config = ConfigDict(extra="allow")

    kind: Uri


def _is(kind: str) -> WithJsonSchema:
    """Says to readers of the JSON schema what `_by_kind` does: this model is of one kind."""
    return WithJsonSchema({"const": kind, "type": "string"})


def _by_kind(*known: str) -> Discriminator:
    names = frozenset(known)

    def tag(value: object) -> str:
        kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
        return kind if isinstance(kind, str) and kind in names else "unknown"

    return Discriminator(tag)


def _other_than(*known: str) -> WithJsonSchema:
    """Says the same of a kind that is none of those known."""
    kind = {"type": "string", "maxLength": 2000, "not": {"enum": list(known)}}
    return WithJsonSchema(
        {
            "type": "object",
            "description": "A kind that is not known here",
            "properties": {"kind": kind},
            "required": ["kind"],
        }
    )


Unknown = Annotated[UnknownKind, Tag("unknown")]


class Message(Model):
    """Something the service says about a component: a template, its values, and both together."""

    kind: Uri | None = None
    time: Instant | None = None
    level: Literal["DEBUG", "WARN", "ERROR", "INFO", "OTHER"] | None = None
    template: str | None = None
    values: dict[str, str] | None = None
    message: str | None = None


class StringValueOption(Model):
    """A string that the client may set."""

    kind: Literal["uri:string-value-option"] = "uri:string-value-option"
    path: str
    pattern: str | None = None


class EnumValueOption(Model):
    """A choice that the client may make."""

    kind: Literal["uri:enum-value-option"] = "uri:enum-value-option"
    path: str
    values: list[str]


class _IntegerOption(Model):
    path: str
    min: Long | None = None
    max: Long | None = None
    units: str | None = None


class IntegerValueOption(_IntegerOption):
    """A whole number that the client may set."""

    kind: Literal["uri:integer-value-option"] = "uri:integer-value-option"


class IntegerDeltaOption(_IntegerOption):
    """A whole number that the client may raise or lower."""

    kind: Literal["uri:integer-delta-option"] = "uri:integer-delta-option"


_OPTIONS = (
    kinds.STRING_VALUE_OPTION,
    kinds.ENUM_VALUE_OPTION,
    kinds.INTEGER_VALUE_OPTION,
    kinds.INTEGER_DELTA_OPTION,
)
Option = Annotated[
    Annotated[StringValueOption, Tag(kinds.STRING_VALUE_OPTION)]
    | Annotated[EnumValueOption, Tag(kinds.ENUM_VALUE_OPTION)]
    | Annotated[IntegerValueOption, Tag(kinds.INTEGER_VALUE_OPTION)]
    | Annotated[IntegerDeltaOption, Tag(kinds.INTEGER_DELTA_OPTION)]
    | Annotated[Unknown, _other_than(*_OPTIONS)],
    _by_kind(*_OPTIONS),
]


class Meta(Model):
    """Who a component is and what is said about it."""

    uuid: UUID | None = None
    name: Annotated[str, StringConstraints(max_length=200)] | None = None
    url: Uri | None = None
    description: str | None = None
    created: Instant | None = None
    modified: Instant | None = None
    messages: list[Message] | None = None
    options: list[Option] | None = None


class _MinMaxNumber(Model):
    type: Uri | None = None
    description: str | None = None
    min: Number | None = None
    max: Number | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is above max")
        return self


class SimpleCost(_MinMaxNumber):
    """A cost: at most `max` where a client asks, between both where a service offers."""

    kind: Annotated[str, _is(kinds.SIMPLE_COST)] = kinds.SIMPLE_COST


class SimpleMetric(_MinMaxNumber):
    """A property: at least `min` where a client asks, between both where a service offers."""

    kind: Annotated[str, _is(kinds.SIMPLE_METRIC)] = kinds.SIMPLE_METRIC


Cost = Annotated[
    Annotated[SimpleCost, Tag(kinds.SIMPLE_COST)] | Annotated[Unknown, _other_than(kinds.SIMPLE_COST)],
    _by_kind(kinds.SIMPLE_COST),
]
Metric = Annotated[
    Annotated[SimpleMetric, Tag(kinds.SIMPLE_METRIC)] | Annotated[Unknown, _other_than(kinds.SIMPLE_METRIC)],
    _by_kind(kinds.SIMPLE_METRIC),
]


class InstantAndDuration(Model):
    """From an instant on."""

    start: Instant | None = None
    duration: Duration | None = None


class IntervalAndDuration(Model):
    """From some instant of an interval on."""

    start: TimeInterval | None = None
    duration: Duration | None = None


class Schedule(Model):
    """When a session or component is prepared, can be used and is released."""

    preparing: InstantAndDuration | None = None
    available: IntervalAndDuration | None = None
    releasing: InstantAndDuration | None = None


class Component(Model):
    """What all components have."""

    meta: Meta | None = None
    costs: list[Cost] | None = None
    metrics: list[Metric] | None = None


class LifecycleComponent(Component):
    """A component with phases of its own."""

    phase: ComponentPhase | None = None
    schedule: Schedule | None = None


class ImagePlatform(Model):
    """What an image was built for."""

    architecture: str = "amd64"
    os: str = "linux"


class ContainerImage(Model):
    """Where an image is to be had, and what it must be."""

    locations: list[Uri] | None = None
    digest: Uri | None = None
    platform: ImagePlatform | None = None


class InternalPort(Model):
    """A port of the container."""

    port: StrictInt | None = None


class ExternalPort(Model):
    """Where a port of the container is reached."""

    port: StrictInt | None = None
    addresses: list[str] | None = None


class NetworkPort(Model):
    """A port to publish."""

    access: StrictBool | None = None
    internal: InternalPort | None = None
    external: ExternalPort | None = None
    protocol: str | None = None
    path: str | None = None


class Network(Model):
    """Ports to publish."""

    ports: list[NetworkPort] | None = None


VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]


class DockerContainer(LifecycleComponent):
    """A container image and how to run it."""

    kind: Annotated[str, _is(kinds.DOCKER_CONTAINER)] = kinds.DOCKER_CONTAINER
    image: ContainerImage | None = None
    privileged: StrictBool | None = None
    command: list[str] | None = None
    entrypoint: str | None = None
    environment: dict[VariableName, str] | None = None
    network: Network | None = None


class SingularityContainer(LifecycleComponent):
    """A Singularity or Apptainer image."""

    kind: Annotated[str, _is(kinds.SINGULARITY_CONTAINER)] = kinds.SINGULARITY_CONTAINER
    location: Uri | None = None


Executable = Annotated[
    Annotated[DockerContainer, Tag(kinds.DOCKER_CONTAINER)]
    | Annotated[SingularityContainer, Tag(kinds.SINGULARITY_CONTAINER)]
    | Annotated[Unknown, _other_than(kinds.DOCKER_CONTAINER, kinds.SINGULARITY_CONTAINER)],
    _by_kind(kinds.DOCKER_CONTAINER, kinds.SINGULARITY_CONTAINER),
]


class _Amount(Model):
    @model_validator(mode="after")
    def _in_order(self) -> Self:
        low, high = getattr(self, "min", None), getattr(self, "max", None)
        if low is not None and high is not None and low > high:
            raise ValueError(f"min {low} is above max {high}")
        return self


class PositiveAmount(_Amount):
    """From min to max, both above zero: cores, or memory in GiB."""

    min: Annotated[Long, Field(gt=0)] | None = None
    max: Annotated[Long, Field(gt=0)] | None = None


class StorageSize(_Amount):
    """From min to max GiB of disc."""

    min: Annotated[Long, Field(ge=0)] | None = None
    max: Annotated[Long, Field(ge=0)] | None = None


class SimpleVolumeMount(Component):
    """A data or storage resource, by name or uuid, at a path in the container."""

    kind: Annotated[str, _is(kinds.SIMPLE_VOLUME_MOUNT)] = kinds.SIMPLE_VOLUME_MOUNT
    path: str | None = None
    mode: Literal["READONLY", "READWRITE"] | None = None
    resource: str | None = None


VolumeMount = Annotated[
    Annotated[SimpleVolumeMount, Tag(kinds.SIMPLE_VOLUME_MOUNT)]
    | Annotated[Unknown, _other_than(kinds.SIMPLE_VOLUME_MOUNT)],
    _by_kind(kinds.SIMPLE_VOLUME_MOUNT),
]


class SimpleCompute(LifecycleComponent):
    """Cores, memory in GiB and what is mounted."""

    kind: Annotated[str, _is(kinds.SIMPLE_COMPUTE)] = kinds.SIMPLE_COMPUTE
    cores: PositiveAmount | None = None
    memory: PositiveAmount | None = None
    volumes: list[VolumeMount] | None = None


Compute = Annotated[
    Annotated[SimpleCompute, Tag(kinds.SIMPLE_COMPUTE)] | Annotated[Unknown, _other_than(kinds.SIMPLE_COMPUTE)],
    _by_kind(kinds.SIMPLE_COMPUTE),
]


class SimpleStorage(LifecycleComponent):
    """Disc for results, in GiB."""

    kind: Annotated[str, _is(kinds.SIMPLE_STORAGE)] = kinds.SIMPLE_STORAGE
    size: StorageSize | None = None
    data: list[str] | None = None


Storage = Annotated[
    Annotated[SimpleStorage, Tag(kinds.SIMPLE_STORAGE)] | Annotated[Unknown, _other_than(kinds.SIMPLE_STORAGE)],
    _by_kind(kinds.SIMPLE_STORAGE),
]


class SimpleData(LifecycleComponent):
    """Data at a URL."""

    kind: Annotated[str, _is(kinds.SIMPLE_DATA)] = kinds.SIMPLE_DATA
    location: Uri | None = None
    storage: str | None = None


Data = Annotated[
    Annotated[SimpleData, Tag(kinds.SIMPLE_DATA)] | Annotated[Unknown, _other_than(kinds.SIMPLE_DATA)],
    _by_kind(kinds.SIMPLE_DATA),
]


class RequestedItem(Model):
    """How long, and when to start."""

    duration: Duration | None = None
    start: TimeInterval | None = None


class RequestedSchedule(Model):
    """The schedule of a request."""

    requested: RequestedItem | None = None


class ExecutionRequest(Model):
    """What a client wants to run."""

    executable: Executable | None = None
    compute: Compute | None = None
    storage: list[Storage] | None = None
    data: list[Data] | None = None
    schedule: RequestedSchedule | None = None
    costs: list[Cost] | None = None
    metrics: list[Metric] | None = None


class Connector(Model):
    """Where a session can be reached."""

    kind: Uri | None = None
    status: Literal["PREPARING", "AVAILABLE", "FINISHED"] | None = None
    protocol: str | None = None
    location: Uri | None = None


class Session(Component):
    """An offer and, once accepted, its execution."""

    kind: Annotated[str, _is(kinds.SCHEDULED_SESSION)] = kinds.SCHEDULED_SESSION
    phase: Phase | None = None
    expires: Instant | None = None
    executable: Executable | None = None
    compute: Compute | None = None
    storage: list[Storage] | None = None
    data: list[Data] | None = None
    connectors: list[Connector] | None = None
    schedule: Schedule | None = None


class OfferSet(Component):
    """The answer to a request: offers, or messages that say why there are none."""

    kind: Annotated[str, _is(kinds.OFFERSET)] = kinds.OFFERSET
    result: Literal["YES", "NO"] | None = None
    description: str | None = None
    offers: list[Session] | None = None


class StringValueUpdate(Model):
    """Set a string."""

    kind: Literal["uri:string-value-update"] = "uri:string-value-update"
    path: str
    value: str


class EnumValueUpdate(Model):
    """Make a choice: `/phase` to ACCEPTED, REJECTED or CANCELLED."""

    kind: Literal["uri:enum-value-update"] = "uri:enum-value-update"
    path: str
    value: str


class IntegerValueUpdate(Model):
    """Set a whole number."""

    kind: Literal["uri:integer-value-update"] = "uri:integer-value-update"
    path: str
    value: Long
    units: str | None = None


class IntegerDeltaUpdate(Model):
    """Raise or lower a whole number."""

    kind: Literal["uri:integer-delta-update"] = "uri:integer-delta-update"
    path: str
    delta: Long
    units: str | None = None


Update = Annotated[
    StringValueUpdate | EnumValueUpdate | IntegerValueUpdate | IntegerDeltaUpdate, Field(discriminator="kind")
]
UPDATE: TypeAdapter[StringValueUpdate | EnumValueUpdate | IntegerValueUpdate | IntegerDeltaUpdate] = TypeAdapter(Update)


def field_name(location: tuple[int | str, ...]) -> str:
    """Name the field that a validation error is about, as a client wrote it: ``compute.cores.min``.

    Pydantic puts the tags of unions between the names; they are kinds, and nobody wrote them as names.
    """
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        elif part != "unknown" and not part.startswith(("https://", "uri:")) and part != "[key]":
            name += f".{part}" if name else part
    return name
