"""Figures: what they show, and that no text leaves them or covers another."""

import itertools
import sys

import cv2
import evaluated_runs
import numpy as np
import pytest
from evaluated_runs import make_run, open_test
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from aujax.codebook import EXPRESSIONS
from aujax.errors import UserError
from aujax.report import faces, page, plots
from aujax.results import schema
from aujax.results.schema import ScoreKey


def texts_of(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def drawn_texts(figure):
    """Returns the texts of a figure; of the labels of ticks only those of images, others may lie outside the limits."""
    curves = [axes for axes in figure.axes if not axes.images]
    ticks = {id(label) for axes in curves for label in (*axes.get_xticklabels(), *axes.get_yticklabels())}
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible() and id(text) not in ticks]


@pytest.fixture(scope="module")
def runs(two_runs):
    return schema.open_runs(two_runs, "test")[0]


def test_evaluation_is_drawn_into_its_folder(tmp_path):
    run = open_test(make_run(tmp_path / "run"))
    paths = plots.draw_evaluation(run)
    assert [path.name for path in paths] == ["panels.png", "class_means.png", "confusion.png", "cosines.png"]
    assert all(path.parent == run.directory / "figures" and path.stat().st_size > 5000 for path in paths)


def test_panels_say_how_each_run_classified_a_face(tmp_path, runs, figures):
    plots.panels(runs, tmp_path / "faces.png")
    verdicts = []
    for run in runs:
        predicted = run.maps["sample/predicted"][2]  # the first of the two Happiness faces
        verdict = "correct" if predicted == 1 else f"predicted {EXPRESSIONS[predicted]} (wrong)"
        verdicts.append(f"{run.name}: {verdict}")
    labels = [" ".join(text.split()) for text in texts_of(figures[0])]
    assert f"Happiness {verdicts[0]} {verdicts[1]}" in labels


def test_panels_show_the_same_faces_in_samples_of_another_order(tmp_path, runs, figures):
    other = make_run(tmp_path / "with", au_weight=4.0)
    maps = runs[1].maps
    backwards = {name.replace("/", "__"): maps[name][::-1] for name in maps if name.startswith("sample/")}
    evaluated_runs.change_maps(other, **backwards)
    plots.panels([runs[0], open_test(other)], tmp_path / "a.png")
    plots.panels(runs, tmp_path / "b.png")
    shown = [[label.get_text() for label in figure.axes[0].get_yticklabels()] for figure in figures]
    assert len(shown[0]) == 7
    assert shown[0] == shown[1]


def test_samples_without_a_shared_face_give_no_panels(tmp_path, runs):
    other = make_run(tmp_path / "other")
    evaluated_runs.change_maps(other, sample__face=np.arange(14) + 1000)
    assert plots.panels([runs[0], open_test(other)], tmp_path / "faces.png") is None


def test_degenerate_maps_are_replaced_by_a_word_and_never_drawn(tmp_path, figures):
    folder = make_run(tmp_path / "run")
    maps = open_test(folder).maps
    attention, means = maps["sample/attention"].copy(), maps["class_mean/layer5"].copy()
    attention[0], attention[2, 1, 1], attention[4, 1, 1] = 1.0, np.nan, np.inf
    means[0], means[1, 1, 1] = 1.0, np.nan
    evaluated_runs.change_maps(folder, sample__attention=attention, class_mean__layer5=means)
    run = open_test(folder)
    plots.panels([run], tmp_path / "a.png")
    plots.class_means([run], tmp_path / "b.png")
    panels, class_means = map(texts_of, figures)
    assert (panels.count("constant"), panels.count("not finite")) == (1, 2)
    assert panels.count("no map") == 2  # two Neutral faces
    assert (class_means.count("constant"), class_means.count("not finite"), class_means.count("no map")) == (1, 1, 1)
    for figure in figures:
        images = [image for axes in figure.axes for image in axes.images]
        assert len(images) >= 28
        assert all(np.isfinite(image.get_array()).all() for image in images)
    cards = faces.side_by_side([run])
    assert [image.reason for image in cards[0].groups[0].images] == ["", "no map", "constant", ""]


