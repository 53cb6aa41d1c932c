"""Resampling of maps, with the exact weights that the paper's numbers depend on.

Maps are (..., height, width), and sizes are (height, width) in pixels. Every resampling is separable and is given as a
matrix of weights per axis, (n_out, n_in), so that the same code serves any size, batch and device. The matrices are
NumPy arrays, constants of a traced program.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Matrix = np.ndarray
Size = tuple[int, ...]  # (height, width)
Maps = Float[Array, "*batch h w"]
Resized = Float[Array, "*batch height width"]

# Accelerators would otherwise round float32 products to fewer bits.
_resample_rows = functools.partial(jnp.einsum, "...hw,Hh->...Hw", precision="highest")
_resample_columns = functools.partial(jnp.einsum, "...hw,Ww->...hW", precision="highest")


@functools.lru_cache
def torch_aligned_matrix(n_in: int, n_out: int) -> Matrix:
    """Returns the (n_out, n_in) weights of PyTorch's bilinear resampling with align_corners=True and antialias=True.

    PyTorch then combines the scale of aligned corners with half-pixel centres, and widens the triangle filter when
    downsampling. Neither align_corners nor antialiasing alone gives the same numbers.
    """
    scale = (n_in - 1) / (n_out - 1) if n_out > 1 else 0.0
    support = max(scale, 1.0)
    centres = scale * (np.arange(n_out) + 0.5)
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(n_in)[None, :] - centres[:, None] + 0.5) / support)
    return (weights / weights.sum(1, keepdims=True)).round(12).astype(np.float32)  # rounding errors are not weights


@functools.lru_cache
def bilinear_matrix(n_in: int, n_out: int) -> Matrix:
    """Returns the (n_out, n_in) weights of half-pixel bilinear resampling, edges clamped, no antialiasing."""
    weights = np.zeros((n_out, n_in))
    pixels, shares = bilinear_samples(n_in, n_out)
    np.add.at(weights, (np.arange(n_out)[:, None], pixels), shares)
    return weights.astype(np.float32)


def bilinear_samples(n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the two inputs that `bilinear_matrix` combines for each output, (n_out, 2), and their weights."""
    source = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
    below = np.floor(source).astype(int)
    inputs = np.clip(np.stack([below, below + 1], axis=-1), 0, n_in - 1)
    return inputs, np.stack([1.0 - (source - below), source - below], axis=-1)


def nearest_indices(n_in: int, n_out: int) -> np.ndarray:
    """Returns the (n_out,) input indices of PyTorch's nearest resampling, including its float32 rounding."""
    scale = np.float32(n_in) / np.float32(n_out)
    return np.minimum((np.arange(n_out, dtype=np.float32) * scale).astype(int), n_in - 1)


@functools.lru_cache
def area_matrix(n_in: int, n_out: int) -> Matrix:
    """Returns the (n_out, n_in) weights of a mean over equal cells: each pixel counts by its overlap with the cell."""
    edges = np.arange(n_out + 1) * n_in / n_out
    pixels = np.arange(n_in)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.maximum(overlap, 0.0) * n_out / n_in).astype(np.float32)


def separable(maps: Maps, rows: Matrix, columns: Matrix) -> Resized:
    """Returns rows @ map @ columns.T for every map, in full float32 precision on every device."""
    # With few weights per output: a sum of shifted rows in place of a matrix product.
    neighbours = _taps(rows)[1].shape[1]
    if 5 * neighbours <= rows.shape[1]:
        return _resample_columns(weighted_rows(maps, rows), columns)
    # The axis that makes the intermediate map smaller comes first; in a tie the columns, because XLA wants the maps
    # transposed for a product over rows, and then also draws AU maps in that layout, which takes ten times as long.
    if len(rows) * maps.shape[-1] < maps.shape[-2] * len(columns):
        return _resample_columns(_resample_rows(maps, rows), columns)
    return _resample_rows(_resample_columns(maps, columns), rows)


