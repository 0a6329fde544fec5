"""The voter as a process that is killed in the middle of whatever it does."""

import asyncio
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import yaml
from planner_app.voter.slurm_token import make_token
from tests.test_voter_facade import KEY, SLURM, CaesarRest, runs
from tests.voter_stubs import StubPlanner, running, until

KILLS = 4
JOBS_BETWEEN = 3


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Process:
    """The voter, as systemd runs it."""

    def __init__(self, directory: Path, rest: CaesarRest, planners: list[StubPlanner]) -> None:
        self.port = free_port()
        (directory / "clients").write_text(f"tester {hashlib.sha256(b'secret').hexdigest()}\n")
        listed = [{"name": p.name, "url": p.url, "token": f"token-of-{p.name}"} for p in planners]
        (directory / "planners.yml").write_text(yaml.safe_dump({"planners": listed}))
        config = rest.voter.document | {
            "listen": {"host": "127.0.0.1", "port": self.port},
            "clients_file": str(directory / "clients"),
            "planners_file": str(directory / "planners.yml"),
        }
        self.config = directory / "voter.yml"
        self.config.write_text(yaml.safe_dump(config))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "planner_app.voter", "--config", str(self.config)], stdout=subprocess.DEVNULL
        )

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    async def up(self, client: httpx.AsyncClient) -> None:
        async def answers() -> bool:
            with suppress(httpx.HTTPError):
                return (await client.get("/health")).status_code == 200
            return False

        await until(answers)


async def test_killed_at_any_instant_it_loses_no_job_and_runs_none_twice(tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4))
    print("seed", seed)
    dice = random.Random(seed)
    planners = [StubPlanner(name, runs(2), monetary=cost) for name, cost in (("a", 0.1), ("b", 0.2), ("c", 0.2))]
    # On a busy machine planners that live in this very process may be slow.
    rest = CaesarRest(tmp_path, *planners, attempts=20, deadline="PT5S", accept_timeout="PT5S")
    acknowledged: dict[int, int] = {}
    tried = 0
    async with running(*planners):
        voter = Process(tmp_path, rest, planners)
        headers = {"X-SLURM-USER-NAME": "cirasa", "X-SLURM-USER-TOKEN": make_token(KEY, "cirasa", time.time())}
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{voter.port}", headers=headers) as client:
                for _ in range(KILLS):
                    voter.start()
                    await voter.up(client)
                    for _ in range(JOBS_BETWEEN):
                        tried += 1
                        reply = await client.post(f"{SLURM}/job/submit", json=rest.body(tried))
                        acknowledged[tried] = reply.json()["job_id"]
                    # Some submissions are in the air when it dies: caesar-rest never hears of them.
                    tried += 1
                    lost = asyncio.create_task(client.post(f"{SLURM}/job/submit", json=rest.body(tried)))
                    await asyncio.sleep(dice.uniform(0, 0.4))
                    voter.kill()
                    with suppress(httpx.HTTPError):
                        acknowledged[tried] = (await lost).json()["job_id"]
                voter.start()
                await voter.up(client)

                async def listed() -> list[dict[str, Any]]:
                    return list((await client.get(f"{SLURM}/jobs")).json()["jobs"])

                async def all_ended() -> bool:
                    # Those too whose number was never heard of: the last may have begun after the restart.
                    return not {"PENDING", "RUNNING"} & {job["job_state"] for job in await listed()}

                await until(all_ended, 120)
                assert [job for job in await listed() if job["job_state"] != "COMPLETED"] == []
                await until(lambda: not {"ACCEPTED", "AVAILABLE"} & {x for p in planners for x in p.phases()}, 60)
        finally:
            voter.kill()
    assert len(set(acknowledged.values())) == len(acknowledged)
    ran: dict[str, list[Any]] = {}
    for planner in planners:
        for session in planner.ran:
            ran.setdefault(planner.named[session], []).append(planner.sessions[session])
    assert set(ran) >= {f"aegean-{number:032x}" for number in acknowledged}
    assert all(phases == ["COMPLETED"] for phases in ran.values()), ran
    for number in acknowledged:
        assert "catalog-x.json" in rest.outputs(number)
