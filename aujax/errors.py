"""`UserError`, the one exception that is reported without a traceback, and how its message suggests names."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in an option, a file or a data set; its message states what was expected, found and to be done."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a sentence with the known names most similar to `name`, or with all of them.

    >>> nearest("epoch", ["epochs", "seed"]), nearest("x", ["epochs", "seed"])
    ('Did you mean epochs?', 'Expected one of: epochs, seed.')
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3)
    return f"Did you mean {' or '.join(close)}?" if close else f"Expected one of: {', '.join(known)}."
