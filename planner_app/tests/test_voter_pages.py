"""The voter's pages over HTTP: who gets in, what is shown, and that nothing of a stranger's is more than text."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from planner_app.execution_broker.times import format_instant
from planner_app.voter.pages.gate import is_for_a_browser
from planner_app.voter.pages.logins import LINK_SECONDS, LOGIN_SECONDS, Logins
from tests.test_voter_facade import CaesarRest, has_state, runs
from tests.test_voter_pages_map import fits
from tests.voter_stubs import Behaviour, StubPlanner, VoterUnderTest, gives, http, running, until, vote

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'>&"
CATALOGUE = {"metadata": {"unit": "Jy", "sources": 1}, "components": [{"ra": 150.0, "dec": -30.0, "peak_flux": 2.0}]}


def with_outputs(catalogue: Any = CATALOGUE) -> Behaviour:
    async def behaviour(stub: StubPlanner, method: str, path: str, body: bytes) -> bytes | None:
        if path.endswith("/outputs"):
            return http(200, [{"name": "catalog_fitcomp-image.json", "size": 99}, {"name": HOSTILE, "size": 1}])
        if path.endswith("/outputs/catalog_fitcomp-image.json"):
            return catalogue if isinstance(catalogue, bytes) else http(200, catalogue, "application/octet-stream")
        return None

    return behaviour


class Browser:
    """A client with what a browser sends, and a cookie where it was logged in."""

    def __init__(self, api: httpx.AsyncClient) -> None:
        transport = api._transport
        self.http = httpx.AsyncClient(
            transport=transport, base_url="http://voter", headers={"Accept": "text/html,*/*;q=0.8"}
        )

    async def log_in(self, api: httpx.AsyncClient) -> None:
        reply = await api.post("/logins")
        assert reply.status_code == 201
        assert (await self.http.get(reply.json()["url"])).status_code == 200

    async def page(self, path: str, status: int = 200) -> str:
        reply = await self.http.get(path)
        assert reply.status_code == status, reply.text
        safe(reply)
        return reply.text


class Harmless(HTMLParser):
    """Fails at whatever a browser would do something for."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "img", "style", "iframe", "object", "embed", "form", "base"), tag
        for name, value in attrs:
            assert not name.startswith("on"), name
            assert name != "style", value
            assert name not in ("href", "src") or str(value).startswith(("/", "#")), value


def safe(reply: httpx.Response) -> None:
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; img-src 'self'")
    assert "unsafe" not in policy
    assert "script-src" not in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    Harmless().feed(reply.text)


@asynccontextmanager
async def browsing(tmp_path: Path, *planners: StubPlanner, **changes: Any) -> AsyncIterator[tuple[Any, Browser]]:
    changes.setdefault("storage", {"data": str(tmp_path / "data"), "max_upload_bytes": 10**6, "keep_free_bytes": 0})
    async with running(*planners), VoterUnderTest(tmp_path, *planners, **changes).up() as api:
        browser = Browser(api)
        async with browser.http:
            await browser.log_in(api)
            yield api, browser


async def completed(api: httpx.AsyncClient, ballot: dict[str, Any], *planners: StubPlanner) -> dict[str, Any]:
    """Let a ballot's job run and end."""
    winner = next(planner for planner in planners if planner.name == ballot["winner"]["planner"])
    plain, now = winner.session, datetime.now(UTC)

    def session(uuid: str) -> dict[str, Any]:
        start, end = format_instant(now), format_instant(now + timedelta(seconds=7))
        schedule = {"available": {"start": f"{start}/PT0S"}, "releasing": {"start": end}}
        return plain(uuid) | {"schedule": schedule}

    winner.session = session  # type: ignore[method-assign]
    winner.sessions[ballot["winner"]["session"]] = "COMPLETED"

    async def done() -> bool:
        found = (await api.get(f"/ballots/{ballot['id']}")).json()
        return bool(found["state"] == "COMPLETED")

    await until(done)
    return dict((await api.get(f"/ballots/{ballot['id']}")).json())


