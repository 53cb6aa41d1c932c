"""Paints what a person wears over the face: facial hair, hair, head covers and glasses."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from aujax.data.synthetic.canvas import Canvas, curve, mix, ribbon, shade
from aujax.data.synthetic.face_shape import IRISES
from aujax.data.synthetic.person import Person

View = Callable[[np.ndarray], np.ndarray]
_RIM = np.linspace(0, 2 * np.pi, 24, endpoint=False)


def paint_beard(canvas: Canvas, person: Person, points: Float[np.ndarray, "points 2"]) -> None:
    """Paint a moustache, goatee or full beard (before the mouth, which lies in it)."""
    unit, colour = canvas.unit, mix(shade(person.hair_colour, 0.85), person.skin, 0.15)
    if person.beard == "full":
        jaw = points[2:15] + np.array([0, 0.07]) * unit
        cheek = np.array([[0.78, 0.1], [0.4, 0.05]]) * unit
        rim = [
            points[54] + cheek[0] * [0.6, -1],
            points[54] + cheek[1] * [0.1, -2.2],
            points[33] + [0, 0.1 * unit],
        ]
        rim += [points[48] + cheek[1] * [-0.1, -2.2], points[48] + cheek[0] * [-0.6, -1]]
        outline = curve(np.concatenate([jaw, np.array(rim)]), closed=True)
        canvas.clipped(outline, lambda paper: paper.fill(outline, colour), 0.88)
        chin = curve(points[4:13], steps=3)
        canvas.lines(np.stack([chin, chin + (points[57] - chin) * 0.22], 1), shade(colour, 1.25), 0.012)
    elif person.beard == "goatee":
        low = points[[59, 58, 57, 56, 55]] + np.array([0, 0.06]) * unit
        outline = curve(np.concatenate([low, points[[9, 8, 7]] * 0.97 + points[[57, 57, 57]] * 0.03]), closed=True)
        canvas.clipped(outline, lambda paper: paper.fill(outline, colour), 0.85)
    if person.beard in ("full", "goatee", "moustache"):
        line = (
            points[[48, 49, 50, 51, 52, 53, 54]]
            + np.array([[-0.03, 0.02], [0, -0.05], [0, -0.09], [0, -0.08], [0, -0.09], [0, -0.05], [0.03, 0.02]]) * unit
        )
        line = curve(line, steps=3)
        width = (0.05 + 0.1 * np.sin(np.linspace(0, np.pi, len(line)))) * unit
        outline = ribbon(line, width)
        canvas.clipped(outline, lambda paper: paper.fill(outline, colour), 0.9)
        half = np.stack([np.zeros_like(width), 0.4 * width], 1)
        canvas.lines(np.stack([line - half, line + half], 1), shade(colour, 0.78), 0.01)


def paint_hair(canvas: Canvas, person: Person, view: View) -> None:
    """Paint the hair or head cover in front of the head."""
    hair = person.hair
    if hair is None:
        return
    colour = person.fabric if person.style.fabric else person.hair_colour
    outer, inner = curve(view(hair.outer), steps=3), view(hair.inner)
    shadow = inner[::-1] + np.array([0, 0.12]) * canvas.unit
    canvas.tint(np.concatenate([outer, shadow]), (0.8, 0.78, 0.78))
    canvas.cover(np.concatenate([outer, inner[::-1]]), colour)
    strands = view(hair.strands)
    third = len(strands) // 3
    tones = (0.72, 1.28, 1.5) if sum(colour) < 380 else (0.78, 0.88, 1.12)
    for number, tone in enumerate(tones):
        some = strands[number * third : (number + 1) * third]
        canvas.lines(some, shade(colour, tone if not person.style.fabric else 0.88), 0.03 if number == 0 else 0.016)
    canvas.lines([outer[24:-24]], shade(colour, 0.8), 0.02)


def paint_glasses(
    canvas: Canvas, person: Person, points3: Float[np.ndarray, "points 3"], view: View, *, dark: bool
) -> None:
    """Paint the person's glasses, or sunglasses if `dark`."""
    if person.glasses is None and not dark:
        return
    radius, power, colour = person.glasses or (0.42, 2.6, (26, 24, 26))
    c, s = np.cos(_RIM), np.sin(_RIM)
    x, y = np.sign(c) * np.abs(c) ** (2 / power), np.sign(s) * np.abs(s) ** (2 / power)
    ring = np.stack([x * radius * 1.08, y * radius * 0.82, 0 * x], 1).astype(np.float32)
    eyes = points3[IRISES] + np.array([0, 0.04, 0.16], np.float32)
    rims = [view(eye + ring) for eye in eyes]
    for rim in rims:
        if dark:
            canvas.cover(rim, (30, 26, 28))
            canvas.lines([rim[14:18] * 0.7 + rim.mean(0) * 0.3], (120, 122, 130), 0.03)
        else:
            canvas.clipped(rim, lambda paper, rim=rim: paper.fill(rim, (225, 232, 236)), 0.1)
    closed = [np.concatenate([rim, rim[:1]]) for rim in rims]
    bridge = view(
        np.stack(
            [
                eyes[0] + [radius * 1.05, -0.08, 0],
                (eyes[0] + eyes[1]) / 2 + [0, -0.13, 0.1],
                eyes[1] + [-radius * 1.05, -0.08, 0],
            ]
        )
    )
    arms = [
        view(np.stack([eye + np.array([out * radius * 1.07, -0.1, 0]), points3[ear] + [out * 0.02, -0.1, 0]]))
        for eye, out, ear in ((eyes[0], -1, 0), (eyes[1], 1, 16))
    ]
    canvas.lines([*closed, curve(bridge), *arms], colour, 0.04)
