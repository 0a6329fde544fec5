"""From a request to what it asks for in our units, and to the job that it means."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from planner_app.execution_broker import kinds
from planner_app.execution_broker.models import (
    Cost,
    DockerContainer,
    ExecutionRequest,
    Metric,
    SimpleCompute,
    SimpleCost,
    SimpleData,
    SimpleMetric,
    SimpleStorage,
    SimpleVolumeMount,
    SingularityContainer,
    UnknownKind,
)
from planner_app.planner.config import PlannerConfig, Storage
from planner_app.planner.quoting import Amount, Demand, Reason, refusal
from planner_app.planner.staging import Download, Unfetchable, read_location
from planner_app.platforms.protocol import Image, Mount

if TYPE_CHECKING:
    from planner_app.platforms.images import ImageTable

OUTPUTS = Path("outputs")
"""Where a session's results lie, in its directory."""
GB_PER_GIB = 2**30 / 10**9
MOUNT_POINTS = ("/data", "/output", "/mnt/storage")
"""Where something can be mounted: a read-only image on Slurm needs the directory to be there."""


@dataclass(frozen=True)
class Program:
    """What to run and what it sees."""

    image: Image
    entrypoint: str | None
    command: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    """Sources that are relative lie in the session's directory."""
    downloads: tuple[Download, ...] = ()
    """What is fetched before the job starts."""


@dataclass(frozen=True)
class Reading:
    """What a request was understood to ask; the program is missing where there are reasons."""

    demand: Demand
    program: Program | None
    reasons: tuple[Reason, ...]


def gb_of(gib: int) -> int:
    """GB that hold so many GiB."""
    return math.ceil(gib * GB_PER_GIB)


def gib_of(gb: int) -> int:
    """Whole GiB that so many GB hold."""
    return math.floor(gb / GB_PER_GIB)


def read_request(request: ExecutionRequest, config: PlannerConfig, images: "ImageTable") -> Reading:
    """Understand a request: everything that this planner cannot do is a reason, not an error."""
    reader = _Reader(config, images)
    image = reader.image(request)
    mounts = reader.mounts(request)
    demand = reader.demand(request)
    program = None
    if image is not None and not reader.reasons:
        docker = request.executable if isinstance(request.executable, DockerContainer) else DockerContainer()
        program = Program(
            image=image,
            entrypoint=docker.entrypoint or None,
            command=tuple(docker.command or ()),
            environment=docker.environment or {},
            mounts=mounts,
            downloads=reader.wanted(mounts),
        )
    return Reading(demand, program, tuple(reader.reasons))


class DataMissing(ValueError):
    """A location is not a file that jobs may read; the message says why."""


def directory_of(location: str, storage: Storage) -> Path:
    """Tell which directory to mount for a ``file:///...`` location on the shared storage.

    Raises DataMissing where the location is elsewhere, does not exist, leads out of the data directory by
    ``..`` or a symbolic link, or lies in the data directory itself, which belongs to all.
    """
    url = urlsplit(location)
    if url.scheme != "file" or url.netloc not in ("", "localhost") or url.query or url.fragment:
        raise DataMissing("must be a file:///, http:// or https:// location")
    path = Path(unquote(url.path))
    check_mount(path, storage)
    directory = path if path.is_dir() else path.parent
    if directory == storage.data:
        raise DataMissing(f"must lie in a directory of its own below {storage.data}")
    return directory


def check_mount(path: Path, storage: Storage) -> None:
    """Raise DataMissing where a path is not below the data directory, or not without a symbolic link."""
    # A colon ends the first half of charliecloud's --bind.
    if ".." in path.parts or not path.is_relative_to(storage.data) or re.search(r"[\x00-\x1f\x7f:]", str(path)):
        raise DataMissing(f"must lie below {storage.data}")
    if not path.exists():
        raise DataMissing("does not exist")
    if Path(os.path.realpath(path)) != Path(os.path.realpath(storage.data)) / path.relative_to(storage.data):
        raise DataMissing("leads through a symbolic link")


