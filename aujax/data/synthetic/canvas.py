"""A canvas for drawn faces: anti-aliased shapes, soft gains over them, and light from a relief.

Points given to a canvas are (x, y) pixels of the finished image, pixel centres at whole numbers. Colours are
arrays of red, green and blue from 0 to 255. Small images are painted at twice their size. Three layers lie over the
paint and are multiplied onto it in `Canvas.finish`: `fine` (wrinkles), `broad` (soft tints) and `relief` (heights,
which the light turns into shading; `head` is the dome they lie on). All but `fine` have half the resolution.
"""

import contextlib
import functools
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from jaxtyping import Float

from aujax.data.images import Pixels

Colour = Float[np.ndarray, "3"]
# OpenCV takes points with a fraction as integers: a pixel has _ONE steps.
_SUBPIXEL_BITS = 4
_ONE = 1 << _SUBPIXEL_BITS
_NEUTRAL = 128  # the value of a layer of gains that changes nothing


def table(text: str) -> np.ndarray:
    """Returns the numbers of a table in text, a row per line."""
    return np.loadtxt(text.splitlines(), ndmin=2)


@functools.lru_cache(maxsize=128)
def _spline_matrix(controls: int, steps: int, closed: bool) -> np.ndarray:
    """Returns the matrix from control points to points of the Catmull-Rom curve through them."""
    t = np.linspace(0.0, 1.0, steps, endpoint=False)
    basis = 0.5 * np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], 1)
    # Each row weights the four control points around its piece of the curve; at an open end the last one is repeated.
    segments = controls if closed else controls - 1
    matrix = np.zeros((segments * steps + (not closed), controls))
    for segment in range(segments):
        for tap in range(4):
            point = segment + tap - 1
            point = point % controls if closed else min(max(point, 0), controls - 1)
            matrix[segment * steps : (segment + 1) * steps, point] += basis[:, tap]
    if not closed:
        matrix[-1, -1] = 1.0
    return matrix.astype(np.float32)


def curve(points: np.ndarray, *, steps: int = 5, closed: bool = False) -> np.ndarray:
    """Returns the smooth curve through `points` (..., controls, d): `steps` points from each of them to the next."""
    return _spline_matrix(points.shape[-2], steps, closed) @ points


