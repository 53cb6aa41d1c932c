"""Faces in photographs, folders of them, videos and arrays, brought into the form that a network was trained on.

Boxes (left, top, right, bottom) and landmarks are pixels of the photograph, however large it is. What cannot be used
becomes a `Problem` in its place, and the others go on.
"""

import io
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from aujax.data import alignment, feed, images, video
from aujax.data.batch import Batch
from aujax.data.detectors import Box, Detector
from aujax.data.images import SUFFIXES as IMAGE_SUFFIXES
from aujax.data.images import Pixels
from aujax.data.images import read_problem as reason
from aujax.data.landmarks import Landmarks
from aujax.errors import UserError

# A face that is not warped is stored no larger than this; the network's picture is smaller still.
_LONGEST_SIDE = 1024
_CROP = 320  # pixels of the longer side of what is cut out to be shown
_MARGIN = 0.45  # of the face's box, on each side of it
# Between the eyes, in longer sides of the picture, from which on the picture is taken to be the cut-out face itself:
# aligned by five points it is 0.31, with room around the head it is less.
_CUT_OUT = 0.25


class Problem(NamedTuple):
    """A photograph or a frame that cannot be explained, and why."""

    photo: str
    reason: str
    second: float | None = None


class Photo(NamedTuple):
    """A picture with its name; `second` is its time in a video."""

    name: str
    pixels: Pixels
    second: float | None = None


class Found(NamedTuple):
    """Where a face is, and its landmarks if they are known."""

    box: Box
    landmarks: Landmarks | None


class Face(NamedTuple):
    """A face as the network takes it, and what is told about where it comes from.

    Attributes:
      photo: the photograph it is in.
      number: which of the photograph's `count` faces it is, from 1, the most prominent first.
      left_out: how many of the photograph's faces were not chosen.
      found: where it is.
      crop: it and its surroundings, cut out of the photograph.
      picture: it as it was aligned, `alignment.SIZE` pixels a side.
      example: it at the network's size, one row of a batch.
      enlargement: pixels of the network's picture for one of the photograph.
    """

    photo: Photo
    number: int
    count: int
    left_out: int
    found: Found
    crop: Pixels
    picture: Pixels
    example: Batch
    enlargement: float


Finder = Callable[[Photo], Sequence[Found]]
Source = str | Path | np.ndarray
# Which of the faces in a photograph are explained; the most prominent one comes first.
CHOICES: Mapping[str, Callable[[Sequence[Found]], Sequence[Found]]] = {
    "one": lambda found: found[:1],
    "all": lambda found: found,
}


def by_detector(detector: Detector) -> Finder:
    """Returns the finder of all the faces that a detector finds, the large and central ones first."""
    return lambda photo: [Found(face.box, face.landmarks) for face in detector.faces(photo.pixels)]


def as_given(landmarks: Mapping[str, Landmarks | None]) -> Finder:
    """Returns the finder of one face a photograph, whose landmarks are in the table; without them, as `whole`."""

    def find(photo: Photo) -> Sequence[Found]:
        points = landmarks.get(photo.name)
        if points is None:
            return whole(photo)
        (left, top), (right, bottom) = points.min(0), points.max(0)
        return [Found((float(left), float(top), float(right), float(bottom)), points.astype(np.float32))]

    return find


def whole(photo: Photo) -> Sequence[Found]:
    """Returns the whole photograph as one face without landmarks."""
    height, width = photo.pixels.shape[:2]
    return [Found((0.0, 0.0, float(width), float(height)), None)]


def expand(sources: Iterable[Source]) -> tuple[list[Source], list[Problem]]:
    """Returns the sources with folders replaced by their files, each file once, and which folders have none."""
    found: list[Source] = []
    problems, seen = [], set()
    for source in sources:
        if isinstance(source, np.ndarray):
            found.append(source)
            continue
        path = Path(source)
        try:
            below = _files_below(path) if path.is_dir() else [path]
        except OSError as error:  # such as a name that is too long
            problems.append(Problem(str(path), reason(error)))
            continue
        if not below:
            problems.append(Problem(str(path), "no photographs or videos in this folder"))
        found += [file for file in below if file not in seen]
        seen |= set(below)
    return found, problems


def read_faces(
    sources: Iterable[Source],
    *,
    find: Finder,
    choose: str,
    align: bool,
    size: int,
    every: int = 1,
    keep_cut_out: bool = False,
) -> Iterator[Face | Problem]:
    """Yields the chosen faces of the photographs, for a network that sees `size` pixels; see `CHOICES` and `pictures`.

    With `align` a face is warped by five points, and squeezed without them; else the whole photograph is the face.
    With `keep_cut_out` a photograph that its only face fills is the face even so.
    """
    for photo in pictures(sources, every=every):
        if isinstance(photo, Problem):
            yield photo
            continue
        try:
            found = find(photo)
        except UserError:
            raise
        except (ValueError, cv2.error) as error:
            yield Problem(photo.name, str(error), photo.second)
            continue
        if not found:
            yield Problem(photo.name, "no face found", photo.second)
        chosen = CHOICES[choose](found)
        for number, one in enumerate(chosen, start=1):
            whole_is_face = keep_cut_out and len(found) == 1 and _is_cut_out(photo, one)
            try:
                face = _face(photo, one, align=align and not whole_is_face, size=size)
                yield face._replace(number=number, count=len(found), left_out=len(found) - len(chosen))
            except (ValueError, cv2.error) as error:
                yield Problem(photo.name, str(error), photo.second)


