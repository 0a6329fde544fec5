"""Many clients at once, while what they use is killed under them.

Fifty clients ask, accept and reject at a bounded rate; meanwhile the planners, slurmctld and the API server are
killed. What is right is read from Slurm and from the namespace: nobody is held back by a quota that a planner sold
twice, and in the end every session has an end, no job ran twice or is left, and nothing is reserved for nothing.

CAESAR_LOAD_SECONDS (30) says for how long.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx
import pytest
from handles import PHYSICAL, PLATFORMS, answering
from sessions import KINDS, OVER, Document, planner_client, python_request
from testinfra.host import Host

SECONDS = float(os.environ.get("CAESAR_LOAD_SECONDS", "30"))
CLIENTS = 25
"""At each of the two planners."""
PAUSE = 1.0
"""Seconds between two requests of a client, on average."""
UNSAVED = 8.0
"""Seconds of changes that slurmctld may not have saved (SAVE_MAX_WAIT of its source is 5; it writes when it can)."""
RUNS = 4.0
"""Seconds that a job runs, about."""
SETTLE = 420.0
"""Seconds in which everything has to come to its end. Two minutes are enough but for a job that ends while slurmctld is
dead: Slurm may take that for running until its walltime is over or its node is asked again, six minutes at most."""
OF = {
    kind: [p for p in PLATFORMS if PHYSICAL[p["physical_platform"]]["kind"] == kind][-1]
    for kind in ("slurm", "kubernetes")
}
# Leaves one file for each time it runs.
JOB = "import time, uuid; open('/output/ran-' + uuid.uuid4().hex, 'w').close(); time.sleep(3)"


def request(choice: random.Random) -> Document:
    """A short job of a size by chance."""
    asked = python_request(JOB, cores=choice.choice((1, 1, 2, 3)), duration="PT1M")
    volume = {
        "kind": f"{KINDS}/volume/simple-volume-mount.yaml",
        "path": "/output",
        "mode": "READWRITE",
        "resource": "o",
    }
    storage = {"kind": f"{KINDS}/storage/simple-storage-resource.yaml", "meta": {"name": "o"}, "size": {"min": 1}}
    # Soon or not at all: there is an end to wait for.
    schedule = {"requested": {"start": f"{datetime.now(UTC).isoformat()}/PT20S", "duration": "PT3M"}}
    return asked | {
        "compute": asked["compute"] | {"volumes": [volume]},
        "storage": [storage],
        "schedule": schedule,
    }


@dataclass
class Seen:
    """What clients and watchers saw."""

    accepted: set[str] = field(default_factory=set)
    """Sessions whose acceptance was answered."""
    in_doubt: set[str] = field(default_factory=set)
    """Sessions whose acceptance was not answered."""
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@dataclass
class Kill:
    """When something was killed, in seconds since 1970: not before it was asked for, not after that was answered."""

    asked: float
    answered: float = math.inf


Killed = dict[str, Kill]
Load = tuple[dict[str, Seen], Killed]
Ends = dict[str, dict[str, Document]]


async def one_client(client: httpx.AsyncClient, seen: Seen, until: float, seed: int) -> None:
    choice = random.Random(seed)
    while time.monotonic() < until:
        await asyncio.sleep(choice.uniform(0, 2 * PAUSE))
        session = None
        try:
            reply = await client.post("/requests", json=request(choice))
            seen.answers[f"request {reply.status_code}"] += 1
            if reply.status_code != 200:
                seen.wrong += [reply.text[:300]] if reply.status_code != 503 else []
                continue
            offers = reply.json()["offers"]
            seen.answers["YES" if offers else "NO"] += 1
            if not offers:
                continue
            session = str(choice.choice(offers)["meta"]["uuid"])
            phase = "ACCEPTED" if choice.random() < 0.7 else "REJECTED"
            if phase == "ACCEPTED":
                seen.in_doubt.add(session)
            body = {"kind": "uri:enum-value-update", "path": "/phase", "value": phase}
            reply = await client.post(f"/sessions/{session}", json=body)
            seen.answers[f"{phase} {reply.status_code}"] += 1
            seen.in_doubt.discard(session)
            if reply.status_code == 200 and phase == "ACCEPTED":
                seen.accepted.add(session)
        except httpx.HTTPError as error:
            seen.answers[type(error).__name__] += 1  # it was killed meanwhile


async def all_clients(address: dict[str, str], seen: dict[str, Seen], until: float) -> None:
    async with asyncio.TaskGroup() as group:
        for kind, platform in OF.items():
            with planner_client(address, platform["name"]) as like:
                client = httpx.AsyncClient(
                    base_url=like.base_url, headers=like.headers, timeout=10, trust_env=False,
                    limits=httpx.Limits(max_connections=CLIENTS),
                )  # fmt: skip
            for number in range(CLIENTS):
                group.create_task(one_client(client, seen[kind], until, number))


def watch_slurm(slurm: Host, seen: Seen, over: threading.Event, killed: Killed) -> None:
    """Look for jobs that a quota holds back, and for more in use than the quota has."""
    name, quota = OF["slurm"]["name"], OF["slurm"]["limits"]["jobs"]
    while not over.wait(1):
        queue = slurm.run(f"squeue -h -A {name} -o '%T|%C|%r|%j'")
        if queue.rc != 0:
            continue  # slurmctld was killed
        rows = [row.split("|") for row in queue.stdout.splitlines()]
        held = [row for row in rows if row[2].startswith(("AssocGrp", "AssocMax"))]
        # A slurmctld that was killed brings jobs back that had ended: what is held by those, nobody promised.
        if held and "slurmctld" not in killed:
            seen.wrong.append(f"held by a quota: {held}")
        if sum(row[0] == "RUNNING" for row in rows) > quota:
            seen.wrong.append(f"more jobs than {quota}: {rows}")
        usage = slurm.run(f"scontrol -o show assoc_mgr accounts={name} flags=assoc")
        for limit, used in re.findall(r"(?:cpu|mem|gres/disk)=(\d+)\((\d+)\)", usage.stdout):
            if int(used) > int(limit):
                seen.wrong.append(f"{used} in use of {limit}: {usage.stdout}")


def refusals(events: Iterable[Document], since: float, killed: Kill | None) -> list[str]:
    """What a quota has refused since then. An API server that was killed may do so by what has ended: what is counted
    as used is only brought up to date once the controllers are connected again, and the Job's pod is made then."""
    # Events have whole seconds.
    until = math.inf if killed is None else int(killed.asked)
    return [
        event["message"]
        for event in events
        if "exceeded quota" in event.get("message", "")
        and int(since) <= datetime.fromisoformat(event.get("lastTimestamp") or event["eventTime"]).timestamp() < until
    ]


