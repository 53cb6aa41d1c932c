"""From one image of a source to the face that is stored: upright, cut or warped, with its landmarks.

Where nothing has to change, the original bytes are kept. A face that is cut out or re-encoded becomes a JPEG of
quality 95, or a PNG where the source's image has no compression loss; a warped face is always such a JPEG.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from aujax.data import alignment, images
from aujax.data.detectors import detect
from aujax.data.sources.listing import SourceImage
from aujax.errors import UserError

Landmarks = Float[np.ndarray, "68 2"]


@dataclass(frozen=True)
class Recipe:
    """What to do to every image.

    Attributes:
      align: warp faces by five points; a face without points is squeezed to the same size.
      model: dlib's landmark predictor, for images without landmarks; None finds none.
      landmarks_size: (width, height) of the images on which given landmarks were found; None: this image.
    """

    align: bool = False
    model: Path | None = None
    landmarks_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Task:
    """One image to store; `known` says that `detection` holds what was found on it in an earlier run."""

    image: SourceImage
    recipe: Recipe
    known: bool = False
    detection: Landmarks | None = None


@dataclass(frozen=True)
class StoredFace:
    """The outcome for one image.

    Attributes:
      data: the encoded face; empty where there is a problem.
      landmarks: in its pixels, or None.
      detected: whether the detector ran; `detection` is what it found, in pixels of what it was shown.
      problem: why the image cannot be used; empty for none.
    """

    data: bytes = b""
    landmarks: Landmarks | None = None
    detected: bool = False
    detection: Landmarks | None = None
    problem: str = ""


def store_face(task: Task) -> StoredFace:
    """The face to store for one image; a problem with the image is told, not raised."""
    try:
        data = task.image.read()
        pixels = images.decode(data)
        return _store(task, data, pixels)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        return StoredFace(problem=reason(error))


def reason(error: OSError | ValueError) -> str:
    """What went wrong in reading an image, without the error number."""
    return getattr(error, "strerror", None) or str(error)


def given_landmarks(task: Task, pixels: images.Pixels) -> Landmarks | None:
    """The landmarks that came with the image, in its pixels."""
    landmarks = task.image.landmarks
    if landmarks is None or task.recipe.landmarks_size is None:
        return landmarks
    size = np.array(pixels.shape[1::-1], np.float32)
    # Pixel centres stand at whole numbers: x + 0.5 is what is proportional.
    return (landmarks + 0.5) * (size / np.array(task.recipe.landmarks_size, np.float32)) - 0.5


def _store(task: Task, data: bytes, pixels: images.Pixels) -> StoredFace:
    image, recipe = task.image, task.recipe
    landmarks = given_landmarks(task, pixels)
    points = image.points
    if points is None and landmarks is not None:
        points = alignment.five_points(landmarks)
    shown, matrix = pixels, None
    if recipe.align and points is not None:
        shown, matrix = _warp(pixels, points)
    elif image.box is not None:
        shown, matrix = _cut(pixels, image.box)
    if landmarks is not None and matrix is not None:
        landmarks = alignment.move(landmarks, matrix)
    detected = landmarks is None and recipe.model is not None and not task.known
    detection = task.detection
    if detected and recipe.model is not None:
        detection = detect(shown, recipe.model)
    if landmarks is None and recipe.model is not None:
        landmarks = detection
    if recipe.align and points is None:
        shown, landmarks = _align_late(shown, landmarks)
    return StoredFace(_encode(data, pixels, shown, recipe), _float32(landmarks), detected, detection)


def _align_late(pixels: images.Pixels, landmarks: Landmarks | None) -> tuple[images.Pixels, Landmarks | None]:
    if landmarks is None:
        return alignment.squeeze(pixels)[0], None
    warped, matrix = _warp(pixels, alignment.five_points(landmarks))
    return warped, alignment.move(landmarks, matrix)


def _warp(pixels: images.Pixels, points: np.ndarray) -> tuple[images.Pixels, np.ndarray]:
    matrix = alignment.similarity(points, alignment.TEMPLATE)
    return alignment.warp(pixels, matrix), matrix


def _cut(pixels: images.Pixels, box: tuple[float, float, float, float]) -> tuple[images.Pixels, np.ndarray]:
    height, width = pixels.shape[:2]
    if not np.isfinite(box).all():
        raise ValueError(f"its face box {box} is not finite")
    left, top = (max(0, int(edge)) for edge in box[:2])
    right, bottom = min(width, int(box[2])), min(height, int(box[3]))
    if right - left < 2 or bottom - top < 2:
        raise ValueError(f"its face box {box} lies outside the image of {width} x {height} pixels")
    return np.ascontiguousarray(pixels[top:bottom, left:right]), np.array([(1.0, 0.0, -left), (0.0, 1.0, -top)])


def _encode(data: bytes, pixels: images.Pixels, shown: images.Pixels, recipe: Recipe) -> bytes:
    if shown is pixels and images.is_plain(data, pixels):
        return data
    return images.encode(shown, lossless=images.is_lossless(data) and not recipe.align)


def _float32(landmarks: Landmarks | None) -> Landmarks | None:
    return None if landmarks is None else landmarks.astype(np.float32)
