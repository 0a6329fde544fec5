"""The database's password follows the operator's, from whatever state an earlier run was stopped in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import OperationFailure

sys.path.insert(0, str(Path(__file__).parents[2] / "roles/mongodb/files"))

import database
import passwords

CAESAR, ROOT = ("caesar", "caesardb"), ("root", "admin")
Users = dict[tuple[str, str], str]


class Engine:
    """Users and their passwords; each of MongoDB's changes may only be made by root.

    A stranger may do all where nobody is asked; FerretDB has no commands for users then.
    """

    def __init__(self, users: Users, stops_after: int = 99, *, asks: bool = True, kind: str = "mongodb") -> None:
        self.users, self.left, self.asks, self.kind = dict(users), stops_after, asks, kind

    @contextmanager
    def stranger(self, port: int) -> Iterator[Any]:
        yield Client(self, "")

    @contextmanager
    def login(self, port: int, user: str, where: str, password: str) -> Iterator[Any]:
        if self.users.get((user, where)) != password:
            raise OperationFailure("Authentication failed.", code=18)
        yield Client(self, user)


class Client(dict[str, Any]):
    """The databases; what FerretDB's says of itself it does."""

    def __init__(self, engine: Engine, who: str) -> None:
        super().__init__({name: Database(engine, name, who) for name in ("caesardb", "admin")})

        self.kind = engine.kind

    def server_info(self) -> dict[str, Any]:
        return {"version": "8.0.1"} | ({"ferretdb": {}} if self.kind == "ferretdb" else {})


class Database:
    def __init__(self, engine: Engine, name: str, who: str) -> None:
        self.engine, self.name, self.who = engine, name, who

    def __getitem__(self, collection: str) -> Any:
        assert (self.name, collection) == ("admin", "system.users")
        return self

    def update_one(self, which: dict[str, Any], change: dict[str, Any], *, upsert: bool) -> None:
        assert self.engine.kind == "ferretdb"
        assert not self.engine.asks
        assert upsert
        record = change["$set"]
        assert which == {"_id": f"{record['db']}.{record['user']}"}
        kept = record["credentials"]["SCRAM-SHA-256"]
        salt = base64.b64decode(kept["salt"])
        for guess in ("new", "old", "lost"):
            if base64.b64decode(kept["storedKey"]) == passwords.scram_keys("sha256", guess, salt, 15_000)[0]:
                self.engine.users[record["user"], record["db"]] = guess

    def command(self, what: str, user: str, *, pwd: str = "", roles: Any = ()) -> dict[str, Any]:
        there = (user, self.name) in self.engine.users
        if what == "usersInfo":
            return {"users": [{"user": user}] if there else []}
        if not self.who and self.engine.asks:
            raise OperationFailure("command requires authentication", code=13)
        assert there == (what == "updateUser")
        assert self.who in ("root", user, "")
        assert user != "caesar" or self.who != "root" or roles == [{"role": "dbOwner", "db": "caesardb"}]
        if not self.engine.left:
            raise KeyboardInterrupt
        self.engine.left -= 1
        self.engine.users[user, self.name] = pwd
        return {"ok": 1}


def agree(monkeypatch: pytest.MonkeyPatch, engine: Engine, kind: str, *known: str) -> list[str]:
    monkeypatch.setattr(passwords, "login", engine.login)
    return passwords.agree(1, kind, *CAESAR, known)


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
    with pytest.raises(passwords.LockedOut):
        agree(monkeypatch, Engine({ROOT: "lost", CAESAR: "lost"}), kind, "new", "old")


@pytest.mark.parametrize("users", [{ROOT: "lost", CAESAR: "lost"}, {CAESAR: "lost"}, {ROOT: "lost"}, {}])
@pytest.mark.parametrize("kind", ["ferretdb", "mongodb"])
def test_a_lost_password_is_regained_from_an_engine_that_asks_nobody(
    monkeypatch: pytest.MonkeyPatch, kind: str, users: Users
) -> None:
    engine = Engine(users, asks=False, kind=kind)
    monkeypatch.setattr(passwords, "stranger", engine.stranger)
    passwords.regain(1, kind, *CAESAR, "new")
    engine.asks = True
    assert agree(monkeypatch, engine, kind, "new") == []
    assert set(engine.users.values()) - {"new"} == ({"lost"} if kind == "ferretdb" and ROOT in users else set())


def test_an_engine_that_asks_gives_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine({ROOT: "lost", CAESAR: "lost"})
    monkeypatch.setattr(passwords, "stranger", engine.stranger)
    with pytest.raises(OperationFailure):
        passwords.regain(1, "mongodb", *CAESAR, "new")


NONCE = {
    "sha1": "fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j",
    "sha256": "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
}


@pytest.mark.parametrize(
    ("kind", "salt", "own", "proof", "signature"),
    [
        ("sha1", "QSXCR+Q6sek8bf92", 24, "v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=", "rmF9pqV8S7suAoZWja4dJRkFsKQ="),
        (
            "sha256",
            "W22ZaJ0SNY7soEsUEjb6gQ==",
            20,
            "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        ),
    ],
)
def test_a_server_with_these_keys_takes_part_in_the_examples_of_the_rfcs(
    kind: str, salt: str, own: int, proof: str, signature: str
) -> None:
    """RFC 5802, section 5, and RFC 7677, section 3: user `user`, password `pencil`."""
    stored, server = passwords.scram_keys(kind, "pencil", base64.b64decode(salt), 4096)
    nonce = NONCE[kind]
    message = f"n=user,r={nonce[:own]},r={nonce},s={salt},i=4096,c=biws,r={nonce}".encode()
    assert base64.b64encode(hmac.digest(server, message, kind)).decode() == signature
    masked, given = hmac.digest(stored, message, kind), base64.b64decode(proof)
    client = bytes(one ^ other for one, other in zip(masked, given, strict=True))
    assert hashlib.new(kind, client).digest() == stored


def test_what_is_kept_of_a_password_is_other_each_time_and_not_the_password() -> None:
    one, other = (passwords.credentials("caesar", "the password") for _ in range(2))
    assert set(one) == {"SCRAM-SHA-1", "SCRAM-SHA-256"}
    for name, kept in one.items():
        assert set(kept) == {"iterationCount", "salt", "storedKey", "serverKey"}
        assert kept["salt"] != other[name]["salt"]
        assert kept["storedKey"] != other[name]["storedKey"]
    assert "the password" not in repr(one)


def test_another_refusal_is_no_wrong_password(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def refuse(*_: Any) -> Iterator[None]:
        raise OperationFailure("not allowed", code=13)
        yield

    monkeypatch.setattr(passwords, "login", refuse)
    with pytest.raises(OperationFailure, match="not allowed"):
        passwords.agree(1, "ferretdb", *CAESAR, ["new"])


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
            3,
            f"neither the password in {tmp_path / 'password'} nor that of the Secret caesar-rest/mong",
        ),
    ):
        monkeypatch.setattr(passwords, "login", Engine(users).login)
        assert database.main(words) == code
        said = "".join(capsys.readouterr())
        assert told in said
        assert "'old'" not in said
        assert "'new'" not in said
