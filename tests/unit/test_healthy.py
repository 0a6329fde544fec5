"""The module `healthy`: it waits for all, and tells what those said that did not come."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import healthy as module
import pytest
from ansible.module_utils.testing import patch_module_args


class Service(BaseHTTPRequestHandler):
    """Says 503 until it was asked often enough."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        ready = self.path == "/soon" and self.asked > 2
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write(b"still reading the ledger")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    Service.asked = 0
    server = HTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def run(capsys: pytest.CaptureFixture[str], urls: list[str], check: bool = False) -> dict[str, Any]:
    with patch_module_args({"urls": urls, "timeout": 1, "_ansible_check_mode": check}), pytest.raises(SystemExit):
        module.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_it_waits_until_a_service_is_ready(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, [f"{service}/soon"])["changed"] is False
    assert Service.asked == 3


def test_it_tells_the_last_answer_of_those_that_are_not(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, [f"{service}/never", "http://127.0.0.1:1/health"])
    assert result["failed"]
    assert "503 still reading the ledger" in result["msg"]
    assert "http://127.0.0.1:1/health: [Errno 111] Connection refused" in result["msg"]


def test_a_dry_run_asks_nothing(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, [f"{service}/never"], check=True)["changed"] is False
    assert Service.asked == 0


def test_only_http_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert "not an http or https address" in run(capsys, ["file:///etc/passwd"])["msg"]
