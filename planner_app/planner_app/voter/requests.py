"""From what a person asks for to a request of the Execution Broker API, and to what its offers must meet."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from planner_app.execution_broker import kinds
from planner_app.execution_broker.models import (
    ContainerImage,
    DockerContainer,
    ExecutionRequest,
    Meta,
    PositiveAmount,
    RequestedItem,
    RequestedSchedule,
    SimpleCompute,
    SimpleCost,
    SimpleData,
    SimpleMetric,
    SimpleStorage,
    SimpleVolumeMount,
    StorageSize,
    UnknownKind,
)
from planner_app.execution_broker.times import Interval
from planner_app.voter.answers import Demand, Range
from planner_app.voter.config import Amount, App

INPUT_DIRECTORY = "/data"
OUTPUT_DIRECTORY = "/output"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asks for; None is what the application needs where nothing else is said."""

    cores: Amount | None = None
    memory_gib: Amount | None = None
    duration: timedelta | None = None
    start: Interval | None = None
    max_costs: Mapping[str, float] = field(default_factory=dict)
    min_metrics: Mapping[str, float] = field(default_factory=dict)
    options: tuple[str, ...] = ()


def traceparent(trace: str) -> str:
    """Write a trace as W3C Trace Context has it, for headers and for a job's environment."""
    return f"00-{trace}-{trace[:15]}1-01"


def build_request(app: App, wish: Wish, input_path: str | None, label: str, trace: str) -> dict[str, Any]:
    """Write the request for an application and its input file.

    `input_path` is the absolute path of an upload on the shared storage; without one the request is good
    for asking what would be offered, not for running. `label` names the session for people, and the job's
    environment says which trace it belongs to.
    """
    cores, memory = wish.cores or app.cores, wish.memory_gib or app.memory_gib
    environment = {"JOB_OPTIONS": " ".join([*app.options, *wish.options]), "JOB_OUTDIR": OUTPUT_DIRECTORY}
    environment["TRACEPARENT"] = traceparent(trace)
    volumes: list[SimpleVolumeMount | UnknownKind] = [
        SimpleVolumeMount(meta=Meta(name="results-volume"), path=OUTPUT_DIRECTORY, mode="READWRITE", resource="results")
    ]
    data: list[SimpleData | UnknownKind] | None = None
    if input_path is not None:
        name = input_path.rpartition("/")[2]
        environment["INPUTFILE"] = f"{INPUT_DIRECTORY}/{name}"
        data = [SimpleData(meta=Meta(name="input"), location=f"file://{input_path}")]
        volumes.insert(
            0,
            SimpleVolumeMount(meta=Meta(name="input-volume"), path=INPUT_DIRECTORY, mode="READONLY", resource="input"),
        )
    request = ExecutionRequest(
        executable=DockerContainer(
            meta=Meta(name=label),
            image=ContainerImage(locations=[app.image], digest=app.digest),
            environment=environment,
        ),
        compute=SimpleCompute(
            meta=Meta(name="compute"),
            cores=PositiveAmount(min=cores.min, max=cores.max),
            memory=PositiveAmount(min=memory.min, max=memory.max),
            volumes=volumes,
        ),
        storage=[SimpleStorage(meta=Meta(name="results"), size=StorageSize(min=app.disc_gib))],
        data=data,
        schedule=RequestedSchedule(requested=RequestedItem(duration=wish.duration or app.duration, start=wish.start)),
        costs=[
            SimpleCost(type=kinds.COST_TYPE_PREFIX + name, max=most) for name, most in sorted(wish.max_costs.items())
        ]
        or None,
        metrics=[
            SimpleMetric(type=kinds.METRIC_TYPE_PREFIX + name, min=least)
            for name, least in sorted(wish.min_metrics.items())
        ]
        or None,
    )
    return request.document()


def demand_of(app: App, wish: Wish) -> Demand:
    """Say what offers for the same wish must meet."""
    cores, memory = wish.cores or app.cores, wish.memory_gib or app.memory_gib
    return Demand(
        cores=Range(cores.min, cores.max),
        memory_gib=Range(memory.min, memory.max),
        duration=wish.duration or app.duration,
        start=(wish.start.start, wish.start.end) if wish.start else None,
        max_costs=dict(wish.max_costs),
        min_metrics=dict(wish.min_metrics),
    )
