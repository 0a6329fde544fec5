"""The table of images that jobs may use: one content, under a name for each platform.

The file is YAML, ``{images: [{name, digest, kubernetes, slurm}]}``, written by the role `planner`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field

from planner_app.platforms.protocol import Image

# What docker puts in front of a name that says nothing of a registry.
_IMPLIED = ("docker://", "docker.io/library/", "docker.io/", "localhost/")


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    kubernetes: str = Field(min_length=1)
    slurm: Path


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    images: list[_Row]


def split_reference(location: str) -> tuple[str, str | None]:
    """Split an image's location into its plain name with tag, and the digest where it carries one.

    ``docker.io/caesar/job@sha256:...`` gives ``caesar/job`` and the digest; a name without tag and digest
    gets ``:latest``, which is what every runtime takes it for.
    """
    name, _, digest = location.strip().partition("@")
    for prefix in _IMPLIED:
        name = name.removeprefix(prefix)
    if not digest and ":" not in name.rpartition("/")[2]:
        name += ":latest"
    return name, digest or None


@dataclass(frozen=True)
class ImageTable:
    """The images of a platform."""

    images: tuple[Image, ...]

    def match(self, locations: Iterable[str], digest: str | None = None) -> Image | None:
        """Find the image that a request means, by any of its locations or by its digest.

        A digest decides: a name whose content is another one is not what was asked for.
        """
        for location in locations:
            name, named_digest = split_reference(location)
            wanted = digest or named_digest
            for image in self.images:
                if wanted is None and split_reference(image.name)[0] == name:
                    return image
                if wanted is not None and image.digest == wanted:
                    return image
        if digest is not None:
            return next((image for image in self.images if image.digest == digest), None)
        return None

    @property
    def names(self) -> tuple[str, ...]:
        """The names, for a message that says what there is."""
        return tuple(image.name for image in self.images)


def load_images(path: Path) -> ImageTable:
    """Read the table.

    Raises OSError where it cannot be read, yaml.YAMLError where it is no YAML and
    pydantic.ValidationError where a row is wrong.
    """
    table = _Table.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    for row in table.images:
        if not row.slurm.is_absolute() or re.search(r"[\x00-\x1f]", str(row.slurm)):
            raise ValueError(f"{path}: {row.name}: slurm: {row.slurm} must be an absolute path")
    return ImageTable(
        tuple(
            Image(name=row.name, digest=row.digest, kubernetes=row.kubernetes, slurm=row.slurm) for row in table.images
        )
    )
