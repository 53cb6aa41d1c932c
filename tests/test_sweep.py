"""A sweep: its rows, their states, and independence of rows that fail."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from aujax import cli, config, sweep
from aujax.config import from_config_dict
from aujax.data.store import open_faces
from aujax.errors import UserError
from aujax.sweep import FINISHED, Row
from aujax.training import loop

ROOT = pathlib.Path(__file__).parents[1]
LAMBDA, LAYERS = (str(ROOT / "configs" / f"sweep_{name}.py") for name in ("lambda", "layers"))


@pytest.fixture
def faces(tiny_data):
    return open_faces(tiny_data)


@pytest.fixture
def rows(tiny_config) -> list[Row]:
    """Three rows on the tiny data; the second is the training of `tiny_run`."""
    return [Row(f"au_weight={w:g}", dataclasses.replace(tiny_config, au_weight=w)) for w in (0.0, 4.0, 8.0)]


@pytest.fixture
def done(tiny_run, tmp_path) -> pathlib.Path:
    """A folder of runs in which the second row is trained and evaluated on test."""
    shutil.copytree(tiny_run, tmp_path / "runs" / "au_weight=4")
    return tmp_path / "runs"


def test_the_papers_weights_begin_at_none_and_end_at_20():
    rows = sweep.rows_of(LAMBDA)
    weights = [row.config.au_weight for row in rows]
    assert weights == sorted(set(weights))
    assert (weights[0], weights[-1]) == (0, 20)
    assert {0.5, 4.0, 8.0} <= set(weights)
    assert {dataclasses.replace(row.config, au_weight=0.0) for row in rows} == {rows[0].config}


def test_the_papers_layers_are_those_of_its_table():
    from aujax.report.paper import PUBLISHED

    published = [tuple(case.split(" + ")) for *_, case in PUBLISHED if case.startswith("layer")]
    rows = sweep.rows_of(LAYERS)
    assert rows[0].config.au_weight == 0
    assert [row.config.au_layers for row in rows[1:]] == published
    assert rows[-2].name == "au_layers=layer2+layer3+layer4+layer5,seed=0"


@pytest.mark.parametrize("base", ["rafdb", "faces:small", "paper:method=TS-CAM,model_selection=test"])
def test_a_sweep_accepts_any_other_configuration_as_its_base(base):
    name, _, setting = base.partition(":")
    shared = from_config_dict(config.file_options(str(ROOT / "configs" / f"{name}.py") + f":{setting}"))
    (first, *_) = sweep.rows_of(f"{LAMBDA}:{base}", {"data.dir": "somewhere"})
    data = dataclasses.replace(shared.data, dir="somewhere")
    assert first.config == dataclasses.replace(shared, au_weight=0.0, data=data)


def test_more_seeds_leave_the_numbers_of_the_rows_as_they_are():
    first, both = sweep.rows_of(LAMBDA, seeds=[3]), sweep.rows_of(LAMBDA, seeds=[3, 0])
    assert both[: len(first)] == first
    assert [row.config.seed for row in both[len(first) :]] == [0] * len(first)
    assert len({row.name for row in both}) == 2 * len(first)


def test_names_are_safe_in_paths(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"from aujax.config import Config\nROWS = [{{'weights': 'hf:timm/a b'}}]\n{_GET_CONFIG}")
    assert sweep.rows_of(str(path))[0].name == "weights=hf-timm-a-b,seed=0"


_GET_CONFIG = "def get_config():\n    return Config().to_config_dict()\n"


@pytest.mark.parametrize(
    ("source", "changes", "seeds", "message"),
    [
        (LAMBDA, {"au_weight": "2"}, [], r"--config\.au_weight: the rows of the sweep differ in it"),
        (LAMBDA, {"seed": "2"}, [0, 1], r"--config\.seed: the rows of the sweep differ in it"),
        (LAMBDA, {"epoch": "2"}, [], r"--config\.epoch: no such option\. Did you mean epochs"),
        (LAMBDA, {"epochs": "many"}, [], r"--config\.epochs: expected int, got 'many'"),
        (LAMBDA, {"epochs": "0"}, [], r"--config\.epochs: expected 1 or more, got 0"),
        (f"{LAMBDA}:none", {}, [], r"expected a configuration file such as configs/faces\.py, .*, got 'none'"),
        (f"{LAMBDA}:faces:tiny", {}, [], r"expected one of large, small, got 'tiny'"),
        (f"{LAMBDA}:rafdb:big", {}, [], "expected no setting, as rafdb.py has none"),
        (str(ROOT / "configs" / "rafdb.py"), {}, [], r"expected a sweep, a file with ROWS such as"),
        (f"{LAYERS}:paper:method=TS-CAM", {}, [], r"--config\.au_layers: TS-CAM has no layer 'layer1'"),
    ],
)
def test_mistakes_are_reported_before_anything_is_trained(source, changes, seeds, message):
    with pytest.raises(UserError, match=message):
        sweep.rows_of(source, changes, seeds=seeds)


def test_a_file_that_fails_is_reported(tmp_path):
    (tmp_path / "mine.py").write_text("ROWS = 1 / 0")
    with pytest.raises(UserError, match=r"--config=.*mine\.py: division by zero; compare it with configs/faces\.py"):
        sweep.rows_of(str(tmp_path / "mine.py"))


def test_the_state_of_a_row_is_what_is_left_to_do(rows, done, faces):
    row, folder = rows[1], done / "au_weight=4"
    assert sweep.state(rows[0], done, faces) == "to train"
    assert sweep.state(row, done, faces) == "to evaluate"  # not on validation yet
    shutil.copytree(folder / "eval" / "test", folder / "eval" / "validation")
    assert sweep.state(row, done, faces) == FINISHED
    assert sweep.state(row, done, dataclasses.replace(faces, fingerprint="another")) == "started on other data"
    longer = Row(row.name, dataclasses.replace(row.config, epochs=4))
    assert sweep.state(longer, done, faces) == "started with other options"
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(longer.config)))
    assert sweep.state(longer, done, faces) == "to continue after epoch 2 of 4"


def test_an_evaluation_older_than_the_last_checkpoint_does_not_count(rows, done, faces):
    folder = done / "au_weight=4"
    shutil.copytree(folder / "eval" / "test", folder / "eval" / "validation")
    last = max((folder / "checkpoints").iterdir(), key=lambda path: path.name)
    (last / "touched").touch()
    assert sweep.state(rows[1], done, faces) == "to evaluate"


def test_finished_rows_are_skipped_and_a_failed_one_leaves_the_others_alone(rows, done, faces, capsys):
    folder, started = done / "au_weight=4", []
    shutil.copytree(folder / "eval" / "test", folder / "eval" / "validation")

    def start(index):
        started.append(index)
        return -9 if index == 0 else 0

    assert sweep.run_all(rows, done, faces, start) == ["au_weight=0"]
    assert started == [0, 2]
    printed = capsys.readouterr()
    assert "row 1 of 3, au_weight=4: finished, skipped" in printed.out
    assert "row 0 of 3, au_weight=0: was killed by signal 9; the same command tries it again" in printed.err


def test_ctrl_c_in_a_row_ends_the_sweep(rows, tmp_path, faces):
    started = []
    with pytest.raises(KeyboardInterrupt):
        sweep.run_all(rows, tmp_path, faces, lambda index: started.append(index) or 130)
    assert started == [0]


def test_a_row_is_trained_and_then_evaluated_on_test_and_validation(rows, done, faces, monkeypatch, capsys):
    trained = []
    monkeypatch.setattr(loop, "train_and_evaluate", lambda config, workdir: trained.append((config, workdir)))
    sweep.run_row(rows[1], done, faces)
    folder = done / "au_weight=4"
    assert trained == [(rows[1].config, folder)]
    metrics = [json.loads((folder / "eval" / split / "metrics.json").read_text()) for split in ("validation", "test")]
    assert [content["num_faces"] for content in metrics] == [8, 16]
    sweep.run_row(rows[1], done, faces)
    assert len(trained) == 1
    assert capsys.readouterr().out.endswith("is finished\n")


@pytest.fixture
def command(tiny_data, tmp_path, monkeypatch):
    """Runs the command on a sweep of two rows; the rows it starts are only recorded, and the second fails."""
    source = tmp_path / "mine.py"
    source.write_text(
        f"from aujax.config import Config\nROWS = [{{'au_weight': 0.0}}, {{'au_weight': 1.0}}]\n{_GET_CONFIG}"
    )
    started = []

    def run(*options: str):
        monkeypatch.setattr(sweep, "_exit_status", lambda argv: started.append(argv) or int(argv[-1] == "--row=1"))
        cli.main(["sweep", f"--config={source}", f"--out={tmp_path}", f"--config.data.dir={tiny_data}", *options])

    run.started, run.out = started, tmp_path
    return run


def test_the_command_starts_itself_for_each_row_and_fails_if_one_does(command, capsys):
    with pytest.raises(SystemExit, match="1"):
        command("--config.epochs=3")
    assert [argv[1:3] + argv[-2:] for argv in command.started] == [
        ["-m", "aujax.sweep", "--config.epochs=3", f"--row={index}"] for index in (0, 1)
    ]
    assert "au_weight=1,seed=0" in capsys.readouterr().out


def test_the_list_has_the_states_and_runs_nothing(command, capsys):
    command("--list", "--seeds=0,1")
    assert capsys.readouterr().out.count("to train") == 4
    assert not command.started


def test_a_row_runs_in_the_same_process(command, monkeypatch):
    ran = []
    monkeypatch.setattr(sweep, "run_row", lambda row, out, faces: ran.append((row.name, out)))
    command("--row=1")
    assert ran == [("au_weight=1,seed=0", command.out)]
    assert not command.started


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--row=2", "error: --row: expected 0 to 1, see --list, got 2"),
        ("--config.data.dir=", "error: --config.data.dir: expected a prepared data set, got nothing"),
    ],
)
def test_mistakes_on_the_command_line_are_reported_in_two_lines(command, capsys, option, message):
    with pytest.raises(SystemExit, match="2"):
        command(option)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(message)
    assert len(lines) == 2


def test_the_process_that_starts_the_rows_takes_no_device():
    program = (
        "from aujax import sweep\n"
        f"sweep.rows_of({LAMBDA!r})\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()\n"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_the_exit_status_of_a_command_is_returned():
    assert sweep._exit_status([sys.executable, "-c", "raise SystemExit(3)"]) == 3
