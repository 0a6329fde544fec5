"""What Prometheus may know of a planner."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from planner_app.execution_broker.models import Phase

if TYPE_CHECKING:
    from planner_app.planner.service import Service


async def exposition(service: "Service") -> tuple[bytes, str]:
    """Give the figures of now, and their media type."""
    phases = await service.lifecycle.in_thread(service.ledger.count_by_phase)
    registry = CollectorRegistry()
    registry.register(_Planner(service, phases))
    return generate_latest(registry) + generate_latest(REGISTRY), CONTENT_TYPE_LATEST


class _Planner(Collector):
    def __init__(self, service: "Service", phases: dict[str, int]) -> None:
        self._service = service
        self._phases = phases

    def collect(self) -> Iterator[Metric]:
        answers = CounterMetricFamily("planner_requests", "Requests answered.", labels=["result"])
        for result, count in self._service.answers.items():
            answers.add_metric([result], count)
        yield answers
        sessions = GaugeMetricFamily("planner_sessions", "Sessions in the ledger.", labels=["phase"])
        for phase in Phase:
            sessions.add_metric([phase], self._phases.get(phase, 0))
        yield sessions
        observation = self._service.lifecycle.observation
        yield CounterMetricFamily("planner_observations", "Observations of the platform.", observation.count)
        yield GaugeMetricFamily("planner_observation_seconds", "Length of the latest observation.", observation.seconds)
        up = observation.snapshot is not None and observation.failed is None
        drained = int(self._service.drain.state is not None)
        yield GaugeMetricFamily("planner_drained", "Whether the planner makes no offers.", drained)
        yield GaugeMetricFamily("planner_platform_up", "Whether the platform answered the latest.", int(up))
