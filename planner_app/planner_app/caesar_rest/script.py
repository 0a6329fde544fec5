"""The batch script and the job that are submitted, as slurmrestd gets them from caesar-rest. Pure."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from planner_app.caesar_rest.apps import App

MOST_CORES = 4
"""More of them for one process are cut to so many, more processes to one."""


class Elsewhere(ValueError):
    """A path is not where Slurm sees it."""


def _on_cluster(path: PurePosixPath, here: PurePosixPath, there: str) -> str:
    if not path.is_relative_to(here):
        raise Elsewhere(f"{path} is not in {here}")
    return str(PurePosixPath(there) / path.relative_to(here))


def submission(
    app: App,
    inputs: Mapping[str, Any],
    *,
    name: str,
    user: str,
    source: PurePosixPath,
    directory: PurePosixPath,
    data: tuple[PurePosixPath, str],
    jobs: tuple[PurePosixPath, str],
) -> dict[str, Any]:
    """Make the body of a submission.

    Args:
        app: the application.
        inputs: the job's options.
        name: the job's id.
        user: Slurm's user.
        source: the input, as the application has it.
        directory: the job's directory, likewise.
        data: the directory of all inputs, for us and for Slurm.
        jobs: that of all jobs.

    Raises:
        BadInputs: for options that the application does not take.
        Elsewhere: for a path outside those directories.
    """
    threads, processes = app.number(inputs, "nthreads"), app.number(inputs, "nproc")
    threads = min(threads, MOST_CORES)
    processes = processes if processes <= MOST_CORES else 1
    work = f"/home/{user}/{name}"
    binding = f"--map-by ppr:{processes}:node:pe={threads}"
    command = [
        *((f"mpirun --report-bindings --np {processes} {binding} --bind-to core",) if processes > 1 else ()),
        "singularity run --containall --no-home",
        f"--scratch {work}",
        f"-B {_on_cluster(directory, *jobs)}:{directory}",
        f"-B {_on_cluster(source, *data)}:{source}",
        *(("-B /etc/libibverbs.d",) if processes > 1 else ()),
        "--env CHANGE_RUNUSER=0",
        f"--env JOB_DIR={work}",
        f"--env JOB_OPTIONS='{app.arguments(inputs, str(source))}'",
        f"--env JOB_OUTDIR={directory}",
        app.image,
    ]
    return {
        "script": f"#!/bin/bash \n sleep 10 \n {' '.join(command)}",
        "job": {
            "name": name,
            "environment": {"PATH": "/bin:/usr/bin/:/usr/local/bin/"},
            "current_working_directory": f"/home/{user}",
            "cpus_per_task": threads,
            "tasks": processes,
        },
    }
