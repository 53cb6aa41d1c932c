"""A sweep: several trainings that differ in a few options, one after the other or one per job of a cluster.

  python -m aujax.sweep --config=configs/sweep_lambda.py --out=runs/lambda --config.data.dir=data/rafdb
  python -m aujax.sweep ... --list                           what there is to do, and what is done
  python -m aujax.sweep ... --row=$SLURM_ARRAY_TASK_ID       one row, for a job array
  python -m aujax.sweep ... --seeds=0,1,2                    every row once for each seed

--config names a file with ROWS, the options in which the rows differ, and get_config, what they share; every other
option of train.py may follow. A row has a folder of its own, OUT/NAME, and is trained and then evaluated on test and
validation. What is finished is skipped and what was interrupted goes on, so the same command is right at any time.

Each row runs in a process of its own: its device memory is free again when it ends, and a row that is killed, even
for memory, takes no other with it. That process is this command with --row, so a cluster's job does just the same.
"""

import argparse
import dataclasses
import json
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import rich.box
import rich.console
import rich.table

from aujax import config_files, run_files
from aujax.commandline import INTERRUPTED, keep_compiled_programs, user_errors
from aujax.config import Config
from aujax.data.feed import num_batches
from aujax.data.store import Faces, open_faces
from aujax.errors import UserError

PROGRAM = "python -m aujax.sweep"
FINISHED = "finished"
_EVALUATED = ("validation", "test")


class Row(NamedTuple):
    """One training of a sweep: its folder is named after what it differs in."""

    name: str
    config: Config


def main(argv: Sequence[str] | None = None) -> None:
    """Run the rows that the command line asks for; leave with 1 if one failed, 2 for a mistake, 130 for Ctrl-C."""
    argv = sys.argv[1:] if argv is None else list(argv)
    chosen, changes = _parser().parse_known_args(argv)
    console = rich.console.Console()
    with user_errors(PROGRAM, interrupted="stopped; the same command goes on from here"):
        rows = rows_of(chosen.config, changes, seeds=chosen.seeds)
        faces = _faces(rows[0].config)
        if chosen.list:
            console.print(_table(rows, chosen.out, faces))
        elif chosen.row is None:
            command = [sys.executable, "-m", "aujax.sweep", *argv]
            failed = run_all(rows, chosen.out, faces, lambda index: _start([*command, f"--row={index}"]))
            console.print(_table(rows, chosen.out, faces))
            if failed:
                raise SystemExit(1)
        elif 0 <= chosen.row < len(rows):
            run_row(rows[chosen.row], chosen.out, faces)
        else:
            raise UserError(f"--row: expected 0 to {len(rows) - 1}, as --list shows them, got {chosen.row}")


def rows_of(source: str, changes: Sequence[str] = (), *, seeds: Sequence[int] = ()) -> list[Row]:
    """Returns the rows of a sweep's file, all with one seed before all with the next: an index never changes.

    An option that the rows differ in cannot be changed for all of them; that is a UserError.
    """
    values: Sequence[dict[str, Any]] | None = config_files.read(source).get("ROWS")
    if not values:
        raise UserError(f"--config={source}: expected a sweep, a file with ROWS such as configs/sweep_lambda.py")
    differing = {name for row in values for name in row} | ({"seed"} if seeds else set())
    if twice := differing & {config_files.changed_name(change) for change in changes}:
        raise UserError(f"--config.{min(twice)}: the rows of the sweep differ in it; leave it out")
    rows = []
    for seed in [{"seed": seed} for seed in seeds] or [{}]:
        for row in values:
            config = config_files.changed(config_files.options(source), row | seed, changes)
            rows.append(Row(_name(row | {"seed": config.seed}), config))
    return rows


def run_all(rows: Sequence[Row], out: pathlib.Path, faces: Faces, start: Callable[[int], int]) -> list[str]:
    """Runs `start(index)`, which returns an exit status, for each row that is not finished; returns who failed.

    A row that fails is told and the next one is run; Ctrl-C ends them all.
    """
    failed = []
    for index, row in enumerate(rows):
        heading = f"row {index} of {len(rows)}, {row.name}"
        if (before := state(row, out, faces)) == FINISHED:
            print(f"{heading}: {FINISHED}, skipped", flush=True)
            continue
        print(f"{heading}: {before}", flush=True)
        status = start(index)
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        if status:
            ended = f"was killed by signal {-status}" if status < 0 else f"failed with status {status}"
            print(f"{heading}: {ended}; the same command tries it again", file=sys.stderr, flush=True)
            failed.append(row.name)
    return failed


