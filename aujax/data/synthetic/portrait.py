"""Paints a person's face on a canvas, back to front."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from aujax.data.synthetic import wrinkles
from aujax.data.synthetic.canvas import Canvas, curve, mix, ribbon, shade
from aujax.data.synthetic.face_shape import CROWN, EARS, IRISES, TEETH
from aujax.data.synthetic.person import Person

View = Callable[[np.ndarray], np.ndarray]
_AGE_LINES = {1: 0.45, 2: 0.35, 4: 0.35, 6: 0.4, 12: 0.5, 15: 0.35}
_CIRCLE = np.linspace(0, 2 * np.pi, 20, endpoint=False)
_TEETH_EDGE = np.array(
    [(-0.36, -0.1, -0.2), (-0.2, -0.03, -0.06), (0, 0, 0), (0.2, -0.03, -0.06), (0.36, -0.1, -0.2)],
    np.float32,
)
_CREASE_TAPER = np.sin(np.linspace(0.25, np.pi - 0.25, 10)).astype(np.float32)
_LASH_TAPER = np.interp(np.linspace(0, 1, 13), [0, 0.5, 1], [1.1, 1.0, 0.5])
_RING = np.stack([np.cos(_CIRCLE), np.sin(_CIRCLE)], 1)
_BROW_TAPER = np.interp(np.linspace(0, 4, 17), np.arange(5), [0.3, 0.7, 1.0, 1.05, 0.85])


def _along(points: Float[np.ndarray, "points 2"], *indices: int, steps: int = 4) -> np.ndarray:
    return curve(points[list(indices)], steps=steps)


def _between(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """The outline between two curves that run the same way."""
    return np.concatenate([upper, lower[::-1]])


def paint_body(canvas: Canvas, person: Person, view: View) -> None:
    """Paint hair behind the head, neck, clothes and ears."""
    hair, fabric = person.hair, person.style.fabric
    cloth = person.fabric if fabric else person.hair_colour
    if hair is not None and hair.back is not None and not fabric:
        canvas.fill(view(hair.back), shade(cloth, 0.72))
    if hair is not None and hair.bun is not None:
        canvas.fill(curve(view(hair.bun), closed=True), shade(cloth, 0.85))
    neck = [
        (-0.66, 0.9, -0.5),
        (-0.68, 1.9, -0.5),
        (-0.8, 2.4, -0.5),
        (0.8, 2.4, -0.5),
        (0.68, 1.9, -0.5),
        (0.66, 0.9, -0.5),
    ]
    canvas.fill(view(np.array(neck, np.float32)), shade(person.skin, 0.8))
    shoulders = [(-3.2, 5, -0.5), (-2.7, 2.75, -0.5), (-1.3, 2.4, -0.5), (-0.72, 2.12, -0.5), (0, 2.45, -0.4)]
    shoulders += [(-x, y, z) for x, y, z in reversed(shoulders[:-1])]
    canvas.fill(curve(view(np.array(shoulders, np.float32))), person.clothes)
    if hair is not None and hair.back is not None and fabric:
        canvas.fill(view(hair.back), shade(cloth, 0.8))


def paint_head(canvas: Canvas, person: Person, points: Float[np.ndarray, "points 2"]) -> None:
    """Paint ears and bare skin, and tell the light about the head's relief."""
    for ear in np.split(points[EARS], 2) if person.style.side < 0.5 else ():
        canvas.fill(curve(ear, closed=True), shade(person.skin, 0.88))
        canvas.fill(curve(ear.mean(0) + 0.55 * (ear - ear.mean(0)), closed=True), shade(person.skin, 0.74))
    outline = curve(np.concatenate([points[:17], points[CROWN][::-1]]), closed=True)
    canvas.tint(points[:17] + np.array([0.0, 0.16]) * canvas.unit, (0.66, 0.62, 0.62))
    canvas.tint(outline, (1.0, 1.0, 1.0))
    canvas.fill(outline, person.skin)
    canvas.raise_head(outline)
    for side in ((36, 37, 38, 39, 40, 41), (42, 43, 44, 45, 46, 47)):
        centre = points[list(side)].mean(0)
        canvas.raise_disc(centre, 0.3, -1.1)
    for brow in (17, 22):
        canvas.raise_polygon(ribbon(points[brow : brow + 5], np.full(5, 0.16 * canvas.unit)), 0.7)
    canvas.raise_polygon(points[[27, 31, 33, 35]], 2.4)
    canvas.raise_disc(points[30], 0.13, 3.6)
    for wing in (31, 35):
        canvas.raise_disc(points[wing] - [0, 0.04 * canvas.unit], 0.09, 2.0)
    canvas.raise_polygon(points[48:60], 1.1)
    canvas.raise_disc(points[8] * 0.7 + points[57] * 0.3, 0.22, 0.8)


