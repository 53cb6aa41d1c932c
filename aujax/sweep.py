"""A sweep: several runs that differ in a few options, trained one after the other or as one job of a cluster each.

  aujax sweep --config=sweep_lambda --out=runs/lambda --config.data.dir=data/rafdb
  aujax sweep ... --list                           what is done and what is left to do
  aujax sweep ... --row=$SLURM_ARRAY_TASK_ID       one row, for a job array
  aujax sweep ... --seeds=0,1,2                    every row with each seed

--config is a file with ROWS, the options in which the rows differ, and get_config, the options that they share; any
other option of `aujax train` may follow. A row has a folder of its own, OUT/NAME, and is trained and then evaluated
on validation and test. Finished rows are skipped and interrupted ones continued, so the same command is right at any
time.

Each row runs in its own process: its device memory is free again when the process ends, and a row that is killed,
even for memory, does not end the sweep. That process is this command with --row, as in a job of a cluster.
"""

import argparse
import dataclasses
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import rich.box
import rich.console
import rich.table

from aujax import cli, config, run_files
from aujax.config import Config
from aujax.data.feed import num_batches
from aujax.data.store import Faces, open_faces
from aujax.errors import UserError

FINISHED = "finished"
_EVALUATED = ("validation", "test")


class Row(NamedTuple):
    """One run of a sweep: the name of its folder, made of the options in which it differs, and its configuration."""

    name: str
    config: Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `aujax sweep`."""
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="file of the sweep, or a shipped one such as sweep_lambda"
    )
    parser.add_argument("--out", required=True, type=pathlib.Path, metavar="DIR", help="holds a run folder per row")
    parser.add_argument("--row", type=int, metavar="INDEX", help="run this row only, in this process")
    parser.add_argument(
        "--seeds",
        type=lambda text: [int(seed) for seed in text.split(",")],
        default=[],
        metavar="0,1,2",
        help="default: the seed of the configuration",
    )
    parser.add_argument("--list", action="store_true", help="print the rows and their states, run nothing")
    config.add_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Runs the rows; ends the process with status 1 if one failed."""
    changes = config.changes(options)
    rows = rows_of(options.config, changes, seeds=options.seeds)
    directory = rows[0].config.data.dir
    if not directory:
        raise UserError("--config.data.dir: expected a prepared data set, got nothing; give its folder")
    faces = open_faces(directory)
    if options.row is not None:
        if not 0 <= options.row < len(rows):
            raise UserError(f"--row: expected 0 to {len(rows) - 1}, see --list, got {options.row}")
        run_row(rows[options.row], options.out, faces)
        return

    failed = []
    if not options.list:
        command = [sys.executable, "-m", "aujax.sweep", f"--config={options.config}", f"--out={options.out}"]
        command += [f"--config.{name}={text}" for name, text in changes.items()]
        if options.seeds:
            command.append(f"--seeds={','.join(map(str, options.seeds))}")
        failed = run_all(rows, options.out, faces, lambda index: _exit_status([*command, f"--row={index}"]))

    table = rich.table.Table("Row", box=rich.box.SIMPLE_HEAD)
    for heading in ("Folder", "State"):
        table.add_column(heading, overflow="fold")
    for index, row in enumerate(rows):
        table.add_row(str(index), shlex.quote(str(options.out / row.name)), state(row, options.out, faces))
    rich.console.Console().print(table)
    if failed:
        raise SystemExit(1)


def rows_of(source: str, changes: Mapping[str, str] = {}, *, seeds: Sequence[int] = ()) -> list[Row]:
    """Returns the rows of a sweep's file, all with one seed before all with the next: an index never changes.

    Args:
      source: path or name of the file, with its setting.
      changes: options for all rows by dotted names, as text; a UserError where the rows differ in one.
      seeds: by default that of the configuration.
    """
    values = config.load_file(source)[1].get("ROWS")
    if not values:
        raise UserError(f"--config={source}: expected a sweep, a file with ROWS such as configs/sweep_lambda.py")
    differing = {name for row in values for name in row} | ({"seed"} if seeds else set())
    if overridden := differing & changes.keys():
        raise UserError(f"--config.{min(overridden)}: the rows of the sweep differ in it; leave it out")
    shared = config.file_options(source)
    rows = []
    for seed in [{"seed": seed} for seed in seeds] or [{}]:
        for row in values:
            configured = config.with_changes(shared | row | seed, changes)
            rows.append(Row(_name(row | {"seed": configured.seed}), configured))
    return rows


