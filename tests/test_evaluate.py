"""Evaluation: padding and sinks without a network, cosines beside the released code's, the files of a real run."""

import dataclasses
import functools
import importlib.util
import json
import pathlib
import shutil

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics
from golden_face import LANDMARKS

from aujax import au_maps, cli, codebook, methods, metrics, runs
from aujax.data import feed
from aujax.data.batch import Batch, data_mesh, replicated, to_mesh
from aujax.data.store import open_faces
from aujax.errors import UserError
from aujax.evaluation import evaluate
from aujax.evaluation.collect import MapCollector
from aujax.evaluation.evaluate import Outputs, predict
from aujax.results import schema
from aujax.results.registry import BASELINE_MAPS
from aujax.results.schema import ScoreKey

pytestmark = pytest.mark.jax_versions

_PATH = pathlib.Path(__file__).parents[1] / "benchmarks" / "released_cosines.py"
_SPEC = importlib.util.spec_from_file_location("released_cosines", _PATH)
released = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(released)

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


def eval_step(_, batch):
    """No network: happy faces are predicted as happy, all others as neutral."""
    columns = {
        "face": batch.index,
        "expression": batch.expression,
        "predicted": batch.expression % 2,
        "logits": jax.nn.one_hot(batch.expression % 2, 3),
        "valid": batch.valid,
    }
    scores = {ScoreKey("cosine", "layer5", "label"): jnp.arange(len(batch.index)) / 4}
    return Outputs(columns, scores, {}, jnp.zeros((len(batch.index), 4, 4)), {})


def test_padding_is_left_out():
    batches = [batch_of([1, 2], [True, True]), batch_of([1, 2], [True, False])]
    found = predict(eval_step, {}, batches, mesh=MESH)
    assert found.columns["expression"].tolist() == [1, 2, 1]
    assert found.scores[ScoreKey("cosine", "layer5", "label")].tolist() == [0.0, 0.25, 0.0]


def test_validation_reports_the_headline_metrics():
    batches = [batch_of([1, 2], [True, True]), batch_of([1, 2], [True, False])]
    found = predict(eval_step, {}, batches, mesh=MESH)
    numbers = evaluate.validation_metrics(found, ("Neutral", "Happiness", "Sadness"), layer="layer5")
    assert numbers["accuracy"] == pytest.approx(2 / 3)
    assert numbers["att_cos"] == pytest.approx((0.0 + 0.25) / 2)
    assert numbers["att_cos_by_layer"] == {"layer5": numbers["att_cos"]}
    assert numbers["cam_cos"] is None


def test_batches_on_the_mesh_are_used_as_they_are():
    batches = [to_mesh(batch_of([1, 2], [True, True]), MESH), to_mesh(batch_of([0, 2], [True, False]), MESH)]
    given = []
    found = predict(lambda variables, batch: given.append(batch) or eval_step(variables, batch), {}, batches, mesh=MESH)
    assert [batch is own for batch, own in zip(given, batches, strict=True)] == [True, True]
    assert found.columns["expression"].tolist() == [1, 2, 0]


def test_devices_compute_one_batch_ahead_of_the_sinks():
    events = []

    def recording_step(variables, batch):
        events.append(f"step {len(batch.index)}")
        return eval_step(variables, batch)

    def sink(batch, outputs):
        events.append(f"sink {len(batch.index)}")

    batches = (batch_of([1] * count, [True] * count) for count in (1, 2, 3))
    predict(recording_step, {}, batches, mesh=MESH, sinks=[sink])
    assert events == ["step 1", "step 2", "sink 1", "step 3", "sink 2", "sink 3"]


