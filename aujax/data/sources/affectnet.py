"""AffectNet: the full distribution with CSV lists (2017), and the one with one .npy file per annotation (2021).

CSV: training.csv and validation.csv, the latter often without a header line, beside or above the images; faces
are cropped from the images by their boxes, and the 68 landmarks are in pixels of the whole image.
npy: {train_set,val_set}/images/N.jpg with annotations/N_exp.npy and N_lnd.npy (x1, y1, x2, y2, ...).

AffectNet's validation images are the test split here, as in the papers that report on them.
"""

import argparse
import csv
import functools
from collections import Counter
from pathlib import Path

import numpy as np

from aujax.codebook import EXPRESSIONS
from aujax.data.landmarks import as_landmarks, load_npy
from aujax.data.sources import (
    Listing,
    Source,
    SourceImage,
    add_source_options,
    count_notes,
    folder_contents,
    open_table,
)
from aujax.data.workers import parallel_map, track
from aujax.errors import UserError

# The expressions by number; 7 and more (contempt, none, uncertain, no face) are left out.
CODES = ("Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger")
HIGHEST_CODE = 10
COUNTS = {"train": 283_901, "test": 3_500}  # of the seven expressions
# The names of a split in the two distributions.
SPLITS = {"train": ("training", "train_set"), "test": ("validation", "val_set")}
COLUMNS = ("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression")
_LIST_FOLDERS = (".", "Manually_Annotated_file_lists", "Manually_Annotated/Manually_Annotated_file_lists")
_IMAGE_FOLDERS = ("Manually_Annotated/Manually_Annotated_Images", "Manually_Annotated_Images", "images", ".")

_REMEDY = "copy AffectNet in full, or prepare a part of it as the source folder with a labels.csv"

Face = SourceImage | int  # the code of the expression for a face that is left out


def list_affectnet(options: argparse.Namespace) -> Listing:
    """Returns the faces of AffectNet below `options.source`, without those labelled 7 or more.

    Raises:
      UserError: no known layout, or files that are not as expected.
    """
    source = Path(options.source)
    if not source.is_dir():
        raise UserError(f"--source={source}: no such folder; give the folder of AffectNet")
    lists = [source / folder for folder in _LIST_FOLDERS]
    lists = [folder for folder in lists if any((folder / f"{name}.csv").is_file() for name, _ in SPLITS.values())]
    if any((source / folder / "annotations").is_dir() for _, folder in SPLITS.values()):
        layout = "train_set and val_set with .npy annotations"
        faces, notes = _list_npy(source, options.jobs)
    elif lists:
        root = next(source / folder for folder in _IMAGE_FOLDERS if (source / folder).is_dir())
        layout = f"CSV lists in {lists[0]}, images in {root}"
        faces, notes = _list_csv(root, lists[0]), []
    else:
        raise UserError(
            f"--source={source}: expected AffectNet: training.csv and validation.csv, or train_set and val_set with "
            f"images and annotations; found {folder_contents(source)}. Arrange the files like this, or use "
            "the source folder with --classes"
        )
    images = [face for face in faces if isinstance(face, SourceImage)]
    left_out = Counter(face for face in faces if not isinstance(face, SourceImage))
    if left_out:
        counts = ", ".join(f"{count} labelled {code}" for code, count in sorted(left_out.items()))
        notes.append(f"left out, being none of the seven expressions: {counts}")
    notes += count_notes("AffectNet", images, COUNTS)
    return Listing(images, EXPRESSIONS, layout, notes)


def _list_csv(root: Path, lists: Path) -> list[Face]:
    """Returns the faces, whose images are below `root`."""
    faces = []
    for split, (name, _) in SPLITS.items():
        path = lists / f"{name}.csv"
        if not path.is_file():
            raise UserError(f"{path}: expected this list beside the other one, it is missing; {_REMEDY}")
        columns = list(COLUMNS)
        with open_table(path) as file:
            for line, fields in track(enumerate(csv.reader(file), start=1), None, f"Reading {path.name}"):
                if line == 1 and COLUMNS[-1] in fields:
                    columns = fields
                    missing = [name for name in COLUMNS if name not in columns]
                    if missing:
                        raise UserError(
                            f"{path}: expected columns {', '.join(missing)} too; copy AffectNet's list again"
                        )
                    continue
                if not fields:
                    continue
                row, where = dict(zip(columns, fields, strict=False)), f"{path}, line {line}"
                if not row.keys() >= set(COLUMNS):
                    raise UserError(f"{where}: expected {', '.join(COLUMNS)}, got {len(row)} fields")
                try:
                    code = _code(row["expression"])
                    if code >= len(CODES):
                        faces.append(code)
                        continue
                    left, top, width, height = (float(row[name]) for name in COLUMNS[1:5])
                    numbers = np.array([float(number) for number in row["facial_landmarks"].split(";") if number])
                except ValueError as error:
                    raise UserError(f"{where}: expected {', '.join(COLUMNS)}; {error}") from error
                image = row["subDirectory_filePath"]
                faces.append(
                    SourceImage(
                        id=image,
                        expression=EXPRESSIONS.index(CODES[code]),
                        read=(root / image).read_bytes,
                        split=split,
                        landmarks=as_landmarks(numbers, where) if numbers.size else None,
                        box=(left, top, left + width, top + height),
                    )
                )
    return faces


def _list_npy(source: Path, jobs: int) -> tuple[list[Face], list[str]]:
    """Returns the faces and notes."""
    faces, notes = [], []
    for split, (_, folder) in SPLITS.items():
        annotations = sorted((source / folder / "annotations").glob("*_exp.npy"))
        if not annotations:
            raise UserError(
                f"{source / folder}/annotations: expected *_exp.npy of the {split} split, found none; {_REMEDY}"
            )
        labelled = {path.name.removesuffix("_exp.npy") for path in annotations}
        unlabelled = sum(path.stem not in labelled for path in (source / folder / "images").glob("*.jpg"))
        if unlabelled:
            notes.append(f"{unlabelled} images of {folder} have no annotation and are left out")
        read = functools.partial(_npy_face, source, split)
        faces += parallel_map(read, annotations, jobs=jobs, description=f"Reading {folder}")
    return faces, notes


def _npy_face(source: Path, split: str, annotation: Path) -> Face:
    name = annotation.name.removesuffix("_exp.npy")
    try:
        code = _code(str(load_npy(annotation).item()))
    except ValueError as error:
        raise UserError(f"{annotation}: expected one number from 0 to {HIGHEST_CODE}, {error}") from error
    if code >= len(CODES):
        return code
    image = annotation.parent.parent / "images" / f"{name}.jpg"
    landmarks = annotation.with_name(f"{name}_lnd.npy")
    return SourceImage(
        id=image.relative_to(source).as_posix(),
        expression=EXPRESSIONS.index(CODES[code]),
        read=image.read_bytes,
        split=split,
        landmarks=as_landmarks(load_npy(landmarks), str(landmarks)) if landmarks.exists() else None,
    )


def _code(text: str) -> int:
    code = float(text)
    if code not in range(HIGHEST_CODE + 1):
        raise ValueError(f"the expression must be 0 to {HIGHEST_CODE}, got {text!r}")
    return int(code)


SOURCE = Source(
    summary="AffectNet: CSV lists with full images, or train_set and val_set with .npy annotations",
    terms="AffectNet is for non-commercial research under an agreement with its authors and may not be redistributed.",
    cropped=True,
    add_options=functools.partial(add_source_options, source="AffectNet's folder"),
    list_images=list_affectnet,
)
