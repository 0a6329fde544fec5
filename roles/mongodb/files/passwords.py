"""Who a database that speaks MongoDB's protocol lets in, and by which password."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure
from pymongo.saslprep import saslprep

#: A database whose pod is new answers after some seconds.
PATIENCE_MS = 30_000
#: MongoDB's number for a name or password that it does not know.
NO_SUCH_LOGIN = 18
#: The user that MongoDB's image makes, and where he is known.
ROOT, ROOTS_DATABASE = "root", "admin"

Client = MongoClient[dict[str, Any]]


class LockedOut(Exception):
    """The database takes none of the passwords at hand."""


@contextmanager
def login(port: int, user: str, database: str, password: str) -> Iterator[Client]:
    """A client that is logged in; raises OperationFailure where that is refused."""
    with stranger(port, username=user, password=password, authSource=database) as client:
        yield client


@contextmanager
def stranger(port: int, **credentials: str) -> Iterator[Client]:
    """A client that says nothing of who it is."""
    client: Client = MongoClient(
        "127.0.0.1",
        port,
        directConnection=True,
        serverSelectionTimeoutMS=PATIENCE_MS,
        retryWrites=False,  # no engine without replicas has them
        **credentials,  # type: ignore[arg-type]
    )
    try:
        client.admin.command("ping")
        yield client
    finally:
        client.close()


def engine_of(client: Client) -> str:
    """What it is, whatever its image is called: FerretDB knows no roles."""
    information: Mapping[str, Any] = client.server_info()
    return "FerretDB" if "ferretdb" in information or "ferretdbVersion" in information else "MongoDB"


def accepted(port: int, user: str, database: str, passwords: Sequence[str]) -> str | None:
    """The first of these passwords that the database takes; None where it takes none."""
    for password in passwords:
        try:
            with login(port, user, database, password):
                return password
        except OperationFailure as error:
            if error.code != NO_SUCH_LOGIN:
                raise
    return None


def agree(port: int, engine: str, user: str, database: str, passwords: Sequence[str]) -> list[str]:
    """Let the user in by the first of the passwords, with the help of the others; what was changed.

    In FerretDB he changes his own. In MongoDB root makes him, and has the same password.

    Raises:
        LockedOut: where the database takes none of them.
    """
    wanted = passwords[0]
    chief, where = (ROOT, ROOTS_DATABASE) if engine == "mongodb" else (user, database)
    known = accepted(port, chief, where, passwords)
    if known is None:
        raise LockedOut(chief)
    if known == wanted and (chief == user or accepted(port, user, database, [wanted])):
        return []
    with login(port, chief, where, known) as client:
        if chief != user:
            there = client[database].command("usersInfo", user)["users"]
            roles = [] if engine_of(client) == "FerretDB" else [{"role": "dbOwner", "db": database}]
            client[database].command("updateUser" if there else "createUser", user, pwd=wanted, roles=roles)
        # The last, so that a run that was stopped before is taken up by the next.
        if known != wanted:
            client[where].command("updateUser", chief, pwd=wanted)
    if accepted(port, user, database, [wanted]) is None:
        raise LockedOut(user)
    return [user] if chief == user or known == wanted else [user, chief]


def scram_keys(kind: str, secret: str, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """What a server keeps in the place of a password, its stored and its own key (RFC 5802)."""
    salted = hashlib.pbkdf2_hmac(kind, secret.encode(), salt, iterations)
    client = hmac.digest(salted, b"Client Key", kind)
    return hashlib.new(kind, client).digest(), hmac.digest(salted, b"Server Key", kind)


def credentials(user: str, password: str) -> dict[str, Any]:
    """What FerretDB keeps of a user's password; SHA-1's is of the digest that MongoDB made of it before SCRAM."""
    digest = hashlib.md5(f"{user}:mongo:{password}".encode(), usedforsecurity=False).hexdigest()
    kept = {}
    for name, kind, secret, iterations, length in (
        ("SCRAM-SHA-1", "sha1", digest, 10_000, 16),
        ("SCRAM-SHA-256", "sha256", str(saslprep(password)), 15_000, 28),
    ):
        salt = secrets.token_bytes(length)
        stored, server = scram_keys(kind, secret, salt, iterations)
        parts = {"salt": salt, "storedKey": stored, "serverKey": server}
        written = {part: base64.b64encode(value).decode() for part, value in parts.items()}
        kept[name] = {"iterationCount": iterations} | written
    return kept


def regain(port: int, engine: str, user: str, database: str, password: str) -> None:
    """Let the user in by a password again, and MongoDB's root, in an engine that asks nobody for one.

    FerretDB has no command for that in this state, so its record of the user is written.
    """
    chief = [(ROOT, ROOTS_DATABASE, "root")] if engine == "mongodb" else []
    with stranger(port) as client:
        written = engine_of(client) == "FerretDB"
        for name, where, role in [(user, database, "dbOwner"), *chief]:
            if written:
                record = {"user": name, "db": where, "roles": [], "credentials": credentials(name, password)}
                known: Any = client[ROOTS_DATABASE]["system.users"]
                known.update_one({"_id": f"{where}.{name}"}, {"$set": record}, upsert=True)
            else:
                there = client[where].command("usersInfo", name)["users"]
                roles = [{"role": role, "db": where}]
                client[where].command("updateUser" if there else "createUser", name, pwd=password, roles=roles)
