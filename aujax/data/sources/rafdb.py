"""RAF-DB, basic expressions: the official folder, packed or unpacked, and its copies with class folders.

Official: EmoLabel/list_patition_label.txt (or list_partition_label.txt), Image/{aligned,original}(.zip), and
Annotation/{manual,boundingbox}(.zip). Landmarks and boxes are in pixels of the original images. A file of manual has
five points, then the codes of the attributes gender, race and age, a line each.
Copies: train/ and test/ (or valid/) with folders 1 to 7 or with names, or flat with train_labels.csv beside them.
"""

import argparse
import csv
import functools
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from aujax.codebook import EXPRESSIONS
from aujax.data.images import files_below
from aujax.data.sources import (
    Listing,
    Source,
    SourceImage,
    add_source_options,
    count_notes,
    folder_contents,
    open_table,
)
from aujax.data.sources.folder import SPLIT_NAMES, class_files, expression_ids
from aujax.errors import UserError

_NAMES = ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral")
CODES = dict(zip("1234567", _NAMES, strict=True))
COUNTS = {"train": 12271, "test": 3068}
LISTS = ("list_patition_label.txt", "list_partition_label.txt")
# The attributes in the order of the lines after the points, and the meanings of their codes 0, 1, ...
ATTRIBUTES = {
    "gender": ("male", "female", "unsure"),
    "race": ("Caucasian", "African-American", "Asian"),
    "age": ("0 to 3", "4 to 19", "20 to 39", "40 to 69", "70 and more"),
}
_POINTS = 5
# What follows the stem in the name of an image, by the name of the folder of images.
_SUFFIXES = {"aligned": "_aligned", "original": ""}

Readers = Mapping[str, Callable[[], bytes]]


def list_rafdb(options: argparse.Namespace) -> Listing:
    """Returns the faces of a copy of RAF-DB below `options.source`.

    Raises:
      UserError: no known layout, or a part of it is missing or not as expected.
    """
    source = Path(options.source)
    if not source.is_dir():
        raise UserError(f"--source={source}: no such folder; give the folder of RAF-DB that holds EmoLabel and Image")
    lists = [root / "EmoLabel" / name for root in (source, source / "basic") for name in LISTS]
    labels = next((path for path in lists if path.is_file()), None)
    if labels is None:
        if options.images != "aligned":
            raise UserError(
                f"--images={options.images}: expected the official folder with EmoLabel and Image/{options.images} in "
                f"--source={source}, found {folder_contents(source)}; give that folder, or leave the option out"
            )
        listing = _list_copy(source) or _list_copy(source / "DATASET")
    else:
        listing = _list_official(labels, options)
    if listing is None:
        raise UserError(
            f"--source={source}: expected RAF-DB: EmoLabel/{LISTS[0]} with Image/aligned (or aligned.zip), or folders "
            f"train and test with 1 to 7 in them; found {folder_contents(source)}. Give the folder called basic, or "
            "use the source folder"
        )
    listing.notes.extend(count_notes("RAF-DB", listing.images, COUNTS))
    return listing


def _list_official(labels: Path, options: argparse.Namespace) -> Listing:
    original = options.images == "original"
    root = labels.parent.parent
    folder = root / "Image" / options.images
    files, where = members(folder)
    if where is None:
        others = ", ".join(sorted(path.name for path in folder.parent.glob("*"))) or "nothing"
        raise UserError(
            f"{folder}: expected this folder or {folder.name}.zip, found {others}; copy it from RAF-DB, or choose "
            "--images=aligned or --images=original"
        )
    manual_folder = root / "Annotation" / "manual"
    manual, _ = members(manual_folder)
    boxes = {}
    notes = []
    if not manual:
        note = f"{manual_folder} is not there: gender, race and age are not known"
        if original:
            note += ", and faces are aligned by detected landmarks instead of the annotated points"
        notes.append(note)
    if original:
        box_folder = root / "Annotation" / "boundingbox"
        boxes, _ = members(box_folder)
        if not boxes:
            notes.append(f"{box_folder} is not there: whole images are stored instead of the faces in them")
    images = []
    with open_table(labels) as file:
        for line, text in enumerate(file.read().splitlines(), start=1):
            if not text.strip():
                continue
            image, code, *_ = [*text.split(), ""]
            if code not in CODES or not image.startswith(("train", "test")):
                raise UserError(f"{labels}, line {line}: expected a name and a code, 'train_00001.jpg 5', got {text!r}")
            stem = PurePosixPath(image).stem
            name = f"{stem}{_SUFFIXES[options.images]}.jpg"
            points, attributes = annotation(manual, stem)
            box = [number for row in _numbers(boxes, f"{stem}_boundingbox.txt") for number in row]
            images.append(
                SourceImage(
                    id=f"Image/{options.images}/{name}",
                    expression=EXPRESSIONS.index(CODES[code]),
                    read=files.get(name, (folder / name).read_bytes),
                    split="train" if stem.startswith("train") else "test",
                    box=(box[0], box[1], box[2], box[3]) if len(box) >= 4 else None,
                    points=points if original else None,
                    attributes=attributes,
                )
            )
    return Listing(images, EXPRESSIONS, f"official, labels {labels.name}, images {where}", notes)


