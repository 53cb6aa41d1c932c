"""Evaluates a run: python eval.py --workdir=RUN --split=test; writes RUN/eval/test/ and prints the table.

The split "validation" also fits the temperature that calibrates the run's probabilities.
With --faithfulness it also hides parts of the faces and asks again, which takes a hundred times as long.
"""

import pathlib

from absl import app, flags

from aujax import commandline, evaluation_files, faithfulness_files, occlusion, runs
from aujax.data.builders import Faces
from aujax.report import figures, tables

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, as train.py wrote it.", required=True)
_SPLITS = flags.DEFINE_list("split", ["test"], "Splits of the data set to evaluate, such as validation,test.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Prepared data set; default: the one the run was trained on.")
_CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", ["best", "latest"], "Best by validation accuracy, or the latest.")
_FAITHFULNESS = flags.DEFINE_bool("faithfulness", False, "Also measure which parts of the faces the network uses.")
_FILLING = flags.DEFINE_enum(
    "filling", "blur", list(occlusion.IMPUTATIONS), "What --faithfulness fills hidden parts with."
)
_FACES = flags.DEFINE_integer(
    "faithfulness_faces", None, "Number of faces that --faithfulness draws; default: all.", lower_bound=1
)


def main(_: list[str]) -> None:
    """Evaluates, writes the files, draws the figures, prints the numbers."""
    with commandline.user_errors("python eval.py"):
        commandline.keep_compiled_programs()
        workdir = pathlib.Path(_WORKDIR.value)
        run = runs.load_run(workdir, which=_CHECKPOINT.value)
        faces = runs.open_data(run, _DATA_DIR.value)
        for split in _SPLITS.value:
            faces.source(split)  # one that is not there is told before the first takes its time
        for split in _SPLITS.value:
            _evaluate(run, faces, workdir, split)


def _evaluate(run: runs.Run, faces: Faces, workdir: pathlib.Path, split: str) -> None:
    directory = evaluation_files.evaluate(run, faces, workdir, split)
    tables.print_evaluation(directory)
    figures.draw_evaluation(directory)
    if _FAITHFULNESS.value:
        found = runs.temperature(run, workdir, fingerprint=faces.fingerprint)
        if found.value is None:
            print(f"faithfulness: of probabilities as the network gives them. {found.problem}")
        faithfulness_files.evaluate_faithfulness(
            run,
            faces,
            split,
            directory,
            filling=_FILLING.value,
            temperature=found.value or 1.0,
            limit=_FACES.value,
        )


if __name__ == "__main__":
    app.run(main, flags_parser=commandline.parse_flags)
