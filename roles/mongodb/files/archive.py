"""An archive of a database's documents: one file, with all that is needed to know that it is whole.

A gzipped tar of `backup.json`, which says what is in it, and a file of BSON documents for each collection, the bytes as
the database gave them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import struct
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = "caesar-testbed-mongodb-1"
CONTENTS = "backup.json"
CHUNK = 1 << 20
#: BSON's own limits of a document, in bytes: an empty one, and what MongoDB takes with room for its own fields.
SMALLEST, LARGEST = 5, 17 << 20


class NoBackup(ValueError):
    """A file is no backup, or not a whole one; the text says why."""


@dataclass(frozen=True)
class Collection:
    """What an archive says of a collection."""

    database: str
    name: str
    documents: int
    size: int
    """Bytes of all documents."""
    sha256: str
    """Of the documents in the order in which they came."""
    digest: str
    """Of the documents in any order: two collections with the same one hold the same."""
    indexes: list[dict[str, Any]] = field(default_factory=list)
    """Beyond that of _id."""

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from the others."""
        return self.database, self.name


class Writer:
    """Writes a collection's documents into a file and describes them."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("xb")
        self._sha256 = hashlib.sha256()
        self._each: list[bytes] = []
        self._size = 0

    def add(self, document: bytes) -> None:
        """Take the next document."""
        self._stream.write(document)
        self._sha256.update(document)
        self._each.append(hashlib.sha256(document).digest())
        self._size += len(document)

    def close(self, database: str, name: str, indexes: Sequence[dict[str, Any]] = ()) -> Collection:
        """End the file; its description."""
        self._stream.close()
        return Collection(
            database,
            name,
            len(self._each),
            self._size,
            self._sha256.hexdigest(),
            hashlib.sha256(b"".join(sorted(self._each))).hexdigest(),
            list(indexes),
        )


def member(number: int) -> str:
    """The name of a collection's file in the archive."""
    return f"{number:05d}.bson"


def documents(path: Path) -> Iterator[bytes]:
    """The documents of a file.

    Raises:
        NoBackup: where its bytes are no documents.
    """
    with path.open("rb") as stream:
        while head := stream.read(4):
            size = struct.unpack("<i", head)[0] if len(head) == 4 else 0
            rest = stream.read(size - 4) if SMALLEST <= size <= LARGEST else b""
            if len(rest) != size - 4 or rest[-1:] != b"\0":
                raise NoBackup(f"{path.name} holds what is no BSON document")
            yield head + rest


def pack(place: Path, collections: Sequence[Collection], about: dict[str, Any], destination: Path) -> None:
    """Write an archive of the files in `place`, readable by its owner alone; it appears when it is whole."""
    contents = {"format": FORMAT, **about, "collections": [asdict(each) for each in collections]}
    destination.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = destination.with_name(f".{destination.name}.{os.getpid()}")
    try:
        opened = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(opened, "wb") as stream:
            with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=6) as archive:
                text = json.dumps(contents, indent=1).encode()
                _add(archive, CONTENTS, len(text), io.BytesIO(text))
                for number, _ in enumerate(collections):
                    path = place / member(number)
                    with path.open("rb") as content:
                        _add(archive, path.name, path.stat().st_size, content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)


def _add(archive: tarfile.TarFile, name: str, size: int, content: Any) -> None:
    about = tarfile.TarInfo(name)
    about.size, about.mode = size, 0o600
    archive.addfile(about, content)


def unpack(source: Path, place: Path) -> tuple[dict[str, Any], list[Collection]]:
    """Check a whole archive and unpack it; what it says of itself, and its collections.

    Raises:
        NoBackup: where it is none, or not whole, or was changed.
        OSError: where it cannot be read.
    """
    try:
        with gzip.open(source) as stream:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                found = _unpack(archive, place)
            # To the very end, where the sum of the whole is.
            while stream.read(CHUNK):
                pass
            return found
    except (tarfile.TarError, zlib.error, EOFError, struct.error) as error:
        raise NoBackup(f"{source} is no backup, or not a whole one: {error}") from error
    except OSError as error:
        if error.errno is None:  # gzip's own for what is not its format
            raise NoBackup(f"{source} is no backup: {error}") from error
        raise
    except NoBackup as error:
        raise NoBackup(f"{source} is no backup: {error}") from error


def _unpack(archive: tarfile.TarFile, place: Path) -> tuple[dict[str, Any], list[Collection]]:
    first = archive.next()
    if first is None or first.name != CONTENTS:
        raise NoBackup(f"it does not begin with {CONTENTS}")
    try:
        contents = json.loads(_read(archive, first))
        if contents.get("format") != FORMAT:
            raise NoBackup(f"its format is {contents.get('format')!r}, known is {FORMAT}")
        collections = [Collection(**each) for each in contents.pop("collections")]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise error if isinstance(error, NoBackup) else NoBackup(f"{CONTENTS} cannot be read: {error}") from error
    if len({each.key for each in collections}) != len(collections):
        raise NoBackup("a collection is in it twice")
    for number, described in enumerate(collections):
        about = archive.next()
        if about is None or about.name != member(number):
            raise NoBackup(f"{described.database}.{described.name} is missing")
        path = place / member(number)
        with path.open("xb") as stream:
            for block in _blocks(archive, about):
                stream.write(block)
        found = describe(path, described)
        if found != described:
            raise NoBackup(f"{described.database}.{described.name} is not what it was when it was written")
    if archive.next() is not None:
        raise NoBackup("there is more in it than it says")
    return contents, collections


def _read(archive: tarfile.TarFile, about: tarfile.TarInfo) -> bytes:
    return b"".join(_blocks(archive, about))


def _blocks(archive: tarfile.TarFile, about: tarfile.TarInfo) -> Iterable[bytes]:
    stream = archive.extractfile(about)
    if stream is None:
        raise NoBackup(f"{about.name} is no file")
    while block := stream.read(CHUNK):
        yield block


def describe(path: Path, described: Collection) -> Collection:
    """Describe the documents of a file anew, under the name of `described`."""
    whole, each, size = hashlib.sha256(), [], 0
    for document in documents(path):
        whole.update(document)
        each.append(hashlib.sha256(document).digest())
        size += len(document)
    digest = hashlib.sha256(b"".join(sorted(each))).hexdigest()
    return Collection(*described.key, len(each), size, whole.hexdigest(), digest, described.indexes)
