"""What every command line of aujax shares: a user's mistake is told in two lines, never as a traceback."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator

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


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags of `train.py` and `eval.py` for `absl.app.run`; a wrong one ends the program with status 2."""
    with user_errors(f"python {argv[0]}"):
        try:
            if "config" in flags.FLAGS:
                argv = sys.argv[:] = _with_config(argv)  # where ml_collections looks for the overrides
            positional = flags.FLAGS(argv)
        # ml_collections raises the last four for a value of another type or a broken configuration file.
        except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            lines = str(error.args[0]).splitlines()
            # It also puts the traceback of a configuration file into the text; what was meant stands in its last line.
            told = lines[-1] if any("Traceback" in line for line in lines) else " ".join(lines)
            raise UserError(told.removeprefix("ValueError: ")) from error
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        return positional


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