def members(folder: Path) -> tuple[Readers, Path | None]:
    """Returns a reader for each file of the folder, or of the zip archive of its name, and where the files are."""
    archive = folder.with_name(folder.name + ".zip")
    if folder.is_dir():
        return {path.name: path.read_bytes for path in folder.rglob("*") if path.is_file()}, folder
    if not archive.is_file():
        return {}, None
    try:
        members = _open_zip(archive).infolist()
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive}: expected a zip archive, {error}; copy it again") from error
    if any(member.flag_bits & 1 for member in members):
        raise UserError(f"{archive}: expected an archive without a password; unpack it to {folder}")
    readers = {}
    for member in members:
        if not member.is_dir() and "__MACOSX" not in member.filename:
            name = PurePosixPath(member.filename).name
            readers[name] = functools.partial(_read_member, archive, member.filename)
    return readers, archive


@functools.cache
def _open_zip(archive: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(archive)


def _read_member(archive: Path, member: str) -> bytes:
    """Returns the bytes of a member of a zip archive; can be used in another process, where it is opened again."""
    try:
        return _open_zip(archive).read(member)
    except (EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise OSError(f"{archive}: {member}: {error}") from error


def _numbers(readers: Readers, name: str) -> list[list[float]]:
    """Returns the numbers in the lines of an annotation file; none if there is no such file."""
    if name not in readers:
        return []
    try:
        lines = readers[name]().decode().splitlines()
        return [[float(number) for number in line.split()] for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: expected numbers, {error}; copy the annotations again") from error


def annotation(manual: Readers, stem: str) -> tuple[np.ndarray | None, dict[str, str]]:
    """Returns the five points of an image, if they are annotated, and its attributes."""
    name = f"{stem}_manu_attri.txt"
    rows = _numbers(manual, name)
    points = None
    if len(rows) >= _POINTS and all(len(row) == 2 for row in rows[:_POINTS]):
        # Eyes, nose, mouth corners; sorted by x, because the files do not agree on which eye and corner comes first.
        points = np.array([*sorted(rows[:2]), rows[2], *sorted(rows[3:_POINTS])], np.float32)
    codes = [number for row in rows[_POINTS:] for number in row]
    attributes = {}
    for code, (attribute, meanings) in zip(codes, ATTRIBUTES.items(), strict=False):
        if code not in range(len(meanings)):
            raise UserError(
                f"{name}: expected a code of {attribute} from 0 to {len(meanings) - 1} below the {_POINTS} points, got "
                f"{code:g}; copy the annotations again"
            )
        attributes[attribute] = meanings[int(code)]
    return points, attributes


def _list_copy(root: Path) -> Listing | None:
    """Returns the faces of a copy with folders train and test, None if there are none."""
    folders = {}
    for child in sorted(root.iterdir()) if root.is_dir() else ():
        split = SPLIT_NAMES.get(child.name.casefold())
        if child.is_dir() and split:
            # RAF-DB has two parts; the copies that call the second one valid mean the test part.
            folders["test" if split == "validation" else split] = child
    images = []
    for split, folder in folders.items():
        for path, expression in _class_images(folder) or _flat_images(folder):
            images.append(SourceImage(path.relative_to(root).as_posix(), expression, path.read_bytes, split))
    shape = " and ".join(folder.name for folder in folders.values())
    return Listing(images, EXPRESSIONS, f"copy with folders {shape}") if images else None


def _class_images(folder: Path) -> list[tuple[Path, int]]:
    """Returns the images of a folder with one subfolder per expression, each with the expression's index."""
    files = class_files(folder)
    try:
        ids = expression_ids([CODES.get(name, name) for name in files])
    except UserError as error:
        classes = ",".join(f"{name}={CODES.get(name, '...')}" for name in files)
        raise UserError(
            f"{folder}: expected folders 1 to 7 or named by expression, found {', '.join(files)}; move the others "
            "away, or use the source folder, where NAME=none leaves a folder out: "
            f"folder --source={folder.parent} --classes={classes}"
        ) from error
    images = []
    for name, paths in files.items():
        index = ids[CODES.get(name, name)]
        assert index is not None  # only `classes` leaves a class out
        images += [(path, index) for path in paths]
    return images


def _flat_images(folder: Path) -> list[tuple[Path, int]]:
    """Returns the images of a folder that a CSV file of names and codes lists, each with the expression's index."""
    paths = {path.name: path for path in files_below(folder)}
    places = (
        folder.with_name(f"{folder.name}_labels.csv"),
        folder / "labels.csv",
        folder / f"{folder.name}_labels.csv",
    )
    labels = next((place for place in places if place.is_file()), None)
    if not paths or labels is None:
        return []
    with open_table(labels) as file:
        rows = [row for row in csv.reader(file) if len(row) >= 2]
    images = []
    for line, (name, code, *_) in enumerate(rows, start=1):
        if code in CODES:
            images.append((paths.get(name, folder / name), EXPRESSIONS.index(CODES[code])))
        elif line > 1:  # not the header
            raise UserError(f"{labels}, line {line}: expected a label from 1 to 7, got {code!r}")
    return images


def add_options(parser: argparse._ActionsContainer) -> None:
    """Adds the options of this source."""
    add_source_options(parser, "the folder basic of RAF-DB, or a copy's folder")
    parser.add_argument(
        "--images",
        choices=list(_SUFFIXES),
        default="aligned",
        help="the 100 x 100 aligned faces, or the original images, cropped by their boxes, or, with "
        "--align=five-point, warped by their annotated points (default: aligned)",
    )


SOURCE = Source(
    summary="RAF-DB (basic expressions): the official folder, its zip archives packed or not, or a class-folder copy",
    terms="RAF-DB is for non-commercial research under an agreement with its authors and may not be redistributed.",
    cropped=True,
    add_options=add_options,
    list_images=list_rafdb,
)
