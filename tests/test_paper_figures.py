"""The paper's figures from run folders."""

import csv
import xml.etree.ElementTree

import cv2
import fake_runs
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from aujax.errors import UserError
from aujax.report import paper_figures, weight_curves

RAFDB = {"data_name": "rafdb", "backbone": ""}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a sweep of the weight, two seeds each."""
    root = tmp_path_factory.mktemp("sweep")
    for weight in (0.0, 0.5, 4.0):
        for seed in (0, 1):
            fake_runs.make_run(root / f"au_weight={weight:g},seed={seed}", au_weight=weight, seed=seed, **RAFDB)
    return root


@pytest.fixture(scope="module")
def pair(runs):
    return [runs / "au_weight=0,seed=0", runs / "au_weight=4,seed=0"]


def words_of(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize(
    ("draw", "names"),
    [
        (paper_figures.figure4, ["figure4"]),
        (paper_figures.figure6, ["figure6"]),
        (weight_curves.figure5, ["figure5"]),
        (
            paper_figures.figure10,
            [f"figure10-RAF-DB-au_weight={k},seed=0-{what}" for k in (0, 4) for what in ("confusion", "cosines")],
        ),
    ],
)
def test_a_figure_is_a_picture_and_a_drawing_with_no_words_outside(pair, tmp_path, sheets, draw, names):
    paths = draw(pair, "test", tmp_path)
    assert {path.name for path in paths if path.suffix != ".csv"} == {n + s for n in names for s in (".png", ".svg")}
    for path in paths:
        if path.suffix == ".png":
            assert np.ptp(cv2.imread(str(path))) > 200
        if path.suffix == ".svg":
            assert xml.etree.ElementTree.parse(path).getroot().tag.endswith("svg")
    for figure in sheets:
        page = figure.bbox
        for text in figure.texts:
            box = text.get_window_extent(FigureCanvasAgg(figure).get_renderer())
            assert page.x0 <= box.x0 <= box.x1 <= page.x1, text
            assert page.y0 <= box.y0 <= box.y1 <= page.y1, text


def test_runs_of_a_pair_stand_side_by_side_with_their_protocol(pair, tmp_path, sheets):
    paper_figures.figure4(pair[::-1], "test", tmp_path)
    titles = [words for words in words_of(sheets[0]) if words.startswith(("Attention", "Class"))]
    assert [" ".join(words.split()) for words in titles] == [
        "Attention (layer5) without AU (heldout)",
        "Attention (layer5) with AU (heldout)",
        "Class activation map without AU (heldout)",
        "Class activation map with AU (heldout)",
    ]


def test_every_pair_of_runs_of_one_seed_has_a_figure_of_its_own(runs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(paper_figures.figures, "means", lambda shown, path: drawn.append(path.name) or path)
    paper_figures.figure6([runs], "test", tmp_path)
    assert sorted(name for name in drawn if name.endswith(".png")) == [
        f"figure6-RAF-DB-au_weight={weight},seed={seed}.png" for weight in ("0.5", "4") for seed in (0, 1)
    ]


def test_runs_without_a_counterpart_are_refused(pair, runs, tmp_path):
    with pytest.raises(UserError, match=r"figure4: expected a run without AU cues .* got au_weight=4,seed=0"):
        paper_figures.figure4(pair[1:], "test", tmp_path)
    with pytest.raises(UserError, match="figure6: expected a run without AU cues"):
        paper_figures.figure6([pair[0], runs / "au_weight=4,seed=1"], "test", tmp_path)


def test_runs_that_share_no_face_are_refused(pair, tmp_path):
    other = fake_runs.make_run(tmp_path / "other", au_weight=4.0, **RAFDB)
    fake_runs.change_maps(other, sample__index=np.arange(14) + 1000)
    with pytest.raises(UserError, match="share no face"):
        paper_figures.figure4([pair[0], other], "test", tmp_path / "out")


def test_curves_are_the_means_over_seeds_by_weight(runs, tmp_path, sheets):
    for weight, cls in ((0.0, (0.5, 0.6)), (0.5, (0.6, 0.7)), (4.0, (0.3, 0.4))):
        for seed, cl in enumerate(cls):
            fake_runs.change_metrics(runs / f"au_weight={weight:g},seed={seed}", cl=cl)
    paths = weight_curves.figure5([runs], "test", tmp_path)
    accuracy = next(axes for axes in sheets[0].axes if "Accuracy" in axes.get_title("left"))
    curve, hollow = (next(line for line in accuracy.lines if line.get_label() == n) for n in _LABELS)
    assert np.allclose(curve.get_xydata(), [[0, 55], [0.5, 65], [4, 35]])
    assert np.allclose(hollow.get_xydata(), [[0, 88.2], [4, 88.95]])
    (numbers,) = [path for path in paths if path.suffix == ".csv"]
    rows = list(csv.DictReader(numbers.read_text().splitlines()))
    assert [(row["au_weight"], row["seeds"], row["CL"]) for row in rows] == [
        ("0", "2", "0.55"),
        ("0.5", "2", "0.65"),
        ("4", "2", "0.35"),
    ]


_LABELS = ("CL (%)", "CL (%), published")


def test_a_method_without_cam_has_no_curve_of_it(tmp_path, sheets):
    runs = [fake_runs.make_run(tmp_path / f"{w:g}", au_weight=w, method="APViT", **RAFDB) for w in (0.0, 4.0)]
    for run in runs:
        fake_runs.change_metrics(run, cam_cos=None, cam_without_pattern=None)
    weight_curves.figure5(runs, "test", tmp_path / "out")
    words = words_of(sheets[0])
    assert "ATT-COS" in words
    assert not any("CAM-COS" in each or "published" in each for each in words)


def test_runs_that_are_no_sweep_are_refused(pair, tmp_path):
    other = fake_runs.make_run(tmp_path / "other", au_weight=4.0, epochs=3)
    with pytest.raises(UserError, match=r"figure5: expected runs that differ in --config\.au_weight alone"):
        weight_curves.figure5([pair[0], other], "test", tmp_path)
