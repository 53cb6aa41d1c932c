import itertools
import json
import pathlib
import sys

import cv2
import fake_runs
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from aujax import calibration, run_files
from aujax.codebook import EXPRESSIONS
from aujax.errors import UserError
from aujax.report import charts, curves, drops, evaluations, figures, overlays, page, panels, sheet


def words_of(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def metrics_of(folder: pathlib.Path) -> dict:
    return json.loads((folder / "eval/test/metrics.json").read_text())


def evaluation_of(folder: pathlib.Path) -> evaluations.Evaluation:
    return evaluations.read(folder / "eval/test")


def test_evaluation_is_drawn_into_its_folder(tmp_path):
    folder = fake_runs.make_run(tmp_path / "run")
    paths = figures.draw_evaluation(folder / "eval/test")
    assert [path.name for path in paths] == ["panels.png", "class_means.png", "confusion.png", "cosines.png"]
    assert all(path.parent == folder / "eval/test/figures" and path.stat().st_size > 5000 for path in paths)


def test_panels_say_how_each_run_recognised_a_face(tmp_path, two_runs, sheets):
    figures.faces([evaluation_of(folder) for folder in two_runs], tmp_path / "faces.png")
    maps = [evaluation_of(folder).maps() for folder in two_runs]
    verdicts = []
    for folder, each in zip(two_runs, maps, strict=True):
        predicted = each["sample/predicted"][2]  # the first of the two Happiness faces
        verdict = "recognised" if predicted == 1 else f"taken for {EXPRESSIONS[predicted]} (wrong)"
        verdicts.append(f"{folder.name}: {verdict}")
    assert f"Happiness – {verdicts[0]};   {verdicts[1]}" in words_of(sheets[0])


def test_panels_show_the_same_face_in_samples_of_another_order(tmp_path, two_runs, sheets):
    maps = evaluation_of(two_runs[1]).maps()
    other = fake_runs.make_run(tmp_path / "other")
    backwards = {name.replace("/", "__"): maps[name][::-1] for name in maps if name.startswith("sample/")}
    fake_runs.change_maps(other, **backwards)
    figures.faces([evaluation_of(two_runs[0]), evaluation_of(other)], tmp_path / "a.png")
    figures.faces([evaluation_of(two_runs[0]), evaluation_of(two_runs[1])], tmp_path / "b.png")
    shown = [[word.replace("other", "with") for word in words_of(figure) if " – " in word] for figure in sheets]
    assert shown[0] == shown[1]


def test_samples_without_a_common_face_give_no_panels(tmp_path, two_runs):
    other = fake_runs.make_run(tmp_path / "other")
    fake_runs.change_maps(other, sample__index=np.arange(14) + 1000)
    assert figures.faces([evaluation_of(two_runs[0]), evaluation_of(other)], tmp_path / "faces.png") is None


def test_flat_and_missing_maps_are_said_in_words(tmp_path, sheets):
    images = np.zeros((2, 8, 8, 3), np.uint8)
    column = panels.Column("Attention", np.ones((2, 4, 4), np.float32), np.array([True, False]))
    panels.panels(images, [column], ["first", "second"], tmp_path / "panels.png", title="Title")
    assert words_of(sheets[0]).count("flat") == 1
    assert words_of(sheets[0]).count("no map") == 1


def test_maps_that_are_not_finite_are_marked_and_not_drawn(tmp_path, sheets):
    maps = np.random.default_rng(0).random((3, 4, 4)).astype(np.float32)
    maps[0, 1, 1], maps[1, 1, 1] = np.nan, np.inf
    panels.panels(
        np.zeros((3, 8, 8, 3), np.uint8), [panels.Column("Attention", maps)], list("abc"), tmp_path / "a.png", title=""
    )
    panels.class_means([panels.Means("Attention", maps, np.ones(3, int))], list("abc"), tmp_path / "b.png", title="")
    for figure in sheets:
        assert words_of(figure).count("not finite") == 2
        pictures = [image.get_array() for image in figure.axes[0].images]
        assert all(np.isfinite(picture).all() for picture in pictures)


def test_overlay_keeps_the_picture_and_colours_the_highest_place():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 16:] = 255
    map_ = np.zeros((4, 4), np.float32)
    map_[0, 0] = 1.0
    blended = overlays.overlay(image, map_).astype(int)
    assert blended[20, 28].sum() - blended[20, 4].sum() > 300  # the picture's edge, where the map is low
    assert np.ptp(blended[2, 2]) > 100  # viridis ends in yellow, ...
    assert np.ptp(blended[20, 28]) < 80  # ... which grey does not


