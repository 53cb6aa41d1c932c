"""Paints an image on a canvas, back to front: background, body, head, skin, features, hair, glasses and occluders.

At last the camera adds its noise, and the mark of an expression may be planted.
"""

from collections.abc import Mapping

import cv2
import numpy as np

from aujax.data.images import Pixels
from aujax.data.sources import words
from aujax.data.synthetic.canvas import Canvas, Curve, curve, direction, mix, ribbon, shade, table
from aujax.data.synthetic.person import BULGES, CREASES, CROWN, EARS, IRISES, TEETH, Person, Points, View, random_fabric

# How strongly the creases of these AUs show in an old face at rest.
_AGE_LINES = {1: 0.45, 2: 0.35, 4: 0.35, 6: 0.4, 12: 0.5, 15: 0.35}
_INNER_LOWER_LIP = [60, 67, 66, 65, 64]
_RING = direction(np.linspace(0, 2 * np.pi, 20, endpoint=False))
_RIM = direction(np.linspace(0, 2 * np.pi, 24, endpoint=False))
_BUN = direction(np.linspace(0, 2 * np.pi, 14, endpoint=False)) * [0.42, 0.36] - [0, 1.95]
_BUN = np.pad(_BUN, [(0, 0), (0, 1)], constant_values=-0.6).astype(np.float32)
_NECK = table("""
    -0.66   0.9  -0.5
    -0.68   1.9  -0.5
    -0.80   2.4  -0.5
     0.80   2.4  -0.5
     0.68   1.9  -0.5
     0.66   0.9  -0.5
""").astype(np.float32)
_SHOULDERS = table("""
    -3.20  5.00  -0.5
    -2.70  2.75  -0.5
    -1.30  2.40  -0.5
    -0.72  2.12  -0.5
     0.00  2.45  -0.4
     0.72  2.12  -0.5
     1.30  2.40  -0.5
     2.70  2.75  -0.5
     3.20  5.00  -0.5
""").astype(np.float32)
# The lower edge of the upper teeth, from the point `TEETH`.
_TEETH_EDGE = table("""
    -0.36  -0.10  -0.20
    -0.20  -0.03  -0.06
     0.00   0.00   0.00
     0.20  -0.03  -0.06
     0.36  -0.10  -0.20
""").astype(np.float32)
_COLOURS = """
    eyeball      236  230  224
    pupil         14   11   10
    lid_shadow    70   50   50
    glint        250  250  250
    lashes        20   14   14
    nostril       50   20   18
    mouth         44   14   16
    tongue       150   62   64
    lower_teeth  214  206  194
    upper_teeth  240  235  226
    teeth_lines  206  198  188
    lip_line      30    8   10
    rims          26   24   26
    dark_glass    30   26   28
    reflection   120  122  130
    glass        225  232  236
"""
_PAINT = {name: np.array(numbers, float) for name, numbers in words(_COLOURS).items()}
_BEARD_GAIN = np.array([0.62, 0.64, 0.68])
# Offsets from landmarks, in inter-ocular units: of the shadows below the nose and below the lower lip, ...
_BELOW_NOSE = table("0 0\n 0 0.1\n 0 0.12\n 0 0.1\n 0 0\n 0 0")
_BELOW_LIP = table("0 0.02\n 0 0.1\n 0 0.12\n 0 0.1\n 0 0.02")
# ... of the upper edge of a full beard from the mouth corners and the nose, and of a moustache from the upper lip.
_BEARD_RIM = table("0.468 -0.1\n 0.04 -0.11\n 0 0.1\n -0.04 -0.11\n -0.468 -0.1")
_MOUSTACHE = table("-0.03 0.02\n 0 -0.05\n 0 -0.09\n 0 -0.08\n 0 -0.09\n 0 -0.05\n 0.03 0.02")
# Relative widths along a crease, the lashes and a brow.
_CREASE_TAPER = np.sin(np.linspace(0.25, np.pi - 0.25, 10)).astype(np.float32)
_LASH_TAPER = np.interp(np.linspace(0, 1, 13), [0, 0.5, 1], [1.1, 1.0, 0.5])
_BROW_TAPER = np.interp(np.linspace(0, 4, 17), np.arange(5), [0.3, 0.7, 1.0, 1.05, 0.85])
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


