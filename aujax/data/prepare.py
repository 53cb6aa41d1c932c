"""Prepares a data set of faces: reads the images, checks them, detects landmarks, splits, writes and reports.

  aujax prepare synthetic --out data/drawn
  aujax prepare folder --source photographs --out data/photographs
  aujax prepare rafdb --source RAF-DB/basic --out data/rafdb --align five-point --images original
  aujax prepare affectnet --source AffectNet --out data/affectnet
  aujax prepare folds --source RAF-DB --folds wsol-done-right-splits/RAF-DB --out data/rafdb

An interrupted preparation continues when the same command is run again; detected landmarks are kept.
"""

import argparse
import contextlib
import dataclasses
import errno
import functools
import hashlib
import pickle
import re
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from aujax import cli
from aujax.codebook import rescale_landmarks
from aujax.data import alignment, images, store, synthetic
from aujax.data.landmarks import (
    DETECTORS,
    DetectedFace,
    Detector,
    LandmarkCache,
    Landmarks,
    Named,
    pooled,
    read_landmarks,
)
from aujax.data.sources import Listing, SourceImage, affectnet, folder, folds, rafdb, whole_number
from aujax.data.splits import SPLITS, assign_splits, join_units, sampled_shares
from aujax.data.workers import parallel_map, process_pool, processors
from aujax.errors import UserError

