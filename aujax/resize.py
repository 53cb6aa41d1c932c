"""The resamplings that the paper's numbers depend on, each named by what it does.

Maps are (..., height, width). Every resampling is separable and is given as a matrix per axis, so that the
same few lines serve any size, batch and device; matrices are NumPy constants of a traced program.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Matrix = np.ndarray
Size = tuple[int, ...]  # (height, width)


@functools.lru_cache
def torch_aligned_matrix(n_in: int, n_out: int) -> Matrix:
    """Returns the (n_out, n_in) weights of PyTorch's bilinear, align_corners=True, antialias=True resampling.

    The scale is that of aligned corners, the centres are those of half pixels, and shrinking widens the
    triangle: neither plain align-corners nor plain antialiasing gives the same numbers.
    """
    scale = (n_in - 1) / (n_out - 1) if n_out > 1 else 0.0
    support = max(scale, 1.0)
    weights = np.zeros((n_out, n_in))
    for i in range(n_out):
        centre = scale * (i + 0.5)
        low, high = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), n_in)
        taps = np.arange(low, high)
        row = np.maximum(0.0, 1.0 - np.abs(taps - centre + 0.5) / support)
        weights[i, low:high] = row / row.sum()
    return weights.astype(np.float32)


@functools.lru_cache
def bilinear_matrix(n_in: int, n_out: int) -> Matrix:
    """Returns the (n_out, n_in) weights of half-pixel bilinear resampling, edges clamped, no antialiasing."""
    source = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
    below = np.floor(source).astype(int)
    weights, rows = np.zeros((n_out, n_in)), np.arange(n_out)
    np.add.at(weights, (rows, np.clip(below, 0, n_in - 1)), 1.0 - (source - below))
    np.add.at(weights, (rows, np.clip(below + 1, 0, n_in - 1)), source - below)
    return weights.astype(np.float32)


def nearest_indices(n_in: int, n_out: int) -> np.ndarray:
    """Returns the (n_out,) input indices of PyTorch's nearest resampling, its float32 rounding included."""
    scale = np.float32(n_in) / np.float32(n_out)
    return np.minimum((np.arange(n_out, dtype=np.float32) * scale).astype(int), n_in - 1)


def separable(maps: Float[Array, "*batch h w"], rows: Matrix, columns: Matrix) -> Float[Array, "*batch height width"]:
    """Returns rows @ map @ columns.T for every map, in full float32 precision on every device."""
    exact = jax.lax.Precision.HIGHEST
    down = functools.partial(jnp.einsum, "...hw,Hh->...Hw", precision=exact)
    along = functools.partial(jnp.einsum, "...hw,Ww->...hW", precision=exact)
    if len(rows) * maps.shape[-1] < maps.shape[-2] * len(columns):
        return along(down(maps, rows), columns)
    # For `down` a compiler wants the maps transposed, and then draws AU maps that way, which takes ten times as long.
    return down(along(maps, columns), rows)


def torch_aligned(maps: Float[Array, "*batch h w"], size: Size) -> Float[Array, "*batch height width"]:
    """Returns maps at `size` (height, width) by `torch_aligned_matrix`: the kernel of the loss and the metric.

    >>> torch_aligned(jnp.eye(28), (14, 14)).shape
    (14, 14)
    """
    (h, w), (height, width) = maps.shape[-2:], size
    if (h, w) == (height, width):
        return maps
    return separable(maps, torch_aligned_matrix(h, height), torch_aligned_matrix(w, width))


def bilinear(maps: Float[Array, "*batch h w"], size: Size) -> Float[Array, "*batch height width"]:
    """Returns maps at `size` (height, width) by half-pixel bilinear interpolation: how a CAM is enlarged."""
    (h, w), (height, width) = maps.shape[-2:], size
    return separable(maps, bilinear_matrix(h, height), bilinear_matrix(w, width))


def nearest(maps: Float[Array, "*batch h w"], size: Size) -> Float[Array, "*batch height width"]:
    """Returns maps at `size` (height, width), each pixel copied from the nearest one: how AU maps are resized.

    >>> nearest(jnp.array([[1.0, 2.0]]), (1, 4))
    Array([[1., 1., 2., 2.]], dtype=float32)
    """
    (h, w), (height, width) = maps.shape[-2:], size
    return maps[..., nearest_indices(h, height)[:, None], nearest_indices(w, width)[None, :]]
