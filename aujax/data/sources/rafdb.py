"""RAF-DB, basic expressions: the official folder, packed or unpacked, and the class-folder copies of it.

Official: EmoLabel/list_patition_label.txt (or list_partition_label.txt), Image/{aligned,original}(.zip), and
Annotation/{manual,boundingbox}(.zip). Landmarks and boxes are in pixels of the original images. A file of manual has
five points, then the codes of the attributes gender, race and age, a line each.
Copies: train/ and test/ (or valid/) with folders 1 to 7 or with names, or flat with train_labels.csv beside them.
"""

import argparse
import csv
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from aujax.codebook import EXPRESSIONS
from aujax.data.sources.folder import SPLIT_NAMES, class_files
from aujax.data.sources.listing import (
    FileBytes,
    Listing,
    Source,
    SourceImage,
    ZipBytes,
    add_split_options,
    images_below,
    open_table,
    open_zip,
)
from aujax.data.sources.names import expression_ids
from aujax.errors import UserError

CODES = {
    "1": "Surprise",
    "2": "Fear",
    "3": "Disgust",
    "4": "Happiness",
    "5": "Sadness",
    "6": "Anger",
    "7": "Neutral",
}
COUNTS = {"train": 12271, "test": 3068}
LISTS = ("list_patition_label.txt", "list_partition_label.txt")
# Which attribute each line after the points gives, and what its codes mean.
ATTRIBUTES = {
    "gender": ("male", "female", "unsure"),
    "race": ("Caucasian", "African-American", "Asian"),
    "age": ("0 to 3", "4 to 19", "20 to 39", "40 to 69", "70 and more"),
}
_POINTS = 5
_SUFFIXES = {"aligned": "_aligned", "original": ""}

Readers = Mapping[str, Callable[[], bytes]]


def list_rafdb(options: argparse.Namespace) -> Listing:
    """The faces of a copy of RAF-DB below `options.source`.

    Raises:
      UserError: no known layout, or a part of it is missing or not as expected.
    """
    source = Path(options.source)
    if not source.is_dir():
        raise UserError(f"--source={source}: no such folder; give the folder of RAF-DB that holds EmoLabel and Image")
    for root in (source, source / "basic"):
        for name in LISTS:
            if (root / "EmoLabel" / name).is_file():
                return _noted(_list_official(root, root / "EmoLabel" / name, options))
    for root in (source, source / "DATASET"):
        listing = _list_copy(root)
        if listing is not None:
            return _noted(listing)
    inside = ", ".join(sorted(path.name for path in source.iterdir())[:8]) or "nothing"
    raise UserError(
        f"--source={source}: expected RAF-DB: EmoLabel/{LISTS[0]} with Image/aligned (or aligned.zip), or folders "
        f"train and test with 1 to 7 in them; found {inside}. Give the folder called basic, or use the source folder"
    )


def _list_official(root: Path, labels: Path, options: argparse.Namespace) -> Listing:
    files, where = _members(root / "Image" / options.images, required=True)
    manual, manual_place = _members(root / "Annotation" / "manual")
    boxes: Readers = {}
    notes = [] if manual else [f"{manual_place} is not there: gender, race and age are not known"]
    if options.images == "original":
        boxes, box_place = _members(root / "Annotation" / "boundingbox")
        if not boxes:
            notes.append(f"{box_place} is not there: whole images are stored instead of the faces in them")
        if not manual:
            notes[0] += ", and faces are aligned by detected landmarks instead of the annotated points"
    images = []
    for stem, code in _labels(labels):
        name, annotation = f"{stem}{_SUFFIXES[options.images]}.jpg", f"{stem}_manu_attri.txt"
        rows = _numbers(manual, annotation)
        images.append(
            SourceImage(
                id=f"Image/{options.images}/{name}",
                expression=EXPRESSIONS.index(CODES[code]),
                read=files.get(name, FileBytes(root / "Image" / options.images / name)),
                split="train" if stem.startswith("train") else "test",
                box=_box(boxes, f"{stem}_boundingbox.txt"),
                points=_points(rows) if options.images == "original" else None,
                attributes=_attributes(rows, annotation),
            )
        )
    return Listing(images, EXPRESSIONS, f"official, labels {labels.name}, images {where}", notes)


def _labels(path: Path) -> Iterator[tuple[str, str]]:
    """The name, without its ending, and the code of each image of the official list."""
    with open_table(path) as file:
        for line, text in enumerate(file.read().splitlines(), start=1):
            fields = text.split()
            if not fields:
                continue
            if len(fields) < 2 or fields[1] not in CODES or not fields[0].startswith(("train", "test")):
                raise UserError(f"{path}, line {line}: expected a name and a code, 'train_00001.jpg 5', got {text!r}")
            yield PurePosixPath(fields[0]).stem, fields[1]


def _members(place: Path, *, required: bool = False) -> tuple[Readers, Path]:
    """Readers of the files of `place`, a folder or the zip archive of this name, by file name; and where they are."""
    archive = place.with_name(place.name + ".zip")
    if place.is_dir():
        return {path.name: FileBytes(path) for path in place.rglob("*") if path.is_file()}, place
    if archive.is_file():
        try:
            members = open_zip(archive).infolist()
        except zipfile.BadZipFile as error:
            raise UserError(f"{archive}: expected a zip archive, {error}; copy it again") from error
        if any(member.flag_bits & 1 for member in members):
            raise UserError(f"{archive}: expected an archive without a password; unpack it to {place}")
        names = [member.filename for member in members if not member.is_dir() and "__MACOSX" not in member.filename]
        return {PurePosixPath(name).name: ZipBytes(archive, name) for name in names}, archive
    if required:
        others = ", ".join(sorted(path.name for path in place.parent.glob("*"))) or "nothing"
        raise UserError(
            f"{place}: expected this folder or {archive.name}, found {others}; copy it from RAF-DB, or choose "
            "--images=aligned or --images=original"
        )
    return {}, place


