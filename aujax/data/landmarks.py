"""The 68 landmarks of a face (iBUG order): read from files, or detected; and the cache of detections.

A landmark file is one of
  NAME.txt   lines `id,x1,...,x68,y1,...,y68`, as the paper's released folds have them; "inf" if no face was found
  NAME.csv   a header line; a column `image`, and either x and y columns numbered 0-67 or 1-68 ("x_0", "y12", ...)
  NAME.npy   (N, 68, 2) or (N, 136), one row per image in the order of the source
  a folder   one `<image name>.npy` or `<image name>_lnd.npy` per image, (68, 2) or 136 numbers x1, y1, x2, y2, ...

A detector is a row of the table `DETECTORS`. Another one (such as MediaPipe) needs a class with the methods of
`Detector`, and a row.

Boxes are (left, top, right, bottom) and landmarks (x, y), both in pixels of the image they belong to.
"""

import csv
import functools
import hashlib
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float

from aujax.data.images import Pixels
from aujax.errors import UserError

COUNT = 68
Landmarks = Float[np.ndarray, "68 2"]
Named = dict[str, Landmarks | None]  # None: no face was detected, according to the file
Box = tuple[float, float, float, float]
# Where dlib's landmark predictor is in the package `face_recognition_models`.
_MODEL = Path("models") / "shape_predictor_68_face_landmarks.dat"
# dlib's face detector finds faces of at least 80 pixels: the image is resized to at most _LONGEST_SIDE and enlarged
# _UPSAMPLE times by a factor of two.
_UPSAMPLE = 1
_LONGEST_SIDE = 640
# A face that fills the image is found once its edge is repeated on all sides, by this fraction of the longer side.
_BORDER = 0.25


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
    found = {}
    file_name = lambda name: PurePosixPath(name).name  # noqa: E731
    bare_name = lambda name: PurePosixPath(name).stem.removesuffix("_aligned")  # noqa: E731
    for key in (str, file_name, bare_name):
        counts = Counter(map(key, ids))
        image_of = {key(image): image for image in ids if counts[key(image)] == 1}
        for name in list(named):
            image = image_of.get(key(name))
            if image is not None and image not in found:
                found[image] = named.pop(name)
    if not found:
        raise UserError(
            f"{path}: none of its {len(named)} names (first: {next(iter(named), 'none')!r}) is an image of the "
            f"source (first: {ids[0]!r}); give the landmark file made for these images"
        )
    return found


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
    named = {}
    for line, text in enumerate(_text(path).splitlines(), start=1):
        if not text.strip():
            continue
        name, *fields = text.split(",")
        _add(named, name.strip(), _from_fields(fields, f"{path}, line {line}"), f"{path}, line {line}")
    return named


def _read_csv(path: Path, ids: Sequence[str]) -> Named:
    rows = csv.DictReader(_text(path).splitlines(), restval="")
    columns = {"x": {}, "y": {}}
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
    order = [columns[axis][number] for axis in "xy" for number in sorted(columns[axis])]
    named = {}
    for line, row in enumerate(rows, start=2):
        where = f"{path}, line {line}"
        _add(named, row[image].strip(), _from_fields([row[column] for column in order], where), where)
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
    named = {}
    for file in sorted(path.rglob("*.npy")):
        name = file.relative_to(path).as_posix().removesuffix(".npy").removesuffix("_lnd")
        _add(named, name, load_npy(file), str(file))
    if not named:
        raise UserError(f"--landmarks={path}: expected one .npy file per image in this folder, found none")
    return named


def _add(named: Named, name: str, numbers: np.ndarray, where: str) -> None:
    """Adds the landmarks of an image that has none yet; see `as_landmarks`."""
    landmarks = as_landmarks(numbers, where)
    if name in named:
        raise UserError(f"{where}: expected each image once, {name!r} was there before; keep one of them")
    named[name] = landmarks


# By the ending of the file's name.
READERS = {".txt": _read_text, ".csv": _read_csv, ".npy": _read_npy}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected text in UTF-8, found something else ({error})") from error


def _from_fields(fields: Sequence[str], where: str) -> np.ndarray:
    """Returns the numbers in the text x1, ..., x68, y1, ..., y68, (68, 2) if there are as many."""
    try:
        numbers = np.array(fields, float)
    except ValueError as error:
        raise UserError(f"{where}: expected numbers separated by commas; {error}") from error
    return numbers.reshape(2, COUNT).T if len(fields) == 2 * COUNT else numbers


class DetectedFace(NamedTuple):
    """The bounding box of a face, and its 68 landmarks if they are known."""

    box: Box
    landmarks: Landmarks | None


@runtime_checkable
class Detector(Protocol):
    """Finds the faces of an image and their 68 landmarks; must be picklable, to be used in several processes."""

    def faces(self, pixels: Pixels) -> list[DetectedFace]:
        """Returns the faces of the image, the most prominent first: large and near the centre."""
        ...

    def settings(self) -> str:
        """Returns all that a detection depends on besides the image: version, parameters, hash of the weights."""
        ...


def pooled(detector: Detector, pool: Pool) -> Callable[[Pixels], list[DetectedFace]]:
    """Returns the detector's `faces` for several threads, in a pool of processes: dlib holds the interpreter lock."""
    return lambda pixels: pool.apply(detector.faces, (pixels,))


@dataclass(frozen=True)
class DetectorChoice:
    """A row of `DETECTORS`.

    Attributes:
      terms: the conditions of use of the detector's weights, and so of its landmarks.
      load: returns the detector for a path of its weights ("": the installed ones), or None for no detector.
    """

    terms: str
    load: Callable[[str], Detector | None]


