"""The database of caesar-rest: what caesar-rest asks of it, who gets in, and what survives.

The collections of these tests have names of their own, and what else there is stays: what was there is restored.
"""

from __future__ import annotations

import base64
import json
import shlex
import stat
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bson
import pytest
import yaml
from bson.raw_bson import RawBSONDocument
from handles import PROJECT, STATE, playbook
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import OperationFailure, PyMongoError
from testinfra.host import Host

sys.path.append(str(PROJECT / "roles/mongodb/files"))

import archive
import database
from forward import forwarded

NAMESPACE = "caesar-rest"
Client = MongoClient[dict[str, Any]]
Kubectl = Callable[[str], Any]
JOBS = "pytest.jobs"


def password() -> str:
    return (STATE / "secrets/mongodb-password").read_text().strip()


def client(port: int, **credentials: Any) -> Client:
    return MongoClient("127.0.0.1", port, directConnection=True, serverSelectionTimeoutMS=30_000, **credentials)


@pytest.fixture
def port() -> Iterator[int]:
    """The database's port, by the operator's kubeconfig alone."""
    with forwarded(STATE / "kubeconfig", "", NAMESPACE, "mongodb-0", 27017) as number:
        yield number


@contextmanager
def as_caesar(given: str = "") -> Iterator[Client]:
    """A client with a way to the database of its own: the one before ends with the pod."""
    with (
        forwarded(STATE / "kubeconfig", "", NAMESPACE, "mongodb-0", 27017) as number,
        client(number, username="caesar", password=given or password(), authSource="caesardb") as connected,
    ):
        connected.caesardb.command("ping")
        yield connected


@pytest.fixture
def mongo() -> Iterator[Client]:
    """A client as caesar-rest has it."""
    with as_caesar() as connected:
        yield connected


@pytest.fixture
def jobs(mongo: Client) -> Iterator[Collection[dict[str, Any]]]:
    """A collection with the dotted name of a user's jobs, empty at first and gone afterwards."""
    mongo.caesardb.drop_collection(JOBS)
    yield mongo.caesardb[JOBS]
    mongo.caesardb.drop_collection(JOBS)


def documents(count: int = 20) -> list[dict[str, Any]]:
    """Documents like those of caesar-rest, with every kind of value that it writes and some that it does not."""
    return [
        {
            "job_id": f"{number:032x}",
            "state": ["PENDING", "STARTED", "RUNNING", "SUCCESS", "FAILURE"][number % 5],
            "pid": number,
            "elapsed_time": number / 3,
            "submit_date": datetime(2026, 1, 2, 3, 4, 5, 6000, tzinfo=UTC),
            "metadata": {"apps": ["aegean", "caesar"], "inputs": {"seedthr": 5.0, "name": "Größe é"}},
            "tag": None,
            "ok": number % 2 == 0,
            "big": bson.Int64(2**40 + number),
            "raw": bytes(range(256)),
        }
        for number in range(count)
    ]


# What caesar-rest does with its database: the table of its distinct operations, each as it calls it.


def test_a_document_is_inserted_and_found_by_its_number(jobs: Collection[dict[str, Any]]) -> None:
    [document] = documents(1)
    inserted = jobs.insert_one(dict(document)).inserted_id
    found = jobs.find_one({"job_id": document["job_id"]})
    assert found is not None
    assert found.pop("_id") == inserted
    assert found | {"submit_date": found["submit_date"].replace(tzinfo=UTC)} == document
    assert jobs.find_one({"fileid": "no such"}) is None


def test_pymongo_4_has_no_insert_and_that_is_what_caesar_rest_falls_back_from(jobs: Collection[dict[str, Any]]) -> None:
    with pytest.raises(TypeError, match="is not callable"):
        jobs.insert({"a": 1})  # type: ignore[operator]


def test_documents_are_listed_with_and_without_a_projection(jobs: Collection[dict[str, Any]]) -> None:
    jobs.insert_many(documents())
    assert len(list(jobs.find({}))) == 20
    without = list(jobs.find({}, projection={"_id": 0, "raw": 0}))
    assert all("_id" not in each and "raw" not in each and "pid" in each for each in without)
    assert set(jobs.find_one({}, projection={"_id": 0}) or {}) == set(documents(1)[0])
    assert "_id" in (jobs.find_one() or {})


