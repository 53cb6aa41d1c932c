"""Faithfulness of an evaluation: its files, its scores by hand, and the sanity checks of maps."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from aujax import codebook, methods, occlusion, runs
from aujax.evaluation import evaluate, faithfulness
from aujax.report import page
from aujax.results import schema, summary
from aujax.results.registry import BASELINE_ORDERINGS
from aujax.results.schema import ScoreKey

FACS = codebook.FACS
# Padding has no landmarks, so its action units are not occluded.
OF_LANDMARKS = {"probability_drop", "target_drop", "non_target_drop", "control_drop", "target_over_non_target"}
OF_LANDMARKS |= {"target_over_control", "top_au_is_target", "top_au_is_target_by_chance"}
OF_LANDMARKS |= {"active_drop", "active_control_drop", "active_over_control"}


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
        measure = make(*arguments, **options)

        def recorded(variables, batch):
            measured.append(measure(variables, batch))
            return measured[-1]

        return recorded

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
        assert set(tables.rows(kind)["map"]) == {"layer5", "cam", *BASELINE_ORDERINGS}
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
    faces = run.faces.iloc[expected]
    scores = run.faithfulness.scores(faces)
    assert run.faithfulness.metadata["faces"] == expected.tolist()
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
    for condition, kind in (("occlusion", "deletion"), ("road", "road")):
        maps = ["layer5", "cam", "random", "centred_gaussian"]  # not every face has an AU map
        whole, imputed = (
            [tables.interval(f"{kind}_curve", map=name, target="predicted", condition=share).value for name in maps]
            for share in ("0", "1")
        )
        assert max(whole) - min(whole) < 1e-5
        assert max(imputed) - min(imputed) < 1e-5
        faces = tables.scores(written[0].faces)[ScoreKey("full_drop", "", "predicted", condition)]
        assert np.nanmean(faces) == pytest.approx(whole[0] - imputed[0], abs=1e-5)


def test_a_face_measures_the_same_in_another_batch(written):
    first, second = (jax.device_get(measured) for measured in written[2])
    again = np.flatnonzero(~second.columns["valid"])
    np.testing.assert_array_equal(second.columns["face"][again], first.columns["face"][:5])
    np.testing.assert_array_equal(second.columns["predicted"][again], first.columns["predicted"][:5])
    for key, values in second.scores.items():
        if key.metric.removesuffix("_normalised") not in OF_LANDMARKS and key.map != "label_au_map":
            np.testing.assert_allclose(values[again], first.scores[key][:5], atol=1e-4, err_msg=str(key))


def test_active_aus_are_those_that_the_face_shows(opened, written):
    run, _, _ = written
    source, scores = opened[1].source("test"), run.faithfulness.scores(run.faces)
    drop = scores[ScoreKey("active_drop", "", "label")]
    checked = 0
    for row in run.faithfulness.metadata["faces"]:
        aus = source[row]["aus"].tolist()
        assert np.isnan(drop[row]) == (not aus)
        groups = {group for group in FACS.same_region(FACS.all_aus) if set(group) & set(aus)}
        of_groups = [scores[ScoreKey("probability_drop", "", "predicted", f"AU{group[0]}")][row] for group in groups]
        if groups:
            assert drop[row] == pytest.approx(np.mean(of_groups), abs=1e-6)
            checked += 1
    assert checked > 5


def scores_by_hand():
    """Scores of four faces: two predicted as Happiness, one as Sadness, one as Neutral, which has no target AUs."""
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
    occluded["has_map"] = np.array([True, True, True, False])
    # From 1 for the whole image to 0.2, or 0.5 by ROAD, with everything imputed; on the last face to 0.95.
    shares = np.array(occlusion.FRACTIONS)
    curves = {
        "deletion": {"cam": np.where(shares < 0.25, 1, 0.2), "random": 1 - 0.8 * shares},
        "insertion": {"cam": np.where(shares > 0.05, 1, 0.2), "random": 0.2 + 0.8 * shares},
        "road": {"cam": np.where(shares < 0.05, 1, 0.5), "random": 1 - 0.5 * shares},
    }
    for kind, lowest in (("deletion", 0.2), ("insertion", 0.2), ("road", 0.5)):
        ends = np.array([lowest, lowest, lowest, 0.95])[:, None]
        curves[kind] = {name: 1 - (1 - curve) / (1 - lowest) * (1 - ends) for name, curve in curves[kind].items()}
        curves[kind]["label_au_map"] = curves[kind]["cam"]
    return faithfulness.occlusion_scores(occluded, curves, FACS)


def summarized(scores, predicted):
    faces = summary.Faces(
        np.zeros(len(predicted), int), predicted, np.zeros((len(predicted), 7)), np.full(len(predicted), "")
    )
    table = summary.summarize(faces, scores, FACS.expressions, classifier=False, resampled=False)
    return table.set_index(["metric", "map", "condition", "attribute", "group"])["value"]


def test_summary_by_hand():
    happiness, sadness = FACS.expressions.index("Happiness"), FACS.expressions.index("Sadness")
    found = summarized(scores_by_hand(), np.array([happiness, happiness, sadness, 0]))
    # Per predicted expression, and then over expressions; Neutral is left out.
    by_hand = {
        "target_drop": (0.2 + 0.6) / 2,
        "non_target_drop": (0.1 + 0.3) / 2,
        "control_drop": (0.0 + 0.1) / 2,
        "target_over_non_target": (0.1 + 0.3) / 2,
        "target_over_control": (0.2 + 0.5) / 2,
        "target_drop_normalised": (0.2 + 0.6) / 2 / 0.8,
        "target_over_control_normalised": (0.2 + 0.5) / 2 / 0.8,
        "top_au_is_target": (0.5 + 1.0) / 2,
        "top_au_is_target_by_chance": (0.2 + 0.4) / 2,
    }
    for metric, value in by_hand.items():
        assert found[metric, "", "", "", ""] == pytest.approx(value), metric
    drops = [found["probability_drop", "", "AU12", "predicted", name] for name in ("Happiness", "Sadness", "Neutral")]
    assert drops == pytest.approx([0.2, 0.9, 0.0])
    assert np.isnan(found["probability_drop", "", "AU12", "predicted", "Fear"])


def test_areas_and_gains_by_hand():
    scores = scores_by_hand()
    # The fractions are 0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9 and 1: trapezoids up to where the curve is flat, then the rest.
    for kind, area, random, full_drop, imputed in (
        ("deletion", 0.2 + 0.06 + 0.14, 0.6, 0.8, 0.2),
        ("insertion", 0.06 + 0.9, 0.6, 0.8, 0.2),
        ("road", 0.075 + 0.45, 0.75, 0.5, 0.5),
    ):
        gain = area - random if kind == "insertion" else random - area
        found = {name: scores[ScoreKey(name, "cam", "predicted")] for name in (
            kind, f"{kind}_gain", f"{kind}_normalised", f"{kind}_gain_normalised"
        )}  # fmt: skip
        np.testing.assert_allclose(found[kind][:3], area)
        np.testing.assert_allclose(found[f"{kind}_gain"][:3], gain)
        np.testing.assert_allclose(found[f"{kind}_normalised"][:3], (area - imputed) / full_drop)
        np.testing.assert_allclose(found[f"{kind}_gain_normalised"][:3], gain / full_drop)


def test_a_face_on_which_imputing_everything_changes_little_has_no_normalised_numbers():
    scores = scores_by_hand()
    for name in ("deletion", "insertion_gain", "road_gain"):
        assert not np.isnan(scores[ScoreKey(name, "cam", "predicted")][3])
        assert np.isnan(scores[ScoreKey(f"{name}_normalised", "cam", "predicted")][3])
    assert scores[ScoreKey("full_drop", "", "predicted", "occlusion")][3] == pytest.approx(0.05)


def test_a_face_whose_label_has_no_au_map_has_no_curve_of_it():
    scores = scores_by_hand()
    for name in ("deletion", "deletion_gain"):
        assert np.isnan(scores[ScoreKey(name, "label_au_map", "predicted")]).tolist() == [False] * 3 + [True]


def test_predictions_of_neutral_alone_leave_no_means():
    last = {key: values[3:] for key, values in scores_by_hand().items()}
    found = summarized(last, np.zeros(1, int))
    assert np.isnan(found["target_drop", "", "", "", ""])
    assert np.isnan(found["top_au_is_target", "", "", "", ""])


def test_a_method_without_cam_has_curves_of_its_attention_alone():
    model = methods.build_model("APViT", backbone="apvit_tiny")
    image = jnp.zeros((1, 64, 64, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), image))
    maps = jax.eval_shape(lambda variables: evaluate.all_maps(methods.forward(model, variables, image)), variables)
    assert set(maps) == {"stage1", "stage2", "stage3", "attention"}


SMALL = {"resnet50": "resnet_tiny", "deit_small": "vit_tiny", "apvit": "apvit_tiny"}
STAGES = {
    "resnet_tiny": ("head", "stage4", "stage3", "stage2", "stage1", "stem"),
    "vit_tiny": ("head", "norm", "block2", "block1", "block0", "pos", "cls", "patch"),
    "apvit_tiny": ("head", "norm", "block2", "block1", "block0", "cls", "patch", "projection", "extractor"),
}


@pytest.mark.parametrize("name", methods.METHODS)
def test_stages_go_from_the_head_down(name):
    backbone = SMALL[methods.METHODS[name].backbone]
    assert faithfulness.stages(methods.build_model(name, backbone=backbone), 64) == STAGES[backbone]


def _leaves(variables):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}


def test_only_the_named_stages_are_randomised():
    model = methods.build_model("CAM", backbone="resnet_tiny")
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    old, new = (jax.tree.map(lambda leaf, x=x: np.full(leaf.shape, x), shapes) for x in (0.0, 1.0))
    found = _leaves(faithfulness.randomised(old, new, faithfulness.stages(model, 64)[:2]))
    assert found.keys() == _leaves(old).keys()
    fresh = {name for name, leaf in found.items() if (leaf == 1).all()}
    assert fresh == {name for name in found if "'head'" in name or "'stage4" in name}
    assert {"params", "batch_stats"} == {name.split("'")[1] for name in fresh}
    everything = _leaves(faithfulness.randomised(old, new, faithfulness.stages(model, 64)))
    assert all((leaf == 1).all() for leaf in everything.values())


def test_similarity_equals_scipy_pearson():
    first, second = np.random.default_rng(0).random((2, 3, 5, 6)).astype(np.float32)
    expected = [
        scipy.stats.pearsonr(a.reshape(-1), b.reshape(-1)).statistic for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(faithfulness.similarity(jnp.asarray(first), jnp.asarray(second)), expected, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan, np.inf])
def test_similarity_to_a_degenerate_map_is_0(value):
    other = jnp.arange(12.0).reshape(1, 3, 4)
    assert float(faithfulness.similarity(jnp.full((1, 3, 4), value), other)[0]) == 0


def _smooth(size):
    y, x = np.mgrid[:size, :size] / size
    return (np.sin(7 * y + 1) + np.cos(5 * x * (1 + y)))[None].astype(np.float32)


VIEWS = {
    "mirrored": (faithfulness.mirror, faithfulness.mirror_similarity),
    "shifted": (faithfulness.shift, functools.partial(faithfulness.shift_similarity, side=56)),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("cells", [56, 28, 14, 7])
def test_a_map_that_moves_with_the_image_is_stable(name, cells):
    transform, similarity = VIEWS[name]

    def forward(image):  # a network whose map is the mean brightness of each cell
        return image.mean(-1).reshape(1, cells, 56 // cells, cells, 56 // cells).mean((2, 4))

    image = jnp.asarray(np.repeat(_smooth(56)[..., None], 3, axis=-1))
    assert float(similarity(forward(image), forward(transform(image)))[0]) > 0.98


@pytest.mark.parametrize("name", VIEWS)
def test_a_map_that_ignores_the_image_is_not_stable(name):
    stripes = jnp.asarray(np.tile(np.float32([1, 1, 0, 0]), 7)[None, None, :] * np.ones((1, 28, 1), np.float32))
    similarity = VIEWS[name][1]
    assert float(similarity(stripes, stripes)[0]) == pytest.approx({"mirrored": -1.0, "shifted": 0.0}[name], abs=0.1)


def test_shift_by_hand():
    image = jnp.arange(9.0).reshape(1, 3, 3, 1) * jnp.ones((1, 1, 1, 3))
    shifted = faithfulness.shift(image)[0, ..., 0]
    np.testing.assert_array_equal(shifted, [[0, 0, 1], [0, 0, 1], [3, 3, 4]])


def test_page_of_a_real_evaluation_opens_in_a_browser(written, chromium, tmp_path):
    file = page.write([written[0].folder], "test", tmp_path)[0]
    for width in (390, 1200):
        chromium.open(file, width=width)
        assert chromium.messages() == []
        assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    assert chromium.requested() == {file.resolve().as_uri()}
    pictures = chromium.evaluate("Array.from(document.images, (one) => [one.alt, one.naturalWidth])")
    assert len(pictures) > 50
    assert all(alt and width for alt, width in pictures)
    assert chromium.evaluate("document.getElementById('attribution').innerText") == "Faithfulness of the maps"
