"""Drivers of the physical platforms behind one protocol."""

from planner_app.planner.config import PlannerConfig
from planner_app.platforms.protocol import Platform


def create_platform(config: PlannerConfig) -> Platform:
    """Make the driver for the platform that a configuration names.

    Drivers are imported here and not at the top, so that a planner holds only its own in memory.
    """
    if config.kind == "slurm":
        from planner_app.platforms.slurm import SlurmPlatform

        return SlurmPlatform(config)
    from planner_app.platforms.kubernetes import KubernetesPlatform

    return KubernetesPlatform(config)