def test_the_monitor_finds_jobs_that_are_not_at_their_end(jobs: Collection[dict[str, Any]]) -> None:
    jobs.insert_many(documents())
    found = jobs.find({"$or": [{"state": "PENDING"}, {"state": "STARTED"}, {"state": "RUNNING"}]})
    assert sorted(each["pid"] for each in found) == [n for n in range(20) if n % 5 < 3]


@pytest.mark.parametrize("key", ["job_id", "_id"])
def test_a_job_is_updated_and_none_is_made_by_that(jobs: Collection[dict[str, Any]], key: str) -> None:
    jobs.insert_many(documents(3))
    document = jobs.find_one({"pid": 1})
    assert document is not None
    changed = jobs.update_one({key: document[key]}, {"$set": {"state": "SUCCESS", "exit_code": 0}}, upsert=False)
    assert (changed.matched_count, changed.modified_count) == (1, 1)
    assert jobs.find_one({"pid": 1}) == document | {"state": "SUCCESS", "exit_code": 0}
    assert (jobs.find_one({"pid": 2}) or {})["state"] == "RUNNING"
    missed = jobs.update_one({"job_id": "none"}, {"$set": {"state": "SUCCESS"}}, upsert=False)
    assert (missed.matched_count, jobs.count_documents({})) == (0, 3)


def test_a_file_is_deleted_once(jobs: Collection[dict[str, Any]]) -> None:
    jobs.insert_one({"fileid": "a"})
    assert jobs.delete_one({"fileid": "a"}).deleted_count == 1
    assert jobs.delete_one({"fileid": "a"}).deleted_count == 0


def test_the_monitor_finds_the_users_by_their_collections(mongo: Client, jobs: Collection[dict[str, Any]]) -> None:
    jobs.insert_one({"a": 1})
    mongo.caesardb["pytest.files"].insert_one({"a": 1})
    try:
        names = mongo.caesardb.list_collection_names(filter={"name": {"$regex": ".jobs"}})
        assert JOBS in names
        assert all(name.endswith(".jobs") for name in names)
        assert {JOBS, "pytest.files"} <= set(mongo.caesardb.list_collection_names())
    finally:
        mongo.caesardb.drop_collection("pytest.files")


# Who gets in.


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-1"])
def test_both_ways_to_log_in(port: int, mechanism: str) -> None:
    who = {"username": "caesar", "password": password(), "authSource": "caesardb", "authMechanism": mechanism}
    with client(port, **who) as connected:
        assert connected.caesardb.command("ping")["ok"] == 1


@pytest.mark.parametrize(
    "who",
    [
        {},
        {"username": "caesar", "password": "wrong", "authSource": "caesardb"},
        {"username": "nobody", "password": "wrong", "authSource": "caesardb"},
    ],
    ids=["nobody", "wrong password", "wrong user"],
)
def test_nobody_else_gets_in(port: int, who: dict[str, str]) -> None:
    with client(port, **who) as connected:
        with pytest.raises(OperationFailure):
            connected.caesardb[JOBS].find_one()
        with pytest.raises(OperationFailure):
            connected.caesardb[JOBS].insert_one({"a": 1})


def test_what_caesar_rest_and_its_monitor_are_given_lets_them_in(port: int, kubectl: Kubectl) -> None:
    data = {
        name: base64.b64decode(value).decode()
        for name, value in kubectl(f"-n {NAMESPACE} get secret mongodb")["data"].items()
    }
    assert data["password"] == password()
    here = f"127.0.0.1:{port}"
    app = "mongodb://" + data["uri-app"] + ":27017/caesardb"  # as run_app.py puts it together
    for uri in (app, data["uri-monitor"]):
        with MongoClient(uri.replace("mongodb:27017", here), directConnection=True) as connected:
            assert connected.caesardb.command("ping")["ok"] == 1


