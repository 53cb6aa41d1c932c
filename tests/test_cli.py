"""The command `aujax VERB`: verbs, options, messages; and what `aujax eval` does with its options."""

import importlib
import pathlib
import re
import subprocess
import sys
import tomllib
from typing import NamedTuple

import jax
import pytest

from aujax import cli, processes, runs
from aujax.errors import UserError
from aujax.evaluation import evaluate, faithfulness
from aujax.report import plots, tables
from aujax.results import schema
from aujax.training import loop

ROOT = pathlib.Path(__file__).parents[1]
FACES = str(ROOT / "configs" / "faces.py")


def message(capsys, *argv):
    """The first line of the message for a mistake; the second one names the help."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(argv)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"aujax( \w+)? --help shows the options\.", lines[1])
    return lines[0].removeprefix("error: ")


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_the_help_lists_the_verbs(capsys, argv):
    cli.main(argv)
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines() if line.startswith("  ")] == list(cli.VERBS)


def test_the_version_is_that_of_the_package(capsys):
    cli.main(["--version"])
    assert re.fullmatch(r"aujax \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_the_help_needs_no_jax():
    heavy = "{'jax', 'numpy', 'ml_collections'}"
    program = f"import sys\nfrom aujax import cli\ncli.main([])\nassert not {heavy} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_verb_has_a_parser_and_a_function(name, capsys):
    verb = cli.VERBS[name]
    module = importlib.import_module(verb.module)
    assert callable(getattr(module, verb.run))
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: aujax {name} ")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["trian"], "expected a command, got 'trian'. Did you mean train?"),
        (["train", "--epochs=3"], "--epochs: no such option. Did you mean --config.epochs?"),
        (["train", "--confg.seed=1"], "--confg.seed: no such option. Did you mean --config.seed?"),
        (["train", "--config.epoch=3"], "--config.epoch: no such option. Did you mean --config.epochs?"),
        (["train", "--momentum", "0"], "--momentum: no such option. Did you mean --config.optimizer.momentum?"),
        (["train", "--xyzzy"], "--xyzzy: no such option"),
        (["train"], "the following arguments are required: --workdir"),
        (
            ["train", "--workdir=x", "config=y"],
            "expected options that begin with --, got 'config=y'; did you mean --config=y?",
        ),
        (["train", "--workdir=x", "--config.seed"], "argument --config.seed: expected one argument"),
        (["train", "--workdir=x", "--config.epochs=many"], "--config.epochs: expected int, got 'many'"),
        (["train", "--workdir=x", "--config.data.resident=on"], "--config.data.resident is now --config.data.cache"),
        (
            ["train", "--workdir=x", "--config=rafdb:foo"],
            "--config=rafdb:foo: expected no setting, as rafdb.py has none, got 'foo'; give --config=",
        ),
        (["train", "--workdir=x", "--config=fases"], "--config: expected a configuration file such as"),
        (
            ["train", "--workdir=x", "--join-timeout=0"],
            "argument --join-timeout: expected a whole number from 1, got '0'",
        ),
        (
            ["train", "--workdir=x", "--lost-after=2"],
            "argument --lost-after: expected a whole number from 3, got '2'",
        ),
        (["eval", "--workdir=x", "--filling=grey"], "argument --imputation/--filling: invalid choice: 'grey'"),
        (
            ["eval", "--workdir=x", "--split="],
            "argument --split: expected names of splits, such as validation,test, got",
        ),
        (["eval", "--workdir=x", "--split=test,"], "argument --split: expected names of splits"),
        (["eval", "--workdir=x", "--checkpoint=first"], "argument --checkpoint: invalid choice: 'first'"),
        (
            ["eval", "--workdir=x", "--faithfulness-faces=0"],
            "argument --faithfulness-faces: expected a whole number from 1",
        ),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(capsys, argv, expected):
    assert message(capsys, *argv).startswith(expected)


def test_a_mistake_is_reported_in_two_lines(capsys):
    with pytest.raises(SystemExit) as ended, cli.user_errors("python train.py"):
        raise UserError("--workdir: expected a folder")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: --workdir: expected a folder\npython train.py --help shows the options.\n"


def test_ctrl_c_ends_with_130_and_a_message(capsys):
    with pytest.raises(SystemExit) as ended, cli.user_errors("x", interrupted="stopped; run it again"):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "\nstopped; run it again\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), cli.user_errors("x"):
        _ = 1 / 0


@pytest.mark.parametrize(("configured", "expected"), [(None, "{cache}/aujax/jax"), ("/elsewhere", "/elsewhere")])
def test_compiled_programs_are_kept_where_jax_is_configured_or_in_the_cache(
    configured, expected, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", configured)
        cli.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == expected.format(cache=tmp_path)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc alone")
def test_a_training_keeps_freed_memory_and_a_process_that_imported_numpy_is_left_alone():
    # Pages that the operating system has to clear when 64 MB are allocated again; an accelerator is hidden.
    program = """