def weighted_rows(maps: Maps, rows: Matrix) -> Float[Array, "*batch height w"]:
    """Returns rows @ map for every map, for `rows` whose every row has only a few weights, all adjacent.

    >>> weighted_rows(jnp.array([[1.0], [3.0], [5.0]]), np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]))
    Array([[2.],
           [5.]], dtype=float32)
    """
    first, weights = _taps(rows)
    weights = weights.T.reshape(-1, *[1] * (maps.ndim - 2), len(rows), 1)
    return functools.reduce(jnp.add, [maps[..., first + i, :] * weight for i, weight in enumerate(weights)])


def _taps(rows: Matrix) -> tuple[np.ndarray, Matrix]:
    """Returns the first input of every output (n_out,), and the weights from there on (n_out, neighbours)."""
    used = rows != 0
    first, last = used.argmax(1), rows.shape[1] - used[:, ::-1].argmax(1)
    first = np.minimum(first, rows.shape[1] - (last - first).max())
    return first, np.take_along_axis(rows, first[:, None] + np.arange((last - first).max()), 1).astype(np.float32)


def banded(maps: Maps, rows: Matrix, columns: Matrix) -> Maps:
    """Returns rows @ map @ columns.T for square matrices of which only a few diagonals are not zero.

    >>> banded(jnp.ones((2, 2)), np.array([[1.0, 2.0], [0.0, 1.0]]), np.eye(2))
    Array([[3., 3.],
           [1., 1.]], dtype=float32)
    """
    for axis, matrix in ((-2, rows), (-1, columns)):
        n = len(matrix)
        shape = [1] * maps.ndim
        shape[axis] = n
        terms = []
        for offset in range(1 - n, n):
            weights = np.diagonal(matrix, offset)  # of the input that lies `offset` after the output
            if not weights.any():
                continue
            weights = np.pad(weights, (max(-offset, 0), max(offset, 0))).astype(np.float32)
            # A shift by padding, negative on one side, has a derivative of the same kind; that of slices is a scatter.
            padding = [(0, 0, 0)] * maps.ndim
            padding[axis] = (-offset, offset, 0)
            shifted = jax.lax.pad(maps, jnp.zeros((), maps.dtype), padding)
            terms.append(shifted * weights.reshape(shape))
        maps = functools.reduce(jnp.add, terms)
    return maps


def _resample(maps: Maps, size: Size, matrix: Callable[[int, int], Matrix]) -> Resized:
    if maps.shape[-2:] == size:
        return maps
    return separable(maps, *map(matrix, maps.shape[-2:], size))


def torch_aligned(maps: Maps, size: Size) -> Resized:
    """Returns maps resampled to `size` by `torch_aligned_matrix`, as in the paper's loss and metrics.

    >>> torch_aligned(jnp.eye(28), (14, 14)).shape
    (14, 14)
    """
    return _resample(maps, size, torch_aligned_matrix)


def bilinear(maps: Maps, size: Size) -> Resized:
    """Returns maps resampled to `size` by half-pixel bilinear interpolation, as for the enlargement of a CAM."""
    return _resample(maps, size, bilinear_matrix)


def area_resize(maps: Maps, size: Size) -> Resized:
    """Returns the mean of each map over every cell of a grid of `size`, which need not divide the map's size.

    >>> area_resize(jnp.eye(4), (2, 2))
    Array([[0.5, 0. ],
           [0. , 0.5]], dtype=float32)
    """
    return _resample(maps, size, area_matrix)


def nearest(maps: Maps, size: Size) -> Resized:
    """Returns maps resampled to `size`, each pixel copied from the nearest, as for AU maps in the released code.

    >>> nearest(jnp.array([[1.0, 2.0]]), (1, 4))
    Array([[1., 1., 2., 2.]], dtype=float32)
    """
    rows, columns = map(nearest_indices, maps.shape[-2:], size)
    return maps[..., rows[:, None], columns[None, :]]
