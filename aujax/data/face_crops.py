"""Faces in photographs, folders of them, videos and arrays, brought into the form that a network was trained on.

Boxes (left, top, right, bottom) and landmarks are pixels of the photograph, at its full size. A photograph or a frame
that cannot be used gives a `Problem` in its place, and the remaining images are processed.
"""

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from multiprocessing.pool import Pool
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from aujax.data import alignment, feed, images, video
from aujax.data.batch import Batch
from aujax.data.images import Pixels
from aujax.data.landmarks import DETECTORS, Box, DetectedFace, Landmarks, pooled, read_landmarks
from aujax.data.workers import parallel_map
from aujax.errors import UserError

# Which of the faces in a photograph are selected: the most prominent one, or all.
SELECTIONS = ("one", "all")
# A face that is not warped is reduced to this many pixels a side; the network's input is smaller still.
_LONGEST_SIDE = 1024
_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)
# The longer side of a thumbnail in pixels, and the margin on each side of the face's box, in sides of that box.
_THUMBNAIL = 320
_MARGIN = 0.45
# An image is taken to be a cropped face from this distance between the eyes on, in longer sides of the image. Aligned
# by five points it is 0.31; with more background around the head it is less.
_CROPPED_EYE_DISTANCE = 0.25


class Problem(NamedTuple):
    """A photograph or a frame that cannot be used, and the reason."""

    image: str
    reason: str
    second: float | None = None


class InputImage(NamedTuple):
    """A photograph or a frame with its name; `second` is the frame's time in its video."""

    name: str
    pixels: Pixels
    second: float | None = None


class FaceCrop(NamedTuple):
    """A face in the form of the network's input, and its place in the photograph.

    Attributes:
      image: the photograph, without its pixels.
      number: the rank of this face among the photograph's `count` faces, from 1, the most prominent first.
      count: the number of faces that were detected.
      unselected: the number of detected faces that were not selected.
      location: the face's box and landmarks in the photograph.
      thumbnail: the face and its surroundings, cropped from the photograph.
      aligned: the aligned face, `alignment.SIZE` pixels a side.
      example: the aligned face at the network's input size, a batch without its first axis.
      enlargement: pixels of the network's input per pixel of the photograph.
    """

    image: InputImage
    number: int
    count: int
    unselected: int
    location: DetectedFace
    thumbnail: Pixels
    aligned: Pixels
    example: Batch
    enlargement: float


Finder = Callable[[InputImage], Sequence[DetectedFace]]
Source = str | Path | np.ndarray


def landmark_finder(landmarks: Mapping[str, Landmarks | None]) -> Finder:
    """Returns a finder of one face per photograph, with the landmarks under the photograph's name.

    A photograph without landmarks is one face as a whole, as with `whole_image`.
    """

    def find(image: InputImage) -> Sequence[DetectedFace]:
        points = landmarks.get(image.name)
        if points is None:
            return whole_image(image)
        left, top, right, bottom = map(float, [*points.min(0), *points.max(0)])
        return [DetectedFace((left, top, right, bottom), points.astype(np.float32))]

    return find


def whole_image(image: InputImage) -> Sequence[DetectedFace]:
    """Returns the whole photograph as one face without landmarks."""
    height, width = image.pixels.shape[:2]
    return [DetectedFace((0.0, 0.0, float(width), float(height)), None)]


def face_finder(
    landmarks: str | Mapping[str, Landmarks | None],
    sources: Sequence[Source],
    *,
    model_file: str = "",
    pool: Pool | None = None,
) -> Finder:
    """Returns how the faces of photographs are found.

    Args:
      landmarks: a key of `DETECTORS` ("none": whole photographs without landmarks), the path of landmarks, or landmarks
        by the name of the photograph.
      sources: the photographs to look up in a file of landmarks.
      model_file: the weights of the detector; "" for the installed ones.
      pool: processes to detect in; None for the caller's.
    """
    if not isinstance(landmarks, str):
        return landmark_finder(landmarks)
    if landmarks in DETECTORS:
        detector = DETECTORS[landmarks].load(model_file)
        if detector is None:
            return whole_image
        find = detector.faces if pool is None else pooled(detector, pool)
        return lambda image: find(image.pixels)
    names = [str(source) for source in sources if not isinstance(source, np.ndarray)]
    return landmark_finder(read_landmarks(Path(landmarks), names))


