"""Sessions at the real planners, as a client of theirs has them."""

from __future__ import annotations

import time
from typing import Any

import httpx
from handles import PLATFORMS, STATE
from tests.published import check_reply_now

KINDS = "https://www.purl.org/ivoa.net/Calycopis-openapi/schema/v1.0/kinds"
PYTHON = "/usr/bin/python3"
OVER = ("COMPLETED", "FAILED", "CANCELLED", "REJECTED", "EXPIRED")
Document = dict[str, Any]


def planner_client(address: dict[str, str], name: str) -> httpx.Client:
    """A client of one planner, with the operator's token."""
    port = next(platform["port"] for platform in PLATFORMS if platform["name"] == name)
    token = (STATE / "secrets" / "planner-tokens" / "operator").read_text().strip()
    return httpx.Client(
        base_url=f"http://{address['planner']}:{port}",
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
        trust_env=False,
        event_hooks={"response": [check_reply_now]},
    )


def python_request(code: str, *words: str, cores: int = 1, duration: str = "PT2M", **executable: Any) -> Document:
    """Ask for a job that runs some Python in the image, with words and what else describes the executable."""
    return {
        "executable": {
            "kind": f"{KINDS}/executable/docker-container.yaml",
            "image": {"locations": ["caesar/aegean-job:2.3.5"]},
            "entrypoint": PYTHON,
            "command": ["-I", "-c", code, *words],
            **executable,
        },
        "compute": {
            "kind": f"{KINDS}/compute/simple-compute-resource.yaml",
            "cores": {"min": cores},
            "memory": {"min": 1},
        },
        "schedule": {"requested": {"duration": duration}},
    }


def with_data(request: Document, location: str) -> Document:
    """The same with data at /data."""
    volume = {"kind": f"{KINDS}/volume/simple-volume-mount.yaml", "path": "/data", "mode": "READONLY", "resource": "d"}
    data = {"kind": f"{KINDS}/data/simple-data-resource.yaml", "meta": {"name": "d"}, "location": location}
    return request | {"compute": request["compute"] | {"volumes": [volume]}, "data": [data]}


def update(client: httpx.Client, session: str, phase: str) -> Document:
    """Accept, reject or cancel."""
    body = {"kind": "uri:enum-value-update", "path": "/phase", "value": phase}
    return dict(client.post(f"/sessions/{session}", json=body).raise_for_status().json())


def refused(client: httpx.Client, request: Document) -> str:
    """Everything that the planner says against a request; nothing where it makes offers, which are given back."""
    said = client.post("/requests", json=request).raise_for_status().json()
    for offer in said["offers"]:
        update(client, offer["meta"]["uuid"], "REJECTED")
    return (
        " ".join(message["message"] for message in said["meta"].get("messages", ())) if said["result"] == "NO" else ""
    )


def started(client: httpx.Client, request: Document) -> str:
    """Accept the first offer; returns the session."""
    said = client.post("/requests", json=request).raise_for_status().json()
    assert said["result"] == "YES", said["meta"]
    session = str(said["offers"][0]["meta"]["uuid"])
    update(client, session, "ACCEPTED")
    return session


def ended(client: httpx.Client, session: str, timeout: float = 180) -> Document:
    """A session once it is over."""
    deadline = time.monotonic() + timeout
    while True:
        document: Document = client.get(f"/sessions/{session}").raise_for_status().json()
        if document["phase"] in OVER:
            return document
        assert time.monotonic() < deadline, document
        time.sleep(0.3)  # a session tells nobody


def stdout(client: httpx.Client, session: str) -> str:
    """What the job wrote."""
    return client.get(f"/sessions/{session}/stdout").raise_for_status().text
