"""Prepares a data set of faces: reads the images, checks them, detects landmarks, splits, writes and reports.

  aujax prepare synthetic --out data/drawn
  aujax prepare folder --source photographs --out data/photographs
  aujax prepare rafdb --source RAF-DB/basic --out data/rafdb --align five-point --images original
  aujax prepare affectnet --source AffectNet --out data/affectnet
  aujax prepare folds --source RAF-DB --folds wsol-done-right-splits/RAF-DB --out data/rafdb

An interrupted preparation continues when the same command is run again; detected landmarks are kept.
"""

import argparse
import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

from aujax import cli
from aujax.data import store, synthetic
from aujax.data.landmarks import DETECTORS, read_landmarks
from aujax.data.prepare.prepare import prepare
from aujax.data.sources import affectnet, folder, folds, rafdb, whole_number
from aujax.data.workers import processors
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
        report = _prepare(out, options, about)
        (out / REPORT).write_text(report)
        print(f"{report}\nWritten to {out}; this report is {out / REPORT}.")


def _prepare(out: Path, options: argparse.Namespace, about: dict[str, Any]) -> str:
    """Writes the data set and returns the report."""
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
        images = [dataclasses.replace(image, landmarks=named.get(image.id)) for image in listing.images]
        listing = dataclasses.replace(listing, images=images)
        if options.landmarks_size and not named:
            raise UserError(
                f"--landmarks-size={options.landmarks_size}: expected landmarks of a file or of the data set, "
                f"got --landmarks={landmarks}, which is given the images themselves; leave the option out"
            )
    if options.landmarks_model and landmarks != _DEFAULT_DETECTOR:
        raise UserError(
            f"--landmarks-model={options.landmarks_model}: expected --landmarks={_DEFAULT_DETECTOR}, the landmarks are "
            f"{landmarks}; leave the option out, or add --landmarks={_DEFAULT_DETECTOR}"
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
    return prepare(
        listing, out, options, detector=detector, landmarks_size=landmarks_size, headings=headings, about=about
    )


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


if __name__ == "__main__":
    cli.main(["prepare", *sys.argv[1:]])
