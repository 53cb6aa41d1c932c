"""Sources of faces: what each one returns, a `Listing` with one `SourceImage` per face, and what they share.

Each source is a module with a row `SOURCE`; the table of them is `aujax.data.prepare.SOURCES`. Images are read
later, possibly in another process.
Coordinates (landmarks, points, box) are (x, y) pixels of the upright original image.
"""

import argparse
import contextlib
import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from aujax.data.landmarks import Box
from aujax.errors import UserError


@dataclass(frozen=True)
class SourceImage:
    """A labelled face of a source.

    Attributes:
      id: unique in the source; usually the path below it.
      expression: index into the listing's expressions.
      read: returns the encoded image, or raises `OSError`; can be pickled.
      split: "train", "validation", "test", or "" if the source does not say.
      subject_id: whose face it is; "" if unknown.
      landmarks: (68, 2), or None.
      points: (5, 2) centres of the image-left and image-right eye, nose tip, left and right mouth corner, or None.
      box: (left, top, right, bottom) of the face in a larger image, or None if the image is the face.
      aus: FACS numbers of the active action units, if known.
      attributes: what else is known of the face, value by name ("gender": "female").
    """

    id: str
    expression: int
    read: Callable[[], bytes]
    split: str = ""
    subject_id: str = ""
    landmarks: np.ndarray | None = None
    points: np.ndarray | None = None
    box: Box | None = None
    aus: tuple[int, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """The faces of a source, in a fixed order.

    Attributes:
      images: the faces.
      expressions: the names that `SourceImage.expression` indexes.
      layout: the recognised layout, in a few words.
      notes: what the user should know, one sentence each.
    """

    images: list[SourceImage]
    expressions: tuple[str, ...]
    layout: str
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """A row of the table `SOURCES`.

    Attributes:
      summary: for `--help`.
      terms: the conditions of use of the images, for `--help`, the report and the model card.
      cropped: whether its images are faces that were cropped beforehand, each with margins of its own.
      add_options: adds the options of this source.
      list_images: returns the listing for these options.
    """

    summary: str
    terms: str
    cropped: bool
    add_options: Callable[[argparse._ActionsContainer], None]
    list_images: Callable[[argparse.Namespace], Listing]


def whole_number(minimum: int) -> Callable[[str], int]:
    """Returns the type of an option whose value is a whole number, `minimum` or more."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"expected a whole number from {minimum}, got {text!r}")
        return int(text)

    return parse


def words(text: str) -> dict[str, list[str]]:
    """Returns the other words of each line of a text by its first word."""
    return {first: others for first, *others in map(str.split, text.strip().splitlines())}


def add_source_options(parser: argparse._ActionsContainer, source: str) -> None:
    """Adds the options of sources in files: --source, with this help, and the shares of splits to be sampled."""
    parser.add_argument("--source", required=True, metavar="PATH", help=source)
    parser.add_argument(
        "--validation",
        type=float,
        default=0.1,
        metavar="FRACTION",
        help="share of the faces outside the data set's own test split that is for validation (default: 0.1)",
    )
    parser.add_argument(
        "--test",
        type=float,
        default=0.2,
        metavar="FRACTION",
        help="share that is for testing; not used if the data set has its own test split (default: 0.2)",
    )


@contextlib.contextmanager
def open_table(path: Path) -> Iterator[TextIO]:
    """Opens a CSV file or another table in text.

    Raises:
      UserError: it is not UTF-8, or not CSV.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield file
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path}: expected a table in UTF-8 text, {error}; copy it again, or save it as UTF-8"
        ) from error


def count_notes(name: str, images: list[SourceImage], expected: Mapping[str, int]) -> list[str]:
    """Returns a note for each split whose number of images is not the published one of the data set `name`."""
    notes = []
    for split, published in expected.items():
        count = sum(image.split == split for image in images)
        if count != published:
            why = "part of it is missing" if count < published else "images were added, perhaps augmented ones"
            notes.append(f"{name} has {published} images in {split}, this copy has {count}: {why}")
    return notes


def folder_contents(folder: Path) -> str:
    """Returns the first names in a folder, for a message about an unknown layout."""
    return ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
