"""Synthetic faces: drawn images with known landmarks, action units and identities."""

import argparse
import functools

from aujax.codebook import EXPRESSIONS
from aujax.data import images, synthetic
from aujax.data.sources.listing import Listing, Source, SourceImage, whole_number
from aujax.data.workers import parallel_map
from aujax.errors import UserError

_SERIAL = 64  # fewer faces than these are drawn sooner than worker processes start
# First indices of the splits, far apart and at multiples of seven, which is the number of faces of one drawn person:
# each split has its own people, and the test faces stay the same when more faces are drawn for training.
_CAPACITY = 7_000_000
_FIRST = {"train": 0, "validation": _CAPACITY, "test": 2 * _CAPACITY}


def list_drawn(options: argparse.Namespace) -> Listing:
    """Returns faces drawn from `options.seed`; no two splits share a person, and only train has the shortcut.

    Raises:
      UserError: a count, size or shortcut out of range.
    """
    counts = {"train": options.train_faces, "validation": options.validation_faces, "test": options.test_faces}
    for split, count in counts.items():
        if count > _CAPACITY:
            raise UserError(f"--{split}={count}: expected at most {_CAPACITY} faces to draw")
    if not 32 <= options.size <= 1024:
        raise UserError(f"--size={options.size}: expected 32 to 1024 pixels")
    if not 0 <= options.shortcut <= 1:
        raise UserError(f"--shortcut={options.shortcut}: expected a share of faces from 0 to 1")
    rows = [(_FIRST[split] + row, split) for split, count in counts.items() for row in range(count)]
    draw = functools.partial(_draw, seed=options.seed, size=options.size, shortcut=options.shortcut)
    jobs = options.jobs if len(rows) >= _SERIAL else 1
    faces = list(parallel_map(draw, rows, jobs=jobs, description="Drawing faces", in_processes=True))
    layout = f"{len(faces)} faces drawn from seed {options.seed}, {options.size} x {options.size} pixels"
    notes = []
    if options.shortcut:
        notes.append(f"a background shortcut is planted in {options.shortcut:.0%} of train")
    return Listing(faces, EXPRESSIONS, layout, notes)


def _draw(row: tuple[int, str], *, seed: int, size: int, shortcut: float) -> SourceImage:
    index, split = row
    face = synthetic.draw_face(seed, index, size=size, shortcut=shortcut if split == "train" else 0.0)
    return SourceImage(
        id=f"{split}/{index:06d}",
        expression=face.expression,
        read=functools.partial(bytes, images.encode(face.image)),  # returns these bytes, and can be pickled
        split=split,
        subject_id=str(face.identity),
        landmarks=face.landmarks,
        aus=face.aus,
    )


def add_options(parser: argparse._ActionsContainer) -> None:
    """Adds the options of this source; its splits are given as counts, not as fractions."""
    splits = (("train", 2100, "training", 1), ("validation", 350, "validation", 0), ("test", 700, "testing", 0))
    for name, count, purpose, minimum in splits:
        parser.add_argument(
            f"--{name}",
            type=whole_number(minimum),
            default=count,
            metavar="N",
            dest=f"{name}_faces",
            help=f"faces for {purpose} (default: {count})",
        )
    parser.add_argument("--size", type=int, default=128, metavar="PIXELS", help="width and height (default: 128)")
    parser.add_argument(
        "--shortcut",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the training faces with a mark in the background that gives the expression away (default: 0)",
    )
    parser.set_defaults(source="", validation=0.0, test=0.0)


SOURCE = Source(
    summary="synthetic faces, drawn with known landmarks and action units; needs no files",
    terms="The faces are drawn by aujax: they show no real person and are under the MIT licence.",
    cropped=False,
    add_options=add_options,
    list_images=list_drawn,
)