def test_the_database_is_no_more_than_it_must_be(kube: Host, kubectl: Kubectl) -> None:
    namespace = kubectl(f"get namespace {NAMESPACE}")["metadata"]["labels"]
    assert namespace["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = kubectl(f"-n {NAMESPACE} get pod mongodb-0")["spec"]
    assert pod["automountServiceAccountToken"] is False
    [container] = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {"startupProbe", "readinessProbe", "livenessProbe", "resources"} <= set(container)
    files = kube.check_output("stat -c '%a %u' /mnt/storage/mongodb")
    assert files == "700 27017"


#: The database and what uses it, without the look at the whole inventory.
BOTH = ("playbooks/mongodb.yml", "playbooks/caesar_rest.yml")
PENDING = ("Pending", "Running")


# A pod that is new is let in when what enforces the policies has heard of it.
PROGRAM = """import socket, sys, time
for attempt in range(int(sys.argv[1])):
    try:
        socket.create_connection(("mongodb", 27017), 2)
        sys.exit(0)
    except OSError:
        time.sleep(1)
sys.exit(1)
"""


def reach(kube: Host, name: str, labels: str, attempts: int) -> str:
    """How a pod with these labels ends that tries to reach the database's port: it fails where it is not let in."""
    images = kube.check_output("ctr -n k8s.io images ls -q name~=caesar/aegean-job").splitlines()
    overrides = {
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": name,
                    "image": images[0],
                    "imagePullPolicy": "Never",
                    "command": ["python3", "-c", PROGRAM, str(attempts)],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        }
    }
    k = f"KUBECONFIG=/etc/kubernetes/admin.conf kubectl -n {NAMESPACE}"
    flags = f"--restart=Never {labels} --image={images[0]} --overrides={shlex.quote(json.dumps(overrides))}"
    kube.check_output(f"{k} delete pod {name} --ignore-not-found --wait")
    kube.check_output(f"{k} run {name} {flags}")
    try:
        deadline = time.monotonic() + 90
        while (phase := kube.check_output(f"{k} get pod {name} -o jsonpath='{{.status.phase}}'")) in PENDING:
            assert time.monotonic() < deadline, f"pod {name} does not end"
            time.sleep(0.3)  # kubectl waits for one of the two ends only
        return phase
    finally:
        kube.check_output(f"{k} delete pod {name} --wait=false")


def test_pods_without_the_label_do_not_reach_it(kube: Host) -> None:
    assert reach(kube, "pytest-client", "--labels=caesar-testbed/mongodb-client=true", 20) == "Succeeded"
    assert reach(kube, "pytest-stranger", "--labels=app=stranger", 3) == "Failed"


# What survives.


def alive(connected: Client, timeout: float = 60) -> None:
    """Wait until the database answers again."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            connected.caesardb.command("ping")
        except PyMongoError:
            assert time.monotonic() < deadline, "the database did not come back"
            time.sleep(0.2)  # nothing tells when a killed process is back
        else:
            return


def test_a_killed_database_has_lost_nothing(kube: Host, mongo: Client, jobs: Collection[dict[str, Any]]) -> None:
    jobs.insert_many(documents())
    jobs.insert_one({"job_id": "the last one"})
    kube.check_output("pkill -KILL -x ferretdb")
    alive(mongo)
    found = list(jobs.find({}, projection={"_id": 0}))
    assert len(found) == 21
    assert found[-1] == {"job_id": "the last one"}


def contents(connected: Client) -> dict[str, list[bytes]]:
    """The bytes of these tests' documents."""
    raw: Any = connected.caesardb.get_collection(JOBS, codec_options=bson.CodecOptions(document_class=RawBSONDocument))
    return {JOBS: [document.raw for document in raw.find({})]}


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backup") / "one.mongodb"


def test_a_backup_brings_all_back_after_the_namespace_and_its_data_are_gone(
    kube: Host, kubectl: Kubectl, backup: Path
) -> None:
    with as_caesar() as mongo:
        mongo.caesardb.drop_collection(JOBS)
        mongo.caesardb[JOBS].insert_many(documents(200))
        before = contents(mongo)
    made = playbook("playbooks/backup.yml", "-e", f"backup={backup}")
    assert made.returncode == 0, made.stdout + made.stderr
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert "caesardb.pytest.jobs" in made.stdout
    assert password() not in made.stdout + made.stderr

    # What runs first: else the namespace's controller looks again only after half of the pods' time to end.
    k = "KUBECONFIG=/etc/kubernetes/admin.conf kubectl --timeout=120s delete"
    kube.check_output(f"{k} deployments,statefulsets,pvc --all -n {NAMESPACE} && {k} namespace {NAMESPACE}")
    again = playbook(*BOTH, "--diff")
    assert again.returncode == 0, again.stdout + again.stderr
    assert password() not in again.stdout + again.stderr
    # The directory outlives the namespace: nothing is lost by that alone.
    with as_caesar() as mongo:
        assert contents(mongo) == before
        for name in mongo.caesardb.list_collection_names():
            mongo.caesardb.drop_collection(name)
        mongo.caesardb["pytest.later"].insert_one({"made": "after the backup"})

    restored = playbook("playbooks/restore.yml", "-e", f"backup={backup}", "-e", "confirm=yes")
    assert restored.returncode == 0, restored.stdout + restored.stderr
    assert password() not in restored.stdout + restored.stderr
    with as_caesar() as mongo:
        assert contents(mongo) == before
        assert "pytest.later" not in mongo.caesardb.list_collection_names()
        mongo.caesardb.drop_collection(JOBS)