class _Reader:
    def __init__(self, config: PlannerConfig, images: "ImageTable") -> None:
        self.config = config
        self.images = images
        self.reasons: list[Reason] = []
        self.downloads: list[Download] = []

    def wanted(self, mounts: Sequence[Mount]) -> tuple[Download, ...]:
        """What is to be fetched: what no volume shows to the job is not."""
        shown = {str(mount.source) for mount in mounts}
        return tuple(each for each in self.downloads if each.directory in shown)

    def refuse(self, kind: str, template: str, /, **values: object) -> None:
        self.reasons.append(refusal(self.config, kind, template, **values))

    def unknown(self, field: str, kind: str) -> None:
        self.refuse("unknown-kind", "${field} of kind ${kind} is not known here", field=field, kind=kind)

    def image(self, request: ExecutionRequest) -> Image | None:
        executable = request.executable
        if isinstance(executable, UnknownKind):
            self.unknown("executable", executable.kind)
            return None
        locations: Sequence[str] = ()
        digest = None
        if isinstance(executable, SingularityContainer):
            locations = [executable.location] if executable.location else []
        elif executable is not None:
            if executable.privileged:
                self.refuse("privileged", "a privileged container is asked, none runs here")
            if executable.network is not None and executable.network.ports:
                self.refuse("network", "published ports are asked, jobs have none here")
            if executable.image is not None:
                locations, digest = executable.image.locations or (), executable.image.digest
                built = executable.image.platform
                if built is not None and (built.architecture, built.os) != ("amd64", "linux"):
                    self.refuse(
                        "image-platform", "an image for ${asked} is asked, machines here are ${limit}",
                        asked=f"{built.os}/{built.architecture}", limit="linux/amd64",
                    )  # fmt: skip
        if not locations and digest is None:
            self.refuse("executable", "no container image is named")
            return None
        image = self.images.match(locations, digest)
        if image is None:
            asked = ", ".join(locations[:3]) + (f" with digest {digest}" if digest else "")
            self.refuse(
                "image", "image ${asked} is not among those that run here: ${limit}",
                asked=asked.strip(), limit=", ".join(self.images.names) or "none",
            )  # fmt: skip
        return image

    def mounts(self, request: ExecutionRequest) -> tuple[Mount, ...]:
        sources: dict[str, Path | None] = {}  # None: cannot be had, and that is said already
        for number, data in enumerate(request.data or ()):
            field = f"data[{number}]"
            if not isinstance(data, SimpleData):
                self.unknown(field, data.kind)
                continue
            source = None
            try:
                source = self._source(data.location or "", number)
            except (DataMissing, Unfetchable, OSError) as error:
                self.refuse(
                    "data", "${field}: ${location} ${why}", field=field, location=data.location or "no location",
                    why="cannot be read" if isinstance(error, OSError) else error,
                )  # fmt: skip
            self._name(sources, data, source)
        written = None
        for number, storage in enumerate(request.storage or ()):
            if not isinstance(storage, SimpleStorage):
                self.unknown(f"storage[{number}]", storage.kind)
                continue
            if written is not None:
                self.refuse("storage", "more than one storage resource is asked, a session has one")
            written = storage
            self._name(sources, storage, OUTPUTS)
        return self._volumes(request, sources)

    def _source(self, location: str, number: int) -> Path:
        """Tell which directory to mount: one of the shared storage, or where the file will be fetched to."""
        if location.partition(":")[0].lower() in ("http", "https"):
            download = read_location(location, number, self.config.staging)
            self.downloads.append(download)
            return Path(download.directory)
        return directory_of(location, self.config.storage)

    @staticmethod
    def _name(sources: dict[str, Path | None], resource: SimpleData | SimpleStorage, source: Path | None) -> None:
        if resource.meta is not None:
            for name in (resource.meta.name, resource.meta.uuid):
                if name is not None:
                    sources[str(name)] = source

    def _volumes(self, request: ExecutionRequest, sources: Mapping[str, Path | None]) -> tuple[Mount, ...]:
        mounts: dict[str, Mount] = {}
        volumes = request.compute.volumes if isinstance(request.compute, SimpleCompute) else None
        for number, volume in enumerate(volumes or ()):
            field = f"compute.volumes[{number}]"
            if not isinstance(volume, SimpleVolumeMount):
                self.unknown(field, volume.kind)
                continue
            target = str(PurePosixPath(volume.path or ""))
            if volume.resource is None or volume.resource not in sources:
                self.refuse(
                    "volume", "${field}: no data or storage resource is called ${resource}",
                    field=field, resource=volume.resource or "nothing",
                )  # fmt: skip
                continue
            if target not in MOUNT_POINTS:
                self.refuse(
                    "volume", "${field}: nothing can be mounted at ${asked}, only at ${limit}",
                    field=field, asked=target, limit=", ".join(MOUNT_POINTS),
                )  # fmt: skip
                continue
            source = sources[volume.resource]
            if source is None:
                continue
            is_data = source != OUTPUTS
            if is_data and volume.mode == "READWRITE":
                self.refuse("volume", "${field}: data can only be read here", field=field)
                continue
            mount = Mount(source, target, read_only=is_data or volume.mode == "READONLY")
            if mounts.setdefault(target, mount) != mount:
                self.refuse("volume", "${field}: two things are to be mounted at ${asked}", field=field, asked=target)
        return tuple(mounts.values())

    def demand(self, request: ExecutionRequest) -> Demand:
        compute = request.compute
        if isinstance(compute, UnknownKind):
            self.unknown("compute", compute.kind)
            compute = None
        cores = _range(compute and compute.cores, 1)
        memory = _range(compute and compute.memory, 1)
        sizes = [_range(each.size, 0) for each in request.storage or () if isinstance(each, SimpleStorage)]
        requested = request.schedule.requested if request.schedule is not None else None
        duration = requested.duration if requested is not None else None
        if duration is not None and not duration:
            self.refuse("duration", "a duration of nothing is asked")
        return Demand(
            minimum=Amount(cores[0], memory[0], gb_of(sum(size[0] for size in sizes)), 1),
            maximum=Amount(cores[1], memory[1], gb_of(sum(size[1] for size in sizes)), 1),
            duration=duration,
            start=requested.start if requested is not None else None,
            cost_maxima=self._constraints(request.costs, "costs", kinds.COST_TYPE_PREFIX),
            metric_minima=self._constraints(request.metrics, "metrics", kinds.METRIC_TYPE_PREFIX),
        )

    def _constraints(self, items: Sequence[Cost | Metric] | None, field: str, prefix: str) -> Mapping[str, float]:
        constraints: dict[str, float] = {}
        for number, item in enumerate(items or ()):
            if isinstance(item, SimpleCost):
                bound, tightest = item.max, min
            elif isinstance(item, SimpleMetric):
                bound, tightest = item.min, max
            else:
                self.unknown(f"{field}[{number}]", item.kind)
                continue
            if bound is not None:
                name = (item.type or "").removeprefix(prefix) or "without a type"
                constraints[name] = tightest(constraints.get(name, bound), bound)
        return constraints


def _range(asked: "object", default: int) -> tuple[int, int]:
    """What is asked from and to: no maximum means no more than the minimum, which then is cheapest."""
    low, high = getattr(asked, "min", None), getattr(asked, "max", None)
    if low is None:
        low = default if high is None else min(default, high)
    return low, low if high is None else high
