"""Memory does not grow with the data: bytes that are live after few and after many faces."""

import tracemalloc

import numpy as np
import pytest
from test_explain_page import explanation

from aujax.data.batch import Batch, data_mesh
from aujax.evaluation.collect import MapCollector
from aujax.evaluation.evaluate import Outputs, predict
from aujax.explain import page
from aujax.results import schema
from aujax.results.schema import ScoreKey, ScoreWriter

BATCH = 8


@pytest.fixture
def live():
    """The number of bytes that Python and NumPy have allocated since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()


def batches(count):
    """Batches of faces of 32 pixels."""
    for number in range(count):
        yield Batch(
            image=np.zeros((BATCH, 32, 32, 3), np.uint8),
            landmarks=np.zeros((BATCH, 68, 2), np.float32),
            expression=np.arange(BATCH, dtype=np.int32) % 7,
            index=np.arange(BATCH, dtype=np.int32) + number * BATCH,
            has_landmarks=np.ones(BATCH, bool),
            valid=np.ones(BATCH, bool),
        )


def eval_step(_, batch):
    """No network: half of the faces are predicted correctly, and there are 50 scores."""
    columns = {"face": batch.index, "expression": batch.expression, "predicted": batch.expression // 2 * 2}
    columns |= {"probability": np.cos(batch.index), "has_map": batch.valid, "valid": batch.valid}
    scores = {ScoreKey("auc", str(number)): np.ones(BATCH, np.float32) for number in range(49)}
    scores[ScoreKey("cosine", "layer")] = np.ones(BATCH, np.float32)
    maps = {"layer": np.ones((BATCH, 16, 16), np.float32)}
    return Outputs(columns, scores, maps, np.ones((BATCH, 32, 32), np.float32), {})


def test_an_evaluation_keeps_only_the_columns_of_each_face(tmp_path, monkeypatch, live):
    monkeypatch.setattr("aujax.evaluation.evaluate.to_mesh", lambda batch, mesh: batch)
    sizes = []
    for count in (50, 250):  # 400 faces are enough for the sample and the gallery
        with MapCollector(count * BATCH, attention_layer="layer", directory=tmp_path) as collector:
            before = live()
            predictions = predict(eval_step, {}, batches(count), mesh=data_mesh(), sinks=[collector], keep=["cosine"])
            sizes.append(live() - before)
        assert len(predictions.columns["face"]) == count * BATCH
    # 26 bytes are returned; the image of a face has 3,072, its map 512 on the disk, its scores 200.
    assert (sizes[1] - sizes[0]) / (200 * BATCH) < 100


def test_scores_are_read_in_parts(tmp_path, monkeypatch, live):
    monkeypatch.setattr(schema, "_ROWS_PER_GROUP", 2000)
    faces, columns = 4000, 10
    with ScoreWriter(tmp_path / "scores.parquet") as writer:
        for rows in np.split(np.arange(faces), 40):
            writer.add(rows, {ScoreKey("auc", str(name)): np.ones(len(rows)) for name in range(columns)})
    tracemalloc.reset_peak()
    before = live()
    scores = schema.read_scores(tmp_path / "scores.parquet", range(faces), remedy="")
    assert len(scores) == columns
    # 4 bytes a score are returned; a table of all rows would have at least 16 a score.
    assert tracemalloc.get_traced_memory()[1] - before < 10 * faces * columns


def test_explanations_keep_an_outline_of_each_face(live):
    collector, sizes = page.Collector(), []
    for number in range(1601):
        collector.add(explanation(number % 256)._replace(second=float(number)))
        if number in (800, 1600):  # images of 100 or 101 faces are kept
            sizes.append(live())
    assert sum(kept.aligned.size > 0 for kept in collector.explanations) <= 201
    assert (sizes[1] - sizes[0]) / 800 < 1500  # an explanation with images takes 12 kB here
