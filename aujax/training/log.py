"""The log of a run: log.jsonl, and TensorBoard's event files where `tensorboardX` is installed."""

import contextlib
import json
import pathlib
from typing import Any

from aujax import files, processes, run_files


class Log(contextlib.AbstractContextManager):
    """Appends numbers to log.jsonl, and to TensorBoard's event files where `tensorboardX` is installed.

    Of several processes, process 0 does. The end of the context completes the event files.
    """

    def __init__(self, workdir: pathlib.Path, *, step: int):
        """Opens the log and drops what was written after `step`, from which training continues."""
        self._path = workdir / run_files.LOG
        self._board = None
        if not processes.is_first():
            return
        kept = [line for line in run_files.read_log(self._path) if line["step"] <= step]
        files.write(self._path, "".join(f"{json.dumps(line)}\n" for line in kept))
        try:
            from tensorboardX import SummaryWriter  # type: ignore[import-not-found]

            self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)
        except ImportError:
            pass

    def __exit__(self, *exception: object) -> None:
        if self._board:
            self._board.close()

    def write(self, kind: str, step: int, numbers: dict[str, Any]) -> None:
        """Appends one line.

        Args:
          kind: "train" or "validation".
          step: number of training steps so far.
          numbers: by name, some of them nested by layer; None where there is no number.
        """
        if not processes.is_first():
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"kind": kind, "step": step, **numbers}) + "\n")
        if self._board:
            for name, value in run_files.flat(numbers).items():
                if isinstance(value, int | float):  # not the name of the split, nor a cosine of no face
                    self._board.add_scalar(f"{kind}/{name}", value, step)
