"""The steps from the images of a source to stored faces: check, split, crop or align, detect landmarks, write.

Each image is read and decoded twice: first for a hash of its content (copies of an image must not be in two splits) and
to exclude unreadable images before the faces are split; then to be stored. A new detection of landmarks is appended to
`landmarks.jsonl` in the output folder at once, so that an interrupted preparation continues where it stopped.

The original bytes are stored where nothing has to change. A face that is cropped or re-encoded becomes a JPEG of
quality 95, or a PNG if the source's image is lossless; an aligned face is always such a JPEG.
"""

import contextlib
import errno
import hashlib
import math
import shutil
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aujax.codebook import rescale_landmarks
from aujax.data import alignment, images, store
from aujax.data.detectors import Detection, Detector, LandmarkCache
from aujax.data.landmarks import Landmarks
from aujax.data.prepare.report import Report, ReportedFace
from aujax.data.sources.listing import Listing, SourceImage
from aujax.data.splits import SPLITS, assign_splits, join_units
from aujax.data.workers import parallel_map
from aujax.errors import UserError

_SAMPLE_SIZE = 200  # images whose landmarks are compared with the size of the image
_UNREADABLE_SHARE = 0.01


@dataclass(frozen=True)
class Options:
    """The options of `aujax prepare` that are the same for all sources.

    Attributes:
      align: warp faces by five points; a face without landmarks is resized to the same size.
      detector: for images without landmarks; None leaves them without.
      landmarks_size: (width, height) of the images that given landmarks belong to; None: these images.
      validation, test, seed: see `splits.assign_splits`.
      jobs: the number of threads or processes.
      allow_unreadable: the accepted number of unreadable images; None: one in a hundred, and at least one.
    """

    align: bool
    detector: Detector | None
    landmarks_size: tuple[int, int] | None
    validation: float
    test: float
    seed: int
    jobs: int
    allow_unreadable: int | None = None


class Task(NamedTuple):
    """An image to store, with the detection on it that is in the cache already, if any."""

    image: SourceImage
    options: Options
    detection: Detection | None


class StoredFace(NamedTuple):
    """The face of one image.

    Attributes:
      data: the encoded face; empty if there is a problem.
      landmarks: in its pixels, or None.
      detection: in pixels of the image that the detector was given; None if the detector was not run.
      problem: why the image cannot be used, "" if it can.
    """

    data: bytes = b""
    landmarks: Landmarks | None = None
    detection: Detection | None = None
    problem: str = ""


def prepare(listing: Listing, out: Path, options: Options, report: Report, about: dict[str, Any]) -> store.Faces:
    """Writes the faces of a listing to the folder `out`; adds stored faces and unreadable images to the report.

    Raises:
      UserError: too many unreadable images, landmarks of images of another size, an empty split, a full disk.
    """
    name, count = Counter(image.id for image in listing.images).most_common(1)[0]
    if count > 1:
        raise UserError(f"expected each image of the source once, {name!r} comes {count} times; list it once")

    hashes = {}
    results = parallel_map(_content_hash, listing.images, jobs=options.jobs, description="Reading images")
    for image, (content, problem) in zip(listing.images, results, strict=True):
        if problem:
            report.problems.append((image.id, problem))
        else:
            hashes[image.id] = content
    _check_problems(report.problems, len(listing.images), options.allow_unreadable)
    readable = [image for image in listing.images if image.id in hashes]
    if not readable:
        raise UserError(
            "expected images to prepare, but the source has none that can be read "
            f"({_first_problems(report.problems)}); check --source"
        )
    _check_landmark_sizes(readable, options.landmarks_size)

    splits = assign_splits(
        [image.expression for image in readable],
        [image.split for image in readable],
        join_units([image.subject_id for image in readable], [hashes[image.id] for image in readable]),
        validation=options.validation,
        test=options.test,
        seed=options.seed,
    )
    cache = LandmarkCache(out / store.LANDMARK_CACHE)
    records = _stored_records(readable, splits, hashes, cache, options, report)
    try:
        # `records` is closed even if writing fails, which ends its worker processes.
        with contextlib.closing(cache), contextlib.closing(records):
            used = [split for split in SPLITS if split in splits]
            return store.write_faces(out, records, expressions=listing.expressions, splits=used, about=about)
    except (OSError, RuntimeError) as error:
        # array_record reports a full disk as a RuntimeError.
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if full:
            free = shutil.disk_usage(out).free / 1e6
            kept = f" The landmarks detected so far are kept in {cache.path}." if cache.path.exists() else ""
            raise UserError(
                f"{out}: no space left on the disk ({free:.0f} MB are free now that the incomplete data set is "
                f"removed).{kept} Free some space and run the same command again: it continues from there"
            ) from error
        if isinstance(error, OSError):
            raise UserError(f"{out}: expected a folder to write to, got {error}; choose another --out") from error
        raise


