"""Whole runs: their files, continuation, and refused mistakes."""

import contextlib
import dataclasses
import io
import itertools
import json
import shutil

import chex
import jax
import numpy as np
import pytest

from aujax import cli, run_files, runs
from aujax.data.store import open_faces
from aujax.errors import UserError
from aujax.evaluation.evaluate import Predictions
from aujax.metrics import Mean
from aujax.training import loop, memory
from aujax.training.log import Log
from aujax.training.loop import train_and_evaluate
from aujax.training.step import TrainState

pytestmark = pytest.mark.jax_versions


def log(workdir, kind):
    lines = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines if line["kind"] == kind]


def test_every_epoch_is_logged_once(tiny_run):
    assert [line["epoch"] for line in log(tiny_run, "train")] == [1, 2]


def test_validation_reports_accuracy_and_cosines(tiny_run):
    line = log(tiny_run, "validation")[-1]
    assert line["split"] == "validation"
    assert 0.0 <= line["accuracy"] <= 1.0
    assert line["att_cos"] == line["att_cos_by_layer"]["layer5"]
    assert set(line["att_cos_by_layer"]) == {"layer1", "layer2", "layer3", "layer4", "layer5"}


def test_the_run_folder_has_options_and_versions(tiny_run, tiny_config):
    assert json.loads((tiny_run / "config.json").read_text())["au_weight"] == tiny_config.au_weight
    manifest = json.loads((tiny_run / "manifest.json").read_text())
    assert {"versions", "devices", "data", "expressions"} <= set(manifest)