import resource, sys
from aujax import cli
cli.importlib.metadata.entry_points = lambda group: ()
cli.importlib.util.find_spec = lambda name: None
{imported}
cli.keep_freed_memory()
bytearray(1 << 26)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(1 << 26)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

    def cleared_pages(imported):
        command = [sys.executable, "-c", program.format(imported=imported)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)

    assert cleared_pages("") < 100 < cleared_pages("sys.modules['numpy'] = None")


def test_several_processes_keep_compiled_programs_only_where_configured(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        cli.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_the_distribution_has_every_package_and_the_configurations():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in (ROOT / "aujax").rglob("__init__.py")}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(settings["packages"]) == packages | {"aujax.configs"}
    assert settings["package-dir"] == {"aujax.configs": "configs"}


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_the_scripts_are_the_same_code(script):
    ended = subprocess.run(
        [sys.executable, script, "--wrkdir=x"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    verb = script.removesuffix(".py")
    assert ended.returncode == 2
    assert ended.stderr == (
        f"error: --wrkdir: no such option. Did you mean --workdir?\naujax {verb} --help shows the options.\n"
    )


@pytest.fixture
def trained(monkeypatch):
    """Runs `aujax train` with options; returns the configuration and the folder of the training."""
    calls = []
    monkeypatch.setattr(loop, "train_and_evaluate", lambda config, workdir: calls.append((config, workdir)))
    monkeypatch.setattr(cli, "keep_compiled_programs", lambda: None)

    def run(*options):
        cli.main(["train", "--workdir=RUN", *options])
        return calls.pop()

    return run


def test_without_a_configuration_the_demo_is_trained(trained):
    config, workdir = trained()
    assert (config.data.dir, config.image_size, workdir) == ("data/synthetic", 64, pathlib.Path("RUN"))


@pytest.mark.parametrize("given", ["faces:small", f"{FACES}:small"], ids=["name", "path"])
@pytest.mark.parametrize("form", ["--config={}", "--config {}"], ids=["equals", "space"])
def test_options_override_the_configuration_in_any_order_and_form(trained, given, form):
    config, _ = trained("--config.epochs", "7", *form.format(given).split(" "), "--config.au_layers=('layer4',)")
    assert (config.backbone, config.epochs, config.au_layers) == ("resnet_tiny", 7, ("layer4",))


@pytest.mark.parametrize(("given", "value"), [([], False), (["=true"], True), (["=False"], False), ([""], True)])
def test_a_flag_needs_no_value(trained, given, value):
    config, _ = trained(*[f"--config.rematerialize{text}" for text in given])
    assert config.rematerialize is value


@pytest.mark.parametrize("name", ["--lost-after", "--lost_after"])
def test_underscores_and_hyphens_are_the_same(trained, monkeypatch, name):
    joined = {}
    monkeypatch.setattr(processes, "join", lambda **options: joined.update(options))
    trained("--distributed", name, "9")
    assert joined["lost_after"] == 9


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("def get_config(:", r"--config=.*mine\.py: invalid syntax .*; compare it with configs/faces\.py"),
        ("options = 1", r"--config=.*mine\.py: has no function 'get_config'; compare it"),
        ("def get_config():\n    raise ValueError('pick a size')", "pick a size"),
        ("def get_config():\n    return 1 / 0", r"--config=.*mine\.py: division by zero; compare it"),
        ("def get_config():\n    return 3", r"--config=.*mine\.py: expected get_config to return options, got 3"),
    ],
    ids=["syntax", "no get_config", "its own message", "it fails", "no options"],
)
def test_a_broken_configuration_file_is_named(tmp_path, capsys, content, expected):
    (tmp_path / "mine.py").write_text(content)
    assert re.match(expected, message(capsys, "train", "--workdir=x", f"--config={tmp_path / 'mine.py'}"))