async def uploaded_image(api: httpx.AsyncClient) -> str:
    rows = [[float((x, y) == (19, 14)) for x in range(40)] for y in range(30)]
    reply = await api.post("/uploads", params={"name": "image.fits"}, content=fits(rows))
    return str(reply.json()["uuid"])


# --- getting in -------------------------------------------------------------------------------------------


def test_a_link_works_once_and_for_a_while() -> None:
    time = [0.0]
    logins = Logins(lambda: time[0])
    code = logins.invite("tester")
    cookie = logins.redeem(code)
    assert cookie is not None
    assert logins.client(cookie) == "tester"
    assert logins.redeem(code) is None
    assert logins.client(code) is None
    late = logins.invite("tester")
    time[0] += LINK_SECONDS
    assert logins.redeem(late) is None
    time[0] += LOGIN_SECONDS
    assert logins.client(cookie) is None


def test_old_links_make_room_for_new_ones() -> None:
    logins = Logins()
    codes = [logins.invite("tester") for _ in range(300)]
    assert logins.redeem(codes[0]) is None
    assert logins.redeem(codes[-1]) is not None


@pytest.mark.parametrize(
    ("method", "path", "headers", "theirs"),
    [
        ("GET", "/", {}, True),
        ("GET", "/ballots", {b"accept": b"text/html"}, True),
        ("HEAD", "/ballots/ab12", {b"accept": b"application/xhtml+xml, text/html;q=0.9"}, True),
        ("GET", "/jobs/1/image.png", {b"accept": b"image/*"}, True),
        ("GET", "/ballots", {b"accept": b"application/json"}, False),
        ("GET", "/ballots", {b"accept": b"text/html", b"authorization": b"Bearer x"}, False),
        ("POST", "/ballots", {b"accept": b"text/html"}, False),
        ("GET", "/ballots/ab12/stdout", {b"accept": b"text/html"}, False),
        ("GET", "/platforms", {b"accept": b"text/html"}, False),
        ("POST", "/login/x", {}, False),
    ],
)
def test_what_a_browser_asks_for(method: str, path: str, headers: dict[bytes, bytes], theirs: bool) -> None:
    assert is_for_a_browser(method, path, headers) is theirs


async def test_nobody_sees_a_page_without_a_login(tmp_path: Path) -> None:
    one = StubPlanner("one")
    async with browsing(tmp_path, one) as (api, browser):
        ballot = await vote(api)
        async with Browser(api).http as stranger:
            for path in ("/", "/ballots", f"/ballots/{ballot['id']}", f"/jobs/{ballot['id']}", "/jobs/x/image.png"):
                reply = await stranger.get(path)
                assert reply.status_code == 401
                safe(reply)
                assert "caesar-vote page" in reply.text
                assert "one" not in re.findall(r"[\w-]+", reply.text.partition("<main")[2].partition("</main")[0])[:3]
                assert ballot["id"][:8] not in reply.text
            stranger.cookies.set("caesar-voter", "guessed")
            assert (await stranger.get("/")).status_code == 401
            assert (await stranger.get("/login/guessed")).status_code == 401
            assert (await stranger.get("/style.css")).status_code == 200
        assert ballot["id"][:8] in await browser.page("/ballots")


async def test_a_cookie_opens_pages_and_nothing_else(tmp_path: Path) -> None:
    """A page of somebody else's that a browser is led to cannot make it do anything here."""
    one = StubPlanner("one")
    async with browsing(tmp_path, one) as (api, browser):
        ballot = await vote(api)
        for method, path in (
            ("POST", "/ballots"),
            ("POST", f"/ballots/{ballot['id']}"),
            ("POST", "/uploads"),
            ("POST", "/logins"),
            ("GET", "/platforms"),
            ("GET", f"/ballots/{ballot['id']}/stdout"),
        ):
            assert (await browser.http.request(method, path, content=b"{}")).status_code == 401
        assert one.sessions[ballot["winner"]["session"]] == "ACCEPTED"


