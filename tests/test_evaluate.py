"""`evaluate` and `compare` without a network: batches and sinks, and cosines beside the released code's."""

import importlib.util
import pathlib

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_face import LANDMARKS

from aujax import au_maps, codebook, evaluation, methods
from aujax.data.batch import Batch, data_mesh, to_mesh
from aujax.evaluation import Outputs, evaluate

_PATH = pathlib.Path(__file__).parents[1] / "benchmarks" / "released_cosines.py"
_SPEC = importlib.util.spec_from_file_location("released_cosines", _PATH)
released = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(released)

EXPRESSIONS = ("Neutral", "Happiness", "Sadness")
MESH = data_mesh(jax.devices()[:1])


def batch_of(expression, valid, size=4):
    count = len(expression)
    return Batch(
        np.zeros((count, size, size, 3), np.uint8),
        np.zeros((count, 68, 2), np.float32),
        np.array(expression, np.int32),
        np.arange(count, dtype=np.int32),
        np.ones(count, bool),
        np.array(valid),
    )


def read(_, batch):
    """No network: whoever is happy is called happy, all others neutral."""
    columns = {
        "index": batch.index,
        "expression": batch.expression,
        "predicted": batch.expression % 2,
        "valid": batch.valid,
        "has_map": jnp.zeros(len(batch.index), bool),
    }
    return Outputs(columns, {}, jnp.zeros((len(batch.index), 4, 4)), {})


def test_faces_that_fill_up_a_batch_are_not_counted():
    batches = [batch_of([1, 2], [True, True]), batch_of([1, 2], [True, False])]
    result = evaluate(read, {}, batches, mesh=MESH, expressions=EXPRESSIONS)
    assert result.summary["num_examples"] == 3
    assert result.summary["cl"] == pytest.approx(2 / 3)


def test_batches_on_the_mesh_are_read_as_they_are():
    batches = [to_mesh(batch_of([1, 2], [True, True]), MESH), to_mesh(batch_of([0, 2], [True, False]), MESH)]
    given = []
    result = evaluate(
        lambda variables, batch: given.append(batch) or read(variables, batch),
        {},
        batches,
        mesh=MESH,
        expressions=EXPRESSIONS,
    )
    assert [batch is own for batch, own in zip(given, batches, strict=True)] == [True, True]
    assert result.columns["expression"].tolist() == [1, 2, 0]


def test_next_batch_is_under_way_when_a_sink_sees_one():
    events = []

    def reading(variables, batch):
        events.append(f"read {len(batch.index)}")
        return read(variables, batch)

    def sink(batch, outputs):
        events.append(f"seen {len(batch.index)}")

    batches = (batch_of([1] * count, [True] * count) for count in (1, 2, 3))
    evaluate(reading, {}, batches, mesh=MESH, expressions=EXPRESSIONS, sinks=[sink])
    assert events == ["read 1", "read 2", "seen 1", "read 3", "seen 2", "seen 3"]


def test_cosines_are_those_that_the_released_code_reads_one_by_one():
    rng, count, size = np.random.default_rng(0), 6, 56
    smooth = [cv2.resize(rng.normal(size=(4, 4)).astype(np.float32), (28, 28)) for _ in range(3 * count)]
    coarse, fine, cam = np.array(smooth).reshape(3, count, 28, 28)
    coarse = coarse[:, ::4, ::4] + 3.0  # nothing negative
    cam[-1] = 2.0  # flat: shows nothing
    faces = np.stack([LANDMARKS] * count) / 4 + rng.uniform(-3, 3, (count, 1, 2))
    batch = batch_of(range(1, count + 1), [True] * count, size)._replace(landmarks=faces.astype(np.float32))
    forward = methods.Forward(
        jnp.zeros((count, 7)), {"a": jnp.asarray(coarse), "b": jnp.asarray(fine)}, jnp.asarray(cam)
    )
    au_map, has_map = au_maps.batch_au_maps(
        batch.landmarks, batch.expression, batch.valid, size=(size, size), codebook=codebook.FACS
    )
    columns = jax.jit(evaluation.compare)(batch, forward, au_map, has_map)
    assert columns["has_map"].all()
    for face, drawn in enumerate(np.asarray(au_map)):
        for name, value in (("a", coarse), ("b", fine)):
            expected = released.released_cosine(value[face], drawn)
            assert float(columns[f"cosine/attention/{name}"][face]) == pytest.approx(expected, abs=1e-5)
        assert float(columns["cosine/cam"][face]) == pytest.approx(
            released.released_cam_cosine(cam[face], drawn), abs=1e-5
        )