def _numbers(readers: Readers, name: str) -> list[list[float]]:
    if name not in readers:
        return []
    try:
        lines = readers[name]().decode().splitlines()
        return [[float(number) for number in line.split()] for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: expected numbers, {error}; copy the annotations again") from error


def _box(readers: Readers, name: str) -> tuple[float, float, float, float] | None:
    numbers = [number for row in _numbers(readers, name) for number in row]
    return None if len(numbers) < 4 else (numbers[0], numbers[1], numbers[2], numbers[3])


def _points(rows: list[list[float]]) -> np.ndarray | None:
    rows = rows[:_POINTS]
    if len(rows) < _POINTS or any(len(row) != 2 for row in rows):
        return None
    # Eyes, nose, mouth corners; which of a pair comes first is taken from the image, not from the file.
    eyes, nose, mouth = sorted(rows[:2]), rows[2], sorted(rows[3:])
    return np.array([*eyes, nose, *mouth], np.float32)


def attributes_below(basic: Path) -> Callable[[str], dict[str, str]]:
    """What tells the attributes of an image, named without ending, by the annotations below the folder called basic."""
    manual, _ = _members(basic / "Annotation" / "manual")

    def read(stem: str) -> dict[str, str]:
        name = f"{stem}_manu_attri.txt"
        return _attributes(_numbers(manual, name), name)

    return read


def _attributes(rows: list[list[float]], name: str) -> dict[str, str]:
    codes = [number for row in rows[_POINTS:] for number in row]
    for code, (what, words) in zip(codes, ATTRIBUTES.items(), strict=False):
        if code not in range(len(words)):
            raise UserError(
                f"{name}: expected a code of {what} from 0 to {len(words) - 1} below the {_POINTS} points, got "
                f"{code:g}; copy the annotations again"
            )
    return {what: words[int(code)] for code, (what, words) in zip(codes, ATTRIBUTES.items(), strict=False)}


def _list_copy(root: Path) -> Listing | None:
    folders = {}
    if root.is_dir():
        for child in sorted(root.iterdir()):
            if child.is_dir() and child.name.casefold() in SPLIT_NAMES:
                split = SPLIT_NAMES[child.name.casefold()]
                # RAF-DB has two parts; the copies that call the second one valid mean the test part.
                folders["test" if split == "validation" else split] = child
    images: list[SourceImage] = []
    for split, folder in folders.items():
        images += _class_images(root, folder, split) or _flat_images(root, folder, split)
    shape = " and ".join(folder.name for folder in folders.values())
    return Listing(images, EXPRESSIONS, f"copy with folders {shape}") if images else None


def _class_images(root: Path, folder: Path, split: str) -> list[SourceImage]:
    files = class_files(folder)
    try:
        ids = expression_ids([CODES.get(name, name) for name in files])
    except UserError as error:
        classes = ",".join(f"{name}={CODES.get(name, '...')}" for name in files)
        raise UserError(
            f"{folder}: expected folders 1 to 7 or named by expression, found {', '.join(files)}; move the others "
            "away, or use the source folder, where NAME=none leaves a folder out: "
            f"folder --source={root} --classes={classes}"
        ) from error
    return [
        _copied_image(root, path, ids[CODES.get(name, name)], split) for name, paths in files.items() for path in paths
    ]


def _flat_images(root: Path, folder: Path, split: str) -> list[SourceImage]:
    paths = {path.name: path for path in images_below(folder)}
    for labels in (root / f"{folder.name}_labels.csv", folder / "labels.csv", folder / f"{folder.name}_labels.csv"):
        if paths and labels.is_file():
            break
    else:
        return []
    with open_table(labels) as file:
        rows = [row for row in csv.reader(file) if len(row) >= 2]
    images = []
    for line, (name, code, *_) in enumerate(rows, start=1):
        if line == 1 and code not in CODES:
            continue  # the header
        if code not in CODES:
            raise UserError(f"{labels}, line {line}: expected a label from 1 to 7, got {code!r}")
        images.append(_copied_image(root, paths.get(name, folder / name), EXPRESSIONS.index(CODES[code]), split))
    return images


def _copied_image(root: Path, path: Path, expression: int | None, split: str) -> SourceImage:
    if expression is None:
        raise ValueError(f"no expression for {path}")
    return SourceImage(path.relative_to(root).as_posix(), expression, FileBytes(path), split)


def _noted(listing: Listing) -> Listing:
    for split, expected in COUNTS.items():
        count = sum(image.split == split for image in listing.images)
        if count != expected:
            listing.notes.append(
                f"RAF-DB has {expected} images in {split}, this copy has {count}: "
                + ("part of it is missing" if count < expected else "images were added, perhaps augmented ones")
            )
    return listing


def add_options(parser: argparse._ActionsContainer) -> None:
    """The options of this source."""
    parser.add_argument("--source", required=True, metavar="DIR", help="the folder basic of RAF-DB, or a copy's folder")
    parser.add_argument(
        "--images",
        choices=_SUFFIXES,
        default="aligned",
        help="the 100 x 100 aligned faces, or the original images, cut by their boxes, or, with --align=five-point, "
        "warped by their annotated points (default: aligned)",
    )
    add_split_options(parser)


SOURCE = Source(
    summary="RAF-DB (basic expressions): the official folder, its zip archives packed or not, or a class-folder copy",
    terms="RAF-DB is for non-commercial research only and may not be passed on.",
    add_options=add_options,
    list_images=list_rafdb,
)