async def test_a_login_is_a_cookie_that_scripts_and_other_sites_do_not_have(tmp_path: Path) -> None:
    async with browsing(tmp_path) as (api, _):
        link = (await api.post("/logins")).json()
        assert link["seconds"] == LINK_SECONDS
        async with Browser(api).http as http_client:
            reply = await http_client.get(link["url"])
            safe(reply)
            cookie = reply.headers["set-cookie"]
            assert re.fullmatch(r"caesar-voter=[\w-]{43}; Path=/; Max-Age=\d+; HttpOnly; SameSite=Strict", cookie), (
                cookie
            )
            assert reply.headers["refresh"] == "0; url=/"
            assert "secret" not in link["url"]
            again = await http_client.get(link["url"])
            assert again.status_code == 401
            assert "spent" in again.text
        assert (await api.get("/logins")).status_code == 405


async def test_over_https_the_cookie_stays_there(tmp_path: Path) -> None:
    async with browsing(tmp_path, url="https://voter") as (api, _):
        link = (await api.post("/logins")).json()["url"]
        async with Browser(api).http as http_client:
            reply = await http_client.get(link.replace("https://voter", ""))
            assert reply.headers["set-cookie"].endswith("; Secure")


# --- what is shown ----------------------------------------------------------------------------------------


async def test_nothing_of_a_planner_is_more_than_text(tmp_path: Path) -> None:
    no = {"result": "NO", "meta": {"messages": [{"message": HOSTILE}]}}
    stubs = [
        StubPlanner("good", with_outputs()),
        StubPlanner("hostile", gives(http(200, StubPlanner.offer_set(**no)))),
        StubPlanner("html", gives(http(500, HOSTILE.encode(), "text/html"))),
    ]
    stubs[1].capabilities = {
        "kind": HOSTILE, "quota": {"cores": HOSTILE}, "costs": {HOSTILE: 1}, "metrics": {HOSTILE: HOSTILE},
        "drained": {"words": HOSTILE}, "ahead": [{"from": HOSTILE}, HOSTILE], "limits": {"walltime": HOSTILE},
    }  # fmt: skip
    stubs[2].capabilities = {"platform": {"answers": False, "why": HOSTILE}, "ahead": HOSTILE, "free": [1]}
    async with browsing(tmp_path, *stubs) as (api, browser):
        ballot = await completed(api, await vote(api, upload=await uploaded_image(api)), *stubs)
        shown = [await browser.page(path) for path in ("/", "/ballots", f"/ballots/{ballot['id']}")]
        shown.append(await browser.page(f"/jobs/{ballot['id']}"))
        for page in (shown[0], shown[2], shown[3]):
            assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
        word = quote(HOSTILE, safe="").replace("%2F", "")
        for path in (f"/ballots/{word}", f"/jobs/{word}", f"/ballots?phase={word}", f"/ballots?before={word}"):
            safe(await browser.http.get(path))


async def test_a_ballot_shows_every_candidate_and_why(tmp_path: Path) -> None:
    async def hangs(stub: StubPlanner, method: str, path: str, body: bytes) -> bytes | None:
        if path == "/requests":
            await asyncio.sleep(60)
        return None

    no = {"result": "NO", "meta": {"messages": [{"message": "8 cores asked"}]}}
    stubs = [
        StubPlanner("cheap", monetary=0.1),
        StubPlanner("dear", monetary=0.9),
        StubPlanner("refuses", gives(http(200, StubPlanner.offer_set(**no)))),
        StubPlanner("silent", hangs),
    ]
    async with browsing(tmp_path, *stubs) as (api, browser):
        ballot = await vote(api)
        page = await browser.page(f"/ballots/{ballot['id'][:8]}")
        cards = re.findall(r'<li class="card (\w+)">\s*<h3>(\w+)</h3>', page)
        assert cards == [("won", "cheap"), ("could", "dear"), ("out", "refuses"), ("out", "silent")]
        assert "monetary 0.9, cheap 0.1" in page
        assert "8 cores asked" in page
        assert "did not answer in time" in page
        assert "no answer within 1 s" in page
        reply = await browser.http.get(f"/ballots/{ballot['trace']}")
        assert reply.headers["refresh"] == "5"
        asked = await vote(api, accept=False)
        reply = await browser.http.get(f"/ballots/{asked['id']}")
        assert "would win" in reply.text
        assert "refresh" not in reply.headers
        await browser.page("/ballots/ffffffff", 404)
        await browser.page("/ballots/f", 404)


