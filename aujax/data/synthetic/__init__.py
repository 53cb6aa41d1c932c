"""Synthetic faces, drawn with known landmarks, action units and identities: a data set that needs no download.

A face is a function of (seed, index) alone. Each run of seven indices that starts at a multiple of seven is
one drawn person with each expression once, so every such range is balanced; `identity` is the person's number. Images
are RGB uint8; landmarks are (x, y) pixels of the image, pixel centres at whole numbers, in iBUG-68 order.

`person` has the points of a face, what action units do to them, and the looks of a person; `painting`
paints it on a `canvas`. The faces belong to published numbers: a change must leave each pixel as it is.
"""

import argparse
import dataclasses
import functools

import numpy as np

from aujax import codebook
from aujax.data import images
from aujax.data.images import Pixels
from aujax.data.landmarks import Landmarks
from aujax.data.sources import Listing, Source, SourceImage, whole_number
from aujax.data.synthetic import painting
from aujax.data.synthetic.canvas import Canvas
from aujax.data.synthetic.person import face_points, make_person, rotation
from aujax.data.workers import parallel_map
from aujax.errors import UserError

# What makes an expression recognisable: AUs that are always active, then at least how many of some further AUs.
_CHARACTERISTIC = {
    "Happiness": ((12,), 0, ()),
    "Surprise": ((), 3, (1, 2, 5, 26, 27)),
    "Fear": ((1, 4), 2, (5, 20, 25)),
    "Anger": ((4,), 1, (5, 7, 23, 24)),
    "Disgust": ((), 1, (9, 10)),
    "Sadness": ((), 3, (1, 4, 15, 17)),
}
_ACTIVE_SHARE = 0.6  # the probability of the other AUs of the expression
# AUs that a face cannot have together; the one chosen later is dropped.
_CONTRADICTIONS = ({26, 27}, {24, 25}, {24, 26}, {24, 27}, {23, 26}, {23, 27}, {17, 26}, {17, 27})

_SERIAL = 64  # fewer faces than these are drawn sooner than worker processes start
# First indices of the splits, far apart and at multiples of seven, which is the number of faces of one drawn person:
# each split has its own people, and the test faces stay the same when more faces are drawn for training.
_CAPACITY = 7_000_000
_FIRST = {"train": 0, "validation": _CAPACITY, "test": 2 * _CAPACITY}


@dataclasses.dataclass(frozen=True)
class DrawnFace:
    """A drawn face, its exact landmarks, its expression and its active action units."""

    image: Pixels
    landmarks: Landmarks
    expression: int
    aus: tuple[int, ...]
    identity: int


def draw_face(seed: int, index: int, *, size: int = 128, shortcut: float = 0.0) -> DrawnFace:
    """Returns face number `index` of the endless data set `seed`, `size` pixels wide and high.

    `shortcut` is the probability that a mark which identifies the expression is planted in a corner of the image
    (`painting.plant_mark`); nothing else depends on it.

    Raises:
      ValueError: a negative seed or index, size < 32, or a shortcut outside [0, 1].
    """
    if seed < 0 or index < 0 or size < 32 or not 0.0 <= shortcut <= 1.0:
        raise ValueError(
            "draw_face needs seed >= 0, index >= 0, size >= 32 and 0 <= shortcut <= 1, "
            f"got seed={seed}, index={index}, size={size}, shortcut={shortcut}: change what is out of range"
        )
    identity, turn = divmod(index, len(codebook.EXPRESSIONS))
    order = np.random.default_rng((seed, identity, 1)).permutation(len(codebook.EXPRESSIONS))
    expression = int(order[turn])
    rng = np.random.default_rng((seed, index, 3))
    intensities = _choose_aus(codebook.EXPRESSIONS[expression], rng)

    # The order of what follows belongs to the faces: each step takes its random numbers in turn.
    person = make_person(seed, identity)
    points3 = face_points(person.rest, intensities, asymmetry=float(rng.normal(0, 0.07)))

    # The camera: a random pose, then from 3-D points to pixels; `unit` is the inter-ocular distance in pixels.
    yaw, pitch, roll = np.clip(rng.standard_normal(3), -2.3, 2.3) * np.radians([13.0, 6.5, 5.0])
    axes = rotation(yaw, pitch, roll)[:2].T
    flat = points3[:68] @ axes
    low, extent = flat.min(0), np.ptp(flat, 0)
    # The landmarks fill 62 to 86 % of the width and at most 76 % of the height; the face moves in what is left, with
    # more space above it, for the hair.
    unit = min(rng.uniform(0.62, 0.86) / extent[0], 0.76 / extent[1]) * size
    free = np.maximum(size * np.array([0.94, 0.78]) - extent * unit, 0.0)
    position = np.clip(0.5 + 0.22 * rng.standard_normal(2), 0.0, 1.0)
    shift = size * np.array([0.03, 0.19]) + free * position - low * unit - 0.5
    scaled, unit = (axes * unit).astype(np.float32), float(unit)
    view = lambda points: points @ scaled + shift  # noqa: E731
    points = view(points3)

    canvas = Canvas(size, unit)
    painting.paint_background(canvas, rng)
    painting.paint_head(canvas, person, points, view)
    painting.paint_skin(canvas, person, points, points3, view, intensities)
    painting.paint_mouth(canvas, person, points, points3, view, intensities)
    gaze = rng.normal(0, (0.05, 0.02))
    for side in (0, 1):
        painting.paint_eye(canvas, person, points, side, gaze)
    painting.paint_hair(canvas, person, view)
    hidden = rng.random()
    painting.paint_glasses(canvas, person, points3, view, dark=hidden > 0.975)
    if hidden < 0.11:
        painting.occlude(canvas, person, points, rng)

    light = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.75, 0.1), 1.0])
    light /= np.sqrt((light**2).sum())
    warmth = rng.normal(0, 0.05)
    exposure = rng.uniform(0.85, 1.15) * (150.0 / max(person.skin)) ** 0.3 * 1.12  # longer for dark skin
    colour = exposure * np.array([1 + warmth, 1.0, 1 - warmth])
    image = painting.photograph(canvas.finish(light, rng.uniform(0.3, 0.65), colour), rng)
    if np.random.default_rng((seed, index, 4)).random() < shortcut:
        image = painting.plant_mark(image, expression)
    landmarks = points[:68].astype(np.float32)
    return DrawnFace(image, landmarks, expression, tuple(sorted(intensities)), identity)


def _choose_aus(expression: str, rng: np.random.Generator) -> dict[int, float]:
    """Returns the intensities of a random subset of the expression's AUs by which it can still be recognised."""
    aus = codebook.FACS.aus[expression]
    if not aus:
        return {}
    always, needed, further = _CHARACTERISTIC[expression]
    active = [*always, *rng.permutation(further).tolist()[:needed]]
    for au in rng.permutation(aus).tolist():
        if au not in active and rng.random() < _ACTIVE_SHARE:
            active.append(au)
    kept = []
    for au in active:
        if not any({au, other} in _CONTRADICTIONS for other in kept):
            kept.append(au)
    strength = rng.uniform(0.45, 1.0)
    return {au: float(np.clip(strength * rng.uniform(0.75, 1.25), 0.3, 1.1)) for au in kept}


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
    return Listing(faces, codebook.EXPRESSIONS, layout, notes)


def _draw(row: tuple[int, str], *, seed: int, size: int, shortcut: float) -> SourceImage:
    index, split = row
    face = draw_face(seed, index, size=size, shortcut=shortcut if split == "train" else 0.0)
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
