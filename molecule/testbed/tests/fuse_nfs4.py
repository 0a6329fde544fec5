#!/usr/bin/python3
"""mount.nfs4 without the kernel's client: NFS 4.0 spoken here, behind Debian's fusepy; for the tests alone.

The kernel under the tests may have no NFS. Put in the place of /sbin/mount.nfs4 on a machine, this is what `mount`
calls, so the unit that mounts, its order and its options are the real ones, and so are the server and what it allows to
whom. Each request goes out with the numbers of the user who made it (AUTH_SYS); nothing is cached, so that what one
client wrote the next one sees; a server that is away is waited for, as `hard` says. Not here: locks, extended
attributes, caches.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from fusepy import FUSE, FuseOSError, Operations, fuse_get_context  # type: ignore[import-not-found]

# Operations (RFC 7530, section 16).
ACCESS, CLOSE, CREATE, GETATTR, GETFH, LINK, LOOKUP, OPEN, OPEN_CONFIRM = 3, 4, 6, 9, 10, 11, 15, 18, 20
PUTFH, PUTROOTFH, READ, READDIR, READLINK, REMOVE, RENAME, SAVEFH, SETATTR = 22, 24, 25, 26, 27, 28, 29, 32, 34
SETCLIENTID, SETCLIENTID_CONFIRM, WRITE = 35, 36, 38
# Attributes (section 5), in the order of their numbers.
TYPE, SIZE, FILEID, MODE, LINKS, OWNER, GROUP, USED, ATIME, CTIME, MTIME = 1, 4, 20, 33, 35, 36, 37, 45, 47, 52, 53
ATIME_SET, MTIME_SET = 48, 54
KINDS = {1: 0o100000, 2: 0o040000, 3: 0o060000, 4: 0o020000, 5: 0o120000, 6: 0o140000, 7: 0o010000}
#: Errors that are no errno; those below 63 are.
ERRORS = {63: errno.ENAMETOOLONG, 66: errno.ENOTEMPTY, 69: errno.EDQUOT, 70: errno.ESTALE, 10016: errno.EPERM}
NOT_NOW = (10008, 10013)  # delay, grace
NO_CLIENT = (10011, 10022)  # expired, stale client id
ANONYMOUS = bytes(16)


def u32(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


def opaque(data: bytes | str) -> bytes:
    data = os.fsencode(data)
    return u32(len(data)) + data + bytes(-len(data) % 4)


def bitmap(*numbers: int) -> bytes:
    words = [0, 0]
    for number in numbers:
        words[number // 32] |= 1 << number % 32
    return u32(2, *words)


def attributes(values: dict[int, bytes]) -> bytes:
    return bitmap(*values) + opaque(b"".join(values[number] for number in sorted(values)))


class Answer:
    """What a server said, read from its beginning."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str = ">I") -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def opaque(self) -> bytes:
        size = self.number()
        return self.take(size + -size % 4)[:size]

    def bitmap(self) -> list[int]:
        words = [self.number() for _ in range(self.number())]
        return [32 * place + bit for place, word in enumerate(words) for bit in range(32) if word >> bit & 1]

    def time(self) -> float:
        return self.number(">q") + self.number() / 1e9

    def attributes(self) -> dict[int, Any]:
        numbers, inner = self.bitmap(), Answer(self.opaque())
        readers: dict[int, Callable[[], Any]] = {
            **dict.fromkeys((TYPE, MODE, LINKS), inner.number),
            **dict.fromkeys((SIZE, FILEID, USED), lambda: inner.number(">Q")),
            **dict.fromkeys((OWNER, GROUP), inner.opaque),
            **dict.fromkeys((ATIME, CTIME, MTIME), inner.time),
        }
        return {number: readers[number]() for number in numbers}

    def entries(self) -> tuple[bytes, list[tuple[int, bytes]], bool]:
        verifier, found = self.take(8), []
        while self.number():
            found.append((self.number(">Q"), self.opaque()))
            self.attributes()
        return verifier, found, bool(self.number())

    def opened(self) -> tuple[bytes, bool]:
        state, _, flags = self.take(16), self.take(20), self.number()
        self.bitmap()
        assert self.number() == 0, "a delegation, which nobody asked for"
        return state, bool(flags & 2)


