"""The testbed on clusters that exist already: what inventories/site makes there, and that nothing else changes.

The tests' own testbed plays the site. People without root set accounts from its machine `planner`, a service account
with the rights of docs/kubernetes-operator.yaml makes namespaces, and planners and voter run on its machine `kube`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mongo_image
import pytest
import yaml
from existing_site import (
    FOUND,
    MADE,
    NAMESPACES,
    SERVICES,
    SITE,
    STORAGE,
    USERS,
    ansible,
    clean,
    contents,
    difference,
    inventory,
    made_on_kubernetes,
    prepare,
    seen,
)
from handles import PROJECT, STATE, machine
from pymongo import MongoClient

sys.path.append(str(PROJECT / "roles/mongodb/files"))

from forward import forwarded

#: Whole runs of Ansible, several in one test.
pytestmark = pytest.mark.timeout(900)
PROJECT_STATE = STATE.parent / SITE
#: Roles that make machines and clusters.
MAKERS = ("local_machines", "slurm_cluster", "kubernetes_cluster", "openstack_machines")


@pytest.fixture(scope="module")
def before(address: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the site looks like before anything of the testbed is there; afterwards it is no site any more."""
    prepare()
    yield seen() | {"host of the services": contents("kube")}
    if PROJECT_STATE.exists():  # a test has failed half way
        ours = inventory(tmp_path_factory.mktemp("left") / "ours", user="site-operator", parent=MADE, address=address)
        ansible(ours, "playbooks/teardown.yml", "-e", "confirm=yes")
    clean()


