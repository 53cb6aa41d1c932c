"""Preparing a data set: check the images of a listing, split them, store each face, write and report.

Images are read and decoded twice: once before the faces are split, for their content hashes, which tell copies,
and so that an unreadable one takes no place in a split; and once to be stored. Detected landmarks go to
`landmarks.jsonl` in the output folder as they are found, under the hash of the image and of how it was shown to the
detector, and are looked up there first.
"""

import contextlib
import dataclasses
import errno
import hashlib
import math
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np

from aujax.data import images, store
from aujax.data.detectors import LandmarkCache, settings
from aujax.data.preparation_report import Findings, Row
from aujax.data.sources.listing import Listing, SourceImage
from aujax.data.splits import SPLITS, draw_splits, join_units
from aujax.data.stored_face import Recipe, StoredFace, Task, given_landmarks, reason, store_face
from aujax.data.workers import processes, track
from aujax.errors import UserError

_LOOKED_AT = 200
_UNREADABLE_SHARE = 0.01


@dataclasses.dataclass(frozen=True)
class Wishes:
    """How to prepare; see the options of the same names.

    `allow_unreadable` None allows one image in a hundred, and at least one.
    """

    out: Path
    recipe: Recipe
    validation: float
    test: float
    seed: int
    jobs: int
    allow_unreadable: int | None = None


def prepare(listing: Listing, wishes: Wishes, findings: Findings, about: dict[str, Any]) -> store.Faces:
    """Write the faces of `listing` below `wishes.out`; what is noticed goes to `findings`.

    Raises:
      UserError: too many unreadable images, landmarks of other images, an empty split, no disk space.
    """
    _refuse_repeated(listing.images)
    contents = _contents(listing.images, wishes, findings)
    listed = [image for image in listing.images if image.id in contents]
    if not listed:
        raise UserError(
            "expected images to prepare, but the source has none that can be read "
            f"({_few(findings.problems)}); check --source"
        )
    _check_landmarks(listed, wishes.recipe)
    splits = draw_splits(
        [image.expression for image in listed],
        [image.split for image in listed],
        join_units([image.group for image in listed], [contents[image.id] for image in listed]),
        validation=wishes.validation,
        test=wishes.test,
        seed=wishes.seed,
    )
    used = [split for split in SPLITS if split in splits]
    cache = LandmarkCache(wishes.out / store.LANDMARK_CACHE)
    with contextlib.closing(cache), _disk_space(wishes.out, cache):
        rows = _stored(list(zip(listed, splits, strict=True)), contents, cache, wishes, findings)
        with contextlib.closing(rows):  # ends its workers, also when writing fails
            return store.write_faces(wishes.out, rows, expressions=listing.expressions, splits=used, about=about)


def _refuse_repeated(listed: Sequence[SourceImage]) -> None:
    name, count = Counter(image.id for image in listed).most_common(1)[0]
    if count > 1:
        raise UserError(f"expected each image of the source once, {name!r} comes {count} times; list it once")


def _contents(listed: Sequence[SourceImage], wishes: Wishes, findings: Findings) -> dict[str, str]:
    contents = {}
    with ThreadPool(wishes.jobs) as pool:
        hashes = pool.imap(_content, listed, chunksize=16)
        for image, (content, problem) in zip(listed, track(hashes, len(listed), "Reading images"), strict=True):
            if problem:
                findings.problems.append((image.id, problem))
            else:
                contents[image.id] = content
    _refuse_many_problems(len(listed), wishes, findings)
    return contents


def _content(image: SourceImage) -> tuple[str, str]:
    try:
        data = image.read()
        images.decode(data)
    except (OSError, ValueError) as error:
        return "", reason(error)
    digest = hashlib.sha256(data)
    if image.box is not None:
        digest.update(repr(image.box).encode())
    return digest.hexdigest(), ""


def _refuse_many_problems(total: int, wishes: Wishes, findings: Findings) -> None:
    allowed = wishes.allow_unreadable
    if allowed is None:
        allowed = max(1, math.floor(_UNREADABLE_SHARE * total))
    problems = findings.problems
    if len(problems) > allowed:
        raise UserError(
            f"{len(problems)} of {total} images cannot be read, at most {allowed} were expected "
            f"({_few(problems)}). Is the data set copied in full? Copy these files again, "
            f"or go on without them with --allow-unreadable={len(problems)}"
        )


def _few(problems: Sequence[tuple[str, str]]) -> str:
    return "; ".join([f"{name}: {why}" for name, why in problems[:5]] + ["..."] * (len(problems) > 5))


