"""Trains one classifier: python train.py --config=configs/faces.py --config.data.dir=DIR --workdir=RUN."""

import pathlib

from absl import app, flags
from ml_collections import config_flags

from aujax import commandline, processes
from aujax.config import OPTIONS, from_config_dict
from aujax.training.loop import train_and_evaluate

_CONFIG = config_flags.DEFINE_config_file("config", None, "File with the options (default: configs/synthetic.py).")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; an interrupted run in it is continued.", required=True
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes, which SLURM, Open MPI, Kubernetes or a TPU's metadata tell of."
)
_COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of the first of several processes.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "How many processes there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Which of them this is, from 0.")
_LOST_AFTER = flags.DEFINE_integer(
    "lost_after", processes.LOST_AFTER, "Seconds without a sign of life after which a process is lost.", lower_bound=3
)


def main(_: list[str]) -> None:
    """Hands the checked options to the training loop."""
    interrupted = f"stopped; run the same command to continue {_WORKDIR.value}"
    with processes.watched(), commandline.user_errors("python train.py", interrupted=interrupted):
        if _DISTRIBUTED.value or _COORDINATOR.value or _NUM_PROCESSES.value or _PROCESS_ID.value >= 0:
            processes.join(
                coordinator=_COORDINATOR.value,
                count=_NUM_PROCESSES.value,
                index=_PROCESS_ID.value,
                lost_after=_LOST_AFTER.value,
            )
        commandline.keep_compiled_programs()
        train_and_evaluate(from_config_dict(_CONFIG.value), pathlib.Path(_WORKDIR.value))


if __name__ == "__main__":
    # What --help prints.
    __doc__ = f"{__doc__}\n\nOptions, explained in aujax/config.py, and their defaults:\n" + "\n".join(
        f"  --config.{name}={option.default}" for name, option in OPTIONS.items()
    )
    app.run(main, flags_parser=commandline.parse_flags)
