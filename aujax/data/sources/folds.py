"""RAF-DB and AffectNet as the paper's authors split them: the lists and landmarks of their released folds.

A folds folder, folds/wsol-done-right-splits/RAF-DB or AffectNet, holds class_id.yaml (name: number) and, in train,
val and test, image_ids.txt (a path per line), class_labels.txt (path,number) and landmarks.txt (see `landmarks`).
The paths are those below the folder of the data set; RAF-DB's are faces that the released code aligned itself, and
have the attributes of `rafdb` where the folder basic still holds its annotations.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aujax import plain_yaml
from aujax.codebook import EXPRESSIONS
from aujax.data.landmarks import READERS
from aujax.data.sources import rafdb
from aujax.data.sources.listing import FileBytes, Listing, Source, SourceImage, add_split_options, open_table
from aujax.errors import UserError

CLASSES, IDS, LABELS, LANDMARKS = "class_id.yaml", "image_ids.txt", "class_labels.txt", "landmarks.txt"
SPLITS = ("train", "val", "test")
_COPY = "copy the folds again"
_LOOKED_AT = 200


def list_folds(options: argparse.Namespace) -> Listing:
    """The faces of `options.source` that the folds in `options.folds` list.

    Train and test are those of the folds. Their val is validation where it has faces of its own; as released it lists
    the faces of test again, which must not choose the epoch, and then validation is drawn from train.

    Raises:
      UserError: a file is missing, or is not as described; no image is where the folds say.
    """
    source, folds = Path(options.source), Path(options.folds)
    if not source.is_dir():
        raise UserError(f"--source={source}: no such folder; give the folder of the data set, or the one around it")
    names = _classes(folds / CLASSES)
    ids = {split: _ids(folds, split) for split in SPLITS if split != "val" or (folds / split / IDS).is_file()}
    if leaked := set(ids["train"]) & set(ids["test"]):
        raise UserError(
            f"--folds={folds}: {len(leaked)} images are in train and in test (first: {min(leaked)}); {_COPY}"
        )
    validation, notes = _validation(ids)
    root = _root(source, folds.name, [name for some in ids.values() for name in some])
    # Where the command line names other landmarks, those of the folds are not needed.
    with_landmarks = not getattr(options, "landmarks", "")
    attributes = rafdb.attributes_below(root / "basic")
    images = []
    for split, listed in (("train", ids["train"]), ("val", validation), ("test", ids["test"])):
        if listed:
            labels = _labels(folds / split / LABELS, listed, names)
            landmarks = _landmarks(folds / split / LANDMARKS, listed) if with_landmarks else {}
            words = "validation" if split == "val" else split
            images += [
                SourceImage(
                    *(name, labels[name], FileBytes(root / name), words),
                    landmarks=landmarks.get(name),
                    attributes=attributes(Path(name).stem),
                )
                for name in listed
            ]
    return Listing(images, EXPRESSIONS, f"released folds {folds}, images below {root}", notes)


def _classes(path: Path) -> dict[int, int]:
    """For each number in the folds, our index of that expression."""
    if not path.is_file():
        raise UserError(
            f"--folds={path.parent}: expected {CLASSES} and the folders {', '.join(SPLITS)} in it; unpack the "
            "released folds and give wsol-done-right-splits/RAF-DB or wsol-done-right-splits/AffectNet"
        )
    try:
        numbers = plain_yaml.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; its lines are like 'Anger: 4': {_COPY}") from error
    if sorted(numbers) != sorted(EXPRESSIONS):
        came = ", ".join(numbers)
        raise UserError(f"{path}: expected the expressions {', '.join(EXPRESSIONS)}, got {came}; {_COPY}")
    if sorted(map(str, numbers.values())) != [str(number) for number in range(len(EXPRESSIONS))]:
        raise UserError(
            f"{path}: expected the numbers 0 to {len(EXPRESSIONS) - 1}, got {list(numbers.values())}; {_COPY}"
        )
    return {int(number): EXPRESSIONS.index(name) for name, number in numbers.items()}


def _ids(folds: Path, split: str) -> list[str]:
    path = folds / split / IDS
    ids = _lines(path)
    if not ids:
        raise UserError(f"{path}: expected a path of an image per line, found none; {_COPY}")
    if len(set(ids)) < len(ids):
        raise UserError(f"{path}: expected each image once, {len(ids) - len(set(ids))} come again; {_COPY}")
    return ids


def _validation(ids: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    """The images of val that are in no other split, and what to note about the others."""
    others = {*ids["train"], *ids["test"]}
    own = [name for name in ids.get("val", ()) if name not in others]
    if "val" not in ids:
        return own, ["the folds have no val: validation is drawn from train"]
    if not own:
        return own, ["the folds' val lists the images of test again, so validation is drawn from train instead"]
    again = len(ids["val"]) - len(own)
    return own, [f"{again} images of the folds' val are in train or test too and do not validate"] if again else []


def _root(source: Path, name: str, ids: Sequence[str]) -> Path:
    """The folder below which the images are: that of the data set, or one above it."""
    some = ids[:: max(1, len(ids) // _LOOKED_AT)]
    for root in (source, source / name):
        if any((root / one).is_file() for one in some):
            return root
    raise UserError(
        f"--source={source}: expected images such as {ids[0]} in it or in {source / name}, found none; give the folder "
        "of the data set. RAF-DB's our_aligned faces are those that the released code makes"
    )


def _labels(path: Path, ids: Sequence[str], names: dict[int, int]) -> dict[str, int]:
    labels = {}
    for line, text in enumerate(_lines(path), start=1):
        name, _, number = text.rpartition(",")
        if not number.strip().isdecimal() or int(number) not in names:
            highest = len(names) - 1
            raise UserError(f"{path}, line {line}: expected a path and a number from 0 to {highest}, got {text!r}")
        labels[name] = names[int(number)]
    _check_complete(path, ids, labels)
    return labels


def _landmarks(path: Path, ids: Sequence[str]) -> dict[str, np.ndarray | None]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; {_COPY}, or find landmarks with --landmarks=dlib")
    # By the very name, not as `read_landmarks` matches: files of several splits may be called the same.
    landmarks = READERS[".txt"](path, ids)
    _check_complete(path, ids, landmarks)
    return landmarks


def _check_complete(path: Path, ids: Sequence[str], found: dict) -> None:
    if missing := [name for name in ids if name not in found]:
        raise UserError(
            f"{path}: expected a line for each image of {IDS}, {len(missing)} have none (first: {missing[0]}); {_COPY}"
        )


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; {_COPY}")
    with open_table(path) as file:
        return [line.strip() for line in file if line.strip()]


def add_options(parser: argparse._ActionsContainer) -> None:
    """The options of this source."""
    parser.add_argument("--source", required=True, metavar="DIR", help="folder of the data set, or the one around it")
    parser.add_argument(
        "--folds",
        required=True,
        metavar="DIR",
        type=_absolute,
        help="wsol-done-right-splits/RAF-DB or wsol-done-right-splits/AffectNet of the released folds",
    )
    add_split_options(parser)


def _absolute(text: str) -> str:
    return str(Path(text).resolve())


SOURCE = Source(
    summary="RAF-DB or AffectNet with the splits and landmarks of the paper's released folds",
    terms="RAF-DB and AffectNet are for non-commercial research only and may not be passed on.",
    add_options=add_options,
    list_images=list_folds,
)
