"""Explain the faces in photographs: what a trained classifier predicts, where it looks, what its answer depends on.

  aujax explain --workdir=RUN photo.jpg --out=DIR
  aujax explain --workdir=RUN folder/ clip.mp4 --faces=all --every=10 --out=DIR

Writes explanations.html (self-contained), explanations.json and explanations.csv into DIR. Photographs that cannot be
explained are reported, and the remaining images are processed.
"""

import argparse
import pathlib
import sys

from aujax import cli
from aujax.data import face_crops, video
from aujax.data.face_crops import Problem
from aujax.data.landmarks import DETECTORS, READERS
from aujax.data.sources import whole_number
from aujax.data.workers import track
from aujax.errors import UserError
from aujax.explain import page, tables
from aujax.explain.explain import ALIGNMENTS, alignment_of, check_any, explain_faces, open_model
from aujax.report import faces, html

_JSON, _CSV, _PAGE = "explanations.json", "explanations.csv", "explanations.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `aujax explain`."""
    suffixes = ", ".join(sorted(video.SUFFIXES))
    parser.add_argument("images", nargs="+", metavar="IMAGE", help=f"photographs, folders of them, videos ({suffixes})")
    parser.add_argument("--workdir", required=True, metavar="RUN", help="the run folder of aujax train")
    parser.add_argument("--out", required=True, type=pathlib.Path, metavar="DIR", help="folder to write into")
    parser.add_argument(
        "--faces",
        choices=face_crops.SELECTIONS,
        default="one",
        help="of several in a photograph (default: one, the most prominent)",
    )
    parser.add_argument(
        "--align",
        choices=ALIGNMENTS,
        default="run",
        help="warp faces by five points, or use whole photographs (default: as the run's data were prepared; for a run "
        "on cropped faces, RAF-DB's, AffectNet's or those of the released folds, only a photograph that its face fills "
        "is used whole, and other faces are warped by five points, which is close to such crops, though RAF-DB's own "
        "100 x 100 crops are somewhat tighter)",
    )
    parser.add_argument(
        "--landmarks",
        default="dlib",
        metavar=f"{'|'.join(DETECTORS)}|FILE",
        help=f"where the 68 landmarks come from; FILE ends in {', '.join(READERS)} or is a folder of .npy files, "
        "see aujax/data/landmarks.py (default: dlib)",
    )
    parser.add_argument("--landmarks-model", default="", metavar="FILE", help="dlib's 68-point predictor (.dat)")
    parser.add_argument(
        "--every", type=whole_number(1), default=1, metavar="N", help="use every N-th frame of a video (default: 1)"
    )
    parser.add_argument(
        "--batch-size", type=whole_number(1), default=32, metavar="N", help="faces in a batch (default: 32)"
    )


def run(options: argparse.Namespace) -> None:
    """Explains what the options describe, writes the files, and prints a line for each face and each problem.

    Raises:
      UserError: a mistake in an option, or nothing could be explained.
    """
    cli.keep_compiled_programs()
    # A missing package or an output that cannot be written is reported before the work, not after it.
    html.template_environment(page.PACKAGE)
    faces.matplotlib()
    out = options.out
    html.make_folder(out, _JSON, _CSV, _PAGE)
    model = open_model(options.workdir)
    align = alignment_of(model, options.align, options.faces)
    files, problems = face_crops.expand_folders(options.images)
    crops = face_crops.load_faces(
        track(files, len(files), "Reading photographs"),
        find=face_crops.face_finder(options.landmarks, files, model_file=options.landmarks_model),
        select=options.faces,
        align=align,
        size=model.run.config.input_size,
        every=options.every,
    )
    collector = page.Collector()
    for result in explain_faces(model, crops, batch_size=options.batch_size):
        if isinstance(result, Problem):
            problems.append(result)
        else:
            collector.add(result)

    explanations = collector.explanations
    lines = page.problem_lines(problems)
    for line in lines:
        print(f"not explained: {line}", file=sys.stderr)
    check_any(explanations, problems)
    facts = tables.model_facts(model, align)
    try:
        tables.write_json(out / _JSON, explanations, problems, facts)
        tables.write_csv(out / _CSV, explanations, facts)
        page.write(out / _PAGE, explanations, problems, facts)
    except OSError as error:  # such as a full disk
        raise UserError(f"--out={out}: expected to write explanations, got {error}; choose another folder") from error
    for explanation in explanations:
        print(f"{explanation.name}: {explanation.text}")
        for warning in explanation.warnings:
            print(f"  {warning}")
    skipped = f", {len(lines)} not (see above)" if lines else ""
    print(f"{len(explanations)} face{'s' * (len(explanations) > 1)} explained{skipped}: {out / _PAGE}")


if __name__ == "__main__":
    cli.main(["explain", *sys.argv[1:]])
