import pathlib

import fake_runs
import pytest

from aujax import run_files
from aujax.errors import UserError
from aujax.report import evaluations, provenance


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    root = tmp_path_factory.mktemp("two runs")
    return [fake_runs.make_run(root / "without"), fake_runs.make_run(root / "with", au_weight=4.0)]


def evaluation_of(folder: pathlib.Path) -> evaluations.Evaluation:
    return evaluations.read(folder / "eval/test")


def test_runs_that_differ_in_au_weight_only_raise_no_warning(two_runs):
    assert provenance.warnings(evaluations.open_runs(two_runs, "test")) == []


def test_where_the_same_data_lie_is_no_difference(tmp_path):
    folders = [fake_runs.make_run(tmp_path / name, data_dir=name) for name in ("a", "b")]
    assert evaluations.differences(evaluations.open_runs(folders, "test")) == {}


def test_other_differences_are_warned_of_with_their_values(tmp_path):
    folders = [
        fake_runs.make_run(tmp_path / "a", optimizer={"learning_rate": 0.1}),
        fake_runs.make_run(tmp_path / "b", au_weight=4.0, optimizer={"learning_rate": 0.2}),
    ]
    runs = evaluations.open_runs(folders, "test")
    (warning,) = provenance.warnings(runs)
    assert "optimizer.learning_rate (0.1 in a; 0.2 in b)" in warning
    assert ["optimizer.learning_rate", "0.1", "0.2"] in provenance.runs_table(runs).rows


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


def test_maps_without_a_pattern_are_warned_of_where_there_are_any(tmp_path, two_runs):
    other = fake_runs.make_run(tmp_path / "other")
    fake_runs.change_metrics(other, cam_without_pattern=3, att_without_pattern={"layer4": 0, "layer5": 1})
    (warning,) = provenance.warnings(evaluations.open_runs([two_runs[1], other], "test"))
    assert warning.startswith("other: Maps without a pattern")
    assert "the CAM of 3, the attention at layer5 of 1 of 28 faces" in warning
    assert "examples.csv" in warning


def test_seeds_are_no_difference_where_every_weight_has_the_same_ones(tmp_path):
    folders = [
        fake_runs.make_run(tmp_path / f"{weight}-{seed}", au_weight=weight, seed=seed)
        for weight in (0.0, 4.0)
        for seed in (0, 1)
    ]
    runs = evaluations.open_runs(folders, "test")
    assert provenance.warnings(runs) == []
    assert [[run.name for run in group] for group in evaluations.replicates(runs)] == [
        ["0.0-0", "0.0-1"],
        ["4.0-0", "4.0-1"],
    ]
    (warning,) = provenance.warnings([runs[0], runs[3]])
    assert "seed (0 in 0.0-0; 1 in 4.0-1)" in warning


def test_protocols_are_said_and_their_difference_is_warned_of(tmp_path):
    folders = [fake_runs.make_run(tmp_path / name, protocol=name) for name in ("heldout", "paper")]
    runs = evaluations.open_runs(folders, "test")
    (warning,) = provenance.warnings(runs)
    assert "protocol (heldout in heldout; paper in paper)" in warning
    assert "validation split" in provenance.protocol(runs[0])
    assert "higher than they are on new faces" in provenance.protocol(runs[1])


def test_numbers_of_the_split_that_chose_the_model_are_not_called_held_out(tmp_path):
    folder = fake_runs.make_run(tmp_path / "run", splits=("validation",))
    (run,) = evaluations.open_runs([folder], "validation")
    assert "these very faces" in provenance.protocol(run)


def test_faces_that_were_trained_on_and_weights_that_no_split_chose_are_said(tmp_path):
    folder = fake_runs.make_run(tmp_path / "run", splits=("train", "test"))
    (run,) = evaluations.open_runs([folder], "train")
    assert "was trained on these very faces" in provenance.protocol(run)
    fake_runs.change_metrics(folder, checkpoint=fake_runs.CHECKPOINT | {"which": "latest"})
    (run,) = evaluations.open_runs([folder], "test")
    assert "no split chose them" in provenance.protocol(run)


def test_examples_are_columns_and_empty_cells_are_masked(tmp_path):
    folder = fake_runs.make_run(tmp_path / "run")
    rows = evaluation_of(folder).examples()
    values, known = rows.numbers("cam_cos")
    assert len(rows) == 28
    assert rows.expression.tolist() == fake_runs.labels().tolist()
    assert known.tolist() == (rows.expression > 0).tolist()
    assert not values[~known].any()
    assert (rows.logits.argmax(1) == rows.predicted).all()
    assert rows.attributes["gender"][:2] == ["male", "female"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("index,expression\n0\n", "rows of different lengths"),
        ("index,expression\n0,Fear\n", "no column predicted"),
        ("index,expression,predicted\n", "no rows"),
        ("index,expression,predicted\n0,Joy,Fear\n", "expected an expression, got 'Joy'"),
    ],
)
def test_damaged_examples_are_named(tmp_path, content, message):
    folder = fake_runs.make_run(tmp_path / "run")
    (folder / "eval/test/examples.csv").write_text(content)
    with pytest.raises(UserError, match=rf"examples\.csv: .*{message}"):
        evaluation_of(folder).examples().correct.any()


def test_column_that_is_no_number_or_lacks_is_named(tmp_path):
    rows = evaluation_of(fake_runs.make_run(tmp_path / "run")).examples()
    with pytest.raises(UserError, match="column 'id': expected numbers"):
        rows.numbers("id")
    with pytest.raises(UserError, match="expected a column 'att_cos_layer9', which it lacks"):
        rows.numbers("att_cos_layer9")
