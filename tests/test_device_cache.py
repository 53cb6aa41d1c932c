"""Faces on the devices: each holds its share, and a batch is put together from all of them."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from aujax.data import device_cache, feed
from aujax.data.batch import DATA_AXIS, data_mesh
from aujax.data.store import open_faces
from aujax.errors import UserError

pytestmark = pytest.mark.jax_versions

DEVICES = 4


@pytest.fixture(scope="module")
def mesh():
    return data_mesh(jax.devices()[:DEVICES])


@pytest.fixture(scope="module")
def source(tiny_data):
    return open_faces(tiny_data).source("validation")


@pytest.fixture(scope="module")
def faces(source, mesh):
    return device_cache.load(source, 36, mesh, threads=2)


def test_every_device_holds_its_rows(faces):
    assert [shard.data.tolist() for shard in faces.index.addressable_shards] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_faces_that_cannot_be_divided_are_filled_up_with_the_last(source):
    faces = device_cache.load(source, 36, data_mesh(jax.devices()[:3]), threads=1)
    assert faces.index.tolist() == [*range(8), 7]


def test_faces_that_come_in_parts_are_the_same(faces, source, mesh, monkeypatch):
    monkeypatch.setattr(device_cache, "_FACES_PER_TRANSFER", 3)
    one = data_mesh(jax.devices()[:1])
    for part, whole in zip(device_cache.load(source, 36, one, threads=1), faces, strict=True):
        np.testing.assert_array_equal(part, whole)


def test_the_memory_that_is_asked_for_is_what_it_takes(faces, source, mesh):
    taken = sum(part.addressable_shards[0].data.nbytes for part in faces)
    assert device_cache.bytes_per_device(len(source), 36, mesh) == taken


def test_a_batch_is_what_the_feed_reads(faces, source, mesh):
    order = np.array([6, 0, 7, 3, 1, 5], np.int32)
    (expected,) = feed.batches(source, order, batch_size=8, size=36, threads=1)
    (rows,), (valid,) = feed.batch_rows(order, 8)
    divided, everywhere = PartitionSpec(DATA_AXIS), PartitionSpec()
    take = jax.shard_map(
        device_cache.take, mesh=mesh, in_specs=(divided, everywhere, everywhere), out_specs=divided, check_vma=True
    )
    program = jax.jit(take).lower(faces, rows, valid).compile()
    for part, wanted in zip(program(faces, rows, valid), expected, strict=True):
        np.testing.assert_array_equal(part, wanted)
        assert part.dtype == wanted.dtype
    assert set(re.findall(r" ((?:all|reduce-scatter|collective)[a-z-]*)\(", program.as_text())) == {"reduce-scatter"}


def test_error_names_a_damaged_image(source, mesh, monkeypatch):
    record = source[0] | {"image": b"\xff\xd8 no picture"}
    monkeypatch.setattr(type(source), "__getitem__", lambda self, row: record)
    with pytest.raises(UserError, match=r"cannot be decoded \(no image, .*\); prepare the data set again"):
        device_cache.load(source, 36, mesh, threads=2)