def test_cosines_equal_those_of_the_released_code_face_by_face():
    rng, count, size = np.random.default_rng(0), 6, 56
    smooth = [cv2.resize(rng.normal(size=(4, 4)).astype(np.float32), (28, 28)) for _ in range(3 * count)]
    coarse, fine, cam = np.array(smooth).reshape(3, count, 28, 28)
    coarse = coarse[:, ::4, ::4] + 3.0  # without negative values
    cam[-1] = 2.0  # degenerate
    faces = np.stack([LANDMARKS] * count) / 4 + rng.uniform(-3, 3, (count, 1, 2))
    batch = batch_of(range(1, count + 1), [True] * count, size)._replace(landmarks=faces.astype(np.float32))
    forward = methods.Forward(
        jnp.zeros((count, 7)), {"a": jnp.asarray(coarse), "b": jnp.asarray(fine)}, jnp.asarray(cam)
    )
    au_map, has_map = au_maps.batch_au_maps(
        batch.landmarks, batch.expression, batch.valid, size=(size, size), codebook=codebook.FACS
    )
    columns, scores = jax.jit(evaluate.compare)(batch, forward, au_map, has_map)
    assert columns["has_map"].all()
    for face, drawn in enumerate(np.asarray(au_map)):
        for name, value in (("a", coarse), ("b", fine)):
            expected = released.released_cosine(value[face], drawn)
            assert float(scores[ScoreKey("cosine", name, "label")][face]) == pytest.approx(expected, abs=1e-5)
        expected = released.released_cam_cosine(cam[face], drawn)
        assert float(scores[ScoreKey("cosine", "cam", "label")][face]) == pytest.approx(expected, abs=1e-5)
    np.testing.assert_array_equal(scores[ScoreKey("degenerate", "cam")], [0, 0, 0, 0, 0, 1])


@pytest.fixture(scope="module")
def evaluated(tiny_run):
    run = schema.open_run(tiny_run, "test")
    with np.load(run.directory / schema.MAPS) as archive:
        return run, dict(archive)


def test_metrics_describe_the_evaluation(evaluated):
    described = {
        "method",
        "au_weight",
        "codebook",
        "checkpoint",
        "data",
        "versions",
        "attention_layer",
        "split",
        "seed",
    }
    assert described <= evaluated[0].metadata.keys()
    assert evaluated[0].metadata["model_selection"] == "validation"


def test_every_face_has_a_row(evaluated):
    assert evaluated[0].faces["face"].tolist() == list(range(16))


def test_rows_give_the_main_numbers(evaluated):
    run, _ = evaluated
    assert run.faces["correct"].mean() == pytest.approx(run.metadata["accuracy"])
    mapped = run.faces[run.faces["has_map"] == 1]
    macro = mapped.groupby("expression", observed=True)["att_cos"].mean().mean()
    assert run.metadata["att_cos"] == pytest.approx(macro, abs=1e-6)
    assert run.metadata["att_cos"] == run.metadata["att_cos_by_layer"]["layer5"]


def test_faces_without_an_au_map_have_no_cosine(evaluated):
    faces = evaluated[0].faces
    assert faces.loc[faces["expression"] == "Neutral", ["att_cos", "cam_cos"]].isna().all(axis=None)


def test_maps_are_stored_at_their_own_size(evaluated):
    _, maps = evaluated
    sizes = {name: maps[name].shape for name in ("layer1", "layer2", "layer3", "layer5")}
    assert sizes == {"layer1": (16, 16, 16), "layer2": (16, 8, 8), "layer3": (16, 4, 4), "layer5": (16, 4, 4)}


def as_published(cam, size):
    """A CAM as the protocol compares it: min-max normalised, then enlarged between half-pixel centres."""
    cam = (cam - cam.min()) / (cam.max() - cam.min())
    return np.clip(cv2.resize(cam, size, interpolation=cv2.INTER_LINEAR), 0, 1)


@pytest.fixture(scope="module")
def drawn(tiny_data):
    """The AU maps of the faces, and which faces have one."""
    batch = next(feed.batches(open_faces(tiny_data).source("test"), np.arange(16), batch_size=16, size=32, threads=1))
    draw = jax.jit(functools.partial(au_maps.batch_au_maps, size=(32, 32), codebook=codebook.FACS))
    return jax.device_get(draw(batch.landmarks, batch.expression, batch.has_landmarks))


def cosines(maps, au_map):
    return (maps * au_map).sum((-2, -1)) / np.linalg.norm(maps, axis=(-2, -1)) / np.linalg.norm(au_map, axis=(-2, -1))


def test_stored_maps_give_the_stored_cosines(evaluated, drawn):
    run, maps = evaluated
    au_map, has_map = drawn
    rows = run.faces[run.faces["has_map"] == 1]
    assert rows["face"].tolist() == np.flatnonzero(has_map).tolist()
    attention = metrics.map_cosine(maps["layer5"][has_map].astype(np.float32), au_map[has_map])
    np.testing.assert_allclose(rows["att_cos"], attention, atol=2e-3)
    cam = cosines(np.stack([as_published(cam, (32, 32)) for cam in maps["cam"][has_map]]), au_map[has_map])
    np.testing.assert_allclose(rows["cam_cos"], cam, atol=2e-3)