async def test_ballots_come_in_pages_and_by_phase(tmp_path: Path) -> None:
    one = StubPlanner("one")
    async with browsing(tmp_path, one) as (api, browser):
        asked = [(await vote(api, accept=False))["id"] for _ in range(27)]
        ran = (await vote(api))["id"]
        first = await browser.http.get("/ballots")
        listed = re.findall(r'<th role="rowheader" scope="row"><a href="/ballots/([\w-]+)">', first.text)
        assert listed == [ran, *asked[:2:-1]]
        assert first.headers["refresh"] == "5"
        [older] = re.findall(r'rel="next" href="([^"]+)"', first.text)
        second = await browser.http.get(older)
        assert re.findall(r'scope="row"><a href="/ballots/([\w-]+)">', second.text) == asked[2::-1]
        assert "refresh" not in second.headers
        assert 'rel="next"' not in second.text
        assert "refresh" not in (await browser.http.get("/ballots?refresh=off")).headers
        only = await browser.page("/ballots?phase=RUNNING")
        assert re.findall(r'scope="row"><a href="/ballots/([\w-]+)">', only) == [ran]
        assert "There are none" in await browser.page("/ballots?phase=FAILED")
        await browser.page("/ballots?phase=NONE", 400)


async def test_a_job_is_shown_from_upload_to_catalogue(tmp_path: Path) -> None:
    one = StubPlanner("one", with_outputs())
    async with browsing(tmp_path, one) as (api, browser):
        ballot = await vote(api, upload=await uploaded_image(api))
        assert "Running" not in await browser.page(f"/jobs/{ballot['id']}")
        await completed(api, ballot, one)
        page = await browser.page(f"/jobs/{ballot['id']}")
        assert re.findall(r'<th role="rowheader" scope="row">(\w[\w ]+)</th>', page)[:5] == [
            "Uploaded", "Vote", "Waiting", "Running", "Seen done",
        ]  # fmt: skip
        assert "7.0 s" in page
        assert "1 source of 1 component found" in page
        # The catalogue's position is the image's reference pixel, (20, 15) from the lower left.
        assert re.findall(r'data-x="([\d.]+)" data-y="([\d.]+)"', page) == [("19.5", "15.5")]
        picture = await browser.http.get(f"/jobs/{ballot['id']}/image.png")
        assert picture.headers["content-type"] == "image/png"
        assert picture.content.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("catalogue", "said"),
    [
        (http(500, {}), "answered 500 for catalog_fitcomp-image.json"),
        (http(200, b"{", "application/octet-stream"), "cannot be read"),
        (http(200, b"x" * 4_100_000, "application/octet-stream"), "it has more than 4 MB"),
        (b"close", "one: "),
    ],
)
async def test_a_job_without_a_catalogue_says_why(tmp_path: Path, catalogue: bytes, said: str) -> None:
    one = StubPlanner("one", with_outputs(catalogue))
    async with browsing(tmp_path, one) as (api, browser):
        # What was uploaded is no image either.
        ballot = await completed(api, await vote(api), one)
        page = await browser.page(f"/jobs/{ballot['id']}")
        assert said in page
        assert "<image" not in page
        await browser.page(f"/jobs/{ballot['id']}/image.png", 404)


async def test_an_image_that_leads_elsewhere_is_not_drawn(tmp_path: Path) -> None:
    one = StubPlanner("one", with_outputs())
    async with browsing(tmp_path, one) as (api, browser):
        upload = await uploaded_image(api)
        ballot = await vote(api, upload=upload)
        image = tmp_path / "data" / upload / "image.fits"
        image.rename(tmp_path / "elsewhere.fits")
        image.symlink_to(tmp_path / "elsewhere.fits")
        await browser.page(f"/jobs/{ballot['id']}/image.png", 404)


