"""The voter's pages in a real browser, with planners that do what no planner should and what is rare on a testbed.

Not among the fast tests, since they need Chromium. Run by `make test`, or by hand: pytest tests/browser
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from browser import DESKTOP, PHONE, Browser, browser
from planner_app.execution_broker.times import format_instant
from planner_app.voter.config import VoterConfig
from tests.test_voter_pages import HOSTILE, uploaded_image, with_outputs
from tests.voter_stubs import StubPlanner, VoterUnderTest, gives, http, running, until, vote

WIDTHS = (DESKTOP, PHONE)
QUICK = ["full", "hostile", "drained"]
FULL = {
    "kind": "slurm",
    "quota": {"cores": 16, "memory_gib": 64, "disc_gb": 1000, "jobs": 8},
    "limits": {"cores": 8, "memory_gib": 32, "walltime": "P2DT3H", "jobs": 8},
    "in_use": {"cores": 16, "memory_gib": 64, "disc_gb": 1000, "jobs": 8},
    "reserved": {"cores": 0, "memory_gib": 0, "disc_gb": 0, "jobs": 0},
    "free": {"cores": 0, "memory_gib": 0, "disc_gb": 0, "jobs": 0},
    "costs": {"monetary": 0.05, "energy": 0.011, "carbon": 2.9},
    "metrics": {"compute-performance": 130},
}


async def hangs(stub: StubPlanner, method: str, path: str, body: bytes) -> bytes | None:
    if path == "/requests":
        await asyncio.sleep(60)
    return http(500, {}) if path == "/capabilities" else None


class Voter(threading.Thread):
    """A voter on a port of its own, with ballots that were really held."""

    def __init__(self, directory: Path) -> None:
        super().__init__(daemon=True)
        self.directory = directory
        self.ready = threading.Event()
        self.ballots: dict[str, str] = {}
        self.url = ""
        self.server: uvicorn.Server | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self.ready.set()

    async def _serve(self) -> None:
        no = {"result": "NO", "meta": {"messages": [{"message": HOSTILE}, {"message": "verylongword" * 30}]}}
        full = StubPlanner("full", with_outputs(), monetary=0.1)
        full.capabilities = FULL | {
            "ahead": [
                {"from": format_instant(datetime.now(UTC)), "cores": 99, "memory_gib": 64, "disc_gb": 9, "jobs": 8}
            ]
        }
        hostile = StubPlanner("hostile", gives(http(200, StubPlanner.offer_set(**no))))
        hostile.capabilities = FULL | {"kind": HOSTILE, "platform": {"answers": False, "why": HOSTILE * 5}}
        drained = StubPlanner("drained", gives(http(500, HOSTILE.encode(), "text/html")))
        drained.capabilities = FULL | {"drained": {"words": f"drained by {HOSTILE}"}}
        stubs = [full, hostile, drained, StubPlanner("silent", hangs)]
        async with running(*stubs):
            under_test = VoterUnderTest(self.directory, *stubs, deadline="PT5S")
            under_test.document["storage"]["max_upload_bytes"] = 10**6
            under_test.config = VoterConfig.model_validate(under_test.document)
            server = uvicorn.Server(uvicorn.Config(under_test.app(), "127.0.0.1", 0, log_level="warning"))
            self.server, serving = server, asyncio.ensure_future(server.serve())
            await until(lambda: server.started)
            port = server.servers[0].sockets[0].getsockname()[1]
            self.url = f"http://127.0.0.1:{port}"
            headers = {"Authorization": "Bearer secret"}
            async with httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60) as api:
                await self._hold(api, full)
            self.ready.set()
            await serving

    async def _hold(self, api: httpx.AsyncClient, full: StubPlanner) -> None:
        plain, now = full.session, datetime.now(UTC)

        def session(uuid: str) -> dict[str, Any]:
            schedule = {
                "available": {"start": format_instant(now) + "/PT0S"},
                "releasing": {"start": format_instant(now + timedelta(seconds=40))},
            }
            return plain(uuid) | {"schedule": schedule}

        full.session = session  # type: ignore[method-assign]
        for name, phase in (("completed", "COMPLETED"), ("failed", "FAILED"), ("running", "RUNNING")):
            # The silent one costs the deadline, so it is asked once.
            asked = [] if name == "completed" else QUICK
            ballot = await vote(api, upload=await uploaded_image(api), only=asked)
            self.ballots[name] = ballot["id"]
            full.messages = [HOSTILE] if phase == "FAILED" else []
            full.sessions[ballot["winner"]["session"]] = phase

            async def seen(name: str = name) -> bool:
                found = (await api.get(f"/ballots/{self.ballots[name]}")).json()
                return name.upper() in (found["state"], found["phase"])

            await until(seen)
        self.ballots["asked"] = (await vote(api, accept=False, only=QUICK))["id"]
        self.ballots["no-offer"] = (await vote(api, accept=False, only=QUICK, max_costs={"monetary": 0.0}))["id"]

    def link(self) -> str:
        reply = httpx.post(f"{self.url}/logins", headers={"Authorization": "Bearer secret"}, timeout=60)
        return str(reply.json()["url"]).replace("http://voter", self.url)

    def stop(self) -> None:
        if self.server is not None:
            self.server.should_exit = True
        self.join(30)


@pytest.fixture(scope="module")
def voter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Voter]:
    thread = Voter(tmp_path_factory.mktemp("voter"))
    thread.start()
    assert thread.ready.wait(120)
    assert thread.ballots
    yield thread
    thread.stop()


@pytest.fixture(scope="module")
def chromium(voter: Voter) -> Iterator[Browser]:
    with browser() as window:
        window.log_in(voter.link())
        yield window


def addresses(voter: Voter) -> list[str]:
    pages = ["/", "/?refresh=on", "/ballots", "/ballots?phase=FAILED", "/ballots?phase=VOTING", "/ballots/ffff"]
    for name, ballot in voter.ballots.items():
        pages.append(f"/ballots/{ballot}")
        if name not in ("asked", "no-offer"):
            pages.append(f"/jobs/{ballot}")
    return pages


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_keeps_anybody_out(voter: Voter, chromium: Browser, width: int) -> None:
    titles = set()
    for path in addresses(voter):
        chromium.open(path, width)
        assert chromium.barriers() == [], path
        assert chromium.wider_than(width) <= 0, path
        assert chromium.run("return document.documentElement.lang") == "en"
        assert chromium.run("return document.querySelectorAll('h1').length") == 1
        titles.add(chromium.driver.title)
    assert len(titles) >= 9


def test_no_page_runs_or_loads_what_it_should_not(voter: Voter, chromium: Browser) -> None:
    chromium.complaints()
    for path in addresses(voter):
        if path == "/ballots/ffff":
            continue
        chromium.open(path)
        # A blocked script or image would be complained of, and an alert would have to be answered first.
        assert chromium.complaints() == [], path
        assert chromium.run("return document.querySelectorAll('script, img, form, [onerror], [onclick]').length") == 0


def test_what_a_planner_says_is_read_as_it_was_said(voter: Voter, chromium: Browser) -> None:
    chromium.open(f"/ballots/{voter.ballots['completed']}")
    assert HOSTILE in chromium.text
    chromium.open("/")
    assert HOSTILE in chromium.text
    chromium.open(f"/jobs/{voter.ballots['failed']}")
    assert HOSTILE in chromium.text


def test_pages_need_no_scripts(voter: Voter, chromium: Browser) -> None:
    pages = [path for path in addresses(voter) if path != "/ballots/ffff"]
    with_scripts = []
    for path in pages:
        chromium.open(path)
        with_scripts.append(without_times(chromium.text))
    chromium.scripts(False)
    try:
        for path, text in zip(pages, with_scripts, strict=True):
            chromium.open(path)
            assert without_times(chromium.text) == text, path
    finally:
        chromium.scripts(True)


def without_times(text: str) -> str:
    """A page's text without what goes on while one looks."""
    return re.sub(r"\d\d:\d\d:\d\d|[\d.]+ (s|ms|min)\b", "", text)