def _between(upper: Curve, lower: Curve) -> Curve:
    """Returns the outline between two curves in the same direction."""
    return np.concatenate([upper, lower[::-1]])


def _enlarged(points: Curve, factor: float) -> Curve:
    return points.mean(0) + factor * (points - points.mean(0))


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


def paint_head(canvas: Canvas, person: Person, points: Curve, view: View) -> None:
    """Paints the hair behind the head, neck, clothes, ears and skin, and sets the relief of the head."""
    hair, fabric = person.hair, person.style.fabric
    if hair and hair.back is not None and not fabric:
        canvas.fill(view(hair.back), shade(person.hair_colour, 0.72))
    if hair and person.style.bun:
        canvas.fill(curve(view(_BUN), closed=True), shade(person.hair_colour, 0.85))
    canvas.fill(view(_NECK), shade(person.skin, 0.8))
    canvas.fill(curve(view(_SHOULDERS)), person.clothes)
    if hair and hair.back is not None and fabric:
        canvas.fill(view(hair.back), shade(person.fabric, 0.8))

    # Ears and skin, and the relief of the head.
    unit = canvas.unit
    for ear in np.split(points[EARS], 2) if person.style.side < 0.5 else ():
        canvas.fill(curve(ear, closed=True), shade(person.skin, 0.88))
        canvas.fill(curve(_enlarged(ear, 0.55), closed=True), shade(person.skin, 0.74))
    outline = curve(np.concatenate([points[:17], points[CROWN][::-1]]), closed=True)
    canvas.tint(points[:17] + canvas.offset(0, 0.16), 0.66, 0.62, 0.62)  # the shadow on the neck
    canvas.tint(outline, 1.0, 1.0, 1.0)
    canvas.fill(outline, person.skin)
    canvas.fill(outline, 1.0, canvas.head)
    eyes = np.split(points[36:48], 2)
    for eye in eyes:
        canvas.disc(eye.mean(0), 0.3, -1.1, canvas.relief)
    for brow in np.split(points[17:27], 2):
        canvas.fill(ribbon(brow, 0.16 * unit), 0.7, canvas.relief)
    canvas.fill(points[[27, 31, 33, 35]], 2.4, canvas.relief)
    canvas.disc(points[30], 0.13, 3.6, canvas.relief)
    for wing in (31, 35):
        canvas.disc(points[wing] - [0, 0.04 * unit], 0.09, 2.0, canvas.relief)
    canvas.fill(points[48:60], 1.1, canvas.relief)
    canvas.disc(points[8] * 0.7 + points[57] * 0.3, 0.22, 0.8, canvas.relief)

    # In the skin: blush, shadows of sockets, nose and lip, freckles, stubble.
    for cheek, x in ((41, -0.12), (46, 0.12)):
        ring = _RING * [0.26 * unit, 0.2 * unit]
        canvas.tint(points[cheek] + canvas.offset(x, 0.36) + ring, 1.03, 0.94, 0.93)
    for eye in eyes:
        canvas.tint(_enlarged(eye, 1.35), 0.86, 0.82, 0.82)
    canvas.tint(points[[31, 32, 33, 34, 35, 33]] + _BELOW_NOSE * unit, 0.8, 0.76, 0.76)
    canvas.tint(points[59:54:-1] + _BELOW_LIP * unit, 0.86, 0.84, 0.84)
    if person.freckles.any():
        centre = points[29] + canvas.offset(0, 0.02)
        for freckle in centre + person.freckles * unit:
            canvas.disc(freckle, 0.013, shade(person.skin, 0.82))
    if person.beard in ("stubble", "full", "goatee"):
        gain = mix(np.ones(3), _BEARD_GAIN, 0.9 if person.beard == "stubble" else 0.6)
        lower = points[3:14] if person.beard != "goatee" else points[6:11]
        canvas.tint(np.concatenate([lower, points[[54, 35, 33, 31, 48]]]), *gain)