@pytest.mark.parametrize("normalization", ["imagenet", "vggface2"])
def test_the_cam_is_that_of_the_label_on_normalised_pixels(tiny_run, tiny_data, normalization):
    """By hand: the features of layer 5 times the label's weights in the linear head (Zhou et al. 2016)."""
    loaded = runs.load_run(tiny_run)
    config = dataclasses.replace(loaded.config, normalization=normalization)
    batch = next(evaluate.whole_split(open_faces(tiny_data).source("test"), config, MESH))
    batch = batch._replace(expression=np.arange(8, dtype=np.int32) % 7)
    variables = jax.device_get(loaded.variables)
    forward, _, _ = evaluate.make_forward(loaded.model, config, MESH)(variables, batch)
    mean, deviation = {
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "vggface2": (np.array([131.0912, 103.8827, 91.4953]) / 255, np.full(3, 1 / 255)),
    }[normalization]
    image = ((batch.image / 255.0 - mean) / deviation).astype(np.float32)
    activations = jax.jit(functools.partial(methods.apply_with_taps, loaded.model))(variables, image).activations
    weights = variables["params"]["head"]["fc"]["kernel"]
    expected = np.einsum("bhwc,cb->bhw", activations["layer5"], weights[:, batch.expression])
    np.testing.assert_allclose(forward.cam, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert (np.asarray(forward.logits).argmax(-1) != batch.expression).sum() >= 4  # of which the CAM is another


def test_scores_of_the_prediction_compare_with_its_own_au_map(evaluated, tiny_data):
    run, maps = evaluated
    batch = next(feed.batches(open_faces(tiny_data).source("test"), np.arange(16), batch_size=16, size=32, threads=1))
    draw = jax.jit(functools.partial(au_maps.batch_au_maps, size=(32, 32), codebook=codebook.FACS))
    predicted = run.predictions.predicted.astype(np.int32)
    au_map, has_map = jax.device_get(draw(batch.landmarks, predicted, batch.has_landmarks))
    stored = run.tables.scores(run.faces)[ScoreKey("correlation", "layer5", "predicted")]
    np.testing.assert_array_equal(np.isnan(stored), ~has_map)
    cells = au_map.reshape(16, 4, 8, 4, 8).mean((2, 4))
    pairs = zip(maps["layer5"].astype(float), cells, stored, has_map, strict=True)
    for attention, target, value, drawn in pairs:
        if drawn:
            assert value == pytest.approx(np.corrcoef(attention.ravel(), target.ravel())[0, 1], abs=5e-3)


def test_baselines_are_cosines_of_maps_that_ignore_the_network(evaluated, drawn):
    run, maps = evaluated
    au_map, has_map = drawn
    gaussian = np.exp(-2 * np.linspace(-1, 1, 32) ** 2)
    baselines = run.metadata["baselines"]
    for name, baseline in {"uniform": np.ones((32, 32)), "centred_gaussian": np.outer(gaussian, gaussian)}.items():
        by_class = [cosines(baseline, au_map[has_map & (maps["expression"] == k)]) for k in range(7)]
        expected = np.mean([values.mean() for values in by_class if values.size])
        assert baselines[name] == pytest.approx(expected, abs=1e-5)
    assert 0.5 < baselines["all_au_map"] < 1
    assert baselines["class_mean_au_map"] > baselines["uniform"]


def test_class_means_are_means_of_normalised_maps(evaluated):
    _, maps = evaluated
    chosen = maps["layer5"][maps["expression"] == 1].astype(np.float32)
    low, high = chosen.min((1, 2), keepdims=True), chosen.max((1, 2), keepdims=True)
    np.testing.assert_allclose(maps["class_mean/layer5"][1], ((chosen - low) / (high - low)).mean(0), atol=5e-3)


def test_the_mean_au_map_of_a_class_is_over_the_faces_that_have_one():
    collector = MapCollector(3, attention_layer="layer5", directory=None)
    maps = {"layer5": np.ones((3, 2, 2)), "cam": np.ones((3, 2, 2))}
    columns = {"face": np.arange(3), "expression": np.array([1, 1, 1]), "predicted": np.array([1, 1, 1])}
    columns |= {"probability": np.ones(3), "has_map": np.array([True, True, False]), "valid": np.ones(3, bool)}
    # The AU maps of two faces, and the CAMs of three.
    sums = {
        "au_map": np.array([np.zeros((2, 2)), np.full((2, 2), 0.8)]),
        "cam": np.array([np.zeros((2, 2)), np.full((2, 2), 0.9)]),
    }
    collector(batch_of([1] * 3, [True] * 3), Outputs(columns, {}, maps, np.ones((3, 4, 4)), sums))
    means = collector.class_means(columns["expression"], columns["has_map"], 2)
    np.testing.assert_allclose(means["class_mean/au_map"][1], np.full((2, 2), 0.4))
    np.testing.assert_allclose(means["class_mean/cam"][1], np.full((2, 2), 0.3))
    assert means["class_map_count"].tolist() == [0, 2]


def test_samples_are_two_of_each_expression_by_a_fixed_shuffle(evaluated):
    _, maps = evaluated
    rank = np.random.default_rng(0).permutation(16)
    faces = [sorted(np.flatnonzero(maps["expression"] == k), key=lambda row: rank[row])[:2] for k in range(7)]
    assert maps["sample/face"].tolist() == [row for two in faces for row in two]


def test_one_device_gives_the_scores_of_eight(evaluated, tiny_run, tiny_data):
    run, _ = evaluated
    loaded, mesh = runs.load_run(tiny_run), data_mesh(jax.devices()[:1])
    data = dataclasses.replace(loaded.config.data, eval_batch_size=6)  # 6, 6, and 4 with two of padding
    config = dataclasses.replace(loaded.config, data=data)
    step = evaluate.make_full_eval_step(loaded.model, config, mesh)
    batches = evaluate.whole_split(open_faces(tiny_data).source("test"), config, mesh)
    variables = jax.device_put(jax.device_get(loaded.variables), replicated(mesh))
    collector = MapCollector(16, attention_layer="layer5", directory=None)
    found = predict(step, variables, batches, mesh=mesh, sinks=[collector])
    means = collector.class_means(found.columns["expression"], found.columns["has_map"], 7)
    for name in means:
        np.testing.assert_allclose(means[name], evaluated[1][name], atol=1e-3, err_msg=name)
    np.testing.assert_array_equal(found.columns["predicted"], run.predictions.predicted)
    stored = run.tables.scores(run.faces)
    del stored[ScoreKey("cosine", "class_mean_au_map", "label")]  # needs all faces first
    assert stored.keys() == found.scores.keys()
    for key, values in found.scores.items():
        # The area that IoU compares ends among equal values of a map: rounding decides which of them count.
        tolerance = 5e-3 if key.metric == "iou" else 2e-4
        np.testing.assert_allclose(values, stored[key], atol=tolerance, err_msg=str(key))


def test_a_split_that_does_not_exist_is_refused(tiny_run):
    with pytest.raises(UserError, match="has no split 'exam': expected one of train, validation, test"):
        evaluate.evaluate_run(tiny_run, "exam")


def test_the_memory_of_images_is_released(tiny_run, tiny_data):
    """What the evaluation keeps of a batch for its second pass holds no pixels."""
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "class_mean_cosines", lambda batches, *_: kept.extend(batches) or np.zeros(16))
        patch.setattr(evaluate.files, "write_json", lambda *_: None)
        workdir = tiny_run.parent / "memory"
        run = runs.load_run(tiny_run)
        evaluate.evaluate(run, open_faces(tiny_data), workdir, "test")
    assert len(kept) == 2
    for batch in kept:
        base = batch.image if batch.image.base is None else batch.image.base
        assert base.nbytes == 0