def _check_landmarks(listed: Sequence[SourceImage], recipe: Recipe) -> None:
    """Refuse given landmarks that were found on images of another size, judged by a sample."""
    marked = [image for image in listed if image.landmarks is not None]
    samples = []
    for image in marked[:: max(1, len(marked) // _LOOKED_AT)]:
        with contextlib.suppress(OSError, ValueError):  # unreadable images are reported when they are stored
            pixels = images.decode(image.read())
            landmarks = given_landmarks(Task(image, recipe), pixels)
            size = np.array(pixels.shape[1::-1])
            samples.append((image, size, landmarks, _misplaced(landmarks / size, whole=image.box is None)))
    wrong = [sample for sample in samples if sample[3]]
    if len(wrong) > max(1, len(samples) / 2):
        image, size, landmarks, _ = wrong[0]
        x, y = landmarks.max(0)
        raise UserError(
            f"the landmarks were found on images of another size: {image.id} has {size[0]} x {size[1]} pixels, its "
            f"landmarks reach x = {x:.0f}, y = {y:.0f} ({len(wrong)} of {len(samples)} images looked at are like "
            "this). Give the images on which they were found, tell the size of those with "
            "--landmarks-size=WIDTHxHEIGHT if these are the same ones resized, or use --landmarks=dlib"
        )


def _misplaced(landmarks: np.ndarray, *, whole: bool) -> bool:
    """Whether landmarks in units of the image lie mostly outside it or, in an image that is one face, in a corner."""
    inside = np.all((landmarks > -0.2) & (landmarks < 1.2), axis=1).mean()
    return bool(inside < 0.8 or (whole and landmarks.max() < 0.55))


def _stored(
    faces: Sequence[tuple[SourceImage, str]],
    contents: dict[str, str],
    cache: LandmarkCache,
    wishes: Wishes,
    findings: Findings,
) -> Generator[tuple[str, store.Record], None, None]:
    """Each readable face with its split, in order; detections go into the cache on the way."""
    total = len(faces) + len(findings.problems)
    how = settings(wishes.recipe.model) if wishes.recipe.model is not None else ""
    keys = [_detection_key(image, contents[image.id], wishes.recipe, how) for image, _ in faces]
    tasks = [_task(image, wishes.recipe, cache, key) for (image, _), key in zip(faces, keys, strict=True)]
    pending = any(_detects(task) for task in tasks)
    what = "Finding landmarks" if pending else "Storing faces"
    with (
        _workers(wishes.jobs, pending) as run,
        contextlib.closing(track(run(store_face, tasks), len(tasks), what)) as results,
    ):
        for (image, split), key, face in zip(faces, keys, results, strict=True):
            if face.problem:
                findings.problems.append((image.id, face.problem))
                _refuse_many_problems(total, wishes, findings)
                continue
            if face.detected:
                cache.add(key, face.detection)
            has_landmarks = face.landmarks is not None
            findings.rows.append(Row(image.id, image.expression, split, image.group, contents[image.id], has_landmarks))
            yield split, _record(image, face)


def _record(image: SourceImage, face: StoredFace) -> store.Record:
    return {
        "image": face.data,
        "landmarks": np.zeros((68, 2), np.float32) if face.landmarks is None else face.landmarks,
        "has_landmarks": face.landmarks is not None,
        "expression": image.expression,
        "id": image.id,
        "group": image.group,
        "aus": list(image.aus),
        "attributes": dict(image.attributes),
    }


def _detects(task: Task) -> bool:
    return task.recipe.model is not None and task.image.landmarks is None and not task.known


def _task(image: SourceImage, recipe: Recipe, cache: LandmarkCache, key: str) -> Task:
    known = recipe.model is not None and key in cache
    return Task(image, recipe, known, cache[key] if known else None)


def _detection_key(image: SourceImage, content: str, recipe: Recipe, how: str) -> str:
    warped = image.points.tolist() if recipe.align and image.points is not None else None
    return hashlib.sha256(f"{content} {warped} {how}".encode()).hexdigest()


@contextlib.contextmanager
def _workers(jobs: int, detecting: bool) -> Iterator[Callable[..., Iterator[StoredFace]]]:
    """An ordered parallel map: processes where faces are detected (dlib holds the interpreter), else threads."""
    if not detecting:
        with ThreadPool(jobs) as pool:
            yield pool.imap
    elif jobs == 1:
        yield map
    else:
        with processes(jobs) as pool:
            yield pool.imap


@contextlib.contextmanager
def _disk_space(out: Path, cache: LandmarkCache) -> Iterator[None]:
    """Tell a full disk, which array_record reports as a RuntimeError, in our words."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if not full:
            if isinstance(error, OSError):
                raise UserError(f"{out}: expected to write here, got {error}; choose another --out") from error
            raise
        free = shutil.disk_usage(out).free / 1e6
        kept = f" The landmarks found so far are kept in {cache.path}." if cache.path.exists() else ""
        raise UserError(
            f"{out}: no space left on the disk ({free:.0f} MB are free now that the unfinished data set is removed)."
            f"{kept} Make room and run the same command "
            "again: it goes on from there"
        ) from error
