"""Explain the faces in photographs: what a trained classifier sees, where it looks, and what its answer rests on.

  python -m aujax.explain --workdir=RUN photo.jpg --out=DIR
  python -m aujax.explain --workdir=RUN folder/ clip.mp4 --faces=all --every=10 --out=DIR

Writes explanations.html (opens without a network), explanations.json and explanations.csv into DIR. A photograph that
cannot be explained is told, and the others go on.
"""

import argparse
import pathlib
import re
import sys
from collections.abc import Sequence

import rich.console

from aujax.commandline import keep_compiled_programs, user_errors
from aujax.data import photos, video
from aujax.data.landmarks import READERS
from aujax.data.photos import Problem
from aujax.data.sources.listing import whole_number
from aujax.data.workers import track
from aujax.errors import UserError
from aujax.explain import explaining, model, page, tables
from aujax.explain.background import Background, background
from aujax.explain.explanation import Explanation
from aujax.report import output
from aujax.report.sheet import matplotlib

PROGRAM = "python -m aujax.explain"
_JSON, _CSV, _PAGE = "explanations.json", "explanations.csv", "explanations.html"


def main(argv: Sequence[str] | None = None) -> None:
    """Explain as the command line says, and print a line for each face and each problem."""
    arguments = [re.sub(r"^--[a-z_]+", lambda name: name[0].replace("_", "-"), word) for word in argv or sys.argv[1:]]
    options = _parser().parse_args(arguments)
    with user_errors(PROGRAM):
        keep_compiled_programs()
        matplotlib()  # that it is missing must be told before the work, not after it
        run(options)


def run(options: argparse.Namespace) -> None:
    """Explain what the options describe and write it.

    Raises:
      UserError: a mistake in an option, or nothing could be explained.
    """
    out = pathlib.Path(options.out)
    output.make_folder(out, _JSON, _CSV, _PAGE)  # what cannot be written must be told before the work, too
    opened = model.open_model(options.workdir)
    warped = model.is_warped(opened, options.align, options.faces)
    files, problems = photos.expand(options.photos)
    names = [str(file) for file in files]
    find = model.finder(options.landmarks, names=names, model_file=options.landmarks_model)
    outcomes = explaining.outcomes_of(
        opened,
        track(files, len(files), "Reading photographs"),
        find=find,
        choose=options.faces,
        align=options.align,
        every=options.every,
        batch_size=options.batch_size,
    )
    found = page.Thinned()
    for outcome in outcomes:
        if isinstance(outcome, Problem):
            problems.append(outcome)
        else:
            found.add(outcome)
    keeps = model.keeps_cut_out(opened, options.align)
    _write(out, background(opened, warped=warped, keeps_cut_out=keeps), model.action_units(opened), found.all, problems)


def _write(
    out: pathlib.Path, about: Background, aus: Sequence[int], found: Sequence[Explanation], problems: Sequence[Problem]
) -> None:
    told, console = page.told(problems), rich.console.Console(soft_wrap=True, highlight=False, markup=False)
    for line in told:
        print(f"not explained: {line}", file=sys.stderr)
    explaining.check_any(found, problems)
    try:
        tables.write_json(out / _JSON, found, problems, about)
        tables.write_csv(out / _CSV, found, about, aus=aus)
        page.write(out / _PAGE, found, problems, about)
    except OSError as error:  # such as a disk that is full
        raise UserError(f"--out={out}: expected to write explanations, got {error}; choose another folder") from error
    for one in found:
        console.print(f"{one.name}: {one.text}")
        for warning in one.warnings:
            console.print(f"  {warning}")
    lost = f", {len(told)} not (see above)" if told else ""
    console.print(f"{len(found)} face{'s' if len(found) > 1 else ''} explained{lost}: {out / _PAGE}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    suffixes = ", ".join(sorted(video.SUFFIXES))
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help=f"photographs, folders of them, videos ({suffixes})")
    parser.add_argument("--workdir", required=True, metavar="RUN", help="the run folder of train.py")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write into")
    parser.add_argument(
        "--faces",
        choices=list(photos.CHOICES),
        default="one",
        help="of several in a photograph (default: one, the most prominent)",
    )
    parser.add_argument(
        "--align",
        choices=list(model.ALIGNMENTS),
        default="run",
        help="warp faces by five points, or take photographs as they are (default: as the run's data were prepared; "
        "for a run on faces that were cut out before, RAF-DB's, AffectNet's or those of the released folds, only a "
        "photograph that its face fills is taken as it is, and other faces are warped by five points, which is near "
        "to such faces, though RAF-DB's own 100 x 100 crops are somewhat tighter)",
    )
    parser.add_argument(
        "--landmarks",
        default="dlib",
        metavar="dlib|none|FILE",
        help=f"where the 68 landmarks come from; FILE ends in {', '.join(READERS)} or is a folder of .npy files, "
        "see aujax/data/landmarks.py (default: dlib)",
    )
    parser.add_argument("--landmarks-model", default="", metavar="FILE", help="dlib's 68-point predictor (.dat)")
    parser.add_argument(
        "--every", type=whole_number(1), default=1, metavar="N", help="take every N-th frame of a video (default: 1)"
    )
    parser.add_argument(
        "--batch-size", type=whole_number(1), default=32, metavar="N", help="faces at once (default: 32)"
    )
    return parser


if __name__ == "__main__":
    main()