def watch_kubernetes(kube: Host, seen: Seen, over: threading.Event, killed: Killed) -> None:
    """Look for pods that the quota refused, and for more in use than it has."""
    name = OF["kubernetes"]["name"]
    kubectl = f"KUBECONFIG=/etc/kubernetes/admin.conf kubectl -n {name} get -o json"
    began = time.time()  # there are events of an hour
    while not over.wait(1):
        got = kube.run(f"{kubectl} resourcequota/quota")
        if got.rc != 0:
            continue  # the API server was killed
        status = json.loads(got.stdout)["status"]
        for resource in ("pods", "count/jobs.batch"):
            if int(status["used"][resource]) > int(status["hard"][resource]):
                seen.wrong.append(f"{resource}: {status}")
        refused = kube.run(f"{kubectl} events --field-selector reason=FailedCreate")
        events = json.loads(refused.stdout or '{"items": []}')["items"]
        found = refusals(events, began, killed.get("kube-apiserver"))
        seen.wrong += [message for message in found if message not in seen.wrong]


@pytest.mark.parametrize(
    ("message", "at", "killed", "wrong"),
    [
        ("exceeded quota: quota", 51, None, 1),
        ("exceeded quota: quota", 51, 52.5, 1),
        ("exceeded quota: quota", 52, 52.5, 0),
        ("exceeded quota: quota", 20, None, 1),
        ("exceeded quota: quota", 19, None, 0),
        ("denied by a policy", 51, None, 0),
    ],
)
def test_what_a_killed_api_server_refuses_is_told_apart(
    message: str, at: int, killed: float | None, wrong: int
) -> None:
    event = {"message": message, "lastTimestamp": f"2026-11-30T17:29:{at}Z"}
    minute = datetime(2026, 11, 30, 17, 29, tzinfo=UTC).timestamp()
    assert len(refusals([event], minute + 20.5, None if killed is None else Kill(minute + killed))) == wrong


