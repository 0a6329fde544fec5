"""The three calls to Slurm's REST service."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from planner_app.voter.slurm_token import make_token, read_key


class SlurmDown(Exception):
    """Slurm did not answer, or not as it should."""


class NotTaken(Exception):
    """Slurm did not take a job; the message is its own."""


class Slurm:
    """Slurm's REST service, version 0.0.36."""

    def __init__(self, url: str, user: str, key: Path, timeout: float = 10) -> None:
        """Remember where it is; `timeout` in seconds for each call."""
        self._client = httpx.Client(base_url=url, timeout=timeout, trust_env=False)
        self._user = user
        self._key = key

    def _call(self, method: str, path: str, **more: Any) -> httpx.Response:
        token = make_token(read_key(self._key.read_bytes()), self._user, time.time())
        headers = {"X-SLURM-USER-NAME": self._user, "X-SLURM-USER-TOKEN": token}
        try:
            return self._client.request(method, path, headers=headers, **more)
        except httpx.HTTPError as error:
            raise SlurmDown(f"{type(error).__name__}: {error}") from None

    def submit(self, body: dict[str, Any]) -> int:
        """Submit a job; give its number.

        Raises NotTaken and SlurmDown.
        """
        answer = _document(self._call("POST", "/job/submit", json=body))
        if "job_id" not in answer:
            raise NotTaken("; ".join(str(each.get("error")) for each in answer.get("errors", [])) or "no reason given")
        return int(answer["job_id"])

    def look(self, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Ask for jobs, by their numbers. What Slurm does not know any more is not in the answer.

        Raises SlurmDown.
        """
        asked = ",".join(map(str, numbers))
        answer = _document(self._call("GET", "/jobs", params={"job_name": asked}))
        if not isinstance(answer.get("jobs"), list):
            raise SlurmDown("there are no jobs in the answer")
        return {int(job["job_id"]): job for job in answer["jobs"]}

    def cancel(self, number: int) -> None:
        """Cancel a job.

        Raises NotTaken and SlurmDown.
        """
        answer = self._call("DELETE", f"/job/{number}")
        if answer.status_code != 200:
            raise NotTaken(f"Slurm answered {answer.status_code}")


def _document(answer: httpx.Response) -> dict[str, Any]:
    try:
        document = answer.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise SlurmDown(f"status {answer.status_code} and no JSON object")
    return document
