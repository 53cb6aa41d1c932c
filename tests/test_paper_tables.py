"""The paper's tables from run folders: what stands where, beside what, and in files that others can read."""

import csv
import doctest
import json
import pathlib
import re
import sys

import fake_runs
import pytest

from aujax.errors import UserError
from aujax.report import __main__ as command
from aujax.report import experiments, paper_tables, published, seeds

RAFDB = {"data_name": "rafdb", "backbone": ""}


@pytest.fixture
def make(tmp_path):
    """Returns a maker of fake runs, below a folder of runs."""

    def run(name: str, **options) -> pathlib.Path:
        return fake_runs.make_run(tmp_path / "runs" / name, **options)

    return run


def lines(paths: list[pathlib.Path]) -> list[list[str]]:
    """The cells of the Markdown table, without its header."""
    table = [line for line in paths[0].read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def caption(paths: list[pathlib.Path]) -> str:
    return paths[0].read_text().splitlines()[0]


def test_our_numbers_stand_beside_the_published_ones(make, tmp_path):
    runs = [make("with", au_weight=4.0, **RAFDB), make("without", **RAFDB)]
    for run, cl in zip(runs, (0.75, 0.5), strict=True):
        _recognise(run, cl)
    first, second = lines(paper_tables.table1(runs, "test", tmp_path))[:2]
    # Wilson's interval of 14 and 21 right among 28, by hand.
    assert first[:7] == ["RAF-DB", "CAM", "w/o AU", "heldout", "1", "50.0 [32.6, 67.4]", "88.20"]
    assert second[2:7] == ["w/ AU", "heldout", "1", "75.0 [56.6, 87.3]", "88.95"]
    assert [line[8] for line in (first, second)] == ["0.55", "0.70"]


def _recognise(run: pathlib.Path, share: float) -> None:
    """Makes the first so many faces of every expression recognised, and the others not."""
    path = run / "eval" / "test" / "examples.csv"
    header, *rows = csv.reader(path.read_text().splitlines())
    true, predicted = header.index("expression"), header.index("predicted")
    for place, row in enumerate(rows):
        right = place % fake_runs.PER_CLASS < share * fake_runs.PER_CLASS
        row[predicted] = row[true] if right else {"Neutral": "Fear"}.get(row[true], "Neutral")
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def test_the_number_of_a_cosine_is_that_of_the_evaluation(make, tmp_path):
    run = make("run", **RAFDB)
    metrics = json.loads((run / "eval/test/metrics.json").read_text())
    assert lines(paper_tables.table1([run], "test", tmp_path))[0][7].startswith(f"{metrics['cam_cos']:.3f} [")
    assert lines(paper_tables.table2([run], "test", tmp_path))[0][5].startswith(f"{metrics['att_cos']['layer5']:.3f} [")


def test_seeds_are_one_line_with_mean_deviation_and_the_interval_of_student(make, tmp_path):
    for seed, cl, cosine in ((0, 0.8, 0.5), (1, 0.9, 0.6)):
        fake_runs.change_metrics(make(f"seed {seed}", seed=seed, **RAFDB), cl=cl, cam_cos=cosine)
    line = lines(paper_tables.table1([tmp_path / "runs"], "test", tmp_path))[0]
    # The deviation is 0.1 / sqrt(2), t of one degree of freedom 12.706: 0.85 and 0.55, each ± 0.635.
    assert line[4:8] == ["2", "85.0 ± 7.1 [21.5, 100.0]", "88.20", "0.550 ± 0.071 [−0.085, 1.000]"]


def test_trivial_maps_end_every_data_set(make, tmp_path):
    runs = [make("a", **RAFDB), make("b", evaluated_on="ffff", data_name="affectnet")]
    found = lines(paper_tables.table1(runs, "test", tmp_path))
    for name in ("RAF-DB", "AffectNet"):
        own = [line for line in found if line[0] == name]
        assert own[0][1] == "CAM"
        assert {line[1]: line[7] for line in own[1:]} == {
            "most frequent expression": "–",
            "flat map": "0.471",
            "Gaussian in the middle": "0.552",
            "all action units at once": "0.723",
            "average AU map of the true expression": "0.814",
        }
        assert own[1][5] == "14.3"


def test_other_faces_have_no_published_numbers(make, tmp_path):
    runs = [make("a", data_name="folder"), make("b", evaluated_on="ffff", splits=["validation"], **RAFDB)]
    assert {line[6] for line in lines(paper_tables.table1(runs[:1], "test", tmp_path))} == {"–"}
    assert {line[6] for line in lines(paper_tables.table1(runs[1:], "validation", tmp_path))} == {"–"}
    assert "Published" not in caption(paper_tables.table1(runs[1:], "validation", tmp_path))


def test_methods_stand_in_the_papers_order_and_a_method_without_cam_has_a_dash(make, tmp_path):
    names = ("APViT", "WILDCAT/reference", "CAM")
    runs = [make(name.partition("/")[0], method=name, **RAFDB) for name in names]
    fake_runs.change_metrics(runs[0], cam_cos=None, cam_without_pattern=None)
    found = lines(paper_tables.table1(runs, "test", tmp_path))
    assert [line[1] for line in found[:3]] == ["CAM", "WILDCAT/reference", "APViT"]
    assert found[2][7:] == ["–", "–"]
    assert found[1][6] == "88.26"


def test_every_line_names_its_protocol_and_the_caption_says_what_it_means(make, tmp_path):
    runs = [make("a", **RAFDB), make("b", protocol="paper", **RAFDB)]
    paths = paper_tables.table2(runs, "test", tmp_path)
    assert [line[3] for line in lines(paths)[:2]] == ["heldout", "paper"]
    assert "Protocol paper: The best epoch was chosen on the test split itself" in caption(paths)
    assert "Protocol heldout: The model was chosen on a validation split" in caption(paths)


def test_trainings_of_one_method_are_told_apart_by_what_differs(make, tmp_path):
    runs = [make(f"{weight:g}", au_weight=weight, epochs=20, **RAFDB) for weight in (0.0, 4.0, 9.0)]
    runs.append(make("small", backbone="resnet_tiny", data_name="rafdb", epochs=20))
    labels = [line[1] for line in lines(paper_tables.table1(runs, "test", tmp_path))[:4]]
    assert sorted(labels) == ["CAM", "CAM (au_weight=4)", "CAM (au_weight=9)", "CAM (resnet_tiny)"]


def test_runs_of_a_folder_that_cannot_be_read_are_left_out_and_named(make, tmp_path, caplog):
    make("done", **RAFDB)
    make("to do", splits=[], **RAFDB)
    (make("cut off", **RAFDB) / "eval/test/metrics.json").write_text('{"cl": 0.')
    paths = paper_tables.table1([tmp_path / "runs"], "test", tmp_path)
    assert caption(paths).endswith(
        "Left out, for their evaluation on this split is missing or damaged: cut off, to do."
    )
    assert lines(paths)[1][1] == "most frequent expression"
    assert [message.split(":")[0] for message in caplog.messages] == ["left out"] * 2


def test_a_method_and_what_the_released_code_computes_are_told_apart(make, tmp_path):
    runs = [make(name.replace("/", " "), method=name, **RAFDB) for name in ("WILDCAT", "WILDCAT/reference")]
    found = lines(paper_tables.table1(runs, "test", tmp_path))[:2]
    assert [line[1] for line in found] == ["WILDCAT", "WILDCAT/reference"]


def test_layers_are_lines_beside_the_published_ablation(make, tmp_path):
    make("none", au_layers=[], **RAFDB)
    for layers in (["layer4", "layer5"], ["layer5"], []):
        make("+".join(layers) or "own", au_weight=4.0, seed=len(layers), au_layers=layers, **RAFDB)
    found = lines(paper_tables.table3([tmp_path / "runs"], "test", tmp_path))
    assert [(line[2], line[6], line[8]) for line in found[:4]] == [
        ("none (w/o AU)", "88.20", "0.55"),
        ("layer5", "88.95", "0.70"),
        ("layer5", "88.95", "0.70"),
        ("layer4 + layer5", "88.78", "0.67"),
    ]
    assert {line[1] for line in found[:4]} == {"CAM"}


def test_the_csv_file_has_plain_numbers(make, tmp_path):
    for seed in (0, 1):
        make(f"{seed}", seed=seed, **RAFDB)
    (_, path, _) = paper_tables.table1([tmp_path / "runs"], "test", tmp_path)
    first, second = list(csv.DictReader(path.read_text().splitlines()))[:2]
    share, low, high = (float(first[name]) for name in ("CL", "CL, low", "CL, high"))
    assert 0 <= low < share < high <= 1
    assert float(first["CL, standard deviation"]) > 0
    assert (first["CL (%), published"], second["CAM-COS"]) == ("88.20", "")


def test_the_latex_table_is_whole(make, tmp_path):
    run = make("run", data_name="rafdb", backbone="resnet_tiny")
    text = paper_tables.table1([run], "test", tmp_path)[2].read_text()
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


def test_the_papers_tables_are_whole_and_agree_with_each_other():
    assert set(published.RESULTS) == set(published.FACES)
    for results in published.RESULTS.values():
        assert tuple(results) == published.METHODS
        assert len(published.METHODS) == 11
        assert [name for name, pair in results.items() if pair[0].cam is None] == ["APViT"]
        # What the paper claims of its tables: alignment makes both cosines and the accuracy of every method higher.
        for without, aligned in results.values():
            assert all(a < b for a, b in zip(without, aligned, strict=True) if a is not None and b is not None)
    assert published.LAYERS[()] == published.RESULTS["RAF-DB"]["CAM"][0]
    assert published.LAYERS["layer5",] == published.RESULTS["RAF-DB"]["CAM"][1]
    # From the paper's page, one of each table.
    assert published.RESULTS["AffectNet"]["PRM"] == ((57.77, 0.52, 0.55), (60.97, 0.75, 0.82))
    assert published.LAYERS["layer2", "layer3", "layer4", "layer5"] == (88.55, 0.67, None)


@pytest.mark.parametrize(
    ("about", "name"),
    [
        ({"name": "affectnet", "source": "x/AffectNet"}, "AffectNet"),
        ({"name": "folds", "source": "images", "folds": "folds/wsol-done-right-splits/RAF-DB"}, "RAF-DB"),
        ({"name": "folder", "source": "/home/me/faces"}, "faces"),
        ({"name": "synthetic", "source": ""}, "drawn"),
    ],
)
def test_a_data_set_has_the_papers_name_or_that_of_its_source(about, name):
    assert published.data_set({"dir": "data/drawn", "about": about}) == name


def test_data_sets_of_one_name_are_told_apart(make):
    runs = [make("a", **RAFDB), make("b", evaluated_on="ffff0000", **RAFDB)]
    assert [data.name for data in experiments.open_all(runs, "test").data_sets] == ["RAF-DB eeee", "RAF-DB ffff00"]


def test_a_folder_without_evaluated_runs_is_refused(make, tmp_path):
    (make("run", splits=[]) / "empty").mkdir()
    with pytest.raises(UserError, match=r"run: no evaluation on the split 'test'"):
        paper_tables.table1([tmp_path / "runs"], "test", tmp_path)
    with pytest.raises(UserError, match=r"expected a run folder, .* or a folder of them; it holds none"):
        paper_tables.table1([tmp_path / "runs" / "run" / "empty"], "test", tmp_path)
    with pytest.raises(UserError, match="no such run folder"):
        paper_tables.table1([tmp_path / "nothing"], "test", tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(make, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out: .* cannot be made .*; choose another folder"):
        paper_tables.table1([make("run")], "test", tmp_path / "file" / "out")


def test_the_command_writes_a_table_and_says_where(make, tmp_path, capsys, monkeypatch):
    run = make("run", **RAFDB)
    monkeypatch.setattr(sys, "argv", ["report", "table2", str(run), f"--out={tmp_path / 'out'}"])
    command.main()
    assert [line.split("/")[-1] for line in capsys.readouterr().out.splitlines()] == [
        "table2.md",
        "table2.csv",
        "table2.tex",
    ]


def test_people_who_repeat_are_said_and_drawn(make, tmp_path):
    runs = [fake_runs.repeat_faces(make(name, **RAFDB), named=name == "known") for name in ("known", "unknown")]
    found = []
    for run in runs:
        paths = paper_tables.table1([run], "test", tmp_path)
        found.append((caption(paths), next(csv.DictReader(paths[1].read_text().splitlines()))))
    (known, of_known), (unknown, of_unknown) = found
    assert "RAF-DB (56 faces of 28 people, split test" in known
    assert "intervals and tests draw people, with all their faces." in known
    assert "RAF-DB (56 faces, split test" in unknown
    assert "The data do not say who is on which face" in unknown
    for name in ("CL", "CAM-COS"):
        widths = [float(row[f"{name}, high"]) - float(row[f"{name}, low"]) for row in (of_known, of_unknown)]
        assert widths[0] > 1.1 * widths[1]


@pytest.mark.parametrize("module", [published, seeds])
def test_examples_in_docstrings_are_right(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0
