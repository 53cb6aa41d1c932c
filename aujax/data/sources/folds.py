"""RAF-DB and AffectNet as the paper's authors split them: the lists and landmarks of their released folds.

A folds folder, folds/wsol-done-right-splits/RAF-DB or AffectNet, holds class_id.yaml (name: number) and, in train,
val and test, image_ids.txt (a path per line), class_labels.txt (path,number) and landmarks.txt (see `landmarks`).
The paths are below the folder of the data set. RAF-DB's images are faces that the released code aligned itself; they
have the attributes of `rafdb` if the folder basic still holds its annotations.
"""

import argparse
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from aujax.codebook import EXPRESSIONS
from aujax.data.landmarks import READERS
from aujax.data.sources import Listing, Source, SourceImage, add_source_options, open_table, rafdb
from aujax.errors import UserError

CLASSES, IDS, LABELS, LANDMARKS = "class_id.yaml", "image_ids.txt", "class_labels.txt", "landmarks.txt"
SPLITS = {"train": "train", "val": "validation", "test": "test"}
_COPY = "copy the folds again"
_SAMPLE_SIZE = 200


def list_folds(options: argparse.Namespace) -> Listing:
    """Returns the faces of `options.source` that the folds in `options.folds` list.

    Train and test are those of the folds, and so is validation if it has faces of its own. The released val lists the
    images of test again, which must not select the epoch: then validation is sampled from train.

    Raises:
      UserError: a file is missing, or is not as described; no image is where the folds say.
    """
    source, folds = Path(options.source), Path(options.folds)
    if not source.is_dir():
        raise UserError(f"--source={source}: no such folder; give the folder of the data set, or the one around it")
    classes = _classes(folds / CLASSES)
    ids = {}
    for split in SPLITS:
        path = folds / split / IDS
        if split == "val" and not path.is_file():
            continue
        names = _lines(path)
        if not names:
            raise UserError(f"{path}: expected a path of an image per line, found none; {_COPY}")
        repeated = len(names) - len(set(names))
        if repeated:
            raise UserError(f"{path}: expected each image once, {repeated} are repeated; {_COPY}")
        ids[split] = names
    leaked = set(ids["train"]) & set(ids["test"])
    if leaked:
        raise UserError(
            f"--folds={folds}: {len(leaked)} images are in train and in test (first: {min(leaked)}); {_COPY}"
        )
    paths = [name for names in ids.values() for name in names]
    sample = paths[:: max(1, len(paths) // _SAMPLE_SIZE)]
    # The paths are relative to the folder of the data set, which is this one or in this one.
    root = source if any((source / name).is_file() for name in sample) else source / folds.name
    if not any((root / name).is_file() for name in sample):
        raise UserError(
            f"--source={source}: expected images such as {paths[0]} in it or in {root}, found none; give the folder "
            "of the data set. RAF-DB's our_aligned faces are those that the released code makes"
        )

    notes = []
    others = {*ids["train"], *ids["test"]}
    listed = ids.get("val", [])
    own = [name for name in listed if name not in others]
    again = len(listed) - len(own)
    if not listed:
        notes.append("the folds have no val: validation is sampled from train")
    elif not own:
        notes.append("the folds' val lists the images of test again, so validation is sampled from train instead")
        del ids["val"]
    elif again:
        notes.append(f"{again} images of the folds' val are in train or test too and are not used for validation")
        ids["val"] = own

    annotations, _ = rafdb.members(root / "basic" / "Annotation" / "manual")
    images = []
    for split, names in ids.items():
        path = folds / split / LABELS
        labels = {}
        for line, text in enumerate(_lines(path), start=1):
            name, _, number = text.rpartition(",")
            if not number.strip().isdecimal() or int(number) not in classes:
                highest = len(classes) - 1
                raise UserError(f"{path}, line {line}: expected a path and a number from 0 to {highest}, got {text!r}")
            labels[name] = classes[int(number)]
        _check_complete(path, names, labels)
        landmarks = {}
        if not options.landmarks:  # else the command line names other landmarks
            path = folds / split / LANDMARKS
            if not path.is_file():
                raise UserError(f"{path}: no such file; {_COPY}, or detect landmarks with --landmarks=dlib")
            # The names must be equal, unlike in `read_landmarks`: files of several splits may have the same name.
            landmarks = READERS[".txt"](path, names)
            _check_complete(path, names, landmarks)
        for name in names:
            images.append(
                SourceImage(
                    id=name,
                    expression=labels[name],
                    read=(root / name).read_bytes,
                    split=SPLITS[split],
                    landmarks=landmarks.get(name),
                    attributes=rafdb.annotation(annotations, Path(name).stem)[1],
                )
            )
    return Listing(images, EXPRESSIONS, f"released folds {folds}, images below {root}", notes)


def _classes(path: Path) -> dict[int, int]:
    """Returns the index in `EXPRESSIONS` for each number in the folds."""
    if not path.is_file():
        raise UserError(
            f"--folds={path.parent}: expected {CLASSES} and the folders {', '.join(SPLITS)} in it; unpack the "
            "released folds and give wsol-done-right-splits/RAF-DB or wsol-done-right-splits/AffectNet"
        )
    try:
        numbers = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; its lines are like 'Anger: 4': {_COPY}") from error
    if sorted(numbers) != sorted(EXPRESSIONS):
        raise UserError(f"{path}: expected the expressions {', '.join(EXPRESSIONS)}, got {', '.join(numbers)}; {_COPY}")
    if sorted(map(str, numbers.values())) != [str(number) for number in range(len(EXPRESSIONS))]:
        raise UserError(
            f"{path}: expected the numbers 0 to {len(EXPRESSIONS) - 1}, got {list(numbers.values())}; {_COPY}"
        )
    return {int(number): EXPRESSIONS.index(name) for name, number in numbers.items()}


def _check_complete(path: Path, ids: Sequence[str], names: dict[str, Any]) -> None:
    missing = [name for name in ids if name not in names]
    if missing:
        raise UserError(
            f"{path}: expected a line for each image of {IDS}, {len(missing)} have none (first: {missing[0]}); {_COPY}"
        )


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; {_COPY}")
    with open_table(path) as file:
        return [line.strip() for line in file if line.strip()]


def add_options(parser: argparse._ActionsContainer) -> None:
    """Adds the options of this source."""
    add_source_options(parser, "folder of the data set, or the one around it")
    parser.add_argument(
        "--folds",
        required=True,
        metavar="DIR",
        type=lambda text: str(Path(text).resolve()),
        help="wsol-done-right-splits/RAF-DB or wsol-done-right-splits/AffectNet of the released folds",
    )


SOURCE = Source(
    summary="RAF-DB or AffectNet with the splits and landmarks of the paper's released folds",
    terms="RAF-DB and AffectNet are for non-commercial research under agreements with their authors and may not be "
    "redistributed.",
    cropped=True,
    add_options=add_options,
    list_images=list_folds,
)


# ---- YAML of other programs ------------------------------------------------------------------------------------------

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_LONGEST = 2**20  # characters; the authors' files have some ten thousand


class _Loader(yaml.SafeLoader):
    """Makes mappings, lists, text, numbers, booleans and None; any other tag is ignored."""

    # For a tag without a constructor, PyYAML makes a plain value of the node's kind.
    yaml_constructors = {  # noqa: RUF012 - as in PyYAML
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float"))
    }

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Keeps merge keys (<<) as ordinary keys: nested aliases in a few lines of them would exhaust the memory."""


def parse_yaml(text: str) -> dict[str, Any]:
    """Returns the values of a YAML mapping by dotted names: numbers, text, booleans and None.

    Loading runs no code, and takes bounded memory and time. Values nested deeper than two mappings become short text.

    Raises:
      UserError: the text is not a YAML mapping.

    >>> parse_yaml("method: CAM\\ndata: !munch.Munch {train: a}")
    {'method': 'CAM', 'data.train': 'a'}
    """
    if len(text) > _LONGEST:
        raise UserError(f"expected YAML of at most {_LONGEST} characters, got {len(text)}")
    try:
        content = yaml.load(text, _Loader)
    # ValueError, LookupError: a scalar that does not fit its tag, or a number of thousands of digits.
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        raise UserError(f"expected YAML, got something else ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise UserError(f"expected values by name, got something else ({_SHORT.repr(text)})")
    values = {}
    for name, value in content.items():
        leaves = {f"{name}.{key}": leaf for key, leaf in value.items()} if isinstance(value, dict) else {name: value}
        for leaf_name, leaf in leaves.items():
            # Aliases can make the text of a nested value longer than any memory.
            plain = isinstance(leaf, str | float | None) or (isinstance(leaf, int) and abs(leaf) < 2**63)
            values[str(leaf_name)] = leaf if plain else _SHORT.repr(leaf)
    return values
