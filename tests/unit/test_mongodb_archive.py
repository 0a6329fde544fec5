"""An archive of the database gives back what was put in, byte for byte, and nothing else passes for one."""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

FILES = Path(__file__).parents[2] / "roles/mongodb/files"
sys.path.insert(0, str(FILES))

from archive import Collection, NoBackup, Writer, documents, member, pack, unpack  # noqa: E402
from database import state, table  # noqa: E402

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=9) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z]{1,3}", fullmatch=True), inner),
    max_leaves=6,
)
DOCUMENTS = st.lists(st.dictionaries(st.from_regex(r"[a-z_]{1,5}", fullmatch=True), VALUES, max_size=4), max_size=5)
COLLECTIONS = st.dictionaries(st.tuples(st.sampled_from(["caesardb", "other"]), st.text("a.b", min_size=1)), DOCUMENTS)


@contextmanager
def written(collections: dict[tuple[str, str], list[dict[str, Any]]]) -> Iterator[tuple[Path, list[Collection]]]:
    """An archive of these, and what it says of them."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        found = []
        for number, (key, items) in enumerate(collections.items()):
            writer = Writer(place / member(number))
            for item in items:
                writer.add(bson.encode(item))
            found.append(writer.close(*key, indexes=[{"keys": [["a", 1]], "name": "a_1"}]))
        pack(place, found, {"created": "now"}, place / "backup")
        yield place / "backup", found


@settings(max_examples=30)
@given(COLLECTIONS)
def test_what_comes_out_is_what_went_in(collections: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
    with written(collections) as (archive, said), tempfile.TemporaryDirectory() as out:
        about, found = unpack(archive, Path(out))
        assert (about["created"], found) == ("now", said)
        for number, items in enumerate(collections.values()):
            assert list(documents(Path(out) / member(number))) == [bson.encode(item) for item in items]


SOME = {("caesardb", "a.jobs"): [{"_id": 1, "job_id": "x" * 40}, {"_id": 2}], ("caesardb", "empty"): []}


@settings(max_examples=30)
@given(st.data())
def test_half_an_archive_is_none(data: st.DataObject) -> None:
    with written(SOME) as (archive, _), tempfile.TemporaryDirectory() as out:
        whole = archive.read_bytes()
        archive.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(NoBackup, match="is no backup"):
            unpack(archive, Path(out))


@settings(max_examples=30)
@given(st.data())
def test_an_archive_that_was_changed_is_none(data: st.DataObject) -> None:
    """One byte of what it holds, wherever: of the list, of a document, of a name."""
    with written(SOME) as (archive, said), tempfile.TemporaryDirectory() as out:
        content = bytearray(gzip.decompress(archive.read_bytes()))
        with tarfile.open(fileobj=io.BytesIO(bytes(content))) as tar:
            places = [
                place for each in tar for place in range(each.offset_data, each.offset_data + each.size) if each.size
            ]
        place = data.draw(st.sampled_from(places))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
        archive.write_bytes(gzip.compress(bytes(content), 1))
        try:
            _, found = unpack(archive, Path(out))
        except NoBackup:
            return
        # What no sum is made of: the time, white space, an index' name. The documents are what they were.
        assert [(each.documents, each.sha256) for each in found] == [(each.documents, each.sha256) for each in said]


@pytest.mark.parametrize("content", [b"", b"root:x:0:0\n", gzip.compress(b"hello")], ids=["empty", "text", "gzip"])
def test_another_file_is_no_backup(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(NoBackup, match="is no backup"):
        unpack(tmp_path / "file", tmp_path)


def test_another_archive_is_no_backup(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with tarfile.open(tmp_path / "tar", "w:gz") as tar:
        tar.add(tmp_path / "a", "../../evil")
    with pytest.raises(NoBackup, match=r"does not begin with backup\.json"):
        unpack(tmp_path / "tar", tmp_path)


def test_an_archive_is_for_its_owner_alone() -> None:
    with written(SOME) as (archive, _):
        assert archive.stat().st_mode & 0o777 == 0o600
        assert not list(archive.parent.glob(".backup*"))


def test_the_order_of_documents_is_no_difference_and_everything_else_is(tmp_path: Path) -> None:
    def described(name: str, *items: dict[str, Any]) -> Any:
        writer = Writer(tmp_path / name)
        for item in items:
            writer.add(bson.encode(item))
        return state([writer.close("d", "c")])

    assert described("1", {"_id": 1}, {"_id": 2}) == described("2", {"_id": 2}, {"_id": 1})
    assert described("3", {"_id": 1}) != described("4", {"_id": 1}, {"_id": 1})
    assert described("5", {"_id": 1}) != described("6", {"_id": 1.0})


def test_what_is_counted_anew_every_minute_is_no_difference() -> None:
    def described(name: str, digest: str) -> Collection:
        return Collection("caesardb", name, 1, 1, "", digest)

    for name in ("anonymous.accounting", "appstats"):
        assert state([described(name, "a")]) == state([described(name, "b")])
    for name in ("anonymous.jobs", "accounting.files"):
        assert state([described(name, "a")]) != state([described(name, "b")])


def test_what_people_read_at_the_end() -> None:
    shown = table([Collection("caesardb", "a.jobs", 2, 1500, "", "")], "kept in FILE")
    assert shown.splitlines() == [
        "collection       documents   kB",
        "caesardb.a.jobs          2  1.5",
        "all                      2  1.5",
        "kept in FILE",
    ]
