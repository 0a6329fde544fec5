"""Programs of a Kubernetes node: what is built, what is fetched from a release mirror, and how they are packed."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROLE = Path(__file__).parents[2] / "roles" / "kubernetes_cluster"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kubernetes_build", ROLE / "files" / "build" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build = load()
SEVEN = build.KUBERNETES
OTHERS = ("etcd", "coredns", "network-policies", "pause")


class Mirror:
    """A release mirror on this host: a directory of programs served by HTTP."""

    def __init__(self, directory: Path, address: str) -> None:
        self.directory = directory
        self.url = address

    def publish(self, *names: str) -> dict[str, str]:
        for name in names:
            (self.directory / name).write_bytes(f"the program {name}\n".encode())
        return {name: hashlib.sha256((self.directory / name).read_bytes()).hexdigest() for name in names}


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    directory = tmp_path / "mirror"
    directory.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Mirror(directory, f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()


def unpacked(directory: Path, into: Path) -> dict[str, Any]:
    into.mkdir()
    subprocess.run(["tar", "--zstd", "-xf", directory / "node.tar.zst", "-C", into], check=True)
    return dict(json.loads((directory / "manifest.json").read_text()))


def image(archive: Path) -> tuple[list[str], dict[str, Any], list[str]]:
    """Names, configuration and files of a docker-archive."""
    with tarfile.open(archive) as tar:

        def read(name: str) -> bytes:
            content = tar.extractfile(name)
            assert content is not None
            return content.read()

        [entry] = json.loads(read("manifest.json"))
        config = json.loads(read(entry["Config"]))["config"]
        with tarfile.open(fileobj=io.BytesIO(read(entry["Layers"][0]))) as layer:
            return entry["RepoTags"], config, layer.getnames()


def test_without_a_mirror_all_is_built() -> None:
    assert [part.name for part in build.parts({}).built] == ["kubernetes", *OTHERS]
    assert build.parts({}).fetched == ()


def test_what_the_mirror_lacks_is_built() -> None:
    chosen = build.parts({"url": "http://mirror/v1/", "checksums": {"etcd": "a" * 64, "kubernetes": "b" * 64}})
    assert [part.name for part in chosen.built] == ["coredns", "network-policies", "pause"]
    assert [part.url for part in chosen.fetched] == ["http://mirror/v1/etcd", "http://mirror/v1/kubernetes"]


def test_the_seven_programs_of_upstream_stand_for_ours() -> None:
    chosen = build.parts({"url": "http://mirror", "checksums": dict.fromkeys(SEVEN, "a" * 64)})
    assert [part.name for part in chosen.built] == list(OTHERS)


@pytest.mark.parametrize(
    ("release", "message"),
    [
        ({"url": "http://m", "checksums": {"kubeletd": "a" * 64}}, "kubeletd"),
        ({"url": "http://m", "checksums": {"etcd": "abc"}}, "64 hex digits"),
        ({"checksums": {"etcd": "a" * 64}}, "url is missing"),
        ({"url": "http://m", "checksums": {"kubelet": "a" * 64}}, "lacks kubeadm, kubectl, kube-proxy"),
    ],
)
def test_a_wrong_release_is_refused_in_words(release: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build.parts(release)


def test_a_node_is_made_from_a_mirror_without_a_compiler(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "go_program", lambda: pytest.fail("Go is not needed"))
    checksums = mirror.publish("kubernetes", *OTHERS)
    made = build.make(tmp_path / "cache", build.parts({"url": mirror.url, "checksums": checksums}))
    manifest = unpacked(made, tmp_path / "node")
    programs = tmp_path / "node" / "bin"
    assert (programs / "kubelet").readlink() == Path("kubernetes")
    assert (programs / "etcdctl").read_text() == "the program etcd\n"
    assert (programs / "kubernetes").stat().st_mode & 0o777 == 0o755
    assert not (programs / "coredns").exists()
    names, config, files = image(tmp_path / "node" / "images" / "kubernetes.tar")
    assert names == [f"registry.k8s.io/{name}:v1.36.3" for name in SEVEN[4:]]
    assert "usr/local/bin/kube-apiserver" in files
    assert "Entrypoint" not in config
    names, config, _ = image(tmp_path / "node" / "images" / "coredns.tar")
    assert config["Entrypoint"] == ["/usr/local/bin/coredns"]
    assert set(names) < set(manifest["images"])
    assert len(manifest["images"]) == 6


def test_a_node_is_made_from_the_programs_of_upstream(mirror: Mirror, tmp_path: Path) -> None:
    checksums = mirror.publish(*SEVEN, *OTHERS)
    unpacked(
        build.make(tmp_path / "cache", build.parts({"url": mirror.url, "checksums": checksums})), tmp_path / "node"
    )
    assert (tmp_path / "node" / "bin" / "kubelet").read_text() == "the program kubelet\n"
    names, _, files = image(tmp_path / "node" / "images" / "kube-scheduler.tar")
    assert names == ["registry.k8s.io/kube-scheduler:v1.36.3"]
    assert [name for name in files if name.startswith("usr/local/bin/")] == ["usr/local/bin/kube-scheduler"]


def test_a_program_may_lie_in_a_tar_elsewhere(mirror: Mirror, tmp_path: Path) -> None:
    checksums: dict[str, Any] = dict(mirror.publish("kubernetes", *OTHERS))
    archive = mirror.directory / "etcd.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(mirror.directory / "etcd", "etcd-3/etcd")
    checksums["etcd"] = {
        "url": f"{mirror.url}/etcd.tar.gz",
        "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "member": "etcd-3/etcd",
    }
    unpacked(
        build.make(tmp_path / "cache", build.parts({"url": mirror.url, "checksums": checksums})), tmp_path / "node"
    )
    assert (tmp_path / "node" / "bin" / "etcd").read_text() == "the program etcd\n"


def test_another_checksum_stops_it_and_leaves_nothing(mirror: Mirror, tmp_path: Path) -> None:
    checksums = mirror.publish("kubernetes", *OTHERS) | {"etcd": "0" * 64}
    with pytest.raises(ValueError, match="but the inventory says 0000"):
        build.make(tmp_path / "cache", build.parts({"url": mirror.url, "checksums": checksums}))
    assert not list((tmp_path / "cache" / "kubernetes-programs").glob("*etcd*"))
    assert not (tmp_path / "cache" / "kubernetes").exists()


def test_nothing_is_made_twice(mirror: Mirror, tmp_path: Path) -> None:
    release = {"url": mirror.url, "checksums": mirror.publish("kubernetes", *OTHERS)}
    first = build.make(tmp_path / "cache", build.parts(release))
    for name in release["checksums"]:
        (mirror.directory / name).unlink()
    assert build.make(tmp_path / "cache", build.parts(release)) == first
    assert first.name == build.bundle_key(build.parts(release))


def test_a_change_to_one_program_builds_that_one_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "sources"
    subprocess.run(["cp", "-r", ROLE / "files" / "build", sources], check=True)
    monkeypatch.setattr(build, "HERE", sources)
    monkeypatch.setattr(build, "compiler_version", lambda: "go version go1.26.6")
    built: list[str] = []

    def pretend(program: Any, destination: Path, caches: Path) -> None:
        built.append(program.name)
        caches.mkdir(parents=True, exist_ok=True)
        destination.write_text(program.name)

    first = build.make(tmp_path / "cache", build.parts({}), builder=pretend)
    assert built == ["kubernetes", *OTHERS]
    assert not (tmp_path / "cache" / "go").exists()
    (sources / "pause" / "main.go").write_text("package main\n\nfunc main() {}\n")
    built.clear()
    second = build.make(tmp_path / "cache", build.parts({}), builder=pretend)
    assert built == ["pause"]
    assert second != first


def test_versions_come_from_go_mod() -> None:
    versions = {program.name: build.version_of(program) for program in build.PROGRAMS}
    assert versions["kubernetes"] == "v1.36.3"
    assert versions["etcd"] == "v3.6.8"
    assert versions["network-policies"] == "v1.1.1"
    kubernetes = build.PROGRAMS[0]
    assert "-X k8s.io/component-base/version.gitVersion=v1.36.3" in build.link_flags(kubernetes)
    assert "-X k8s.io/client-go/pkg/version.gitMinor=36" in build.link_flags(kubernetes)