class Prepared(NamedTuple):
    """A data set that has two splits; its fingerprint is replaced by the temperature fitted on it."""

    directory: str | None

    @property
    def fingerprint(self):
        return (1.5, "") if self.directory != "new" else (None, "None was fitted to it.")

    def source(self, split):
        if split not in ("validation", "test"):
            raise UserError(f"no split {split}")


@pytest.fixture
def eval_command(monkeypatch):
    """Runs `aujax eval` with options; returns the arguments of `evaluate_faithfulness`, once for each split."""
    calls = []
    monkeypatch.setattr(cli, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, all_maps: None)
    monkeypatch.setattr(schema, "open_run", lambda *_: None)
    for module, name in ((tables, "print_evaluation"), (plots, "draw_evaluation")):
        monkeypatch.setattr(module, name, lambda evaluated: None)
    monkeypatch.setattr(runs, "load_run", lambda workdir, which: f"{which} of {workdir}")
    monkeypatch.setattr(runs, "open_data", lambda run, data_dir: Prepared(data_dir))
    monkeypatch.setattr(runs, "temperature", lambda run, workdir, fingerprint: fingerprint)
    monkeypatch.setattr(faithfulness, "evaluate_faithfulness", lambda *args, **options: calls.append((args, options)))

    def run(*options):
        calls.clear()
        cli.main(["eval", "--workdir=RUN", *options])
        return calls.copy()

    return run


def test_faithfulness_is_measured_only_on_request(eval_command):
    assert eval_command() == []
    ((arguments, options),) = eval_command("--faithfulness")
    assert arguments == ("best of RUN", Prepared(None), pathlib.Path("RUN"), "test")
    assert options == {"imputation": "blur", "temperature": 1.5, "limit": None}


@pytest.mark.parametrize("imputation", ["--imputation=road", "--filling=road"])
def test_options_of_faithfulness_are_passed_on(eval_command, imputation):
    given = ["--split=validation", "--checkpoint=latest", "--data_dir=faces", imputation, "--faithfulness_faces=9"]
    ((arguments, options),) = eval_command("--faithfulness", *given)
    assert arguments == ("latest of RUN", Prepared("faces"), pathlib.Path("RUN"), "validation")
    assert options == {"imputation": "road", "temperature": 1.5, "limit": 9}


def test_without_a_temperature_the_reason_is_printed(eval_command, capsys):
    ((_, options),) = eval_command("--faithfulness", "--data-dir=new")
    assert options["temperature"] == 1.0
    assert "faithfulness: of uncalibrated probabilities. None was fitted to it." in capsys.readouterr().out


@pytest.mark.parametrize(("option", "all_maps"), [([], True), (["--maps=sample"], False)])
def test_maps_of_all_faces_are_an_option(eval_command, monkeypatch, option, all_maps):
    given = []
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **options: given.append(options))
    eval_command(*option)
    assert given == [{"all_maps": all_maps}]


@pytest.mark.parametrize("split", [["--split=validation,test"], ["--split", "test, validation,test"]])
def test_several_splits_are_evaluated_one_after_the_other(eval_command, split):
    assert [arguments[3] for arguments, _ in eval_command("--faithfulness", *split)] == ["validation", "test"]


def test_a_split_that_does_not_exist_is_refused_before_the_first_is_evaluated(eval_command, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **options: pytest.fail("evaluated"))
    assert message(capsys, "eval", "--workdir=RUN", "--split=test,tset") == "no split tset"
