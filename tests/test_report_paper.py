"""The paper's tables and figures from run folders: what is beside what, and files that others can read."""

import csv
import pathlib
import re
import xml.etree.ElementTree

import cv2
import evaluated_runs
import numpy as np
import pytest
from evaluated_runs import PER_CLASS, make_run, open_test
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from aujax import cli
from aujax.errors import UserError
from aujax.report import paper, plots

RAFDB = {"about": {"name": "rafdb"}, "backbone": ""}


@pytest.fixture
def make(tmp_path):
    """Returns a function that makes a run inside a folder of runs."""

    def run(name: str, **options) -> pathlib.Path:
        return make_run(tmp_path / "runs" / name, **options)

    return run


def lines(paths: list[pathlib.Path]) -> list[list[str]]:
    """Returns the cells of the Markdown table, without its header."""
    table = [line for line in paths[0].read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def caption(paths: list[pathlib.Path]) -> str:
    return paths[0].read_text().splitlines()[0]


def correct_share(share: float):
    """Returns an edit after which that share of every expression's faces is predicted correctly."""

    def edit(content: evaluated_runs.Content) -> None:
        labels = content.columns["expression"]
        correct = np.arange(len(labels)) % PER_CLASS < share * PER_CLASS
        content.columns["predicted"] = np.where(correct, labels, (labels + 1) % 7)

    return edit


def test_our_numbers_are_beside_the_published_ones(make, tmp_path):
    runs = [
        make("with", au_weight=4.0, edit=correct_share(0.75), **RAFDB),
        make("without", edit=correct_share(0.5), **RAFDB),
    ]
    first, second = lines(paper.write_table("table1", runs, "test", tmp_path))[:2]
    # Wilson's interval of 14 and 21 correct of 28, by hand.
    assert first[:7] == ["RAF-DB", "CAM", "w/o AU", "validation", "1", "50.0 [32.6, 67.4]", "88.20"]
    assert second[2:7] == ["w/ AU", "validation", "1", "75.0 [56.6, 87.3]", "88.95"]
    assert [line[8] for line in (first, second)] == ["0.55", "0.70"]


def test_cosines_are_those_of_the_evaluation(make, tmp_path):
    run = make("run", **RAFDB)
    metadata = open_test(run).metadata
    assert lines(paper.write_table("table1", [run], "test", tmp_path))[0][7].startswith(f"{metadata['cam_cos']:.3f} [")
    assert lines(paper.write_table("table2", [run], "test", tmp_path))[0][5].startswith(f"{metadata['att_cos']:.3f} [")


def test_seeds_are_one_row_with_mean_deviation_and_students_interval(make, tmp_path):
    def constant(cosine):
        def edit(content):
            values = content.scores[evaluated_runs.ScoreKey("cosine", "cam", "label")]
            values[~np.isnan(values)] = cosine

        return edit

    for seed, cosine in ((0, 0.5), (1, 0.6)):
        make(f"seed {seed}", seed=seed, edit=constant(cosine), **RAFDB)
    line = lines(paper.write_table("table1", [tmp_path / "runs"], "test", tmp_path))[0]
    assert line[4] == "2"
    # The deviation is 0.1 / sqrt(2), t of one degree of freedom 12.706: 0.55 ± 0.635, cut at 1.
    assert line[7] == "0.550 ± 0.071 [−0.085, 1.000]"
    assert re.fullmatch(r"[\d.]+ ± [\d.]+ \[[\d.]+, [\d.]+\]", line[5])


def test_baselines_end_every_data_set(make, tmp_path):
    runs = [make("a", **RAFDB), make("b", evaluated_on="ffff", about={"name": "affectnet"})]
    table = lines(paper.write_table("table1", runs, "test", tmp_path))
    for name in ("RAF-DB", "AffectNet"):
        own = [line for line in table if line[0] == name]
        assert own[0][1] == "CAM"
        assert {line[1]: line[7] for line in own[1:]} == {
            "most frequent expression": "–",
            "uniform map": "0.471",
            "centred Gaussian": "0.552",
            "all action units": "0.723",
            "mean AU map of the true expression": "0.814",
        }
        assert own[1][5] == "14.3"


def test_other_faces_have_no_published_numbers(make, tmp_path):
    runs = [make("a", about={"name": "folder"}), make("b", evaluated_on="ffff", splits=["validation"], **RAFDB)]
    assert {line[6] for line in lines(paper.write_table("table1", runs[:1], "test", tmp_path))} == {"–"}
    assert {line[6] for line in lines(paper.write_table("table1", runs[1:], "validation", tmp_path))} == {"–"}
    assert "Published" not in caption(paper.write_table("table1", runs[1:], "validation", tmp_path))


def test_methods_are_in_the_papers_order_and_one_without_cam_has_a_dash(make, tmp_path):
    names = ("APViT", "WILDCAT/reference", "CAM", "WILDCAT")
    runs = [
        make(name.replace("/", " "), method=name, has_cam=name != "APViT", **RAFDB)
        for name in names
    ]  # fmt: skip
    table = lines(paper.write_table("table1", runs, "test", tmp_path))
    assert [line[1] for line in table[:4]] == ["CAM", "WILDCAT", "WILDCAT/reference", "APViT"]
    assert table[3][7:] == ["–", "–"]
    assert [line[6] for line in table[1:3]] == ["88.26", "88.26"]


def test_every_row_names_its_model_selection_which_the_caption_explains(make, tmp_path):
    runs = [make("a", **RAFDB), make("b", model_selection="test", **RAFDB)]
    paths = paper.write_table("table2", runs, "test", tmp_path)
    assert sorted(line[3] for line in lines(paths)[:2]) == ["test", "validation"]
    assert "Selected on test: The checkpoint was selected on the test split itself" in caption(paths)
    assert "Selected on validation: The checkpoint was selected on the validation split" in caption(paths)


def test_trainings_of_one_method_are_distinguished_by_what_differs(make, tmp_path):
    runs = [make(f"{weight:g}", au_weight=weight, epochs=20, **RAFDB) for weight in (0.0, 4.0, 9.0)]
    runs.append(make("small", **(RAFDB | {"backbone": "resnet_tiny"}), epochs=20))
    labels = [line[1] for line in lines(paper.write_table("table1", runs, "test", tmp_path))[:4]]
    assert sorted(labels) == ["CAM", "CAM (au_weight=4)", "CAM (au_weight=9)", "CAM (resnet_tiny)"]


def test_unreadable_runs_of_a_folder_are_skipped_and_named(make, tmp_path, caplog):
    make("done", **RAFDB)
    make("to do", splits=[], **RAFDB)
    (make("cut off", **RAFDB) / "eval/test/metrics.json").write_text('{"accuracy": 0.')
    paths = paper.write_table("table1", [tmp_path / "runs"], "test", tmp_path)
    ending = "Skipped, because the evaluation on this split is missing or damaged: cut off, to do."
    assert caption(paths).endswith(ending)
    assert lines(paths)[1][1] == "most frequent expression"
    assert [message.split(":")[0] for message in caplog.messages] == ["skipped"] * 2


def test_layers_are_rows_beside_the_published_ablation(make, tmp_path):
    make("none", au_layers=[], **RAFDB)
    for layers in (["layer4", "layer5"], ["layer5"], []):
        make("+".join(layers) or "own", au_weight=4.0, seed=len(layers), au_layers=layers, **RAFDB)
    table = lines(paper.write_table("table3", [tmp_path / "runs"], "test", tmp_path))
    assert [(line[2], line[6], line[8]) for line in table[:4]] == [
        ("none (w/o AU)", "88.20", "0.55"),
        ("layer5", "88.95", "0.70"),
        ("layer5", "88.95", "0.70"),
        ("layer4 + layer5", "88.78", "0.67"),
    ]
    assert {line[1] for line in table[:4]} == {"CAM"}


def test_csv_file_has_plain_numbers(seed_runs, tmp_path):
    (_, path, _) = paper.write_table("table1", [seed_runs], "test", tmp_path)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    first, last = rows[0], rows[3]
    share, low, high = (float(first[name]) for name in ("CL", "CL, low", "CL, high"))
    assert 0 <= low < share < high <= 1
    assert float(first["CL, standard deviation"]) > 0
    assert (first["CL (%), published"], last["CAM-COS"]) == ("88.20", "")


def test_latex_table_is_complete(make, tmp_path):
    run = make("run", about={"name": "rafdb"}, backbone="resnet_tiny")
    text = paper.write_table("table1", [run], "test", tmp_path)[2].read_text()
    body = re.search(r"\\begin{tabular}{(\w+)}\n(.*)\\end{tabular}", text, re.DOTALL)
    assert body
    rows = [line for line in body[2].splitlines() if line.endswith(r"\\")]
    assert len(rows) == 7
    assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {len(body[1])}
    assert r"resnet\_tiny" in text
    without_comments = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[%#_^]", without_comments.replace(r"\label{tab:", ""))
    assert not re.search(r"[^\x00-\x7f]", without_comments)
    assert text.count("{") == text.count("}")
    assert text.count("$") % 2 == 0


def test_published_tables_are_complete_and_agree_with_each_other():
    assert {name for name, _, _ in paper.PUBLISHED} == set(paper.TEST_FACES)
    assert len(paper.METHODS) == 11
    for name in paper.TEST_FACES:
        for method in paper.METHODS:
            without, aligned = (paper.PUBLISHED[name, method, case] for case in ("w/o AU", "w/ AU"))
            assert np.isnan(without["cam_cos"]) == np.isnan(aligned["cam_cos"]) == (method == "APViT")
            # What the paper claims: alignment raises both cosines and the accuracy of every method.
            assert all(without[metric] < aligned[metric] for metric in without if not np.isnan(without[metric]))
    layers = {case: numbers for (*_, case), numbers in paper.PUBLISHED.items() if not case.endswith(" AU")}
    assert layers["none (w/o AU)"] == paper.PUBLISHED["RAF-DB", "CAM", "w/o AU"]
    assert layers["layer5"] == paper.PUBLISHED["RAF-DB", "CAM", "w/ AU"]
    assert len(layers) == 10
    assert len(paper.PUBLISHED) == 2 * 11 * 2 + 10
    # From the paper's page, one of each table.
    assert list(paper.PUBLISHED["AffectNet", "PRM", "w/o AU"].values()) == [57.77, 0.52, 0.55]
    assert list(paper.PUBLISHED["AffectNet", "PRM", "w/ AU"].values()) == [60.97, 0.75, 0.82]
    numbers = layers["layer2 + layer3 + layer4 + layer5"]
    assert (numbers["accuracy"], numbers["cam_cos"]) == (88.55, 0.67)


@pytest.mark.parametrize(
    ("about", "name"),
    [
        ({"name": "affectnet", "source": "x/AffectNet"}, "AffectNet"),
        ({"name": "folds", "source": "images", "folds": "folds/wsol-done-right-splits/RAF-DB"}, "RAF-DB"),
        ({"name": "folder", "source": "/home/me/faces"}, "faces"),
        ({"name": "synthetic", "source": ""}, "drawn"),
    ],
)
def test_data_set_has_the_papers_name_or_that_of_its_source(about, name):
    assert paper.data_set_name({"dir": "data/drawn", "about": about}) == name


def test_data_sets_of_one_name_are_distinguished(make):
    runs = [make("a", **RAFDB), make("b", evaluated_on="ffff0000", **RAFDB)]
    data_sets, _ = paper.open_data_sets(runs, "test")
    assert [data.name for data in data_sets] == ["RAF-DB eeee", "RAF-DB ffff00"]


def test_folder_without_evaluated_runs_is_refused(make, tmp_path):
    (make("run", splits=[]) / "empty").mkdir()
    with pytest.raises(UserError, match=r"run: no evaluation on the split 'test'"):
        paper.write_table("table1", [tmp_path / "runs"], "test", tmp_path)
    with pytest.raises(UserError, match=r"expected a run folder, .* or a folder that holds some"):
        paper.write_table("table1", [tmp_path / "runs" / "run" / "empty"], "test", tmp_path)
    with pytest.raises(UserError, match="no such run folder"):
        paper.write_table("table1", [tmp_path / "nothing"], "test", tmp_path)


def test_output_folder_that_cannot_be_made_is_refused(make, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out: .* cannot be made .*; choose another folder"):
        paper.write_table("table1", [make("run")], "test", tmp_path / "file" / "out")


def test_command_writes_a_table_and_prints_its_paths(seed_runs, tmp_path, capsys):
    cli.main(["report", "table2", str(seed_runs), f"--out={tmp_path / 'out'}"])
    printed = [line.split("/")[-1] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["table2.md", "table2.csv", "table2.tex"]


def test_subjects_who_repeat_are_named_and_resampled(make, tmp_path):
    results = []
    for name in ("known", "unknown"):

        def repeat(content, named=name == "known"):
            evaluated_runs.repeat_faces(content, named=named)

        paths = paper.write_table("table1", [make(name, edit=repeat, **RAFDB)], "test", tmp_path)
        results.append((caption(paths), next(csv.DictReader(paths[1].read_text().splitlines()))))
    (known, of_known), (unknown, of_unknown) = results
    assert "RAF-DB (56 faces of 28 subjects, test split" in known
    assert "intervals and tests resample subjects, with all their faces." in known
    assert "RAF-DB (56 faces, test split" in unknown
    assert "The data have no subject ids" in unknown
    for name in ("CL", "CAM-COS"):
        widths = [float(row[f"{name}, high"]) - float(row[f"{name}, low"]) for row in (of_known, of_unknown)]
        assert widths[0] > 1.1 * widths[1]


# --- Figures


@pytest.fixture(scope="module")
def pair(seed_runs):
    return [seed_runs / "au_weight=0,seed=0", seed_runs / "au_weight=4,seed=0"]


def texts_of(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize(
    ("kind", "runs", "names"),
    [
        ("figure4", 2, ["figure4"]),
        ("figure6", 2, ["figure6"]),
        ("figure5", 2, ["figure5"]),
        ("figure10", 1, [f"figure10-RAF-DB-au_weight=0,seed=0-{kind}" for kind in ("confusion", "cosines")]),
    ],
)
def test_figure_is_an_image_and_a_drawing_with_all_text_inside(pair, tmp_path, figures, kind, runs, names):
    paths = paper.WRITERS[kind](kind, pair[:runs], "test", tmp_path)
    assert {path.name for path in paths if path.suffix != ".csv"} == {n + s for n in names for s in (".png", ".svg")}
    for path in paths:
        if path.suffix == ".png":
            assert np.ptp(cv2.imread(str(path))) > 200
        if path.suffix == ".svg":
            assert xml.etree.ElementTree.parse(path).getroot().tag.endswith("svg")
    for figure in figures:
        figure.draw_without_rendering()  # SVG files are laid out at another resolution
        ticks = {id(label) for axes in figure.axes for label in (*axes.get_xticklabels(), *axes.get_yticklabels())}
        for text in figure.findobj(Text):
            # Labels of ticks may lie outside of the axes' limits; these are not drawn.
            if text.get_text() and text.get_visible() and id(text) not in ticks:
                box = text.get_window_extent(FigureCanvasAgg(figure).get_renderer())
                assert -1 <= box.x0 <= box.x1 <= figure.bbox.x1 + 1, text
                assert -1 <= box.y0 <= box.y1 <= figure.bbox.y1 + 1, text


def test_runs_of_a_pair_are_side_by_side_with_their_model_selection(pair, tmp_path, figures):
    paper.pair_figures("figure4", pair[::-1], "test", tmp_path)
    titles = [label.get_text() for label in figures[0].axes[0].get_xticklabels()]
    assert [" ".join(text.split()) for text in titles] == [
        "Face",
        "AU map",
        "Attention layer5 without AU (validation)",
        "CAM without AU (validation)",
        "Attention layer5 with AU (validation)",
        "CAM with AU (validation)",
    ]


def test_every_pair_of_one_seed_has_its_own_figure(seed_runs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "class_means", lambda runs, path: drawn.append(path.name) or path)
    paper.pair_figures("figure6", [seed_runs], "test", tmp_path)
    assert sorted(name for name in drawn if name.endswith(".png")) == [
        f"figure6-RAF-DB-au_weight={weight},seed={seed}.png" for weight in ("0.5", "4") for seed in (0, 1)
    ]


def test_runs_without_a_counterpart_are_refused(pair, seed_runs, tmp_path):
    with pytest.raises(UserError, match=r"figure4: expected a run without AU cues .* got au_weight=4,seed=0"):
        paper.pair_figures("figure4", pair[1:], "test", tmp_path)
    with pytest.raises(UserError, match="figure6: expected a run without AU cues"):
        paper.pair_figures("figure6", [pair[0], seed_runs / "au_weight=4,seed=1"], "test", tmp_path)


def test_runs_that_share_no_face_are_refused(pair, tmp_path):
    other = make_run(tmp_path / "other", au_weight=4.0, **RAFDB)
    evaluated_runs.change_maps(other, sample__face=np.arange(14) + 1000)
    with pytest.raises(UserError, match="share no face"):
        paper.pair_figures("figure4", [pair[0], other], "test", tmp_path / "out")


def test_weight_curves_are_means_over_seeds(seed_runs, tmp_path, figures):
    paths = paper.sweep_figures("figure5", [seed_runs], "test", tmp_path)
    accuracy = next(axes for axes in figures[0].axes if "Accuracy" in axes.get_title("left"))
    labels = {line.get_label(): line for line in accuracy.lines}
    containers = {container.get_label(): container.lines[0] for container in accuracy.containers}
    curve = containers.get("CL (%)") or labels["CL (%)"]
    means = [
        np.mean([open_test(seed_runs / f"au_weight={weight:g},seed={seed}").metadata["accuracy"] for seed in (0, 1)])
        for weight in (0.0, 0.5, 4.0)
    ]
    np.testing.assert_allclose(curve.get_xydata(), np.stack([[0, 0.5, 4], 100 * np.array(means)], axis=1))
    assert np.allclose(labels["CL (%), published"].get_xydata(), [[0, 88.2], [4, 88.95]])
    (numbers,) = [path for path in paths if path.suffix == ".csv"]
    rows = list(csv.DictReader(numbers.read_text().splitlines()))
    assert [(row["au_weight"], row["seeds"]) for row in rows] == [("0", "2"), ("0.5", "2"), ("4", "2")]
    assert [float(row["CL"]) for row in rows] == pytest.approx(means, abs=1e-5)


def test_method_without_cam_has_no_curve_of_it(tmp_path, figures):
    runs = [
        make_run(tmp_path / f"{weight:g}", au_weight=weight, method="APViT", has_cam=False, **RAFDB)
        for weight in (0.0, 4.0)
    ]
    paper.sweep_figures("figure5", runs, "test", tmp_path / "out")
    texts = texts_of(figures[0])
    assert "ATT-COS" in texts
    assert not any("CAM-COS" in text or "published" in text for text in texts)


def test_runs_that_are_no_sweep_are_refused(pair, tmp_path):
    other = make_run(tmp_path / "other", au_weight=4.0, epochs=3)
    with pytest.raises(UserError, match=r"figure5: expected runs that differ in --config\.au_weight alone"):
        paper.sweep_figures("figure5", [pair[0], other], "test", tmp_path)
