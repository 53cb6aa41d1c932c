"""The occlusion study of an evaluation: its files, and that they are about the same faces."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aujax import codebook, methods, occlusion, runs
from aujax.config import Config
from aujax.data.batch import data_mesh
from aujax.evaluation import faithfulness
from aujax.evaluation.faithfulness import Measured
from aujax.results import schema, summary
from aujax.results.schema import ScoreKey

FACS = codebook.FACS
# Padding has no landmarks, so its action units are not occluded.
OF_LANDMARKS = {"drop", "has_region", *occlusion.TargetAUSummary._fields}


@pytest.fixture(scope="module")
def opened(tiny_run):
    """A run that never predicts Neutral, so that every prediction has target AUs; its folder has an evaluation."""
    run = runs.load_run(tiny_run)
    head = jax.tree.map(jnp.asarray, run.variables["params"]["head"])
    head["fc"]["bias"] = head["fc"]["bias"].at[0].set(-1e3)
    params = run.variables["params"] | {"head": head}
    return run._replace(variables=run.variables | {"params": params}), runs.open_data(run, None)


@pytest.fixture(scope="module")
def written(opened, tiny_run, tmp_path_factory):
    """Eleven of sixteen faces in batches of eight: the last one is padded with five of the first."""
    workdir = tmp_path_factory.mktemp("faithfulness") / "run"
    shutil.copytree(tiny_run, workdir)
    lines, measured = [], []
    make = faithfulness.make_measurement

    def make_recording(*arguments, **options):
        measure, stages = make(*arguments, **options)

        def recorded(batch):
            measured.append(measure(batch))
            return measured[-1]

        return recorded, stages

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faithfulness, "make_measurement", make_recording)
        faithfulness.evaluate_faithfulness(*opened, workdir, "test", imputation="mean", limit=11, progress=lines.append)
    return schema.open_run(workdir, "test"), lines, measured


def test_every_part_is_written(written):
    run, lines, _ = written
    tables = run.faithfulness
    metadata = tables.metadata
    assert (metadata["num_faces"], metadata["imputation"], metadata["codebook"]) == (11, "mean", "FACS")
    assert metadata["aus"] == list(FACS.all_aus)
    maps = {*(f"layer{i}" for i in range(1, 6)), "cam"}
    randomisation = tables.rows("randomisation_similarity")
    stages = ["head", "stage4", "stage3", "stage2", "stage1", "stem"]
    assert randomisation["condition"].unique().tolist() == stages
    assert all(set(part["map"]) == maps for _, part in randomisation.groupby("condition"))
    assert set(tables.rows("view_similarity")["condition"]) == {"mirrored", "shifted"}
    assert set(tables.rows("same_prediction")["condition"]) == {"mirrored", "shifted"}
    for kind in ("deletion", "insertion", "road"):
        assert set(tables.rows(kind)["map"]) == {"layer5", "cam", "random"}
        fractions = tables.rows(f"{kind}_curve", map="cam")["condition"].astype(float)
        assert fractions.tolist() == list(occlusion.FRACTIONS)
    assert lines == ["faithfulness: 8 of 11 faces", "faithfulness: 11 of 11 faces"]


def test_stages_above_the_layer_of_a_map_do_not_change_it(written):
    tables = written[0].faithfulness

    def similarity(stage, name):
        key = {"map": name, "target": "predicted", "condition": stage}
        return tables.interval("randomisation_similarity", **key).value

    assert similarity("stage4", "layer4") == pytest.approx(1.0, abs=1e-5)
    assert similarity("stage3", "layer4") < 0.95
    assert similarity("head", "cam") < 0.95


def test_scores_are_of_the_sampled_faces_and_give_the_means(opened, written):
    run, _, _ = written
    expected = np.sort(np.random.default_rng(0).permutation(16)[:11])
    faces, scores = run.faithfulness_scores()
    assert faces["face"].tolist() == expected.tolist()
    source = opened[1].source("test")
    labels = [FACS.expressions[source[int(i)]["expression"]] for i in expected]
    assert faces["expression"].tolist() == labels
    for kind in ("deletion", "insertion", "road"):
        key = ScoreKey(kind, "cam", "predicted")
        assert run.faithfulness.interval(**key._asdict()).value == pytest.approx(scores[key].mean(), abs=1e-6)
    random, attention = (scores[ScoreKey("deletion", name, "predicted")] for name in ("random", "layer5"))
    gain = scores[ScoreKey("deletion_gain", "layer5", "predicted")]
    np.testing.assert_allclose(gain, random - attention, atol=1e-6)


def test_curves_begin_and_end_with_the_whole_image_and_nothing(written):
    tables = written[0].faithfulness

    def values(kind, fraction):
        return tables.rows(f"{kind}_curve", condition=fraction)["value"]

    whole = [*values("deletion", "0"), *values("insertion", "1"), *values("road", "0")]
    assert max(whole) - min(whole) < 1e-5


def test_a_face_measures_the_same_in_another_batch(written):
    first, second = (jax.device_get(measured) for measured in written[2])
    again = np.flatnonzero(~second.valid)
    np.testing.assert_array_equal(second.index[again], first.index[:5])
    for field in ("curves", "randomised", "views", "same_prediction", "occluded"):
        for (path, later), (_, before) in zip(
            *(jax.tree_util.tree_leaves_with_path(getattr(part, field)) for part in (second, first)), strict=True
        ):
            name = jax.tree_util.keystr(path)
            if not any(f"'{each}'" in name for each in OF_LANDMARKS):
                np.testing.assert_allclose(np.float64(later[again]), np.float64(before[:5]), atol=1e-4, err_msg=name)


def measured_by_hand():
    """Four faces: two predicted as Happiness, one as Sadness, one as Neutral, which has no target AUs."""
    drop, has_region = np.zeros((4, 20)), np.ones((4, 20), bool)
    drop[:3, FACS.all_aus.index(12)] = [0.2, 0.4, 0.9]
    has_region[1, FACS.all_aus.index(12)] = False
    occluded = {
        "drop": drop,
        "has_region": has_region,
        "target_drop": np.array([0.1, 0.3, 0.6, 0.0]),
        "non_target_drop": np.array([0.1, 0.1, 0.3, 0.7]),
        "control_drop": np.array([0.0, 0.0, 0.1, 0.0]),
        "top_is_target": np.array([1.0, 0.0, 1.0, 0.0]),
        "target_share": np.array([0.2, 0.2, 0.4, 0.0]),
        "has_target": np.array([True, True, True, False]),
        "has_non_target": np.ones(4, bool),
        "has_control": np.array([True, True, True, False]),
    }
    # One until a fifth of the image is occluded, then nothing.
    curve = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]) * np.ones((4, 1))
    curves = {kind: {"cam": curve, "random": np.ones((4, 8))} for kind in ("deletion", "insertion", "road")}
    return Measured(occluded, curves, {}, {}, {}, np.arange(4), np.ones(4, bool))


def summarized(measured, predicted):
    faces = summary.Faces(
        np.zeros(len(predicted), int), predicted, np.zeros((len(predicted), 7)), np.full(len(predicted), "")
    )
    scores = faithfulness.scores_of(measured, FACS)
    table = summary.summarize(faces, scores, FACS.expressions, classifier=False, resampled=False)
    return table.set_index(["metric", "map", "condition", "attribute", "group"])["value"]


def test_summary_by_hand():
    happiness, sadness = FACS.expressions.index("Happiness"), FACS.expressions.index("Sadness")
    found = summarized(measured_by_hand(), np.array([happiness, happiness, sadness, 0]))
    # Per predicted expression, and then over expressions; Neutral is left out.
    by_hand = {
        "target_drop": (0.2 + 0.6) / 2,
        "non_target_drop": (0.1 + 0.3) / 2,
        "control_drop": (0.0 + 0.1) / 2,
        "target_over_non_target": (0.1 + 0.3) / 2,
        "target_over_control": (0.2 + 0.5) / 2,
        "top_au_is_target": (0.5 + 1.0) / 2,
        "top_au_is_target_by_chance": (0.2 + 0.4) / 2,
    }
    for metric, value in by_hand.items():
        assert found[metric, "", "", "", ""] == pytest.approx(value), metric
    drops = [found["probability_drop", "", "AU12", "predicted", name] for name in ("Happiness", "Sadness", "Neutral")]
    assert drops == pytest.approx([0.2, 0.9, 0.0])
    assert np.isnan(found["probability_drop", "", "AU12", "predicted", "Fear"])


def test_areas_and_gains_by_hand():
    scores = faithfulness.scores_of(measured_by_hand(), FACS)
    # The fractions are 0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9 and 1.
    for kind, gain in (("deletion", 0.75), ("insertion", -0.75), ("road", 0.75)):
        np.testing.assert_allclose(scores[ScoreKey(kind, "cam", "predicted")], 0.25)
        np.testing.assert_allclose(scores[ScoreKey(kind, "random", "predicted")], 1.0)
        np.testing.assert_allclose(scores[ScoreKey(f"{kind}_gain", "cam", "predicted")], gain)


def test_predictions_of_neutral_alone_leave_no_means():
    measured = measured_by_hand()
    last = Measured(*jax.tree.map(lambda values: values[3:], tuple(measured)))
    found = summarized(last, np.zeros(1, int))
    assert np.isnan(found["target_drop", "", "", "", ""])
    assert np.isnan(found["top_au_is_target", "", "", "", ""])


def test_a_method_without_cam_has_curves_of_its_attention_alone(opened):
    run, _ = opened
    model = methods.build_model("APViT", backbone="apvit_tiny")
    config = Config(method="APViT", backbone="apvit_tiny", image_size=64, data=run.config.data)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    programs = faithfulness.make_programs(run._replace(model=model, config=config), data_mesh(), imputation="mean")
    image, expression = np.zeros((8, 64, 64, 3), np.float32), np.zeros(8, np.int32)
    _, maps = jax.eval_shape(programs.forward, variables, image, expression)
    assert set(maps) == {"stage1", "stage2", "stage3", "attention"}