def store_face(task: Task) -> StoredFace:
    """Returns the face of one image, cropped or aligned, with its landmarks; problems are returned, not raised.

    Raises:
      UserError: the detector cannot be used at all.
    """
    image, options, detection = task
    try:
        data = image.read()
        pixels = images.decode(data)
        landmarks = image.landmarks
        if landmarks is not None:
            landmarks = _in_pixels(landmarks, options.landmarks_size, pixels)
        points = image.points
        if points is None and landmarks is not None:
            points = alignment.five_points(landmarks)

        face, matrix = pixels, None
        if options.align and points is not None:
            matrix = alignment.similarity(points, alignment.TEMPLATE)
            face = alignment.warp(pixels, matrix)
        elif image.box is not None:
            face, matrix = _crop(pixels, image.box)
        if landmarks is not None and matrix is not None:
            landmarks = alignment.move(landmarks, matrix)

        new_detection = None
        if landmarks is None and options.detector is not None:
            if detection is None:
                detected = options.detector.faces(face)
                detection = new_detection = Detection(detected[0].landmarks if detected else None)
            landmarks = detection.landmarks

        if options.align and points is None:
            # There were no points to align by before the detection.
            if landmarks is None:
                face, _ = alignment.resize_to_square(face)
            else:
                matrix = alignment.similarity(alignment.five_points(landmarks), alignment.TEMPLATE)
                face = alignment.warp(face, matrix)
                landmarks = alignment.move(landmarks, matrix)

        if face is not pixels or not images.is_plain(data, pixels):
            data = images.encode(face, lossless=images.is_lossless(data) and not options.align)
        if landmarks is not None:
            landmarks = landmarks.astype(np.float32)
        return StoredFace(data, landmarks, new_detection)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        return StoredFace(problem=images.read_problem(error))


def _stored_records(
    readable: Sequence[SourceImage],
    splits: Sequence[str],
    hashes: dict[str, str],
    cache: LandmarkCache,
    options: Options,
    report: Report,
) -> Generator[tuple[str, store.Record], None, None]:
    """Yields the split and the record of each face, in order; adds new detections to the cache."""
    total = len(readable) + len(report.problems)
    settings = options.detector.settings() if options.detector is not None else ""
    keys, tasks = [], []
    for image in readable:
        # The detector is given the image after an alignment by annotated points: the detection depends on them.
        points = image.points.tolist() if options.align and image.points is not None else None
        keys.append(hashlib.sha256(f"{hashes[image.id]} {points} {settings}".encode()).hexdigest())
        tasks.append(Task(image, options, cache.get(keys[-1]) if options.detector is not None else None))
    detecting = options.detector is not None and any(
        task.detection is None and task.image.landmarks is None for task in tasks
    )
    faces = parallel_map(
        store_face,
        tasks,
        jobs=options.jobs,
        description="Detecting landmarks" if detecting else "Storing faces",
        in_processes=detecting,  # dlib holds the interpreter lock
        chunksize=1,
    )
    with contextlib.closing(faces):
        for image, split, key, face in zip(readable, splits, keys, faces, strict=True):
            if face.problem:
                report.problems.append((image.id, face.problem))
                _check_problems(report.problems, total, options.allow_unreadable)
                continue
            if face.detection is not None:
                cache.add(key, face.detection)
            has_landmarks = face.landmarks is not None
            report.faces.append(
                ReportedFace(image.id, image.expression, split, image.subject_id, hashes[image.id], has_landmarks)
            )
            yield (
                split,
                {
                    "image": face.data,
                    "landmarks": face.landmarks if has_landmarks else np.zeros((68, 2), np.float32),
                    "has_landmarks": has_landmarks,
                    "expression": image.expression,
                    "id": image.id,
                    "subject_id": image.subject_id,
                    "aus": list(image.aus),
                    "attributes": dict(image.attributes),
                },
            )


