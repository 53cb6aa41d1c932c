"""What every command line of aujax shares: a user's mistake is told in two lines, never as a traceback."""

import contextlib
import pathlib
import re
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
            positional = flags.FLAGS(_with_config(argv) if "config" in flags.FLAGS else argv)
        # ml_collections raises the last four for a value of another type or a broken configuration file.
        except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            raise UserError(" ".join(str(error.args[0]).split())) from error
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        return positional


def _with_config(argv: list[str]) -> list[str]:
    """Returns the arguments, `--config` among them, once the names of all options are known to be right."""
    from aujax import config  # `prepare` shares this file, but not the networks that a configuration names

    # Not the flag's own default: ml_collections would read that, and the overrides, before errors can be told.
    if not any(re.match("--?config(=|$)", argument) for argument in argv):
        argv = [argv[0], f"--config={pathlib.Path(argv[0]).parent / 'configs' / 'synthetic.py'}", *argv[1:]]
    for argument, following in zip(argv[1:], [*argv[2:], ""], strict=True):
        name, equals, value = argument.lstrip("-").partition("=")
        value = value if equals else following
        if name == "config" and not pathlib.Path(value.partition(":")[0]).is_file():
            raise UserError(f"--config: expected a configuration file such as configs/faces.py, got {value!r}")
        if name.startswith("config."):
            config.check_name(name.removeprefix("config."))
    return argv
