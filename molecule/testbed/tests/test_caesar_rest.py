"""An astronomer's way through caesar-rest: upload, submit, follow, fetch, cancel, on both kinds of platform.

The same for caesar-rest itself and for its stand-in; the first test's name says which one is deployed.
"""

from __future__ import annotations

import base64
import io
import shlex
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from handles import PHYSICAL, PLATFORMS, STATE, stopped
from testinfra.host import Host

ABOUT = STATE / "caesar-rest.yml"
KIND = yaml.safe_load(ABOUT.read_text())["kind"] if ABOUT.is_file() else "missing"
NAMESPACE = "caesar-rest"
LIVE = ("PENDING", "STARTED", "RUNNING")
KUBECTL = "KUBECONFIG=/etc/kubernetes/admin.conf kubectl"


@pytest.fixture(scope="module")
def rest() -> Iterator[httpx.Client]:
    """The API at the address of the final table."""
    about = yaml.safe_load(ABOUT.read_text())
    with httpx.Client(base_url=about["url"], timeout=40, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def image(rest: httpx.Client, fits: Path) -> str:
    return upload(rest, fits)


def upload(rest: httpx.Client, fits: Path) -> str:
    with fits.open("rb") as file:
        answer = rest.post("/upload", files={"file": (fits.name, file)}, data={"tag": "test"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["uuid"])


def submit(rest: httpx.Client, image: str, **more: Any) -> str:
    asked = {"app": "aegean", "data_inputs": image, "job_inputs": {"seedthr": 5, "mergethr": 4}, "tag": "test"}
    answer = rest.post("/job", json=asked | more)
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] == "PENDING"
    return str(answer.json()["job_id"])


def follow(rest: httpx.Client, job: str, timeout: float = 150) -> tuple[dict[str, Any], set[str]]:
    """Ask until the job has ended; give its status, and the states it had."""
    deadline, had = time.monotonic() + timeout, set()
    while True:
        status = rest.get(f"/job/{job}/status").raise_for_status().json()
        had.add(status["state"])
        if status["state"] not in LIVE:
            return status, had
        assert time.monotonic() < deadline, status
        time.sleep(0.3)  # as nothing tells


def job_of_trace(kube: Host, trace: str, timeout: float = 60) -> str:
    """Wait for the Job of Kubernetes that carries the trace; give its name."""
    path = r'{range .items[*]}{.metadata.annotations.caesar-testbed/trace} {.metadata.name}{"\n"}{end}'
    deadline = time.monotonic() + timeout
    while True:
        said = kube.check_output(f"{KUBECTL} get jobs --all-namespaces -o jsonpath='{path}'")
        for traced, _, name in (line.partition(" ") for line in said.splitlines()):
            if traced == trace:
                return name
        assert time.monotonic() < deadline, said
        time.sleep(0.3)  # a Job runs for seconds


def of_kind(kind: str) -> list[str]:
    return [each["name"] for each in PLATFORMS if PHYSICAL[each["physical_platform"]]["kind"] == kind]


@pytest.fixture
def only(request: pytest.FixtureRequest, planner: Host, address: dict[str, str]) -> Iterator[str]:
    """Leave only platforms of one kind in the vote: the planners of the other are stopped."""
    with stopped(planner, address, "kubernetes" if request.param == "slurm" else "slurm"):
        yield request.param


@pytest.mark.parametrize("kind", [KIND])
def test_it_is_there_and_the_applications_are(rest: httpx.Client, kind: str) -> None:
    assert kind in ("upstream", "stand-in", "image")
    assert rest.get("/apps").json() == {"apps": ["caesar", "mrcnn", "aegean", "cutex"]}
    assert rest.get("/app/aegean/describe").json()["seedthr"]["type"] == "float"
    assert rest.get("/app/none/describe").status_code == 400


def test_files_come_and_go(rest: httpx.Client, fits: Path) -> None:
    number = upload(rest, fits)
    listed = next(each for each in rest.get("/fileids").json() if each["fileid"] == number)
    assert (listed["filename_orig"], listed["fileext"], listed["tag"]) == (fits.name, "fits", "test")
    assert rest.get(f"/download/{number}").content == fits.read_bytes()
    assert rest.post(f"/delete/{number}").status_code == 200
    assert rest.get(f"/download/{number}").status_code == 404
    assert number not in {each["fileid"] for each in rest.get("/fileids").json()}
    assert rest.post("/upload", files={"file": ("a.txt", b"x")}).status_code == 415


@pytest.mark.parametrize("only", ["slurm", "kubernetes"], indirect=True)
def test_from_upload_to_catalogue(
    rest: httpx.Client,
    voter: httpx.Client,
    planner: Host,
    slurm: Host,
    kube: Host,
    image: str,
    only: str,
) -> None:
    job = submit(rest, image)
    # Its Kubernetes Job is gone once its log has been read.
    namesake = job_of_trace(kube, job) if only == "kubernetes" else ""
    assert rest.get(f"/job/{job}/output").status_code == 202
    status, had = follow(rest, job)
    assert (status["state"], status["exit_code"], status["tag"]) == ("SUCCESS", 0, "test"), status
    assert had <= {"PENDING", "RUNNING", "SUCCESS"}
    # The job's id leads to the ballot, and that to who won.
    ballot = voter.get(f"/ballots/{job}").raise_for_status().json()
    assert (ballot["trace"], ballot["state"], ballot["user"]) == (job, "COMPLETED", "anonymous")
    assert ballot["winner"]["planner"] in of_kind(only)
    session = ballot["winner"]["session"]
    if only == "kubernetes":
        assert namesake == f"session-{session}"
    else:
        assert f"Comment={job}" in slurm.check_output(f"scontrol -o show job | grep JobName={session}")

    assert len(rest.get(f"/job/{job}/sources").json()["sources"]) == 58
    assert len(rest.get(f"/job/{job}/source-components").json()["components"]) == 70
    assert rest.get(f"/job/{job}/output-sources").text.count("\n") >= 58
    assert rest.get(f"/job/{job}/output-plot").content.startswith(b"\x89PNG")
    assert base64.b64decode(rest.get(f"/job/{job}/preview").json()["image"]).startswith(b"\x89PNG")
    with tarfile.open(fileobj=io.BytesIO(rest.get(f"/job/{job}/output").raise_for_status().content)) as archive:
        names = [Path(name).name for name in archive.getnames()]
    for beginning in ("catalog-", "catalog_fitcomp-", "plot_", f"job_{job}.log", f"job_{job}.ballot.json"):
        assert any(name.startswith(beginning) for name in names), (beginning, names)
    listed = next(each for each in rest.get("/jobs").json() if each["job_id"] == job)
    assert (listed["state"], listed["scheduler"], listed["app"]) == ("SUCCESS", "slurm", "aegean")


def test_a_job_is_cancelled(rest: httpx.Client, voter: httpx.Client, image: str) -> None:
    job = submit(rest, image)
    assert rest.post(f"/job/{job}/cancel").status_code == 200
    assert follow(rest, job)[0]["state"] == "CANCELED"
    # Its ballot ends too; there is none where it was not voted on yet.
    deadline = time.monotonic() + 60
    while (found := voter.get(f"/ballots/{job}")).status_code == 200 and found.json()["state"] != "CANCELLED":
        assert found.json()["state"] in ("VOTING", "ACCEPTING", "RUNNING")
        assert time.monotonic() < deadline, found.text
        time.sleep(0.3)


def test_what_is_no_job_is_refused(rest: httpx.Client, image: str) -> None:
    for more in ({"job_inputs": {}}, {"app": "none"}, {"data_inputs": "none"}):
        asked = {"app": "aegean", "data_inputs": image, "job_inputs": {"seedthr": 5}} | more
        assert rest.post("/job", json=asked).status_code == 400, more
    assert rest.get("/job/none/status").status_code == 404


def test_what_was_used_is_counted(rest: httpx.Client, kube: Host) -> None:
    jobs, files = rest.get("/jobs").json(), rest.get("/fileids").json()
    # It counts when it starts, and then each minute.
    kube.check_output(
        f"{KUBECTL} -n {NAMESPACE} exec deploy/caesar-rest-jobmonitor -c accounter -- sh -c 'kill -INT 1'"
    )
    deadline = time.monotonic() + 120
    while (found := rest.get("/accounting")).status_code != 200 or found.json()["njobs"] < len(jobs):
        assert time.monotonic() < deadline, found.text
        time.sleep(0.3)  # as nothing tells
    mine, total = found.json(), rest.get("/appstats").raise_for_status().json()
    assert mine["njobs"] == sum(mine[key] for key in mine if key.startswith("njobs_"))
    assert mine["njobs_completed"] >= sum(job["state"] == "SUCCESS" for job in jobs) > 0
    assert mine["datasize"] >= sum(each["filesize"] for each in files) * 1000, "kilobytes are not megabytes"
    assert (total["nusers"], total["totsize"]) == (1, mine["datasize"] + mine["jobsize"])
    assert total["avg_completed_job_runtime"] > 0


def test_several_processes_are_refused_by_the_voter_and_the_reason_is_told(
    rest: httpx.Client, image: str, kube: Host
) -> None:
    answer = rest.post("/job", json={"app": "caesar", "data_inputs": image, "job_inputs": {"nproc": 2, "nthreads": 2}})
    assert (answer.status_code, answer.json()["state"]) == (500, "ABORTED")
    log = kube.check_output(f"{KUBECTL} -n {NAMESPACE} logs deploy/caesar-rest --tail=60")
    assert "several processes with mpirun" in (answer.json()["status"] if KIND == "stand-in" else log)


def test_nothing_says_the_password(rest: httpx.Client, kube: Host) -> None:
    """Neither the arguments or environment of a process nor a log; caesar-rest itself would in all of them."""
    secret = kube.check_output(
        f"{KUBECTL} -n {NAMESPACE} get secret mongodb -o jsonpath={{.data.password}} | base64 -d"
    )
    assert len(secret) > 15
    for container in ("app", "monitor", "accounter"):
        deployment = "caesar-rest" if container == "app" else "caesar-rest-jobmonitor"
        log = kube.check_output(f"{KUBECTL} -n {NAMESPACE} logs deploy/{deployment} -c {container} --tail=-1")
        # The stand-in's accounter says nothing where nothing is wrong.
        assert log.strip() or (KIND, container) == ("stand-in", "accounter")
        assert secret not in log
        look = "sh -c 'cat /proc/1/cmdline /proc/1/environ' | tr '\\0' ' '"
        seen = kube.check_output(f"{KUBECTL} -n {NAMESPACE} exec deploy/{deployment} -c {container} -- {look}")
        assert "caesar" in seen
        assert secret not in seen


def test_it_reaches_nobody_but_database_voter_and_names(kube: Host, address: dict[str, str]) -> None:
    code = (
        "import socket, sys\n"
        "for host, port, wait in [word.split(':') for word in sys.argv[1:]]:\n"
        "    try: socket.create_connection((host, int(port)), int(wait)); print('open')\n"
        "    except OSError: print('closed')\n"
    )
    asked = {f"{address['planner']}:8100": "open", "mongodb:27017": "open", f"{address['planner']}:8101": "closed"}
    asked |= {f"{address['kube']}:6443": "closed", f"{address['slurm']}:22": "closed"}
    waits = {"open": 15, "closed": 2}
    words = " ".join(f"{where}:{waits[how]}" for where, how in asked.items())
    command = f"python3 -c {shlex.quote(code)} {words}"
    told = kube.check_output(f"{KUBECTL} -n {NAMESPACE} exec deploy/caesar-rest -- {command}")
    assert dict(zip(asked, told.split(), strict=True)) == asked


def test_without_a_database_errors_are_clear_and_it_comes_back(rest: httpx.Client, image: str, kube: Host) -> None:
    scale = f"{KUBECTL} -n {NAMESPACE} scale statefulset mongodb --replicas"
    job = submit(rest, image)
    try:
        kube.check_output(f"{scale}=0")
        kube.check_output(f"{KUBECTL} -n {NAMESPACE} wait --for=delete pod/mongodb-0 --timeout=60s")
        for path in ("/fileids", f"/job/{job}/status"):
            began = time.monotonic()
            answer = rest.get(path)
            assert time.monotonic() - began < 30, "the answer came too late"
            assert answer.status_code in (404, 503), answer.text
            assert any(word in answer.json()["status"] for word in ("DB", "database")), answer.text
        assert rest.get("/apps").status_code == 200, "what needs no database goes on"
        began = time.monotonic()
        answer = rest.post("/upload", files={"file": ("map.fits", b"SIMPLE")})
        assert (answer.status_code, "registered" in answer.text or "database" in answer.text) == (500, True)
        assert time.monotonic() - began < 30
    finally:
        kube.check_output(f"{scale}=1")
        kube.check_output(f"{KUBECTL} -n {NAMESPACE} rollout status statefulset mongodb --timeout=120s")
    deadline = time.monotonic() + 60
    while rest.get("/fileids").status_code != 200:
        assert time.monotonic() < deadline, "it does not find the database that is back"
        time.sleep(0.3)  # the driver looks for it by itself
    # What was submitted before is still known, and the monitor goes on where it was.
    assert follow(rest, job)[0]["state"] == "SUCCESS"
    assert image in {each["fileid"] for each in rest.get("/fileids").json()}
