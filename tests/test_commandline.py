"""The command lines' manners: statuses, messages, and where `--config` may stand."""

import pathlib
import re
import subprocess
import sys

import jax
import pytest

from aujax import commandline
from aujax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = str(ROOT / "train.py")
FACES = str(ROOT / "configs" / "faces.py")


def test_a_mistake_is_told_in_two_lines(capsys):
    with pytest.raises(SystemExit) as ended, commandline.user_errors("python train.py"):
        raise UserError("--workdir: expected a folder")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: --workdir: expected a folder\npython train.py --help shows the options.\n"


def test_ctrl_c_ends_with_130_and_says_what_is_kept(capsys):
    with pytest.raises(SystemExit) as ended, commandline.user_errors("x", interrupted="stopped; run it again"):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "\nstopped; run it again\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), commandline.user_errors("x"):
        _ = 1 / 0


@pytest.mark.parametrize(("told", "expected"), [(None, "{cache}/aujax/jax"), ("/elsewhere", "/elsewhere")])
def test_compiled_programs_are_kept_where_jax_is_told_or_in_the_cache(told, expected, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", told)
        commandline.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == expected.format(cache=tmp_path)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_several_processes_keep_compiled_programs_only_where_they_are_told(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        commandline.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_without_a_configuration_the_demo_is_meant():
    assert commandline._with_config([SCRIPT, "--workdir=x"])[1] == f"--config={ROOT / 'configs' / 'synthetic.py'}"


@pytest.mark.parametrize(
    "given", [[f"--config={FACES}:small"], ["--config", f"{FACES}:small"]], ids=["equals", "space"]
)
def test_the_configuration_comes_before_its_overrides(given):
    arguments = commandline._with_config([SCRIPT, "--config.epochs=1", *given])
    assert arguments[1:] == [f"--config={FACES}:small", "--config.epochs=1"]


def test_a_missing_configuration_file_is_refused():
    with pytest.raises(
        UserError, match=r"--config: expected a configuration file such as configs/faces\.py, got 'no\.py'"
    ):
        commandline._with_config([SCRIPT, "--config=no.py"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def get_config(:", r"--config=.*mine\.py: invalid syntax .*; compare it with configs/faces\.py"),
        ("options = 1", r"--config=.*mine\.py: .* has no attribute 'get_config'; compare it"),
        ("def get_config():\n    raise ValueError('pick a size')", "pick a size"),
    ],
    ids=["syntax", "no get_config", "its own words"],
)
def test_a_broken_configuration_file_is_named(tmp_path, content, message):
    (tmp_path / "mine.py").write_text(content)
    ended = subprocess.run(
        [sys.executable, SCRIPT, "--workdir=x", f"--config={tmp_path / 'mine.py'}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 2)
    assert re.search(message, ended.stderr)