#: How the answer to an operation is read; to the others there is none.
READERS: dict[int, Callable[[Answer], Any]] = {
    ACCESS: lambda answer: (answer.number(), answer.number())[1],
    CLOSE: lambda answer: answer.take(16),
    CREATE: lambda answer: (answer.take(20), answer.bitmap()),
    GETATTR: Answer.attributes,
    GETFH: Answer.opaque,
    LINK: lambda answer: answer.take(20),
    OPEN: Answer.opened,
    OPEN_CONFIRM: lambda answer: answer.take(16),
    READ: lambda answer: (answer.number(), answer.opaque())[1],
    READDIR: Answer.entries,
    READLINK: Answer.opaque,
    REMOVE: lambda answer: answer.take(20),
    RENAME: lambda answer: answer.take(40),
    SETATTR: Answer.bitmap,
    SETCLIENTID: lambda answer: (answer.take(8), answer.take(8)),
    WRITE: lambda answer: (answer.number(), answer.take(12))[0],
}


class Client:
    """A connection to a server that outlives the server's restarts."""

    def __init__(self, server: str) -> None:
        self.server, self.xid, self.client = server, 0, b""
        self.stream: socket.socket | None = None

    def connect(self) -> None:
        self.stream = socket.create_connection((self.server, 2049), timeout=30)
        self.stream.settimeout(None)
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _exchange(self, call: bytes) -> Answer:
        """One call, and again where the server went away meanwhile."""
        while True:
            try:
                if self.stream is None:
                    self.connect()
                assert self.stream
                self.stream.sendall(u32(0x80000000 | len(call)) + call)
                data, last = b"", False
                while not last:
                    mark = struct.unpack(">I", self._receive(4))[0]
                    last, data = bool(mark >> 31), data + self._receive(mark & 0x7FFFFFFF)
            except OSError:
                self.stream = None
                time.sleep(1)  # nothing tells when a server is back
            else:
                return Answer(data)

    def _receive(self, size: int) -> bytes:
        assert self.stream
        data = b""
        while len(data) < size:
            if not (part := self.stream.recv(size - len(data))):
                raise ConnectionResetError
            data += part
        return data

    def compound(self, *operations: tuple[int, bytes], user: tuple[int, int] = (0, 0)) -> list[Any]:
        """The answers to operations that go in one call; FuseOSError where one of them is refused."""
        while True:
            self.xid += 1
            credential = opaque(u32(0) + opaque(b"tests") + u32(*user, 0)) + u32(0, 0)
            call = u32(self.xid, 0, 2, 100003, 4, 1, 1) + credential + opaque(b"") + u32(0, len(operations))
            answer = self._exchange(call + b"".join(u32(number) + rest for number, rest in operations))
            if answer.number() != self.xid or answer.number() != 1 or answer.number() != 0:
                raise FuseOSError(errno.EACCES)
            answer.number(), answer.opaque()
            if answer.number() != 0:
                raise FuseOSError(errno.EPROTO)
            status, _, count = answer.number(), answer.opaque(), answer.number()
            if status in NOT_NOW:
                time.sleep(1)  # the server says: try again
                continue
            if status:
                failed = FuseOSError(ERRORS.get(status, status if status < 63 else errno.EIO))
                failed.status = status
                raise failed
            found = []
            for _ in range(count):
                number, _ = answer.number(), answer.number()
                found.append(READERS[number](answer) if number in READERS else None)
            return found

    def introduce(self) -> None:
        """Have a number, which only opening asks for."""
        name = opaque(os.urandom(8)) + u32(0) + opaque(b"tcp") + opaque(b"0.0.0.0.0.0") + u32(0)
        [(number, verifier)] = self.compound((SETCLIENTID, os.urandom(8) + name))
        self.compound((SETCLIENTID_CONFIRM, number + verifier))
        self.client = number