# The first argument of the command.
SOURCES = {
    "synthetic": synthetic.SOURCE,
    "folder": folder.SOURCE,
    "rafdb": rafdb.SOURCE,
    "affectnet": affectnet.SOURCE,
    "folds": folds.SOURCE,
}
REPORT = "report.txt"
_ALIGNMENTS = {
    "none": "none: images are stored as they are",
    "five-point": "five points to 224 x 224, JPEG quality 95; faces without points are resized to that size",
    "five-point/reference": "as five-point, the template fitted to the face as in the authors' released code",
}
_DEFAULT_DETECTOR = "dlib"
# What an interrupted preparation may leave in the output folder.
_OWN_FILES = {store.METADATA, store.LANDMARK_CACHE, REPORT, "faces", f"{store.METADATA}.partial"}
# Options that do not change the prepared faces.
_NOT_RECORDED = {"out", "jobs", "overwrite", "allow_unreadable"}
_SAMPLE_SIZE = 200  # images whose landmarks are compared with the size of the image
_OFF_MIDDLE = 0.07  # of the width, from which landmarks are not those of centred faces
_UNREADABLE_SHARE = 0.01
_MAX_LISTED = 20  # lines of each list in the report
# (width, height) of the images that landmarks were detected on; "own" or None: of the images themselves.
Size = tuple[int, int] | Literal["own"] | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a subcommand for each source, with its options."""
    sources = parser.add_subparsers(dest="name", required=True, metavar="SOURCE", title="sources")
    for name, source in SOURCES.items():
        description = f"{source.summary[0].upper()}{source.summary[1:]}. {source.terms}"
        child = sources.add_parser(name, help=source.summary, description=description)
        child.add_argument("--out", required=True, metavar="DIR", help="folder to write, for --config.data.dir")
        child.add_argument(
            "--align",
            choices=list(_ALIGNMENTS),
            default="none",
            help="warp faces by five points (default: none)",
        )
        child.add_argument(
            "--landmarks",
            default="",
            metavar=f"{'|'.join(DETECTORS)}|FILE",
            help="detector of the 68 landmarks, or a file of landmarks: .txt, .csv, .npy or a folder of .npy files, "
            f"see aujax/data/landmarks.py (default: those that come with the data, else {_DEFAULT_DETECTOR})",
        )
        child.add_argument("--landmarks-model", default="", metavar="FILE", help="dlib's 68-point predictor (.dat)")
        child.add_argument(
            "--landmarks-size",
            default="",
            metavar="WIDTHxHEIGHT",
            help="size of the images that given landmarks belong to; own: that of these images, without a check",
        )
        child.add_argument("--seed", type=whole_number(0), default=0, help="of all random choices (default: 0)")
        child.add_argument(
            "--jobs", type=whole_number(1), default=processors(), metavar="N", help="default: one per processor"
        )
        child.add_argument(
            "--allow-unreadable",
            type=whole_number(0),
            metavar="N",
            help="accepted number of unreadable images, which are left out (default: 1 in 100)",
        )
        child.add_argument("--overwrite", action="store_true", help="replace a data set prepared before")
        source.add_options(child.add_argument_group(f"options of {name}"))


def run(options: argparse.Namespace) -> None:
    """Prepares the data set that the options describe, unless it is there already, and prints its report.

    Raises:
      SystemExit: with status 2 after the message of a user's mistake, with 130 after Ctrl-C.
    """
    stopped = "stopped: landmarks detected so far are kept, the same command continues from there"
    with cli.user_errors(f"aujax prepare {options.name}", interrupted=stopped):
        out = Path(options.out)
        about = {name: value for name, value in sorted(vars(options).items()) if name not in _NOT_RECORDED}
        for name in ("source", "landmarks", "landmarks_model"):
            if about[name] and Path(about[name]).exists():
                about[name] = str(Path(about[name]).resolve())
        if not options.overwrite and _is_prepared(out, about):
            print(f"{(out / REPORT).read_text()}\n{out} is already prepared; --overwrite prepares it again.")
            return

        source = SOURCES[options.name]
        listing = source.list_images(options)
        if not listing.images:
            raise UserError(f"--source={options.source}: expected images of faces, found none ({listing.layout})")

        text = options.landmarks_size.lower()
        size = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
        if text not in ("", "own") and size is None:
            raise UserError(
                f"--landmarks-size={options.landmarks_size}: expected WIDTHxHEIGHT in pixels, such as 224x224, or own"
            )
        landmarks_size = (int(size[1]), int(size[2])) if size else "own" if text else None

        detector = None
        landmarks = options.landmarks or _DEFAULT_DETECTOR
        if not options.landmarks and any(image.landmarks is not None for image in listing.images):
            landmarks = "those of the data set"
            landmark_terms = "They come with the data, under the same terms."
        else:
            named = {}
            if landmarks in DETECTORS:
                detector = DETECTORS[landmarks].load(options.landmarks_model)
                landmark_terms = DETECTORS[landmarks].terms
            else:
                named = read_landmarks(Path(landmarks), [image.id for image in listing.images])
                missing = len(listing.images) - len(named)
                if missing:
                    landmarks += f", which does not name {missing} of the images"
                landmark_terms = "They come from a file, whose author states their terms."
            faces = [dataclasses.replace(image, landmarks=named.get(image.id)) for image in listing.images]
            listing = dataclasses.replace(listing, images=faces)
            if options.landmarks_size and not named:
                raise UserError(
                    f"--landmarks-size={options.landmarks_size}: expected landmarks of a file or of the data set, "
                    f"got --landmarks={landmarks}, which is given the images themselves; leave the option out"
                )
        if options.landmarks_model and landmarks != _DEFAULT_DETECTOR:
            raise UserError(
                f"--landmarks-model={options.landmarks_model}: expected --landmarks={_DEFAULT_DETECTOR}, the landmarks "
                f"are {landmarks}; leave the option out, or add --landmarks={_DEFAULT_DETECTOR}"
            )

        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out={out}: expected a folder to write to, got {error}; choose another") from error
        headings = [
            ("data set", str(out)),
            ("source", f"{options.name} {options.source}".strip()),
            ("layout", listing.layout),
            ("terms", source.terms),
            ("alignment", _ALIGNMENTS[options.align]),
            ("landmarks", f"{landmarks}. {landmark_terms}"),
        ]
        # What pages about a trained model quote.
        about = {**about, "terms": source.terms, "cropped": source.cropped, "detector_terms": landmark_terms}
        report = prepare(
            listing, out, options, detector=detector, landmarks_size=landmarks_size, headings=headings, about=about
        )
        (out / REPORT).write_text(report)
        print(f"{report}\nWritten to {out}; this report is {out / REPORT}.")


def _is_prepared(out: Path, about: dict[str, Any]) -> bool:
    """Returns whether the folder holds a data set prepared with these options; raises a UserError for anything else."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise UserError(f"--out={out}: expected a folder or a new name, found a file; choose another")
    if not (out / store.METADATA).exists():
        foreign = sorted(path.name for path in out.iterdir() if path.name not in _OWN_FILES)
        if foreign:
            raise UserError(
                f"--out={out}: expected an empty or new folder, it holds {', '.join(foreign[:5])}; choose another"
            )
        return False
    before = store.open_faces(out).about
    # The counts --train, --validation and --test of the source synthetic have names of their own.
    changes = [
        f"--{name.removesuffix('_faces').replace('_', '-')} was {before.get(name)!r}, now {value!r}"
        for name, value in about.items()
        if value != before.get(name)
    ]
    if changes:
        raise UserError(
            f"--out={out} holds a data set prepared with other options ({', '.join(changes)}); "
            "choose another --out, or replace it with --overwrite"
        )
    return True


