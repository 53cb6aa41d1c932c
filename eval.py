"""Evaluates a run: python eval.py --workdir=RUN --split=test; writes RUN/eval/test/ and prints the table."""

import pathlib

from absl import app, flags

from aujax import commandline, evaluation_files
from aujax.report import figures, tables

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, as train.py wrote it.", required=True)
_SPLIT = flags.DEFINE_string("split", "test", "Split of the data set to evaluate.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Prepared data set; default: the one the run was trained on.")
_CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", ["best", "latest"], "Best by validation accuracy, or the latest.")


def main(_: list[str]) -> None:
    """Evaluates, writes the files, draws the figures, prints the numbers."""
    with commandline.user_errors("python eval.py"):
        commandline.keep_compiled_programs()
        directory = evaluation_files.evaluate_run(
            pathlib.Path(_WORKDIR.value), _SPLIT.value, data_dir=_DATA_DIR.value, which=_CHECKPOINT.value
        )
        tables.print_evaluation(directory)
        figures.draw_evaluation(directory)


if __name__ == "__main__":
    app.run(main, flags_parser=commandline.parse_flags)
