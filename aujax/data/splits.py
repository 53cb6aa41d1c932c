"""Which faces train, validate and test.

Faces of one person, and copies of one photograph, are a *unit* and stay together. Units go, largest first and
in an order drawn from the seed, to the split that is furthest below its share of their expressions, so the
classes stay in proportion as well as the units allow.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from aujax.errors import UserError

SPLITS = ("train", "validation", "test")


def draw_splits(
    expressions: Sequence[int],
    given: Sequence[str],
    units: Sequence[str],
    *,
    validation: float,
    test: float,
    seed: int,
) -> list[str]:
    """A split for each face: its given one, or, from the faces that train or have none, newly drawn.

    A validation or test split that the data set has is kept as it is; one that it lacks is drawn.

    Args:
      expressions: the class of each face.
      given: "train", "validation", "test" or "" for each face.
      units: faces with equal text stay together.
      validation: fraction of the faces drawn from; 0 for no validation split. Not used where one is given.
      test: likewise.
      seed: of the order in which units are placed.

    Raises:
      UserError: fractions out of range, or a split that gets no face.
    """
    shares = {
        split: share for split, share in (("validation", validation), ("test", test)) if share and split not in given
    }
    _check(validation, test, shares)
    free = [row for row, split in enumerate(given) if split in ("", "train")]
    if not free:
        raise UserError("expected faces to train on, but the source gives all of them to validation or test")
    result = [split or "train" for split in given]
    if shares:
        labels, names = [expressions[row] for row in free], [units[row] for row in free]
        placed = _place(labels, names, {"train": 1 - sum(shares.values()), **shares}, seed)
        for row, split in zip(free, placed, strict=True):
            result[row] = split
        for split in {"train": 0.0, **shares}.keys() - set(placed):
            raise UserError(
                f"the split {split!r} is empty: {len(free)} faces are too few for --validation={validation} and "
                f"--test={test}; give more faces or other fractions, or choose 0 for no such split"
            )
    return result


def join_units(*keys: Sequence[str]) -> list[str]:
    """Units of faces that share a value of any of `keys`; an empty value joins nothing."""
    parent = list(range(len(keys[0])))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for values in keys:
        first: dict[str, int] = {}
        for row, value in enumerate(values):
            if value:
                parent[root(row)] = root(first.setdefault(value, row))
    return [str(root(row)) for row in range(len(parent))]


def _check(validation: float, test: float, shares: dict[str, float]) -> None:
    for name, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise UserError(f"--{name}: expected a fraction from 0 to below 1, got {share}")
    if sum(shares.values()) >= 1:
        raise UserError(
            f"--validation={validation} and --test={test}: expected a sum below 1, which leaves faces to train on"
        )


def _place(labels: Sequence[int], units: Sequence[str], shares: dict[str, float], seed: int) -> list[str]:
    members: dict[str, list[int]] = defaultdict(list)
    for row, unit in enumerate(units):
        members[unit].append(row)
    if len(members) < len(shares):
        raise UserError(
            f"expected at least {len(shares)} people or photographs, to share among {', '.join(shares)}; got "
            f"{len(members)}; give more faces, or choose --validation=0 or --test=0"
        )
    classes = np.unique(labels, return_inverse=True)[1]
    totals = np.bincount(classes)
    fractions = np.array(list(shares.values()))
    missing = fractions[:, None] * totals
    order = np.random.default_rng(seed).permutation(len(members))
    groups = list(members.values())
    placed = [""] * len(labels)
    for index in sorted(order, key=lambda i: -len(groups[i])):
        counts = np.bincount(classes[groups[index]], minlength=len(totals))
        split = _neediest(missing, counts, totals, fractions)
        missing[split] -= counts
        for row in groups[index]:
            placed[row] = list(shares)[split]
    return placed


def _neediest(missing: np.ndarray, counts: np.ndarray, totals: np.ndarray, fractions: np.ndarray) -> int:
    # The rise of the squared distance from the target, per class in units of the class's size. Dividing by the
    # split's fraction makes a face missing from a small split weigh more than one missing from a large split.
    rise = ((missing - counts) ** 2 - missing**2) / totals / fractions[:, None]
    return int(np.argmin(rise.sum(1)))
