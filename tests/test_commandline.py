"""Exit statuses and messages that all commands share, and the cache of compiled programs."""

import jax
import pytest

from aujax import commandline
from aujax.errors import UserError


def test_a_mistake_is_reported_in_two_lines(capsys):
    with pytest.raises(SystemExit) as ended, commandline.user_errors("python train.py"):
        raise UserError("--workdir: expected a folder")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: --workdir: expected a folder\npython train.py --help shows the options.\n"


def test_ctrl_c_ends_with_130_and_a_message(capsys):
    with pytest.raises(SystemExit) as ended, commandline.user_errors("x", interrupted="stopped; run it again"):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "\nstopped; run it again\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), commandline.user_errors("x"):
        _ = 1 / 0


@pytest.mark.parametrize(("configured", "expected"), [(None, "{cache}/aujax/jax"), ("/elsewhere", "/elsewhere")])
def test_compiled_programs_are_kept_where_jax_is_configured_or_in_the_cache(
    configured, expected, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", configured)
        commandline.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == expected.format(cache=tmp_path)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_several_processes_keep_compiled_programs_only_where_configured(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        commandline.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
