"""A canvas for drawn faces: anti-aliased shapes, soft gains over them, and light from a relief.

Points given to a canvas are (x, y) pixels of the finished image, pixel centres at whole numbers. Colours are
arrays of red, green and blue from 0 to 255. Small images are painted at twice their size. Three layers lie over the
paint and are multiplied onto it in `Canvas.finish`: `fine` (wrinkles), `broad` (soft tints) and `relief` (heights,
which the light turns into shading; `head` is the dome they lie on). All but `fine` have half the resolution.
"""

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Num

from aujax.data.images import Pixels

Colour = Float[np.ndarray, "3"]
Curve = Float[np.ndarray, "..."]  # (points, 2), or (points, 3) on a head; or several curves, or one point
Layer = Num[np.ndarray, "..."]  # (side, side) or (side, side, 3)
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
    units = np.eye(controls)
    around = np.arange(controls - (not closed))[:, None] + np.arange(-1, 3)
    matrix = (basis @ units.take(around, 0, mode="wrap" if closed else "clip")).reshape(-1, controls)
    return (matrix if closed else np.vstack([matrix, units[-1]])).astype(np.float32)


def curve(points: Curve, *, steps: int = 5, closed: bool = False) -> Curve:
    """Returns the smooth curve through `points` (..., controls, d): `steps` points from each of them to the next."""
    return _spline_matrix(points.shape[-2], steps, closed) @ points


def ribbon(points: Curve, widths: np.ndarray | float) -> Curve:
    """Returns the outline of a stroke along `points` (..., n, 2) that is `widths` (..., n) pixels wide there."""
    # The direction at a point is that from its predecessor to its successor; "clip" repeats the ends.
    rows = np.arange(points.shape[-2])
    directions = points.take(rows + 1, -2, mode="clip") - points.take(rows - 1, -2, mode="clip")
    x, y = np.moveaxis(directions, -1, 0)
    half = widths / (2 * np.sqrt(x * x + y * y + 1e-6))
    normal = np.stack([-y * half, x * half], -1)
    return np.concatenate([points + normal, (points - normal)[..., ::-1, :]], -2)


def direction(angle: np.ndarray | float) -> Curve:
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
        self.corner = (0, 0)  # where the paint begins, in steps; not 0 inside `clipped`
        self.paint = np.empty((size * self.zoom, size * self.zoom, 3), np.uint8)
        self.fine = np.full((size, size), _NEUTRAL, np.uint8)
        coarse = (size + 1) // 2
        self.broad = np.full((coarse, coarse, 3), _NEUTRAL, np.uint8)
        self.relief = np.zeros((coarse, coarse), np.float32)
        self.head = np.zeros((coarse, coarse), np.float32)

    def offset(self, *units) -> Curve:
        """Returns an offset (dx, dy), or several, in pixels, given in inter-ocular units."""
        return np.array(units) * self.unit

    def _zoom(self, layer: Layer) -> float:
        """Returns the pixels of a layer per pixel of the image."""
        return self.zoom if layer is self.paint else layer.shape[0] / self.size

    def _steps(self, points: Curve, layer: Layer) -> np.ndarray:
        """Returns the points in steps of the layer's pixels."""
        zoom, corner = self._zoom(layer), self.corner if layer is self.paint else 0
        return (np.rint(points * (_ONE * zoom) + (zoom - 1) * _ONE / 2) - corner).astype(np.int32)

    def fill(self, outline: Curve, value: Any, layer: Layer | None = None) -> None:
        """Fills a polygon of a layer, by default of the paint, with a colour or another value."""
        layer = self.paint if layer is None else layer
        cv2.fillPoly(layer, [self._steps(outline, layer)], value, self._line(layer), _SUBPIXEL_BITS)

    def disc(self, centre: Curve, radius: float, value: Any, layer: Layer | None = None) -> None:
        """Fills a circle of `radius` inter-ocular units, as `fill` does."""
        layer = self.paint if layer is None else layer
        fixed = round(radius * self.unit * self._zoom(layer) * _ONE)
        centre = self._steps(centre, layer)
        cv2.circle(layer, centre.tolist(), fixed, value, cv2.FILLED, self._line(layer), _SUBPIXEL_BITS)

    def _line(self, layer: Layer) -> int:
        return cv2.LINE_8 if self._zoom(layer) < 1 else cv2.LINE_AA  # the small layers are blurred later

    def lines(self, curves: Iterable[Curve], colour: Colour, width: float) -> None:
        """Draws curves `width` inter-ocular units wide (never thinner than one painted pixel)."""
        pixels = max(1, round(width * self.unit * self.zoom))
        fixed = [self._steps(line, self.paint) for line in curves]
        cv2.polylines(self.paint, fixed, False, colour.tolist(), pixels, cv2.LINE_AA, _SUBPIXEL_BITS)

    def cover(self, outline: Curve, colour: Colour) -> None:
        """Fills a polygon that lies in front of the face: it hides wrinkles and tints too."""
        self.fill(outline, colour)
        self.fill(outline, _NEUTRAL, self.fine)
        self.fill(outline, (_NEUTRAL,) * 3, self.broad)

    @contextlib.contextmanager
    def clipped(self, outline: Curve, colour: Colour, opacity: float = 1.0) -> Iterator[None]:
        """Fills a polygon, and blends it with what the `with` block paints in it over the paint, at `opacity`."""
        whole, steps = self.paint, self._steps(outline, self.paint)
        # Only the outline's bounding box is copied and blended, with a margin for anti-aliasing. It is a part of the
        # faces: OpenCV's lines differ by a level where they cross the edge of what they are drawn on.
        side = whole.shape[0]
        x0, y0 = np.clip((steps.min(0) >> _SUBPIXEL_BITS) - 1, 0, side - 1).tolist()
        x1, y1 = np.clip((steps.max(0) >> _SUBPIXEL_BITS) + 3, 1, side).tolist()
        below = whole[y0:y1, x0:x1]
        self.paint = below.copy()
        self.corner = (x0 * _ONE, y0 * _ONE)
        self.fill(outline, colour)
        yield
        mask = np.zeros(below.shape[:2], np.uint8)
        cv2.fillPoly(mask, [self._steps(outline, self.paint)], round(255 * opacity), cv2.LINE_AA, _SUBPIXEL_BITS)
        weight = mask.astype(np.float32) * (1 / 255)
        below[...] = cv2.blendLinear(self.paint, below, weight, 1.0 - weight)
        self.paint, self.corner = whole, (0, 0)

    def glaze(self, outline: Curve, colour: Colour, opacity: float) -> None:
        """Fills a polygon at `opacity`."""
        with self.clipped(outline, colour, opacity):
            pass

    def creases(self, outlines: Iterable[Curve], depths: Iterable[float]) -> None:
        """Darkens (depth > 0) or lightens thin shapes, such as wrinkles, one after the other."""
        for outline, depth in zip(outlines, depths, strict=True):
            self.fill(outline, min(max(_NEUTRAL * (1.0 - depth), 0), 255), self.fine)

    def tint(self, outline: Curve, *gains: float) -> None:
        """Multiplies the paint under a polygon by gains for red, green and blue, with soft edges."""
        self.fill(outline, np.minimum(_NEUTRAL * np.array(gains), 255.0), self.broad)

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
