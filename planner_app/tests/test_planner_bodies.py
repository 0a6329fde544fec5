"""Bodies that nobody means well with: read in bounded time and memory, and refused."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planner_app.execution_broker import codecs
from tests.fakes import FakePlanner, request_of

JSON, YAML = "application/json", "application/yaml"
FULL = codecs.MAX_BYTES


def filled(start: bytes, part: bytes, end: bytes = b"") -> bytes:
    """As many of a part as a body may hold."""
    return start + part * ((FULL - len(start) - len(end)) // len(part)) + end


LAUGHS = b"a: &a [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n" + b"".join(
    b"%c: &%c [%s]\n" % (name, name, b",".join([b"*%c" % (name - 1)] * 9)) for name in range(ord("b"), ord("j"))
)
HOSTILE: dict[str, tuple[str, bytes]] = {
    "billion laughs": (YAML, LAUGHS),
    "merged laughs": (YAML, b"a: &a {b: 1}\nc: {<<: *a}\n"),
    "deep lists": (JSON, filled(b"", b"[")),
    "deep lists, closed": (JSON, b"[" * (FULL // 2) + b"]" * (FULL // 2)),
    "deep objects": (JSON, filled(b"", b'{"a":')),
    "deep flows": (YAML, filled(b"", b"[")),
    "deep maps": (YAML, filled(b"", b"{a: ")),
    "deep blocks": (YAML, filled(b"", b"- ")),
    "deep keys": (YAML, filled(b"", b"? ")),
    "deep indents": (YAML, b"".join(b" " * depth + b"a:\n" for depth in range(1400))[:FULL]),
    "many numbers": (JSON, filled(b"[1", b",1", b"]")),
    "many lists": (JSON, filled(b"[[]", b",[]", b"]")),
    "many objects": (JSON, filled(b"[{}", b",{}", b"]")),
    "many names": (JSON, b"{" + b",".join(b'"%06d":1' % number for number in range(90_000)) + b"}"),
    "many names, YAML": (YAML, b"".join(b"%06d: 1\n" % number for number in range(100_000))),
    "many items, YAML": (YAML, filled(b"", b"- 1\n")),
    "many empty ones, YAML": (YAML, filled(b"[", b",~", b"]")),
    "many anchors": (YAML, b"".join(b"- &a%05d x\n" % number for number in range(80_000))),
    "many documents": (YAML, filled(b"", b"---\n")),
    "many tags": (YAML, filled(b"", b"- !!str x\n")),
    "a python object": (YAML, b"!!python/object/apply:os.system [true]"),
    "one long word": (JSON, filled(b'{"', b"x", b'":1}')),
    "one long word, YAML": (YAML, filled(b"", b"x")),
    "one long number": (JSON, filled(b"", b"9")),
    "one long number, YAML": (YAML, filled(b"a: ", b"9")),
    "one long fraction": (JSON, filled(b"0.", b"9")),
    "a huge exponent": (JSON, b"[1e999999999]"),
    "one long escape": (JSON, filled(b'{"a":"', b"\\u0041", b'"}')),
    "half characters": (JSON, b'{"executable":{"kind":"\\ud800"}}'),
    "a NUL": (JSON, b'{"executable":{"kind":"\\u0000"}}'),
    "bytes": (JSON, filled(b"", b"\xff")),
    "a long duration": (JSON, filled(b'{"schedule":{"requested":{"duration":"P', b"1", b'D"}}}')),
    "a long interval": (JSON, filled(b'{"schedule":{"requested":{"start":"', b"P1D/", b'"}}}')),
    "a long comment": (YAML, filled(b"#", b"#")),
    "many wrong costs": (JSON, filled(b'{"costs":[1', b",1", b"]}")),
    "some wrong costs": (JSON, b'{"costs":[' + b",".join([b"1"] * 19_000) + b"]}"),
    "some long wrong names": (JSON, json.dumps({f"{'x' * 5000}{number}": 1 for number in range(190)}).encode()),
    "nothing": (JSON, b""),
    "nothing, YAML": (YAML, b""),
    "one too many": (JSON, b" " * (FULL + 1)),
}


@pytest.mark.parametrize(("media", "body"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_they_are_refused_in_few_words(tmp_path: Path, media: str, body: bytes) -> None:
    async with FakePlanner(tmp_path) as planner:
        for path in ("/requests", "/direct"):
            reply = await planner.client.post(path, content=body, headers={"Content-Type": media})
            assert reply.status_code in (400, 413), reply.text[:500]
            assert reply.headers["content-type"] == codecs.PROBLEM_JSON
            assert len(reply.content) < 30_000
        assert (await planner.client.get("/sessions")).json() == {"sessions": []}


async def test_all_of_them_together_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner_app.planner.exchange.MAX_UNREAD", 10_000)
    halfway, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b" " * 9_000
        halfway.set()
        await go_on.wait()
        yield json.dumps(request_of()).encode()

    async with FakePlanner(tmp_path) as planner:
        headers = {"Content-Type": JSON}
        first = asyncio.create_task(planner.client.post("/requests", content=slow(), headers=headers))
        await halfway.wait()
        body = b" " * 2_000 + json.dumps(request_of()).encode()
        refused = await planner.client.post("/requests", content=body, headers=headers)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        go_on.set()
        assert (await first).status_code == 200
        assert (await planner.client.post("/requests", content=body, headers=headers)).status_code == 200


# In a process of its own, whose largest memory is its own. Processor time, so that nobody else's work counts.
_MEASURE = """
import asyncio, json, resource, sys, time
from pathlib import Path
from tests.fakes import FakePlanner
from tests.test_planner_bodies import HOSTILE

