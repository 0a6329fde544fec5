"""The API: what is taken, what is answered, to whom."""

import json
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml
from planner_app.execution_broker import kinds
from planner_app.planner.tokens import Tokens
from planner_app.platforms.protocol import JobState
from tests.fakes import IMAGE, TOKENS, FakePlanner, request_of

JSON = {"Content-Type": "application/json"}


def wrong(reply: httpx.Response, status: int) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    problem = dict(reply.json())
    assert problem["status"] == status
    assert problem["detail"]
    return problem


def reasons(answer: dict[str, Any]) -> list[str]:
    assert answer["result"] == "NO"
    assert answer["offers"] == []
    return [message["kind"].rpartition(":")[2] for message in answer["meta"]["messages"]]


class TestRequests:
    async def test_an_offer_set(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            reply = await planner.client.post("/requests", json=request_of(cores=(2, 4)))
            answer = reply.json()
            assert reply.headers["location"] == answer["meta"]["url"]
            assert answer["result"] == "YES"
            first, second = answer["offers"]
            assert first["phase"] == "OFFERED"
            assert first["expires"] == "2026-11-24T09:01:00Z"
            assert first["meta"]["options"][0]["values"] == ["ACCEPTED", "REJECTED"]
            assert first["compute"]["cores"] == {"min": 2, "max": 2}
            assert second["compute"]["cores"] == {"min": 4, "max": 4}
            assert first["schedule"]["available"] == {"start": "2026-11-24T09:00:05Z/PT1M", "duration": "PT1H"}
            assert {cost["type"]: cost["max"] for cost in first["costs"]} == {
                "urn:ivoa:calycopis:cost:monetary": 0.02,
                "urn:ivoa:calycopis:cost:energy": 0.024,
                "urn:ivoa:calycopis:cost:carbon": 6.2,
            }
            path = httpx.URL(answer["meta"]["url"]).path
            assert (await planner.client.get(path)).json() == answer
            assert (await planner.client.post("/offersets", json=request_of())).json()["result"] == "YES"

    async def test_yaml_in_and_out(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            headers = {"Content-Type": "application/yaml", "Accept": "application/yaml"}
            reply = await planner.client.post("/requests", content=yaml.safe_dump(request_of()), headers=headers)
            assert reply.headers["content-type"] == "application/yaml"
            answer = yaml.safe_load(reply.text)
            assert answer["result"] == "YES"
            assert answer["meta"]["created"] == "2026-11-24T09:00:00Z"

    @pytest.mark.parametrize(
        ("parts", "field"),
        [
            ({"compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": -4}}}, "compute.cores.min"),
            ({"compute": {"kind": kinds.SIMPLE_COMPUTE, "coers": {}}}, "compute.coers"),
            ({"schedule": {"requested": {"duration": "1 hour"}}}, "schedule.requested.duration"),
            ({"executable": {"image": {}}}, "executable.kind"),
        ],
    )
    async def test_malformed(self, tmp_path: Path, parts: dict[str, Any], field: str) -> None:
        async with FakePlanner(tmp_path) as planner:
            problem = wrong(await planner.client.post("/requests", json=request_of(**parts)), 400)
            assert [each["field"] for each in problem["errors"]] == [field]
            assert field in problem["detail"]

    @pytest.mark.parametrize(
        ("body", "headers", "status"),
        [
            (b"{", JSON, 400),
            (b"[]", JSON, 400),
            (b"null", JSON, 400),
            (b"", JSON, 400),
            (b"", {"Content-Type": "application/yaml"}, 400),
            (b'{"a": NaN}', JSON, 400),
            (b"[" * 900_000, JSON, 400),
            (b" " * 1_000_001, JSON, 413),
            (b"a: &a [1]\nb: [*a, *a]", {"Content-Type": "application/yaml"}, 400),
            (b"<a/>", {"Content-Type": "application/xml"}, 415),
            (b"{}", {}, 415),
            (b"{}", {**JSON, "Accept": "application/xml"}, 406),
        ],
    )
    async def test_bodies(self, tmp_path: Path, body: bytes, headers: dict[str, str], status: int) -> None:
        async with FakePlanner(tmp_path) as planner:
            wrong(await planner.client.post("/requests", content=body, headers=headers), status)

    async def test_reasons(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            assert reasons(await planner.ask(cores=(5, None))) == ["cores-limit"]
            assert reasons(await planner.ask(executable={"kind": "urn:notebook"})) == ["unknown-kind"]
            unknown = {"kind": kinds.DOCKER_CONTAINER, "image": {"locations": ["evil/image:1"]}}
            answer = await planner.ask(executable=unknown, cores=(5, None))
            assert reasons(answer) == ["image", "cores-limit"]
            assert answer["meta"]["messages"][1]["values"] == {
                "platform": "slurm-account-001", "resource": "cores", "limit": "4", "asked": "5", "left": "4",
            }  # fmt: skip
            assert answer["meta"]["messages"][1]["message"] == "slurm-account-001: 5 cores asked, one job may have 4"
            assert reasons((await planner.client.post("/requests", json={})).json()) == ["executable"]
            for part in ("costs", "metrics", "storage", "data"):
                assert reasons(await planner.ask(**{part: [{"kind": "urn:x"}]})) == ["unknown-kind"]

    @pytest.mark.parametrize(
        ("more", "kind"),
        [
            ({"privileged": True}, "privileged"),
            ({"network": {"ports": [{"internal": {"port": 80}}]}}, "network"),
            ({"image": {"locations": [IMAGE.name], "platform": {"architecture": "arm64"}}}, "image-platform"),
            ({"image": {"locations": [IMAGE.name], "digest": "sha256:" + "b" * 64}}, "image"),
            ({"image": {}}, "executable"),
        ],
    )
    async def test_containers_that_do_not_run_here(self, tmp_path: Path, more: dict[str, Any], kind: str) -> None:
        async with FakePlanner(tmp_path) as planner:
            executable = {"kind": kinds.DOCKER_CONTAINER, "image": {"locations": [IMAGE.name]}} | more
            assert reasons(await planner.ask(executable=executable)) == [kind]

    async def test_other_peoples_jobs_count(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            planner.platform.run(planner.platform.add(None, 7, 4), walltime=None)
            assert reasons(await planner.ask(cores=(2, None))) == ["cores-quota"]
            assert (await planner.ask(cores=(1, None)))["result"] == "YES"

    async def test_a_platform_that_is_down(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            planner.platform.down = "slurmctld is away"
            answer = await planner.ask()
            assert reasons(answer) == ["platform-down"]
            assert "slurmctld is away" in answer["meta"]["messages"][0]["message"]
            assert (await planner.client.get("/health")).json()["platform"] == "down"

    async def test_a_platform_that_hangs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("planner_app.planner.service.ANSWER_WITHIN", 0.1)
        async with FakePlanner(tmp_path) as planner:
            planner.platform.hangs = True
            assert reasons(await planner.ask()) == ["platform-down"]


class TestMounts:
    def parts(self, planner: FakePlanner, location: str | None = None, **volume: Any) -> dict[str, Any]:
        location = location or f"file://{planner.config.storage.data}/one/map.fits"
        mount = {"kind": kinds.SIMPLE_VOLUME_MOUNT, "path": "/data", "mode": "READONLY", "resource": "map"} | volume
        return {
            "data": [{"kind": kinds.SIMPLE_DATA, "meta": {"name": "map"}, "location": location}],
            "storage": [{"kind": kinds.SIMPLE_STORAGE, "meta": {"name": "results"}, "size": {"min": 1, "max": 2}}],
            "compute": {
                "kind": kinds.SIMPLE_COMPUTE,
                "volumes": [
                    mount,
                    {"kind": kinds.SIMPLE_VOLUME_MOUNT, "path": "/output", "mode": "READWRITE", "resource": "results"},
                ],
            },
        }

    async def test_data_and_results(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            session = await planner.accepted(**self.parts(planner))
            await planner.look()
            (job,) = planner.platform.specs
            assert [(mount.source, mount.target, mount.read_only) for mount in job.mounts] == [
                (planner.config.storage.data / "one", "/data", True),
                (job.directory / "outputs", "/output", False),
            ]
            assert (job.cores, job.memory_gib, job.disc_gb) == (1, 1, 2)  # 1 GiB is more than 1 GB
            document = await planner.session(session)
            assert document["storage"][0]["size"] == {"min": 1, "max": 1}
            assert document["compute"]["volumes"][0]["path"] == "/data"

    @pytest.mark.parametrize(
        "location",
        [
            "file:///etc/passwd",
            "file://{data}/../jobs/x",
            "file://{data}/one/../../jobs/x",
            "file://{data}/one/%2e%2e/%2e%2e/secret",
            "file://{data}/absent/map.fits",
            "file://{data}/top.fits",
            "file://{data}",
            "file://{data}/link/map.fits",
            "file://{data}/one/link.fits",
            "file://host{data}/one/map.fits",
            "file://{data}/one/map.fits%00",
            "ftp://example.org/map.fits",
            "map.fits",
            "",
        ],
    )
    async def test_locations_that_are_refused(self, tmp_path: Path, location: str) -> None:
        async with FakePlanner(tmp_path) as planner:
            data = planner.config.storage.data
            (data / "top.fits").touch()
            (data / "link").symlink_to("/etc")
            (data / "one" / "link.fits").symlink_to("/etc/passwd")
            answer = await planner.ask(**self.parts(planner, location.format(data=data) or "x:"))
            assert reasons(answer) == ["data"]

    @pytest.mark.parametrize(
        "volume", [{"path": "/etc"}, {"path": None}, {"path": "/output"}, {"resource": "none"}, {"mode": "READWRITE"}]
    )
    async def test_mounts_that_are_refused(self, tmp_path: Path, volume: dict[str, Any]) -> None:
        async with FakePlanner(tmp_path) as planner:
            assert reasons(await planner.ask(**self.parts(planner, **volume))) == ["volume"]


class TestUpdates:
    async def test_what_is_illegal_changes_nothing(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            session = await planner.accepted()
            for value in ("ACCEPTED", "REJECTED"):
                problem = wrong(await planner.update(session, value), 409)
                assert (problem["phase"], problem["legal"]) == ("ACCEPTED", ["CANCELLED"])
            assert await planner.phase(session) == "ACCEPTED"
            offer = (await planner.ask(cores=(1, None)))["offers"][0]["meta"]["uuid"]
            assert wrong(await planner.update(offer, "CANCELLED"), 409)["legal"] == ["ACCEPTED", "REJECTED"]
            assert (await planner.update(offer, "REJECTED")).json()["phase"] == "REJECTED"
            assert wrong(await planner.update(offer, "ACCEPTED"), 409)["legal"] == []

    async def test_an_offer_whose_time_is_over(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            offer = (await planner.ask())["offers"][0]["meta"]["uuid"]
            planner.clock.forward(60)
            assert wrong(await planner.update(offer, "ACCEPTED"), 409)["phase"] == "EXPIRED"

    @pytest.mark.parametrize(
        ("update", "field"),
        [
            ({"kind": kinds.ENUM_VALUE_UPDATE, "path": "/phase", "value": "RUNNING"}, "value"),
            ({"kind": kinds.ENUM_VALUE_UPDATE, "path": "/compute", "value": "ACCEPTED"}, "path"),
            ({"kind": kinds.STRING_VALUE_UPDATE, "path": "/phase", "value": "ACCEPTED"}, "kind"),
            ({"kind": kinds.ENUM_VALUE_UPDATE, "path": "/phase"}, "value"),
        ],
    )
    async def test_what_can_never_be(self, tmp_path: Path, update: dict[str, Any], field: str) -> None:
        async with FakePlanner(tmp_path) as planner:
            session = await planner.accepted()
            problem = wrong(await planner.client.post(f"/sessions/{session}", json=update), 400)
            assert problem["errors"][0]["field"] == field

    async def test_a_path_without_slash_and_yaml(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            offer = (await planner.ask())["offers"][0]["meta"]["uuid"]
            body = b"kind: uri:enum-value-update\npath: phase\nvalue: REJECTED\n"
            headers = {"Content-Type": "application/yaml"}
            reply = await planner.client.post(f"/sessions/{offer}", content=body, headers=headers)
            assert reply.json()["phase"] == "REJECTED"


class TestClients:
    async def test_all_but_health_needs_a_token(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            session = await planner.accepted()
            for header in (None, "Bearer wrong", "Bearer ", f"Basic {TOKENS['voter']}"):
                planner.client.headers.pop("authorization", None)
                if header is not None:
                    planner.client.headers["authorization"] = header
                for path in ("capabilities", "metrics", f"sessions/{session}", f"sessions/{session}/stdout"):
                    reply = await planner.client.get(f"/{path}")
                    wrong(reply, 401)
                    assert reply.headers["www-authenticate"] == "Bearer"
                wrong(await planner.client.post("/requests", json=request_of()), 401)
                assert (await planner.client.get("/health")).status_code == 200

    async def test_a_session_is_its_owners(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            answer = await planner.ask()
            session, offerset = answer["offers"][0]["meta"]["uuid"], answer["meta"]["uuid"]
            planner.client.headers["authorization"] = f"Bearer {TOKENS['other']}"
            for path in (f"/sessions/{session}", f"/offersets/{offerset}", f"/sessions/{session}/outputs"):
                there = wrong(await planner.client.get(path), 403)
                unknown = str(uuid4())
                absent = await planner.client.get(path.replace(session, unknown).replace(offerset, unknown))
                said = absent.text.replace(unknown, session if session in path else offerset)
                assert there == wrong(absent, 403) | {"detail": there["detail"]}
                assert json.loads(said) == there
            wrong(await planner.update(session, "ACCEPTED"), 403)
            wrong(await planner.client.post(f"/sessions/{session}", content=b"{", headers=JSON), 403)

    async def test_unknown_things(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            for path in (f"/sessions/{uuid4()}", f"/offersets/{uuid4()}"):
                wrong(await planner.client.get(path), 403)
            for path in ("/sessions/x", "/nothing", "/docs/nothing", "/docs/../secret"):
                wrong(await planner.client.get(path), 404)
            wrong(await planner.client.delete("/requests"), 405)

    def test_tokens_file(self, tmp_path: Path) -> None:
        path = tmp_path / "tokens"
        path.write_text(f"# who may ask\n\nvoter {'a' * 64}\n")
        assert Tokens.load(path).client_of("Bearer x") is None
        for line in ("voter secret", f"voter {'A' * 64}", f"{'a' * 64}", f"voter {'a' * 64}\nvoter {'b' * 64}"):
            path.write_text(line)
            with pytest.raises(ValueError, match=r"tokens, line \d"):
                Tokens.load(path)


class TestOutputs:
    async def test_files_of_a_session(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            session = await planner.accepted()
            wrong(await planner.client.get(f"/sessions/{session}/stdout"), 404)
            assert (await planner.client.get(f"/sessions/{session}/outputs")).json() == []
            await planner.look()
            outputs = planner.platform.specs[0].directory / "outputs"
            (outputs / "catalog-map.json").write_text("{}")
            (outputs / "plots").mkdir()
            (outputs / "plots" / "plot map.png").write_bytes(b"\x89PNG" * 100_000)
            listed = (await planner.client.get(f"/sessions/{session}/outputs")).json()
            assert listed == [{"name": "catalog-map.json", "size": 2}, {"name": "plots/plot map.png", "size": 400_000}]
            reply = await planner.client.get(f"/sessions/{session}/outputs/plots/plot map.png")
            assert reply.content == b"\x89PNG" * 100_000
            assert reply.headers["x-content-type-options"] == "nosniff"

    async def test_nothing_leads_out(self, tmp_path: Path) -> None:
        async with FakePlanner(tmp_path) as planner:
            session = await planner.accepted()
            await planner.look()
            directory = planner.platform.specs[0].directory
            outputs = directory / "outputs"
            (tmp_path / "secret").write_text("secret")
            (outputs / "file").symlink_to(tmp_path / "secret")
            (outputs / "directory").symlink_to(tmp_path)
            os.mkfifo(outputs / "pipe")
            (directory / "stdout.log").symlink_to(tmp_path / "secret")
            assert (await planner.client.get(f"/sessions/{session}/outputs")).json() == []
            names = [
                "file",
                "directory/secret",
                "pipe",
                "../stdout.log",
                "..%2f..%2fsecret",
                "%2e%2e/stdout.log",
                "//etc",
            ]
            for name in [*names, str(tmp_path / "secret"), "/etc", "x%00", "directory"]:
                wrong(await planner.client.get(f"/sessions/{session}/outputs/{name}"), 404)
            wrong(await planner.client.get(f"/sessions/{session}/stdout"), 404)
            outputs.rename(directory / "moved")
            outputs.symlink_to(tmp_path)
            assert (await planner.client.get(f"/sessions/{session}/outputs")).json() == []
            wrong(await planner.client.get(f"/sessions/{session}/outputs/secret"), 404)


async def test_capabilities(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        planner.platform.run(planner.platform.add(None, 1, 2, 3))
        await planner.ask(cores=(2, 4))
        document = (await planner.client.get("/capabilities")).json()
        assert document["quota"] == {"cores": 8, "memory_gib": 32, "disc_gb": 250, "jobs": 4}
        assert document["limits"]["walltime"] == "PT2H"
        assert document["in_use"] == {"cores": 1, "memory_gib": 2, "disc_gb": 3, "jobs": 1}
        assert document["reserved"] == {"cores": 4, "memory_gib": 4, "disc_gb": 0, "jobs": 1}
        assert document["free"] == {"cores": 3, "memory_gib": 26, "disc_gb": 247, "jobs": 2}
        now, *later = document["ahead"]
        assert now == {"from": "2026-11-24T09:00:00Z", "cores": 5, "memory_gib": 6, "disc_gb": 3, "jobs": 2}
        # In the end the job must have ended, and the offer too, were it accepted.
        assert later[-1] | {"from": ""} == {"from": "", "cores": 0, "memory_gib": 0, "disc_gb": 0, "jobs": 0}
        assert sorted(step["from"] for step in document["ahead"]) == [step["from"] for step in document["ahead"]]
        planner.platform.down = "away"
        planner.clock.forward(10)
        document = (await planner.client.get("/capabilities")).json()
        # Offers are made from what it said last, for a while.
        assert document["platform"] == {"answers": False, "why": "away", "observed": "2026-11-24T09:00:00Z"}
        assert document["free"]["cores"] == 3
        planner.clock.forward(60)
        document = (await planner.client.get("/capabilities")).json()
        assert document["platform"] == {"answers": False, "why": "away"}
        assert "free" not in document


async def test_metrics(tmp_path: Path) -> None:
    async with FakePlanner(tmp_path) as planner:
        session = await planner.accepted()
        await planner.look()
        planner.platform.end(planner.platform.only(), JobState.COMPLETED, 0)
        text = (await planner.client.get("/metrics")).text
        assert 'planner_requests_total{result="YES"} 1.0' in text
        assert 'planner_sessions{phase="PREPARING"} 1.0' in text
        assert session not in text


async def test_what_fails_inside_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakePlanner(tmp_path) as planner:

        def fails(*_: object, **__: object) -> None:
            raise RuntimeError("the secret path /etc/x")

        monkeypatch.setattr(planner.service.ledger, "reserve_all", fails)
        problem = wrong(await planner.client.post("/requests", json=request_of()), 500)
        assert "secret" not in json.dumps(problem)
