"""A split that lives on the devices: decoded once, its faces divided over the mesh in the order of their rows."""

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

_AT_ONCE = 1024  # faces that the host decodes before they go to their device


def faces_per_device(count: int, mesh: Mesh) -> int:
    """Returns how many of that many faces each device holds."""
    return -(-count // mesh.size)


def bytes_per_device(count: int, size: int, mesh: Mesh) -> int:
    """Returns how much memory of each device `load` fills."""
    return sum(part.nbytes for part in empty_batch(1, size)) * faces_per_device(count, mesh)


def load(source: FaceSource, size: int, mesh: Mesh, *, threads: int) -> Batch:
    """Returns all faces of the source, resized to (size, size); each process reads those of its own devices.

    Every device holds the same number: the last rows stand for the last face once more. The memory of the host holds a
    small part of them at a time.
    """
    each = faces_per_device(len(source), mesh)
    shards = []
    for number, device in enumerate(mesh.devices.flat):
        if device.process_index == jax.process_index():
            rows = np.minimum(np.arange(number * each, (number + 1) * each), len(source) - 1)
            shards.append(_filled(source, rows, size, device, threads))

    def whole(*parts: Array) -> Array:
        shape = (each * mesh.size, *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharded(mesh), list(parts))

    return jax.tree.map(whole, *shards)


def _filled(source: FaceSource, rows: Int[np.ndarray, " faces"], size: int, device: Any, threads: int) -> Batch:
    """Returns these faces on one device."""
    place, count = SingleDeviceSharding(device), min(len(rows), _AT_ONCE)
    faces = jax.tree.map(lambda x: jnp.zeros((len(rows), *x.shape[1:]), x.dtype, device=place), empty_batch(1, size))
    for first in range(0, len(rows), count):
        at = min(first, len(rows) - count)  # the last part is as long as the others, and repeats some of them
        part = jax.device_put(_decoded(source, rows[at : at + count], size, threads), device)
        faces = jax.block_until_ready(_with_part(faces, part, np.int32(at)))
    return faces


@functools.partial(jax.jit, donate_argnums=0)
def _with_part(faces: Batch, part: Batch, at: Int[Array | np.integer, ""]) -> Batch:
    return jax.tree.map(lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, at, axis=0), faces, part)


def take(faces: Batch, rows: Int[Array, " batch"], valid: Bool[Array, " batch"]) -> Batch:
    """Returns a device's part of the batch of these rows; for the step of one device, which holds a part of `faces`.

    Every device gives what it holds of the global batch, and gets its part of it: one reduce-scatter.
    """
    here = len(faces.index)
    places = rows - jax.lax.axis_index(DATA_AXIS) * here
    mine = (places >= 0) & (places < here)

    def exchanged(x: Array) -> Array:
        given = x.at[places].get(mode="clip")
        given = jnp.where(mine.reshape(-1, *[1] * (x.ndim - 1)), given, jnp.zeros((), x.dtype))
        # Sums of one value and zeros, in the type as it is; there is no sum of truth values.
        bits = given.astype(jnp.uint8) if x.dtype == bool else given
        return jax.lax.psum_scatter(bits, DATA_AXIS, scatter_dimension=0, tiled=True).astype(x.dtype)

    part = len(rows) // jax.lax.axis_size(DATA_AXIS)
    own = jax.lax.dynamic_slice_in_dim(valid, jax.lax.axis_index(DATA_AXIS) * part, part)
    return jax.tree.map(exchanged, faces)._replace(valid=own)


def _decoded(source: FaceSource, rows: Int[np.ndarray, " faces"], size: int, threads: int) -> Batch:
    faces = empty_batch(len(rows), size)

    def write(place: int) -> None:
        face = feed.decoded(source[int(rows[place])], int(rows[place]), size)
        for name in Batch._fields:
            getattr(faces, name)[place] = getattr(face, name)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(write, range(len(rows))):
            pass  # what went wrong in a thread is raised here
    return faces
