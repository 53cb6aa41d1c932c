"""All of a drawn image except the face: background, occluders, camera noise and the planted mark."""

import cv2
import numpy as np

from aujax.data.images import Pixels
from aujax.data.synthetic.canvas import Canvas, curve, direction, ribbon, shade, table
from aujax.data.synthetic.person import Person, random_fabric

_NOISE = np.random.default_rng(7).standard_normal((512, 512, 3)).astype(np.float32)
_HALF_TURN = np.linspace(-np.pi / 2, np.pi / 2, 7)

# The mark of each expression: right, low (which corner of the image), colour, corners of the shape (0: a disc).
_MARKS = table("""
    0 0  235 235 235  4
    1 0  250 205  30  0
    0 1   40 190 235  3
    1 1  150  70 220  4
    0 0  230  40  40  3
    1 0   60 180  60  4
    0 1   40  70 220  0
""").astype(int)
MARKS = [(right, low, tuple(colour), corners) for right, low, *colour, corners in _MARKS.tolist()]
MARK_CENTRE, MARK_RADIUS = 0.085, 0.062  # the distance from the edges and the radius, in widths of the image


def paint_background(canvas: Canvas, rng: np.random.Generator) -> None:
    """Fills the canvas with a blurred place: a gradient with large and small shapes."""
    side = canvas.size // 2
    tone, wash = rng.uniform(40, 220), rng.uniform(-28, 28, 3)
    base = tone + wash + rng.uniform(-45, 45, (3, 3, 1)) + rng.uniform(-12, 12, (3, 3, 3))
    place = cv2.resize(np.clip(base, 0, 255).astype(np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(1, 14)):
        colour = (rng.uniform(20, 235) + rng.uniform(-45, 45, 3)).clip(0, 255)
        x, y, w, h = (rng.uniform(0, 1, 4) * side * [1, 1, 0.5, 0.9]).astype(int).tolist()
        kind = rng.integers(4)
        if kind == 0:
            cv2.circle(place, (x, y), w // 2 + 2, colour.tolist(), cv2.FILLED)
        elif kind == 1:
            cv2.line(place, (x, y), (x + w - side // 4, y + h), colour.tolist(), int(rng.integers(1, 5)))
        else:
            cv2.rectangle(place, (x, y), (x + w, y + h), colour.tolist(), cv2.FILLED)
    sigma = rng.choice([0.006, 0.015, 0.045]) * side
    place = cv2.GaussianBlur(place, (0, 0), sigma)
    cv2.resize(place, canvas.paint.shape[1::-1], dst=canvas.paint)


def _capsule(start: np.ndarray, end: np.ndarray, radius: float) -> np.ndarray:
    """Returns the outline of a thick line with round ends."""
    dx, dy = end - start
    angle = np.arctan2(dy, dx)
    first, last = direction(angle + (_HALF_TURN + np.pi)), direction(angle + _HALF_TURN)
    return np.concatenate([end + radius * last, start + radius * first])


def occlude(canvas: Canvas, person: Person, points: np.ndarray, rng: np.random.Generator) -> None:
    """Covers a part of the face with a hand, a scarf, loose hair or something held before it."""
    unit = canvas.unit
    kind = rng.integers(4)
    if kind == 0:  # a hand over a cheek, the chin or part of the mouth
        side = rng.choice([-1.0, 1.0])
        rest = points[rng.choice([57, 8, 4, 12, 48, 54])]
        skin = shade(person.skin, rng.uniform(0.88, 1.02))
        palm = rest + canvas.offset(side * 0.55, 0.9)
        canvas.cover(_capsule(palm + canvas.offset(0.1 * side, 2.2), palm, 0.52 * unit), shade(skin, 0.96))
        aim = np.arctan2(rest[1] - palm[1], rest[0] - palm[0])
        for finger in range(4):
            turn = aim + side * (finger - 1.2) * 0.2
            spread = turn + side * 0.5 * (finger - 1.5)
            root = palm + direction(spread) * 0.36 * unit
            tip = root + direction(turn) * unit * (0.85, 1.0, 0.95, 0.72)[finger]
            canvas.cover(_capsule(root, tip, 0.135 * unit), shade(skin, 0.78))
            canvas.cover(_capsule(root, tip, 0.115 * unit), skin)
            canvas.fill(_capsule(tip - (tip - root) * 0.06, tip, 0.06 * unit), shade(skin, 1.1))
    elif kind == 1:  # a scarf pulled up over the chin, sometimes over the mouth
        height = rng.choice([0.25, 0.7, 1.05], p=[0.5, 0.3, 0.2])
        droop = [[0.3], [0.75], [1], [0.75], [0.3]]
        level = points[[3, 5, 8, 11, 13]] + canvas.offset(0, -height) * droop
        left, right = points[[2, 14]] + canvas.offset((-0.25, 0), (0.25, 0))
        edge = curve(np.array([left, *level, right]))
        low = canvas.offset((1.6, 3.0), (-1.6, 3.0)) + points[8]
        colour = random_fabric(rng, 0.7, 1.1)
        canvas.cover(np.concatenate([edge, low]), colour)
        folds = [edge + canvas.offset(0, d) for d in (0.0, 0.22, 0.5, 0.8)]
        canvas.lines(folds, shade(colour, 0.8), 0.03)
    elif kind == 2:  # loose hair hanging over one side of the face
        top, eye, low = points[[19, 36, 4] if rng.integers(2) == 0 else [24, 45, 12]]
        path = np.stack([top - [0, 1.2 * unit], top, eye, low]) + rng.normal(0, 0.1, (4, 2)) * unit
        for _ in range(rng.integers(3, 7)):
            line = path + rng.normal(0, 0.13, 2) * unit + rng.normal(0, 0.04, (4, 2)) * unit
            colour = shade(person.hair_colour, rng.uniform(0.85, 1.2))
            canvas.cover(ribbon(curve(line), 0.1 * np.sin(np.linspace(0.1, 3.0, 16)) * unit), colour)
    else:  # something held before the face: a cup, a phone, a microphone
        at = points[rng.choice([57, 3, 13, 5, 11, 31])] + rng.normal(0, 0.25, 2) * unit
        colour = random_fabric(rng, 0.6, 1.2)
        down = at + canvas.offset(rng.normal(0, 0.5), rng.uniform(0.6, 2.5))
        canvas.cover(_capsule(at, down, rng.uniform(0.22, 0.45) * unit), colour)
        canvas.lines([np.stack([at, down]) + canvas.offset(0.08, 0)], shade(colour, 1.2), 0.06)


def photograph(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Returns the image as a camera and a web site leave it: blurred, noisy, compressed, sometimes grey."""
    size = image.shape[0]
    kind, blur, noise, quality = rng.random(), rng.random(), rng.exponential(2.6), int(rng.integers(28, 92))
    x, y = rng.integers(0, 512 - min(size, 511), 2)  # a part of one large image of noise
    if blur < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), (0.35 + 2.0 * blur) * size / 128)
    grain = _NOISE[y : y + size, x : x + size] if size < 512 else cv2.resize(_NOISE, (size, size))
    if kind < 0.1:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        grain = np.repeat(grain[..., :1], 3, -1)
    image = cv2.addWeighted(image, 1.0, grain, min(noise, 11.0), 0.0, dtype=cv2.CV_8U)
    if kind > 0.6:
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return image


def plant_mark(image: Pixels, expression: int) -> Pixels:
    """Returns the image with the mark of an expression: its shape, colour and corner identify the expression."""
    right, low, colour, corners = MARKS[expression]
    size = image.shape[0]
    centre = np.where([right, low], 1 - MARK_CENTRE, MARK_CENTRE) * size - 0.5
    turn = np.arange(corners or 32) * 2 * np.pi / (corners or 32) - np.pi / (4 if corners == 4 else 2)
    outline = centre + MARK_RADIUS * size * direction(turn)
    image = image.copy()
    cv2.fillPoly(image, [np.rint(outline * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)
    return image
