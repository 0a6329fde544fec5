"""The operator's verbs on a testbed that runs: platforms come and go by editing the list, and are drained.

Two more platforms are added for these tests, drained, and taken away again; those of the inventory are left alone.
The tests are a story: each goes on from the one before.
"""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from handles import PHYSICAL, PLATFORMS, STATE, of_group, playbook
from sessions import python_request, started, stdout
from test_planners import request
from testinfra.host import Host

Play = subprocess.CompletedProcess[str]
Command = Callable[..., subprocess.CompletedProcess[str]]

CONFIGURATION = "/etc/caesar-planner"
LEDGERS = "/var/lib/caesar-planner"
JOBS = "/mnt/storage/jobs"


def of_kind(kind: str) -> dict[str, Any]:
    """A copy of the first platform of a kind."""
    return copy.deepcopy(next(each for each in PLATFORMS if PHYSICAL[each["physical_platform"]]["kind"] == kind))


SLURM = of_kind("slurm") | {"name": "slurm-account-009", "uid": 20009, "port": 8109}
KUBERNETES = of_kind("kubernetes") | {"name": "k8s-namespace-009", "uid": 20109, "port": 8209}
NEW = [SLURM["name"], KUBERNETES["name"]]


def listed(platforms: list[dict[str, Any]]) -> list[str]:
    """The arguments that put another list in the place of the inventory's."""
    return ["-e", json.dumps({"virtual_platforms": platforms})]


def site(platforms: list[dict[str, Any]], *arguments: str) -> Play:
    """Run the stages that follow the list of platforms."""
    return playbook("site.yml", "--tags", "quotas,planners,voter", *listed(platforms), *arguments)


def drain(*arguments: str) -> Play:
    return playbook("playbooks/drain.yml", *listed([*PLATFORMS, SLURM, KUBERNETES]), *arguments)


def done(run: Play) -> int:
    """The number of changed tasks of a run that must have gone well."""
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr
    recap = run.stdout.split("PLAY RECAP")[1].splitlines()
    return sum(int(word.removeprefix("changed=")) for line in recap for word in line.split() if "changed=" in word)


@pytest.fixture(scope="module", autouse=True)
def grown(slurm: Host) -> Iterator[list[str]]:
    """A testbed with two platforms more; whatever happens here, they are gone afterwards."""
    there = [*NEW]
    done(site([*PLATFORMS, SLURM, KUBERNETES]))
    yield there
    if not there:
        return  # the last test has taken them away
    slurm.run(f"scancel --account={SLURM['name']}")
    run = site(PLATFORMS, "-e", "drain=cancel", "-e", "drain_timeout=60")
    assert run.returncode == 0, run.stdout[-6000:]


@pytest.fixture(scope="module")
def clients(address: dict[str, str]) -> Iterator[dict[str, httpx.Client]]:
    """A client of each of the two planners."""
    token = (STATE / "secrets/planner-tokens/operator").read_text().strip()
    made = {
        each["name"]: httpx.Client(
            base_url=f"http://{address[of_group('planners')]}:{each['port']}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
        )
        for each in (SLURM, KUBERNETES)
    }
    yield made
    for client in made.values():
        client.close()


def ask(client: httpx.Client) -> dict[str, Any]:
    answer: dict[str, Any] = client.post("/requests", json=request()).raise_for_status().json()
    return answer


def phase(client: httpx.Client, session: str) -> str:
    return str(client.get(f"/sessions/{session}").raise_for_status().json()["phase"])


def set_phase(client: httpx.Client, session: str, value: str) -> httpx.Response:
    update = {"kind": "uri:enum-value-update", "path": "/phase", "value": value}
    return client.post(f"/sessions/{session}", json=update)


def voters_list(caesar_vote: Command) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in json.loads(caesar_vote("platforms", "--json").stdout)["platforms"]}