def kill_things(hosts: dict[str, Host], killed: Killed, until: float) -> None:
    """Kill one after the other, spread over the time."""
    length = until - time.monotonic()
    for share, where, what in (
        (0.2, "planner", f"planner@{OF['slurm']['name']}"),
        (0.1, "planner", f"planner@{OF['kubernetes']['name']}"),
        (0.2, "slurm", "slurmctld"),
        (0.1, "kube", "kube-apiserver"),
        (0.2, "planner", f"planner@{OF['slurm']['name']}"),
    ):
        time.sleep(share * length)
        killed[what] = Kill(time.time())
        # The API server is a static pod: its process is killed, and the kubelet starts another.
        command = "pkill -KILL -x kube-apiserver" if what == "kube-apiserver" else f"systemctl kill -s KILL {what}"
        hosts[where].run(command)
        killed[what].answered = time.time()


def settled(client: httpx.Client, seen: Seen) -> dict[str, Document]:
    """All sessions that were accepted, once they are over."""
    documents: dict[str, Document] = {}
    deadline = time.monotonic() + SETTLE
    left = seen.accepted | seen.in_doubt
    while left:
        for session in list(left):
            document = client.get(f"/sessions/{session}").raise_for_status().json()
            if document["phase"] in OVER:
                documents[session] = document
                left.discard(session)
        assert time.monotonic() < deadline, [
            (each, client.get(f"/sessions/{each}").json()["meta"]["messages"]) for each in left
        ]
        time.sleep(0.5)
    return documents


pytestmark = pytest.mark.timeout(SECONDS + 3 * SETTLE)


@pytest.fixture(scope="module")
def load(address: dict[str, str], slurm: Host, kube: Host, planner: Host) -> Iterator[Load]:
    """Fifty clients, and what they and the watchers saw."""
    seen = {kind: Seen() for kind in OF}
    over = threading.Event()
    killed: Killed = {}
    until = time.monotonic() + SECONDS
    threads = [
        threading.Thread(target=watch_slurm, args=(slurm, seen["slurm"], over, killed)),
        threading.Thread(target=watch_kubernetes, args=(kube, seen["kubernetes"], over, killed)),
        threading.Thread(target=kill_things, args=({"slurm": slurm, "kube": kube, "planner": planner}, killed, until)),
    ]
    for thread in threads:
        thread.start()
    try:
        asyncio.run(all_clients(address, seen, until))
        threads[-1].join(60)  # the last kill
        yield seen, killed
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
        # What a slurmctld that was killed may leave: "Duplicate jobid" drains a node.
        slurm.run("scontrol update nodename=ALL state=resume")


@pytest.fixture(scope="module")
def sessions(load: Load, address: dict[str, str]) -> Ends:
    """All sessions at their end, by kind of platform."""
    ends = {}
    for kind, seen in load[0].items():
        answering(address, OF[kind]["name"])
        with planner_client(address, OF[kind]["name"]) as client:
            ends[kind] = settled(client, seen)
    return ends


@pytest.mark.parametrize("kind", OF)
def test_there_was_a_load(load: Load, sessions: Ends, kind: str) -> None:
    seen = load[0][kind]
    print(kind, dict(seen.answers), Counter(each["phase"] for each in sessions[kind].values()))
    assert seen.answers["YES"] >= 3, seen.answers
    assert seen.accepted, seen.answers
    assert seen.answers["NO"] > 0, "the quota was never in question"


@pytest.mark.parametrize("kind", OF)
def test_no_quota_was_exceeded_and_none_held_a_job_back(load: Load, sessions: Ends, kind: str) -> None:
    assert load[0][kind].wrong == []


def said(document: Document, *kinds: str) -> list[Document]:
    """A session's messages of these kinds."""
    return [each for each in document["meta"]["messages"] if each["kind"].rpartition(":")[2] in kinds]


def forgotten(lost: list[Document], sessions: Iterable[Document], killed: Kill) -> list[Document]:
    """Those of the lost that slurmctld forgot: what it was told in the seconds before its end is in no file of it.

    Its numbers are given out again, so that one that was given the number of a forgotten job may be cancelled with what
    a node still runs of that, also where the planner saw that job's end before.
    """

    def told(document: Document) -> bool:
        times = [datetime.fromisoformat(each["time"]).timestamp() for each in said(document, "submitted", "found")]
        began = [datetime.fromisoformat(each["time"]).timestamp() for each in said(document, "running")]
        # Also of its end: what it does not know to have ended it takes for running until its walltime is over.
        times += [*began, *(each + RUNS for each in began)]
        return any(killed.asked - UNSAVED <= each <= killed.answered for each in times)

    def numbers(document: Document) -> set[str]:
        return {each["values"]["job"] for each in said(document, "submitted", "found")}

    given = Counter(number for document in sessions for number in numbers(document))
    return [document for document in lost if told(document) or any(given[each] > 1 for each in numbers(document))]


