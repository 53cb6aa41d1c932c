"""The array contract: what one batch of faces is, on the host and on the devices.

  image          (B, H, W, 3) uint8 RGB
  landmarks      (B, 68, 2) float32, (x, y) pixels of that image, x right, y down; 0 if has_landmarks is False
  expression     (B,) int32, index into the data set's expressions
  index          (B,) int32, the row in the split; ids, subjects and attributes stay on the host and are joined by it
  has_landmarks  (B,) bool
  valid          (B,) bool, False for the padding of the last batch

Missing is a mask, never a special value. A batch is sharded over the mesh axis "data".
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, UInt8

from aujax.errors import UserError

DATA_AXIS = "data"
Item = TypeVar("Item")


class Batch(NamedTuple):
    """A batch of faces; see the module docstring."""

    image: UInt8[Array | np.ndarray, "batch height width 3"]
    landmarks: Float[Array | np.ndarray, "batch 68 2"]
    expression: Int[Array | np.ndarray, " batch"]
    index: Int[Array | np.ndarray, " batch"]
    has_landmarks: Bool[Array | np.ndarray, " batch"]
    valid: Bool[Array | np.ndarray, " batch"]


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the one-dimensional mesh over the devices, by default those of all processes, ordered by process."""
    devices = by_process(jax.devices() if devices is None else devices)
    return Mesh(np.array(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def by_process(devices: Sequence[Any]) -> list[Any]:
    """Returns the devices ordered by process, so that each process has a contiguous part of a batch.

    `jax.make_mesh` would interleave the processes on TPUs, for meshes whose neighbours exchange more than sums.
    """
    return sorted(devices, key=lambda device: (device.process_index, device.id))


def sharded(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is divided over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Returns the sharding of arrays that are replicated on every device."""
    return NamedSharding(mesh, PartitionSpec())


def to_mesh(batch: Batch, mesh: Mesh) -> Batch:
    """Returns this process's part of a batch as arrays of the global batch, divided over the mesh."""
    return jax.make_array_from_process_local_data(sharded(mesh), batch)


def to_mesh_ahead(batches: Iterable[Batch], mesh: Mesh) -> Iterator[Batch]:
    """Yields the batches as `to_mesh` does, each after the transfer of the next one has started."""
    return one_ahead(to_mesh(batch, mesh) for batch in batches)


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yields the items, each after the next one has been requested.

    JAX computes asynchronously: if computing an item starts work on the devices, they have work while the consumer
    waits for the results of the item before.
    """
    requested = []
    for item in items:
        requested.append(item)
        if len(requested) == 2:
            yield requested.pop(0)
    yield from requested


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Returns a tree of host arrays, equal in all processes, as arrays that are replicated on every device."""
    return jax.make_array_from_process_local_data(replicated(mesh), jax.tree.map(np.asarray, tree))


def empty_batch(count: int, size: int) -> Batch:
    """Returns uninitialized host arrays for `count` faces of (size, size)."""
    return Batch(
        image=np.empty((count, size, size, 3), np.uint8),
        landmarks=np.empty((count, 68, 2), np.float32),
        expression=np.empty(count, np.int32),
        index=np.empty(count, np.int32),
        has_landmarks=np.empty(count, bool),
        valid=np.empty(count, bool),
    )


def abstract(count: int, size: int, mesh: Mesh | AbstractMesh) -> Any:
    """Returns the shapes, types and shardings of `count` faces on the mesh, for ahead-of-time compilation."""
    place = sharded(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), empty_batch(count, size))


def check_divisible(batch_size: int, mesh: Mesh, *, option: str, parts: int = 1) -> None:
    """Raises a UserError unless every device gets the same number of faces of each part of a batch."""
    unit = mesh.size * parts
    if batch_size % unit:
        of_parts = f" x {parts} parts of --config.gradient_accumulation" if parts > 1 else ""
        raise UserError(
            f"--config.{option}: expected a multiple of the {mesh.size} devices{of_parts}, got {batch_size}; "
            f"take {max(1, batch_size // unit) * unit}"
        )