def _anchored(points3: Points, anchors: np.ndarray, offsets: Curve) -> Curve:
    """Returns the 3-D points at `offsets` (rows, k, 2) from the landmarks `anchors` (rows) of the face."""
    return points3[anchors.astype(int), None] + np.pad(offsets, [(0, 0), (0, 0), (0, 1)]).astype(np.float32)


def paint_skin(
    canvas: Canvas, person: Person, points: Curve, points3: Points, view: View, intensities: Mapping[int, float]
) -> None:
    """Paints the creases and bulges of the active action units, the lines of age, and the nose."""
    unit = canvas.unit
    active, old = 0.55 + 0.6 * person.age, max(0.0, person.age - 0.3)
    strength = np.array([intensities.get(au, 0.0) * active + _AGE_LINES.get(au, 0.0) * old for au in CREASES[:, 0]])
    chosen = strength > 0.08
    rows = CREASES[chosen]
    lines = curve(view(_anchored(points3, rows[:, 1], rows[:, 2:10].reshape(-1, 4, 2))), steps=3)
    widths = rows[:, 10, None] * unit
    depths = rows[:, 11] * np.minimum(strength[chosen], 1.0)
    # Below each dark line the skin is lighter: it catches the light from above.
    canvas.creases(ribbon(lines + [0.0, 0.6] * widths[..., None], widths * _CREASE_TAPER), -0.35 * depths)
    canvas.creases(ribbon(lines, widths * _CREASE_TAPER), depths)
    centres = view(_anchored(points3, BULGES[:, 1], BULGES[:, None, 2:4])[:, 0])
    for (au, *_, radius, height), centre in zip(BULGES, centres, strict=True):
        if intensities.get(au, 0.0) > 0.1:
            canvas.disc(centre, radius, height * intensities[au], canvas.relief)

    # The nose: nostrils, wings and the light on the tip.
    down, dark = canvas.offset(0.0, 1.0), mix(person.skin, _PAINT["nostril"], 0.72)
    for wing, mid, out in ((31, 32, -1.0), (35, 34, 1.0)):
        a, b, c = points[wing], points[mid], points[33]
        hole = np.stack([a * 0.65 + b * 0.35, b - 0.035 * down, b * 0.55 + c * 0.45, b + 0.015 * down])
        canvas.fill(curve(hole, closed=True), dark)
        edge = a + canvas.offset((0.0, -0.15), (0.055 * out, -0.06), (0.03 * out, 0.01))
        canvas.lines([curve(np.concatenate([edge, [a * 0.5 + b * 0.5]]))], mix(person.skin, dark, 0.4), 0.018)
    canvas.creases([points[30] + _RING * (0.05 * unit)], [-0.13])


def paint_eye(canvas: Canvas, person: Person, points: Curve, side: int, gaze: np.ndarray) -> None:
    """Paints one eye (`side` 0 on the image's left, 1 on its right): ball, iris, lids, lashes and brow."""
    eye = np.split(points[36:48], 2)[side]
    upper, lower = curve(eye[:4], steps=4), curve(eye[[0, 5, 4, 3]], steps=4)
    iris = points[IRISES][side] + gaze * canvas.unit

    with canvas.clipped(_between(upper, lower), _PAINT["eyeball"]):
        canvas.disc(iris, 0.112, shade(person.iris, 0.5))
        canvas.disc(iris, 0.095, person.iris)
        canvas.disc(iris, 0.047, _PAINT["pupil"])
        canvas.lines([upper + canvas.offset(0, 0.02)], mix(person.skin, _PAINT["lid_shadow"], 0.6), 0.035)
        canvas.disc(iris + canvas.offset(-0.035, -0.04), 0.022, _PAINT["glint"])
    dark = mix(shade(person.skin, 0.3), _PAINT["lashes"], 0.6)
    width = (_LASH_TAPER if side == 0 else _LASH_TAPER[::-1]) * (person.lashes * canvas.unit)
    canvas.fill(ribbon(upper, width), dark)
    if person.lashes > 0.04:
        corner, outer = (eye[0], -1.0) if side == 0 else (eye[3], 1.0)
        canvas.lines([np.stack([corner, corner + canvas.offset(outer * 0.06, -0.04)])], dark, 0.02)
    canvas.lines([lower[2:-2]], mix(person.skin, dark, 0.35), 0.012)
    if person.lid_crease:
        fold = upper + canvas.offset(0, -0.065)
        canvas.lines([fold[1:-1]], mix(person.skin, dark, 0.42 * person.lid_crease), 0.016)

    # The eyebrow, along its five landmarks.
    brow = np.split(points[17:27], 2)[side]
    taper = _BROW_TAPER if side == 0 else _BROW_TAPER[::-1]
    line = curve(brow, steps=4)
    width = taper * person.brow_width * canvas.unit
    colour = mix(shade(person.hair_colour, 0.8), person.skin, 0.22)
    canvas.fill(ribbon(line, width), colour)
    half = width[:, None] * [0, 0.5]
    lean = canvas.offset(-0.04 if side == 0 else 0.04, 0.0)
    hairs = np.stack([line + half, line - 1.15 * half + lean], 1)
    canvas.lines(hairs[1:-1], shade(colour, 0.8), 0.012)


