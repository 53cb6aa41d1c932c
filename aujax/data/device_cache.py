"""A split in the memory of the devices: decoded once, its faces divided over them in the order of their rows.

Up to eight devices store one copy of the faces together; of more, neighbours share a copy, usually eight. A batch is
exchanged among the devices that share a copy only, so neither its bytes nor its memory grow with the number of devices.
"""

import functools
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from aujax.data import feed
from aujax.data.batch import DATA_AXIS, Batch, empty_batch, sharded
from aujax.data.store import FaceSource

_FACES_PER_TRANSFER = 1024  # so that the host never holds a whole split
_DEVICES_PER_COPY = 8  # as many as a host usually has: they exchange faces without the network


def devices_per_copy(devices: int) -> int:
    """Returns how many of all devices share a copy: all up to 8, otherwise the smallest divisor that is at least 8.

    >>> [devices_per_copy(devices) for devices in (1, 5, 8, 12, 20, 256)]
    [1, 5, 8, 12, 10, 8]
    """
    return next((number for number in range(_DEVICES_PER_COPY, devices) if devices % number == 0), devices)


def faces_per_device(count: int, mesh: Mesh) -> int:
    """Returns how many of `count` faces each device stores."""
    return -(-count // devices_per_copy(mesh.size))


def bytes_per_device(count: int, size: int, mesh: Mesh) -> int:
    """Returns how much memory of each device `load` fills."""
    return sum(part.nbytes for part in empty_batch(1, size)) * faces_per_device(count, mesh)


def load(source: FaceSource, size: int, mesh: Mesh, *, threads: int) -> Batch:
    """Returns all faces of the source, resized to (size, size); each process reads those of its own devices.

    Copies follow each other along the first axis. Every device stores the same number of faces: the last rows of a copy
    repeat the last face. The host holds a small part of the faces at a time.
    """
    count = faces_per_device(len(source), mesh)
    sharing = devices_per_copy(mesh.size)
    # Parts of one length, so that `_with_part` is compiled once: the last part overlaps the one before it.
    length = min(count, _FACES_PER_TRANSFER)
    shards = []
    with ThreadPoolExecutor(threads) as pool:
        for number in range(sharing):
            devices = [x for x in mesh.devices.flat[number::sharing] if x.process_index == jax.process_index()]
            if not devices:
                continue
            rows = np.minimum(np.arange(number * count, (number + 1) * count), len(source) - 1)
            one = empty_batch(1, size)
            same = [Batch(*(jnp.zeros((count, *x.shape[1:]), x.dtype, device=to) for x in one)) for to in devices]
            for first in range(0, count, length):
                start = min(first, count - length)
                part = pool.map(lambda row: feed.decoded(source[row], row, size), rows[start : start + length].tolist())
                part = feed.stack(list(part))
                for index, device in enumerate(devices):
                    same[index] = _with_part(same[index], jax.device_put(part, device), np.int32(start))
                jax.block_until_ready(same)
            shards += same

    def whole(*parts: Array) -> Array:
        shape = (count * mesh.size, *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharded(mesh), list(parts))

    return jax.tree.map(whole, *shards)


@functools.partial(jax.jit, donate_argnums=0)
def _with_part(faces: Batch, part: Batch, start: Int[Array | np.integer, ""]) -> Batch:
    return jax.tree.map(lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, start, axis=0), faces, part)


def take(faces: Batch, rows: Int[Array, " batch"], valid: Bool[Array, " batch"]) -> Batch:
    """Returns a device's part of the global batch of these rows; for the step of one device, with its part of `faces`.

    Every device contributes the faces that it stores and receives its part of the batch: one reduce-scatter among the
    devices that share a copy.
    """
    devices, device = jax.lax.axis_size(DATA_AXIS), jax.lax.axis_index(DATA_AXIS)
    sharing = devices_per_copy(devices)
    groups = np.arange(devices).reshape(-1, sharing).tolist()
    part = len(rows) // devices
    own = jax.lax.dynamic_slice_in_dim(valid, device * part, part)
    rows_of_group = jax.lax.dynamic_slice_in_dim(rows, device // sharing * sharing * part, sharing * part)
    places = rows_of_group - device % sharing * len(faces.index)

    def exchange(x: Array) -> Array:
        # Zeros in place of the faces that other devices store.
        taken = x.at[places].get(mode="fill", fill_value=0, wrap_negative_indices=False)
        # A sum of one face's values and zeros, in the type of the values; booleans cannot be summed.
        numbers = taken.astype(jnp.uint8) if x.dtype == bool else taken
        part_of_sum = jax.lax.psum_scatter(
            numbers, DATA_AXIS, scatter_dimension=0, axis_index_groups=groups, tiled=True
        )
        return part_of_sum.astype(x.dtype)

    return jax.tree.map(exchange, faces)._replace(valid=own)
