"""Files of 68 landmarks (iBUG order), in (x, y) pixels of the image they were found on.

A landmark file is one of
  NAME.txt   lines `id,x1,...,x68,y1,...,y68`, as the paper's released folds have them; "inf" if no face was found
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
Named = dict[str, Landmarks | None]  # None: the file says that no face was found


def read_landmarks(path: Path, ids: Sequence[str]) -> Named:
    """Returns the landmarks of those of the images `ids` that the file names, None for an image without a face.

    A name in the file means the image with this id, else the only image with this file name, else the only image
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
    # The strictest comparison that matches a name wins; a key that several images share matches none of them.
    rows: dict[str, int] = {}
    for key in (str, _file_name, _bare_name):
        keys = [key(image) for image in ids]
        counts = Counter(keys)
        row_of = {name: row for row, name in enumerate(keys) if counts[name] == 1}
        for name in named:
            row = row_of.get(key(name))
            if name not in rows and row is not None and row not in rows.values():
                rows[name] = row
    if not rows:
        raise UserError(
            f"{path}: none of its {len(named)} names (first: {next(iter(named), 'none')!r}) is an image of the "
            f"source (first: {ids[0]!r}); give the landmark file made for these images"
        )
    return {ids[row]: named[name] for name, row in rows.items()}


def as_landmarks(numbers: np.ndarray, where: str) -> Landmarks | None:
    """Returns the numbers, (68, 2) or 136 as x1, y1, x2, y2, ..., as (68, 2); None if one of them is not finite.

    Raises:
      UserError: another count; the message begins with `where`.
    """
    if numbers.shape not in ((COUNT, 2), (2 * COUNT,), (1, 2 * COUNT)):
        raise UserError(
            f"{where}: landmarks must have shape (68, 2) or 136 numbers, got shape {numbers.shape}; "
            "give 68-point landmarks (iBUG order), or detect them with --landmarks=dlib"
        )
    landmarks = numbers.reshape(COUNT, 2).astype(np.float32)
    return landmarks if np.isfinite(landmarks).all() else None


def load_npy(path: Path) -> np.ndarray:
    """Returns the array in a .npy file; numbers stored as text are converted.

    Raises:
      UserError: the file is not a .npy array.
    """
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file)  # np.load would open an .npz archive too
        return array.astype(np.float64) if array.dtype.kind in "US" else array
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path}: expected a .npy array of numbers, found something else ({error}); write it with numpy.save"
        ) from error


def _read_text(path: Path, ids: Sequence[str]) -> Named:
    named: Named = {}
    for line, text in enumerate(_text(path).splitlines(), start=1):
        if not text.strip():
            continue
        name, *fields = text.split(",")
        numbers = _numbers(fields, f"{path}, line {line}")
        if numbers.size == 2 * COUNT:
            numbers = numbers.reshape(2, COUNT).T
        named[name.strip()] = as_landmarks(numbers, f"{path}, line {line}")
    return named


def _read_csv(path: Path, ids: Sequence[str]) -> Named:
    rows = csv.DictReader(_text(path).splitlines(), restval="")
    columns: dict[str, dict[int, str]] = {"x": {}, "y": {}}
    image = None
    for column in rows.fieldnames or ():
        name = column.strip().casefold()
        if match := re.fullmatch(r"([xy])[_ ]?(\d+)", name):
            columns[match[1]][int(match[2])] = column
        elif name == "image" and image is None:
            image = column
    if image is None or len(columns["x"]) != COUNT or len(columns["y"]) != COUNT:
        raise UserError(
            f"{path}: expected columns image, x0 to x67 and y0 to y67, found {len(columns['x'])} x columns, "
            f"{len(columns['y'])} y columns and {'a' if image else 'no'} column image; rename the columns"
        )
    order = [columns[axis][number] for number in sorted(columns["x"]) for axis in "xy"]
    named: Named = {}
    for line, row in enumerate(rows, start=2):
        where = f"{path}, line {line}"
        named[row[image].strip()] = as_landmarks(_numbers([row[column] for column in order], where), where)
    return named


def _read_npy(path: Path, ids: Sequence[str]) -> Named:
    array = load_npy(path)
    if array.ndim not in (2, 3) or len(array) != len(ids):
        raise UserError(
            f"{path}: expected shape ({len(ids)}, 68, 2), one row per image of the source, got {array.shape}; "
            "give the file made for these images, or one that names them (.txt, .csv)"
        )
    return {name: as_landmarks(array[row], f"{path}, row {row}") for row, name in enumerate(ids)}


def _read_folder(path: Path, ids: Sequence[str]) -> Named:
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


def _file_name(name: str) -> str:
    return PurePosixPath(name).name


def _bare_name(name: str) -> str:
    return PurePosixPath(name).stem.removesuffix("_aligned")