@dataclass(frozen=True)
class DlibDetector:
    """dlib's HOG face detector and 68-point shape predictor (Kazemi and Sullivan 2014)."""

    model: Path

    def faces(self, pixels: Pixels) -> list[DetectedFace]:
        """Returns the faces of the image, the most prominent first.

        Raises:
          UserError: `model` is not a 68-point predictor.
        """
        dlib, detector, predictor = _load_dlib(self.model)
        sides = pixels.shape[:2]
        scale = min(1.0, _LONGEST_SIDE / max(sides))
        if round(scale * min(sides)) < 1:
            return []  # a strip too thin to be resized
        small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        boxes = []
        for border in (0, round(_BORDER * max(small.shape))):
            if not boxes:
                wider = cv2.copyMakeBorder(small, border, border, border, border, cv2.BORDER_REPLICATE)
                for box in detector(wider, _UPSAMPLE):
                    boxes.append(np.array([box.left(), box.top(), box.right(), box.bottom()]) - border)

        def prominence(box: np.ndarray) -> float:
            left, top, right, bottom = box
            offset = np.hypot(left + right - small.shape[1], top + bottom - small.shape[0]) / np.hypot(*small.shape[:2])
            return (right - left) * (bottom - top) * (1 - min(offset, 1.0))

        faces = []
        for box in sorted(boxes, key=prominence, reverse=True):
            left, top, right, bottom = (box / scale).tolist()
            rectangle = dlib.rectangle(round(left), round(top), round(right), round(bottom))
            shape = predictor(np.ascontiguousarray(pixels), rectangle)
            landmarks = np.array([(part.x, part.y) for part in shape.parts()], np.float32)
            if landmarks.shape != (68, 2):
                raise UserError(
                    f"landmarks must have shape (68, 2), got {landmarks.shape}: {self.model.name} is another of "
                    "dlib's models; pass the 68-point one with --landmarks-model=PATH"
                )
            faces.append(DetectedFace((left, top, right, bottom), landmarks))
        return faces

    def settings(self) -> str:
        """Returns dlib's version, the parameters and the hash of the predictor's file."""
        dlib, *_ = _load_dlib(self.model)
        with self.model.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return (
            f"dlib {dlib.__version__} upsample {_UPSAMPLE} longest side {_LONGEST_SIDE} border {_BORDER} model {digest}"
        )


@functools.cache
def _load_dlib(model: Path) -> tuple[Any, Any, Any]:
    """Returns the package dlib, its face detector and the landmark predictor, once per process."""
    dlib: Any = importlib.import_module("dlib")
    try:
        return dlib, dlib.get_frontal_face_detector(), dlib.shape_predictor(str(model))
    except RuntimeError as error:
        raise UserError(
            f"{model}: expected a landmark predictor of dlib, got something else ({error}); "
            f'give {_MODEL.name}, or leave out --landmarks-model and pip install "aujax[landmarks]", which installs it'
        ) from error


def load_dlib(path: str = "") -> DlibDetector:
    """Returns dlib's detector with the landmark predictor at `path`, or with that of the extra `landmarks`.

    The predictor is not part of this package, because its licence excludes commercial use. It is found in the package
    `face_recognition_models`, which is located but not imported: importing it fails with current setuptools.

    Raises:
      UserError: dlib or the predictor's file is not there.
    """
    if importlib.util.find_spec("dlib") is None:
        raise UserError(
            "--landmarks=dlib: expected the package dlib, which is not installed: "
            'pip install "aujax[landmarks]", give --landmarks=FILE, or use --landmarks=none'
        )
    if path:
        if not Path(path).is_file():
            raise UserError(f"--landmarks-model={path}: no such file; give the 68-point predictor of dlib (.dat)")
        return DlibDetector(Path(path))
    spec = importlib.util.find_spec("face_recognition_models")
    for folder in (spec and spec.submodule_search_locations) or ():
        model = Path(folder) / _MODEL
        if model.is_file():
            return DlibDetector(model)
    raise UserError(
        f"--landmarks=dlib: expected the file {_MODEL.name}, which is not installed: "
        'pip install "aujax[landmarks]", or give its path with --landmarks-model=PATH'
    )


# The values of --landmarks besides the path of a file of landmarks.
DETECTORS = {
    "dlib": DetectorChoice(
        terms="dlib's 68-point predictor was trained on iBUG 300-W, whose licence excludes commercial use; whether "
        "this holds for networks that are trained on its landmarks is an open question.",
        load=load_dlib,
    ),
    "none": DetectorChoice(terms="No landmarks were used.", load=lambda path: None),
}


class LandmarkCache(Named):
    """Detected landmarks by key, None for no face, in a file of JSON lines to which each is appended at once."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                entry = json.loads(line)
                numbers = entry["landmarks"]
                self[entry["key"]] = None if numbers is None else np.array(numbers, np.float32).reshape(68, 2)
            except (ValueError, KeyError, TypeError):
                continue  # an empty line, or one that an interrupted run left incomplete

    def add(self, key: str, landmarks: Landmarks | None) -> None:
        """Stores the outcome of a detection in the cache and in its file."""
        self[key] = landmarks
        numbers = None if landmarks is None else [round(float(number), 3) for number in landmarks.ravel()]
        with self.path.open("a") as file:
            # An entry begins with a line end, which also ends a line that an interrupted run left incomplete.
            file.write("\n" + json.dumps({"key": key, "landmarks": numbers}))