def test_enlarged_map_equals_opencv():
    map_ = np.random.default_rng(0).random((5, 7)).astype(np.float32)
    expected = cv2.resize(map_, (40, 33), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(overlays.enlarged(map_, (33, 40)), expected, atol=2e-3)


@pytest.mark.parametrize("value", [0.0, 3.0, np.nan])
def test_constant_and_unfinite_maps_are_flat(value):
    assert overlays.is_flat(np.full((4, 4), value, np.float32))


def test_map_that_varies_within_rounding_of_float16_is_flat():
    map_ = np.full((4, 4), 10.0, np.float16)
    map_[0, 0] = np.nextafter(np.float16(10), np.float16(11))
    assert overlays.is_flat(map_)
    assert not overlays.is_flat(map_ + np.eye(4, dtype=np.float16))


def test_confusion_shows_counts_and_percent_of_the_row(tmp_path, sheets):
    charts.confusion([[3, 1], [0, 0]], ["A", "B"], tmp_path / "confusion.png", title="Title")
    words = words_of(sheets[0])
    assert {"3\n75 %", "1\n25 %", "A (4)", "B (0)"} <= set(words)
    assert words.count("0") == 2


def test_cosines_show_every_layer_and_the_average(tmp_path, two_runs, sheets):
    metrics = metrics_of(two_runs[0])
    charts.cosines(metrics, tmp_path / "cosines.png", title="Title")
    words = words_of(sheets[0])
    assert f"{metrics['per_class']['Fear']['att_cos']['layer4']:.2f}" in words
    assert f"{metrics['att_cos']['layer5']:.2f}" in words
    assert words.count("0.81") >= 7  # the average AU map, as a column without a network
    assert "Average" in words
    assert not any(word.startswith("Neutral") for word in words)


@pytest.mark.parametrize("draw", [figures.confusion, figures.cosines])
def test_titles_name_split_and_protocol(tmp_path, two_runs, sheets, draw):
    draw(evaluation_of(two_runs[0]), tmp_path / "drawn.png")
    assert any(words.endswith("\nsplit test, protocol heldout") for words in words_of(sheets[0]))


def test_curves_are_those_of_the_log(tmp_path, two_runs, sheets):
    logs = {folder.name: run_files.read_log(folder / run_files.LOG) for folder in two_runs}
    charts.loss_curves(logs, tmp_path / "curves.png", layers=dict.fromkeys(logs, "layer5"))
    entropy, alignment, accuracy, attention = sheets[0].axes[1:]
    np.testing.assert_allclose(entropy.lines[0].get_xydata(), [[1, 2.0], [2, 1.0], [3, 2 / 3]])
    assert len(entropy.lines) == 2
    assert len(alignment.lines) == 1  # the run without AU cues has none
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), [0.2, 0.4, 0.6])
    np.testing.assert_allclose(attention.lines[0].get_ydata(), [0.1, 0.2, 0.3])


def test_no_words_leave_the_page_or_lie_on_each_other(tmp_path, sheets):
    names = ("resnet50_seed0_without_au", "resnet50_seed0_with_au_weight_4")
    options = {"splits": ("test", "validation"), "faithfulness": True}
    folders = [fake_runs.make_run(tmp_path / name, au_weight=weight, **options) for weight, name in enumerate(names)]
    for number, shown in enumerate((folders, folders[:1])):
        page.write(shown, "test", tmp_path / str(number))
    shown = [evaluation_of(folder) for folder in folders]
    figures.faces(shown, tmp_path / "faces.png")
    figures.means(shown, tmp_path / "means.png")
    assert len(sheets) == 5 + 7 + 2
    for figure in sheets:
        renderer = FigureCanvasAgg(figure).get_renderer()
        boxes = {text.get_text() + str(text.get_position()): text.get_window_extent(renderer) for text in figure.texts}
        for words, box in boxes.items():
            assert box.x0 >= 0, words
            assert box.y0 >= 0, words
            assert box.x1 <= figure.bbox.x1, words
            assert box.y1 <= figure.bbox.y1, words
        for one, other in itertools.combinations(boxes, 2):
            assert not boxes[one].overlaps(boxes[other]), (one, other)