def test_maps_of_all_faces_are_written_only_if_wanted(evaluated, tiny_run, tiny_data, tmp_path):
    run, maps = evaluated
    directory = evaluate.evaluate(runs.load_run(tiny_run), open_faces(tiny_data), tmp_path, "test", all_maps=False)
    assert {path.name for path in directory.iterdir()} == {
        path.name for path in run.directory.iterdir() if path.is_file()
    }
    with np.load(directory / schema.MAPS) as archive:
        assert set(maps) - set(archive) == {*run.metadata["maps"]} - {*BASELINE_MAPS}
        np.testing.assert_array_equal(archive["sample/image"], maps["sample/image"])


def evaluate_changed(tiny_run, workdir, change):
    """The evaluation of the same run, with changed outputs of its network."""
    shutil.copytree(tiny_run, workdir, ignore=shutil.ignore_patterns("eval"))
    forward = methods.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.methods, "forward", lambda *given: change(forward(*given)))
        evaluate.evaluate_run(workdir, "test")
    return schema.open_run(workdir, "test")


@pytest.fixture(scope="module")
def spoiled(tiny_run, tmp_path_factory):
    """Faces 0 and 8 have a CAM of NaN, 1 and 9 a constant one, 2 and 10 a tiny one, 3 and 11 an infinite attention."""

    def spoil(forward):
        factor = jnp.ones(8).at[jnp.array([0, 1, 2])].set(jnp.array([jnp.nan, 0.0, 1e-12]))
        attention = forward.attention | {"layer5": forward.attention["layer5"].at[3, 1, 1].set(jnp.inf)}
        return forward._replace(cam=forward.cam * factor[:, None, None], attention=attention)

    return evaluate_changed(tiny_run, tmp_path_factory.mktemp("spoiled") / "run", spoil)


