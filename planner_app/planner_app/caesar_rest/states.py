"""What caesar-rest makes of Slurm's states. Pure."""

PENDING = "PENDING"
RUNNING = "RUNNING"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
CANCELED = "CANCELED"
TIMED_OUT = "TIMED-OUT"
CLEARED = "CLEARED"
UNKNOWN = "UNKNOWN"

LIVE = (PENDING, "STARTED", RUNNING)
"""Jobs in these are asked after; in any other they are left alone for ever."""
PACKED = (SUCCESS, FAILURE, CLEARED)
"""Jobs that end in these get an archive of their outputs."""

_STATES = {
    "PENDING": (PENDING, "waiting for its start"),
    "SUSPENDED": (PENDING, "suspended"),
    "RUNNING": (RUNNING, "running"),
    "COMPLETED": (SUCCESS, "done"),
    "CANCELLED": (CANCELED, "canceled"),
    "TIMEOUT": (TIMED_OUT, "ended at its time limit"),
    "FAILED": (FAILURE, "failed"),
    "NODE_FAIL": (FAILURE, "its node failed"),
    "PREEMPTED": (FAILURE, "made room for another job"),
    "BOOT_FAIL": (FAILURE, "its node did not start"),
    "DEADLINE": (FAILURE, "ended at its deadline"),
    "OUT_OF_MEMORY": (FAILURE, "out of memory"),
}


def state_of(slurm_state: str) -> tuple[str, str]:
    """Give the state, and words for it."""
    return _STATES.get(slurm_state, (UNKNOWN, f"Slurm says {slurm_state}"))
