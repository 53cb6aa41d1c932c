"""AffectNet: the full distribution with CSV lists (2017), and the one with one .npy file per annotation (2021).

CSV: training.csv and validation.csv, the latter often without a header line, beside or above the images; faces
are cut from the images by their boxes, and the 68 landmarks are in pixels of the whole image.
npy: {train_set,val_set}/images/N.jpg with annotations/N_exp.npy and N_lnd.npy (x1, y1, x2, y2, ...).

AffectNet's validation images are the test split here, as in the papers that report on them.
"""

import argparse
import csv
from collections import Counter
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np

from aujax.codebook import EXPRESSIONS
from aujax.data.landmarks import as_landmarks, load_npy
from aujax.data.sources.listing import FileBytes, Listing, Source, SourceImage, add_split_options, open_table
from aujax.data.workers import track
from aujax.errors import UserError

# What the numbers mean; 7 and more (contempt, none, uncertain, no face) are left out.
CODES = ("Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger")
HIGHEST_CODE = 10
SPLITS = {"train": ("training", "train_set"), "test": ("validation", "val_set")}
COLUMNS = ("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression")
_LIST_FOLDERS = (".", "Manually_Annotated_file_lists", "Manually_Annotated/Manually_Annotated_file_lists")
_IMAGE_FOLDERS = ("Manually_Annotated/Manually_Annotated_Images", "Manually_Annotated_Images", "images", ".")


def list_affectnet(options: argparse.Namespace) -> Listing:
    """The faces of AffectNet below `options.source`, without those labelled 7 or more.

    Raises:
      UserError: no known layout, or files that are not as expected.
    """
    source = Path(options.source)
    if not source.is_dir():
        raise UserError(f"--source={source}: no such folder; give AffectNet's own")
    if any((source / folder / "annotations").is_dir() for _, folder in SPLITS.values()):
        return _list_npy(source, options.jobs)
    for folder in _LIST_FOLDERS:
        if any((source / folder / f"{name}.csv").is_file() for name, _ in SPLITS.values()):
            return _list_csv(source, source / folder)
    inside = ", ".join(sorted(path.name for path in source.iterdir())[:8]) or "nothing"
    raise UserError(
        f"--source={source}: expected AffectNet: training.csv and validation.csv, or train_set and val_set with "
        f"images and annotations; found {inside}. Unpack it so, or use the source folder with --classes"
    )


def _list_csv(source: Path, lists: Path) -> Listing:
    images, left_out, notes = [], Counter[int](), []
    root = next(source / folder for folder in _IMAGE_FOLDERS if (source / folder).is_dir())
    for split, (name, _) in SPLITS.items():
        path = lists / f"{name}.csv"
        if not path.is_file():
            notes.append(f"{path} is not there")
            continue
        for line, row in track(_rows(path), None, f"Reading {path.name}"):
            try:
                code = _code(row["expression"])
                face = _csv_image(root, row, code, split, f"{path}, line {line}") if code < len(CODES) else None
            except UserError:
                raise
            except ValueError as error:
                raise UserError(f"{path}, line {line}: expected {', '.join(COLUMNS)}; {error}") from error
            if face is None:
                left_out[code] += 1
            else:
                images.append(face)
    return Listing(images, EXPRESSIONS, f"CSV lists in {lists}, images in {root}", notes + _words(left_out))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and fields of each line, with or without a header line in the file."""
    with open_table(path) as file:
        columns: tuple[str, ...] = COLUMNS
        for line, fields in enumerate(csv.reader(file), start=1):
            if line == 1 and COLUMNS[-1] in fields:
                columns = tuple(fields)
                if missing := [name for name in COLUMNS if name not in columns]:
                    raise UserError(f"{path}: expected columns {', '.join(missing)} too; copy AffectNet's list again")
            elif fields:
                row = dict(zip(columns, fields, strict=False))
                if not row.keys() >= set(COLUMNS):
                    raise UserError(f"{path}, line {line}: expected {', '.join(COLUMNS)}, got {len(fields)} fields")
                yield line, row


def _csv_image(root: Path, row: dict[str, str], code: int, split: str, where: str) -> SourceImage:
    left, top, width, height = (float(row[name]) for name in COLUMNS[1:5])
    numbers = np.array([float(number) for number in row["facial_landmarks"].split(";") if number])
    path = row["subDirectory_filePath"]
    return SourceImage(
        id=path,
        expression=EXPRESSIONS.index(CODES[code]),
        read=FileBytes(root / path),
        split=split,
        landmarks=as_landmarks(numbers, where) if numbers.size else None,
        box=(left, top, left + width, top + height),
    )


def _list_npy(source: Path, jobs: int) -> Listing:
    images, left_out, notes = [], Counter[int](), []
    for split, (_, folder) in SPLITS.items():
        annotations = sorted((source / folder / "annotations").glob("*_exp.npy"))
        if not annotations:
            notes.append(f"{source / folder}/annotations holds no *_exp.npy")
        unlabelled = _unlabelled(source / folder, {path.name.removesuffix("_exp.npy") for path in annotations})
        if unlabelled:
            notes.append(f"{unlabelled} images of {folder} have no annotation and are left out")
        with ThreadPool(jobs) as pool:
            read = pool.imap(lambda path, split=split: _npy_image(source, path, split), annotations, chunksize=64)
            for code, image in track(read, len(annotations), f"Reading {folder}"):
                if image is None:
                    left_out[code] += 1
                else:
                    images.append(image)
    return Listing(images, EXPRESSIONS, "train_set and val_set with .npy annotations", notes + _words(left_out))


def _npy_image(source: Path, annotation: Path, split: str) -> tuple[int, SourceImage | None]:
    name = annotation.name.removesuffix("_exp.npy")
    try:
        code = _code(str(load_npy(annotation).item()))
    except ValueError as error:
        raise UserError(f"{annotation}: expected one number from 0 to {HIGHEST_CODE}, {error}") from error
    if code >= len(CODES):
        return code, None
    image = annotation.parent.parent / "images" / f"{name}.jpg"
    landmarks = annotation.with_name(f"{name}_lnd.npy")
    return code, SourceImage(
        id=image.relative_to(source).as_posix(),
        expression=EXPRESSIONS.index(CODES[code]),
        read=FileBytes(image),
        split=split,
        landmarks=as_landmarks(load_npy(landmarks), str(landmarks)) if landmarks.exists() else None,
    )


def _unlabelled(folder: Path, names: set[str]) -> int:
    images = folder / "images"
    return sum(path.stem not in names for path in images.glob("*.jpg")) if images.is_dir() else 0


def _code(text: str) -> int:
    code = float(text)
    if code not in range(HIGHEST_CODE + 1):
        raise ValueError(f"the expression must be 0 to {HIGHEST_CODE}, got {text!r}")
    return int(code)


def _words(left_out: Counter[int]) -> list[str]:
    if not left_out:
        return []
    each = ", ".join(f"{count} labelled {code}" for code, count in sorted(left_out.items()))
    return [f"left out, being none of the seven expressions: {each}"]


def add_options(parser: argparse._ActionsContainer) -> None:
    """The options of this source."""
    parser.add_argument("--source", required=True, metavar="DIR", help="AffectNet's folder")
    add_split_options(parser)


SOURCE = Source(
    summary="AffectNet: CSV lists with full images, or train_set and val_set with .npy annotations",
    terms="AffectNet is for non-commercial research under an agreement with its authors; it may not be passed on.",
    add_options=add_options,
    list_images=list_affectnet,
)
