"""Six planners, each of its platform: what they say, what they refuse, and what they keep through a kill."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from handles import PLATFORMS, STATE, answering
from testinfra.host import Host
from tests.published import check_reply_now

KINDS = "https://www.purl.org/ivoa.net/Calycopis-openapi/schema/v1.0/kinds"
IDS = [platform["name"] for platform in PLATFORMS]
PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def clients(address: dict[str, str]) -> Iterator[dict[str, httpx.Client]]:
    """A client of each planner, with the operator's token."""
    token = (STATE / "secrets" / "planner-tokens" / "operator").read_text().strip()
    made = {
        platform["name"]: httpx.Client(
            base_url=f"http://{address['planner']}:{platform['port']}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
            event_hooks={"response": [check_reply_now]},
        )
        for platform in PLATFORMS
    }
    yield made
    for client in made.values():
        client.close()


def request(cores: int = 1, **more: Any) -> dict[str, Any]:
    """The least that a planner can make offers for."""
    return {
        "executable": {
            "kind": f"{KINDS}/executable/docker-container.yaml",
            "image": {"locations": ["caesar/aegean-job:2.3.5"]},
        },
        "compute": {
            "kind": f"{KINDS}/compute/simple-compute-resource.yaml",
            "cores": {"min": cores},
            "memory": {"min": 1},
        },
    } | more


def reject(client: httpx.Client, offerset: dict[str, Any]) -> None:
    for offer in offerset["offers"]:
        update = {"kind": "uri:enum-value-update", "path": "/phase", "value": "REJECTED"}
        client.post(f"/sessions/{offer['meta']['uuid']}", json=update).raise_for_status()


@pytest.mark.parametrize("platform", PLATFORMS, ids=IDS)
def test_each_says_what_its_platform_may(clients: dict[str, httpx.Client], platform: dict[str, Any]) -> None:
    said = clients[platform["name"]].get("/capabilities").raise_for_status().json()
    assert said["name"] == platform["name"]
    assert {key: said["limits"][key] for key in ("cores", "memory_gib", "jobs")} == {
        key: platform["limits"][key] for key in ("cores", "memory_gib", "jobs")
    }


@pytest.mark.parametrize("platform", PLATFORMS, ids=IDS)
def test_each_makes_offers_and_takes_them_back(clients: dict[str, httpx.Client], platform: dict[str, Any]) -> None:
    client = clients[platform["name"]]
    offerset = client.post("/requests", json=request()).raise_for_status().json()
    assert offerset["result"] == "YES", offerset
    assert client.get(f"/offersets/{offerset['meta']['uuid']}").raise_for_status().json()["result"] == "YES"
    reject(client, offerset)
    offer = client.get(f"/sessions/{offerset['offers'][0]['meta']['uuid']}").raise_for_status().json()
    assert offer["phase"] == "REJECTED"


@pytest.mark.parametrize("platform", PLATFORMS, ids=IDS)
def test_each_refuses_what_no_job_may_have(clients: dict[str, httpx.Client], platform: dict[str, Any]) -> None:
    cores = platform["limits"]["cores"] + 1
    said = clients[platform["name"]].post("/requests", json=request(cores)).raise_for_status().json()
    assert (said["result"], said["offers"]) == ("NO", [])
    message = " ".join(message["message"] for message in said["meta"]["messages"])
    assert str(cores) in message
    assert str(platform["limits"]["cores"]) in message


def test_an_unknown_kind_is_a_no_with_the_reason(clients: dict[str, httpx.Client]) -> None:
    strange = request() | {"executable": {"kind": f"{KINDS}/executable/jupyter-notebook.yaml", "location": "x"}}
    said = clients["slurm-account-001"].post("/requests", json=strange).raise_for_status().json()
    assert said["result"] == "NO"
    assert any("jupyter-notebook" in message["message"] for message in said["meta"]["messages"])


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"compute": {"kind": f"{KINDS}/compute/simple-compute-resource.yaml", "cores": {"min": "two"}}}, "cores"),
        ({"compute": {"kind": f"{KINDS}/compute/simple-compute-resource.yaml", "cores": {"min": -1}}}, "cores"),
        ({"schedule": {"requested": {"duration": "one hour"}}}, "duration"),
        ([], "body"),
    ],
)
def test_a_malformed_request_is_400_and_names_the_field(
    clients: dict[str, httpx.Client], body: Any, names: str
) -> None:
    reply = clients["k8s-namespace-001"].post("/requests", json=request() | body if isinstance(body, dict) else body)
    assert reply.status_code == 400
    assert reply.headers["content-type"].startswith(PROBLEM)
    assert names in reply.text


def test_yaml_is_understood_and_spoken(clients: dict[str, httpx.Client]) -> None:
    import yaml

    client = clients["slurm-account-002"]
    headers = {"Content-Type": "application/yaml", "Accept": "application/yaml"}
    reply = client.post("/requests", content=yaml.safe_dump(request()), headers=headers).raise_for_status()
    assert reply.headers["content-type"].startswith("application/yaml")
    offerset = yaml.safe_load(reply.text)
    assert offerset["result"] == "YES", "an unquoted YES would have become true"
    reject(client, offerset)


def test_nobody_passes_without_a_token(clients: dict[str, httpx.Client]) -> None:
    client = clients["slurm-account-001"]
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}):
        reply = client.post("/requests", json=request(), headers=headers)
        assert reply.status_code == 401
    assert client.get("/health", headers={"Authorization": ""}).status_code == 200


@pytest.mark.parametrize("name", ["slurm-account-003", "k8s-namespace-003"])
def test_a_killed_planner_keeps_its_offers_and_its_sessions(
    clients: dict[str, httpx.Client], planner: Host, address: dict[str, str], name: str
) -> None:
    client = clients[name]
    offerset = client.post("/requests", json=request(2)).raise_for_status().json()
    assert offerset["result"] == "YES", offerset
    planner.check_output(f"systemctl kill -s KILL planner@{name}.service")
    answering(address, name)
    kept = client.get(f"/offersets/{offerset['meta']['uuid']}").raise_for_status().json()
    assert [offer["meta"]["uuid"] for offer in kept["offers"]] == [
        offer["meta"]["uuid"] for offer in offerset["offers"]
    ]
    assert {offer["phase"] for offer in kept["offers"]} == {"OFFERED"}
    reject(client, kept)


def test_a_planner_runs_as_its_platforms_user_and_reads_no_other(planner: Host) -> None:
    for name in IDS:
        user = planner.check_output(f"ps -o user:32= -p $(systemctl show -p MainPID --value planner@{name}.service)")
        assert user.strip() == name
    others = planner.run("sudo -u slurm-account-001 cat /etc/caesar-planner/slurm-account-002.tokens")
    assert others.rc != 0
    assert planner.run("sudo -u slurm-account-001 ls /mnt/storage/jobs/slurm-account-002").rc != 0