def run_row(row: Row, out: pathlib.Path, faces: Faces) -> None:
    """Trains the row, or goes on where it was interrupted, and evaluates it; nothing if it is finished."""
    from aujax import evaluation_files  # the process that starts the others has no use for a network
    from aujax.training.loop import train_and_evaluate

    if state(row, out, faces) == FINISHED:
        print(f"{out / row.name} is finished")
        return
    keep_compiled_programs()
    train_and_evaluate(row.config, out / row.name)
    for split in _splits(faces):
        print(f"evaluated: {evaluation_files.evaluate_run(out / row.name, split)}")


def state(row: Row, out: pathlib.Path, faces: Faces) -> str:
    """Returns how far a row is: FINISHED, or what there is to do."""
    folder, config = out / row.name, row.config
    if not (folder / run_files.CONFIG).is_file():
        return "to train"
    remedy = "train.py writes it; remove the folder to train the row again"
    started = run_files.read_json(folder / run_files.CONFIG, remedy=remedy)
    if _options(dataclasses.asdict(config)) != _options(started):
        return "started with other options"
    manifest = run_files.read_json(folder / run_files.MANIFEST, remedy=remedy)
    if manifest["data"]["fingerprint"] != faces.fingerprint:
        return "started on other data"
    checkpoints = [path for path in folder.glob(f"{run_files.CHECKPOINTS}/*") if path.name.isdigit()]
    last = max((int(path.name) for path in checkpoints), default=0)
    steps_per_epoch = num_batches(faces.splits["train"], config.data.batch_size)
    if last < config.epochs * steps_per_epoch:
        return f"to continue after epoch {last // steps_per_epoch} of {config.epochs}"
    # An evaluation that is older than the last checkpoint was made of another one.
    trained = max(path.stat().st_mtime_ns for path in checkpoints)
    metrics = [folder / "eval" / split / "metrics.json" for split in _splits(faces)]
    done = all(path.is_file() and path.stat().st_mtime_ns >= trained for path in metrics)
    return FINISHED if done else "to evaluate"


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that decide a run's numbers, as config.json writes them."""
    flat = run_files.flat(json.loads(json.dumps(config)))
    return {name: value for name, value in flat.items() if name not in run_files.FREE_OPTIONS}


def _splits(faces: Faces) -> list[str]:
    return [split for split in _EVALUATED if split in faces.splits]


def _name(row: Mapping[str, Any]) -> str:
    """Returns "au_layers=layer4+layer5,seed=0": safe in paths, and what the runs are called in reports."""
    words = {name: "+".join(map(str, value)) if isinstance(value, tuple) else value for name, value in row.items()}
    name = ",".join(f"{name}={f'{value:g}' if isinstance(value, float) else value}" for name, value in words.items())
    return re.sub(r"[^\w.+=,-]+", "-", name)


def _faces(config: Config) -> Faces:
    if not config.data.dir:
        raise UserError("--config.data.dir: expected a prepared data set, got nothing; give its folder")
    return open_faces(config.data.dir)


def _start(command: Sequence[str]) -> int:
    """Returns the exit status of a command; on Ctrl-C, which it gets as well, once it has ended."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise


def _table(rows: Sequence[Row], out: pathlib.Path, faces: Faces) -> rich.table.Table:
    table = rich.table.Table("Row", box=rich.box.SIMPLE_HEAD)
    for heading in ("Folder", "State"):
        table.add_column(heading, overflow="fold")
    for index, row in enumerate(rows):
        table.add_row(str(index), shlex.quote(str(out / row.name)), state(row, out, faces))
    return table


def _seeds(text: str) -> list[int]:
    return [int(seed) for seed in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="Options of the trainings: --config.NAME=VALUE, as for train.py.",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="a sweep such as configs/sweep_lambda.py")
    parser.add_argument("--out", required=True, type=pathlib.Path, metavar="DIR", help="holds a run folder per row")
    parser.add_argument("--row", type=int, metavar="INDEX", help="run this row only, in this process")
    parser.add_argument("--seeds", type=_seeds, default=[], metavar="0,1,2", help="default: that of the configuration")
    parser.add_argument("--list", action="store_true", help="show the rows and how far they are, run nothing")
    return parser


if __name__ == "__main__":
    main()