def recap(output: str) -> dict[str, dict[str, int]]:
    """The counts of a run, by host."""
    lines = re.findall(r"^(\S+)\s+: (ok=.*)$", output.rsplit("PLAY RECAP", 1)[-1], re.MULTILINE)
    return {host: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", counts)} for host, counts in lines}


def told(output: str) -> list[str]:
    """The faults that a run named, each as one line of words."""
    text = output.split("in the way; nothing has been changed:", 1)[1].split("Origin:")[0]
    return [" ".join(part.split()) for part in re.split(r"\n\s*- ", text)[1:]]


def test_what_cannot_be_done_is_said_before_anything_is_tried(
    before: dict[str, str], address: dict[str, str], tmp_path: Path
) -> None:
    ours = inventory(
        tmp_path / "ours", user="site-nobody", parent="site-lacking", qos="site-lacking", account="site-nobody",
        root="/mnt/lacking", address=address, storage={"volume": "lacking-{name}"},
    )  # fmt: skip
    run = ansible(ours, "site.yml", "-e", "planner_app_bundle_python=2.7")
    assert run.returncode != 0
    faults = told(run.stdout)
    for words in (
        "there is no account site-lacking",
        "sacctmgr add coordinator account=site-lacking names=site-nobody",
        "sacctmgr add qos site-lacking flags=DenyOnLimit",
        "the submit host has no directory /mnt/lacking",
        "services has no directory /mnt/lacking",
        'planner_app_bundle_python: "3.11"',
        "create, delete, get, list, patch, update namespaces",
        "bind caesar-testbed-operator of docs/kubernetes-operator.yaml",
        "create, get, patch statefulsets.apps (named mongodb)",
        "create, delete, get, patch persistentvolumes",
        "bind caesar-testbed-operator-services and caesar-testbed-operator-volumes of docs/kubernetes-operator.yaml",
    ):
        assert any(words in fault for fault in faults), f"{words}\n" + "\n".join(faults)
    assert not PROJECT_STATE.exists()
    assert difference(before, seen()) == []


def test_users_that_the_site_lacks_are_asked_for(address: dict[str, str], tmp_path: Path, before: Any) -> None:
    ours = inventory(tmp_path / "ours", user="site-operator", parent=MADE, address=address)
    listed = ours / "group_vars/all/platforms.yml"
    listed.write_text(listed.read_text().replace("site-slurm-001", "site-lacking-001").replace("22002", "22009"))
    [missing, number] = told(ansible(ours, "playbooks/validate.yml").stdout)
    assert "the site has no unix user site-lacking-001" in missing
    assert "write uid: 22002" in number


def caesar_rest_takes_a_job() -> None:
    """Database and application run with the rights of the operator's role, and an image like MongoDB's own."""
    kube = machine("kube")
    [pod] = json.loads(kube.check_output(f"kubectl -n {SERVICES} get pod mongodb-0 -o json"))["status"][
        "containerStatuses"
    ]
    assert (pod["image"], pod["restartCount"]) == (mongo_image.REFERENCE, 0)
    assert "root is made" in kube.check_output(f"kubectl -n {SERVICES} logs mongodb-0")
    password = (PROJECT_STATE / "secrets/mongodb-password").read_text().strip()
    with forwarded(STATE / "kubeconfig", "", SERVICES, "mongodb-0", 27017) as port:
        for user, database in (("root", "admin"), ("caesar", "caesardb")):
            with MongoClient(
                "127.0.0.1", port, username=user, password=password, authSource=database, directConnection=True
            ) as client:
                assert client.caesardb.command("ping")["ok"] == 1
    about = yaml.safe_load((PROJECT_STATE / "caesar-rest.yml").read_text())
    with httpx.Client(base_url=about["url"], timeout=30, trust_env=False) as rest:
        sent = rest.post("/upload", files={"file": ("map.fits", b"SIMPLE")}).raise_for_status().json()
        asked = {"app": "aegean", "data_inputs": sent["uuid"], "job_inputs": {"seedthr": 5}}
        job = rest.post("/job", json=asked)
        assert job.status_code == 202, job.text
        assert rest.post(f"/job/{job.json()['job_id']}/cancel").status_code == 200


def test_an_operator_puts_it_up_and_takes_it_away(
    before: dict[str, str], address: dict[str, str], tmp_path: Path
) -> None:
    ours = inventory(tmp_path / "ours", user="site-operator", parent=MADE, address=address)
    run = ansible(ours, "site.yml", timeout=600)
    assert run.returncode == 0, run.stdout[-4000:]
    assert not [
        line for line in run.stdout.splitlines() if line.startswith(tuple(f"TASK [{role} :" for role in MAKERS))
    ]
    made = json.loads((PROJECT_STATE / "smoke.json").read_text())
    assert made["planner"] in {*USERS, *NAMESPACES}
    assert made["asked"] == 4
    assert made["sources"] == 58

    # The site, its users and its services are what they were; accounts and namespaces of others too.
    assert difference(before, seen()) == []
    slurm = machine("slurm").check_output("sacctmgr -nP show assoc format=Account,User,ParentName,QOS").splitlines()
    for user in USERS:
        assert f"{user}||{MADE}|site-qos" in slurm
        assert f"{user}|{user}||site-qos" in slurm
    kube = machine("kube")
    assert made_on_kubernetes() == {
        *(f"Namespace/{name}" for name in (*NAMESPACES, SERVICES)),
        f"PersistentVolume/{SITE}-{SERVICES}-shared",
    }
    for name in NAMESPACES:
        assert (
            kube.check_output(f"kubectl -n {name} get pvc storage -o jsonpath={{.spec.volumeName}}") == f"site-{name}"
        )

    caesar_rest_takes_a_job()
    again = ansible(ours, "site.yml")
    assert again.returncode == 0, again.stdout[-4000:]
    assert {host: counts["changed"] for host, counts in recap(again.stdout).items()} == {
        "localhost": 0, "services": 0, "submit": 0,
    }  # fmt: skip

    user = next(iter(USERS))
    job = machine("planner").check_output(
        f"cd {STORAGE}/jobs/{user} && sudo -u {user} sbatch --parsable --mem=100M -o /dev/null --wrap 'sleep 600'"
    )
    refused = ansible(ours, "playbooks/teardown.yml")
    assert refused.returncode != 0
    assert "Nothing was removed" in refused.stdout
    gone = ansible(ours, "playbooks/teardown.yml", "-e", "confirm=yes")
    assert gone.returncode == 0, gone.stdout[-4000:]
    assert difference(before, seen() | {"host of the services": contents("kube")}) == []
    assert made_on_kubernetes() == set()
    # Where ledgers and ballots were.
    assert machine("kube").run("ls -d /var/lib/caesar-*").stdout == ""
    # What ran is cancelled, and stays on record.
    assert machine("slurm").check_output(f"sacct -XnP -j {job} -o account,state").startswith(f"{user}|CANCELLED")
    assert machine("slurm").check_output(f"sacctmgr -nP show account {MADE} format=Account") == ""
    assert machine("planner").check_output(f"ls -A {STORAGE}") == ""
    assert not PROJECT_STATE.exists()


def test_a_coordinator_sets_quotas_and_takes_them_away(
    before: dict[str, str], address: dict[str, str], tmp_path: Path
) -> None:
    """Only Slurm: what Kubernetes does is the same whoever sets the accounts."""
    ours = inventory(tmp_path / "ours", user="site-coordinator", parent=FOUND, address=address)
    arguments = ["playbooks/quotas.yml", "--limit=submit"]
    run = ansible(ours, *arguments)
    assert run.returncode == 0, run.stdout[-4000:]
    assert recap(run.stdout)["submit"]["changed"] == 1
    rows = machine("slurm").check_output("sacctmgr -nP show assoc format=Account,User,ParentName,QOS").splitlines()
    for user in USERS:
        assert f"{user}||{FOUND}|site-qos" in rows
        assert f"{user}|{user}||site-qos" in rows
    assert recap(ansible(ours, *arguments).stdout)["submit"]["changed"] == 0
    gone = ansible(ours, "playbooks/teardown.yml", "-e", "confirm=yes", "--limit=submit,localhost")
    assert gone.returncode == 0, gone.stdout[-4000:]
    assert difference(before, seen()) == []
    rows = machine("slurm").check_output("sacctmgr -nP show assoc format=Account").splitlines()
    assert not set(USERS) & set(rows)
