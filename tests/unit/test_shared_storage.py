"""The shared storage: wrong variables are named at once, and a look at it from all machines finds what differs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
import shared_storage_preflight as preflight
from hypothesis import given
from hypothesis import strategies as st
from shared_storage import mount_unit, storage_faults, storage_findings, storage_machines, storage_sentences

LOCAL = {"local_machines": ["a", "b"], "planners": ["a"], "slurm_nodes": ["b"]}
CLOUD = {"openstack_machines": ["a", "b"], "storage_servers": ["a"], "planners": ["a"], "slurm_nodes": ["b"]}
SITE = {"site_hosts": ["s"], "planners": ["s"]}
ROOT = "/mnt/storage"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="writing as other users needs root")


@pytest.mark.parametrize(
    ("kind", "groups"), [("volume", LOCAL), ("nfs", CLOUD), ("existing", SITE), ("existing", LOCAL)]
)
def test_what_goes_together_is_right(kind: str, groups: dict[str, list[str]]) -> None:
    assert storage_faults({"kind": kind, "root": ROOT}, groups) == []


@pytest.mark.parametrize(
    ("said", "groups", "told"),
    [
        ({"kind": ""}, LOCAL, "shared_storage_kind is '': give volume (a podman volume"),
        ({"kind": "nfs4"}, LOCAL, "shared_storage_kind is 'nfs4'"),
        ({"kind": ["nfs"]}, LOCAL, "shared_storage_kind is ['nfs']"),
        ({"kind": "nfs"}, LOCAL, "storage_servers has no machine: give exactly one"),
        ({"kind": "nfs"}, CLOUD | {"storage_servers": ["a", "b"]}, "storage_servers has a and b: give exactly one"),
        (
            {"kind": "nfs"},
            CLOUD | {"storage_servers": ["nas"]},
            "nas, which is no machine that the testbed makes: give one of",
        ),
        ({"kind": "volume"}, CLOUD | {"storage_servers": []}, "which only machines made on this host have"),
        ({"kind": "existing"}, CLOUD, "storage_servers has a, but shared_storage_kind is existing"),
        ({"kind": "volume"}, SITE, "give existing"),
        ({"root": "mnt"}, CLOUD, "testbed_storage_root is 'mnt'"),
        ({"root": "/"}, CLOUD, "testbed_storage_root is '/'"),
        ({"root": "/mnt/../etc"}, CLOUD, "testbed_storage_root is '/mnt/../etc'"),
        ({"root": "/mnt/my storage"}, CLOUD, "testbed_storage_root is '/mnt/my storage'"),
        ({"root": "/mnt/"}, CLOUD, "testbed_storage_root is '/mnt/'"),
        ({"device": "vdb"}, CLOUD, "shared_storage_device is 'vdb'"),
        ({"kind": "volume", "device": "/dev/vdb"}, LOCAL, "which is for NFS, but shared_storage_kind is volume"),
        ({"server": "samba"}, CLOUD, "shared_storage_nfs_server is 'samba': give kernel or ganesha"),
        ({"options": "hard"}, CLOUD, "shared_storage_mount_options is 'hard': give a list"),
        ({"options": ["hard,intr"]}, CLOUD, "shared_storage_mount_options is ['hard,intr']"),
        ({"options": ["soft"]}, CLOUD, "has soft, by which writes are lost"),
        (
            {"database": {}},
            CLOUD,
            "mongodb_storage is not given, which means /mnt/storage/mongodb, on shared storage",
        ),
        ({"database": {"host_path": f"{ROOT}/db"}}, CLOUD, "mongodb_storage is /mnt/storage/db, on shared storage"),
        (
            {"kind": "volume", "definitions": {"a": {"volumes": {"storage": ROOT}}, "b": {}}},
            LOCAL,
            'local_machines_definitions.b.volumes has no storage, and the machine uses it: add storage: "{{',
        ),
        (
            {"definitions": {"a": {"volumes": {"storage": ROOT}}, "b": {"volumes": {"storage": ROOT}}}},
            LOCAL | {"storage_servers": ["a"]},
            "local_machines_definitions.b.volumes has storage, where NFS is to be mounted",
        ),
    ],
)
def test_each_fault_is_one_sentence(said: dict[str, Any], groups: dict[str, list[str]], told: str) -> None:
    [fault] = storage_faults({"kind": "nfs", "root": ROOT} | said, groups)
    assert told in fault


@pytest.mark.parametrize(
    "database", [None, {"host_path": "/var/lib/db"}, {"storage_class": "fast"}, {"storage_class": ""}]
)
def test_a_database_beside_nfs_is_right(database: Any) -> None:
    assert storage_faults({"kind": "nfs", "root": ROOT, "database": database}, CLOUD) == []


def test_a_database_on_the_volume_is_right() -> None:
    assert storage_faults({"kind": "volume", "root": ROOT, "database": {}}, LOCAL) == []


def test_machines_are_named_once_and_by_what_they_do() -> None:
    groups = {"planners": ["p"], "voters": ["p"], "kubernetes_nodes": ["k"], "slurm_submit_hosts": ["s"], "all": ["x"]}
    assert sorted(storage_machines(groups)) == ["k", "p", "s"]
    assert sorted(storage_machines(groups, "writers")) == ["k", "p"]
    assert sorted(storage_machines(groups | {"slurm_nodes": ["n"]}, "root")) == ["k", "p"]


@pytest.mark.parametrize("path", ["/mnt/storage", "/srv/my-data", "/a/b.c_d", "/x"])
def test_units_are_named_as_systemd_does(path: str) -> None:
    escape = shutil.which("systemd-escape") or pytest.skip("this host has no systemd-escape")
    run = subprocess.run([escape, "--path", "--suffix=mount", path], capture_output=True, text=True, check=True)
    assert mount_unit(path) == run.stdout.strip()


@given(st.integers(1, 12), st.integers(0, 40))
def test_users_are_dealt_out_among_all_writers(machines: int, users: int) -> None:
    writers, everybody = [f"m{i}" for i in range(machines)], [{"name": f"u{i}", "uid": i} for i in range(users)]
    shares = {writer: preflight.share(everybody, writer, writers) for writer in writers}
    assert {user["uid"] for share in shares.values() for user in share} == set(range(users))
    assert not users or all(shares.values())
    assert max(map(len, shares.values())) <= max(1, -(-users // machines))


MOUNTS = """\
22 1 252:0 / / rw - overlay overlay rw
30 22 252:1 /vol/_data /mnt/storage rw,relatime shared:1 - ext4 /dev/vda1 rw
31 22 0:50 / /mnt/storage/my\\040dir rw - nfs4 10.0.0.1:/x rw
"""


@pytest.mark.parametrize(
    ("path", "more", "seen"),
    [
        ("/mnt/storage", "", "/dev/vda1[/vol/_data] (ext4)"),
        ("/mnt/storage", "40 30 0:60 / /mnt/storage rw - tmpfs tmpfs rw\n", "tmpfs (tmpfs)"),
        ("/mnt/storage/site", "", "/dev/vda1[/vol/_data] (ext4) on /mnt/storage"),
        ("/mnt/storage/my dir", "", "10.0.0.1:/x (nfs4)"),
        ("/mnt/storage2", "", "overlay (overlay) on /"),
    ],
)
def test_what_is_mounted_is_said_as_findmnt_does(path: str, more: str, seen: str) -> None:
    assert preflight.mounted(path, MOUNTS + more) == seen


# What the servers are told.


def rendered(name: str, **more: Any) -> str:
    template = Path(__file__).parents[2] / "roles/shared_storage/templates" / name
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False)
    return environment.from_string(template.read_text()).render({"testbed_storage_root": ROOT} | more)


TRUSTED, SQUASHED = ["10.0.0.1", "10.0.0.2"], ["10.0.0.3"]


def test_the_kernels_server_lets_in_the_machines_one_by_one() -> None:
    text = rendered("exports.j2", shared_storage_trusted=TRUSTED, shared_storage_squashed=SQUASHED)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    common = "rw,sync,no_subtree_check,sec=sys,fsid=1"
    assert lines == [
        f"{ROOT} 10.0.0.1({common},no_root_squash)",
        f"{ROOT} 10.0.0.2({common},no_root_squash)",
        f"{ROOT} 10.0.0.3({common},root_squash)",
    ]


@pytest.mark.parametrize("squashed", [SQUASHED, []])
def test_ganesha_lets_in_the_same(squashed: list[str]) -> None:
    text = rendered(
        "ganesha.conf.j2", shared_storage_trusted=TRUSTED, shared_storage_squashed=squashed, machine_address="10.0.0.9"
    )
    clients = re.findall(r"CLIENT \{\s*Clients = ([^;]+);\s*Access_Type = RW;\s*Protocols = 4;\s*Squash = (\w+);", text)
    wanted = [("10.0.0.1, 10.0.0.2", "No_Root_Squash"), ("10.0.0.3", "Root_Squash")]
    assert clients == wanted[: 1 + len(squashed)]
    assert text.count("CLIENT {") == len(clients)
    assert re.search(r"EXPORT_DEFAULTS \{\s*Access_Type = NONE;", text)
    assert "Bind_addr = 10.0.0.9;" in text


# The look itself, each machine with a root of its own that may or may not be another's.

USERS = [{"name": f"u{number}", "uid": 20000 + number} for number in range(3)]


class Machines:
    """Machines on one host: a machine is a name and where it has the storage."""

    def __init__(self, roots: dict[str, Path], first: str = "a", **options: Any) -> None:
        self.roots, self.first, self.options = roots, first, {"as_root": True, **options}
        self.seen: dict[str, dict[str, Any]] = {name: {"inventory_hostname": name} for name in roots}

    def step(self, state: str, names: Iterable[str], **more: Any) -> None:
        for name in names:
            parameters = {"run": "ab12", "machine": name, "first": self.first, "users": USERS, "written": {}}
            parameters |= {"writers": list(self.roots), "root": str(self.roots[name])} | self.options | more
            answer = preflight.STEPS[state](parameters)
            findings = [one | {"machine": name, "mounted": f"disc of {name}"} for one in answer.get("findings", [])]
            self.seen[name][f"shared_storage_{state}"] = {
                "machine": name,
                "mounted": f"disc of {name}",
                "findings": findings,
                "wrote": answer.get("wrote", []),
            }

    def write(self) -> None:
        self.step("prepared", [self.first])
        self.step("written", self.roots)

    def read(self) -> list[str]:
        written = {name: self.seen[name]["shared_storage_written"]["wrote"] for name in self.roots}
        blind = [name for name in self.roots if "unseen" in [one["what"] for one in self.found(name)]]
        self.step("read", [name for name in self.roots if name not in blind], written=written)
        return storage_sentences(storage_findings(self.seen.values(), self.first), ROOT)

    def found(self, name: str) -> list[dict[str, Any]]:
        return list(self.seen[name]["shared_storage_written"]["findings"])


@pytest.fixture
def shared() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:  # pytest's own directories are closed to other users
        Path(place).chmod(0o755)
        yield Path(place)


@pytest.fixture
def other() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        yield Path(place)


@as_root
def test_one_file_system_is_found_to_be_one_and_left_as_it_was(shared: Path) -> None:
    left, young = shared / ".preflight-old", shared / ".preflight-young"
    left.mkdir(), young.mkdir()
    os.utime(left, (time.time() - 7200,) * 2)
    machines = Machines(dict.fromkeys("abcd", shared))
    machines.write()
    written = [path for path in (shared / ".preflight-ab12").rglob("*") if path.is_file()]
    assert {path.stat().st_uid for path in written} == {0, 20000, 20001, 20002}
    assert machines.read() == []
    machines.step("removed", ["a"])
    assert list(shared.iterdir()) == [young]


@as_root
def test_a_machine_with_another_file_system_is_named_once(shared: Path, other: Path) -> None:
    machines = Machines({"a": shared, "b": shared, "c": other})
    machines.write()
    [told] = machines.read()
    assert told.startswith("c does not see what a wrote under /mnt/storage: not the same file system?")
    assert "on c it is disc of c; on a it is disc of a" in told
    assert list(other.iterdir()) == []


@as_root
def test_where_the_first_has_another_all_others_are_one_sentence(shared: Path, other: Path) -> None:
    machines = Machines({"a": other, "b": shared, "c": shared})
    machines.write()
    [told] = machines.read()
    assert told.startswith("b and c do not see what a wrote")


def changed(path: Path) -> None:
    path.write_text("else")


def stolen(path: Path) -> None:
    os.chown(path, 65534, 65534)


def closed(path: Path) -> None:
    path.chmod(0o600)


@as_root
@pytest.mark.parametrize(
    ("spoil", "name", "told"),
    [
        (changed, "b", "a and b read something else than b wrote under /mnt/storage (4 bytes that are not this run's)"),
        (stolen, "20001/b", "what u1 (20001:20001) wrote on b under /mnt/storage belongs to 65534:65534 on a and b"),
        (closed, "20001/b", "what u1 wrote on b under /mnt/storage has mode 0600 on a and b, not 0644"),
        (Path.unlink, "20001/b", "a and b do not see what b wrote"),
    ],
)
def test_each_difference_is_one_sentence(shared: Path, spoil: Any, name: str, told: str) -> None:
    machines = Machines(dict.fromkeys("ab", shared))
    machines.write()
    spoil(shared / ".preflight-ab12" / name)
    [sentence] = machines.read()
    assert sentence.startswith(told)


@as_root
def test_who_may_not_write_is_named(shared: Path) -> None:
    machines = Machines(dict.fromkeys("ab", shared))
    machines.step("prepared", ["a"])
    os.chown(shared / ".preflight-ab12/20001", 0, 0)
    machines.step("written", "ab")
    [told] = machines.read()
    assert told.startswith("u1 cannot write under /mnt/storage on b, where it is disc of b: Permission denied.")


def test_a_place_that_cannot_be_made_is_a_finding(tmp_path: Path) -> None:
    machines = Machines({"a": tmp_path / "nowhere"})
    machines.step("prepared", ["a"])
    [told] = storage_sentences(storage_findings(machines.seen.values(), "a"), ROOT)
    assert told.startswith(
        "root cannot write under /mnt/storage on a, where it is disc of a: No such file or directory"
    )
    assert "root_squash" in told


def test_a_file_system_that_does_not_answer_is_a_finding_in_time() -> None:
    began = time.monotonic()
    answer = preflight.within(0.2, lambda: time.sleep(3) or {})
    assert time.monotonic() - began < 2
    [finding] = answer["findings"]
    [told] = storage_sentences([finding | {"machine": "b", "mounted": "10.0.0.1:/x (nfs4)"}], ROOT)
    assert told.startswith("/mnt/storage does not answer on b within 0.2 s, where it is 10.0.0.1:/x (nfs4)")
