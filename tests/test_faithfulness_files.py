"""faithfulness.json and faithfulness.csv: what they hold, and that they hold it of the same faces."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aujax import codebook, faithfulness, faithfulness_files, methods, runs
from aujax.config import Config
from aujax.data.batch import data_mesh

FACS = codebook.FACS
# Faces that fill up a batch are asked for no action units.
OF_LANDMARKS = {"drop", "drawn", *faithfulness.Use._fields}


@pytest.fixture(scope="module")
def opened(tiny_run):
    """A run that takes nobody for Neutral, so that every answer has action units of its own."""
    run = runs.load_run(tiny_run)
    head = jax.tree.map(jnp.asarray, run.variables["params"]["head"])
    head["fc"]["bias"] = head["fc"]["bias"].at[0].set(-1e3)
    params = run.variables["params"] | {"head": head}
    return run._replace(variables=run.variables | {"params": params}), runs.open_data(run, None)


@pytest.fixture(scope="module")
def written(opened, tmp_path_factory):
    """Eleven of sixteen faces in batches of eight: the last one is filled up with five of the first."""
    directory, told, measured = tmp_path_factory.mktemp("eval"), [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faithfulness_files, "make_measurement", _recording(measured))
        faithfulness_files.evaluate_faithfulness(
            *opened, "test", directory, filling="mean", limit=11, progress=told.append
        )
    with (directory / "faithfulness.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return json.loads((directory / "faithfulness.json").read_text()), rows, told, measured


def _recording(measured):
    """Returns `make_measurement` whose every result is also kept."""
    make = faithfulness_files.make_measurement

    def make_recording(*arguments, **options):
        measure = make(*arguments, **options)

        def recorded(batch):
            measured.append(measure(batch))
            return measured[-1]

        return recorded

    return make_recording


def test_every_part_is_there(written):
    summary, _, told, _ = written
    assert (summary["num_examples"], summary["filling"], summary["codebook"]) == (11, "mean", "FACS")
    assert summary["aus"] == list(FACS.all_aus)
    maps = {*(f"attention/layer{i}" for i in range(1, 6)), "cam"}
    assert list(summary["randomisation"]) == ["head", "stage4", "stage3", "stage2", "stage1", "stem"]
    assert all(set(by_map) == maps for by_map in summary["randomisation"].values())
    assert list(summary["stability"]) == ["flip", "shift"]
    assert all(set(by_map) == {*maps, "agreement"} for by_map in summary["stability"].values())
    for kind in ("deletion", "insertion", "road"):
        assert set(summary["curves"][kind]) == {"attention/layer5", "cam", "random"}
    assert told == ["faithfulness: 8 of 11 faces", "faithfulness: 11 of 11 faces"]


def test_stages_above_which_a_map_is_read_do_not_change_it(written):
    by_stage = written[0]["randomisation"]
    assert by_stage["stage4"]["attention/layer4"] == pytest.approx(1.0, abs=1e-5)
    assert by_stage["stage3"]["attention/layer4"] < 0.99
    assert by_stage["head"]["cam"] < 0.99


def test_rows_are_of_the_drawn_faces_and_give_the_means(opened, written):
    summary, rows, *_ = written
    expected = np.sort(np.random.default_rng(0).permutation(16)[:11])
    assert [int(row["index"]) for row in rows] == expected.tolist()
    source = opened[1].source("test")
    labels = [FACS.expressions[source[int(i)]["expression"]] for i in expected]
    assert [row["expression"] for row in rows] == labels
    for expression, drops in summary["interventions"]["drop"].items():
        values = [float(row["AU12"]) for row in rows if row["predicted"] == expression and row["AU12"]]
        assert drops["AU12"] == (pytest.approx(np.mean(values), abs=1e-5) if values else None)
    for kind in ("deletion", "insertion", "road"):
        mean = np.mean([float(row[f"{kind}:cam"]) for row in rows])
        assert summary["curves"][kind]["cam"]["area"] == pytest.approx(mean, abs=1e-5)
    for name in ("randomisation:head:cam", "stability:flip:agreement"):
        kind, outer, inner = name.split(":")
        mean = np.mean([float(row[name]) for row in rows])
        assert summary[kind][outer][inner] == pytest.approx(mean, abs=1e-5)
    by_answer = {
        answer: [float(row["top_in_codebook"]) for row in rows if row["predicted"] == answer]
        for answer in {row["predicted"] for row in rows}
    }
    mean = np.mean([np.mean(values) for values in by_answer.values()])
    assert summary["interventions"]["top_in_codebook"] == pytest.approx(mean, abs=1e-5)


def test_curves_begin_and_end_with_the_whole_picture_and_nothing(written):
    curves = written[0]["curves"]
    whole = {curve["curve"][0] for curve in curves["deletion"].values()}
    whole |= {curve["curve"][-1] for curve in curves["insertion"].values()}
    assert max(whole) - min(whole) < 1e-5
    assert curves["road"]["cam"]["curve"][0] == pytest.approx(max(whole), abs=1e-5)


def test_a_face_measures_the_same_beside_others(written):
    first, second = (jax.device_get(columns) for columns in written[3])
    again = np.flatnonzero(~second["valid"])
    np.testing.assert_array_equal(second["index"][again], first["index"][:5])
    for name in first.keys() - {"valid", *OF_LANDMARKS}:
        np.testing.assert_allclose(
            np.float64(second[name][again]), np.float64(first[name][:5]), atol=1e-4, err_msg=name
        )


def _columns():
    """Four faces: two seen as Happiness, one as Sadness, one as Neutral, which lists nothing."""
    happiness, sadness = FACS.expressions.index("Happiness"), FACS.expressions.index("Sadness")
    drop, drawn = np.zeros((4, 20)), np.ones((4, 20), bool)
    drop[:3, FACS.all_aus.index(12)] = [0.2, 0.4, 0.9]
    drawn[1, FACS.all_aus.index(12)] = False
    curve = np.linspace(1.0, 0.0, len(faithfulness.FRACTIONS)) * np.ones((4, 1))
    return {
        "index": np.arange(4),
        "expression": np.zeros(4, int),
        "predicted": np.array([happiness, happiness, sadness, 0]),
        "drop": drop,
        "drawn": drawn,
        "in_codebook": np.array([0.1, 0.3, 0.6, 0.0]),
        "outside": np.array([0.1, 0.1, 0.3, 0.7]),
        "control": np.array([0.0, 0.0, 0.1, 0.0]),
        "member": np.array([1.0, 0.0, 1.0, 0.0]),
        "chance": np.array([0.2, 0.2, 0.4, 0.0]),
        "listed": np.array([True, True, True, False]),
        "unlisted": np.ones(4, bool),
        "controlled": np.array([True, True, True, False]),
        "deletion:cam": curve,
    }


def test_summary_by_hand():
    found = faithfulness_files.summarize(_columns(), FACS)
    means = found["interventions"]
    # Of each predicted expression, and then over expressions; Neutral takes no part.
    assert means["in_codebook"] == pytest.approx((0.2 + 0.6) / 2)
    assert means["outside"] == pytest.approx((0.1 + 0.3) / 2)
    assert means["control"] == pytest.approx((0.0 + 0.1) / 2)
    assert means["top_in_codebook"] == pytest.approx((0.5 + 1.0) / 2)
    assert means["chance_in_codebook"] == pytest.approx((0.2 + 0.4) / 2)
    assert [means["drop"][name]["AU12"] for name in ("Happiness", "Sadness", "Neutral", "Fear")] == [
        0.2,
        0.9,
        0.0,
        None,
    ]


def test_areas_by_hand():
    # The fractions are 0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9 and 1: one until a fifth is gone, then nothing.
    curve = np.array([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0], [1.0] * 8])
    np.testing.assert_allclose(faithfulness_files.areas(curve), [0.25, 1.0])


def test_nothing_predicted_but_neutral_leaves_no_means():
    columns = {name: values[3:] for name, values in _columns().items()}
    means = faithfulness_files.summarize(columns, FACS)["interventions"]
    assert means["in_codebook"] is None
    assert means["top_in_codebook"] is None
    json.dumps(means, allow_nan=False)


def test_method_without_cam_has_curves_of_its_attention_alone(opened):
    run, _ = opened
    model = methods.build_model("APViT", backbone="apvit_tiny")
    config = Config(method="APViT", backbone="apvit_tiny", image_size=64, data=run.config.data)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    programs = faithfulness_files.make_programs(run._replace(model=model, config=config), data_mesh(), filling="mean")
    image, expression = np.zeros((8, 64, 64, 3), np.float32), np.zeros(8, np.int32)
    _, maps = jax.eval_shape(programs.look, variables, image, expression)
    assert set(maps) == {"attention/stage1", "attention/stage2", "attention/stage3", "attention/attention"}
