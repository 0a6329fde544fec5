"""The Kubernetes driver's watches, against an API server in memory that speaks over real connections."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import certifi
import httpx
import pytest
from planner_app.platforms.kubernetes import KubernetesPlatform, mirror
from planner_app.platforms.kubernetes import api as kubernetes_api
from planner_app.platforms.kubernetes.driver import KubernetesPlatform as Driver
from planner_app.platforms.protocol import JobState, PlatformDown, Snapshot
from tests.fakes import config_at

Object = dict[str, Any]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "LEAST_PAUSE", 0.01)


class FakeApi:
    """Lists and watches of one namespace, and the ways in which they go wrong."""

    def __init__(self) -> None:
        self.version = 100
        self.oldest = 0
        self.objects: dict[str, dict[str, Object]] = {"jobs": {}, "pods": {}, "events": {}}
        self.history: list[tuple[int, str, str, Object]] = []
        self.asked: list[str] = []
        self.forbidden = self.frozen = self.expires_late = False
        self.nonsense = 0
        self.changed = asyncio.Condition()
        self._connections: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.hang_up()

    def hang_up(self) -> None:
        for each in list(self._connections):
            each.transport.abort()

    async def put(self, kind: str, subject: Object, event: str = "MODIFIED") -> None:
        self.version += 1
        subject["metadata"]["resourceVersion"] = str(self.version)
        uid = subject["metadata"]["uid"]
        if event == "DELETED":
            self.objects[kind].pop(uid)
        else:
            self.objects[kind][uid] = json.loads(json.dumps(subject))
        self.history.append((self.version, kind, event, json.loads(json.dumps(subject))))
        async with self.changed:
            self.changed.notify_all()

    async def bookmark(self) -> None:
        for kind in self.objects:
            self.version += 1
            where = {"metadata": {"resourceVersion": str(self.version)}}
            self.history.append((self.version, kind, "BOOKMARK", where))
        async with self.changed:
            self.changed.notify_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                url = urlsplit(head.split(" ")[1])
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                kind = url.path.rpartition("/")[2]
                self.asked.append(("watch " if "watch" in query else "list ") + kind)
                while self.frozen:
                    await asyncio.sleep(0.01)
                if "watch" in query:
                    await self._watch(writer, kind, int(query["resourceVersion"]))
                    return
                items = list(self.objects[kind].values())
                self._reply(writer, 200, {"metadata": {"resourceVersion": str(self.version)}, "items": items})
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    @staticmethod
    def _reply(writer: asyncio.StreamWriter, status: int, document: Object) -> None:
        body = json.dumps(document).encode()
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    async def _watch(self, writer: asyncio.StreamWriter, kind: str, version: int) -> None:
        if self.forbidden:
            self._reply(writer, 403, {"message": "no watch for you"})
            return
        expired = version < self.oldest
        if expired and not self.expires_late:
            self._reply(writer, 410, {"message": "too old resource version"})
            return
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

        async def send(text: str) -> None:
            line = text.encode() + b"\n"
            writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            await writer.drain()

        if expired:
            await send(json.dumps({"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}}))
            return
        if self.nonsense:
            self.nonsense -= 1
            await send("<html>")
            return
        while not writer.is_closing():
            for number, of, event, subject in self.history:
                if number > version and of == kind:
                    version = number
                    if not self.frozen:
                        await send(json.dumps({"type": event, "object": subject}))
            async with self.changed:
                try:
                    async with asyncio.timeout(0.5):
                        await self.changed.wait()
                except TimeoutError:
                    pass


def a_job(session: UUID, *conditions: str) -> Object:
    return {
        "metadata": {
            "uid": f"job-{session}",
            "name": f"session-{session}",
            "labels": {"caesar-testbed/session": str(session)},
            "creationTimestamp": "2026-11-24T12:00:00Z",
            "managedFields": [{"manager": "x" * 1000}],
        },
        "spec": {"template": {"spec": {"containers": [{"name": "job", "resources": {"limits": {"cpu": "2"}}}]}}},
        "status": {"conditions": [{"type": kind, "status": "True"} for kind in conditions]},
    }


def a_pod(session: UUID, phase: str = "Running") -> Object:
    job = a_job(session)
    return {
        "metadata": {
            "uid": f"pod-{session}",
            "name": f"session-{session}-abcde",
            "ownerReferences": [{"uid": f"job-{session}"}],
            "creationTimestamp": "2026-11-24T12:00:00Z",
        },
        "spec": job["spec"]["template"]["spec"],
        "status": {"phase": phase},
    }


@asynccontextmanager
async def watching(tmp_path: Path, **offers: Any) -> AsyncIterator[tuple[FakeApi, Driver]]:
    api = FakeApi()
    await api.start()
    authority = Path(certifi.where()).read_text(encoding="utf-8").split("-----END CERTIFICATE-----")[0]
    file = tmp_path / "k.json"
    file.write_text(
        json.dumps(
            {"server": f"http://127.0.0.1:{api.port}", "ca": authority + "-----END CERTIFICATE-----\n", "token": "t"}
        )
    )
    config = config_at(
        tmp_path,
        kind="kubernetes",
        offers=offers,
        kubernetes={"credentials_file": str(file), "namespace": "n", "claim": "storage", "uid": 20101},
    )
    driver = KubernetesPlatform(config, httpx.AsyncHTTPTransport())
    try:
        yield api, driver
    finally:
        await driver.close()
        await api.stop()


async def until(driver: Driver, seen: Callable[[Snapshot], bool]) -> Snapshot:
    """Wait for the platform to tell, as the lifecycle does."""
    async with asyncio.timeout(20):
        while True:
            try:
                if seen(found := await driver.observe()):
                    return found
            except PlatformDown:
                pass
            try:
                async with asyncio.timeout(0.5):
                    await driver.changed()
            except TimeoutError:
                pass


def states(found: Snapshot) -> dict[UUID | None, JobState]:
    return {job.session: job.state for job in found.jobs}


ONE, TWO = uuid4(), uuid4()


async def test_what_happens_is_told_and_nothing_is_asked_again(tmp_path: Path) -> None:
    async with watching(tmp_path) as (api, driver):
        await api.put("jobs", a_job(ONE))
        assert states(await driver.observe()) == {ONE: JobState.PENDING}
        async with asyncio.timeout(20):
            while len(api.asked) < 6:
                await asyncio.sleep(0.01)
        assert sorted(api.asked) == [
            f"{how} {kind}" for how in ("list", "watch") for kind in ("events", "jobs", "pods")
        ]
        await api.put("pods", a_pod(ONE))
        await until(driver, lambda found: states(found) == {ONE: JobState.RUNNING})
        await api.put("jobs", a_job(ONE, "Complete"))
        await until(driver, lambda found: states(found) == {ONE: JobState.COMPLETED})
        await api.put("jobs", a_job(ONE), "DELETED")
        await api.put("pods", a_pod(ONE, "Succeeded"), "DELETED")
        await until(driver, lambda found: not found.jobs)
        assert len(api.asked) == 6
        assert all("managedFields" not in each["metadata"] for each in driver._mirrors[0].objects.values())


async def test_a_watch_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    async with watching(tmp_path) as (api, driver):
        await driver.observe()
        api.hang_up()
        await api.put("jobs", a_job(ONE))
        await until(driver, lambda found: states(found) == {ONE: JobState.PENDING})
        assert [each for each in api.asked if each.startswith("list")].count("list jobs") == 1


@pytest.mark.parametrize("late", [False, True])
async def test_what_is_forgotten_is_listed_anew(tmp_path: Path, late: bool) -> None:
    async with watching(tmp_path) as (api, driver):
        await api.put("jobs", a_job(ONE))
        await driver.observe()
        await api.put("jobs", a_job(ONE), "DELETED")
        await api.put("jobs", a_job(TWO))
        api.oldest, api.expires_late = api.version + 1, late
        api.version += 10
        api.history.clear()
        api.hang_up()
        await until(driver, lambda found: set(states(found)) == {TWO})
        assert api.asked.count("list jobs") == 2


async def test_a_bookmark_moves_on(tmp_path: Path) -> None:
    async with watching(tmp_path) as (api, driver):
        await driver.observe()
        await api.bookmark()
        async with asyncio.timeout(20):
            while driver._mirrors[0]._version == "100":
                await asyncio.sleep(0.01)
        api.oldest = 101
        api.hang_up()
        await api.put("jobs", a_job(ONE))
        await until(driver, lambda found: states(found) == {ONE: JobState.PENDING})
        assert api.asked.count("list jobs") == 1


async def test_a_server_that_goes_is_down_and_comes_back(tmp_path: Path) -> None:
    async with watching(tmp_path) as (api, driver):
        before = await driver.observe()
        await api.stop()
        async with asyncio.timeout(20):
            while True:
                try:
                    await driver.observe()
                except PlatformDown:
                    break
                await asyncio.sleep(0.01)
        await api.put("jobs", a_job(ONE))
        await api.start()
        found = await until(driver, lambda found: bool(found.jobs))
        assert found.taken > before.taken


async def test_a_server_that_was_never_there_is_down(tmp_path: Path) -> None:
    async with watching(tmp_path) as (api, driver):
        await api.stop()
        with pytest.raises(PlatformDown):
            await driver.observe()


async def test_a_watch_that_is_silent_for_too_long_is_not_believed(tmp_path: Path) -> None:
    async with watching(tmp_path, snapshot_age="PT0.2S") as (api, driver):
        await driver.observe()
        api.frozen = True
        await api.put("jobs", a_job(ONE))
        await asyncio.sleep(0.3)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await driver.observe()  # lists anew, and nobody answers
        api.frozen = False
        await until(driver, lambda found: states(found) == {ONE: JobState.PENDING})


async def test_the_age_of_a_snapshot_is_that_of_the_last_sign_of_life(tmp_path: Path) -> None:
    async with watching(tmp_path) as (api, driver):
        await driver.observe()
        async with asyncio.timeout(20):
            while len(api.asked) < 6 or not all(each.heard for each in driver._mirrors):
                await asyncio.sleep(0.01)
        await api.bookmark()
        await asyncio.sleep(0.1)
        first = await driver.observe()
        await asyncio.sleep(0.5)
        second = await driver.observe()
        assert second.taken - first.taken < timedelta(seconds=0.4), "half a second later nothing newer is known"


async def test_nonsense_is_no_news(tmp_path: Path) -> None:
    async with watching(tmp_path) as (api, driver):
        api.nonsense = 3
        await api.put("jobs", a_job(ONE))
        await driver.observe()
        await api.put("pods", a_pod(ONE))
        await until(driver, lambda found: states(found) == {ONE: JobState.RUNNING})


async def test_where_watching_is_forbidden_it_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "PATIENCE", 0.05)
    async with watching(tmp_path) as (api, driver):
        api.forbidden = True
        await api.put("jobs", a_job(ONE))
        async with asyncio.timeout(20):
            while driver.tells:
                with suppress(PlatformDown):
                    await driver.observe()
                await asyncio.sleep(0.01)
        api.asked.clear()
        await api.put("pods", a_pod(ONE))
        assert states(await driver.observe()) == {ONE: JobState.RUNNING}
        assert sorted(api.asked) == ["list jobs", "list pods"]


async def test_what_is_forbidden_for_a_moment_is_watched_again(tmp_path: Path) -> None:
    """An API server that has just started knows nobody's rights yet."""
    async with watching(tmp_path) as (api, driver):
        await driver.observe()
        async with asyncio.timeout(20):
            while not all(each._watched for each in driver._mirrors):
                await asyncio.sleep(0.01)
        api.forbidden = True
        api.hang_up()
        async with asyncio.timeout(20):
            while not all(each.failure for each in driver._mirrors):
                await asyncio.sleep(0.01)
        api.forbidden = False
        await api.put("jobs", a_job(ONE))
        await until(driver, lambda found: states(found) == {ONE: JobState.PENDING})
        assert driver.tells


async def test_silence_alone_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_api, "SILENCE", 0.1)
    async with watching(tmp_path) as (api, driver):
        await driver.observe()
        async with asyncio.timeout(20):
            while api.asked.count("watch jobs") < 3:
                assert driver._mirrors[0].failure == ""
                await asyncio.sleep(0.01)
        assert api.asked.count("list jobs") == 1


async def test_a_refused_pod_is_told_by_its_event(tmp_path: Path) -> None:
    async with watching(tmp_path) as (api, driver):
        await api.put("jobs", a_job(ONE))
        await driver.observe()
        event = {
            "metadata": {"uid": "e1", "name": "e1"},
            "involvedObject": {"uid": f"job-{ONE}"},
            "message": 'Error creating: pods "x" is forbidden: maximum memory usage per Container is 1Gi',
            "lastTimestamp": "2026-11-24T12:00:01Z",
        }
        await api.put("events", event)
        await until(driver, lambda found: states(found) == {ONE: JobState.FAILED})
