"""Backup, restore and password of a database that speaks MongoDB's protocol and lies in a Kubernetes.

It is reached through the API server. Nothing that is secret is an argument: the password is read from a file.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

# Beside this one, also where it is not run as a program.
sys.path.insert(0, str(Path(__file__).parent))

from archive import Collection, NoBackup, Writer, documents, member, pack, unpack
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from forward import forwarded
from passwords import Client, LockedOut, agree, engine_of, login, regain
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

#: The engine's own; users are made by the role.
NOT_OURS = frozenset({"admin", "config", "local"})
#: What caesar-rest's accounter writes.
COUNTED = re.compile(r".+\.accounting|appstats")
RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
#: Documents and bytes that are written at once.
BATCH, BATCH_BYTES = 1000, 8 << 20
#: So long a database that died during a restore may take to come back.
UNDO_SECONDS = 120.0
#: What the program ends with where no password is known.
LOCKED_OUT = 3


class Changing(Exception):
    """The data changed while they were read."""


def say(text: str) -> None:
    """Print a line of progress at once."""
    print(text, flush=True)


class NotUndone(Exception):
    """A restore has failed, and what there was could not be put back."""

    def __init__(self, kept: str, why: str) -> None:
        super().__init__(
            f"parts are missing in the database: the restore failed, and so did putting back what there was ({why}). "
            f"That is kept in {kept}: restore it, -e backup={kept}"
        )


class Progress:
    """A line a second at most."""

    def __init__(self, what: str) -> None:
        self._what, self._shown, self._count = what, time.monotonic(), 0

    def add(self, count: int, name: str) -> None:
        """Tell of further documents."""
        self._count += count
        if time.monotonic() - self._shown >= 1:
            self._shown = time.monotonic()
            say(f"{self._what} {self._count} documents, now {name}")


def told(error: PyMongoError) -> str:
    """A refusal for people; its full text may hold what was sent."""
    details: Any = getattr(error, "details", None)
    if not isinstance(details, Mapping):
        return f"the database refuses: {type(error).__name__}"
    written = [str(each.get("errmsg")) for each in details.get("writeErrors") or []]
    return f"the database refuses: {details.get('errmsg') or '; '.join(written[:1]) or type(error).__name__}"


def names(client: Client) -> list[tuple[str, str]]:
    """All collections that are somebody's data."""
    return sorted(
        (database, name)
        for database in client.list_database_names()
        if database not in NOT_OURS
        for name in client[database].list_collection_names()
        if not name.startswith("system.")
    )


def indexes(client: Client, database: str, name: str) -> list[dict[str, Any]]:
    """The indexes of a collection beyond that of _id."""
    return [
        {"keys": [[key, way] for key, way in entry["key"].items()], "name": entry["name"]}
        | ({"unique": True} if entry.get("unique") else {})
        for entry in client[database][name].list_indexes()
        if entry["name"] != "_id_"
    ]


def read(client: Client, place: Path) -> list[Collection]:
    """Write the documents of all collections into files; their descriptions."""
    place.mkdir(mode=0o700)
    found, progress = [], Progress("read")
    for number, (database, name) in enumerate(names(client)):
        writer = Writer(place / member(number))
        raw: Any = client[database].get_collection(name, codec_options=RAW)
        for document in raw.find({}):
            writer.add(document.raw)
            progress.add(1, f"{database}.{name}")
        found.append(writer.close(database, name, indexes(client, database, name)))
    return found


def state(collections: Sequence[Collection]) -> dict[tuple[str, str], tuple[str, str]]:
    """What two readings are compared by; not what is made anew of the rest every minute."""
    return {each.key: (each.digest, repr(each.indexes)) for each in collections if not COUNTED.fullmatch(each.name)}


def read_consistent(
    client: Client, place: Path, readings: int, *, strict: bool = True
) -> tuple[Path, list[Collection]]:
    """Read until two readings agree: between them the data were just that, though the engine has no snapshots.

    Raises:
        Changing: where none agree and `strict` is set.
    """
    before: list[Collection] | None = None
    for number in range(1, max(2, readings) + 1):
        here = place / f"reading-{number}"
        found = read(client, here)
        if before is not None:
            shutil.rmtree(place / f"reading-{number - 1}")
            if state(before) == state(found):
                return here, found
            say(f"something was written meanwhile; reading again ({number} of {readings} readings)")
        before = found
    if strict or before is None:
        raise Changing(
            f"the data changed during each of {readings} readings: stop what writes (kubectl scale deployment --all "
            "--replicas=0), give more readings, or say -e mongodb_backup_consistent=false"
        )
    return here, before


