"""Reading 68 landmarks from files; (x, y) pixels of the image they were found on.

A landmark file is one of
  NAME.txt   lines `id,x1,...,x68,y1,...,y68`, as the paper's released folds have them; "inf" where no face was found
  NAME.csv   a header line; a column `image`, and either x and y columns numbered 0-67 or 1-68 ("x_0", "y12", ...)
  NAME.npy   (N, 68, 2) or (N, 136), one row per image in the order of the source
  a folder   one `<image name>.npy` or `<image name>_lnd.npy` per image, (68, 2) or 136 numbers x1, y1, x2, y2, ...
"""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float

from aujax.errors import UserError

COUNT = 68
Landmarks = Float[np.ndarray, "68 2"]
Found = dict[str, Landmarks | None]


def read_landmarks(path: Path, ids: Sequence[str]) -> Found:
    """For each of the images `ids` that the file knows, its landmarks, or None where it says that none were found.

    A name in the file means the image with this id, else the only image with this file name, else the only one
    with this file name without its suffix and "_aligned".

    Raises:
      UserError: no such file, an unknown format, not 68 points, or no image of the source in it.
    """
    if not path.exists():
        raise UserError(f"--landmarks={path}: no such file or folder; correct the path, or use --landmarks=dlib")
    reader = _read_folder if path.is_dir() else READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"--landmarks={path}: expected a file ending in {', '.join(READERS)}, or a folder of .npy files"
        )
    named = reader(path, ids)
    found = {ids[row]: named[name] for name, row in _match(list(named), ids).items()}
    if not found:
        raise UserError(
            f"{path}: none of its {len(named)} names (first: {next(iter(named), 'none')!r}) is an image of the "
            f"source (first: {ids[0]!r}); give the landmark file made for these images"
        )
    return found


def as_landmarks(numbers: np.ndarray, where: str) -> Landmarks | None:
    """The numbers, (68, 2) or 136 as x1, y1, x2, y2, ..., as (68, 2); None where one of them is not finite.

    Raises:
      UserError: another count; `where` is named.
    """
    if numbers.shape not in ((COUNT, 2), (2 * COUNT,), (1, 2 * COUNT)):
        raise UserError(
            f"{where}: landmarks must have shape (68, 2) or 136 numbers, got shape {numbers.shape}; "
            "give 68-point landmarks (iBUG order), or find them with --landmarks=dlib"
        )
    landmarks = numbers.reshape(COUNT, 2).astype(np.float32)
    return landmarks if np.isfinite(landmarks).all() else None


def load_npy(path: Path) -> np.ndarray:
    """The array in a .npy file; numbers stored as text are made numbers.

    Raises:
      UserError: not such a file.
    """
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file)  # np.load would open an .npz archive too
        return array.astype(np.float64) if array.dtype.kind in "US" else array
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path}: expected a .npy array of numbers, found something else ({error}); write it with numpy.save"
        ) from error


def _read_text(path: Path, ids: Sequence[str]) -> Found:
    named: Found = {}
    for line, text in enumerate(_text(path).splitlines(), start=1):
        if not text.strip():
            continue
        name, *fields = text.split(",")
        numbers = _numbers(fields, f"{path}, line {line}")
        if numbers.size == 2 * COUNT:
            numbers = numbers.reshape(2, COUNT).T
        named[name.strip()] = as_landmarks(numbers, f"{path}, line {line}")
    return named


def _read_csv(path: Path, ids: Sequence[str]) -> Found:
    rows = csv.DictReader(_text(path).splitlines(), restval="")
    columns: dict[str, dict[int, str]] = {"x": {}, "y": {}}
    for column in rows.fieldnames or ():
        if match := re.fullmatch(r"([xy])[_ ]?(\d+)", column.strip().casefold()):
            columns[match[1]][int(match[2])] = column
    image = next((column for column in rows.fieldnames or () if column.strip().casefold() == "image"), None)
    if image is None or any(len(found) != COUNT for found in columns.values()):
        raise UserError(
            f"{path}: expected columns image, x0 to x67 and y0 to y67, found {len(columns['x'])} x columns, "
            f"{len(columns['y'])} y columns and {'a' if image else 'no'} column image; rename the columns"
        )
    order = [columns[axis][number] for number in sorted(columns["x"]) for axis in "xy"]
    return {
        row[image].strip(): as_landmarks(_numbers([row[c] for c in order], where), where)
        for line, row in enumerate(rows, start=2)
        if (where := f"{path}, line {line}")
    }


def _read_npy(path: Path, ids: Sequence[str]) -> Found:
    array = load_npy(path)
    if array.ndim not in (2, 3) or len(array) != len(ids):
        raise UserError(
            f"{path}: expected shape ({len(ids)}, 68, 2), one row per image of the source, got {array.shape}; "
            "give the file made for these images, or one that names them (.txt, .csv)"
        )
    return {name: as_landmarks(row, f"{path}, row {at}") for at, (name, row) in enumerate(zip(ids, array, strict=True))}


def _read_folder(path: Path, ids: Sequence[str]) -> Found:
    files = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*.npy"))}
    if not files:
        raise UserError(f"--landmarks={path}: expected one .npy file per image in this folder, found none")
    return {
        name.removesuffix(".npy").removesuffix("_lnd"): as_landmarks(load_npy(file), str(file))
        for name, file in files.items()
    }


# By the ending of the file's name.
READERS = {".txt": _read_text, ".csv": _read_csv, ".npy": _read_npy}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected text in UTF-8, found something else ({error})") from error


def _numbers(fields: Sequence[str], where: str) -> np.ndarray:
    try:
        return np.array([float(field) for field in fields])
    except ValueError as error:
        raise UserError(f"{where}: expected numbers separated by commas; {error}") from error


def _match(names: Sequence[str], ids: Sequence[str]) -> dict[str, int]:
    """For each name that means an image, its row in `ids`; the strictest way of comparing that fits wins."""
    matched: dict[str, int] = {}
    taken: set[int] = set()
    for key in (str, _file_name, _bare_name):
        rows = {key(image): row for row, image in enumerate(ids)}
        several = {image for image, count in Counter(map(key, ids)).items() if count > 1}
        for name in names:
            row = rows.get(key(name), -1)
            if name not in matched and row >= 0 and row not in taken and key(name) not in several:
                matched[name] = row
                taken.add(row)
    return matched


def _file_name(name: str) -> str:
    return PurePosixPath(name).name


def _bare_name(name: str) -> str:
    return PurePosixPath(name).stem.removesuffix("_aligned")