async def main(directory):
    async with FakePlanner(directory) as planner:
        await planner.ask()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        slowest = 0.0
        for media, body in HOSTILE.values():
            began = time.process_time()
            await planner.client.post("/requests", content=body, headers={"Content-Type": media})
            slowest = max(slowest, time.process_time() - began)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, slowest

# After the planner's log, which follows an answer.
print(json.dumps(asyncio.run(main(Path(sys.argv[1])))))
"""


def test_they_take_bounded_memory_and_time(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _MEASURE, tmp_path], check=True, capture_output=True, text=True, timeout=240
    )
    kibibytes, seconds = json.loads(run.stdout.splitlines()[-1])
    assert kibibytes < 100 * 1024, f"{kibibytes} KiB more than idle"
    assert seconds < 3, f"{seconds} s of the processor for one body"


def parts() -> st.SearchStrategy[object]:
    words = st.sampled_from(
        ["executable", "compute", "kind", "cores", "min", "max", "schedule", "requested", "duration", "costs", "PT1H"]
    )
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | words
    return st.recursive(
        leaves,
        lambda below: st.lists(below, max_size=5) | st.dictionaries(words | st.text(max_size=9), below, max_size=5),
    )


def mutilated() -> st.SearchStrategy[bytes]:
    """A good request with some of its bytes replaced."""
    good = json.dumps(request_of()).encode()

    def replaced(cut: tuple[int, int, bytes]) -> bytes:
        start, length, instead = cut
        return good[:start] + instead + good[start + length :]

    return st.tuples(st.integers(0, len(good)), st.integers(0, 40), st.binary(max_size=20)).map(replaced)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=300) | parts().map(lambda part: json.dumps(part).encode()) | mutilated())
async def test_whatever_is_sent_the_planner_does_not_fail(tmp_path: Path, body: bytes) -> None:
    async with FakePlanner(tmp_path) as planner:
        for media in (JSON, YAML):
            reply = await planner.client.post("/requests", content=body, headers={"Content-Type": media})
            assert reply.status_code in (200, 400)
            update = await planner.client.post("/sessions/x", content=body, headers={"Content-Type": media})
            assert update.status_code == 404