def _name(row):
    """Returns a name that is safe in paths, such as "au_layers=layer4+layer5,seed=0"; reports use it as well."""
    parts = []
    for name, value in row.items():
        if isinstance(value, tuple):
            value = "+".join(map(str, value))
        elif isinstance(value, float):
            value = f"{value:g}"
        parts.append(f"{name}={value}")
    return re.sub(r"[^\w.+=,-]+", "-", ",".join(parts))


def run_all(rows: Sequence[Row], out: pathlib.Path, faces: Faces, start: Callable[[int], int]) -> list[str]:
    """Runs each row that is not finished; returns the names of those that failed.

    A row that fails is reported and the next one is run; Ctrl-C ends the sweep.

    Args:
      rows: of the sweep.
      out: the folder of the run folders.
      faces: the data set that all rows are trained on.
      start: trains and evaluates the row of an index; returns an exit status.
    """
    failed = []
    for index, row in enumerate(rows):
        heading = f"row {index} of {len(rows)}, {row.name}"
        before = state(row, out, faces)
        if before == FINISHED:
            print(f"{heading}: {FINISHED}, skipped", flush=True)
            continue
        print(f"{heading}: {before}", flush=True)
        status = start(index)
        if status == cli.INTERRUPTED:
            raise KeyboardInterrupt
        if status:
            reason = f"was killed by signal {-status}" if status < 0 else f"failed with status {status}"
            print(f"{heading}: {reason}; the same command tries it again", file=sys.stderr, flush=True)
            failed.append(row.name)
    return failed


def run_row(row: Row, out: pathlib.Path, faces: Faces) -> None:
    """Trains the row, or continues its training, and evaluates it; does nothing if it is finished."""
    from aujax.evaluation import evaluate  # the process that starts the others needs no network
    from aujax.training.loop import train_and_evaluate

    if state(row, out, faces) == FINISHED:
        print(f"{out / row.name} is finished")
        return
    cli.keep_compiled_programs()
    train_and_evaluate(row.config, out / row.name)
    for split in _EVALUATED:
        if split in faces.splits:
            print(f"evaluated: {evaluate.evaluate_run(out / row.name, split)}")


def state(row: Row, out: pathlib.Path, faces: Faces) -> str:
    """Returns the state of a row: FINISHED, or what is left to do."""
    folder = out / row.name
    if not (folder / run_files.CONFIG).is_file():
        return "to train"
    remedy = "`aujax train` writes it; remove the folder to train the row again"
    started_with = run_files.read_json(folder / run_files.CONFIG, remedy=remedy)
    if run_files.training_options(started_with) != run_files.training_options(dataclasses.asdict(row.config)):
        return "started with other options"
    manifest = run_files.read_json(folder / run_files.MANIFEST, remedy=remedy)
    if manifest["data"]["fingerprint"] != faces.fingerprint:
        return "started on other data"
    last_step = max(run_files.checkpoint_steps(folder), default=0)
    steps_per_epoch = num_batches(faces.splits["train"], row.config.data.batch_size)
    if last_step < row.config.epochs * steps_per_epoch:
        return f"to continue after epoch {last_step // steps_per_epoch} of {row.config.epochs}"
    # An evaluation older than the last checkpoint is one of another checkpoint.
    trained = (folder / run_files.CHECKPOINTS / str(last_step)).stat().st_mtime_ns
    for split in faces.splits.keys() & _EVALUATED:
        metrics = folder / "eval" / split / "metrics.json"
        if not metrics.is_file() or metrics.stat().st_mtime_ns < trained:
            return "to evaluate"
    return FINISHED


def _exit_status(command):
    """Runs a command; on Ctrl-C, which the command receives as well, waits until it has ended."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise


if __name__ == "__main__":
    cli.main(["sweep", *sys.argv[1:]])