def paint_skin(canvas: Canvas, person: Person, points: Float[np.ndarray, "points 2"]) -> None:
    """Paint what lies in the skin: blush, shadow of sockets and nose, freckles, stubble."""
    unit = canvas.unit
    for cheek, x in ((41, -0.12), (46, 0.12)):
        ring = _RING * [0.26 * unit, 0.2 * unit]
        canvas.tint(points[cheek] + np.array([x, 0.36]) * unit + ring, (1.03, 0.94, 0.93))
    for eye in ((36, 37, 38, 39, 40, 41), (42, 43, 44, 45, 46, 47)):
        eye = points[list(eye)]
        canvas.tint(eye.mean(0) + 1.35 * (eye - eye.mean(0)), (0.86, 0.82, 0.82))
    canvas.tint(
        points[[31, 32, 33, 34, 35, 33]] + np.array([[0, 0], [0, 0.1], [0, 0.12], [0, 0.1], [0, 0], [0, 0]]) * unit,
        (0.8, 0.76, 0.76),
    )
    canvas.tint(
        points[[59, 58, 57, 56, 55]] + np.array([[0, 0.02], [0, 0.1], [0, 0.12], [0, 0.1], [0, 0.02]]) * unit,
        (0.86, 0.84, 0.84),
    )
    if person.freckles.any():
        centre = points[29] + np.array([0, 0.02]) * unit
        for spot in centre + person.freckles * unit:
            canvas.disc(spot, 0.013, shade(person.skin, 0.82))
    if person.beard in ("stubble", "full", "goatee"):
        gain = mix((1.0, 1.0, 1.0), (0.62, 0.64, 0.68), 0.9 if person.beard == "stubble" else 0.6)
        lower = points[3:14] if person.beard != "goatee" else points[6:11]
        canvas.tint(np.concatenate([lower, points[[54, 35, 33, 31, 48]]]), gain)


def paint_wrinkles(
    canvas: Canvas, person: Person, points3: Float[np.ndarray, "points 3"], view: View, intensities: Mapping[int, float]
) -> None:
    """Carve the creases and swell the bulges of the active action units, and the lines of age."""
    active, old = 0.55 + 0.6 * person.age, max(0.0, person.age - 0.3)
    strength = np.array(
        [intensities.get(au, 0.0) * active + _AGE_LINES.get(au, 0.0) * old for au in wrinkles.CREASE_AUS]
    )
    chosen = strength > 0.08
    if chosen.any():
        lines = curve(view(wrinkles.crease_points(points3)[chosen]), steps=3)
        widths = wrinkles.CREASE_WIDTHS[chosen, None] * canvas.unit
        depths = wrinkles.CREASE_DEPTHS[chosen] * np.minimum(strength[chosen], 1.0)
        canvas.creases(ribbon(lines + [0.0, 0.6] * widths[..., None], widths * _CREASE_TAPER), -0.35 * depths)
        canvas.creases(ribbon(lines, widths * _CREASE_TAPER), depths)
    bulges = view(wrinkles.bulge_points(points3))
    for au, row, centre in zip(wrinkles.BULGE_AUS, wrinkles.BULGE_ROWS, bulges, strict=True):
        if intensities.get(au, 0.0) > 0.1:
            canvas.raise_disc(centre, row.radius, row.height * intensities[au])


def paint_eye(
    canvas: Canvas, person: Person, points: Float[np.ndarray, "points 2"], side: int, gaze: np.ndarray
) -> None:
    """Paint one eye (`side` 0 on the image's left, 1 on its right): ball, iris, lids and lashes."""
    first = 36 + 6 * side
    upper = _along(points, first, first + 1, first + 2, first + 3)
    lower = _along(points, first, first + 5, first + 4, first + 3)
    iris = points[IRISES][side] + gaze * canvas.unit
    outer = -1.0 if side == 0 else 1.0

    def ball(paper: Canvas) -> None:
        paper.fill(_between(upper, lower), (236, 230, 224))
        paper.disc(iris, 0.112, shade(person.iris, 0.5))
        paper.disc(iris, 0.095, person.iris)
        paper.disc(iris, 0.047, (14, 11, 10))
        paper.lines([upper + np.array([0, 0.02]) * canvas.unit], mix(person.skin, (70, 50, 50), 0.6), 0.035)
        paper.disc(iris + np.array([-0.035, -0.04]) * canvas.unit, 0.022, (250, 250, 250))

    canvas.clipped(_between(upper, lower), ball)
    dark = mix(shade(person.skin, 0.3), (20, 14, 14), 0.6)
    width = (_LASH_TAPER if side == 0 else _LASH_TAPER[::-1]) * (person.lashes * canvas.unit)
    canvas.fill(ribbon(upper, width), dark)
    corner = points[first if side == 0 else first + 3]
    if person.lashes > 0.04:
        canvas.lines([np.stack([corner, corner + np.array([outer * 0.06, -0.04]) * canvas.unit])], dark, 0.02)
    canvas.lines([lower[2:-2]], mix(person.skin, dark, 0.35), 0.012)
    if person.lid_crease:
        fold = upper + np.array([0, -0.065]) * canvas.unit
        canvas.lines([fold[1:-1]], mix(person.skin, dark, 0.42 * person.lid_crease), 0.016)


