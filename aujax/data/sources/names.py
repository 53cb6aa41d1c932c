"""From the class names people use to expressions."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from aujax.codebook import EXPRESSIONS
from aujax.errors import UserError

LEFT_OUT = "none"

SYNONYMS = {
    "Neutral": ("neutrality", "neu", "noexpression"),
    "Happiness": ("happy", "joy", "joyful", "smile", "smiling", "hap"),
    "Surprise": ("surprised", "surprising", "sur"),
    "Fear": ("fearful", "afraid", "scared", "fea"),
    "Anger": ("angry", "mad", "ang"),
    "Disgust": ("disgusted", "dis"),
    "Sadness": ("sad", "unhappy"),
}


def parse_classes(text: str) -> dict[str, str]:
    """The map written as `name=Expression,name=Expression`; the expression `none` leaves a class out.

    Raises:
      UserError: an item without "=", or a name given twice.
    """
    classes: dict[str, str] = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        name, equals, expression = (part.strip() for part in item.partition("="))
        if not (name and equals and expression):
            raise UserError(f"--classes: expected name=Expression,name=Expression,..., got {item!r}")
        if classes.setdefault(name, expression) != expression:
            raise UserError(f"--classes: {name!r} is given twice; keep one of them")
    return classes


def parse_expressions(text: str) -> tuple[str, ...]:
    """The data set's own expressions, written as `Name,Name,...`; the usual seven for an empty text."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if len(set(map(_key, names))) != len(names):
        raise UserError(f"--expressions: expected different names, got {text!r}")
    if len(names) == 1:
        raise UserError(f"--expressions: expected two names or more, got {text!r}")
    return names or EXPRESSIONS


def expression_ids(
    names: Iterable[str],
    *,
    expressions: Sequence[str] = EXPRESSIONS,
    classes: Mapping[str, str] | None = None,
) -> dict[str, int | None]:
    """For each class name its index in `expressions`, or None for a class that `classes` leaves out.

    Names are compared without regard to case, spaces, "_" and "-", with the usual synonyms.

    Raises:
      UserError: names that no expression and no entry of `classes` explains, with their counts.
    """
    counts = Counter(names)
    classes = classes or {}
    unused = [name for name in classes if name not in counts]
    if unused:
        raise UserError(f"--classes: {unused[0]!r} is no class of this source; it has {', '.join(sorted(counts))}")
    known = _known_names(expressions)
    ids: dict[str, int | None] = {}
    unknown = []
    for name in sorted(counts):
        target = classes.get(name, name)
        if _key(target) == LEFT_OUT and name in classes:
            ids[name] = None
        elif _key(target) in known:
            ids[name] = known[_key(target)]
        elif name in classes:
            raise UserError(f"--classes: {name}={target}: expected one of {', '.join(expressions)} or {LEFT_OUT}")
        else:
            unknown.append(name)
    if unknown:
        raise UserError(_unknown_classes(unknown, counts, expressions))
    return ids


def _known_names(expressions: Sequence[str]) -> dict[str, int]:
    known = {}
    for index, expression in enumerate(expressions):
        for name in (expression, *SYNONYMS.get(expression, ())):
            known[_key(name)] = index
    return known


def _key(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in " _-")


def _unknown_classes(unknown: Sequence[str], counts: Counter[str], expressions: Sequence[str]) -> str:
    came = ", ".join(f"{name!r} ({counts[name]})" for name in unknown)
    example = ",".join(f"{name}={expressions[i % len(expressions)]}" for i, name in enumerate(unknown))
    return (
        f"unknown class names: {came}; expected names of {', '.join(expressions)} or their usual synonyms. "
        f"Say what they mean, for example --classes={example}, or leave a class out with "
        f"{unknown[0]}={LEFT_OUT}. Numbers mean different expressions in different data sets."
    )