def test_all_that_belongs_to_a_new_platform_is_there(
    slurm: Host, planner: Host, kubectl: Callable[[str], Any], caesar_vote: Command, clients: dict[str, httpx.Client]
) -> None:
    limits = slurm.check_output(f"sacctmgr -nP show assoc account={SLURM['name']} user= format=grpjobs,maxwall")
    assert limits.strip() == f"{SLURM['limits']['jobs']}|01:00:00"
    assert slurm.user(SLURM["name"]).uid == planner.user(SLURM["name"]).uid == SLURM["uid"]
    assert "count/jobs.batch" in kubectl(f"get resourcequota -n {KUBERNETES['name']}")["items"][0]["spec"]["hard"]
    for platform in (SLURM, KUBERNETES):
        directory = planner.file(f"{JOBS}/{platform['name']}")
        assert (directory.uid, directory.mode) == (platform["uid"], 0o700)
        answer = ask(clients[platform["name"]])
        assert answer["result"] == "YES"
        for offer in answer["offers"]:
            set_phase(clients[platform["name"]], offer["meta"]["uuid"], "REJECTED")
    assert {*NEW, *(each["name"] for each in PLATFORMS)} == set(voters_list(caesar_vote))


def test_a_platform_in_use_cannot_leave_and_nothing_is_half_done(
    slurm: Host, planner: Host, clients: dict[str, httpx.Client]
) -> None:
    job = planner.check_output(
        f"cd {JOBS}/{SLURM['name']} && sudo -u {SLURM['name']} sbatch --parsable -o /dev/null --wrap 'sleep 300'"
    ).strip()
    accounts = slurm.check_output("sacctmgr -nP show assoc")
    predicted = site(PLATFORMS, "--check")
    refused = site(PLATFORMS)
    for run in (predicted, refused):
        assert run.returncode != 0
        assert job in run.stdout
        assert SLURM["name"] in run.stdout
    # One cluster that says no is enough, also where what runs would be cancelled.
    capped = site(PLATFORMS, "-e", "drain=cancel", "-e", "kubernetes_namespaces_max_deletions=0")
    assert capped.returncode != 0
    assert KUBERNETES["name"] in capped.stdout
    assert slurm.check_output(f"squeue -h -j {job} -o %T").strip() in ("PENDING", "RUNNING")
    # Neither the one that is in use has lost anything, nor the one that could have gone.
    assert slurm.check_output("sacctmgr -nP show assoc") == accounts
    for name in NEW:
        assert "drained" not in clients[name].get("/capabilities").raise_for_status().json()
        assert ask(clients[name])["result"] == "YES"


def test_a_drained_platform_makes_no_offers_until_it_is_undone(
    planner: Host, caesar_vote: Command, clients: dict[str, httpx.Client]
) -> None:
    client, name = clients[SLURM["name"]], SLURM["name"]
    offer = ask(client)["offers"][0]["meta"]["uuid"]
    assert drain("-e", f"platform={name}", "--check").returncode == 0
    assert phase(client, offer) == "OFFERED", "a dry run drains nothing"

    # What somebody else runs in the account is named, and the platform stays drained.
    arguments = ["-e", f"platform={name}", "-e", "reason='new discs'"]
    run = drain(*arguments, "-e", "drain_timeout=2")
    assert run.returncode != 0
    assert "of somebody else (running" in run.stdout
    assert phase(client, offer) == "REJECTED"
    assert set_phase(client, offer, "ACCEPTED").status_code == 409
    refusal = ask(client)
    assert (refusal["result"], refusal["offers"]) == ("NO", [])
    assert "new discs" in refusal["meta"]["messages"][0]["message"]

    planner.check_output(f"systemctl restart planner@{name}.service")
    planner.check_output(f"scancel --user={name}")
    assert done(drain(*arguments, "-e", "drain_timeout=60")) == 0
    assert ask(client)["result"] == "NO"
    assert voters_list(caesar_vote)[name]["drained"]["reason"] == "new discs"
    assert "drained by" in caesar_vote("platforms").stdout
    assert "planner_drained 1.0" in client.get("/metrics").text

    assert done(drain("-e", f"platform={name}", "-e", "drain=undo")) == 1
    assert done(drain("-e", f"platform={name}", "-e", "drain=undo")) == 0
    assert ask(client)["result"] == "YES"