def put(client: Client, place: Path, collections: Sequence[Collection]) -> None:
    """Put these collections in the place of all that are there."""
    progress = Progress("wrote")
    for number, each in enumerate(collections):
        client[each.database].drop_collection(each.name)
        client[each.database].create_collection(each.name)
        target: Any = client[each.database].get_collection(each.name, codec_options=RAW)
        batch: list[RawBSONDocument] = []
        size = 0
        for document in documents(place / member(number)):
            batch.append(RawBSONDocument(document))
            size += len(document)
            if len(batch) >= BATCH or size >= BATCH_BYTES:
                target.insert_many(batch)
                progress.add(len(batch), f"{each.database}.{each.name}")
                batch, size = [], 0
        if batch:
            target.insert_many(batch)
        for index in each.indexes:
            options = {key: value for key, value in index.items() if key != "keys"}
            target.create_index([tuple(pair) for pair in index["keys"]], **options)
    wanted = {each.key for each in collections}
    for database, name in names(client):
        if (database, name) not in wanted:
            client[database].drop_collection(name)


def undo(client: Client, former: Path, was: Sequence[Collection], kept: str) -> None:
    """Put back what there was, and prove it; a database that has died is given the time to come back.

    Raises:
        NotUndone: where that fails too.
    """
    deadline = time.monotonic() + UNDO_SECONDS
    for attempt in itertools.count(1):
        try:
            put(client, former, was)
            found = state(read(client, former.with_name(f"undone-{attempt}")))
        except ConnectionFailure as error:
            if time.monotonic() > deadline:
                raise NotUndone(kept, "the database does not answer") from error
            time.sleep(1)  # the driver waits for it by itself, but not for one that dies again
        except PyMongoError as error:
            raise NotUndone(kept, told(error)) from error
        except KeyboardInterrupt:
            raise NotUndone(kept, "stopped") from None
        else:
            if found != state(was):
                raise NotUndone(kept, "the database does not give back what was written")
            return


def restore(
    client: Client, place: Path, collections: Sequence[Collection], safety: Callable[[Path, list[Collection]], str]
) -> None:
    """Put collections in the place of what is there, prove it, and undo all of it where that fails.

    Args:
        client: the database.
        place: where the collections' files are; what there was is kept beside them meanwhile.
        collections: what there is to be.
        safety: keeps what there was beyond this run, and says where.

    Raises:
        PyMongoError: where the database fails; what there was is there again.
        ValueError: where it does not give back what was written; the same.
        NotUndone: where that could not be put back; it says where it is kept.
    """
    say("keeping what there is now")
    former = place / "former"
    was = read(client, former)
    kept = safety(former, was)
    try:
        say("writing")
        put(client, place, collections)
        say("comparing")
        found = state(read(client, place / "found"))
        if found != state(collections):
            wrong = [".".join(key) for key, value in state(collections).items() if found.get(key) != value]
            raise ValueError(f"the database does not give back what was written: {', '.join(wrong) or 'there is more'}")
    except BaseException as error:
        say(f"it failed ({type(error).__name__}); putting back what there was (kept in {kept})")
        undo(client, former, was, kept)
        say("what there was is there again")
        raise


def table(collections: Sequence[Collection], *lines: str) -> str:
    """What people read at the end."""
    rows = [(f"{each.database}.{each.name}", str(each.documents), f"{each.size / 1000:.1f}") for each in collections]
    total = ("all", str(sum(each.documents for each in collections)), f"{sum(e.size for e in collections) / 1000:.1f}")
    rows = [("collection", "documents", "kB"), *rows, total]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    shown = [f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}" for row in rows]
    return "\n".join([*shown, *lines]) + "\n"


@contextmanager
def connected(options: argparse.Namespace) -> Iterator[Client]:
    """The database, through the API server."""
    password = options.password_file.read_text().rstrip("\n")
    where = (options.kubeconfig, options.context, options.namespace, options.pod, 27017)
    with forwarded(*where) as port, login(port, options.user, options.database, password) as client:
        yield client


