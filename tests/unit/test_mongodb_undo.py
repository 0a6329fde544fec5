"""What a restore that fails leaves behind: what there was, or the word where it is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import AutoReconnect, BulkWriteError, OperationFailure, PyMongoError

sys.path.insert(0, str(Path(__file__).parents[2] / "roles/mongodb/files"))

import database
from archive import Collection

WAS = [Collection("caesardb", "a.jobs", 1, 1, "", "what there was")]
WANTED = [Collection("caesardb", "a.jobs", 1, 1, "", "what is restored")]
OTHER = [Collection("caesardb", "a.jobs", 1, 1, "", "something else")]
Failure = BaseException | None


class Server:
    """A database of one collection; each `put` fails as told, having written half."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *fails: Failure) -> None:
        self.there: Sequence[Collection] = WAS
        self.fails = list(fails)
        self.waited = 0.0
        monkeypatch.setattr(database, "put", self.put)
        monkeypatch.setattr(database, "read", lambda client, place: list(self.there))
        monkeypatch.setattr(database.time, "sleep", self.sleep)
        monkeypatch.setattr(database.time, "monotonic", lambda: self.waited)

    def put(self, client: Any, place: Path, collections: Sequence[Collection]) -> None:
        self.there = OTHER
        failure = self.fails.pop(0) if self.fails else None
        if failure:
            raise failure
        self.there = collections

    def sleep(self, seconds: float) -> None:
        self.waited += seconds

    def restore(self, place: Path, safety: Callable[..., str] = lambda former, was: "KEPT") -> None:
        database.restore({}, place, WANTED, safety)  # type: ignore[arg-type]


def test_nothing_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = Server(monkeypatch)
    server.restore(tmp_path)
    assert server.there == WANTED


@pytest.mark.parametrize(
    "fails",
    [
        [OperationFailure("no")],
        [KeyboardInterrupt()],
        [AutoReconnect("gone"), AutoReconnect("gone"), AutoReconnect("gone")],
        [AutoReconnect("gone"), *[AutoReconnect("gone")] * 100],
    ],
    ids=["refused", "stopped", "died", "was away for long"],
)
def test_what_there_was_is_there_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: list[Failure]) -> None:
    server = Server(monkeypatch, *fails)
    with pytest.raises(type(fails[0] or ValueError)):
        server.restore(tmp_path)
    assert server.there == WAS


@pytest.mark.parametrize(
    ("fails", "why"),
    [
        ([OperationFailure("no"), OperationFailure("x", details={"errmsg": "the disc is full"})], "the disc is full"),
        ([AutoReconnect("gone")] * 1000, "the database does not answer"),
        ([OperationFailure("no"), KeyboardInterrupt()], "stopped"),
    ],
)
def test_where_it_cannot_be_put_back_it_is_said_where_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: list[Failure], why: str
) -> None:
    server = Server(monkeypatch, *fails)
    with pytest.raises(database.NotUndone, match="-e backup=KEPT") as told:
        server.restore(tmp_path)
    assert why in str(told.value)


def test_a_database_that_keeps_something_else_is_no_success(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = Server(monkeypatch)
    put = server.put

    def lose(client: Any, place: Path, collections: Sequence[Collection]) -> None:
        put(client, place, collections)
        server.there = OTHER if collections == WANTED else collections

    monkeypatch.setattr(database, "put", lose)
    with pytest.raises(ValueError, match=r"does not give back what was written: caesardb\.a\.jobs"):
        server.restore(tmp_path)
    assert server.there == WAS


def test_nothing_is_touched_before_it_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = Server(monkeypatch)

    def full(former: Path, was: Any) -> str:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        server.restore(tmp_path, full)
    assert server.there == WAS


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OperationFailure("full of secrets", details={"errmsg": "not allowed"}), "the database refuses: not allowed"),
        (BulkWriteError({"writeErrors": [{"errmsg": "duplicate key"}]}), "the database refuses: duplicate key"),
        (PyMongoError("full of secrets"), "the database refuses: PyMongoError"),
    ],
)
def test_a_refusal_is_told_without_what_was_sent(error: PyMongoError, words: str) -> None:
    assert database.told(error) == words
