"""Every reason against an offer, each with what is the limit, what was asked and what is left."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from planner_app.execution_broker.times import Interval, format_duration, format_instant
from planner_app.planner.config import PlannerConfig
from planner_app.planner.quoting.amounts import PREPARING, RESOURCES, WORDS, Amount
from planner_app.planner.quoting.terms import Demand, Reason, cost_of, refusal


def above_limits(config: PlannerConfig, demand: Demand, duration: timedelta) -> Iterable[Reason]:
    """What no job may have here, whatever is free."""
    limits = {
        "cores": config.limits.cores,
        "memory_gib": config.limits.memory_gib,
        "disc_gb": config.quota.disc_gb,
    }
    for resource, limit in limits.items():
        asked = getattr(demand.minimum, resource)
        if asked > limit:
            yield refusal(
                config,
                f"{resource.partition('_')[0]}-limit",
                "${asked} ${resource} asked, one job may have ${limit}",
                resource=WORDS[resource],
                limit=limit,
                asked=asked,
                left=limit,
            )
    if duration > config.limits.walltime:
        yield refusal(
            config,
            "walltime-limit",
            "${asked} asked, one job may run for ${limit}",
            limit=format_duration(config.limits.walltime),
            asked=format_duration(duration),
            left=format_duration(config.limits.walltime),
        )


def beyond_price(config: PlannerConfig, demand: Demand, duration: timedelta) -> Iterable[Reason]:
    """What costs more than is asked at most, or is worth less than is asked at least."""
    for name, maximum in demand.cost_maxima.items():
        price = config.costs.get(name)
        if price is None:
            yield refusal(
                config, "cost-unknown", "a limit on the cost ${cost} is asked, which is not known here", cost=name,
                limit="none", asked=maximum, left="none",
            )  # fmt: skip
        elif (cost := cost_of(price, demand.minimum.cores, duration)) > maximum:
            yield refusal(
                config, "cost-limit", "${cost} costs ${limit} at least, at most ${asked} is asked", cost=name,
                limit=cost, asked=maximum, left=cost,
            )  # fmt: skip
    for name, minimum in demand.metric_minima.items():
        value = config.metrics.get(name)
        if value is None or value < minimum:
            yield refusal(
                config, "metric-limit", "${metric} is ${limit}, at least ${asked} is asked", metric=name,
                limit="not known" if value is None else value, asked=minimum,
                left="none" if value is None else value,
            )  # fmt: skip


def too_late(config: PlannerConfig, asked: Interval, now: datetime) -> Reason:
    """The time in which the job is to start is over."""
    return refusal(
        config, "start", "a start until ${asked} is asked, the earliest possible is ${limit}",
        limit=format_instant(now + PREPARING), asked=format_instant(asked.end), left=format_instant(now + PREPARING),
    )  # fmt: skip


def busy(config: PlannerConfig, asked: Interval, start: datetime) -> Reason:
    """The machines underneath have no room in the time in which the job is to start."""
    return refusal(
        config, "platform-busy", "a start until ${asked} is asked, the platform would start it at ${limit}",
        limit=format_instant(start), asked=format_instant(asked.end), left=format_instant(start),
    )  # fmt: skip


def no_room(
    config: PlannerConfig, minimum: Amount, quota: Amount, frees: Iterable[Amount], latest: datetime
) -> Iterable[Reason]:
    """Name each resource that alone leaves no slot; where none alone does, those short at the first.

    `frees` is what is free at each start that could be the best, the earliest first.
    """
    first, *others = frees
    most = first
    for free in others:
        most = most.most(free)
    limits = Amount(config.limits.cores, config.limits.memory_gib, quota.disc_gb, quota.jobs)
    left = first if minimum.fits(most) else most
    for name in RESOURCES:
        asked = getattr(minimum, name)
        if asked <= getattr(left, name) or asked > getattr(limits, name):
            continue  # there is enough, or it was said already that no job may have that much
        yield refusal(
            config, f"{name.partition('_')[0]}-quota",
            "${asked} ${resource} asked, ${left} of ${limit} left for a start until ${until}",
            resource=WORDS[name], limit=getattr(quota, name), asked=asked, left=max(getattr(left, name), 0),
            until=format_instant(latest),
        )  # fmt: skip
