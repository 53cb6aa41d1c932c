"""A split that lives on the devices: decoded once, its faces divided over the mesh in the order of their rows."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from aujax.data import feed
from aujax.data.builders import FaceSource
from aujax.data.records import DATA_AXIS, Batch, room, sharded


def held(count: int, mesh: Mesh) -> int:
    """Returns how many of that many faces each device holds."""
    return -(-count // mesh.size)


def bytes_per_device(count: int, size: int, mesh: Mesh) -> int:
    """Returns how much memory of each device `load` fills."""
    return sum(part.nbytes for part in room(1, size)) * held(count, mesh)


def load(source: FaceSource, size: int, mesh: Mesh, *, threads: int) -> Batch:
    """Returns all faces of the source, resized to (size, size); each process reads those of its own devices.

    Every device holds the same number: the last rows stand for the last face once more. One device's share at a time
    is in the memory of the host.
    """
    each = held(len(source), mesh)
    shards = []
    for number, device in enumerate(mesh.devices.flat):
        if device.process_index == jax.process_index():
            rows = np.minimum(np.arange(number * each, (number + 1) * each), len(source) - 1)
            shards.append(jax.device_put(_decoded(source, rows, size, threads), device))

    def whole(*parts: Array) -> Array:
        shape = (each * mesh.size, *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharded(mesh), list(parts))

    return jax.tree.map(whole, *shards)


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
    faces = room(len(rows), size)

    def write(place: int) -> None:
        face = feed.decoded(source[int(rows[place])], int(rows[place]), size)
        for name in Batch._fields:
            getattr(faces, name)[place] = getattr(face, name)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(write, range(len(rows))):
            pass  # what went wrong in a thread is raised here
    return faces
