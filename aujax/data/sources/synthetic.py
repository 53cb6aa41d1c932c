"""The built-in drawn faces as a source: known landmarks, action units and identities."""

import argparse
import functools
from collections.abc import Iterator

from aujax.codebook import EXPRESSIONS
from aujax.data import images, synthetic
from aujax.data.sources.listing import HeldBytes, Listing, Source, SourceImage, whole_number
from aujax.data.workers import processes, track
from aujax.errors import UserError

_FEW = 64
# Far apart and at multiples of seven, the faces of one drawn person: each split has its own people, and the
# faces to test on stay the same when more are drawn to train on.
_MOST = 7_000_000
_FIRST = {"train": 0, "validation": _MOST, "test": 2 * _MOST}


def list_drawn(options: argparse.Namespace) -> Listing:
    """Faces drawn from `options.seed`; each split draws its own people, and only train has the shortcut.

    Raises:
      UserError: a count, size or shortcut out of range.
    """
    counts = {"train": options.train_faces, "validation": options.validation_faces, "test": options.test_faces}
    for split, count in counts.items():
        if count > _MOST:
            raise UserError(f"--{split}={count}: expected at most {_MOST} faces to draw")
    if not 32 <= options.size <= 1024:
        raise UserError(f"--size={options.size}: expected 32 to 1024 pixels")
    if not 0 <= options.shortcut <= 1:
        raise UserError(f"--shortcut={options.shortcut}: expected a share of faces from 0 to 1")
    rows = [(_FIRST[split] + row, split) for split, count in counts.items() for row in range(count)]
    draw = functools.partial(_draw, seed=options.seed, size=options.size, shortcut=options.shortcut)
    faces = list(_run(draw, rows, options.jobs))
    layout = f"{len(faces)} faces drawn from seed {options.seed}, {options.size} x {options.size} pixels"
    notes = [f"a background shortcut is planted in {options.shortcut:.0%} of train"] if options.shortcut else []
    return Listing(faces, EXPRESSIONS, layout, notes)


def _draw(row: tuple[int, str], *, seed: int, size: int, shortcut: float) -> SourceImage:
    index, split = row
    face = synthetic.draw_face(seed, index, size=size, shortcut=shortcut if split == "train" else 0.0)
    return SourceImage(
        id=f"{split}/{index:06d}",
        expression=int(face.expression),
        read=HeldBytes(images.encode(face.image)),
        split=split,
        group=str(face.identity),
        landmarks=face.landmarks,
        aus=tuple(face.aus),
    )


def _run(draw: functools.partial, rows: list[tuple[int, str]], jobs: int) -> Iterator[SourceImage]:
    if jobs == 1 or len(rows) < _FEW:
        yield from track(map(draw, rows), len(rows), "Drawing faces")
    else:
        with processes(jobs) as pool:
            yield from track(pool.imap(draw, rows, chunksize=16), len(rows), "Drawing faces")


def add_options(parser: argparse._ActionsContainer) -> None:
    """The options of this source; its splits are counts, so none is drawn by fraction."""
    splits = (("train", 2100, "train", 1), ("validation", 350, "validate", 0), ("test", 700, "test", 0))
    for name, count, purpose, least in splits:
        words = f"faces to {purpose} on (default: {count})"
        number = whole_number(least)
        parser.add_argument(f"--{name}", type=number, default=count, metavar="N", dest=f"{name}_faces", help=words)
    parser.add_argument("--size", type=int, default=128, metavar="PIXELS", help="width and height (default: 128)")
    parser.add_argument(
        "--shortcut",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of train faces whose background tells the expression (default: 0)",
    )
    parser.set_defaults(source="", validation=0.0, test=0.0)


SOURCE = Source(
    summary="the built-in drawn faces, with known landmarks and action units; needs no files",
    terms="These faces are drawn: nobody is in them, and you may use them as you like.",
    add_options=add_options,
    list_images=list_drawn,
)
