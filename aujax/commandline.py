"""What every command line of aujax shares: a user's mistake is told in two lines, never as a traceback."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from absl import flags, logging

from aujax.errors import UserError

MISTAKE = 2
INTERRUPTED = 130


@contextlib.contextmanager
def user_errors(program: str, *, interrupted: str = "stopped") -> Iterator[None]:
    """Leave with status 2 on a `UserError` and 130 on Ctrl-C, after one message on standard error.

    Args:
      program: the command, named in the message.
      interrupted: what to tell who pressed Ctrl-C, such as what was kept.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}\n{program} --help shows the options.", file=sys.stderr)
        raise SystemExit(MISTAKE) from None
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def keep_compiled_programs() -> None:
    """Keeps what JAX compiles in the user's cache, unless JAX is told another place, so that a second start is fast.

    Not for several processes: only the first one writes, and where the others cannot read it they would compile alone.
    """
    import jax  # `prepare` shares this file, and needs no JAX

    options: Any = jax.config
    if not options.jax_compilation_cache_dir and jax.process_count() == 1:
        cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        options.update("jax_compilation_cache_dir", str(pathlib.Path(cache) / "aujax" / "jax"))


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags of `train.py` and `eval.py` for `absl.app.run`; a wrong one ends the program with status 2."""
    with user_errors(f"python {argv[0]}"):
        if "config" in flags.FLAGS:
            argv = sys.argv[:] = _with_config(argv)  # where ml_collections looks for the overrides
        positional = _parsed(argv)
        if stray := positional[1:]:
            raise UserError(f"expected options that begin with --, got {stray[0]!r}; did you mean --{stray[0]}?")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        return positional


def _parsed(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.IllegalFlagValueError as error:
        if "must have a value other than None" in str(error):
            raise UserError("--workdir: expected the folder of the run, got nothing") from error
        raise UserError(_told(error)) from error
    except flags.Error as error:
        raise UserError(_told(error)) from error
    except Exception as error:  # a configuration file is a program, and may do anything wrong
        given = next((argument for argument in argv if argument.startswith("--config=")), "--config")
        raise UserError(f"{given}: {_told(error)}; compare it with configs/faces.py") from error


def _told(error: Exception) -> str:
    """Returns the error in one line: ml_collections puts whole tracebacks into its own, what was meant comes last."""
    lines = str(error).splitlines() or [type(error).__name__]
    told = lines[-1] if any("Traceback" in line for line in lines) else " ".join(lines)
    return told.removeprefix("ValueError: ")


def _with_config(argv: list[str]) -> list[str]:
    """Returns the arguments with `--config` first, once the names of all options are known to be right."""
    from aujax import config  # `prepare` shares this file, but not the networks that a configuration names

    # Not the flag's own default: ml_collections would read that, and the overrides, before errors can be told.
    path = str(pathlib.Path(argv[0]).parent / "configs" / "synthetic.py")
    others, rest = [], iter(argv[1:])
    for argument in rest:
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "config":
            path = value if equals else next(rest, "")
            continue
        if name.startswith("config."):
            config.check_name(name.removeprefix("config."))
        others.append(argument)
    if not pathlib.Path(path.partition(":")[0]).is_file():
        raise UserError(f"--config: expected a configuration file such as configs/faces.py, got {path!r}")
    return [argv[0], f"--config={path}", *others]