def test_half_a_backup_changes_nothing(backup: Path, tmp_path: Path, mongo: Client, jobs: Any) -> None:
    jobs.insert_many(documents(3))
    before = contents(mongo)
    half = tmp_path / "half.mongodb"
    half.write_bytes(backup.read_bytes()[:1000])
    refused = playbook("playbooks/restore.yml", "-e", f"backup={half}", "-e", "confirm=yes")
    assert refused.returncode != 0
    assert "Nothing was changed" in refused.stdout
    assert "is no backup" in " ".join(refused.stdout.split())
    assert contents(mongo) == before


def pack(place: Path, items: list[dict[str, Any]], unique: str = "") -> Path:
    """An archive of the jobs' collection alone, whole as far as an archive can tell."""
    writer = archive.Writer(place / archive.member(0))
    for item in items:
        writer.add(bson.encode(item))
    indexes = [{"keys": [[unique, 1]], "name": "one", "unique": True}] if unique else []
    made = place / "made.mongodb"
    archive.pack(place, [writer.close("caesardb", JOBS, indexes)], {"created": "now", "engine": "none"}, made)
    return made


def restore(backup: Path, safety: Path) -> int:
    """What playbooks/restore.yml runs."""
    return database.main(
        [
            "restore", f"--kubeconfig={STATE / 'kubeconfig'}", f"--namespace={NAMESPACE}", "--database=caesardb",
            "--user=caesar", f"--password-file={STATE / 'secrets/mongodb-password'}", f"--input={backup}",
            f"--safety={safety}",
        ]
    )  # fmt: skip


