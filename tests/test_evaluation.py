"""Evaluation: the protocol by hand, and the files of a real run."""

import csv
import functools
import json
import shutil

import chex
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aujax import au_maps, codebook, evaluation, evaluation_files, metrics, runs
from aujax.data import feed
from aujax.data.batch import data_mesh, replicated
from aujax.data.store import open_faces
from aujax.errors import UserError
from aujax.evaluation import evaluate, summarize
from aujax.report import figures, page, tables

EXPRESSIONS = ("Neutral", "Happiness", "Sadness")


def rows_of(folder):
    with (folder / "examples.csv").open() as file:
        return list(csv.DictReader(file))


def columns(**changed):
    """Five faces: one neutral, two happy, two sad of whom one has no landmarks."""
    table = {
        "index": np.arange(5),
        "expression": np.array([0, 1, 1, 2, 2]),
        "predicted": np.array([0, 1, 2, 2, 0]),
        "probability": np.full(5, 0.5),
        "has_map": np.array([False, True, True, True, False]),
        "cosine/attention/layer5": np.array([0.9, 0.2, 0.4, 0.7, 0.9]),
        "cosine/cam": np.array([0.9, 0.1, 0.3, 0.6, 0.9]),
        "cosine/uniform": np.array([0.9, 0.5, 0.5, 0.4, 0.9]),
    }
    return table | changed


def test_accuracy_counts_every_face():
    assert summarize(columns(), EXPRESSIONS)["cl"] == pytest.approx(3 / 5)


def test_balanced_accuracy_is_the_mean_over_classes():
    assert summarize(columns(), EXPRESSIONS)["balanced_accuracy"] == pytest.approx((1 + 0.5 + 0.5) / 3)


def test_cosines_are_averaged_per_class_over_faces_with_a_map():
    # Happiness (0.2 + 0.4) / 2, Sadness 0.7 alone, Neutral has none.
    assert summarize(columns(), EXPRESSIONS)["att_cos"]["layer5"] == pytest.approx((0.3 + 0.7) / 2)


def test_cam_cosine_is_averaged_the_same_way():
    assert summarize(columns(), EXPRESSIONS)["cam_cos"] == pytest.approx((0.2 + 0.6) / 2)


def test_baselines_stand_apart():
    assert summarize(columns(), EXPRESSIONS)["baselines"] == {"uniform": pytest.approx(0.45)}


def test_a_class_without_maps_has_no_cosine():
    assert summarize(columns(), EXPRESSIONS)["per_class"]["Neutral"]["cam_cos"] is None


def test_without_any_map_there_is_no_cosine():
    summary = summarize(columns(has_map=np.zeros(5, bool)), EXPRESSIONS)
    assert (summary["num_maps"], summary["cam_cos"]) == (0, None)


def test_a_class_without_faces_does_not_count():
    summary = summarize(columns(), (*EXPRESSIONS, "Fear"))
    assert summary["balanced_accuracy"] == pytest.approx(2 / 3)
    assert summary["per_class"]["Fear"]["accuracy"] is None


def test_rows_of_the_confusion_matrix_are_true_classes():
    assert summarize(columns(), EXPRESSIONS)["confusion_matrix"] == [[1, 0, 0], [0, 1, 1], [1, 0, 1]]


def test_maps_without_a_pattern_are_counted_over_all_faces():
    shown = {"attention/layer4": [1, 1, 1, 1, 1], "attention/layer5": [1, 0, 1, 1, 1], "cam": [0, 1, 0, 1, 0]}
    table = columns(**{f"informative/{name}": np.array(values, bool) for name, values in shown.items()})
    summary = summarize(table, EXPRESSIONS)
    assert summary["cam_without_pattern"] == 3
    assert summary["att_without_pattern"] == {"layer4": 0, "layer5": 1}


@pytest.fixture(scope="module")
def written(tiny_run):
    folder = tiny_run / "eval" / "test"
    return json.loads((folder / "metrics.json").read_text()), dict(np.load(folder / "maps.npz")), folder


def test_metrics_say_where_they_come_from(written):
    described, _, _ = written
    assert {"method", "au_weight", "codebook", "checkpoint", "data", "versions", "attention_layer", "split"} <= set(
        described
    )


def test_every_face_has_a_row(written):
    rows = rows_of(written[2])
    assert [int(row["index"]) for row in rows] == list(range(16))


def test_rows_give_the_summary(written):
    rows = rows_of(written[2])
    assert np.mean([int(row["correct"]) for row in rows]) == pytest.approx(written[0]["cl"])


def test_faces_without_a_map_have_no_cosine_in_their_row(written):
    rows = rows_of(written[2])
    assert {row["cam_cos"] for row in rows if row["expression"] == "Neutral"} == {""}


