"""What the stand-in is told, in the environment and in files, as the real one is (roles/caesar_rest/files/upstream)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """Where everything is."""

    data: Path
    jobs: Path
    slurm_url: str
    slurm_user: str
    slurm_key: Path
    slurm_data: str
    """Where `data` is for Slurm."""
    slurm_jobs: str
    mongo_app: str
    """A file with the database's address for the application, USER:PASSWORD@HOST as caesar-rest wants it there."""
    mongo_monitor: str
    """A file with it for the monitor, a whole one."""
    mongo_timeout_ms: int
    period: float
    """Seconds between two looks at the jobs."""
    accounting_period: float
    """Seconds between two counts of what users have used."""
    alive: Path | None
    """Touched by the monitor at each look, by the accounter at each count."""
    port: int

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the variables; their table is in serve.py of the role.

        Raises KeyError for one that is missing.
        """
        host, port = environment["SLURM_HOST"], environment["SLURM_PORT"]
        alive = environment.get("ALIVE_FILE", "")
        return cls(
            data=Path(environment["DATADIR"]),
            jobs=Path(environment["JOBDIR"]),
            slurm_url=f"http://{host}:{port}/slurm/v0.0.36",
            slurm_user=environment["SLURM_USER"],
            slurm_key=Path(environment["SLURM_KEYFILE"]),
            slurm_data=environment["SLURM_DATADIR"],
            slurm_jobs=environment["SLURM_JOBDIR"],
            mongo_app=environment.get("MONGO_APP_FILE", ""),
            mongo_monitor=environment.get("MONGO_MONITOR_FILE", ""),
            mongo_timeout_ms=int(environment.get("MONGO_TIMEOUT_MS", "5000")),
            period=float(environment.get("JOB_MONITORING_PERIOD", "5")),
            accounting_period=float(environment.get("ACCOUNTING_PERIOD", "60")),
            alive=Path(alive) if alive else None,
            port=int(environment.get("PORT", "3031")),
        )
