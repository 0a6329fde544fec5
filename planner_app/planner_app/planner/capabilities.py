"""What a planner tells of itself: what it takes, allows and charges, and how much of it is free now."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from planner_app import __version__
from planner_app.execution_broker import SCHEMA, SCHEMA_VERSION, codecs, kinds
from planner_app.execution_broker.times import format_duration, format_instant
from planner_app.planner.config import PlannerConfig
from planner_app.planner.demand import MOUNT_POINTS
from planner_app.planner.documents import Document
from planner_app.planner.quoting import Amount, Hold, Reservation, holds_of
from planner_app.platforms.images import ImageTable
from planner_app.platforms.protocol import Snapshot

KINDS = (
    kinds.DOCKER_CONTAINER,
    kinds.SINGULARITY_CONTAINER,
    kinds.SIMPLE_COMPUTE,
    kinds.SIMPLE_STORAGE,
    kinds.SIMPLE_DATA,
    kinds.SIMPLE_VOLUME_MOUNT,
    kinds.SIMPLE_COST,
    kinds.SIMPLE_METRIC,
)

MOST_STEPS = 200
"""Of what is told of the time ahead."""


def capabilities(config: PlannerConfig, images: ImageTable, client: str, now: datetime) -> Document:
    """What does not change while the planner runs, as one client sees it."""
    offers = config.offers
    return {
        "name": config.name,
        "kind": config.kind,
        "version": {"planner": __version__, "api": SCHEMA_VERSION, "schema": SCHEMA},
        "time": format_instant(now),
        "quota": {**config.quota.model_dump(), "jobs": config.limits.jobs},
        "limits": {**config.limits.model_dump(), "walltime": format_duration(config.limits.walltime)},
        "costs": config.costs,
        "metrics": config.metrics,
        "offers": {
            "expire_after": format_duration(offers.expire_after),
            "start_window": format_duration(offers.start_window),
            "share": offers.shares.get(client, offers.share),
        },
        "images": list(images.names),
        "kinds": list(KINDS),
        "media_types": list(codecs.MEDIA_TYPES),
        "policy": {
            "images": "listed",
            "privileged": False,
            "network_ports": False,
            "mount_points": list(MOUNT_POINTS),
            "data": {
                "files_below": f"file://{config.storage.data}",
                "fetched_bytes": config.staging.max_bytes,
                "fetched_within": format_duration(config.staging.timeout),
            },
            "body_bytes": codecs.MAX_BYTES,
            "idempotency_key": {"header": "Idempotency-Key", "kept": format_duration(offers.keep_keys)},
        },
    }


def use(config: PlannerConfig, snapshot: Snapshot, reservations: Iterable[Reservation], now: datetime) -> Document:
    """What is in use, kept for offers and sessions, and free."""
    used = Amount()
    for job in snapshot.jobs:
        if not job.state.ended:
            used += Amount(job.cores, job.memory_gib, job.disc_gb, 1)
    held = Amount()
    holds = holds_of(reservations, snapshot, now)
    for hold in holds:
        # What an offer for now keeps begins this moment.
        if hold.start <= now and (hold.end is None or hold.end > now):
            held += hold.amount
    quota = Amount(config.quota.cores, config.quota.memory_gib, config.quota.disc_gb, config.limits.jobs)
    nothing = Amount()
    return {
        "in_use": used._asdict(),
        "reserved": (held - used).most(nothing)._asdict(),
        "free": (quota - held.most(used)).most(nothing)._asdict(),
        "ahead": ahead(holds, now),
    }


def ahead(holds: Iterable[Hold], now: datetime) -> list[Document]:
    """Say what is not free from when on, by whatever and whomever it is held; each entry holds until the next.

    The first begins now; where there are more than MOST_STEPS the far end is left out.
    """
    changes: defaultdict[datetime, Amount] = defaultdict(Amount)
    changes[now] = Amount()
    for hold in holds:
        if hold.end is not None and hold.end <= now:
            continue
        changes[max(hold.start, now)] += hold.amount
        if hold.end is not None:
            changes[hold.end] -= hold.amount
    taken, steps = Amount(), []
    for time in sorted(changes)[:MOST_STEPS]:
        taken += changes[time]
        steps.append({"from": format_instant(time), **taken._asdict()})
    return steps
