"""What all commands share: messages and exit statuses for mistakes and Ctrl-C, and the cache of compiled programs."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from aujax.errors import UserError

MISTAKE = 2
INTERRUPTED = 130


@contextlib.contextmanager
def user_errors(program: str, *, interrupted: str = "stopped") -> Iterator[None]:
    """Ends the process with status 2 on a `UserError` and 130 on Ctrl-C, after a message on standard error.

    Args:
      program: the command, named in the message.
      interrupted: the message for Ctrl-C, such as what was kept.
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
    """Stores the programs that JAX compiles in the user's cache folder, so that a second start is fast.

    A folder that JAX is already configured with stays. With several processes nothing is changed: only process 0
    writes the cache, and where the others cannot read it they would compile while process 0 waits for them.
    """
    import jax  # not needed by `aujax prepare`, which imports this module

    options: Any = jax.config
    if not options.jax_compilation_cache_dir and jax.process_count() == 1:
        cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        options.update("jax_compilation_cache_dir", str(pathlib.Path(cache) / "aujax" / "jax"))
