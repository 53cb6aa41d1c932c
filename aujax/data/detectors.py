"""Detectors of facial landmarks: the table `DETECTORS`, dlib's detector, and the cache of detections.

A detector is a row of the table: another one (such as MediaPipe) needs a row here and a file of its own. Boxes are
(left, top, right, bottom) and landmarks (x, y), both in pixels of the image that was given, however large it is.
"""

import functools
import hashlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO, runtime_checkable

import cv2
import numpy as np

from aujax.data.images import Pixels
from aujax.data.landmarks import Landmarks
from aujax.errors import UserError

Box = tuple[float, float, float, float]
# Where dlib's landmark predictor is in the package `face_recognition_models`.
_MODEL = Path("models") / "shape_predictor_68_face_landmarks.dat"
# dlib's face detector finds faces of at least 80 pixels: the image is resized to at most _LONGEST_SIDE and enlarged
# _UPSAMPLE times by a factor of two.
_UPSAMPLE = 1
_LONGEST_SIDE = 640
# A face that fills the image is found once its edge is repeated on all sides, by this fraction of the longer side.
_BORDER = 0.25


class DetectedFace(NamedTuple):
    """The bounding box and the 68 landmarks of a face."""

    box: Box
    landmarks: Landmarks


@runtime_checkable
class Detector(Protocol):
    """Finds the faces of an image and their 68 landmarks; must be picklable, to be used in several processes."""

    def faces(self, pixels: Pixels) -> list[DetectedFace]:
        """Returns the faces of the image, the most prominent first: large and near the centre."""
        ...

    def settings(self) -> str:
        """Returns all that a detection depends on besides the image: version, parameters, hash of the weights."""
        ...


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
        height, width = pixels.shape[:2]
        scale = min(1.0, _LONGEST_SIDE / max(height, width))
        if round(scale * min(height, width)) < 1:
            return []  # a strip too thin to be resized
        small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
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
            f'give {_MODEL.name}, or leave out --landmarks-model and pip install "aujax[landmarks]", which brings it'
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
        if (Path(folder) / _MODEL).is_file():
            return DlibDetector(Path(folder) / _MODEL)
    raise UserError(
        f"--landmarks=dlib: expected the file {_MODEL.name}, which is not installed: "
        'pip install "aujax[landmarks]", or give its path with --landmarks-model=PATH'
    )


# The values of --landmarks besides the path of a file of landmarks (see `landmarks`).
DETECTORS = {
    "dlib": DetectorChoice(
        terms="dlib's 68-point predictor was trained on iBUG 300-W, whose licence excludes commercial use; whether "
        "this holds for networks that are trained on its landmarks is an open question.",
        load=load_dlib,
    ),
    "none": DetectorChoice(terms="No landmarks were used.", load=lambda path: None),
}


class Detection(NamedTuple):
    """The outcome of detection on an image: its landmarks, or None if no face was detected."""

    landmarks: Landmarks | None


class LandmarkCache:
    """Detections by key, in a file of JSON lines to which each new detection is appended at once."""

    def __init__(self, path: Path):
        self.path = path
        self._detections: dict[str, Detection] = {}
        self._file: TextIO | None = None
        text = path.read_text() if path.exists() else ""
        # An interrupted run may leave an incomplete last line: it is skipped, and ended before the next is appended.
        self._incomplete = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                numbers = entry["landmarks"]
                landmarks = None if numbers is None else np.array(numbers, np.float32).reshape(68, 2)
                self._detections[entry["key"]] = Detection(landmarks)
            except (ValueError, KeyError, TypeError):
                continue

    def get(self, key: str) -> Detection | None:
        """Returns the detection with this key, None if there is none."""
        return self._detections.get(key)

    def add(self, key: str, detection: Detection) -> None:
        """Stores a detection in the cache and in its file."""
        self._detections[key] = detection
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a")
            if self._incomplete:
                self._file.write("\n")
        landmarks = detection.landmarks
        numbers = None if landmarks is None else [round(float(number), 3) for number in landmarks.ravel()]
        self._file.write(json.dumps({"key": key, "landmarks": numbers}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
