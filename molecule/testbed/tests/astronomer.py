"""Somebody who uses caesar-rest, for tests of what takes machines away from under it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import test_caesar_rest
import yaml
from handles import STATE
from rebuilding import play

#: The large inventory has none: it is put up for the tests that take minutes, and goes with the testbed.
CAESAR_REST = ("-e", "caesar_rest_platform=kube")


@pytest.fixture(scope="module")
def rest() -> Iterator[httpx.Client]:
    """caesar-rest and its database, with the client of an astronomer."""
    run = play("site.yml", "--tags", "mongodb,caesar_rest", *CAESAR_REST)
    assert run.returncode == 0, run.stdout[-4000:]
    about = yaml.safe_load((STATE / "caesar-rest.yml").read_text())
    with httpx.Client(base_url=about["url"], timeout=60, trust_env=False) as client:
        yield client


@dataclass(frozen=True)
class Astronomer:
    """With a map and a job that found sources in it."""

    rest: httpx.Client
    image: str
    job: str

    def documents(self) -> dict[str, Any]:
        """What caesar-rest knows of both, and what they are on the storage."""
        paths = (f"/download/{self.image}", *(f"/job/{self.job}/{what}" for what in ("status", "output", "sources")))
        files, jobs = (self.rest.get(path).raise_for_status().json() for path in ("/fileids", "/jobs"))
        found = {
            **{path: self.rest.get(path).raise_for_status().content for path in paths},
            "file": [each for each in files if each["fileid"] == self.image],
            "job": [each for each in jobs if each["job_id"] == self.job],
        }
        assert [len(found["file"]), len(found["job"])] == [1, 1]
        return found

    def submit(self) -> str:
        """Send the map to the vote once more; give the job's number."""
        return test_caesar_rest.submit(self.rest, self.image)

    def await_end(self, job: str) -> None:
        """Wait until a job has found what there is."""
        status, _ = test_caesar_rest.follow(self.rest, job)
        assert status["state"] == "SUCCESS", status


def arrive(rest: httpx.Client, fits: Path) -> Astronomer:
    """Upload a map, and have sources found in it."""
    image = test_caesar_rest.upload(rest, fits)
    astronomer = Astronomer(rest, image, test_caesar_rest.submit(rest, image))
    astronomer.await_end(astronomer.job)
    return astronomer