def _content_hash(image: SourceImage) -> tuple[str, str]:
    """Returns a hash of the image's bytes and its face box, and "" or why the image cannot be read."""
    try:
        data = image.read()
        images.decode(data)
    except (OSError, ValueError) as error:
        return "", images.read_problem(error)
    digest = hashlib.sha256(data)
    if image.box is not None:
        digest.update(repr(image.box).encode())
    return digest.hexdigest(), ""


def _check_problems(problems: Sequence[tuple[str, str]], total: int, allowed: int | None) -> None:
    if allowed is None:
        allowed = max(1, math.floor(_UNREADABLE_SHARE * total))
    if len(problems) > allowed:
        raise UserError(
            f"{len(problems)} of {total} images cannot be read, at most {allowed} were expected "
            f"({_first_problems(problems)}). Is the data set copied in full? Copy these files again, "
            f"or continue without them with --allow-unreadable={len(problems)}"
        )


def _first_problems(problems: Sequence[tuple[str, str]]) -> str:
    texts = [f"{name}: {problem}" for name, problem in problems[:5]]
    if len(problems) > 5:
        texts.append("...")
    return "; ".join(texts)


def _check_landmark_sizes(readable: Sequence[SourceImage], landmarks_size: tuple[int, int] | None) -> None:
    """Raises a UserError if the landmarks of most sampled images lie outside the image or in a corner of it."""
    marked = [(image, image.landmarks) for image in readable if image.landmarks is not None]
    checked, misplaced = 0, []
    for image, landmarks in marked[:: max(1, len(marked) // _SAMPLE_SIZE)]:
        try:
            pixels = images.decode(image.read())
        except (OSError, ValueError):
            continue  # unreadable images are reported when they are stored
        checked += 1
        size = np.array(pixels.shape[1::-1])
        landmarks = _in_pixels(landmarks, landmarks_size, pixels)
        relative = landmarks / size
        inside = np.all((relative > -0.2) & (relative < 1.2), axis=1).mean()
        # A whole image that is one face has landmarks in its lower right half too.
        in_corner = image.box is None and relative.max() < 0.55
        if inside < 0.8 or in_corner:
            misplaced.append((image.id, size, landmarks.max(0)))
    if len(misplaced) > max(1, checked / 2):
        name, (width, height), (x, y) = misplaced[0]
        raise UserError(
            f"the landmarks were found on images of another size: {name} has {width} x {height} pixels, its "
            f"landmarks reach x = {x:.0f}, y = {y:.0f} ({len(misplaced)} of {checked} checked images are like "
            "this). Give the images that the landmarks belong to; or, if these are the same images resized, give the "
            "original size with --landmarks-size=WIDTHxHEIGHT; or use --landmarks=dlib"
        )


def _in_pixels(landmarks: Landmarks, size: tuple[int, int] | None, pixels: images.Pixels) -> Landmarks:
    """Returns the landmarks in pixels of this image; `size` is that of the image they were found on, None: this one."""
    if size is None:
        return landmarks
    scale = np.array(pixels.shape[1::-1], np.float32) / np.array(size, np.float32)
    return rescale_landmarks(landmarks, scale)


def _crop(pixels: images.Pixels, box: tuple[float, float, float, float]) -> tuple[images.Pixels, np.ndarray]:
    """Returns the part of the image in the box, and the matrix that moves points of the image there."""
    height, width = pixels.shape[:2]
    if not np.isfinite(box).all():
        raise ValueError(f"its face box {box} is not finite")
    left, top = max(0, int(box[0])), max(0, int(box[1]))
    right, bottom = min(width, int(box[2])), min(height, int(box[3]))
    if right - left < 2 or bottom - top < 2:
        raise ValueError(f"its face box {box} lies outside the image of {width} x {height} pixels")
    return np.ascontiguousarray(pixels[top:bottom, left:right]), np.array([(1.0, 0.0, -left), (0.0, 1.0, -top)])