def ribbon(points: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Returns the outline of a stroke along `points` (..., n, 2) that is `widths` (..., n) pixels wide there."""
    # The direction at a point is that from its predecessor to its successor; "clip" repeats the ends.
    rows = np.arange(points.shape[-2])
    directions = points.take(rows + 1, -2, mode="clip") - points.take(rows - 1, -2, mode="clip")
    x, y = np.moveaxis(directions, -1, 0)
    half = widths / (2 * np.sqrt(x * x + y * y + 1e-6))
    normal = np.stack([-y * half, x * half], -1)
    return np.concatenate([points + normal, (points - normal)[..., ::-1, :]], -2)


def direction(angle: np.ndarray | float) -> np.ndarray:
    """Returns the unit vectors (..., 2) of angles, clockwise from the direction of x."""
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def shade(colour: Colour, factor: float) -> Colour:
    """Returns the colour made darker (factor < 1) or lighter (factor > 1)."""
    return np.clip(colour * factor, 0.0, 255.0)


def mix(first: Colour, second: Colour, weight: float) -> Colour:
    """Returns the colour `weight` of the way from `first` to `second`."""
    return first + (second - first) * weight


class Canvas:
    """An image of `size` x `size` pixels in the making; the inter-ocular distance is `unit` pixels."""

    def __init__(self, size: int, unit: float):
        self.size, self.unit = size, unit
        self.zoom = 2 if size < 192 else 1
        self.corner = np.zeros(2, np.int32)  # where the paint begins, in steps; not 0 inside `clipped`
        self.paint = np.empty((size * self.zoom, size * self.zoom, 3), np.uint8)
        self.fine = np.full((size, size), _NEUTRAL, np.uint8)
        coarse = (size + 1) // 2
        self.broad = np.full((coarse, coarse, 3), _NEUTRAL, np.uint8)
        self.relief = np.zeros((coarse, coarse), np.float32)
        self.head = np.zeros((coarse, coarse), np.float32)

    def offset(self, *units) -> np.ndarray:
        """Returns an offset (dx, dy), or several, in pixels, given in inter-ocular units."""
        return np.array(units) * self.unit

    def _steps(self, points: np.ndarray, zoom: float) -> np.ndarray:
        """Returns the points in steps of the pixels of a layer with `zoom` pixels per pixel of the image."""
        return np.rint(points * (_ONE * zoom) + (zoom - 1) * _ONE / 2).astype(np.int32)

    def _painted(self, points: np.ndarray) -> np.ndarray:
        """Returns the points in steps of the paint's pixels."""
        return self._steps(points, self.zoom) - self.corner

    def fill_layer(self, layer: np.ndarray, outline: np.ndarray, value) -> None:
        """Sets one of the canvas's layers to a value inside a polygon."""
        line = cv2.LINE_AA if layer is self.fine else cv2.LINE_8  # the other layers are blurred later
        cv2.fillPoly(layer, [self._steps(outline, layer.shape[0] / self.size)], value, line, _SUBPIXEL_BITS)

    def fill(self, outline: np.ndarray, colour: Colour) -> None:
        """Fills a polygon."""
        cv2.fillPoly(self.paint, [self._painted(outline)], colour.tolist(), cv2.LINE_AA, _SUBPIXEL_BITS)

    def lines(self, curves: Iterable[np.ndarray], colour: Colour, width: float) -> None:
        """Draws curves `width` inter-ocular units wide (never thinner than one painted pixel)."""
        pixels = max(1, round(width * self.unit * self.zoom))
        fixed = [self._painted(line) for line in curves]
        cv2.polylines(self.paint, fixed, False, colour.tolist(), pixels, cv2.LINE_AA, _SUBPIXEL_BITS)

    def disc(self, centre: np.ndarray, radius: float, colour: Colour) -> None:
        """Fills a circle of `radius` inter-ocular units."""
        fixed = round(radius * self.unit * self.zoom * _ONE)
        cv2.circle(
            self.paint, self._painted(centre).tolist(), fixed, colour.tolist(), cv2.FILLED, cv2.LINE_AA, _SUBPIXEL_BITS
        )

    def cover(self, outline: np.ndarray, colour: Colour) -> None:
        """Fills a polygon that lies in front of the face: it hides wrinkles and tints too."""
        self.fill(outline, colour)
        self.fill_layer(self.fine, outline, _NEUTRAL)
        self.fill_layer(self.broad, outline, (_NEUTRAL,) * 3)

    @contextlib.contextmanager
    def clipped(self, outline: np.ndarray, opacity: float = 1.0) -> Iterator[None]:
        """Blends what the `with` block paints inside `outline` over the paint, at `opacity`."""
        whole, steps = self.paint, self._painted(outline)
        # Only the outline's bounding box is copied and blended, with a margin for anti-aliasing. It is a part of the
        # faces: OpenCV's lines differ by a level where they cross the edge of what they are drawn on.
        side = whole.shape[0]
        x0, y0 = np.clip((steps.min(0) >> _SUBPIXEL_BITS) - 1, 0, side - 1).tolist()
        x1, y1 = np.clip((steps.max(0) >> _SUBPIXEL_BITS) + 3, 1, side).tolist()
        below = whole[y0:y1, x0:x1]
        self.paint = below.copy()
        self.corner[:] = x0 * _ONE, y0 * _ONE
        yield
        mask = np.zeros(below.shape[:2], np.uint8)
        cv2.fillPoly(mask, [self._painted(outline)], round(255 * opacity), cv2.LINE_AA, _SUBPIXEL_BITS)
        weight = mask.astype(np.float32) * (1 / 255)
        below[...] = cv2.blendLinear(self.paint, below, weight, 1.0 - weight)
        self.paint = whole
        self.corner[:] = 0

    def glaze(self, outline: np.ndarray, colour: Colour, opacity: float) -> None:
        """Fills a polygon at `opacity`."""
        with self.clipped(outline, opacity):
            self.fill(outline, colour)

    def creases(self, outlines: Iterable[np.ndarray], depths: Iterable[float]) -> None:
        """Darkens (depth > 0) or lightens thin shapes, such as wrinkles, one after the other."""
        for outline, depth in zip(outlines, depths, strict=True):
            self.fill_layer(self.fine, outline, min(max(_NEUTRAL * (1.0 - depth), 0), 255))

    def tint(self, outline: np.ndarray, *gains: float) -> None:
        """Multiplies the paint under a polygon by gains for red, green and blue, with soft edges."""
        self.fill_layer(self.broad, outline, np.minimum(_NEUTRAL * np.array(gains), 255.0))

    def raise_disc(self, centre: np.ndarray, radius: float, height: float) -> None:
        """Sets the relief under a circle of `radius` inter-ocular units to a height (in tenths of such a unit)."""
        zoom = self.relief.shape[0] / self.size
        fixed = round(radius * self.unit * zoom * _ONE)
        cv2.circle(
            self.relief, self._steps(centre, zoom).tolist(), fixed, height, cv2.FILLED, cv2.LINE_8, _SUBPIXEL_BITS
        )

    def finish(self, light: np.ndarray, ambient: float, colour: Colour) -> Pixels:
        """Returns the image lit from `light` (unit vector towards the light); `colour` is a gain for R, G, B."""
        unit = self.unit * self.relief.shape[0] / self.size
        # Lambert's law on the heights; outside the head the gain is 1.
        height = cv2.GaussianBlur(self.relief, (0, 0), 0.07 * unit) * (0.1 * unit)
        dome = cv2.GaussianBlur(self.head, (0, 0), 0.3 * unit)
        height += dome * (0.9 * unit)
        gx = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.125)
        gy = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.125)
        x, y, z = light
        lambert = (z - x * gx - y * gy) / np.sqrt(1.0 + gx * gx + gy * gy)
        brightness = ambient + (1.0 - ambient) * np.maximum(lambert, 0.0) / z
        brightness = 1.0 + (brightness - 1.0) * np.minimum(2.0 * dome, 1.0)

        gain = cv2.GaussianBlur(self.broad, (0, 0), 0.07 * unit).astype(np.float32)
        gain *= brightness[..., None] * (colour.astype(np.float32) / _NEUTRAL)
        gain = cv2.resize(gain, (self.size, self.size))
        fine = cv2.GaussianBlur(self.fine, (0, 0), max(0.016 * self.unit, 0.3)).astype(np.float32)
        gain *= (fine * (1.0 / _NEUTRAL))[..., None]
        paint = cv2.resize(self.paint, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return cv2.multiply(paint, gain, dtype=cv2.CV_8U)
