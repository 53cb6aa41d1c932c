"""Prepare a data set of faces: find the images, check them, find landmarks, split, write, report.

  python -m aujax.data.prepare synthetic --out data/drawn
  python -m aujax.data.prepare folder --source photographs --out data/photographs
  python -m aujax.data.prepare rafdb --source RAF-DB/basic --out data/rafdb --align five-point --images original
  python -m aujax.data.prepare affectnet --source AffectNet --out data/affectnet
  python -m aujax.data.prepare folds --source RAF-DB --folds wsol-done-right-splits/RAF-DB --out data/rafdb

A run that was stopped goes on when the same command is given again; landmarks already found are kept.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aujax.commandline import user_errors
from aujax.data import detectors, store
from aujax.data.landmarks import read_landmarks
from aujax.data.preparation import Wishes, prepare
from aujax.data.preparation_report import Findings, render, warnings
from aujax.data.sources import SOURCES
from aujax.data.sources.listing import Listing, whole_number
from aujax.data.stored_face import Recipe
from aujax.errors import UserError

PROGRAM = "python -m aujax.data.prepare"
REPORT = "report.txt"
_ALIGN = {"none": False, "five-point": True}
# What an earlier run may have left in the output folder, and options that do not change the result.
_OURS = {store.METADATA, store.LANDMARK_CACHE, REPORT, "faces", f"{store.METADATA}.partial"}
_NOT_RECORDED = {"out", "jobs", "overwrite", "allow_unreadable"}


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare as the command line says; 0 on success, else `SystemExit`: 2 for a mistake, 130 for Ctrl-C."""
    options = _parser().parse_args(argv)
    stopped = "stopped: landmarks found so far are kept, the same command goes on from there"
    with user_errors(f"{PROGRAM} {options.name}", interrupted=stopped):
        print(run(options))
    return 0


def run(options: argparse.Namespace) -> str:
    """Prepare the data set that `options` describes, unless it is there already; what to print about it.

    Raises:
      UserError: a mistake in an option, a file or the data set.
    """
    out = Path(options.out)
    about = _about(options)
    if _is_prepared(out, about, options.overwrite):
        return f"{(out / REPORT).read_text()}\n{out} is already prepared; --overwrite prepares it again."
    source = SOURCES[options.name]
    listing = source.list_images(options)
    if not listing.images:
        raise UserError(f"--source={options.source}: expected images of faces, found none ({listing.layout})")
    listing, recipe, landmarks = _landmarks(listing, options)
    findings = Findings(
        headings=[
            ("data set", str(out)),
            ("source", f"{options.name} {options.source}".strip()),
            ("layout", listing.layout),
            ("terms", source.terms),
            ("alignment", _alignment_words(options.align)),
            ("landmarks", landmarks),
        ],
        expressions=listing.expressions,
        notes=list(listing.notes),
    )
    wishes = Wishes(out, recipe, options.validation, options.test, options.seed, options.jobs, options.allow_unreadable)
    _make_folder(out)
    faces = prepare(listing, wishes, findings, about)
    findings.headings.append(("fingerprint", faces.fingerprint[:16]))
    findings.notes += warnings(findings.rows, listing.expressions)
    report = render(findings)
    (out / REPORT).write_text(report)
    return f"{report}\nWritten to {out}; this report is {out / REPORT}."


def _landmarks(listing: Listing, options: argparse.Namespace) -> tuple[Listing, Recipe, str]:
    """The listing with its landmarks, how to make the rest, and words for the report."""
    align, size = _ALIGN[options.align], _size(options.landmarks_size)
    own = [image for image in listing.images if image.landmarks is not None]
    if options.landmarks == "none":
        return listing.with_landmarks({}), Recipe(align), "none"
    if not options.landmarks and own:
        return listing, Recipe(align, None, size), "those that come with the data"
    if options.landmarks in ("", "dlib"):
        model = detectors.find_model(options.landmarks_model)
        return listing.with_landmarks({}), Recipe(align, model), f"dlib. {detectors.TERMS}"
    path = Path(options.landmarks)
    found = read_landmarks(path, [image.id for image in listing.images])
    missing = len(listing.images) - len(found)
    words = f"{path}" + (f", which does not name {missing} of the images" if missing else "")
    return listing.with_landmarks(found), Recipe(align, None, size), words


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) * int(height)):
        raise UserError(f"--landmarks-size={text}: expected WIDTHxHEIGHT in pixels, such as 224x224")
    return int(width), int(height)


def _about(options: argparse.Namespace) -> dict[str, Any]:
    about = {name: value for name, value in sorted(vars(options).items()) if name not in _NOT_RECORDED}
    for name in ("source", "landmarks", "landmarks_model"):
        if about[name] and Path(about[name]).exists():
            about[name] = str(Path(about[name]).resolve())
    return about


def _is_prepared(out: Path, about: dict[str, Any], overwrite: bool) -> bool:
    if overwrite or not out.exists():
        return False
    if not out.is_dir():
        raise UserError(f"--out={out}: expected a folder or a new name, found a file; choose another")
    if not (out / store.METADATA).exists():
        foreign = sorted(path.name for path in out.iterdir() if path.name not in _OURS)
        if foreign:
            raise UserError(
                f"--out={out}: expected an empty or new folder, it holds {', '.join(foreign[:5])}; choose another"
            )
        return False
    before = store.open_faces(out).about
    differing = [name for name in about if about[name] != before.get(name)]
    if differing:
        changes = ", ".join(
            f"--{name.replace('_', '-')} was {before.get(name)!r}, now {about[name]!r}" for name in differing
        )
        raise UserError(
            f"--out={out} holds a data set prepared with other options ({changes}); "
            "choose another --out, or replace it with --overwrite"
        )
    return True


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={out}: expected a folder to write to, got {error}; choose another") from error


def _alignment_words(align: str) -> str:
    return {
        "none": "none: images are kept as they come",
        "five-point": "five points to 224 x 224, JPEG quality 95; faces without points are squeezed to that size",
    }[align]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sources = parser.add_subparsers(dest="name", required=True, metavar="SOURCE", title="sources")
    for name, source in SOURCES.items():
        words = f"{source.summary[0].upper()}{source.summary[1:]}. {source.terms}"
        child = sources.add_parser(name, help=source.summary, description=words)
        _add_common_options(child)
        source.add_options(child.add_argument_group(f"options of {name}"))
    return parser


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write; config.data.dir reads it")
    parser.add_argument("--align", choices=_ALIGN, default="none", help="warp faces by five points (default: none)")
    parser.add_argument(
        "--landmarks",
        default="",
        metavar="dlib|none|FILE",
        help="where the 68 landmarks come from; FILE is .txt, .csv, .npy or a folder of .npy files, see "
        "aujax/data/landmarks.py (default: those that come with the data, else dlib)",
    )
    parser.add_argument("--landmarks-model", default="", metavar="FILE", help="dlib's 68-point predictor (.dat)")
    parser.add_argument(
        "--landmarks-size", default="", metavar="WIDTHxHEIGHT", help="size of the images a landmark file was made on"
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of what is drawn at random (default: 0)")
    parser.add_argument(
        "--jobs", type=whole_number(1), default=_processors(), metavar="N", help="default: one per processor"
    )
    parser.add_argument(
        "--allow-unreadable",
        type=whole_number(0),
        metavar="N",
        help="unreadable images to leave out (default: 1 in 100)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a data set prepared before")


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