KILLED = Kill(1_800_000_000.0, 1_800_000_002.0)


def session_of(job: str, submitted: float, running: float | None = None) -> Document:
    """A session, with what was said of it these seconds after the kill was asked for."""

    def message(kind: str, at: float) -> Document:
        time = datetime.fromtimestamp(KILLED.asked + at, UTC).isoformat()
        return {"kind": f"urn:caesar:planner:{kind}", "time": time, "values": {"job": job}}

    messages = [message("submitted", submitted), *([] if running is None else [message("running", running)])]
    return {"meta": {"messages": messages}}


@pytest.mark.parametrize(
    ("lost", "others", "excused"),
    [
        (session_of("7", -0.5), [], True),  # not yet in its file
        (session_of("7", 1.5), [], True),  # it was not killed at once
        (session_of("7", -20, -10), [], True),  # its end is not
        (session_of("7", -30, -20), [], False),
        (session_of("7", 5), [session_of("6", -1)], False),
        (session_of("7", 5), [session_of("7", -1)], True),  # a number given twice
    ],
)
def test_what_a_killed_slurmctld_forgot_is_told_apart(lost: Document, others: list[Document], excused: bool) -> None:
    assert forgotten([lost], [lost, *others], KILLED) == ([lost] if excused else [])


@pytest.mark.parametrize("kind", OF)
def test_every_job_ran_once_and_none_was_lost(load: Load, sessions: Ends, address: dict[str, str], kind: str) -> None:
    """But what slurmctld itself forgets (docs/planner.md)."""
    lost = []
    with planner_client(address, OF[kind]["name"]) as client:
        for session, document in sessions[kind].items():
            files = client.get(f"/sessions/{session}/outputs").raise_for_status().json()
            assert len(files) <= 1, f"{session} ran {len(files)} times"
            if document["phase"] == "COMPLETED":
                assert len(files) == 1, document
            elif session in load[0][kind].accepted:
                lost.append(document)
    excused = forgotten(lost, sessions[kind].values(), load[1]["slurmctld"]) if kind == "slurm" else []
    print(kind, "forgotten by slurmctld:", len(excused))
    assert [(each["phase"], each["meta"]["messages"]) for each in lost if each not in excused] == []


def test_slurm_has_nothing_left_and_ran_nothing_twice(load: Load, sessions: Ends, slurm: Host) -> None:
    """Also nothing that a killed slurmctld brought back after its end: the planner cancels it when it looks next."""
    name = OF["slurm"]["name"]
    ran = slurm.check_output(f"sacct -XnP -A {name} -S now-20minutes -o jobname").splitlines()
    assert max(Counter(each for each in ran if each in sessions["slurm"]).values(), default=0) <= 1
    deadline = time.monotonic() + SETTLE
    while left := slurm.check_output(f"squeue -h -A {name} -t PD,R,CG,S").strip():
        assert time.monotonic() < deadline, left
        time.sleep(1)  # slurmctld asks its nodes when it likes


def test_the_namespace_has_nothing_left(load: Load, sessions: Ends, kubectl: object) -> None:
    name = OF["kubernetes"]["name"]
    deadline = time.monotonic() + 30
    while True:
        left = [*kubectl(f"-n {name} get jobs")["items"], *kubectl(f"-n {name} get pods")["items"]]  # type: ignore[operator]
        if not left:
            return
        assert time.monotonic() < deadline, [each["metadata"]["name"] for each in left]
        time.sleep(1)  # pods go after their Job


@pytest.mark.parametrize("kind", OF)
def test_nothing_is_reserved_for_nothing(load: Load, sessions: Ends, address: dict[str, str], kind: str) -> None:
    deadline = time.monotonic() + 75
    with planner_client(address, OF[kind]["name"]) as client:
        while True:
            said = client.get("/capabilities").raise_for_status().json()
            if said["free"] == said["quota"]:
                return
            # Offers of clients that were cut off hold their share until they expire.
            assert time.monotonic() < deadline, said
            time.sleep(1)
