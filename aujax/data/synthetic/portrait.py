"""Paints a person on a canvas, back to front: body, head, skin, features, hair and glasses."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from aujax.data.sources import words
from aujax.data.synthetic.canvas import Canvas, curve, direction, mix, ribbon, shade, table
from aujax.data.synthetic.person import BULGES, CREASES, CROWN, EARS, IRISES, TEETH, Person, Points, View

Points2 = Float[np.ndarray, "points 2"]  # the projected points

# How strongly the creases of these AUs show in an old face at rest.
_AGE_LINES = {1: 0.45, 2: 0.35, 4: 0.35, 6: 0.4, 12: 0.5, 15: 0.35}
_RING = direction(np.linspace(0, 2 * np.pi, 20, endpoint=False))
_RIM = direction(np.linspace(0, 2 * np.pi, 24, endpoint=False))
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


def _between(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Returns the outline between two curves in the same direction."""
    return np.concatenate([upper, lower[::-1]])


def _enlarged(points: np.ndarray, factor: float) -> np.ndarray:
    return points.mean(0) + factor * (points - points.mean(0))


def paint_body(canvas: Canvas, person: Person, view: View) -> None:
    """Paints hair behind the head, neck and clothes."""
    hair, fabric = person.hair, person.style.fabric
    if hair and hair.back is not None and not fabric:
        canvas.fill(view(hair.back), shade(person.hair_colour, 0.72))
    if hair and hair.bun is not None:
        canvas.fill(curve(view(hair.bun), closed=True), shade(person.hair_colour, 0.85))
    canvas.fill(view(_NECK), shade(person.skin, 0.8))
    canvas.fill(curve(view(_SHOULDERS)), person.clothes)
    if hair and hair.back is not None and fabric:
        canvas.fill(view(hair.back), shade(person.fabric, 0.8))


def paint_head(canvas: Canvas, person: Person, points: Points2) -> None:
    """Paints ears and skin, and sets the relief of the head."""
    unit = canvas.unit
    for ear in np.split(points[EARS], 2) if person.style.side < 0.5 else ():
        canvas.fill(curve(ear, closed=True), shade(person.skin, 0.88))
        canvas.fill(curve(_enlarged(ear, 0.55), closed=True), shade(person.skin, 0.74))
    outline = curve(np.concatenate([points[:17], points[CROWN][::-1]]), closed=True)
    canvas.tint(points[:17] + canvas.offset(0.0, 0.16), 0.66, 0.62, 0.62)  # the shadow on the neck
    canvas.tint(outline, 1.0, 1.0, 1.0)
    canvas.fill(outline, person.skin)
    canvas.fill(outline, 1.0, canvas.head)
    eyes = np.split(points[36:48], 2)
    for eye in eyes:
        canvas.disc(eye.mean(0), 0.3, -1.1, canvas.relief)
    for brow in np.split(points[17:27], 2):
        canvas.fill(ribbon(brow, np.full(5, 0.16 * unit)), 0.7, canvas.relief)
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
    canvas.tint(points[[59, 58, 57, 56, 55]] + _BELOW_LIP * unit, 0.86, 0.84, 0.84)
    if person.freckles.any():
        centre = points[29] + canvas.offset(0, 0.02)
        for freckle in centre + person.freckles * unit:
            canvas.disc(freckle, 0.013, shade(person.skin, 0.82))
    if person.beard in ("stubble", "full", "goatee"):
        gain = mix(np.ones(3), _BEARD_GAIN, 0.9 if person.beard == "stubble" else 0.6)
        lower = points[3:14] if person.beard != "goatee" else points[6:11]
        canvas.tint(np.concatenate([lower, points[[54, 35, 33, 31, 48]]]), *gain)