async def test_platforms_show_what_their_planners_say(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    busy, away = StubPlanner("busy"), StubPlanner("away", gives(http(500, {}), "/capabilities"))
    busy.capabilities = {
        "quota": {"cores": 8, "memory_gib": 32, "disc_gb": 100, "jobs": 4},
        "limits": {"cores": 4, "memory_gib": 16, "walltime": "PT2H", "jobs": 4},
        "in_use": {"cores": 2, "memory_gib": 4, "disc_gb": 0, "jobs": 1},
        "reserved": {"cores": 4, "memory_gib": 8, "disc_gb": 0, "jobs": 1},
        "free": {"cores": 2, "memory_gib": 20, "disc_gb": 100, "jobs": 2},
        "costs": {"monetary": 0.05},
        "metrics": {"compute-performance": 130},
        "ahead": [
            {"from": format_instant(now), "cores": 6, "memory_gib": 12, "disc_gb": 0, "jobs": 2},
            {"from": format_instant(now + timedelta(minutes=32)), "cores": 0, "memory_gib": 0, "disc_gb": 0, "jobs": 0},
        ],
    }
    async with browsing(tmp_path, busy, away) as (_, browser):
        page = await browser.page("/")
        assert "1 of 2 platforms can take jobs now" in page
        assert "planner silent: answered 500" in page
        row = re.search(r'<tr><th scope="row">cores</th>(.*?)</tr>', page)
        assert row is not None
        assert re.findall(r"<td>([\d-]+)</td>", row[1]) == ["8", "2", "4", "2", "4"]
        assert "monetary 0.05" in page
        [cores] = re.findall(r'aria-label="(Cores of busy[^"]*)"', page)
        assert "from now on at most 6 taken" in cores
        chart = page.partition("Cores of busy")[2].partition("</svg>")[0]
        # Six of eight cores for 32 minutes are seven bars; two of the six are in use now.
        assert re.findall(r'class="promised" [^>]*height="(\d+)"', chart) == ["50", *["75"] * 6]
        assert re.findall(r'class="used" [^>]*height="(\d+)"', chart) == ["25"]
        assert "refresh" not in (await browser.http.get("/")).headers
        assert (await browser.http.get("/?refresh=on")).headers["refresh"] == "5"


async def test_a_job_of_caesar_rest_is_found_by_its_number(tmp_path: Path) -> None:
    goes, gives_outputs = runs(), with_outputs()

    async def behaviour(stub: StubPlanner, method: str, path: str, body: bytes) -> bytes | None:
        return await gives_outputs(stub, method, path, body) or await goes(stub, method, path, body)

    one = StubPlanner("one", behaviour)
    rest = CaesarRest(tmp_path, one)
    image = rest.data / "anonymous" / "0a1b.fits"
    image.parent.mkdir(parents=True)
    image.write_bytes(fits([[float((x, y) == (19, 14)) for x in range(40)] for y in range(30)]))
    async with running(one), rest.up() as api:
        number = await rest.submit(api, 7)
        await until(lambda: has_state(api, number, "COMPLETED"))
        api.headers["Authorization"] = "Bearer secret"
        browser = Browser(api)
        async with browser.http:
            await browser.log_in(api)
            page = await browser.page(f"/jobs/{number}")
            assert re.findall(r'<th role="rowheader" scope="row">(\w[\w ]+)</th>', page)[:2] == ["Submitted", "Vote"]
            assert re.findall(r'data-x="([\d.]+)" data-y="([\d.]+)"', page) == [("19.5", "15.5")]
            assert (await browser.http.get(f"/jobs/{number}/image.png")).content.startswith(b"\x89PNG")
            assert "Submitted" in await browser.page(f"/jobs/{7:032x}")
            await browser.page(f"/jobs/{number + 1}", 404)