def expand_folders(sources: Iterable[Source]) -> tuple[list[Source], list[Problem]]:
    """Returns the sources with folders replaced by their files, without repetitions, and a problem per empty folder."""
    expanded: list[Source] = []
    problems = []
    seen = set()
    for source in sources:
        if isinstance(source, np.ndarray):
            expanded.append(source)
            continue
        path = Path(source)
        try:
            files = images.files_below(path, images.SUFFIXES | video.SUFFIXES) if path.is_dir() else [path]
        except OSError as error:  # such as a name that is too long
            problems.append(Problem(str(path), images.read_problem(error)))
            continue
        if not files:
            problems.append(Problem(str(path), "no photographs or videos in this folder"))
        expanded += [file for file in files if file not in seen]
        seen |= set(files)
    return expanded, problems


def count_images(sources: Iterable[Source], *, every: int = 1) -> int:
    """Returns the number of photographs, arrays, and every `every`-th frames of videos, as their headers say."""
    paths = [Path("" if isinstance(source, np.ndarray) else source) for source in sources]
    return sum(video.count(path, every=every) if _is_video(path) else 1 for path in paths)


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in video.SUFFIXES


def _problem(name: str, error: OSError | ValueError) -> Problem:
    missing = isinstance(error, FileNotFoundError)
    return Problem(name, "no such file or folder" if missing else images.read_problem(error))


def load_faces(
    sources: Iterable[Source],
    *,
    find: Finder,
    select: str,
    align: str,
    size: int,
    every: int = 1,
    jobs: int = 1,
    done: Collection[tuple[str, float | None]] = (),
    description: str = "",
) -> Iterator[FaceCrop | Problem]:
    """Yields the selected faces of the photographs, for a network whose input is `size` pixels a side.

    Args:
      sources: photographs, videos, and arrays, which are named "image 1", "image 2", ...; folders are not expanded.
      find: detects the faces of a photograph.
      select: "one", the most prominent of each photograph, or "all".
      align: a row of `alignment.FITS` warps each face (without landmarks, the photograph is resized to a square),
        "five-point unless cropped" does not warp the only face of a photograph if it fills the photograph; with "none"
        the whole photograph is the face.
      size: of the network's input in pixels.
      every: the interval of the frames of a video.
      jobs: the number of threads, and of photographs or frames in memory.
      done: names and seconds of images that are left out.
      description: of a progress bar that counts photographs and frames; "" for none.
    """
    sources = list(sources)

    def faces(request: InputImage | Problem | Path) -> Iterator[FaceCrop | Problem]:
        if isinstance(request, Problem):
            yield request
            return
        if isinstance(request, InputImage):
            image = request
        else:
            try:
                image = InputImage(str(request), images.decode_untrusted(request.read_bytes()))
            except (OSError, ValueError) as error:
                yield _problem(str(request), error)
                return
        try:
            locations = find(image)
        except UserError:
            raise
        except (ValueError, cv2.error) as error:
            yield Problem(image.name, str(error), image.second)
            return
        if not locations:
            yield Problem(image.name, "no face found", image.second)
        selected = locations[:1] if select == "one" else locations
        for i, location in enumerate(selected):
            fit = alignment.FITS.get(align)
            if align == "five-point unless cropped" and not (len(locations) == 1 and _is_cropped(image, location)):
                fit = alignment.similarity
            try:
                if fit:
                    aligned, matrix = _warp(image.pixels, location.landmarks, fit)
                    # The aligned faces of a prepared data set are JPEG files. Without this round trip, pixels differ
                    # from them by one level, and probabilities of a small network by up to 0.007 (0.0005 on average).
                    stored = images.decode(images.encode(aligned))
                else:
                    stored, matrix = _reduce(image.pixels, _LONGEST_SIDE / max(image.pixels.shape[:2]))
                    aligned, _ = alignment.resize_to_square(stored)
                landmarks = None
                if location.landmarks is not None:
                    landmarks = alignment.move_landmarks(location.landmarks, matrix).astype(np.float32)
                scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
                yield FaceCrop(
                    image=image._replace(pixels=_NO_PIXELS),
                    number=i + 1,
                    count=len(locations),
                    unselected=len(locations) - len(selected),
                    location=location,
                    thumbnail=_thumbnail(image.pixels, location.box),
                    aligned=aligned,
                    example=feed.example(stored, landmarks, size),
                    enlargement=float(scale * size / np.sqrt(stored.shape[0] * stored.shape[1])),
                )
            except (ValueError, cv2.error) as error:
                yield Problem(image.name, str(error), image.second)

    results = parallel_map(
        lambda request: list(faces(request)),
        _requests(sources, every, done),
        jobs=jobs,
        description=description,
        total=count_images(sources, every=every) - len(done) if description else None,
    )
    with contextlib.closing(results):
        yield from itertools.chain.from_iterable(results)


