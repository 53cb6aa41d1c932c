import doctest
import itertools
import json
import pathlib
import re
import subprocess
import sys

import cv2
import fake_runs
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from aujax import run_files
from aujax.codebook import EXPRESSIONS
from aujax.errors import UserError
from aujax.report import __main__ as command
from aujax.report import charts, comparison, evaluations, figures, overlays, panels, sheet, tables


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    root = tmp_path_factory.mktemp("two runs")
    return [fake_runs.make_run(root / "without"), fake_runs.make_run(root / "with", au_weight=4.0)]


@pytest.fixture(scope="module")
def report(two_runs, tmp_path_factory) -> pathlib.Path:
    return comparison.write(two_runs, split="test", out=tmp_path_factory.mktemp("out") / "a b").path


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> list:
    """The matplotlib figures that were saved, with the canvas that measures their words."""
    saved, save = [], sheet.Sheet.save

    def keep(self, path):
        saved.append(self.figure)
        return save(self, path)

    monkeypatch.setattr(sheet.Sheet, "save", keep)
    return saved


def words_of(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def metrics_of(folder: pathlib.Path) -> dict:
    return json.loads((folder / "eval/test/metrics.json").read_text())


def rows_of(markdown: str, first: str) -> list[str]:
    """The cells of the table row that starts with `first`."""
    (line,) = [line for line in markdown.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def evaluation_of(folder: pathlib.Path) -> evaluations.Evaluation:
    return evaluations.read(folder / "eval/test")


def test_report_shows_the_numbers_of_every_run(two_runs, report):
    for folder in two_runs:
        metrics = metrics_of(folder)
        assert rows_of(report.read_text(), folder.name) == [
            folder.name,
            f"{metrics['au_weight']:.0f}",
            f"{100 * metrics['cl']:.1f}",
            f"{100 * metrics['balanced_accuracy']:.1f}",
            f"{metrics['att_cos']['layer5']:.3f}",
            f"{metrics['cam_cos']:.3f}",
        ]


def test_difference_is_with_minus_without(tmp_path):
    without, aligned = fake_runs.make_run(tmp_path / "a"), fake_runs.make_run(tmp_path / "b", au_weight=2.0)
    numbers = {"cl": 0.75, "balanced_accuracy": 0.5, "cam_cos": 0.5, "att_cos": {"layer4": 0.0, "layer5": 0.5}}
    fake_runs.change_metrics(without, **numbers)
    fake_runs.change_metrics(
        aligned, cl=0.725, balanced_accuracy=0.6, cam_cos=0.625, att_cos={"layer4": 0, "layer5": 0.8}
    )
    runs = evaluations.open_runs([aligned, without], "test")
    ((before, after),) = evaluations.pairs(runs)
    table = tables.results([run.evaluation for run in runs], [(before.evaluation, after.evaluation)])
    assert ["b − a", "", "−2.5", "+10.0", "+0.300", "+0.125"] in table.rows


def test_trivial_baselines_are_rows(report):
    text = report.read_text()
    assert rows_of(text, "flat map")[-2:] == ["0.471", "0.471"]
    assert rows_of(text, "Gaussian in the middle")[-2:] == ["0.552", "0.552"]
    assert rows_of(text, "all action units at once")[-2:] == ["0.723", "0.723"]


def test_most_frequent_expression_is_a_baseline_of_accuracy(tmp_path):
    run = fake_runs.make_run(tmp_path / "run")
    fake_runs.change_metrics(run, confusion_matrix=np.diag([0, 6, 1, 1, 0, 2, 0]).tolist())
    rows = tables.results([evaluation_of(run)]).rows
    assert ["most frequent expression", "", "60.0", "25.0", "–", "–"] in rows


def test_expressions_without_a_map_have_a_dash(report):
    assert rows_of(report.read_text(), "Neutral")[-2:] == ["–", "–"]


def test_report_names_data_codebook_checkpoint_and_versions(report):
    text = report.read_text()
    assert "fingerprint `eeee`" in text
    assert rows_of(text, "codebook") == ["codebook", "FACS", "FACS"]
    assert rows_of(text, "checkpoint")[1] == "best: step 40, epoch 2"
    assert "python 3.11.0, jax 0.10.2" in text
    assert "28 faces, 24 of them with an action-unit (AU) map" in text


def test_report_says_how_far_chance_moves_an_accuracy(tmp_path):
    run = fake_runs.make_run(tmp_path / "run")
    fake_runs.change_metrics(run, cl=0.5, num_examples=96)
    text = comparison.opening([evaluation_of(run)], [])
    assert "±9.8 points" in text  # 1.96 sqrt(0.5 * 0.5 / (96 + 4))


def test_every_picture_of_the_report_lies_beside_it(report):
    links = re.findall(r"!\[[^]]*\]\(([^)]+)\)", report.read_text())
    assert len(links) == 7
    for link in links:
        height, width, _ = cv2.imread(str(report.parent / link)).shape
        assert min(height, width) > 2 * sheet.DPI


def test_runs_that_differ_in_au_weight_only_raise_no_warning(two_runs):
    assert comparison.warnings(evaluations.open_runs(two_runs, "test")) == []


def test_where_the_same_data_lie_is_no_difference(tmp_path):
    folders = [fake_runs.make_run(tmp_path / name, data_dir=name) for name in ("a", "b")]
    assert evaluations.differences(evaluations.open_runs(folders, "test")) == {}


def test_other_differences_are_warned_of_with_their_values(tmp_path):
    folders = [
        fake_runs.make_run(tmp_path / "a", optimizer={"learning_rate": 0.1}),
        fake_runs.make_run(tmp_path / "b", au_weight=4.0, optimizer={"learning_rate": 0.2}),
    ]
    runs = evaluations.open_runs(folders, "test")
    (warning,) = comparison.warnings(runs)
    assert "optimizer.learning_rate (0.1 in a; 0.2 in b)" in warning
    assert rows_of(comparison.provenance(runs), "optimizer.learning_rate")[1:] == ["0.1", "0.2"]


def test_four_runs_are_paired_by_what_else_they_share(tmp_path):
    folders = [
        fake_runs.make_run(tmp_path / data / name, au_weight=weight, trained_on=data)
        for data in ("plain", "shortcut")
        for name, weight in (("without", 0.0), ("with", 4.0))
    ]
    pairs = evaluations.pairs(evaluations.open_runs(folders, "test"))
    assert [(a.name, b.name) for a, b in pairs] == [
        ("plain/without", "plain/with"),
        ("shortcut/without", "shortcut/with"),
    ]


def test_different_codebooks_are_warned_of_and_have_their_own_baselines(tmp_path):
    folders = [fake_runs.make_run(tmp_path / name) for name in ("a", "b")]
    baselines = {"uniform": 0.1, "centred_gaussian": 0.2, "all_au_map": 0.3}
    fake_runs.change_metrics(folders[1], codebook="REFERENCE", baselines=baselines)
    runs = evaluations.open_runs(folders, "test")
    assert any("codebooks" in warning for warning in comparison.warnings(runs))
    rows = tables.results([run.evaluation for run in runs]).rows
    assert ["flat map (REFERENCE)", "", "–", "–", "0.100", "0.100"] in rows


def test_run_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such run folder"):
        evaluations.open_runs([tmp_path / "nowhere"], "test")


def test_missing_evaluation_names_the_command_and_the_splits_there_are(tmp_path):
    folder = fake_runs.make_run(tmp_path / "a run")
    with pytest.raises(UserError, match=r"there is one on test.*eval\.py --workdir='.*a run' --split=validation"):
        evaluations.open_runs([folder], "validation")


def test_same_run_twice_is_refused(tmp_path):
    folder = fake_runs.make_run(tmp_path / "run")
    with pytest.raises(UserError, match="each run folder once"):
        evaluations.open_runs([folder, folder / ".." / "run"], "test")


def test_runs_evaluated_on_other_data_are_refused(tmp_path):
    folders = [fake_runs.make_run(tmp_path / name, evaluated_on=name) for name in ("a", "b")]
    with pytest.raises(UserError, match=r"different data \(fingerprints a and b\).*--data_dir=data/faces"):
        evaluations.open_runs(folders, "test")


def test_runs_evaluated_on_other_numbers_of_faces_are_refused(tmp_path):
    folders = [fake_runs.make_run(tmp_path / name) for name in ("a", "b")]
    fake_runs.change_metrics(folders[1], num_examples=5)
    with pytest.raises(UserError, match=r"different numbers of faces \(28 and 5\)"):
        evaluations.open_runs(folders, "test")


def test_damaged_metrics_are_named(tmp_path):
    folder = fake_runs.make_run(tmp_path / "run")
    (folder / "eval/test/metrics.json").write_text('{"cl": ')
    with pytest.raises(UserError, match=r"metrics\.json: cannot be read"):
        evaluation_of(folder)
    (folder / "eval/test/metrics.json").write_text('{"cl": 0.5}')
    with pytest.raises(UserError, match=r"lacks split, num_examples.*evaluate again"):
        evaluation_of(folder)


def test_damaged_maps_are_named(tmp_path):
    folder = fake_runs.make_run(tmp_path / "run")
    fake_runs.change_maps(folder, sample__image=None)
    with pytest.raises(UserError, match=r"maps\.npz.*lacks sample/image"):
        evaluation_of(folder).maps()
    (folder / "eval/test/maps.npz").write_bytes(b"PK cut off")
    with pytest.raises(UserError, match=r"maps\.npz: cannot be read"):
        evaluation_of(folder).maps()


def test_log_line_that_was_cut_off_is_left_out(tmp_path):
    folder = fake_runs.make_run(tmp_path / "run")
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "ep')
    assert len(run_files.read_log(folder / run_files.LOG)) == 6


def test_report_is_not_written_over_a_file(tmp_path, two_runs):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="--out: expected a folder"):
        comparison.write(two_runs, split="test", out=tmp_path / "out")


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


def test_maps_without_a_pattern_are_warned_of_where_there_are_any(tmp_path, two_runs):
    other = fake_runs.make_run(tmp_path / "other")
    fake_runs.change_metrics(other, cam_without_pattern=3, att_without_pattern={"layer4": 0, "layer5": 1})
    (warning,) = comparison.warnings(evaluations.open_runs([two_runs[1], other], "test"))
    assert warning.startswith("other: Maps without a pattern")
    assert "the CAM of 3, the attention at layer5 of 1 of 28 faces" in warning
    assert "examples.csv" in warning


def test_maps_without_a_pattern_are_said_in_the_page(tmp_path):
    run = fake_runs.make_run(tmp_path / "run")
    fake_runs.change_metrics(run, cam_without_pattern=None, att_without_pattern={"layer4": 0, "layer5": 28})
    page = comparison.write([run], split="test", out=tmp_path / "out").path.read_text()
    assert "> **Caution.** run: Maps without a pattern" in page
    assert "CAM of" not in page


def test_method_without_cam_has_a_dash_and_no_column(tmp_path, sheets):
    folder = fake_runs.make_run(tmp_path / "run")
    fake_runs.change_metrics(folder, cam_cos=None)
    fake_runs.change_maps(folder, sample__cam=None, class_mean__cam=None)
    assert tables.results([evaluation_of(folder)]).rows[0][-1] == "–"
    figures.draw_evaluation(folder / "eval/test")
    assert all("Class activation\nmap" not in words_of(figure) for figure in sheets[:2])


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
    assert "Average" in words
    assert not any(word.startswith("Neutral") for word in words)


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
    folders = [fake_runs.make_run(tmp_path / name, au_weight=weight) for weight, name in enumerate(names)]
    comparison.write(folders, split="test", out=tmp_path / "out")
    assert len(sheets) == 7
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


def test_report_needs_no_jax():
    code = "import sys, aujax.report.__main__; print([n for n in ('jax', 'flax', 'matplotlib') if n in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_command_prints_the_table_and_the_path(two_runs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["report", *map(str, two_runs), f"--out={out}"])
    command.main()
    printed = capsys.readouterr().out
    assert f"{metrics_of(two_runs[1])['att_cos']['layer5']:.3f}" in printed
    assert f"report: {out / 'report.md'}" in printed


def test_command_ends_with_status_2_on_a_mistake(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "no such run folder" in capsys.readouterr().err


def test_printed_evaluation_holds_its_numbers(two_runs, capsys):
    tables.print_evaluation(two_runs[0] / "eval/test")
    printed = capsys.readouterr().out
    assert f"{metrics_of(two_runs[0])['per_class']['Fear']['cam_cos']:.3f}" in printed
    assert str(two_runs[0] / "eval/test") in printed


@pytest.mark.parametrize("module", [figures, overlays, tables])
def test_examples_in_the_docstrings_are_right(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0