def test_overlay_keeps_the_image_and_colours_the_highest_place():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 16:] = 255
    map_ = np.zeros((4, 4), np.float32)
    map_[0, 0] = 1.0
    blended = faces.overlay(image, map_).astype(int)
    assert blended[20, 28].sum() - blended[20, 4].sum() > 300  # the edge in the image, where the map is low
    assert np.ptp(blended[2, 2]) > 100  # viridis ends in yellow, ...
    assert np.ptp(blended[20, 28]) < 80  # ... which gray does not


def test_enlarged_map_equals_opencv():
    map_ = np.random.default_rng(0).random((5, 7)).astype(np.float32)
    expected = cv2.resize(map_, (40, 33), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(faces.enlarge(map_, (33, 40)), expected, atol=2e-3)


@pytest.mark.parametrize("value", [0.0, 3.0, np.nan])
def test_constant_and_non_finite_maps_are_degenerate(value):
    assert faces.is_degenerate(np.full((4, 4), value, np.float32))


def test_map_that_varies_within_the_rounding_of_float16_is_degenerate():
    map_ = np.full((4, 4), 10.0, np.float16)
    map_[0, 0] = np.nextafter(np.float16(10), np.float16(11))
    assert faces.is_degenerate(map_)
    assert not faces.is_degenerate(map_ + np.eye(4, dtype=np.float16))


def test_confusion_has_counts_and_percent_of_the_row(tmp_path, figures):
    folder = make_run(tmp_path / "run")
    matrix = np.zeros((7, 7), int)
    matrix[1, 1], matrix[1, 2] = 3, 1
    evaluated_runs.change_json(folder, confusion_matrix=matrix.tolist())
    plots.confusion(open_test(folder), tmp_path / "confusion.png")
    texts = texts_of(figures[0])
    assert {"3\n75 %", "1\n25 %", "Happiness (4)", "Neutral (0)"} <= set(texts)
    assert texts.count("0") >= 7


def test_cosines_have_every_layer_and_the_mean(tmp_path, runs, figures):
    plots.cosines(runs[0], tmp_path / "cosines.png")
    texts = texts_of(figures[0])
    of_fear = runs[0].interval("cosine", map="layer4", target="label", attribute="expression", group="Fear")
    assert f"{of_fear.value:.2f}" in texts
    assert f"{runs[0].metadata['att_cos']:.2f}" in texts
    assert texts.count("0.81") >= 7  # the mean AU map
    assert "Mean" in texts
    assert not any(text.startswith("Neutral") for text in texts)


@pytest.mark.parametrize("draw", [plots.confusion, plots.cosines])
def test_titles_name_split_and_model_selection(tmp_path, runs, figures, draw):
    draw(runs[0], tmp_path / "drawn.png")
    assert any(text.endswith("\ntest split, checkpoint selected on validation") for text in texts_of(figures[0]))


def test_training_curves_are_those_of_the_log(tmp_path, runs, figures):
    plots.training(runs, tmp_path / "curves.png")
    entropy, alignment, accuracy, attention = figures[0].axes
    np.testing.assert_allclose(entropy.lines[0].get_xydata(), [[1, 2.0], [2, 1.0], [3, 2 / 3]])
    assert len(entropy.lines) == 2
    assert len(alignment.lines) == 1  # the run without AU cues has none
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), [0.2, 0.4, 0.6])
    np.testing.assert_allclose(attention.lines[0].get_ydata(), [0.1, 0.2, 0.3])


def test_training_curves_name_the_split_that_selected_the_checkpoint(tmp_path, figures):
    folder = make_run(tmp_path / "run")
    line = (folder / "log.jsonl").read_text().splitlines()[1].replace('"split": "validation"', '"split": "test"')
    (folder / "log.jsonl").write_text(line + '\n{"kind": "train", "ep')  # the last line was cut off
    plots.training([open_test(folder)], tmp_path / "curves.png")
    assert "Accuracy (test)" in texts_of(figures[0])
    assert texts_of(figures[0]).count("not recorded") == 2


def test_without_a_log_there_are_no_training_curves(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "log.jsonl").unlink()
    assert plots.training([open_test(folder)], tmp_path / "curves.png") is None