def _requests(
    sources: Sequence[Source], every: int, done: Collection[tuple[str, float | None]]
) -> Iterator[InputImage | Problem | Path]:
    """Yields the frames of videos, arrays, and the paths of photographs, but for those that are `done`."""
    arrays = 0
    for source in sources:
        if isinstance(source, np.ndarray):
            arrays += 1
            name = f"image {arrays}"
            if source.shape[2:] != (3,) or source.dtype != np.uint8:
                got = f"{source.dtype} of shape {source.shape}"
                yield Problem(name, f"expected RGB pixels, uint8 of shape (height, width, 3), got {got}")
            else:
                yield InputImage(name, source)
            continue
        path = Path(source)
        name = str(path)
        seconds = {second for image, second in done if image == name}  # None: the image as a whole, or a problem
        if not _is_video(path):
            if not seconds:
                yield path
            continue
        try:
            path.stat()  # OpenCV does not say that a file is missing
            for second, pixels in video.frames(path, every=every, skip=seconds):
                yield InputImage(name, pixels, second)
        except (OSError, ValueError) as error:
            if None not in seconds:
                yield _problem(name, error)


def _is_cropped(image: InputImage, location: DetectedFace) -> bool:
    """Returns whether the face fills the photograph; without landmarks it is assumed to."""
    if location.landmarks is None:
        return True
    left, right = alignment.five_points(location.landmarks)[:2]
    return float(np.hypot(*(right - left))) >= _CROPPED_EYE_DISTANCE * max(image.pixels.shape[:2])


def _warp(pixels: Pixels, landmarks: Landmarks | None, fit: Callable) -> tuple[Pixels, np.ndarray]:
    """Returns the aligned face and the (2, 3) matrix that moves points of the photograph to its pixels."""
    if landmarks is None:
        return alignment.resize_to_square(pixels)
    points = alignment.five_points(landmarks)
    matrix = fit(points, alignment.TEMPLATE)
    # The warp interpolates between four pixels. A face much larger than the template is reduced first, to twice the
    # template's size, because the warp would skip most of its pixels.
    reduced, reduction = _reduce(pixels, 2 * float(np.hypot(*matrix[:, 0])))
    warp = fit(alignment.move(points, reduction), alignment.TEMPLATE)
    return alignment.warp(reduced, warp), matrix


def _reduce(pixels: Pixels, scale: float) -> tuple[Pixels, np.ndarray]:
    """Returns the image reduced by about `scale` if that is below 1, and the (2, 3) matrix that moves its points."""
    height, width = pixels.shape[:2]
    if scale >= 1:
        return pixels, np.eye(2, 3)
    return alignment.resize(pixels, (max(1, round(width * scale)), max(1, round(height * scale))))


def _thumbnail(pixels: Pixels, box: Box) -> Pixels:
    """Returns the face's box with a margin, cropped from the photograph and reduced."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = box

    def wider(first: float, last: float) -> slice:
        margin = _MARGIN * (last - first)
        return slice(max(int(first - margin), 0), max(int(last + margin) + 1, 0))

    cropped = np.ascontiguousarray(pixels[wider(top, bottom), wider(left, right)])
    if min(cropped.shape) < 2:
        raise ValueError(f"its face lies outside the photograph of {width} x {height} pixels")
    return _reduce(cropped, _THUMBNAIL / max(cropped.shape[:2]))[0]
