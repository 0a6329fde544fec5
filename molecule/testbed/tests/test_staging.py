"""Data at http locations, on the real machines: fetched before the job starts, and shown to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import httpx
import pytest
from handles import NAME, PHYSICAL, PLATFORMS, answering
from sessions import ended, planner_client, python_request, refused, started, stdout, with_data
from testinfra.host import Host

# The last of each kind.
OF = {PHYSICAL[platform["physical_platform"]]["kind"]: platform["name"] for platform in PLATFORMS}
PORT = 18080
MAP = b"SIMPLE  =                    T" * 100_000
DIGEST = hashlib.sha256(MAP).hexdigest()
SERVER = f"""
import http.server, sys, time
MAP = b"SIMPLE  =                    T" * 100_000
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(MAP)))
        self.end_headers()
        if self.path.endswith("slow.fits"):
            for start in range(0, len(MAP), len(MAP) // 20):
                self.wfile.write(MAP[start:start + len(MAP) // 20])
                time.sleep(0.2)
        else:
            self.wfile.write(MAP)
http.server.ThreadingHTTPServer((sys.argv[1], {PORT}), Handler).serve_forever()
"""
HASH = "import glob, hashlib; [f] = glob.glob('/data/*'); print(f, hashlib.sha256(open(f, 'rb').read()).hexdigest())"


@pytest.fixture(scope="module")
def base(planner: Host, address: dict[str, str]) -> Iterator[str]:
    """A server on the planners' machine."""
    planner.run("systemctl stop test-data.service")
    run = f"systemd-run --unit=test-data --collect python3 -c '{SERVER}' {address['planner']}"
    planner.check_output(run.replace("%", "%%"))
    yield f"http://{address['planner']}:{PORT}"
    planner.run("systemctl stop test-data.service")


@pytest.fixture(scope="module")
def clients(address: dict[str, str]) -> Iterator[dict[str, httpx.Client]]:
    """A client of one planner of each kind."""
    made = {kind: planner_client(address, name) for kind, name in OF.items()}
    yield made
    for client in made.values():
        client.close()


@pytest.fixture(scope="module")
def sessions(clients: dict[str, httpx.Client], base: str) -> dict[tuple[str, str], str]:
    """Sessions by kind and by what their data are, all started before any is waited for."""
    begun = {}
    for kind, client in clients.items():
        said = refused(client, with_data(python_request("pass"), f"{base}/map.fits"))
        if said and NAME != "caesar-test":
            pytest.skip(f"planner_staging of this testbed does not allow it: {said}")
        assert said == ""
        for what, location in (
            ("right", f"{base}/sky/map.fits#sha256={DIGEST}"),
            ("wrong", f"{base}/map.fits#sha256={'0' * 64}"),
        ):
            begun[kind, what] = started(client, with_data(python_request(HASH), location))
    return begun


@pytest.mark.parametrize("kind", OF)
def test_a_job_reads_what_was_fetched_for_it(
    clients: dict[str, httpx.Client], sessions: dict[tuple[str, str], str], kind: str
) -> None:
    session = sessions[kind, "right"]
    document = ended(clients[kind], session)
    assert document["phase"] == "COMPLETED", document["meta"]["messages"]
    assert stdout(clients[kind], session) == f"/data/map.fits {DIGEST}\n"


@pytest.mark.parametrize("kind", OF)
def test_a_wrong_checksum_ends_the_session_with_the_reason(
    clients: dict[str, httpx.Client], sessions: dict[tuple[str, str], str], kind: str
) -> None:
    document = ended(clients[kind], sessions[kind, "wrong"])
    assert document["phase"] == "FAILED"
    assert f"has the SHA-256 {DIGEST}, not 000" in document["meta"]["messages"][-1]["message"]


@pytest.mark.parametrize("kind", OF)
def test_a_planner_that_is_killed_meanwhile_fetches_anew(
    planner: Host, address: dict[str, str], base: str, kind: str
) -> None:
    with planner_client(address, OF[kind]) as client:
        request = with_data(python_request(HASH), f"{base}/slow.fits#sha256={DIGEST}")
        if (said := refused(client, request)) and NAME != "caesar-test":
            pytest.skip(said)
        session = started(client, request)
        part = f"/mnt/storage/jobs/{OF[kind]}/{session}/inputs.part/0/slow.fits"
        planner.check_output(f"for i in $(seq 300); do test -e {part} && exit 0; sleep 0.1; done; exit 1")
        planner.check_output(f"systemctl kill -s KILL planner@{OF[kind]}.service")
        answering(address, OF[kind])
        document = ended(client, session)
        assert document["phase"] == "COMPLETED", document["meta"]["messages"]
        assert stdout(client, session) == f"/data/slow.fits {DIGEST}\n"
        left = planner.check_output(f"ls /mnt/storage/jobs/{OF[kind]}/{session}")
        assert "inputs" not in left