def _anchored(points3: Points, anchors: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Returns the 3-D points at `offsets` (rows, k, 2) from the landmarks `anchors` (rows) of the face."""
    return points3[anchors.astype(int), None] + np.pad(offsets, [(0, 0), (0, 0), (0, 1)]).astype(np.float32)


def paint_wrinkles(
    canvas: Canvas, person: Person, points3: Points, view: View, intensities: Mapping[int, float]
) -> None:
    """Paints the creases and bulges of the active action units, and the lines of age."""
    active, old = 0.55 + 0.6 * person.age, max(0.0, person.age - 0.3)
    strength = np.array([intensities.get(au, 0.0) * active + _AGE_LINES.get(au, 0.0) * old for au in CREASES[:, 0]])
    chosen = strength > 0.08
    rows = CREASES[chosen]
    lines = curve(view(_anchored(points3, rows[:, 1], rows[:, 2:10].reshape(-1, 4, 2))), steps=3)
    widths = rows[:, 10, None] * canvas.unit
    depths = rows[:, 11] * np.minimum(strength[chosen], 1.0)
    # Below each dark line the skin is lighter: it catches the light from above.
    canvas.creases(ribbon(lines + [0.0, 0.6] * widths[..., None], widths * _CREASE_TAPER), -0.35 * depths)
    canvas.creases(ribbon(lines, widths * _CREASE_TAPER), depths)
    centres = view(_anchored(points3, BULGES[:, 1], BULGES[:, None, 2:4])[:, 0])
    for (au, *_, radius, height), centre in zip(BULGES, centres, strict=True):
        if intensities.get(au, 0.0) > 0.1:
            canvas.disc(centre, radius, height * intensities[au], canvas.relief)


def paint_eye(canvas: Canvas, person: Person, points: Points2, side: int, gaze: np.ndarray) -> None:
    """Paints one eye (`side` 0 on the image's left, 1 on its right): ball, iris, lids and lashes."""
    first = 36 + 6 * side
    upper = curve(points[first : first + 4], steps=4)
    lower = curve(points[[first, first + 5, first + 4, first + 3]], steps=4)
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
        corner, outer = (points[36], -1.0) if side == 0 else (points[45], 1.0)
        canvas.lines([np.stack([corner, corner + canvas.offset(outer * 0.06, -0.04)])], dark, 0.02)
    canvas.lines([lower[2:-2]], mix(person.skin, dark, 0.35), 0.012)
    if person.lid_crease:
        fold = upper + canvas.offset(0, -0.065)
        canvas.lines([fold[1:-1]], mix(person.skin, dark, 0.42 * person.lid_crease), 0.016)


def paint_brow(canvas: Canvas, person: Person, points: Points2, side: int) -> None:
    """Paints one eyebrow along its five landmarks."""
    brow = np.split(points[17:27], 2)[side]
    taper = _BROW_TAPER if side == 0 else _BROW_TAPER[::-1]
    line = curve(brow, steps=4)
    width = taper * person.brow_width * canvas.unit
    colour = mix(shade(person.hair_colour, 0.8), person.skin, 0.22)
    canvas.fill(ribbon(line, width), colour)
    half = np.stack([np.zeros_like(width), 0.5 * width], 1)
    lean = canvas.offset(-0.04 if side == 0 else 0.04, 0.0)
    hairs = np.stack([line + half, line - 1.15 * half + lean], 1)
    canvas.lines(hairs[1:-1], shade(colour, 0.8), 0.012)


def paint_nose(canvas: Canvas, person: Person, points: Points2) -> None:
    """Paints nostrils, wings and the light on the tip."""
    unit = canvas.unit
    down, dark = canvas.offset(0.0, 1.0), mix(person.skin, _PAINT["nostril"], 0.72)
    for wing, mid, out in ((31, 32, -1.0), (35, 34, 1.0)):
        a, b, c = points[wing], points[mid], points[33]
        hole = np.stack([a * 0.65 + b * 0.35, b - 0.035 * down, b * 0.55 + c * 0.45, b + 0.015 * down])
        canvas.fill(curve(hole, closed=True), dark)
        edge = a + canvas.offset((0.0, -0.15), (0.055 * out, -0.06), (0.03 * out, 0.01))
        canvas.lines([curve(np.concatenate([edge, [a * 0.5 + b * 0.5]]))], mix(person.skin, dark, 0.4), 0.018)
    canvas.creases([points[30] + _RING * (0.05 * unit)], [-0.13])


def paint_mouth(
    canvas: Canvas,
    person: Person,
    points: Points2,
    points3: Points,
    view: View,
    intensities: Mapping[int, float],
) -> None:
    """Paints lips, and what an open mouth shows: the dark, teeth and tongue."""
    unit = canvas.unit
    bottom = curve(points[[48, 59, 58, 57, 56, 55, 54]], steps=4)
    inner_top = curve(points[60:65], steps=4)
    inner_bottom = curve(points[[60, 67, 66, 65, 64]], steps=4)
    canvas.fill(_between(curve(points[48:55], steps=4), bottom), shade(person.lips, 0.9))
    canvas.fill(_between(inner_bottom, bottom), shade(person.lips, 1.06))
    shine = points[[58, 57, 56]] * 0.5 + points[[67, 66, 65]] * 0.5
    canvas.creases([ribbon(curve(shine), np.full(11, 0.03 * unit))], [-0.16])
    gap = float(points[66, 1] - points[62, 1]) / unit

    if gap > 0.02:
        with canvas.clipped(_between(inner_top, inner_bottom), _PAINT["mouth"]):
            canvas.disc(points[66] + canvas.offset(0.0, 0.06), 0.2, _PAINT["tongue"])
            if intensities.keys() & {16, 20}:  # the AUs that bare the lower teeth
                floor = curve(view(points3[[60, 67, 66, 65, 64]] + np.array([0, -0.045, 0], np.float32)))
                canvas.fill(_between(floor, floor + canvas.offset(0, 0.4)), _PAINT["lower_teeth"])
            edge = view(points3[TEETH] + _TEETH_EDGE)
            canvas.fill(_between(curve(edge - canvas.offset(0, 0.5)), curve(edge)), _PAINT["upper_teeth"])
            if gap > 0.05:  # lines between the teeth
                x = table("-0.26 -0.16 -0.08 0 0.08 0.16 0.26")[0].astype(np.float32)
                ticks = view(points3[TEETH] + np.stack([x, 0 * x - 0.02, -0.9 * x**2], 1))
                canvas.lines(np.stack([ticks, ticks - [0, 0.2 * unit]], 1), _PAINT["teeth_lines"], 0.008)
    line = mix(person.lips, _PAINT["lip_line"], 0.75)
    canvas.lines([inner_top, inner_bottom] if gap > 0.02 else [(inner_top + inner_bottom) / 2], line, 0.018)
    canvas.lines(points[[[48, 60], [54, 64]]], line, 0.022)  # the mouth corners


def paint_beard(canvas: Canvas, person: Person, points: Points2) -> None:
    """Paints a moustache, goatee or full beard (before the mouth, which lies in it)."""
    unit, colour = canvas.unit, mix(shade(person.hair_colour, 0.85), person.skin, 0.15)
    if person.beard == "full":
        jaw = points[2:15] + canvas.offset(0, 0.07)
        rim = points[[54, 54, 33, 48, 48]] + _BEARD_RIM * unit
        canvas.glaze(curve(np.concatenate([jaw, rim]), closed=True), colour, 0.88)
        chin = curve(points[4:13], steps=3)
        canvas.lines(np.stack([chin, chin + (points[57] - chin) * 0.22], 1), shade(colour, 1.25), 0.012)
    elif person.beard == "goatee":
        low = points[[59, 58, 57, 56, 55]] + canvas.offset(0, 0.06)
        chin = points[[9, 8, 7]] * 0.97 + points[57] * 0.03
        canvas.glaze(curve(np.concatenate([low, chin]), closed=True), colour, 0.85)
    if person.beard in ("full", "goatee", "moustache"):
        line = curve(points[48:55] + _MOUSTACHE * unit, steps=3)
        width = (0.05 + 0.1 * np.sin(np.linspace(0, np.pi, len(line)))) * unit
        canvas.glaze(ribbon(line, width), colour, 0.9)
        half = np.stack([np.zeros_like(width), 0.4 * width], 1)
        canvas.lines(np.stack([line - half, line + half], 1), shade(colour, 0.78), 0.01)


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
    for number, tone in enumerate(tones):
        some = strands[number * third : (number + 1) * third]
        canvas.lines(some, shade(colour, tone if not person.style.fabric else 0.88), 0.03 if number == 0 else 0.016)
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
    middle = (eyes[0] + eyes[1]) / 2 + [0, -0.13, 0.1]
    inner = np.array([radius * 1.05, -0.08, 0])
    bridge = view(np.stack([eyes[0] + inner, middle, eyes[1] + inner * [-1, 1, 1]]))
    arms = []
    for eye, out, ear in ((eyes[0], -1, 0), (eyes[1], 1, 16)):
        ends = [eye + np.array([out * radius * 1.07, -0.1, 0]), points3[ear] + [out * 0.02, -0.1, 0]]
        arms.append(view(np.stack(ends)))
    canvas.lines([*closed, curve(bridge), *arms], colour, 0.04)
