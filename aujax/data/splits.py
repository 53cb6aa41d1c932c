"""Which split each face of a data set is in: faces of one subject, and copies of one image, stay together."""

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
    units: Sequence[int],
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
      units: faces with equal units stay together.
      validation: fraction of the sampled faces; 0 for no validation split. Not used if that split is given.
      test: likewise.
      seed: of the order in which units are assigned.

    Raises:
      UserError: fractions out of range, or a split without faces.
    """
    shares = sampled_shares(given, validation, test)
    free = [row for row, split in enumerate(given) if split in ("", "train")]
    if not free:
        raise UserError("expected faces to train on, but the source gives all of them to validation or test")
    splits = [split or "train" for split in given]
    if not shares:
        return splits

    shares = {"train": 1 - sum(shares.values()), **shares}
    members = defaultdict(list)
    for row in free:
        members[units[row]].append(row)
    if len(members) < len(shares):
        raise UserError(
            f"expected at least {len(shares)} people or photographs, to share among {', '.join(shares)}; got "
            f"{len(members)}; give more faces, or choose --validation=0 or --test=0"
        )
    classes = np.zeros(len(given), int)
    classes[free] = np.unique(np.take(expressions, free), return_inverse=True)[1]
    totals = np.bincount(classes[free])
    fractions = np.array(list(shares.values()))[:, None]
    missing = fractions * totals  # faces of each class that each split lacks
    rows_of_unit = list(members.values())
    order = np.random.default_rng(seed).permutation(len(members))
    for unit in sorted(order, key=lambda unit: -len(rows_of_unit[unit])):
        counts = np.bincount(classes[rows_of_unit[unit]], minlength=len(totals))
        # The increase of the squared distance from the target, per class in units of the class's size. Dividing by the
        # split's fraction makes a face missing from a small split weigh more than one missing from a large split.
        increase = ((missing - counts) ** 2 - missing**2) / totals / fractions
        split_index = int(np.argmin(increase.sum(1)))
        missing[split_index] -= counts
        for row in rows_of_unit[unit]:
            splits[row] = list(shares)[split_index]
    for split in shares:
        if split not in splits:
            raise UserError(
                f"the split {split!r} is empty: {len(free)} faces are too few for --validation={validation} and "
                f"--test={test}; give more faces or other fractions, or choose 0 for no such split"
            )
    return splits


def sampled_shares(given: Sequence[str], validation: float, test: float) -> dict[str, float]:
    """Returns the fractions of the splits that have to be sampled; a UserError if they are out of range."""
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
    return shares


def join_units(*keys: Sequence[str]) -> list[int]:
    """Returns the unit of each face: faces with an equal value in any of `keys` are joined; "" joins nothing."""
    rows, firsts = [], []  # a face, and the first face with the same value
    for values in keys:
        first = {}
        for row, value in enumerate(values):
            if value:
                rows.append(row)
                firsts.append(first.setdefault(value, row))
    count = len(keys[0])
    graph = coo_array((np.ones(len(rows)), (rows, firsts)), shape=(count, count))
    return connected_components(graph, directed=False)[1].tolist()
