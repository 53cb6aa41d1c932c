"""The assignment of faces to the train, validation and test splits.

Faces of one subject, and copies of one image, are a *unit* and stay together. Units are assigned, largest first and
otherwise in an order sampled from the seed, to the split that is furthest below its share of their expressions, so that
the classes stay in proportion as well as the units allow.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from aujax.errors import UserError

SPLITS = ("train", "validation", "test")


def assign_splits(
    expressions: Sequence[int],
    given: Sequence[str],
    units: Sequence[str],
    *,
    validation: float,
    test: float,
    seed: int,
) -> list[str]:
    """Returns a split for each face: its given one, or one sampled for faces that are given to train or to no split.

    A validation or test split that the data set has is kept as it is; a split that it lacks is sampled.

    Args:
      expressions: the class of each face.
      given: "train", "validation", "test" or "" for each face.
      units: faces with equal text stay together.
      validation: fraction of the sampled faces; 0 for no validation split. Not used if that split is given.
      test: likewise.
      seed: of the order in which units are assigned.

    Raises:
      UserError: fractions out of range, or a split without faces.
    """
    shares = {}
    for split, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise UserError(f"--{split}: expected a fraction from 0 to below 1, got {share}")
        if share and split not in given:
            shares[split] = share
    if sum(shares.values()) >= 1:
        raise UserError(
            f"--validation={validation} and --test={test}: expected a sum below 1, which leaves faces to train on"
        )
    free = [row for row, split in enumerate(given) if split in ("", "train")]
    if not free:
        raise UserError("expected faces to train on, but the source gives all of them to validation or test")
    splits = [split or "train" for split in given]
    if shares:
        shares = {"train": 1 - sum(shares.values()), **shares}
        assigned = _assign([expressions[row] for row in free], [units[row] for row in free], shares, seed)
        for row, split in zip(free, assigned, strict=True):
            splits[row] = split
        for split in shares:
            if split not in assigned:
                raise UserError(
                    f"the split {split!r} is empty: {len(free)} faces are too few for --validation={validation} and "
                    f"--test={test}; give more faces or other fractions, or choose 0 for no such split"
                )
    return splits


def join_units(*keys: Sequence[str]) -> list[str]:
    """Returns the unit of each face: faces with an equal value in any of `keys` are joined; "" joins nothing."""
    rows, firsts = [], []  # a face, and the first face with the same value
    for values in keys:
        first: dict[str, int] = {}
        for row, value in enumerate(values):
            if value:
                rows.append(row)
                firsts.append(first.setdefault(value, row))
    count = len(keys[0])
    graph = coo_array((np.ones(len(rows)), (rows, firsts)), shape=(count, count))
    _, units = connected_components(graph, directed=False)
    return [str(unit) for unit in units]


def _assign(labels: Sequence[int], units: Sequence[str], shares: dict[str, float], seed: int) -> list[str]:
    """Returns a split for each face, with all faces of a unit in one split."""
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
    missing = fractions[:, None] * totals  # faces of each class that each split lacks
    rows_of_unit = list(members.values())
    order = np.random.default_rng(seed).permutation(len(members))
    splits = [""] * len(labels)
    for index in sorted(order, key=lambda unit: -len(rows_of_unit[unit])):
        rows = rows_of_unit[index]
        counts = np.bincount(classes[rows], minlength=len(totals))
        # The increase of the squared distance from the target, per class in units of the class's size. Dividing by the
        # split's fraction makes a face missing from a small split weigh more than one missing from a large split.
        increase = ((missing - counts) ** 2 - missing**2) / totals / fractions[:, None]
        neediest = int(np.argmin(increase.sum(1)))
        missing[neediest] -= counts
        for row in rows:
            splits[row] = list(shares)[neediest]
    return splits