class Nfs(Operations):  # type: ignore[misc]
    """One export, mounted."""

    def __init__(self, server: str, export: str) -> None:
        self.client, self.export = Client(server), export
        self.client.connect()
        self.client.compound(*self.at("/"), (GETATTR, bitmap(TYPE)))
        self.handles: dict[int, bytes] = {}

    def at(self, path: str) -> list[tuple[int, bytes]]:
        return [(PUTROOTFH, b""), *((LOOKUP, opaque(part)) for part in f"{self.export}/{path}".split("/") if part)]

    def above(self, path: str) -> tuple[list[tuple[int, bytes]], bytes]:
        parent, name = os.path.split(path)
        return self.at(parent), opaque(name)

    def call(self, *operations: tuple[int, bytes]) -> Any:
        """The last answer to operations done as the user who asks."""
        uid, gid, _ = fuse_get_context()
        return self.client.compound(*operations, user=(uid, gid))[-1]

    def getattr(self, path: str, fh: int | None = None) -> dict[str, float]:
        wanted = bitmap(TYPE, SIZE, FILEID, MODE, LINKS, OWNER, GROUP, USED, ATIME, CTIME, MTIME)
        found = self.call(*self.at(path), (GETATTR, wanted))
        return {
            "st_mode": KINDS[found[TYPE]] | found[MODE],
            "st_ino": found[FILEID],
            "st_nlink": found[LINKS],
            # A server that gives names and no numbers is not ours.
            "st_uid": int(found[OWNER]),
            "st_gid": int(found[GROUP]),
            "st_size": found[SIZE],
            "st_blocks": (found[USED] + 511) // 512,
            "st_atime": found[ATIME],
            "st_mtime": found[MTIME],
            "st_ctime": found[CTIME],
        }

    def _set(self, path: str, values: dict[int, bytes]) -> None:
        self.call(*self.at(path), (SETATTR, ANONYMOUS + attributes(values)))

    def chmod(self, path: str, mode: int) -> None:
        self._set(path, {MODE: u32(mode & 0o7777)})

    def chown(self, path: str, uid: int, gid: int) -> None:
        same = (-1, 2**32 - 1)
        self._set(path, {key: opaque(str(to)) for key, to in ((OWNER, uid), (GROUP, gid)) if to not in same})

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        self._set(path, {SIZE: struct.pack(">Q", length)})

    def utimens(self, path: str, times: tuple[float, float] | None = None) -> None:
        pair = [u32(1) + struct.pack(">qI", int(at), int(at % 1 * 1e9)) for at in times] if times else [u32(0)] * 2
        self._set(path, {ATIME_SET: pair[0], MTIME_SET: pair[1]})

    def readdir(self, path: str, fh: int) -> list[str]:
        names, cookie, verifier, ended = [".", ".."], 0, bytes(8), False
        while not ended:
            asked = struct.pack(">Q", cookie) + verifier + u32(8192, 32768) + bitmap()
            verifier, found, ended = self.call(*self.at(path), (READDIR, asked))
            names += [os.fsdecode(name) for _, name in found]
            cookie = found[-1][0] if found else cookie
        return names

    def _keep(self, handle: bytes) -> int:
        number = max(self.handles, default=0) + 1
        self.handles[number] = handle
        return number

    def open(self, path: str, flags: int) -> int:
        needed = {os.O_RDONLY: 1, os.O_WRONLY: 4, os.O_RDWR: 5}[flags & os.O_ACCMODE]
        uid, gid, _ = fuse_get_context()
        *_, granted, handle = self.client.compound(*self.at(path), (ACCESS, u32(5)), (GETFH, b""), user=(uid, gid))
        if granted & needed != needed:
            raise FuseOSError(errno.EACCES)
        return self._keep(handle)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        """Open with an owner of its own, and close: reading and writing need no opened file."""
        parent, name = self.above(path)
        uid, gid, _ = fuse_get_context()
        for _ in range(2):
            how = u32(1, 0) + attributes({MODE: u32(mode & 0o7777)}) + u32(0) + name
            asked = u32(0, 3, 0) + (self.client.client or bytes(8)) + opaque(os.urandom(8)) + how
            try:
                *_, (state, unconfirmed), handle = self.client.compound(
                    *parent, (OPEN, asked), (GETFH, b""), user=(uid, gid)
                )
                break
            except FuseOSError as error:
                if getattr(error, "status", 0) not in NO_CLIENT:
                    raise
                self.client.introduce()
        else:
            raise FuseOSError(errno.EIO)
        seen = 0
        if unconfirmed:
            seen += 1
            state = self.client.compound((PUTFH, opaque(handle)), (OPEN_CONFIRM, state + u32(seen)), user=(uid, gid))[
                -1
            ]
        self.client.compound((PUTFH, opaque(handle)), (CLOSE, u32(seen + 1) + state), user=(uid, gid))
        return self._keep(handle)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        asked = ANONYMOUS + struct.pack(">QI", offset, size)
        return bytes(self.call((PUTFH, opaque(self.handles[fh])), (READ, asked)))

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        asked = ANONYMOUS + struct.pack(">QI", offset, 2) + opaque(data)
        return int(self.call((PUTFH, opaque(self.handles[fh])), (WRITE, asked)))

    def release(self, path: str, fh: int) -> None:
        del self.handles[fh]

    def mkdir(self, path: str, mode: int) -> None:
        parent, name = self.above(path)
        self.call(*parent, (CREATE, u32(2) + name + attributes({MODE: u32(mode & 0o7777)})))

    def symlink(self, target: str, source: str) -> None:
        parent, name = self.above(target)
        self.call(*parent, (CREATE, u32(5) + opaque(source) + name + attributes({MODE: u32(0o777)})))

    def readlink(self, path: str) -> str:
        return os.fsdecode(self.call(*self.at(path), (READLINK, b"")))

    def unlink(self, path: str) -> None:
        parent, name = self.above(path)
        self.call(*parent, (REMOVE, name))

    rmdir = unlink

    def rename(self, old: str, new: str) -> None:
        (source, before), (target, after) = self.above(old), self.above(new)
        self.call(*source, (SAVEFH, b""), *target, (RENAME, before + after))

    def link(self, target: str, source: str) -> None:
        parent, name = self.above(target)
        self.call(*self.at(source), (SAVEFH, b""), *parent, (LINK, name))


def main() -> None:
    """mount.nfs4 SERVER:EXPORT DIRECTORY [-o OPTIONS]; returns when it is mounted."""
    spec, directory = [argument for argument in sys.argv[1:] if not argument.startswith("-")][:2]
    server, export = spec.split(":", 1)
    options = dict(option.partition("=")[::2] for option in sys.argv[-1].split(","))
    deadline = time.monotonic() + 60 * float(options.get("retry", 2))
    while True:
        try:
            mounted = Nfs(server, export)
            break
        except OSError as error:
            if isinstance(error, FuseOSError) or time.monotonic() > deadline:  # the server said no, or nothing
                sys.exit(f"mount.nfs4: {error.strerror or error} while mounting {spec}")
            time.sleep(1)  # nothing tells when a server is there
    FUSE(
        mounted,
        directory,
        nothreads=True,
        fsname=spec,
        subtype="nfs4",
        allow_other=True,
        use_ino=True,
        direct_io=True,
        dev=False,
        suid=False,
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
    )


if __name__ == "__main__":
    main()