def test_pixels_of_a_figure_follow_from_its_faces(tmp_path):
    images = np.zeros((3, 8, 8, 3), np.uint8)
    column = panels.Column("Attention", np.random.default_rng(0).random((3, 4, 4)))
    sizes = []
    for faces in (1, 3):
        one = column._replace(maps=column.maps[:faces])
        path = panels.panels(images[:faces], [one] * 4, ["words"] * faces, tmp_path / "p.png", title="Title", across=1)
        sizes.append(cv2.imread(str(path)).shape[:2])
    assert sizes[0][1] == sizes[1][1]
    assert sizes[1][0] - sizes[0][0] == pytest.approx(2 * 1.61 * sheet.DPI, abs=2)  # two more rows of 1.61 inches


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r'pip install "aujax\[report\]"'):
        charts.confusion([[1]], ["A"], tmp_path / "confusion.png", title="Title")


def test_curves_name_the_split_that_chose_the_epoch(tmp_path, sheets):
    log = [{"kind": "validation", "split": "test", "epoch": 1, "accuracy": 0.5, "att_cos_by_layer": {"layer5": 0.5}}]
    charts.loss_curves({"run": log}, tmp_path / "curves.png", layers={"run": "layer5"})
    assert "Accuracy (test)" in words_of(sheets[0])


def test_reliability_has_a_bar_for_each_bin_with_faces(tmp_path, sheets):
    bins = calibration.reliability(np.array([0.1, 0.9, 0.95]), np.array([True, True, False]), bins=10)
    curves.reliability({"as they are": bins}, tmp_path / "reliability.svg", about="run: split test")
    (axes,) = sheets[0].axes[1:]
    assert [(round(bar.get_x(), 3), bar.get_height()) for bar in axes.patches] == [(0.0, 1.0), (0.8, 1.0), (0.9, 0.0)]


def test_coverage_goes_through_its_points(tmp_path, sheets):
    points = calibration.coverage_accuracy(np.array([0.9, 0.8]), np.array([True, False]))
    curves.coverage({"as they are": points}, tmp_path / "coverage.svg", about="run: split test")
    np.testing.assert_allclose(sheets[0].axes[1].lines[0].get_xydata(), [[0.5, 1.0], [1.0, 0.5]])


def test_removal_curves_are_drawn_for_every_map_and_random_order(tmp_path, sheets):
    kinds = ("deletion", "insertion", "road")
    content = {"fractions": [0, 1]} | {
        kind: {"cam": {"curve": [1, 0]}, "random": {"curve": [1, 0.5]}} for kind in kinds
    }
    curves.removals(
        content, {"cam": "CAM", "random": "random order"}, tmp_path / "removals.svg", about="run: split test"
    )
    for axes in sheets[0].axes[1:4]:
        assert [line.get_ydata().tolist() for line in axes.lines] == [[1, 0], [1, 0.5]]
    assert [text.get_text() for text in sheets[0].legends[0].get_texts()] == ["CAM", "random order"]


def test_drops_frame_the_codebooks_own_units_and_dash_what_is_missing(tmp_path, sheets):
    drop = {"Fear": {"AU1": 0.123, "AU12": -0.05}, "Disgust": {"AU1": None, "AU12": None}}
    drops.draw(
        drop,
        {1: "Inner brow raiser", 12: "Lip corner puller"},
        {"Fear": (1,)},
        tmp_path / "drops.svg",
        about="run: split test",
    )
    words = words_of(sheets[0])
    assert {"+12.3", "−5.0", "AU1 inner brow raiser"} <= set(words)
    assert words.count("–") == 2
    (frame,) = sheets[0].axes[1].lines
    assert np.round(frame.get_xydata().mean(0)).tolist() == [0, 0]


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_figure_is_saved_as_its_suffix_says_and_always_the_same(tmp_path, name, start):
    written = []
    for folder in ("one", "other"):
        blank = sheet.Sheet(2, 1)
        blank.text(0.1, 0.1, "words")
        written.append(blank.save(tmp_path / folder / name).read_bytes())
    assert written[0].startswith(start)
    assert written[0] == written[1]