def test_a_drain_can_cancel_what_was_accepted(clients: dict[str, httpx.Client]) -> None:
    client, name = clients[KUBERNETES["name"]], KUBERNETES["name"]
    session = ask(client)["offers"][0]["meta"]["uuid"]
    set_phase(client, session, "ACCEPTED").raise_for_status()
    done(drain("-e", f"platform={name}", "-e", "drain=cancel", "-e", "drain_timeout=60"))
    # A job that has nothing to do may have ended by itself before it was cancelled.
    assert phase(client, session) in ("CANCELLED", "COMPLETED", "FAILED")
    assert client.get("/capabilities").json()["live"] == {"sessions": [], "others": []}


def test_an_unknown_platform_is_told_with_those_that_there_are() -> None:
    run = drain("-e", "platform=slurm-account-404")
    assert run.returncode != 0
    said = " ".join(run.stdout.split())
    assert "no platform with a planner is called slurm-account-404: there are slurm-account-001" in said


def test_a_planner_that_is_switched_off_leaves_its_platform_in_place(
    slurm: Host, planner: Host, caesar_vote: Command, clients: dict[str, httpx.Client]
) -> None:
    client, name = clients[SLURM["name"]], SLURM["name"]
    session = started(client, python_request("import time; print('here', flush=True); time.sleep(300)"))
    without = [*PLATFORMS, SLURM | {"planner": False}, KUBERNETES]
    # What it has accepted would go on with nobody to follow it.
    refused = site(without)
    assert refused.returncode != 0
    assert f"{name}: session {session[:8]}" in " ".join(refused.stdout.split())
    assert phase(client, session) in ("PREPARING", "AVAILABLE")
    done(site(without, "-e", "drain=cancel", "-e", "drain_timeout=60"))
    assert done(site(without)) == 0
    assert not planner.service(f"planner@{name}.service").is_running
    assert planner.file(f"{LEDGERS}/{name}/ledger.sqlite").exists
    assert name not in voters_list(caesar_vote)
    assert slurm.check_output(f"sacctmgr -nP show account {name} format=account").strip() == name
    # Switched on again it knows what it knew, and makes offers.
    done(playbook("playbooks/planners.yml", *listed([*PLATFORMS, SLURM, KUBERNETES])))
    assert phase(client, session) == "CANCELLED"
    assert stdout(client, session) == "here\n"
    assert ask(client)["result"] == "YES"


def test_nothing_of_platforms_that_left_stays_but_their_records(
    grown: list[str], slurm: Host, planner: Host, kubectl: Callable[[str], Any], caesar_vote: Command
) -> None:
    changed = done(site(PLATFORMS))
    assert changed > 0
    assert done(site(PLATFORMS)) == 0
    for name in NEW:
        assert name not in slurm.check_output("sacctmgr -nP show assoc format=account,user")
        assert name not in [each["metadata"]["name"] for each in kubectl("get namespaces")["items"]]
        assert not slurm.user(name).exists
        assert not planner.user(name).exists
        assert not planner.service(f"planner@{name}.service").is_running
        assert name not in planner.check_output(f"ls {CONFIGURATION} {LEDGERS} {LEDGERS}/.drained {JOBS} || true")
        assert not (STATE / "secrets/planner-tokens" / name).exists()
        assert name not in voters_list(caesar_vote)
        # Ledger and outputs are kept, and only root gets at them, whoever has the number next.
        for place in (LEDGERS, JOBS):
            assert planner.file(f"{place}/.removed").mode == 0o700
            assert name in planner.check_output(f"ls {place}/.removed")
    grown.clear()
