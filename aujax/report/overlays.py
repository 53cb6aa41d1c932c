"""Low-resolution maps laid over pictures, as arrays.

Pictures are uint8 (height, width, 3), maps float (h, w) of any smaller or equal size and any range.
"""

import numpy as np
from jaxtyping import Float, UInt8

from aujax.report import sheet

# Stored maps are float16, which keeps three digits: a smaller relative extent is rounding, not a pattern.
_ROUNDING = 2e-3


def is_flat(map_: Float[np.ndarray, "h w"]) -> bool:
    """Returns whether the map has no highest place worth drawing: it is constant, or not finite.

    >>> is_flat(np.ones((5, 5))), is_flat(np.eye(5))
    (True, False)
    """
    map_ = np.asarray(map_, np.float64)
    return not np.isfinite(map_).all() or bool(np.ptp(map_) <= _ROUNDING * np.abs(map_).max())


def why_not(map_: Float[np.ndarray, "h w"] | None) -> str:
    """Returns why a map is not drawn, in a word or two; "" where it is.

    >>> why_not(np.ones((5, 5))), why_not(np.eye(5))
    ('flat', '')
    """
    if map_ is None:
        return "no map"
    if not np.isfinite(map_).all():
        return "not finite"
    return "flat" if is_flat(map_) else ""


def stretched(map_: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Returns the map taken from its own minimum and maximum to 0 and 1; it must not be flat.

    >>> print(stretched(np.array([[2.0, 3.0, 4.0]])))
    [[0.  0.5 1. ]]
    """
    map_ = np.asarray(map_, np.float32)
    return (map_ - map_.min()) / (map_.max() - map_.min())


def enlarged(map_: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """Returns the map at `size` (height, width), bilinear between the centres of its cells.

    >>> print(enlarged(np.array([[0.0, 1.0]]), (1, 4)))
    [[0.   0.25 0.75 1.  ]]
    """
    for axis, length in enumerate(size):
        place = (np.arange(length) + 0.5) * map_.shape[axis] / length - 0.5
        place = place.clip(0, map_.shape[axis] - 1)
        low = place.astype(int)
        high = np.minimum(low + 1, map_.shape[axis] - 1)
        share = (place - low).reshape((-1, 1) if axis == 0 else (1, -1))
        map_ = map_.take(low, axis) * (1 - share) + map_.take(high, axis) * share
    return map_


def grey(image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the picture without its colours, so that those of a map are the only ones."""
    luminance = (image @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
    return np.repeat(luminance[..., None], 3, axis=-1)


def overlay(
    image: UInt8[np.ndarray, "height width 3"], map_: Float[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the grey picture under the stretched map: more colour, and less picture, where the map is higher."""
    heat = enlarged(stretched(map_), image.shape[:2]).clip(0, 1)
    colours = sheet.matplotlib().colormaps[sheet.HEAT](heat)[..., :3] * 255
    opacity = (0.25 + 0.5 * heat)[..., None]
    return (grey(image) * (1 - opacity) + colours * opacity).round().astype(np.uint8)
