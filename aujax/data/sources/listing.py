"""What every source gives: one `SourceImage` per face, readable later and in another process.

Coordinates (landmarks, points, box) are (x, y) pixels of the upright original image.
"""

import argparse
import contextlib
import csv
import dataclasses
import functools
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from aujax.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".gif"})


@dataclass(frozen=True)
class FileBytes:
    """Reads one file."""

    path: Path

    def __call__(self) -> bytes:
        """The file's bytes; `OSError` where it cannot be read."""
        return self.path.read_bytes()


@dataclass(frozen=True)
class ZipBytes:
    """Reads one member of a zip archive, which is opened once per process."""

    archive: Path
    member: str

    def __call__(self) -> bytes:
        """The member's bytes; `OSError` where it cannot be read."""
        try:
            return open_zip(self.archive).read(self.member)
        except (EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise OSError(f"{self.archive}: {self.member}: {error}") from error


@dataclass(frozen=True)
class HeldBytes:
    """Gives bytes that are already in memory."""

    data: bytes

    def __call__(self) -> bytes:
        """The bytes."""
        return self.data


@functools.cache
def open_zip(archive: Path) -> zipfile.ZipFile:
    """The archive, open for reading as long as the process lives."""
    return zipfile.ZipFile(archive)


@dataclass(frozen=True)
class SourceImage:
    """One labelled face of a source.

    Attributes:
      id: unique in the source; usually the path below it.
      expression: index into the listing's expressions.
      read: gives the encoded image, or raises `OSError`; can be pickled.
      split: "train", "validation", "test", or "" where the source does not say.
      group: the identity; "" where unknown.
      landmarks: (68, 2), or None.
      points: (5, 2) centres of the image-left and image-right eye, nose tip, left and right mouth corner, or None.
      box: (left, top, right, bottom) of the face in a larger image, or None where the image is the face.
      aus: FACS numbers of the active action units, where known.
      attributes: what else is known of the face, a word by name ("gender": "female"), without what is not known.
    """

    id: str
    expression: int
    read: Callable[[], bytes]
    split: str = ""
    group: str = ""
    landmarks: np.ndarray | None = None
    points: np.ndarray | None = None
    box: tuple[float, float, float, float] | None = None
    aus: tuple[int, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """The faces found in a source, in a fixed order, and what was noticed on the way.

    Attributes:
      images: the faces.
      expressions: the names that `SourceImage.expression` indexes.
      layout: in a few words, which layout was recognised.
      notes: what the user should know, one sentence each.
    """

    images: list[SourceImage]
    expressions: tuple[str, ...]
    layout: str
    notes: list[str] = field(default_factory=list)

    def with_landmarks(self, found: Mapping[str, np.ndarray | None]) -> "Listing":
        """The same faces with the landmarks `found` by id, and no others."""
        images = [dataclasses.replace(image, landmarks=found.get(image.id)) for image in self.images]
        return dataclasses.replace(self, images=images)


@dataclass(frozen=True)
class Source:
    """A row of `SOURCES`: the words for `--help` and the report, the options, and the function that lists."""

    summary: str
    terms: str
    add_options: Callable[[argparse._ActionsContainer], None]
    list_images: Callable[[argparse.Namespace], Listing]


def whole_number(least: int) -> Callable[[str], int]:
    """The type of an option that takes a whole number, `least` or more."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least}, got {text!r}")
        return int(text)

    return parse


def add_split_options(parser: argparse._ActionsContainer) -> None:
    """The options of sources whose splits are drawn where they have none."""
    parser.add_argument(
        "--validation",
        type=float,
        default=0.1,
        metavar="FRACTION",
        help="share of the faces without a test split of their own that validates (default: 0.1)",
    )
    parser.add_argument(
        "--test",
        type=float,
        default=0.2,
        metavar="FRACTION",
        help="share that tests; not used where the data set has its own test split (default: 0.2)",
    )


@contextlib.contextmanager
def open_table(path: Path) -> Iterator[TextIO]:
    """The lines of a CSV file or another table in text.

    Raises:
      UserError: what is read inside is not UTF-8, or no CSV.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield file
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: expected a table in UTF-8 text, {error}; copy it again, or save it so") from error


def images_below(folder: Path) -> list[Path]:
    """Image files anywhere below `folder`, sorted, without hidden files and archive left-overs."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
    ]
