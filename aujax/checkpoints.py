"""Checkpoints of a run: the latest, and the best by validation accuracy. The only module that imports Orbax."""

import operator
import pathlib
from typing import Any

import jax
from orbax.checkpoint import v1 as orbax

from aujax.errors import UserError

# A parameter of fewer bytes per device is written by one of the devices: slicing it takes longer than writing it.
_SMALLEST_SLICE = 2**20


class Checkpoints:
    """The numbered checkpoints in one folder; a context manager, so that the last one is written completely."""

    def __init__(self, directory: pathlib.Path, *, keep: int = 1):
        """Opens the folder; the latest `keep` checkpoints stay, and the best one, however old it is."""
        training: Any = orbax.training  # its annotations accept neither a pathlib.Path nor its own policies
        policies = training.preservation_policies
        kept = policies.AnyPreservationPolicy(
            [policies.LatestN(keep), policies.BestN(get_metric_fn=operator.itemgetter("accuracy"), n=1)]
        )
        context = orbax.Context()
        context.array.saving.min_slice_bytes_for_replica_parallel = _SMALLEST_SLICE
        context.pytree.loading.partial_load = True
        self.checkpointer = training.Checkpointer(directory.absolute(), context=context, preservation_policy=kept)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.checkpointer.close()

    def save(self, step: int, state: Any, metrics: dict[str, float]) -> None:
        """Starts to write the state; the best checkpoint is the one with the largest `metrics["accuracy"]`."""
        # Forced: by default a save is skipped while the one before is still being written.
        self.checkpointer.save_async(step, state, metrics=metrics, force=True)


def restore(
    directory: pathlib.Path, like: Any, sharding: jax.sharding.Sharding, *, which: str
) -> tuple[int, Any, dict[str, float]] | None:
    """Returns step, state and metrics of a checkpoint in a folder; None without any.

    Args:
      directory: of the checkpoints; it need not exist.
      like: structure, shapes and types of the state, or of a part of it.
      sharding: where the arrays are placed.
      which: "latest", or "best" (of equals the later).
    """
    if not directory.is_dir():
        return None
    with Checkpoints(directory) as opened:
        checkpoints = opened.checkpointer.checkpoints  # in the order of their steps
        if not checkpoints:
            return None
        chosen = checkpoints[-1]
        if which == "best":
            chosen = max(reversed(checkpoints), key=lambda checkpoint: checkpoint.metrics["accuracy"])
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), like)
        try:
            return chosen.step, opened.checkpointer.load(chosen.step, abstract), chosen.metrics
        except (ValueError, OSError, KeyError) as error:
            raise UserError(
                f"checkpoint {chosen.step} of {directory} cannot be read ({type(error).__name__}); "
                "copy the run folder again, or delete that checkpoint"
            ) from error
