"""Faces on the devices: each holds its share, and a batch is put together from all of them."""

import math
import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from aujax.data import device_cache, feed
from aujax.data.batch import DATA_AXIS, abstract, data_mesh
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


def compiled_take(faces, rows, valid, mesh):
    divided, everywhere = PartitionSpec(DATA_AXIS), PartitionSpec()
    take = jax.shard_map(
        device_cache.take, mesh=mesh, in_specs=(divided, everywhere, everywhere), out_specs=divided, check_vma=True
    )
    return jax.jit(take).lower(faces, rows, valid).compile()


@pytest.mark.parametrize(("devices", "sharing"), [(4, 4), (4, 2), (8, 3), (2, 1)])
def test_a_batch_is_what_the_feed_reads(devices, sharing, source, monkeypatch):
    monkeypatch.setattr(device_cache, "_DEVICES_PER_COPY", sharing)
    mesh = data_mesh(jax.devices()[:devices])
    faces = device_cache.load(source, 36, mesh, threads=2)
    order = np.array([6, 0, 7, 3, 1, 5], np.int32)
    (expected,) = feed.batches(source, order, batch_size=8, size=36, threads=1)
    (rows,), (valid,) = feed.batch_rows(order, 8)
    batch = compiled_take(faces, rows, valid, mesh)(faces, rows, valid)
    for part, wanted in zip(batch, expected, strict=True):
        np.testing.assert_array_equal(part, wanted)
        assert part.dtype == wanted.dtype


@pytest.mark.parametrize("devices", [4, 8])
def test_a_device_exchanges_its_own_faces_of_a_batch_on_any_number_of_devices(devices, monkeypatch):
    """Two faces for each device, and two devices share a copy: each sends the two faces of the other one at most."""
    monkeypatch.setattr(device_cache, "_DEVICES_PER_COPY", 2)
    mesh = data_mesh(jax.devices()[:devices])
    (rows,), (valid,) = feed.batch_rows(np.arange(2 * devices, dtype=np.int32), 2 * devices)
    program = compiled_take(abstract(4 * devices, 36, mesh), rows, valid, mesh)
    lines = re.findall(
        r" = (.*) ((?:all|reduce-scatter|collective)[a-z-]*)\(.*replica_groups={(.*?})", program.as_text()
    )
    assert {(kind, group) for _, kind, group in lines} == {("reduce-scatter", "{0,1}")}
    shapes = re.findall(r"[usf](\d+)\[([\d,]+)\]", " ".join(results for results, *_ in lines))
    size = sum(int(bits) // 8 * math.prod(map(int, shape.split(","))) for bits, shape in shapes)
    assert size == 2 * (36 * 36 * 3 + 68 * 2 * 4 + 4 + 4 + 1)  # image, landmarks, expression, index, has_landmarks
    # The four faces of both devices, and as many bytes again at most.
    assert program.memory_analysis().temp_size_in_bytes < 4 * size


def test_error_names_a_damaged_image(source, mesh, monkeypatch):
    record = source[0] | {"image": b"\xff\xd8 no picture"}
    monkeypatch.setattr(type(source), "__getitem__", lambda self, row: record)
    with pytest.raises(UserError, match=r"cannot be decoded \(no image, .*\); prepare the data set again"):
        device_cache.load(source, 36, mesh, threads=2)