def pictures(sources: Iterable[Source], *, every: int = 1) -> Iterator[Photo | Problem]:
    """Yields photographs: files, every `every`-th frame of videos, and arrays, which are called "photo 1" and so on."""
    count = itertools.count(1)
    for source in sources:
        if isinstance(source, np.ndarray):
            name = f"photo {next(count)}"
            if source.ndim != 3 or source.shape[-1] != 3 or source.dtype != np.uint8:
                came = f"{source.dtype} of shape {source.shape}"
                yield Problem(name, f"expected RGB pixels, uint8 of shape (height, width, 3), got {came}")
            else:
                yield Photo(name, source)
        else:
            yield from _read(Path(source), every)


def _files_below(folder: Path) -> list[Path]:
    """Returns the photographs and videos anywhere below a folder, sorted, without hidden ones."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES | video.SUFFIXES
        and not any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
    ]


def _read(path: Path, every: int) -> Iterator[Photo | Problem]:
    if path.suffix.lower() in video.SUFFIXES:
        try:
            path.stat()
            yield from (Photo(str(path), frame.pixels, frame.second) for frame in video.frames(path, every=every))
        except (OSError, ValueError) as error:
            yield _unread(path, error)
    else:
        try:
            data = path.read_bytes()
            _refuse_huge(data)
            yield Photo(str(path), images.decode(data))
        except (OSError, ValueError) as error:
            yield _unread(path, error)


def _unread(path: Path, error: OSError | ValueError) -> Problem:
    missing = isinstance(error, FileNotFoundError)
    return Problem(str(path), "no such file or folder" if missing else reason(error))


def _refuse_huge(data: bytes) -> None:
    """Raises a ValueError for a picture of so many pixels that decoding it may take all memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of half of what is refused
        try:
            Image.open(io.BytesIO(data)).close()  # reads no more than the size
        except Image.DecompressionBombError as error:
            most = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
            raise ValueError(f"more than {most:.0f} megapixels; make it smaller") from error
        except OSError:
            return  # what is wrong with it is told when it is decoded


def _face(photo: Photo, found: Found, *, align: bool, size: int) -> Face:
    """Returns the face as the only one of its photograph."""
    if not align:
        stored, matrix = _reduced(photo.pixels, _LONGEST_SIDE / max(photo.pixels.shape[:2]))
        picture = alignment.resize_to_square(stored)[0]
    elif found.landmarks is None:
        picture, matrix = alignment.resize_to_square(photo.pixels)
        stored = picture
    else:
        picture, matrix = _warped(photo.pixels, found.landmarks)
        stored = picture
    landmarks = np.zeros((68, 2)) if found.landmarks is None else alignment.move(found.landmarks, matrix)
    record = {
        "image": images.encode(stored, lossless=not align),  # as faces are stored for training
        "landmarks": landmarks.astype(np.float32),
        "has_landmarks": found.landmarks is not None,
        "expression": 0,
        "id": photo.name,
    }
    example = feed.decoded(record, 0, size)
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2]))) * size / np.sqrt(stored.shape[0] * stored.shape[1])
    return Face(photo, 1, 1, 0, found, _crop(photo.pixels, found.box), picture, example, float(scale))


def _is_cut_out(photo: Photo, found: Found) -> bool:
    """Whether the face fills the photograph; of one without landmarks nothing else is known."""
    if found.landmarks is None:
        return True
    left, right = alignment.five_points(found.landmarks)[:2]
    return float(np.hypot(*(right - left))) >= _CUT_OUT * max(photo.pixels.shape[:2])


def _warped(pixels: Pixels, landmarks: Landmarks) -> tuple[Pixels, np.ndarray]:
    """Returns the face aligned by five points, and the matrix that brings points of the photograph there."""
    points = alignment.five_points(landmarks)
    matrix = alignment.similarity(points, alignment.TEMPLATE)
    # The warp looks at four pixels for each that it makes: of a much larger face it would leave most unseen.
    small, shrink = _reduced(pixels, 2 * float(np.hypot(*matrix[:, 0])))
    warp = alignment.similarity(alignment.move(points, shrink), alignment.TEMPLATE)
    return alignment.warp(small, warp), matrix


def _reduced(pixels: Pixels, scale: float) -> tuple[Pixels, np.ndarray]:
    """Returns the picture made smaller by about `scale`, if that is below 1, and the matrix that moves its points."""
    height, width = pixels.shape[:2]
    if scale >= 1:
        return pixels, np.array([(1.0, 0, 0), (0, 1.0, 0)])
    size = max(1, round(width * scale)), max(1, round(height * scale))
    x, y = size[0] / width, size[1] / height
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.array([(x, 0, (x - 1) / 2), (0, y, (y - 1) / 2)])


def _crop(pixels: Pixels, box: Box) -> Pixels:
    height, width = pixels.shape[:2]
    left, top, right, bottom = box
    across, down = _MARGIN * (right - left), _MARGIN * (bottom - top)
    x = np.clip([int(left - across), int(right + across) + 1], 0, width)
    y = np.clip([int(top - down), int(bottom + down) + 1], 0, height)
    if x[1] - x[0] < 2 or y[1] - y[0] < 2:
        raise ValueError(f"its face lies outside the photograph of {width} x {height} pixels")
    cut = np.ascontiguousarray(pixels[y[0] : y[1], x[0] : x[1]])
    return _reduced(cut, _CROP / max(cut.shape[:2]))[0]