class StoredFace(NamedTuple):
    """The face of one image.

    Attributes:
      problem: why the image cannot be used, "" if it can; then all else is empty.
      content: a hash of the image's bytes and face box.
      record: as in `store`.
      detected: a new detection by its key in the cache, in pixels of the image that the detector was given.
    """

    problem: str
    content: str
    record: store.Record
    detected: Named


class ReportedFace(NamedTuple):
    """A face without its data; `content` is the hash of its image, `split` "" before the splits are known."""

    image: SourceImage
    split: str
    content: str
    has_landmarks: bool


def prepare(
    listing: Listing,
    out: Path,
    options: argparse.Namespace,
    *,
    detector: Detector | None,
    landmarks_size: Size,
    headings: Sequence[tuple[str, str]],
    about: dict[str, Any],
) -> str:
    """Writes the faces of a listing to the folder `out`, and returns a report that begins with the headings.

    Each image is read and decoded once (some whose landmarks are checked first, twice). Its face waits in a temporary
    file in the output folder until all images are known: copies of an image must not be in two splits, and unreadable
    images take no place in the splits. A new detection of landmarks is appended to `landmarks.jsonl` in the output
    folder at once, so that an interrupted preparation continues where it stopped.

    The original bytes are stored where nothing has to change. A face that is cropped or re-encoded becomes a JPEG of
    quality 95, or a PNG if the source's image is lossless; an aligned face is always such a JPEG.

    Faces of one subject, and copies of one image, are a *unit* and stay in one split. Units are assigned, largest first
    and otherwise in an order sampled from the seed, to the split that is furthest below its share of their expressions,
    so that the classes stay in proportion as well as the units allow.

    Args:
      listing: the faces.
      out: the folder.
      options: those of the command that are the same for all sources. `align` is a row of `alignment.FITS`, by which
        faces are warped (a face without landmarks is resized to the same size), or "none". `allow_unreadable` is the
        accepted number of unreadable images; None: one in a hundred, and at least one.
      detector: for images without landmarks; None leaves them without.
      landmarks_size: of the images that given landmarks belong to; None: these images, which is checked.
      headings: of the report, each with its text.
      about: see `store.Faces`.

    Raises:
      UserError: too many unreadable images, landmarks of images of another size, an empty split, a full disk.
    """
    name, count = Counter(image.id for image in listing.images).most_common(1)[0]
    if count > 1:
        raise UserError(f"expected each image of the source once, {name!r} comes {count} times; list it once")

    # Mistakes are reported before the work.
    sampled_shares([image.split for image in listing.images], options.validation, options.test)
    _check_landmark_sizes(listing.images, landmarks_size)
    cache = LandmarkCache(out / store.LANDMARK_CACHE)
    problems = []  # unusable images, each with the reason
    detecting = detector is not None and any(image.landmarks is None for image in listing.images)
    readable = []
    try:
        # Nameless, so that nothing of it is left behind.
        with tempfile.TemporaryFile(dir=out) as spool:
            find, settings = (detector.faces, detector.settings()) if detector is not None else (None, "")
            with contextlib.ExitStack() as stack:
                if detector is not None and detecting and options.jobs > 1:
                    find = pooled(detector, stack.enter_context(process_pool(options.jobs)))
                results = parallel_map(
                    functools.partial(_read_face, options.align, landmarks_size, find, settings, cache),
                    listing.images,
                    jobs=options.jobs,
                    description="Detecting landmarks" if detecting else "Reading images",
                )
                stack.enter_context(contextlib.closing(results))
                for image, face in zip(listing.images, results, strict=True):
                    if face.problem:
                        problems.append(f"{image.id}: {face.problem}")
                        continue
                    for key, landmarks in face.detected.items():
                        cache.add(key, landmarks)
                    readable.append(ReportedFace(image, "", face.content, face.record["has_landmarks"]))
                    pickle.dump(face.record, spool)
            first_problems = "; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else "")
            allowed = options.allow_unreadable
            if allowed is None:
                allowed = max(1, int(_UNREADABLE_SHARE * len(listing.images)))
            if len(problems) > allowed:
                raise UserError(
                    f"{len(problems)} of {len(listing.images)} images cannot be read, at most {allowed} were expected "
                    f"({first_problems}). Is the data set copied in full? Copy these files again, "
                    f"or continue without them with --allow-unreadable={len(problems)}"
                )
            if not readable:
                raise UserError(
                    "expected images to prepare, but the source has none that can be read "
                    f"({first_problems}); check --source"
                )
            splits = assign_splits(
                [face.image.expression for face in readable],
                [face.image.split for face in readable],
                join_units([face.image.subject_id for face in readable], [face.content for face in readable]),
                validation=options.validation,
                test=options.test,
                seed=options.seed,
            )
            stored = [face._replace(split=split) for face, split in zip(readable, splits, strict=True)]
            used = [split for split in SPLITS if split in splits]
            spool.seek(0)
            records = ((face.split, pickle.load(spool)) for face in stored)
            faces = store.write_faces(out, records, expressions=listing.expressions, splits=used, about=about)
    except (OSError, RuntimeError) as error:
        # array_record reports a full disk as a RuntimeError.
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            free = shutil.disk_usage(out).free / 1e6
            kept = f" The landmarks detected so far are kept in {cache.path}." if cache.path.exists() else ""
            raise UserError(
                f"{out}: no space left on the disk ({free:.0f} MB are free now that the incomplete data set is "
                f"removed).{kept} Free some space and run the same command again: it continues from there"
            ) from error
        if isinstance(error, OSError):
            raise UserError(f"{out}: expected a folder to write to, got {error}; choose another --out") from error
        raise
    return _report([*headings, ("fingerprint", faces.fingerprint[:16])], listing, problems, stored)