def paint_brow(canvas: Canvas, person: Person, points: Float[np.ndarray, "points 2"], side: int) -> None:
    """Paint one eyebrow along its five landmarks."""
    brow = points[17:22] if side == 0 else points[22:27]
    taper = _BROW_TAPER if side == 0 else _BROW_TAPER[::-1]
    line = curve(brow, steps=4)
    width = taper * person.brow_width * canvas.unit
    colour = mix(shade(person.hair_colour, 0.8), person.skin, 0.22)
    canvas.fill(ribbon(line, width), colour)
    half = np.stack([np.zeros_like(width), 0.5 * width], 1)
    lean = np.array([-0.04 if side == 0 else 0.04, 0.0]) * canvas.unit
    hairs = np.stack([line + half, line - 1.15 * half + lean], 1)
    canvas.lines(hairs[1:-1], shade(colour, 0.8), 0.012)


def paint_nose(canvas: Canvas, person: Person, points: Float[np.ndarray, "points 2"]) -> None:
    """Paint nostrils, wings and the light on the tip."""
    unit = canvas.unit
    down, dark = np.array([0.0, unit]), mix(person.skin, (50, 20, 18), 0.72)
    for wing, mid, base, out in ((31, 32, 33, -1.0), (35, 34, 33, 1.0)):
        a, b, c = points[wing], points[mid], points[base]
        hole = np.stack([a * 0.65 + b * 0.35, b - 0.035 * down, b * 0.55 + c * 0.45, b + 0.015 * down])
        canvas.fill(curve(hole, closed=True), dark)
        edge = np.stack(
            [
                a + np.array([0.0, -0.15]) * unit,
                a + np.array([0.055 * out, -0.06]) * unit,
                a + np.array([0.03 * out, 0.01]) * unit,
                a * 0.5 + b * 0.5,
            ]
        )
        canvas.lines([curve(edge)], mix(person.skin, dark, 0.4), 0.018)
    canvas.creases((points[30] + _RING * (0.05 * unit))[None], np.array([-0.13]))


def paint_mouth(
    canvas: Canvas,
    person: Person,
    points: Float[np.ndarray, "points 2"],
    points3: Float[np.ndarray, "points 3"],
    view: View,
    intensities: Mapping[int, float],
) -> None:
    """Paint lips, and what an open mouth shows: the dark, teeth and tongue."""
    unit = canvas.unit
    top, bottom = _along(points, *range(48, 55)), _along(points, 48, 59, 58, 57, 56, 55, 54)
    inner_top, inner_bottom = _along(points, *range(60, 65)), _along(points, 60, 67, 66, 65, 64)
    canvas.fill(_between(top, bottom), shade(person.lips, 0.9))
    canvas.fill(np.concatenate([inner_bottom, bottom[::-1]]), shade(person.lips, 1.06))
    shine = points[[58, 57, 56]] * 0.5 + points[[67, 66, 65]] * 0.5
    canvas.creases(ribbon(curve(shine), np.full(11, 0.03 * unit))[None], np.array([-0.16]))
    edge = view(points3[TEETH] + _TEETH_EDGE)
    roof = edge - np.array([0, 0.5]) * unit
    gap = float(points[66, 1] - points[62, 1]) / unit

    def inside(paper: Canvas) -> None:
        paper.fill(_between(inner_top, inner_bottom), (44, 14, 16))
        paper.disc(points[66] + np.array([0.0, 0.06]) * unit, 0.2, (150, 62, 64))
        if intensities.keys() & {16, 20}:
            floor = curve(view(points3[[60, 67, 66, 65, 64]] + np.array([0, -0.045, 0], np.float32)))
            paper.fill(_between(floor, floor + np.array([0, 0.4]) * unit), (214, 206, 194))
        paper.fill(_between(curve(roof), curve(edge)), (240, 235, 226))
        if gap > 0.05:
            places = np.array([-0.26, -0.16, -0.08, 0.0, 0.08, 0.16, 0.26], np.float32)
            bars = points3[TEETH] + np.stack([places, 0 * places - 0.02, -0.9 * places**2], 1)
            ticks = view(bars)
            paper.lines(np.stack([ticks, ticks - [0, 0.2 * unit]], 1), (206, 198, 188), 0.008)

    if gap > 0.02:
        canvas.clipped(_between(inner_top, inner_bottom), inside)
    line = mix(person.lips, (30, 8, 10), 0.75)
    canvas.lines([inner_top, inner_bottom] if gap > 0.02 else [(inner_top + inner_bottom) / 2], line, 0.018)
    for corner, inner in ((48, 60), (54, 64)):
        canvas.lines([points[[corner, inner]]], line, 0.022)