def paint_mouth(
    canvas: Canvas,
    person: Person,
    points: Curve,
    points3: Points,
    view: View,
    intensities: Mapping[int, float],
) -> None:
    """Paints a beard, and the mouth in it: lips, and what an open mouth shows, the dark, teeth and tongue."""
    # A moustache, goatee or full beard.
    unit, colour = canvas.unit, mix(shade(person.hair_colour, 0.85), person.skin, 0.15)
    if person.beard == "full":
        jaw = points[2:15] + canvas.offset(0, 0.07)
        rim = points[[54, 54, 33, 48, 48]] + _BEARD_RIM * unit
        canvas.glaze(curve(np.concatenate([jaw, rim]), closed=True), colour, 0.88)
        chin = curve(points[4:13], steps=3)
        canvas.lines(np.stack([chin, chin + (points[57] - chin) * 0.22], 1), shade(colour, 1.25), 0.012)
    elif person.beard == "goatee":
        low = points[59:54:-1] + canvas.offset(0, 0.06)
        chin = points[9:6:-1] * 0.97 + points[57] * 0.03
        canvas.glaze(curve(np.concatenate([low, chin]), closed=True), colour, 0.85)
    if person.beard in ("full", "goatee", "moustache"):
        line = curve(points[48:55] + _MOUSTACHE * unit, steps=3)
        width = (0.05 + 0.1 * np.sin(np.linspace(0, np.pi, len(line)))) * unit
        canvas.glaze(ribbon(line, width), colour, 0.9)
        half = width[:, None] * [0, 0.4]
        canvas.lines(np.stack([line - half, line + half], 1), shade(colour, 0.78), 0.01)

    bottom = curve(points[[48, 59, 58, 57, 56, 55, 54]], steps=4)
    inner_top = curve(points[60:65], steps=4)
    inner_bottom = curve(points[_INNER_LOWER_LIP], steps=4)
    canvas.fill(_between(curve(points[48:55], steps=4), bottom), shade(person.lips, 0.9))
    canvas.fill(_between(inner_bottom, bottom), shade(person.lips, 1.06))
    shine = points[[58, 57, 56]] * 0.5 + points[[67, 66, 65]] * 0.5
    canvas.creases([ribbon(curve(shine), 0.03 * unit)], [-0.16])
    gap = float(points[66, 1] - points[62, 1]) / unit

    if gap > 0.02:
        with canvas.clipped(_between(inner_top, inner_bottom), _PAINT["mouth"]):
            canvas.disc(points[66] + canvas.offset(0, 0.06), 0.2, _PAINT["tongue"])
            if intensities.keys() & {16, 20}:  # the AUs that bare the lower teeth
                floor = curve(view(points3[_INNER_LOWER_LIP] + np.array([0, -0.045, 0], np.float32)))
                canvas.fill(_between(floor, floor + canvas.offset(0, 0.4)), _PAINT["lower_teeth"])
            edge = view(points3[TEETH] + _TEETH_EDGE)
            canvas.fill(_between(curve(edge - [0, 0.5 * unit]), curve(edge)), _PAINT["upper_teeth"])
            if gap > 0.05:  # lines between the teeth
                x = table("-0.26 -0.16 -0.08 0 0.08 0.16 0.26")[0].astype(np.float32)
                ticks = view(points3[TEETH] + np.stack([x, 0 * x - 0.02, -0.9 * x**2], 1))
                canvas.lines(np.stack([ticks, ticks - [0, 0.2 * unit]], 1), _PAINT["teeth_lines"], 0.008)
    line = mix(person.lips, _PAINT["lip_line"], 0.75)
    canvas.lines([inner_top, inner_bottom] if gap > 0.02 else [(inner_top + inner_bottom) / 2], line, 0.018)
    canvas.lines(points[[[48, 60], [54, 64]]], line, 0.022)  # the mouth corners