def test_the_keyboard_reaches_the_content_first(chromium: Browser) -> None:
    chromium.open("/ballots")
    focused = "return document.activeElement.textContent.trim()"
    for expected in ("Skip to the content", "Platforms", "Ballots"):
        press(chromium, "Tab")
        assert chromium.run(focused) == expected
        assert chromium.run("return document.activeElement.matches(':focus-visible')")
    chromium.open("/ballots?refresh=off")
    press(chromium, "Tab")
    press(chromium, "Enter")
    assert chromium.run("return location.hash") == "#main"


def press(chromium: Browser, key: str) -> None:
    codes = {"Tab": 9, "Enter": 13}
    described = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
    text = {"text": "\r"} if key == "Enter" else {}
    chromium.driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyDown", **described, **text})
    chromium.driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyUp", **described})


def test_a_page_comes_anew_until_it_is_told_not_to(voter: Voter, chromium: Browser) -> None:
    chromium.open("/ballots")
    first = chromium.run("return performance.timeOrigin")
    deadline = datetime.now(UTC) + timedelta(seconds=60)
    while chromium.run("return performance.timeOrigin") == first:
        assert datetime.now(UTC) < deadline
    chromium.driver.find_element("link text", "Stop refreshing").click()
    assert "Refresh every few seconds" in chromium.text


def test_another_browser_is_not_logged_in(voter: Voter, chromium: Browser) -> None:
    with browser() as other:
        other.base = voter.url
        for path in ("/", f"/jobs/{voter.ballots['completed']}"):
            other.open(path, PHONE)
            assert "You are not logged in" in other.text
            assert other.barriers() == []
        link = voter.link()
        other.log_in(link)
        other.driver.get(link)
        assert "This link is spent" in other.text
