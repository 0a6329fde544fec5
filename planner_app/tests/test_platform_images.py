"""The table of images: what a request means."""

from pathlib import Path

import pytest
from planner_app.platforms.images import ImageTable, load_images, split_reference
from pydantic import ValidationError

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


@pytest.fixture
def table(tmp_path: Path) -> ImageTable:
    file = tmp_path / "images.yml"
    file.write_text(
        f"""
images:
  - {{name: "caesar/aegean-job:2.3.5", digest: "{A}", kubernetes: "k/a:1", slurm: /mnt/storage/images/a.sqfs}}
  - {{name: "caesar/other", digest: "{B}", kubernetes: "k/b:1", slurm: /mnt/storage/images/b.sqfs}}
"""
    )
    return load_images(file)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("docker.io/caesar/job", ("caesar/job:latest", None)),
        ("docker.io/library/busybox:1", ("busybox:1", None)),
        ("docker://caesar/job:2", ("caesar/job:2", None)),
        ("localhost:5000/job", ("localhost:5000/job:latest", None)),
        (f"caesar/job:2@{A}", ("caesar/job:2", A)),
    ],
)
def test_a_reference_is_its_plain_name_and_digest(location: str, expected: tuple[str, str | None]) -> None:
    assert split_reference(location) == expected


@pytest.mark.parametrize(
    ("locations", "digest", "expected"),
    [
        (["caesar/aegean-job:2.3.5"], None, "caesar/aegean-job:2.3.5"),
        (["docker.io/caesar/aegean-job:2.3.5"], None, "caesar/aegean-job:2.3.5"),
        (["elsewhere/unknown:1", "caesar/other:latest"], None, "caesar/other"),
        (["elsewhere/unknown:1"], A, "caesar/aegean-job:2.3.5"),
        ([], B, "caesar/other"),
        # The name of one with the content of the other: the content is what was asked for.
        (["caesar/other"], A, "caesar/aegean-job:2.3.5"),
        ([f"caesar/other@{B}"], None, "caesar/other"),
        (["caesar/other"], "sha256:" + "c" * 64, None),
        ([f"caesar/other@{'sha256:' + 'c' * 64}"], None, None),
        (["caesar/aegean-job"], None, None),
        (["ghcr.io/caesar/aegean-job:2.3.5"], None, None),
        ([], None, None),
    ],
)
def test_a_digest_decides_over_a_name(
    table: ImageTable, locations: list[str], digest: str | None, expected: str | None
) -> None:
    image = table.match(locations, digest)
    assert (image.name if image else None) == expected


def test_a_wrong_row_names_its_field(tmp_path: Path) -> None:
    file = tmp_path / "images.yml"
    file.write_text("images: [{name: a, digest: sha256:12, kubernetes: a, slurm: /a}]")
    with pytest.raises(ValidationError, match=r"images\.0\.digest"):
        load_images(file)


def test_a_relative_squashfs_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "images.yml"
    file.write_text(f"images: [{{name: a, digest: '{A}', kubernetes: a, slurm: a.sqfs}}]")
    with pytest.raises(ValueError, match="absolute"):
        load_images(file)