def paint_hair(canvas: Canvas, person: Person, view: View) -> None:
    """Paints the hair or head cover in front of the head."""
    hair = person.hair
    if hair is None:  # bald
        return
    colour = person.fabric if person.style.fabric else person.hair_colour
    outer, inner = curve(view(hair.outer), steps=3), view(hair.inner)
    canvas.tint(_between(outer, inner + canvas.offset(0, 0.12)), 0.8, 0.78, 0.78)  # the shadow on the forehead
    canvas.cover(_between(outer, inner), colour)
    strands = view(hair.strands)
    third = len(strands) // 3
    tones = (0.72, 1.28, 1.5) if sum(colour) < 380 else (0.78, 0.88, 1.12)
    if person.style.fabric:
        tones = (0.88,) * 3
    for some, tone, width in zip(np.split(strands[: 3 * third], 3), tones, (0.03, 0.016, 0.016), strict=True):
        canvas.lines(some, shade(colour, tone), width)
    canvas.lines([outer[24:-24]], shade(colour, 0.8), 0.02)


def paint_glasses(canvas: Canvas, person: Person, points3: Points, view: View, *, dark: bool) -> None:
    """Paints the person's glasses, or sunglasses if `dark`."""
    if person.glasses is None and not dark:
        return
    radius, power, colour = person.glasses or (0.42, 2.6, _PAINT["rims"])
    # A superellipse: 2 is a circle, larger powers are squarer.
    x, y = (np.sign(_RIM) * np.abs(_RIM) ** (2 / power)).T
    ring = np.stack([x * radius * 1.08, y * radius * 0.82, 0 * x], 1).astype(np.float32)
    eyes = points3[IRISES] + np.array([0, 0.04, 0.16], np.float32)
    rims = view(eyes[:, None] + ring)
    for rim in rims:
        if dark:
            canvas.cover(rim, _PAINT["dark_glass"])
            canvas.lines([rim[14:18] * 0.7 + rim.mean(0) * 0.3], _PAINT["reflection"], 0.03)
        else:
            canvas.glaze(rim, _PAINT["glass"], 0.1)
    closed = np.concatenate([rims, rims[:, :1]], 1)
    outwards = np.array([[-1, 1, 1], [1, 1, 1]])
    left, right = eyes - outwards * [radius * 1.05, 0.08, 0]
    bridge = view(np.stack([left, eyes.mean(0) - [0, 0.13, -0.1], right]))
    hinges, ears = eyes + outwards * [radius * 1.07, -0.1, 0], points3[[0, 16]] + outwards * [0.02, -0.1, 0]
    canvas.lines([*closed, curve(bridge), *view(np.stack([hinges, ears], 1))], colour, 0.04)


def _capsule(start: Curve, end: Curve, radius: float) -> Curve:
    """Returns the outline of a thick line with round ends."""
    dx, dy = end - start
    angle = np.arctan2(dy, dx)
    first, last = direction(angle + (_HALF_TURN + np.pi)), direction(angle + _HALF_TURN)
    return np.concatenate([end + radius * last, start + radius * first])


def occlude(canvas: Canvas, person: Person, points: Curve, rng: np.random.Generator) -> None:
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
        for finger, length in enumerate((0.85, 1.0, 0.95, 0.72)):
            turn = aim + side * (finger - 1.2) * 0.2
            spread = turn + side * 0.5 * (finger - 1.5)
            root = palm + direction(spread) * 0.36 * unit
            tip = root + direction(turn) * unit * length
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