def test_maps_are_kept_at_their_own_size(written):
    _, maps, _ = written
    sizes = {name: maps[f"attention/{name}"].shape for name in ("layer1", "layer2", "layer3", "layer5")}
    assert sizes == {"layer1": (16, 16, 16), "layer2": (16, 8, 8), "layer3": (16, 4, 4), "layer5": (16, 4, 4)}


def as_published(cam, size):
    """A CAM as the protocol compares it: stretched to [0, 1], then enlarged between half-pixel centres."""
    cam = (cam - cam.min()) / (cam.max() - cam.min())
    return np.clip(cv2.resize(cam, size, interpolation=cv2.INTER_LINEAR), 0, 1)


@pytest.fixture(scope="module")
def drawn(tiny_data):
    """The AU maps of the faces, and who has one."""
    batch = next(feed.batches(open_faces(tiny_data).source("test"), np.arange(16), batch_size=16, size=32, threads=1))
    draw = jax.jit(functools.partial(au_maps.batch_au_maps, size=(32, 32), codebook=codebook.FACS))
    return jax.device_get(draw(batch.landmarks, batch.expression, batch.has_landmarks))


def cosines(maps, au_map):
    return (maps * au_map).sum((-2, -1)) / np.linalg.norm(maps, axis=(-2, -1)) / np.linalg.norm(au_map, axis=(-2, -1))


def test_stored_maps_give_the_stored_cosines(written, drawn):
    _, maps, folder = written
    au_map, has_map = drawn
    rows = [row for row in rows_of(folder) if row["has_map"] == "1"]
    assert [int(row["index"]) for row in rows] == np.flatnonzero(has_map).tolist()
    attention = metrics.map_cosine(maps["attention/layer5"][has_map].astype(np.float32), au_map[has_map])
    np.testing.assert_allclose([float(row["att_cos_layer5"]) for row in rows], attention, atol=2e-3)
    cam = cosines(np.stack([as_published(cam, (32, 32)) for cam in maps["cam"][has_map]]), au_map[has_map])
    np.testing.assert_allclose([float(row["cam_cos"]) for row in rows], cam, atol=2e-3)


def test_baselines_are_cosines_of_maps_that_know_no_network(written, drawn):
    described, maps, _ = written
    au_map, has_map = drawn
    blob = np.exp(-2 * np.linspace(-1, 1, 32) ** 2)
    for name, trivial in {"uniform": np.ones((32, 32)), "centred_gaussian": np.outer(blob, blob)}.items():
        of_classes = [cosines(trivial, au_map[has_map & (maps["expression"] == k)]) for k in range(7)]
        expected = np.mean([values.mean() for values in of_classes if values.size])
        assert described["baselines"][name] == pytest.approx(expected, abs=1e-5)
    assert 0.5 < described["baselines"]["all_au_map"] < 1


def test_class_means_are_means_of_normalised_maps(written):
    _, maps, _ = written
    chosen = maps["attention/layer5"][maps["expression"] == 1].astype(np.float32)
    low, high = chosen.min((1, 2), keepdims=True), chosen.max((1, 2), keepdims=True)
    np.testing.assert_allclose(
        maps["class_mean/attention/layer5"][1], ((chosen - low) / (high - low)).mean(0), atol=5e-3
    )


def test_samples_are_two_of_each_expression_by_a_fixed_shuffle(written):
    _, maps, _ = written
    rank = np.random.default_rng(0).permutation(16)
    faces = [sorted(np.flatnonzero(maps["expression"] == k), key=lambda row: rank[row])[:2] for k in range(7)]
    assert maps["sample/index"].tolist() == [row for two in faces for row in two]


def test_one_device_gives_the_numbers_of_eight(written, tiny_run, tiny_data):
    described, maps, folder = written
    run, mesh = runs.load_run(tiny_run), data_mesh(jax.devices()[:1])
    read = evaluation.make_thorough_reader(run.model, run.config, mesh)
    batches = evaluation.whole_split(open_faces(tiny_data).source("test"), run.config, mesh)
    variables = jax.device_put(jax.device_get(run.variables), replicated(mesh))
    summary, columns = evaluate(read, variables, batches, mesh=mesh, expressions=described["expressions"])
    np.testing.assert_array_equal(columns["predicted"], maps["predicted"])
    described["baselines"].pop("class_mean_au_map")  # known once all faces were seen
    chex.assert_trees_all_close(summary["map_scores"], described["map_scores"], atol=1e-4)
    for name in ("att_cos", "baselines", "cam_cos", "cl", "macro_f1"):
        assert summary[name] == pytest.approx(described[name], abs=1e-4)
    for row in (row for row in rows_of(folder) if row["has_map"] == "1"):
        for layer in described["att_cos"]:
            cosine = columns[f"cosine/attention/{layer}"][int(row["index"])]
            assert float(row[f"att_cos_{layer}"]) == pytest.approx(float(cosine), abs=2e-4)


