"""The tests' testbed as its operator has it: ssh_config, kubeconfig and caesar-vote."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from handles import NAME, PROJECT, STATE, machine, of_group
from testinfra.host import Host
from xdist.scheduler import LoadScopeScheduling


@pytest.fixture(scope="session")
def slurm() -> Host:
    return machine(of_group("slurm_controllers"))


@pytest.fixture(scope="session")
def kube() -> Host:
    return machine(of_group("kubernetes_nodes"))


@pytest.fixture(scope="session")
def planner() -> Host:
    return machine(of_group("planners"))


@pytest.fixture(scope="session")
def address() -> dict[str, str]:
    """Addresses of the machines."""
    machines = json.loads((STATE / "machines.json").read_text())["machines"]
    return {name: described["address"] for name, described in machines.items()}


@pytest.fixture(scope="session")
def voter() -> Iterator[httpx.Client]:
    """A client of the voter, with the operator's token."""
    handle = yaml.safe_load((STATE / "voter.yml").read_text())
    headers = {"Authorization": f"Bearer {handle['token']}"}
    with httpx.Client(base_url=handle["url"], headers=headers, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def caesar_vote() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`caesar-vote` as people type it, on the tests' testbed."""

    # readline tells xdist's workers of a terminal of 80 columns that nobody has.
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}

    def run(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(PROJECT / ".venv/bin/caesar-vote"), *arguments],
            env=environment | {"CAESAR_TESTBED": NAME},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def kubectl(kube: Host) -> Callable[[str], Any]:
    """kubectl on the node, as JSON."""

    def get(arguments: str) -> Any:
        return json.loads(kube.check_output(f"KUBECONFIG=/etc/kubernetes/admin.conf kubectl {arguments} -o json"))

    return get


@pytest.fixture(scope="session")
def fits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real radio map: the Parkes continuum map at 1420 MHz that the stage `smoke` took out of astropy's wheel."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "caesar-testbed"
    [found] = cache.glob("sample-images/**/1904-66_AZP.fits")
    return found


#: What adds to the testbed, or takes services or machines away from under the others, in this order.
LATE = ("test_caesar_rest", "test_site", "test_verbs", "test_load", "test_batch_", "test_recovery")
#: What neither uses nor changes anything of what the others do, but for LATE: it may run beside them.
BESIDE = ("test_job_image", "test_kubernetes", "test_mongodb", "test_network")


def late(path: Path) -> int:
    """The place of a file of tests among those of LATE; 0 for one that is none of them."""
    return next((rank for rank, name in enumerate(LATE, 1) if path.stem.startswith(name)), 0)


class Lanes(LoadScopeScheduling):
    """Two lanes of tests where xdist runs them: what is BESIDE, and all else in its order."""

    def _split_scope(self, nodeid: str) -> str:
        return "beside" if Path(nodeid.partition("::")[0]).stem in BESIDE else "in order"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes:
    """xdist's own groups do not do: its markers are lost with this pytest."""
    return Lanes(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what takes something away after everything else."""
    items.sort(key=lambda item: late(item.path))


@pytest.fixture(scope="module", autouse=True)
def undisturbed(request: pytest.FixtureRequest) -> Iterator[None]:
    """What takes something away waits until nothing else runs, and is waited for."""
    with (STATE / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if late(request.path) else fcntl.LOCK_SH)
        yield
