"""Write container images without a container engine: the same bytes for the same files, every time.

A docker-archive is a tar of manifest.json, a configuration and layers; `ctr images import` and `podman load`
read it. Format: https://github.com/moby/docker-image-spec/blob/main/spec.md, "Combined Image JSON + Filesystem
Changeset Format".

Also a program, for build scripts: `docker_archive.py --help`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import stat
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

CHUNK = 1024 * 1024
# The time of every file and of the image: SOURCE_DATE_EPOCH where it is set, else the start of 2026.
DEFAULT_EPOCH = 1767225600
# Go's names, which image configurations use.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def epoch() -> int:
    """The one time that all files of an image get, in seconds since 1970."""
    return int(os.environ.get("SOURCE_DATE_EPOCH", DEFAULT_EPOCH))


@dataclass(frozen=True)
class ImageConfig:
    """What a container engine must know to start the image."""

    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = "/"
    user: str = ""  # "uid:gid"; empty is root
    labels: Mapping[str, str] = field(default_factory=dict)
    architecture: str = ARCHITECTURES.get(os.uname().machine, os.uname().machine)

    def to_json(self, layer_digest: str) -> bytes:
        """Render the image configuration; its sha256 is the image's digest."""
        created = _rfc3339(epoch())
        config: dict[str, Any] = {"WorkingDir": self.working_dir}
        if self.entrypoint:
            config["Entrypoint"] = list(self.entrypoint)
        if self.command:
            config["Cmd"] = list(self.command)
        if self.environment:
            config["Env"] = [f"{key}={value}" for key, value in sorted(self.environment.items())]
        if self.user:
            config["User"] = self.user
        if self.labels:
            config["Labels"] = dict(sorted(self.labels.items()))
        return _json(
            {
                "architecture": self.architecture,
                "os": "linux",
                "created": created,
                "config": config,
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
                "history": [{"created": created, "created_by": "caesar-testbed"}],
            }
        )


def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mtime = epoch()
    member.mode = 0o644
    return member


def write_docker_archive(
    layer_tar: Path, destination: Path, *, tags: Sequence[str], config: ImageConfig | None = None
) -> str:
    """Write an image of one layer, an uncompressed tar, under one or several names.

    Returns the image's digest, `sha256:...` of its configuration: what `podman images` and `crictl images` show
    as the image's id. `destination` appears only when it is whole.

    Raises OSError where a file cannot be read or written, ValueError for a name without a tag.
    """
    for tag in tags:
        if ":" not in tag.rsplit("/", 1)[-1]:
            raise ValueError(f"the image name {tag!r} has no tag: write {tag}:VERSION")
    layer_digest = _sha256(layer_tar)
    rendered = (config or ImageConfig()).to_json(layer_digest)
    digest = hashlib.sha256(rendered).hexdigest()
    layer_name = f"{layer_digest}.tar"
    manifest = _json([{"Config": f"{digest}.json", "Layers": [layer_name], "RepoTags": list(tags)}])
    with _whole(destination) as stream, tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        # The small ones first: a reader that streams then knows what the layer is for.
        archive.addfile(_member("manifest.json", len(manifest)), io.BytesIO(manifest))
        archive.addfile(_member(f"{digest}.json", len(rendered)), io.BytesIO(rendered))
        with layer_tar.open("rb") as layer:
            archive.addfile(_member(layer_name, layer_tar.stat().st_size), layer)
    return f"sha256:{digest}"


def write_layer(root: Path, destination: Path, *, exclude: Sequence[str] = ()) -> None:
    """Write the tree under `root` as a layer: names sorted, one time for all files, owners as numbers.

    Hard links stay hard links. Sockets, fifos and device nodes are left out (an engine makes its own /dev), and
    so are the paths in `exclude`, relative to `root`, with all that is below them.

    Raises OSError where a file cannot be read.
    """
    links: dict[tuple[int, int], str] = {}
    excluded = set(exclude)
    with _whole(destination) as stream, tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path, name in _walk(root, excluded):
            status = path.lstat()
            member = _member(name, 0)
            member.mode = stat.S_IMODE(status.st_mode)
            member.uid, member.gid = status.st_uid, status.st_gid
            if stat.S_ISDIR(status.st_mode):
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
            elif stat.S_ISLNK(status.st_mode):
                member.type = tarfile.SYMTYPE
                member.linkname = str(path.readlink())
                archive.addfile(member)
            elif stat.S_ISREG(status.st_mode):
                inode = (status.st_dev, status.st_ino)
                if status.st_nlink > 1 and inode in links:
                    member.type = tarfile.LNKTYPE
                    member.linkname = links[inode]
                    archive.addfile(member)
                    continue
                links[inode] = name
                member.size = status.st_size
                with path.open("rb") as content:
                    archive.addfile(member, content)


def _walk(directory: Path, excluded: set[str], prefix: str = "") -> Iterator[tuple[Path, str]]:
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        name = f"{prefix}{entry.name}"
        if name in excluded:
            continue
        path = Path(entry.path)
        yield path, name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(path, excluded, f"{name}/")


class _whole:  # noqa: N801 - used as a function
    """A file that appears under its name only when it was written to its end."""

    def __init__(self, destination: Path) -> None:
        self._destination = destination
        self._partial = destination.with_name(f".{destination.name}.{os.getpid()}")

    def __enter__(self) -> BinaryIO:
        self._stream = self._partial.open("wb")
        return self._stream

    def __exit__(self, kind: object, *_: object) -> None:
        self._stream.close()
        if kind is None:
            self._partial.replace(self._destination)
        else:
            self._partial.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a docker-archive of a tree or of a layer, and print the image's digest."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--tree", type=Path, help="directory that is the image's root")
    source.add_argument("--layer", type=Path, help="the image's root as an uncompressed tar")
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="PATH", help="leave out, relative to the tree"
    )
    parser.add_argument("--tag", action="append", required=True, metavar="NAME:TAG")
    parser.add_argument("--entrypoint", action="append", default=[], metavar="WORD")
    parser.add_argument("--command", action="append", default=[], metavar="WORD")
    parser.add_argument("--env", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--workdir", default="/")
    parser.add_argument("--user", default="", metavar="UID:GID")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    config = ImageConfig(
        entrypoint=options.entrypoint,
        command=options.command,
        environment=dict(pair.split("=", 1) for pair in options.env),
        working_dir=options.workdir,
        user=options.user,
    )
    layer = options.layer
    if layer is None:
        layer = options.output.with_name(f".{options.output.name}.layer.{os.getpid()}")
        try:
            write_layer(options.tree, layer, exclude=options.exclude)
            digest = write_docker_archive(layer, options.output, tags=options.tag, config=config)
        finally:
            layer.unlink(missing_ok=True)
    else:
        digest = write_docker_archive(layer, options.output, tags=options.tag, config=config)
    sys.stdout.write(f"{digest}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