def test_reliability_has_a_bar_for_each_bin_with_faces(tmp_path, runs, figures):
    plots.reliability(runs[0], tmp_path / "reliability.svg")
    predictions = runs[0].predictions
    for axes, temperature in zip(figures[0].axes, (1.0, 1.25), strict=True):
        bins = np.ceil(15 * predictions.confidence(temperature)).astype(int)
        heights = [predictions.correct[bins == number].mean() for number in np.unique(bins)]
        np.testing.assert_allclose([bar.get_height() for bar in axes.patches], heights)
        np.testing.assert_allclose([bar.get_x() for bar in axes.patches], (np.unique(bins) - 1) / 15, atol=1e-4)


def test_coverage_ends_at_the_accuracy(tmp_path, runs, figures):
    plots.coverage(runs[0], tmp_path / "coverage.svg")
    (line,) = figures[0].axes[0].lines
    np.testing.assert_allclose(line.get_xydata()[0], [1.0, runs[0].metadata["accuracy"]])


def test_perturbation_curves_are_drawn_for_every_map_and_the_baseline_orderings(tmp_path, runs, figures):
    plots.perturbation(runs[0], tmp_path / "perturbation.svg")
    deletion, insertion, road = figures[0].axes[:3]
    for axes, ends in ((deletion, [0.8, 0.0]), (insertion, [0.0, 0.8]), (road, [0.8, 0.0])):
        assert len(axes.lines) == 5
        np.testing.assert_allclose([axes.lines[0].get_ydata()[at] for at in (0, -1)], ends, atol=1e-6)
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    orderings = ["Random ordering", "Centred Gaussian", "AU map of the label"]
    assert labels == ["Attention, layer5", "CAM", *orderings]


def test_probability_drops_frame_target_aus_and_dash_missing_ones(tmp_path, figures):
    def edit(content):
        values = content.faithfulness[ScoreKey("probability_drop", "", "predicted", "AU12")]
        values[content.columns["predicted"] == 1] = 0.123
        values[content.columns["predicted"] == 2] = -0.05
        values[content.columns["predicted"] == 3] = np.nan

    run = open_test(make_run(tmp_path / "run", faithfulness=True, edit=edit))
    plots.probability_drops(run, page.target_aus(run), tmp_path / "drops.svg")
    texts = texts_of(figures[0])
    assert {"+12.3", "−5.0", "AU1 inner brow raiser", "–"} <= set(texts)
    frames = {tuple(np.round(line.get_xydata()[:-1].mean(0)).astype(int)) for line in figures[0].axes[0].lines}
    aus = run.faithfulness.metadata["aus"]
    book = page.target_aus(run)
    assert frames == {(run.expressions.index(name), aus.index(au)) for name in book for au in book[name]}


def test_no_text_leaves_its_figure_or_covers_another(tmp_path, figures):
    names = ("resnet50_seed0_without_au", "resnet50_seed0_with_au_weight_4")
    options = {"splits": ("test", "validation"), "faithfulness": True}
    folders = [make_run(tmp_path / name, au_weight=weight, **options) for weight, name in enumerate(names)]
    page.write(folders[:1], "test", tmp_path)
    opened, _ = schema.open_runs(folders, "test")
    plots.training(opened, tmp_path / "training.png")
    plots.panels(opened, tmp_path / "faces.png")
    plots.panels(opened[:1], tmp_path / "face.png")
    plots.class_means(opened, tmp_path / "means.png")
    assert len(figures) == 7 + 4
    for figure in figures:
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw_without_rendering()  # SVG files are laid out at another resolution
        for text in drawn_texts(figure):
            box = text.get_window_extent(renderer)
            assert box.x0 >= -1, text
            assert box.y0 >= -1, text
            assert box.x1 <= figure.bbox.x1 + 1, text
            assert box.y1 <= figure.bbox.y1 + 1, text
        # Titles, notes and the texts of images and cells.
        free = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
        boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in free if text.get_text()]
        for (one, first), (other, second) in itertools.combinations(boxes, 2):
            assert not first.overlaps(second), (one, other)


def test_missing_matplotlib_names_the_extra(tmp_path, runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r'pip install "aujax\[report\]"'):
        plots.confusion(runs[0], tmp_path / "confusion.png")


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_figure_format_follows_its_suffix_and_is_deterministic(tmp_path, name, start):
    written = []
    for folder in ("one", "other"):
        figure, _ = plots.new_figure(2, 1, title="text")
        written.append(plots.save(figure, tmp_path / folder / name).read_bytes())
    assert written[0].startswith(start)
    assert written[0] == written[1]
