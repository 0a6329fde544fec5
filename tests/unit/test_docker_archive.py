"""Container images written by us: the format's rules, and the same bytes every time."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


docker_archive = load(ROOT / "roles/common/module_utils/docker_archive.py")


def tree(root: Path, order: list[str]) -> Path:
    """The same tree whatever the order in which its files were made."""
    for name in order:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
        path.chmod(0o755 if name.startswith("bin/") else 0o644)
    (root / "tool").symlink_to("bin/tool")
    os.link(root / "bin/tool", root / "bin/tool-too")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    return root


def test_the_layer_is_the_tree(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", ["bin/tool", "etc/conf", "cache/junk"])
    os.mkfifo(root / "etc/fifo")
    docker_archive.write_layer(root, tmp_path / "layer.tar", exclude=["cache"])
    with tarfile.open(tmp_path / "layer.tar") as layer:
        members = {member.name: member for member in layer}
        assert list(members) == sorted(members)
        assert set(members) == {"bin", "bin/tool", "bin/tool-too", "etc", "etc/conf", "tmp", "tool"}
        assert members["bin/tool"].mode == 0o755
        assert members["tmp"].mode == 0o1777
        assert members["bin/tool-too"].islnk()
        assert members["bin/tool-too"].linkname == "bin/tool"
        assert members["tool"].linkname == "bin/tool"
        assert {member.mtime for member in members.values()} == {docker_archive.epoch()}
        content = layer.extractfile("etc/conf")
        assert content is not None
        assert content.read() == b"content of etc/conf"


def test_the_archive_names_configuration_and_layer_by_their_digests(tmp_path: Path) -> None:
    layer = tmp_path / "layer.tar"
    with tarfile.open(layer, "w") as archive:
        archive.addfile(tarfile.TarInfo("file"), io.BytesIO())
    config = docker_archive.ImageConfig(
        entrypoint=["/entrypoint"], environment={"B": "2", "A": "1"}, user="65534:65534", labels={"l": "x"}
    )
    digest = docker_archive.write_docker_archive(
        layer, tmp_path / "image.tar", tags=["site/job:1", "registry.example:5000/job:1"], config=config
    )
    with tarfile.open(tmp_path / "image.tar") as archive:
        files = {name: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]
    (entry,) = json.loads(files["manifest.json"])
    assert entry["RepoTags"] == ["site/job:1", "registry.example:5000/job:1"]
    assert digest == f"sha256:{hashlib.sha256(files[entry['Config']]).hexdigest()}"
    (layer_name,) = entry["Layers"]
    document = json.loads(files[entry["Config"]])
    assert document["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(files[layer_name]).hexdigest()}"]
    assert files[layer_name] == layer.read_bytes()
    assert document["config"] == {
        "Entrypoint": ["/entrypoint"],
        "Env": ["A=1", "B=2"],
        "Labels": {"l": "x"},
        "User": "65534:65534",
        "WorkingDir": "/",
    }


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    names = ["bin/tool", "etc/conf", "usr/share/a", "usr/share/b"]
    digests = []
    for number, order in enumerate([names, names[::-1]]):
        root = tree(tmp_path / str(number), order)
        output = tmp_path / f"{number}.tar"
        assert docker_archive.main(["--tree", str(root), "--tag", "a/b:1", "--output", str(output)]) == 0
        digests.append(hashlib.sha256(output.read_bytes()).hexdigest())
        os.utime(root / "etc/conf", (number, number))
    assert digests[0] == digests[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "0.tar", "1", "1.tar"]


def test_a_name_needs_a_tag(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no tag"):
        docker_archive.write_docker_archive(tmp_path / "l", tmp_path / "i", tags=["registry.example:5000/job"])


def test_half_an_archive_never_stands_under_its_name(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "gone").symlink_to("nowhere")
    output = tmp_path / "missing-directory" / "image.tar"
    with pytest.raises(OSError, match="missing-directory"):
        docker_archive.main(["--tree", str(root), "--tag", "a/b:1", "--output", str(output)])
    output.parent.mkdir()
    layer = tmp_path / "layer.tar"
    layer.write_bytes(b"x" * 2048)

    class Broken(docker_archive.ImageConfig):  # type: ignore[misc, name-defined]
        def to_json(self, layer_digest: str) -> bytes:
            layer.unlink()
            return b"{}"

    with pytest.raises(FileNotFoundError):
        docker_archive.write_docker_archive(layer, output, tags=["a/b:1"], config=Broken())
    assert list(output.parent.iterdir()) == []