def degenerate_share(run, name):
    return run.tables.interval("degenerate", map=name).value


def test_no_map_of_the_run_is_degenerate(evaluated):
    run, _ = evaluated
    assert {degenerate_share(run, name) for name in ("layer1", "layer5", "cam")} == {0.0}
    assert set(run.faces["degenerate"]) == {""}


def test_constant_and_unfinite_maps_are_counted(spoiled):
    assert degenerate_share(spoiled, "cam") == pytest.approx(4 / 16)
    assert degenerate_share(spoiled, "layer5") == pytest.approx(2 / 16)
    assert degenerate_share(spoiled, "layer4") == 0


def test_faces_with_degenerate_maps_are_named(spoiled):
    found = {row.face: row.degenerate for row in spoiled.faces.itertuples() if row.degenerate}
    assert found == dict.fromkeys([0, 1, 8, 9], "cam") | dict.fromkeys([3, 11], "layer5")


def test_stored_maps_are_not_finite_where_they_were_not(spoiled):
    with np.load(spoiled.directory / schema.MAPS) as maps:
        assert np.isnan(maps["cam"][[0, 8]]).all()
        assert np.isinf(maps["layer5"][[3, 11], 1, 1]).all()
        assert all(np.isfinite(maps[name]).all() for name in maps if name.startswith("class_mean/"))


def test_a_cam_too_small_for_half_precision_keeps_its_pattern(spoiled, evaluated):
    with np.load(spoiled.directory / schema.MAPS) as maps:
        tiny = maps["cam"][2]
    assert 0 < np.abs(tiny).max() < 1e-10
    np.testing.assert_allclose(1e12 * tiny, evaluated[1]["cam"][2], rtol=1e-4)


def test_an_evaluation_that_fails_leaves_no_metrics_of_the_one_before(tiny_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(tiny_run, workdir)
    written = workdir / "eval" / "test"
    (written / schema.FACES).unlink()
    (written / schema.FACES).mkdir()  # cannot be opened for writing
    with pytest.raises(IsADirectoryError):
        evaluate.evaluate_run(workdir, "test")
    assert not (written / schema.METADATA).exists()


def test_the_command_fits_the_temperature_on_validation_and_uses_it_on_test(
    tiny_run, tmp_path, capsys, blank_figures, monkeypatch
):
    monkeypatch.setattr(cli, "keep_compiled_programs", lambda: None)
    workdir = tmp_path / "run"
    shutil.copytree(tiny_run, workdir)
    assert schema.open_run(workdir, "test").metadata["temperature"]["value"] is None
    cli.main(["eval", f"--workdir={workdir}", "--split=test,validation"])
    printed = capsys.readouterr().out
    assert printed.index("validation") < printed.index("test")
    assert printed.count("ATT-COS") >= 2  # a table of each split
    fitted = json.loads((workdir / "calibration.json").read_text())["temperature"]
    faces = schema.open_run(workdir, "validation").predictions

    def loss(temperature):  # of the labels, which scikit-learn computes from probabilities
        chances = scipy.special.softmax(faces.logits.astype(float) / temperature, axis=1)
        return sklearn.metrics.log_loss(faces.expression, chances, labels=range(7))

    # Larger on both sides; the fit may end at its bounds.
    assert all(loss(fitted) < loss(fitted * factor) for factor in (0.9, 1.1) if 1 / 20 < fitted * factor < 20)
    assert schema.open_run(workdir, "validation").metadata["temperature"]["value"] is None
    run = schema.open_run(workdir, "test")
    assert run.metadata["temperature"]["value"] == fitted
    assert run.tables.interval("negative_log_likelihood", condition="calibrated").value is not None
    assert run.metadata["operating_point"]["target_accuracy"] == 0.95
