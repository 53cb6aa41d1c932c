"""What eval.py does with its options, everything that takes time replaced by notes of what was asked for."""

import importlib.util
import pathlib
from typing import NamedTuple

import pytest
from absl import flags

from aujax import commandline
from aujax.errors import UserError
from aujax.run_files import Temperature

SCRIPT = pathlib.Path(__file__).parents[1] / "eval.py"


class Prepared(NamedTuple):
    """A data set that has two splits, and a fingerprint that holds what was fitted on it."""

    directory: str | None

    @property
    def fingerprint(self):
        return Temperature(1.5) if self.directory != "new" else Temperature(None, "None was fitted to it.")

    def source(self, split):
        if split not in ("validation", "test"):
            raise UserError(f"no split {split}")


@pytest.fixture
def evaluate(monkeypatch):
    """Returns options -> what `evaluate_faithfulness` was asked for, once for each split."""
    known = set(flags.FLAGS)
    spec = importlib.util.spec_from_file_location("eval_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    asked = []
    monkeypatch.setattr(script.commandline, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(
        script.evaluation_files, "evaluate", lambda run, faces, workdir, split: workdir / "eval" / split
    )
    for module, name in ((script.tables, "print_evaluation"), (script.figures, "draw_evaluation")):
        monkeypatch.setattr(module, name, lambda directory: None)
    monkeypatch.setattr(script.runs, "load_run", lambda workdir, which: f"{which} of {workdir}")
    monkeypatch.setattr(script.runs, "open_data", lambda run, data_dir: Prepared(data_dir))
    monkeypatch.setattr(script.runs, "temperature", lambda run, workdir, fingerprint: fingerprint)
    monkeypatch.setattr(
        script.faithfulness_files, "evaluate_faithfulness", lambda *args, **options: asked.append((args, options))
    )

    def run(*options):
        flags.FLAGS.unparse_flags()
        for name in set(flags.FLAGS) - known:
            flags.FLAGS[name].unparse()
        script.main(commandline.parse_flags([str(SCRIPT), "--workdir=RUN", *options]))
        found, asked[:] = asked[:], []
        return found

    yield run
    for name in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, name)


def test_faithfulness_is_measured_only_where_it_is_asked_for(evaluate):
    assert evaluate() == []
    ((arguments, options),) = evaluate("--faithfulness")
    assert arguments == ("best of RUN", Prepared(None), "test", pathlib.Path("RUN/eval/test"))
    assert options == {"filling": "blur", "temperature": 1.5, "limit": None}


def test_options_of_faithfulness_reach_it(evaluate):
    given = [
        "--split=validation",
        "--checkpoint=latest",
        "--data_dir=faces",
        "--filling=road",
        "--faithfulness_faces=9",
    ]
    ((arguments, options),) = evaluate("--faithfulness", *given)
    assert arguments == ("latest of RUN", Prepared("faces"), "validation", pathlib.Path("RUN/eval/validation"))
    assert options == {"filling": "road", "temperature": 1.5, "limit": 9}


def test_without_a_temperature_it_is_told_why(evaluate, capsys):
    ((_, options),) = evaluate("--faithfulness", "--data_dir=new")
    assert options["temperature"] == 1.0
    assert "probabilities as the network gives them. None was fitted to it." in capsys.readouterr().out


def test_several_splits_are_evaluated_one_after_the_other(evaluate):
    asked = evaluate("--faithfulness", "--split=validation,test")
    assert [arguments[2] for arguments, _ in asked] == ["validation", "test"]


def test_a_split_that_is_not_there_is_told_before_another_is_evaluated(evaluate, capsys):
    with pytest.raises(SystemExit):
        evaluate("--faithfulness", "--split=test,exam")
    assert "no split exam" in capsys.readouterr().err
    assert [arguments[2] for arguments, _ in evaluate("--faithfulness")] == ["test"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--filling=grey", "flag --filling=grey: value should be one of <blur|mean|road>"),
        ("--faithfulness_faces=0", "flag --faithfulness_faces=0: 0 is not"),
    ],
)
def test_wrong_option_ends_with_status_2(evaluate, capsys, option, message):
    with pytest.raises(SystemExit) as ended:
        evaluate("--faithfulness", option)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