def _check_landmark_sizes(readable: Sequence[SourceImage], landmarks_size: Size) -> None:
    """Raises a UserError if given landmarks cannot belong to the images.

    Those of most sampled images lie outside the image or in a corner of it, or look like a face only with x and y
    exchanged, or lie, on average over twenty faces or more that fill their images, left or right of the middle.
    """
    marked = [image for image in readable if image.landmarks is not None]
    checked, misplaced, exchanged, middles = 0, [], 0, []
    for image in marked[:: max(1, len(marked) // _SAMPLE_SIZE)]:
        try:
            pixels = images.decode_untrusted(image.read())
        except (OSError, ValueError):
            continue  # unreadable images are reported when they are stored
        checked += 1
        size = np.array(pixels.shape[1::-1])
        landmarks = _given_landmarks(image, landmarks_size, pixels)
        assert landmarks is not None
        relative = landmarks / size
        inside = np.all((relative > -0.2) & (relative < 1.2), axis=1).mean()
        # A whole image that is one face has landmarks in its lower right half too.
        in_corner = image.box is None and relative.max() < 0.55
        if inside < 0.8 or in_corner:
            misplaced.append((image.id, *size, *landmarks.max(0)))
        exchanged += _misfit(landmarks[:, ::-1]) < _misfit(landmarks) / 2
        if image.box is None and np.ptp(relative[:, 0]) > 0.4:
            middles.append((relative[:, 0].min() + relative[:, 0].max()) / 2)
    if len(misplaced) > max(1, checked / 2):
        name, width, height, x, y = misplaced[0]
        raise UserError(
            f"the landmarks were found on images of another size: {name} has {width} x {height} pixels, its "
            f"landmarks reach x = {x:.0f}, y = {y:.0f} ({len(misplaced)} of {checked} checked images are like "
            "this). Give the images that the landmarks belong to; or, if these are the same images resized, give the "
            "original size with --landmarks-size=WIDTHxHEIGHT; or use --landmarks=dlib"
        )
    if exchanged > checked / 2:
        raise UserError(
            f"expected landmarks (x, y), x to the right: {exchanged} of {checked} checked images have a face only if x "
            "and y are exchanged; exchange the columns of the landmarks, or use --landmarks=dlib"
        )
    middle = float(np.median(middles)) if len(middles) >= 20 else 0.5
    if landmarks_size is None and abs(middle - 0.5) > _OFF_MIDDLE:
        raise UserError(
            f"expected landmarks about the middle of images that a face fills, on average they lie at {middle:.0%} of "
            "the width: they were probably found on images of another size. Give that size with "
            "--landmarks-size=WIDTHxHEIGHT; or --landmarks-size=own if they do belong to these images"
        )


def _misfit(landmarks: Landmarks) -> float:
    """Returns how far the five points are from those of the template, after the best similarity transform."""
    points = alignment.five_points(landmarks)
    if not np.ptp(points, axis=0).any():
        return 0.0  # all equal
    moved = alignment.move(points, alignment.similarity(points, alignment.TEMPLATE))
    return float(np.linalg.norm(moved - alignment.TEMPLATE))


def _given_landmarks(image: SourceImage, size: Size, pixels: images.Pixels) -> Landmarks | None:
    """Returns the landmarks that come with an image, in its pixels; `size` is that of the image they belong to."""
    if image.landmarks is None or size is None or size == "own":
        return image.landmarks
    return rescale_landmarks(image.landmarks, np.divide(pixels.shape[1::-1], size, dtype=np.float32))


def _read_face(
    align: str,
    landmarks_size: Size,
    find: Callable[[images.Pixels], list[DetectedFace]] | None,
    settings: str,
    cache: LandmarkCache,
    image: SourceImage,
) -> StoredFace:
    """Returns the face of one image, cropped or aligned, with its landmarks; problems are returned, not raised.

    `find` detects faces, with these `settings`; None detects none.

    Raises:
      UserError: the detector cannot be used at all.
    """
    try:
        data = image.read()
        pixels = images.decode_untrusted(data)
        content = hashlib.sha256(data + (repr(image.box).encode() if image.box else b"")).hexdigest()
        fit = alignment.FITS.get(align)
        landmarks = _given_landmarks(image, landmarks_size, pixels)
        points = image.points
        if points is None and landmarks is not None:
            points = alignment.five_points(landmarks)
        face = pixels
        if fit and points is not None:
            matrix = fit(points, alignment.TEMPLATE)
            face = alignment.warp(pixels, matrix)
            if landmarks is not None:
                landmarks = alignment.move_landmarks(landmarks, matrix)
        elif image.box is not None:
            if not np.isfinite(image.box).all():
                raise ValueError(f"its face box {image.box} is not finite")
            height, width = pixels.shape[:2]
            left, top, right, bottom = np.clip(image.box, 0, (width, height, width, height)).astype(int).tolist()
            if right - left < 2 or bottom - top < 2:
                raise ValueError(f"its face box {image.box} lies outside the image of {width} x {height} pixels")
            face = np.ascontiguousarray(pixels[top:bottom, left:right])
            if landmarks is not None:
                landmarks = landmarks - np.array([left, top])

        detected = {}
        if landmarks is None and find is not None:
            # The detector is given the image after an alignment by annotated points: the detection depends on them.
            annotated = (align, image.points.tolist()) if fit and image.points is not None else None
            key = hashlib.sha256(f"{content} {annotated} {settings}".encode()).hexdigest()
            if key not in cache:
                faces = find(face)
                detected[key] = faces[0].landmarks if faces else None
            landmarks = detected[key] if detected else cache[key]

        if fit and points is None:
            # There were no points to align by before the detection.
            if landmarks is None:
                face, _ = alignment.resize_to_square(face)
            else:
                matrix = fit(alignment.five_points(landmarks), alignment.TEMPLATE)
                face = alignment.warp(face, matrix)
                landmarks = alignment.move_landmarks(landmarks, matrix)

        if face is not pixels or not images.is_plain(data, pixels):
            data = images.encode(face, lossless=images.is_lossless(data) and not fit)
        record = {
            "image": data,
            "landmarks": np.zeros((68, 2), np.float32) if landmarks is None else landmarks.astype(np.float32),
            "has_landmarks": landmarks is not None,
            "expression": image.expression,
            "id": image.id,
            "subject_id": image.subject_id,
            "aus": list(image.aus),
            "attributes": dict(image.attributes),
        }
        return StoredFace("", content, record, detected)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        return StoredFace(images.read_problem(error), "", {}, {})


def _report(
    headings: Sequence[tuple[str, str]], listing: Listing, problems: list[str], stored: list[ReportedFace]
) -> str:
    """Returns the headings, the table of classes and splits, then problems, leaks between splits and notes."""
    width = max(len(name) for name, _ in headings)
    lines = [f"{name:<{width}}  {text}" for name, text in headings]

    # The table of how many faces of each expression are in each split and have landmarks.
    splits = [split for split in SPLITS if any(face.split == split for face in stored)]
    rows = [["expression", *splits, "all", "landmarks", "no landmarks"]]
    for index, name in enumerate([*listing.expressions, "all"]):
        faces = [face for face in stored if index in (face.image.expression, len(listing.expressions))]
        marked = sum(face.has_landmarks for face in faces)
        counts = [sum(face.split == split for face in faces) for split in splits]
        rows.append([name, *map(str, [*counts, len(faces), marked, len(faces) - marked])])
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines.append("")
    for name, *counts in rows:
        lines.append("  ".join([name.ljust(first), *map(str.rjust, counts, others)]))
    lines.append("")

    same_content = defaultdict(list)
    splits_of_subject = defaultdict(Counter)
    for face in stored:
        same_content[face.content].append(face)
        splits_of_subject[face.image.subject_id][face.split] += 1
    leaks, contradictions, subjects = [], [], []
    for copies in same_content.values():
        names = [listing.expressions[face.image.expression] for face in copies]
        for found, labels in ((leaks, [face.split for face in copies]), (contradictions, names)):
            if len(set(labels)) > 1:
                pairs = zip(copies, labels, strict=True)
                found.append(" = ".join(f"{face.image.id} ({label})" for face, label in pairs))
    for subject, counts in splits_of_subject.items():
        if subject and len(counts) > 1:
            subjects.append(f"{subject}: " + ", ".join(f"{count} in {split}" for split, count in counts.items()))
    for title, items in (
        ("unreadable images, left out", problems),
        ("copies of one image in two splits", leaks),
        ("subjects in two splits", subjects),
        ("copies of one image with two expressions", contradictions),
    ):
        lines.append(f"{title}: {len(items) or 'none'}")
        lines += [f"  {item}" for item in items[:_MAX_LISTED]]
        if len(items) > _MAX_LISTED:
            lines.append(f"  and {len(items) - _MAX_LISTED} more")

    lines += [f"note: {note}" for note in listing.notes]
    for column, split in enumerate(splits, start=1):
        missing = [row[0] for row in rows[1:-1] if row[column] == "0"]
        if missing:
            lines.append(f"note: {split} has no {', '.join(missing)}: results there do not cover these classes")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    cli.main(["prepare", *sys.argv[1:]])