@pytest.fixture(scope="module")
def continued_run(tiny_config, tmp_path_factory):
    """A run that was interrupted in its second epoch and started again."""
    workdir = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        steps = itertools.count(1)

        def interrupted(*_):
            if next(steps) == 4:
                raise KeyboardInterrupt

        patch.setattr(loop.rich.progress.Progress, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(tiny_config, workdir)
    train_and_evaluate(tiny_config, workdir)
    return workdir


def test_a_continued_run_has_the_same_parameters_to_the_bit(tiny_run, continued_run):
    whole, continued = (runs.load_run(path, which="latest").variables for path in (tiny_run, continued_run))
    chex.assert_trees_all_equal(jax.device_get(whole), jax.device_get(continued))


@pytest.mark.parametrize("kind", ["train", "validation"])
def test_a_continued_run_logs_the_same_numbers(tiny_run, continued_run, kind):
    assert log(continued_run, kind) == log(tiny_run, kind)


def test_what_a_damaged_checkpoint_held_is_computed_again_to_the_bit(tiny_run, tiny_config, tmp_path, caplog):
    shutil.copytree(tiny_run, tmp_path / "run")
    metrics = tmp_path / "run" / "checkpoints" / "6" / "metrics" / "metrics"
    metrics.write_text(metrics.read_text().replace("2", "3"))  # the epoch
    train_and_evaluate(tiny_config, tmp_path / "run")
    assert "continuing from checkpoint 3" in caplog.text
    whole, again = (runs.load_run(path, which="latest").variables for path in (tiny_run, tmp_path / "run"))
    chex.assert_trees_all_equal(jax.device_get(whole), jax.device_get(again))
    assert log(tmp_path / "run", "validation") == log(tiny_run, "validation")


def test_a_finished_run_is_left_as_it_is(tiny_run, tiny_config):
    before = (tiny_run / "log.jsonl").read_bytes()
    train_and_evaluate(tiny_config, tiny_run)
    assert (tiny_run / "log.jsonl").read_bytes() == before


def test_another_configuration_in_the_same_folder_is_refused(tiny_run, with_options):
    with pytest.raises(UserError, match=r"was started with config\.au_weight=4\.0, now it is 0\.0"):
        train_and_evaluate(with_options(au_weight=0.0), tiny_run)


def test_an_option_that_changes_no_number_may_change(tiny_run, tiny_config):
    data = dataclasses.replace(tiny_config.data, read_threads=2)
    train_and_evaluate(dataclasses.replace(tiny_config, data=data), tiny_run)


def test_an_option_newer_than_the_run_had_its_default(tiny_run, tiny_config, with_options, tmp_path):
    for name in (run_files.CONFIG, run_files.MANIFEST):
        shutil.copy(tiny_run / name, tmp_path / name)
    options = json.loads((tmp_path / run_files.CONFIG).read_text())
    (tmp_path / run_files.CONFIG).write_text(json.dumps({k: v for k, v in options.items() if k != "model_selection"}))
    faces = open_faces(tiny_config.data.dir)
    runs.check_continuation(tmp_path, tiny_config, faces)
    with pytest.raises(UserError, match=r"was started with config\.model_selection='validation', now it is 'test'"):
        runs.check_continuation(tmp_path, with_options(model_selection="test"), faces)


def test_other_data_in_the_same_folder_is_refused(tiny_run, tiny_config, tmp_path):
    sizes = ["--train=7", "--validation=7", "--test=7", "--size=48"]
    cli.main(["prepare", "synthetic", f"--out={tmp_path / 'other'}", "--seed=1", *sizes])
    data = dataclasses.replace(tiny_config.data, dir=str(tmp_path / "other"))
    with pytest.raises(UserError, match=r"was started on data with fingerprint .*choose another --workdir"):
        train_and_evaluate(dataclasses.replace(tiny_config, data=data), tiny_run)


def test_a_folder_with_something_else_in_it_is_refused(tiny_config, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="is not empty and not a run folder; choose a new folder"):
        train_and_evaluate(tiny_config, tmp_path)


def test_data_of_other_expressions_is_refused(with_options, tmp_path):
    path = tmp_path / "two.json"
    path.write_text('{"aus": {"Neutral": [], "Happiness": [12]}}')
    with pytest.raises(UserError, match=r"has the expressions Neutral, Happiness, but the data set"):
        train_and_evaluate(with_options(codebook=str(path)), tmp_path / "run")


def test_a_missing_data_set_is_refused_with_the_command_that_makes_one(with_options, tmp_path):
    with pytest.raises(
        UserError, match=r"--config\.data\.dir: expected a prepared data set, got nothing; make one with"
    ):
        train_and_evaluate(with_options(data=type(with_options().data)()), tmp_path / "run")


def test_au_cues_without_any_landmarks_are_refused(tiny_config, tmp_path, monkeypatch):
    faces = loop.open_faces(tiny_config.data.dir)
    monkeypatch.setattr(loop, "open_faces", lambda _: dataclasses.replace(faces, landmarks={"train": 0}))
    with pytest.raises(UserError, match=r"no training face of .* has any; prepare the data set with --landmarks=dlib"):
        train_and_evaluate(tiny_config, tmp_path / "run")


def test_data_without_a_validation_split_are_refused_with_what_to_do(tiny_config, tmp_path, monkeypatch):
    faces = loop.open_faces(tiny_config.data.dir)
    monkeypatch.setattr(loop, "open_faces", lambda _: dataclasses.replace(faces, splits={"train": 24, "test": 16}))
    with pytest.raises(
        UserError,
        match=r"the best epoch is selected on the split 'validation', which .* does not have; prepare the data set "
        r"again with a share for --validation, or select it on test with --config\.model_selection=test$",
    ):
        train_and_evaluate(tiny_config, tmp_path / "run")


@pytest.fixture
def validation(with_options, monkeypatch):
    """The validation of a run with some options, which only counts faces; a batch needs no memory."""

    def predict(eval_step, variables, batches, *, mesh):
        return Predictions({"logits": np.zeros((sum(int(batch.valid.sum()) for batch in batches), 7))}, {})

    def count(predictions, *_, **__):
        return {"faces": len(predictions.columns["logits"])}

    monkeypatch.setattr(loop.evaluate, "predict", predict)
    monkeypatch.setattr(loop.evaluate, "validation_metrics", count)
    monkeypatch.setattr(loop.memory, "compile_for_batch", lambda lower, *_, **__: lower)
    monkeypatch.setattr(loop.memory, "needed", lambda program: 0)

    def open_validation(*, spare=0, **options):
        config = with_options(**options)
        model, data = runs.build_model(config, 7), loop.open_faces(config.data.dir)
        state = TrainState(step=0, params={}, batch_stats={}, opt_state=())
        training = loop.Training(model, None, config, loop.data_mesh())
        validate = loop._validation(training, data, state, layer="layer5", spare=spare)
        return lambda: validate(state)

    return open_validation


@pytest.mark.parametrize(("split", "faces"), [("validation", 8), ("test", 16)])
def test_the_best_epoch_is_selected_on_the_configured_split(validation, split, faces):
    assert validation(model_selection=split)() == {"faces": faces}


# The 16 faces of the split, two on each of eight devices.
@pytest.mark.parametrize(("missing", "loaded"), [(0, 1), (1, 2)])
def test_validation_faces_stay_on_the_devices_where_there_is_room(
    validation, tiny_config, monkeypatch, missing, loaded
):
    loads = []
    whole_split = loop.evaluate.whole_split
    monkeypatch.setattr(loop.evaluate, "whole_split", lambda *options: loads.append(1) or whole_split(*options))
    size = 2 * tiny_config.input_size**2 * 3
    validate = validation(spare=size - missing, model_selection="test")
    assert [validate(), validate()] == [{"faces": 16}] * 2
    assert len(loads) == loaded


def test_model_selection_on_test_needs_no_validation_split(with_options, tmp_path, monkeypatch):
    config = with_options(model_selection="test")
    data = loop.open_faces(config.data.dir)
    monkeypatch.setattr(loop, "open_faces", lambda _: dataclasses.replace(data, splits={"train": 24, "test": 16}))
    assert loop._open_data(config).splits == {"train": 24, "test": 16}


def test_output_stride_of_a_transformer_is_refused(with_options, tmp_path):
    with pytest.raises(UserError, match="output_stride must be left out for vit_tiny"):
        train_and_evaluate(with_options(method="TS-CAM", backbone="vit_tiny", output_stride=8), tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run(tiny_config, tmp_path, monkeypatch):
    def run(state, epoch, advance):
        return state, {"loss": Mean(np.float32("nan" if epoch == 1 else 0), np.float32(1))}

    monkeypatch.setattr(loop, "open_epochs", lambda *_: loop.Epochs(run, "", spare=0))
    monkeypatch.setattr(loop, "_validation", lambda *_, **__: None)
    config = dataclasses.replace(tiny_config, epochs=3, validate_every=3)
    with pytest.raises(UserError, match=r"the loss of epoch 2 is nan: training diverged; .*learning_rate"):
        train_and_evaluate(config, tmp_path / "run")


def test_parameters_that_diverge_in_the_last_step_are_not_saved(with_options, tiny_config, tmp_path):
    steep = dataclasses.replace(tiny_config.optimizer, learning_rate=1e38, warmup_epochs=0)
    data = dataclasses.replace(tiny_config.data, batch_size=24)
    with pytest.raises(UserError, match=r"logits of the validation are not finite: training diverged; .*learning_rate"):
        train_and_evaluate(with_options(epochs=1, optimizer=steep, data=data), tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


def test_a_start_that_was_interrupted_between_two_files_continues(tiny_config, tmp_path):
    for name in ("manifest.json", "config.json.partial"):
        (tmp_path / name).write_text("{")
    faces = open_faces(tiny_config.data.dir)
    runs.check_continuation(tmp_path, tiny_config, faces)
    runs.start(tmp_path, tiny_config, faces)
    runs.check_continuation(tmp_path, tiny_config, faces)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "manifest.json"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": "no_such.pth"}, "no such file"),
        (
            {"method": "TS-CAM", "backbone": "vit_tiny", "image_size": 100},
            r"--config\.image_size: image height and width",
        ),
    ],
    ids=["weights", "image_size"],
)
def test_a_mistake_leaves_no_run_folder_behind(with_options, tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        train_and_evaluate(with_options(**changed), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_validation_that_does_not_fit_is_refused_before_the_first_step(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "capacity", lambda mesh, state: 2**40 if isinstance(state, TrainState) else 2**10)
    refusal = r"data\.eval_batch_size: validating 8 faces needs .*, which has 1 KiB left; not even a smaller one fits$"
    with pytest.raises(UserError, match=refusal):
        train_and_evaluate(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_continues_without_the_weights_it_started_from(tiny_run, tiny_config, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / "config.json").write_text(
        json.dumps(dataclasses.asdict(dataclasses.replace(tiny_config, weights="gone.pth")))
    )
    train_and_evaluate(dataclasses.replace(tiny_config, weights="gone.pth"), run)


def test_a_log_line_that_was_cut_off_is_dropped(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"kind": "train", "step": 3}\n{"kind": "tr')
    Log(tmp_path, step=3)
    assert (tmp_path / "log.jsonl").read_text() == '{"kind": "train", "step": 3}\n'


def test_numbers_after_the_checkpoint_are_dropped(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"kind": "train", "step": 3}\n{"kind": "train", "step": 6}\n')
    Log(tmp_path, step=3)
    assert [line["step"] for line in run_files.read_log(tmp_path / "log.jsonl")] == [3]


def test_tensorboard_gets_numbers_and_nothing_else(tmp_path, monkeypatch):
    tensorboard = pytest.importorskip("tensorboardX")
    written, add_scalar = {}, tensorboard.SummaryWriter.add_scalar

    def record(self, name, value, step):
        written[name] = (value, step)
        return add_scalar(self, name, value, step)  # fails for anything but a number

    monkeypatch.setattr(tensorboard.SummaryWriter, "add_scalar", record)
    numbers = {"split": "test", "accuracy": 0.5, "cam_cos": None, "att_cos_by_layer": {"layer4": None, "layer5": 0.25}}
    with Log(tmp_path, step=0) as log:
        log.write("validation", 3, numbers)
    assert written == {"validation/accuracy": (0.5, 3), "validation/att_cos_by_layer.layer5": (0.25, 3)}
    (events,) = (tmp_path / "tensorboard").glob("events.*")
    assert b"validation/accuracy" in events.read_bytes()


@pytest.fixture(scope="module")
def run_of_three_epochs(tiny_config, tmp_path_factory):
    """A run that validates every second epoch, on the test split: its folder and what it printed."""
    workdir = tmp_path_factory.mktemp("three") / "run"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        config = dataclasses.replace(tiny_config, validate_every=2, epochs=3, model_selection="test")
        train_and_evaluate(config, workdir)
    return workdir, " ".join(printed.getvalue().split())


def test_validation_every_second_epoch_and_after_the_last(run_of_three_epochs):
    assert [line["epoch"] for line in log(run_of_three_epochs[0], "validation")] == [2, 3]


def test_the_first_and_every_later_line_name_the_split_of_model_selection(run_of_three_epochs):
    workdir, printed = run_of_three_epochs
    assert "from epoch 1 of 3; best epoch selected on test; compiling the step" in printed
    assert f"epoch 3/3: loss {log(workdir, 'train')[-1]['loss']:.3f}; test accuracy" in printed
    assert [line["split"] for line in log(workdir, "validation")] == ["test", "test"]


def test_a_codebook_whose_content_changed_is_refused(tiny_run, monkeypatch):
    monkeypatch.setattr(runs.codebook, "load", lambda _: runs.codebook.custom({"Happiness": [12]}))
    with pytest.raises(UserError, match=r"--config\.codebook: FACS has changed since"):
        runs.load_run(tiny_run)


def test_a_file_in_the_place_of_the_folder_is_refused(tiny_config, tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="--workdir: expected a run folder or a new name, got the file"):
        train_and_evaluate(tiny_config, tmp_path / "run")


def test_a_manifest_that_lacks_something_is_refused(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run" / "manifest.json").write_text(json.dumps({"schema_version": run_files.SCHEMA_VERSION}))
    with pytest.raises(
        UserError, match=r"manifest\.json: expected an object with \['codebook', 'data', 'expressions'\]"
    ):
        runs.load_run(tmp_path / "run")


def test_a_run_folder_of_another_schema_version_is_refused(tiny_run, tiny_config, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "schema_version"}))
    message = r"written by another version of aujax.*\(schema version None, expected 1\); train again in a new folder"
    with pytest.raises(UserError, match=message):
        runs.load_run(tmp_path / "run")
    with pytest.raises(UserError, match=message):
        train_and_evaluate(tiny_config, tmp_path / "run")


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        runs.load_run(tmp_path)


def test_a_run_without_a_checkpoint_is_refused(tiny_run, tmp_path):
    for name in ("config.json", "manifest.json"):
        (tmp_path / name).write_bytes((tiny_run / name).read_bytes())
    with pytest.raises(UserError, match="has no checkpoint yet"):
        runs.load_run(tmp_path)
