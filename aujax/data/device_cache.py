"""A split in the memory of the devices: decoded once, its faces divided over the mesh in the order of their rows."""

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding
from jaxtyping import Array, Bool, Int

from aujax.data import feed
from aujax.data.batch import DATA_AXIS, Batch, empty_batch, sharded
from aujax.data.store import FaceSource

_FACES_PER_TRANSFER = 1024  # so that the host never holds a whole split


def faces_per_device(count: int, mesh: Mesh) -> int:
    """Returns how many of `count` faces each device stores."""
    return -(-count // mesh.size)


def bytes_per_device(count: int, size: int, mesh: Mesh) -> int:
    """Returns how much memory of each device `load` fills."""
    return sum(part.nbytes for part in empty_batch(1, size)) * faces_per_device(count, mesh)


def load(source: FaceSource, size: int, mesh: Mesh, *, threads: int) -> Batch:
    """Returns all faces of the source, resized to (size, size); each process reads those of its own devices.

    Every device stores the same number of faces: the last rows repeat the last face. The host holds a small part of the
    faces at a time.
    """
    count = faces_per_device(len(source), mesh)
    shards = []
    for number, device in enumerate(mesh.devices.flat):
        if device.process_index == jax.process_index():
            rows = np.minimum(np.arange(number * count, (number + 1) * count), len(source) - 1)
            shards.append(_load_on_device(source, rows, size, device, threads))

    def whole(*parts: Array) -> Array:
        shape = (count * mesh.size, *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharded(mesh), list(parts))

    return jax.tree.map(whole, *shards)


def _load_on_device(source: FaceSource, rows: np.ndarray, size: int, device: Any, threads: int) -> Batch:
    """Returns these faces in the memory of one device."""
    place = SingleDeviceSharding(device)
    faces = jax.tree.map(lambda x: jnp.zeros((len(rows), *x.shape[1:]), x.dtype, device=place), empty_batch(1, size))
    # Parts of one length, so that `_with_part` is compiled once: the last part overlaps the one before it.
    count = min(len(rows), _FACES_PER_TRANSFER)
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(rows), count):
            start = min(first, len(rows) - count)
            part = pool.map(lambda row: feed.decoded(source[row], row, size), rows[start : start + count].tolist())
            part = jax.device_put(feed.stack(list(part)), device)
            faces = jax.block_until_ready(_with_part(faces, part, np.int32(start)))
    return faces


@functools.partial(jax.jit, donate_argnums=0)
def _with_part(faces: Batch, part: Batch, start: Int[Array | np.integer, ""]) -> Batch:
    return jax.tree.map(lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, start, axis=0), faces, part)


def take(faces: Batch, rows: Int[Array, " batch"], valid: Bool[Array, " batch"]) -> Batch:
    """Returns a device's part of the global batch of these rows; for the step of one device, with its part of `faces`.

    Every device contributes the faces that it stores and receives its part of the batch: one reduce-scatter.
    """
    places = rows - jax.lax.axis_index(DATA_AXIS) * len(faces.index)

    def exchange(x: Array) -> Array:
        # Zeros in place of the faces that other devices store.
        taken = x.at[places].get(mode="fill", fill_value=0, wrap_negative_indices=False)
        # A sum of one face's values and zeros, in the type of the values; booleans cannot be summed.
        numbers = taken.astype(jnp.uint8) if x.dtype == bool else taken
        return jax.lax.psum_scatter(numbers, DATA_AXIS, scatter_dimension=0, tiled=True).astype(x.dtype)

    part = len(rows) // jax.lax.axis_size(DATA_AXIS)
    own = jax.lax.dynamic_slice_in_dim(valid, jax.lax.axis_index(DATA_AXIS) * part, part)
    return jax.tree.map(exchange, faces)._replace(valid=own)