def everything(place: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """What all collections hold."""
    with as_caesar() as connected:
        return database.state(database.read(connected, place))


@pytest.mark.parametrize("fault", ["the engine dies", "the engine refuses"])
def test_a_restore_that_fails_half_way_leaves_what_there_was(
    kube: Host,
    jobs: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    jobs.insert_many(documents())
    before = everything(tmp_path / "before")
    many = [{"_id": number, "job_id": str(number)} for number in range(3000)]
    if fault == "the engine refuses":
        backup = pack(tmp_path, [*many, {"_id": 3000, "job_id": "0"}], unique="job_id")
    else:
        backup, tell = pack(tmp_path, many), database.Progress.add

        def kill(progress: Any, count: int, name: str) -> None:
            tell(progress, count, name)
            if count == database.BATCH:  # a batch is written, two are not
                monkeypatch.setattr(database.Progress, "add", tell)
                kube.check_output("pkill -KILL -x ferretdb")

        monkeypatch.setattr(database.Progress, "add", kill)
    assert restore(backup, tmp_path / "safety") == 1
    said = capsys.readouterr()
    assert "what there was is there again" in said.out
    assert ("UNIQUE constraint" if fault == "the engine refuses" else "does not answer") in said.err
    assert everything(tmp_path / "after") == before
    assert (tmp_path / "safety").is_file()


def test_a_restore_that_nobody_confirms_does_nothing(backup: Path) -> None:
    refused = playbook("playbooks/restore.yml", "-e", f"backup={backup}", "-e", "confirm=no")
    assert refused.returncode != 0
    assert "Nothing was changed: say yes" in refused.stdout


def pods(kubectl: Kubectl) -> dict[str, str]:
    """The pods of caesar-rest's parts, each with its number."""
    listed = kubectl(f"-n {NAMESPACE} get pods -l app.kubernetes.io/part-of=caesar-rest")["items"]
    return {each["metadata"]["labels"]["app.kubernetes.io/name"]: each["metadata"]["uid"] for each in listed}


def test_drift_is_taken_back_and_a_new_password_reaches_engine_secret_and_pods(kubectl: Kubectl, kube: Host) -> None:
    """What somebody changed is taken back; a password that was deleted is made anew, wherever it is known."""
    k = f"KUBECONFIG=/etc/kubernetes/admin.conf kubectl -n {NAMESPACE}"
    changed = json.dumps({"spec": {"ports": [{"name": "mongodb", "port": 27017, "targetPort": 27018}]}})
    kube.check_output(f"{k} patch service mongodb --type=merge -p {shlex.quote(changed)}")

    def target() -> int:
        return int(kubectl(f"-n {NAMESPACE} get service mongodb")["spec"]["ports"][0]["targetPort"])

    with as_caesar() as mongo:
        mongo.caesardb[JOBS].insert_one({"made": "before"})
    former, before, file = password(), pods(kubectl), STATE / "secrets/mongodb-password"
    file.unlink()
    foretold = playbook("playbooks/mongodb.yml", "--check", "--diff")
    assert "27018" in foretold.stdout
    assert "Secret caesar-rest/mongodb" in foretold.stdout
    assert target() == 27018, "a dry run has changed it"
    with as_caesar(former):
        pass
    done = playbook(*BOTH, "--diff", "-vvv")
    assert done.returncode == 0, done.stdout + done.stderr
    assert target() == 27017
    assert len(password()) == 40
    assert password() != former
    assert former not in done.stdout + done.stderr
    assert password() not in done.stdout + done.stderr
    with pytest.raises(OperationFailure), as_caesar(former):
        pass
    with as_caesar() as mongo:
        assert (mongo.caesardb[JOBS].find_one() or {})["made"] == "before", "it is another database"
        mongo.caesardb.drop_collection(JOBS)
    after = pods(kubectl)
    assert set(after) == {"caesar-rest", "caesar-rest-jobmonitor"}
    assert not set(after.values()) & set(before.values()), "a pod still has the former password"
    about = yaml.safe_load((STATE / "caesar-rest.yml").read_text())
    with urllib.request.urlopen(f"{about['url']}/jobs", timeout=20) as answer:
        assert answer.status == 200


def test_a_password_that_nobody_knows_any_more_is_regained_when_asked_for(kubectl: Kubectl, kube: Host) -> None:
    """The Secret and the operator's file are both gone, the database's files are not."""
    with as_caesar() as mongo:
        mongo.caesardb.drop_collection(JOBS)
        mongo.caesardb[JOBS].insert_many(documents())
        before = contents(mongo)
    former, file = password(), STATE / "secrets/mongodb-password"
    file.unlink()
    kube.check_output(f"KUBECONFIG=/etc/kubernetes/admin.conf kubectl -n {NAMESPACE} delete secret mongodb")

    told = playbook("playbooks/mongodb.yml")
    words = " ".join(told.stdout.split())
    assert told.returncode != 0
    assert "the database takes neither the password in" in words
    assert "-e mongodb_regain=true" in words
    with as_caesar(former) as mongo:
        assert contents(mongo) == before

    done = playbook(*BOTH, "-e", "mongodb_regain=true", "--diff", "-vvv")
    assert done.returncode == 0, done.stdout + done.stderr
    assert password() not in done.stdout + done.stderr
    with as_caesar() as mongo:
        assert contents(mongo) == before
        mongo.caesardb.drop_collection(JOBS)
    with pytest.raises(OperationFailure), as_caesar(former):
        pass
    [container] = kubectl(f"-n {NAMESPACE} get statefulset mongodb")["spec"]["template"]["spec"]["containers"]
    assert "--test-enable-new-auth" in container["args"]
    about = yaml.safe_load((STATE / "caesar-rest.yml").read_text())
    with urllib.request.urlopen(f"{about['url']}/jobs", timeout=20) as answer:
        assert answer.status == 200
    again = playbook("playbooks/mongodb.yml", "-e", "mongodb_regain=true")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "changed=0" in again.stdout, "who is let in has nothing to regain"


def test_the_password_is_nowhere(kube: Host) -> None:
    assert stat.S_IMODE((STATE / "secrets/mongodb-password").stat().st_mode) == 0o600
    arguments = kube.check_output("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "--setup-username=caesar" in arguments
    assert password() not in arguments
    logs = kube.check_output(f"KUBECONFIG=/etc/kubernetes/admin.conf kubectl -n {NAMESPACE} logs mongodb-0")
    assert password() not in logs
    assert kube.run(f"grep -rqF {password()} /var/log /run/log").rc == 1
