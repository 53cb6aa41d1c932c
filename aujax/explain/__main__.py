"""Explain the faces in photographs: what a trained classifier predicts, where it looks, what its answer depends on.

  aujax explain --workdir=RUN photo.jpg --out=DIR
  aujax explain --workdir=RUN folder/ clip.mp4 --faces=all --every=10 --out=DIR

Writes explanations.html (self-contained), explanations.json and explanations.csv into DIR. Photographs that cannot be
explained are reported, and the remaining images are processed. Each result is in explanations.jsonl.partial at once, a
line of JSON, and the same command continues after an interruption; the file is explanations.jsonl at the end.
"""

import argparse
import contextlib
import pathlib
import sys

from aujax import cli
from aujax.data import face_crops, video
from aujax.data.face_crops import Problem
from aujax.data.landmarks import DETECTORS, READERS
from aujax.data.sources import whole_number
from aujax.data.workers import process_pool, processors
from aujax.errors import UserError
from aujax.explain import page, tables
from aujax.explain.explain import ALIGNMENTS, alignment_of, check_any, explain_faces, open_model
from aujax.explain.explanation import Explanation, outline_of
from aujax.explain.journal import Journal
from aujax.report import faces, html

_JOURNAL, _JSON = "explanations.jsonl", "explanations.json"
_CSV, _PAGE = "explanations.csv", "explanations.html"


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
    parser.add_argument(
        "--jobs",
        type=whole_number(1),
        default=processors(),
        metavar="N",
        help="processes that find faces (default: one per processor)",
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
    html.make_folder(out, _JOURNAL, _JSON, _CSV, _PAGE)
    model = open_model(options.workdir)
    align = alignment_of(model, options.align, options.faces)
    facts = tables.model_facts(model, align)
    files, problems = face_crops.expand_folders(options.images)
    settings = {name: str(getattr(options, name)) for name in ("faces", "landmarks", "landmarks_model", "every")}
    header = {"model": facts.facts, "options": settings, "images": list(map(str, files))}
    collector = page.Collector()
    explanations = collector.explanations
    try:
        with Journal(out / _JOURNAL, header) as journal:
            # Images that are in the journal are not explained again, but for the page: it holds no images of faces.
            for data in journal.results("explanation"):
                collector.add(outline_of(data))
            problems += [Problem(**data) for data in journal.results("problem")]
            done = journal.images()
            if done:
                print(f"{len(done)} images were explained before; continuing after them")
            shown = collector.without_images()
            again = {(image, second) for image, second, _ in shown}
            done -= again
            left = face_crops.count_images(files, every=options.every) - len(done)
            jobs = max(1, min(options.jobs, left))
            detects = options.landmarks in DETECTORS and jobs > 1
            with process_pool(jobs) if detects else contextlib.nullcontext() as pool:
                crops = face_crops.load_faces(
                    files,
                    find=face_crops.face_finder(
                        options.landmarks, files, model_file=options.landmarks_model, pool=pool
                    ),
                    select=options.faces,
                    align=align,
                    size=model.run.config.input_size,
                    every=options.every,
                    jobs=jobs,
                    done=done,
                    description="Explaining images",
                )
                for result in explain_faces(model, crops, batch_size=options.batch_size):
                    if (result.image, result.second) in again:
                        if isinstance(result, Explanation):
                            collector.complete(result, shown)
                    elif isinstance(result, Problem):
                        problems.append(result)
                        journal.add("problem", result._asdict())
                    else:
                        collector.add(result)
                        journal.add("explanation", tables.as_data(result, facts))
                        print(f"{result.name}: {result.text}")
                        for warning in result.warnings:
                            print(f"  {warning}")
            lines = page.problem_lines(problems)
            for line in lines:
                print(f"not explained: {line}", file=sys.stderr)
            check_any(explanations, problems)
            tables.write_json(out / _JSON, journal.results("explanation"), problems, facts)
            tables.write_csv(out / _CSV, journal.results("explanation"), facts)
            page.write(out / _PAGE, explanations, problems, facts)
            journal.finish()
    except OSError as error:  # such as a full disk
        raise UserError(f"--out={out}: expected to write explanations, got {error}; choose another folder") from error
    skipped = f", {len(lines)} not (see above)" if lines else ""
    print(f"{len(explanations)} face{'s' * (len(explanations) > 1)} explained{skipped}: {out / _PAGE}")


if __name__ == "__main__":
    cli.main(["explain", *sys.argv[1:]])