def now() -> str:
    """The time, for people and for programs."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def about(client: Client) -> dict[str, Any]:
    """What an archive says of where it comes from."""
    return {"created": now(), "engine": f"{engine_of(client)} {client.server_info().get('version')}"}


def dump(options: argparse.Namespace, place: Path) -> str:
    """Write a backup."""
    with connected(options) as client:
        here, found = read_consistent(client, place, options.readings, strict=not options.inconsistent)
        say("packing")
        pack(here, found, about(client), options.output)
    size = options.output.stat().st_size / 1000
    return table(found, f"kept in {options.output}, {size:.1f} kB")


def check(options: argparse.Namespace, place: Path) -> str:
    """Check a backup."""
    contents, found = unpack(options.input, place)
    return table(found, f"of {contents.get('created')}, {contents.get('engine')}")


def put_back(options: argparse.Namespace, place: Path) -> str:
    """Check a backup, all of it, and restore it."""
    say(f"checking {options.input}")
    contents, wanted = unpack(options.input, place)

    def safety(former: Path, was: list[Collection]) -> str:
        pack(former, was, {"created": now(), "engine": "before a restore"}, options.safety)
        return str(options.safety)

    with connected(options) as client:
        restore(client, place, wanted, safety)
    return table(
        wanted,
        f"restored from {options.input} of {contents.get('created')}",
        f"what there was before: {options.safety}",
    )


def former_password(options: argparse.Namespace) -> tuple[str, bool]:
    """The password that Kubernetes has, empty where it has none; and whether there is a database."""
    from kubernetes import client, config

    load: Any = config.new_client_from_config  # the client has no types
    api = load(str(options.kubeconfig), context=options.context or None)

    def found(read: Callable[[str, str], Any], name: str) -> Any:
        try:
            return read(name, options.namespace)
        except client.ApiException as error:
            if error.status == 404:
                return None
            raise OSError(f"Kubernetes refuses to show {name} in {options.namespace}: {error.reason}") from None

    secret = found(client.CoreV1Api(api).read_namespaced_secret, "mongodb")
    there = found(client.AppsV1Api(api).read_namespaced_stateful_set, options.pod.rpartition("-")[0])
    data = (secret.data or {}) if secret else {}
    return base64.b64decode(data.get("password", "")).decode(), there is not None


def change_password(options: argparse.Namespace, place: Path) -> str:
    """Let the user in by the operator's password, wherever the database still has a former one."""
    wanted = options.password_file.read_text().rstrip("\n")
    former, there = former_password(options)
    if not there:
        return "there is no database yet\n"
    passwords = list(dict.fromkeys(each for each in (wanted, former) if each))
    with forwarded(options.kubeconfig, options.context, options.namespace, options.pod, 27017) as port:
        try:
            changed = agree(port, options.engine, options.user, options.database, passwords)
        except LockedOut as error:
            raise LockedOut(
                f"the database takes neither the password in {options.password_file} nor that of the Secret "
                f"{options.namespace}/mongodb for {error}: its files have the one with which they were made or last "
                "changed. Put that one into the file and run this again; where nobody knows it, say "
                "-e mongodb_regain=true: all documents stay, and the database is closed to all others meanwhile"
            ) from None
    return f"changed for {' and '.join(changed)}\n" if changed else "it is the one that the database has\n"


def regain_database(options: argparse.Namespace, place: Path) -> str:
    """Put the operator's password in the place of one that nobody knows."""
    password = options.password_file.read_text().rstrip("\n")
    with forwarded(options.kubeconfig, options.context, options.namespace, options.pod, 27017) as port:
        regain(port, options.engine, options.user, options.database, password)
    return "it takes this password from now on\n"


def parser() -> argparse.ArgumentParser:
    """The program's arguments."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("what", choices=["dump", "check", "restore", "password", "regain"])
    made.add_argument("--kubeconfig", type=Path)
    made.add_argument("--context", default="")
    made.add_argument("--namespace", default="")
    made.add_argument("--pod", default="mongodb-0")
    made.add_argument("--database", default="")
    made.add_argument("--user", default="")
    made.add_argument("--password-file", type=Path)
    made.add_argument("--engine", choices=["ferretdb", "mongodb"], default="ferretdb")
    made.add_argument("--input", type=Path, help="backup to read")
    made.add_argument("--output", type=Path, help="backup to write")
    made.add_argument("--safety", type=Path, help="where a restore keeps what there was")
    made.add_argument("--report", type=Path, help="where the table is written too")
    made.add_argument("--readings", type=int, default=5)
    made.add_argument("--inconsistent", action="store_true", help="keep the last reading where no two agree")
    return made


def stop(number: int, frame: FrameType | None) -> None:
    """Let what is under way be undone."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, stop)
    act = {
        "dump": dump,
        "check": check,
        "restore": put_back,
        "password": change_password,
        "regain": regain_database,
    }[options.what]
    try:
        with tempfile.TemporaryDirectory(prefix="mongodb-") as place:
            text = act(options, Path(place))
    except NoBackup as error:
        print(f"Nothing was changed: {error}", file=sys.stderr)
        return 2
    except OperationFailure as error:
        print(told(error), file=sys.stderr)
        return 1
    except ConnectionFailure:
        print(
            f"the database does not answer: is {options.pod} in {options.namespace} ready? (kubectl get pods)",
            file=sys.stderr,
        )
        return 1
    except OSError as error:
        print(f"{error.strerror}: {error.filename}" if error.filename else error, file=sys.stderr)
        return 1
    except LockedOut as error:
        print(error, file=sys.stderr)
        return LOCKED_OUT
    except (PyMongoError, ValueError, Changing, NotUndone) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    say(text)
    if options.report:
        options.report.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
