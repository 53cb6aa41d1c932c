"""Finding the 68 landmarks of a face with dlib, and keeping what was found.

The landmark predictor was trained on iBUG 300-W, whose licence excludes commercial use. It is never part of
this package: it comes from the package `face_recognition_models`, which is located but not imported, or from
a path.
"""

import functools
import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
from jaxtyping import Float

from aujax.data.images import Pixels
from aujax.errors import UserError

TERMS = "dlib's 68-point predictor was trained on iBUG 300-W: its landmarks are not for commercial use."
_MODEL = Path("models") / "shape_predictor_68_face_landmarks.dat"
Landmarks = Float[np.ndarray, "68 2"]
Box = tuple[float, float, float, float]  # left, top, right, bottom
# The face detector sees faces of 80 pixels; it is shown the image enlarged twice, and none larger than this.
_UPSAMPLE = 1
_LONGEST_SIDE = 640
# A face that fills the image is seen once there is room around it: the edge repeated by this share of the side.
_BORDER = 0.25


def find_model(path: str = "") -> Path:
    """The file of the landmark predictor: `path`, or the one installed with the extra `landmarks`.

    Raises:
      UserError: dlib or the file is not there.
    """
    if importlib.util.find_spec("dlib") is None:
        raise UserError(
            "--landmarks=dlib: expected the package dlib, which is not installed: "
            'pip install "aujax[landmarks]", give --landmarks=FILE, or use --landmarks=none'
        )
    if path:
        if not Path(path).is_file():
            raise UserError(f"--landmarks-model={path}: no such file; give the 68-point predictor of dlib (.dat)")
        return Path(path)
    spec = importlib.util.find_spec("face_recognition_models")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [Path(folder) / _MODEL for folder in folders if (Path(folder) / _MODEL).is_file()]
    if not found:
        raise UserError(
            f"--landmarks=dlib: expected the file {_MODEL.name}, which is not installed: "
            'pip install "aujax[landmarks]", or give its path with --landmarks-model=PATH'
        )
    return found[0]


def detect(pixels: Pixels, model: Path) -> Landmarks | None:
    """The landmarks of the face in the image, in its pixels, or None where no face is seen.

    Of several faces the one that is large and near the centre is taken.

    Raises:
      UserError: `model` is no 68-point predictor.
    """
    found = _seen(pixels, model)[:1]
    return _landmarks(pixels, found[0], model) if found else None


def detect_all(pixels: Pixels, model: Path) -> list[tuple[Box, Landmarks]]:
    """The box and the landmarks of each face in the image, in its pixels, those that are large and central first.

    Raises:
      UserError: `model` is no 68-point predictor.
    """
    return [(box, _landmarks(pixels, box, model)) for box in _seen(pixels, model)]


def settings(model: Path) -> str:
    """What a detection depends on besides the image."""
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return (
        f"dlib {_dlib().__version__} upsample {_UPSAMPLE} longest side {_LONGEST_SIDE} border {_BORDER} model {digest}"
    )


class LandmarkCache:
    """Detections by key, kept in a file to which each new one is appended at once."""

    def __init__(self, path: Path):
        self.path = path
        self._found: dict[str, Any] = {}
        self._file: TextIO | None = None
        if path.exists():
            for line in path.read_text().splitlines():
                self._read(line)

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> Landmarks | None:
        numbers = self._found[key]
        return None if numbers is None else np.array(numbers, np.float32).reshape(68, 2)

    def add(self, key: str, landmarks: Landmarks | None) -> None:
        """Keep the landmarks of `key`, or that no face was seen."""
        self._found[key] = None if landmarks is None else [round(float(n), 3) for n in landmarks.ravel()]
        if self._file is None:
            self._file = self._open()
        self._file.write(json.dumps({"key": key, "landmarks": self._found[key]}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
            self._found[entry["key"]] = entry["landmarks"]
        except (json.JSONDecodeError, KeyError, TypeError):
            return  # the line on which an interrupted run stopped

    def _open(self) -> TextIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+b")
        if file.tell():
            file.seek(-1, os.SEEK_END)
            ended = file.read(1) == b"\n"
            if not ended:
                file.write(b"\n")
        file.close()
        return self.path.open("a")


@functools.cache
def _load(model: Path) -> tuple[Any, Any]:
    dlib = _dlib()
    try:
        return dlib.get_frontal_face_detector(), dlib.shape_predictor(str(model))
    except RuntimeError as error:
        raise UserError(
            f"{model}: expected a landmark predictor of dlib, found something else ({error}); "
            f'give {_MODEL.name}, or leave out --landmarks-model and pip install "aujax[landmarks]", which brings it'
        ) from error


def _dlib() -> Any:
    import dlib

    return dlib


def _seen(pixels: Pixels, model: Path) -> list[Box]:
    """The faces in the image, the most prominent first."""
    detector, _ = _load(model)
    scale = min(1.0, _LONGEST_SIDE / max(pixels.shape[:2]))
    if round(scale * min(pixels.shape[:2])) < 1:
        return []  # a strip of which nothing would be left
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
    boxes = _boxes(detector, small, 0) or _boxes(detector, small, round(_BORDER * max(small.shape)))
    boxes.sort(key=lambda box: -_prominence(box, small.shape[1], small.shape[0]))
    return [(left / scale, top / scale, right / scale, bottom / scale) for left, top, right, bottom in boxes]


def _landmarks(pixels: Pixels, box: Box, model: Path) -> Landmarks:
    _, predictor = _load(model)
    shape = predictor(np.ascontiguousarray(pixels), _dlib().rectangle(*map(round, box)))
    landmarks = np.array([(part.x, part.y) for part in shape.parts()], np.float32)
    if landmarks.shape != (68, 2):
        raise UserError(
            f"landmarks must have shape (68, 2), got {landmarks.shape}: {model.name} is another of dlib's models; "
            "pass the 68-point one with --landmarks-model=PATH"
        )
    return landmarks


def _boxes(detector: Any, pixels: Pixels, border: int) -> list[Box]:
    wider = cv2.copyMakeBorder(pixels, border, border, border, border, cv2.BORDER_REPLICATE)
    found = detector(wider, _UPSAMPLE)
    return [(box.left() - border, box.top() - border, box.right() - border, box.bottom() - border) for box in found]


def _prominence(box: Box, width: int, height: int) -> float:
    left, top, right, bottom = box
    away = np.hypot(left + right - width, top + bottom - height) / np.hypot(width, height)
    return (right - left) * (bottom - top) * (1 - min(away, 1.0))
