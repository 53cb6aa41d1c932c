"""Batches on the mesh."""

import types

import jax
import numpy as np
import pytest

from aujax.data.batch import Batch, by_process, check_divisible, data_mesh, empty_batch, to_mesh, to_mesh_ahead
from aujax.errors import UserError

pytestmark = pytest.mark.jax_versions


def test_a_batch_is_divided_over_the_devices():
    mesh = data_mesh(jax.devices()[:4])
    batch = Batch(
        np.zeros((8, 4, 4, 3), np.uint8),
        np.zeros((8, 68, 2), np.float32),
        np.arange(8, dtype=np.int32),
        np.arange(8, dtype=np.int32),
        np.ones(8, bool),
        np.ones(8, bool),
    )
    shards = to_mesh(batch, mesh).index.addressable_shards
    assert [shard.data.tolist() for shard in shards] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_a_batch_that_cannot_be_divided_is_refused_with_one_that_can():
    mesh = data_mesh(jax.devices()[:4])
    with pytest.raises(
        UserError, match=r"--config\.data\.batch_size: expected a multiple of the 4 devices, got 10; take 8"
    ):
        check_divisible(10, mesh, option="data.batch_size")


def test_parts_of_a_batch_are_divided_over_the_devices_too():
    mesh = data_mesh(jax.devices()[:4])
    with pytest.raises(
        UserError, match=r"a multiple of the 4 devices x 3 parts of --config\.gradient_accumulation, got 16; take 12"
    ):
        check_divisible(16, mesh, option="data.batch_size", parts=3)


def test_the_next_batch_is_on_its_way_before_this_one_is_taken(monkeypatch):
    monkeypatch.setattr("aujax.data.batch.to_mesh", lambda batch, mesh: sent.append(batch) or batch)
    batches, sent = [empty_batch(1, size) for size in (1, 2, 3)], []
    ahead = to_mesh_ahead(iter(batches), data_mesh(jax.devices()[:1]))
    assert [(batch.image.shape[1], len(sent)) for batch in ahead] == [(1, 2), (2, 3), (3, 3)]


def test_the_devices_of_a_process_lie_side_by_side():
    devices = [types.SimpleNamespace(id=number, process_index=number % 2) for number in range(4)]
    assert [device.id for device in by_process(devices)] == [0, 2, 1, 3]
