"""The database's password follows the operator's, from whatever state an earlier run was stopped in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import OperationFailure

sys.path.insert(0, str(Path(__file__).parents[2] / "roles/mongodb/files"))

import database

CAESAR, ROOT = ("caesar", "caesardb"), ("root", "admin")
Users = dict[tuple[str, str], str]


class Engine:
    """Users and their passwords; each of MongoDB's changes may only be made by root."""

    def __init__(self, users: Users, stops_after: int = 99) -> None:
        self.users, self.left = dict(users), stops_after

    @contextmanager
    def login(self, port: int, user: str, where: str, password: str) -> Iterator[Any]:
        if self.users.get((user, where)) != password:
            raise OperationFailure("Authentication failed.", code=18)
        yield Client({name: Database(self, name, user) for name in ("caesardb", "admin")})


class Client(dict[str, Any]):
    def server_info(self) -> dict[str, Any]:
        return {"version": "8.0.1"}


class Database:
    def __init__(self, engine: Engine, name: str, who: str) -> None:
        self.engine, self.name, self.who = engine, name, who

    def command(self, what: str, user: str, *, pwd: str = "", roles: Any = ()) -> dict[str, Any]:
        there = (user, self.name) in self.engine.users
        if what == "usersInfo":
            return {"users": [{"user": user}] if there else []}
        assert there == (what == "updateUser")
        assert self.who in ("root", user)
        assert user != "caesar" or self.who == user or roles == [{"role": "dbOwner", "db": "caesardb"}]
        if not self.engine.left:
            raise KeyboardInterrupt
        self.engine.left -= 1
        self.engine.users[user, self.name] = pwd
        return {"ok": 1}


def agree(monkeypatch: pytest.MonkeyPatch, engine: Engine, kind: str, *passwords: str) -> list[str]:
    monkeypatch.setattr(database, "login", engine.login)
    return database.agree(1, kind, *CAESAR, passwords)


@pytest.mark.parametrize(
    ("kind", "users", "changed"),
    [
        ("ferretdb", {CAESAR: "new"}, []),
        ("ferretdb", {CAESAR: "old"}, ["caesar"]),
        ("mongodb", {ROOT: "new", CAESAR: "new"}, []),
        ("mongodb", {ROOT: "old", CAESAR: "old"}, ["caesar", "root"]),
        ("mongodb", {ROOT: "new"}, ["caesar"]),
        ("mongodb", {ROOT: "old"}, ["caesar", "root"]),
        ("mongodb", {ROOT: "old", CAESAR: "new"}, ["caesar", "root"]),
        ("mongodb", {ROOT: "new", CAESAR: "nobody knows"}, ["caesar"]),
    ],
)
def test_all_have_the_new_one_afterwards(
    monkeypatch: pytest.MonkeyPatch, kind: str, users: Users, changed: list[str]
) -> None:
    engine = Engine(users)
    assert agree(monkeypatch, engine, kind, "new", "old") == changed
    assert set(engine.users.values()) == {"new"}
    assert CAESAR in engine.users
    assert agree(monkeypatch, engine, kind, "new") == []


@pytest.mark.parametrize("stops_after", [0, 1])
def test_a_change_that_was_stopped_is_taken_up(monkeypatch: pytest.MonkeyPatch, stops_after: int) -> None:
    engine = Engine({ROOT: "old", CAESAR: "old"}, stops_after)
    with pytest.raises(KeyboardInterrupt):
        agree(monkeypatch, engine, "mongodb", "new", "old")
    engine.left = 99
    agree(monkeypatch, engine, "mongodb", "new", "old")
    assert engine.users == {ROOT: "new", CAESAR: "new"}


@pytest.mark.parametrize("kind", ["ferretdb", "mongodb"])
def test_a_database_that_takes_no_password_at_hand(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    with pytest.raises(database.LockedOut):
        agree(monkeypatch, Engine({ROOT: "lost", CAESAR: "lost"}), kind, "new", "old")


def test_another_refusal_is_no_wrong_password(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def refuse(*_: Any) -> Iterator[None]:
        raise OperationFailure("not allowed", code=13)
        yield

    monkeypatch.setattr(database, "login", refuse)
    with pytest.raises(OperationFailure, match="not allowed"):
        database.agree(1, "ferretdb", *CAESAR, ["new"])


def test_the_messages_hold_no_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def forwarded(*_: Any) -> Iterator[int]:
        yield 1

    (tmp_path / "password").write_text("new\n")
    monkeypatch.setattr(database, "forwarded", forwarded)
    monkeypatch.setattr(database, "former_password", lambda _: ("old", True))
    words = ["password", f"--password-file={tmp_path / 'password'}", "--namespace=caesar-rest", "--user=caesar"]
    words.append("--database=caesardb")
    for users, code, told in (
        ({CAESAR: "new"}, 0, "it is the one that the database has"),
        ({CAESAR: "old"}, 0, "changed for caesar"),
        (
            {CAESAR: "lost"},
            1,
            f"neither the password in {tmp_path / 'password'} nor that of the Secret caesar-rest/mong",
        ),
    ):
        monkeypatch.setattr(database, "login", Engine(users).login)
        assert database.main(words) == code
        said = "".join(capsys.readouterr())
        assert told in said
        assert "'old'" not in said
        assert "'new'" not in said