def test_an_unknown_split_is_refused(tiny_run):
    with pytest.raises(UserError, match="has no split 'exam': expected one of train, validation, test"):
        evaluation_files.evaluate_run(tiny_run, "exam")


def evaluated(tiny_run, workdir, change):
    """The folder of an evaluation of the same run, what its network gives being changed."""
    shutil.copytree(tiny_run, workdir, ignore=shutil.ignore_patterns("eval"))
    forward = evaluation.methods.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation.methods, "forward", lambda *given: change(forward(*given)))
        return evaluation_files.evaluate_run(workdir, "test")


@pytest.fixture(scope="module")
def spoiled(tiny_run, tmp_path_factory):
    """Faces 0 and 8 have a CAM of NaN, 1 and 9 a flat one, 2 and 10 a tiny one, 3 and 11 an infinite attention."""

    def spoil(forward):
        factor = jnp.ones(8).at[jnp.array([0, 1, 2])].set(jnp.array([jnp.nan, 0.0, 1e-12]))
        attention = forward.attention | {"layer5": forward.attention["layer5"].at[3, 1, 1].set(jnp.inf)}
        return forward._replace(cam=forward.cam * factor[:, None, None], attention=attention)

    return evaluated(tiny_run, tmp_path_factory.mktemp("spoiled") / "run", spoil)


@pytest.fixture(scope="module")
def without_cam(tiny_run, tmp_path_factory):
    return evaluated(tiny_run, tmp_path_factory.mktemp("cam") / "run", lambda forward: forward._replace(cam=None))


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_no_map_of_the_run_is_without_a_pattern(written):
    described, _, folder = written
    assert described["cam_without_pattern"] == 0
    assert set(described["att_without_pattern"].values()) == {0}
    assert {row["without_pattern"] for row in rows_of(folder)} == {""}


def test_flat_and_unfinite_maps_are_counted(spoiled, written):
    metrics, usual = metrics_of(spoiled), written[0]["att_without_pattern"]
    assert metrics["cam_without_pattern"] == 4
    assert metrics["att_without_pattern"] == usual | {"layer5": 2}


def test_faces_of_flat_and_unfinite_maps_are_named(spoiled):
    found = {int(row["index"]): row["without_pattern"] for row in rows_of(spoiled) if row["without_pattern"]}
    assert found == dict.fromkeys([0, 1, 8, 9], "cam") | dict.fromkeys([3, 11], "attention/layer5")


def test_stored_maps_are_not_finite_where_they_were_not(spoiled):
    with np.load(spoiled / "maps.npz") as maps:
        assert np.isnan(maps["cam"][[0, 8]]).all()
        assert np.isinf(maps["attention/layer5"][[3, 11], 1, 1]).all()
        assert all(np.isfinite(maps[name]).all() for name in maps if name.startswith("class_mean/"))


def test_cam_too_small_for_half_precision_keeps_its_pattern(spoiled, written):
    with np.load(spoiled / "maps.npz") as maps:
        tiny = maps["cam"][2]
    assert 0 < np.abs(tiny).max() < 1e-10
    np.testing.assert_allclose(1e12 * tiny, written[1]["cam"][2], rtol=1e-4)


def test_printed_evaluation_tells_of_maps_without_a_pattern_in_one_line(spoiled, written, capsys):
    tables.print_evaluation(spoiled)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "pattern" in line]
    assert "the CAM of 4, the attention at layer5 of 2 of 16 faces" in line
    tables.print_evaluation(written[2])
    assert "pattern" not in capsys.readouterr().out


def test_a_method_without_cam_has_no_number_about_it(without_cam, written):
    metrics = metrics_of(without_cam)
    assert (metrics["cam_cos"], metrics["cam_without_pattern"]) == (None, None)
    assert metrics["att_cos"] == pytest.approx(written[0]["att_cos"], abs=1e-6)
    assert "cam_cos" not in rows_of(without_cam)[0]
    with np.load(without_cam / "maps.npz") as maps:
        assert not [name for name in maps if "cam" in name]


def test_a_method_without_cam_is_drawn_and_compared(without_cam, tiny_run, tmp_path):
    assert len(figures.draw_evaluation(without_cam)) == 4
    (page_of_both, *_) = page.write([tiny_run, without_cam.parents[1]], "test", tmp_path / "report")
    assert page_of_both.is_file()
