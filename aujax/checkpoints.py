"""Checkpoints of a run: the latest, and the best by validation accuracy. The only module that imports Orbax.

Each checkpoint has a file of checksums, which are compared with its other files before anything in it is used.
"""

import contextlib
import functools
import hashlib
import json
import logging
import operator
import pathlib
import shutil
from typing import Any

import jax
from orbax.checkpoint import v1 as orbax

from aujax import processes
from aujax.errors import UserError

log = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"
SET_ASIDE = "damaged_checkpoints"  # folder beside that of the checkpoints
# A parameter of fewer bytes per device is written by one of the devices: slicing it takes longer than writing it.
_SMALLEST_SLICE = 2**20
_ORBAX_METADATA = "_CHECKPOINT_METADATA"  # a file of every complete checkpoint
_WRITTEN_LAST = (_ORBAX_METADATA, "commit_success.txt")  # after the checksums


class Damaged(Exception):
    """A checkpoint is not what was written."""


class Checkpoints:
    """The numbered checkpoints in one folder; a context manager, so that the last one is written completely."""

    def __init__(self, directory: pathlib.Path, *, keep: int = 2, last: int | None = None):
        """Opens the folder for writing.

        What an interrupted save or deletion left is removed. Checkpoints that are damaged, as those after the step
        `last` and those without readable metrics, are moved to the folder `SET_ASIDE` beside this one.

        Args:
          directory: of the checkpoints; made if it does not exist.
          keep: how many of the latest checkpoints stay; the best one stays, however old it is.
          last: the step that training continues from, of the latest intact checkpoint; None in a new folder.
        """
        directory = directory.absolute()
        if processes.is_first():
            for folder in _folders(directory):
                newer = last is not None and int(folder.name) > last
                metrics = _read_json(folder / "metrics" / "metrics")
                readable = (folder / _ORBAX_METADATA).is_file() and "accuracy" in metrics
                if _left_over(folder):
                    shutil.rmtree(folder)
                elif newer or not readable:
                    target = directory.with_name(SET_ASIDE) / folder.name
                    shutil.rmtree(target, ignore_errors=True)
                    shutil.move(folder, target)
                    log.warning("checkpoint %s is damaged and was moved to %s", folder.name, target)
        processes.wait_for_all("damaged checkpoints are set aside")
        training: Any = orbax.training  # its annotations accept neither a pathlib.Path nor its own policies
        policies = training.preservation_policies
        kept = policies.AnyPreservationPolicy(
            [policies.LatestN(keep), policies.BestN(get_metric_fn=operator.itemgetter("accuracy"), n=1)]
        )
        context = orbax.Context()
        context.array.saving.min_slice_bytes_for_replica_parallel = _SMALLEST_SLICE
        # Called when all processes have written their files, before the folder gets its final name.
        context.asynchronous.post_finalization_callback = functools.partial(_write_checksums, directory)
        self.checkpointer = training.Checkpointer(
            directory, context=context, preservation_policy=kept, cleanup_tmp_directories=True
        )

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
      which: "latest", "best" (of equals the later), or "intact": the latest that is not damaged, with a warning if that
        is not the latest.

    Raises:
      UserError: the checkpoint is damaged; of "intact" ones: all are.
    """
    folders = [folder for folder in _folders(directory) if not _left_over(folder)]
    if which == "best":
        folders.sort(key=lambda folder: max((copy["accuracy"] for copy in _metrics(folder)), default=-1), reverse=True)
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), like)
    problems = []
    for folder in folders if which == "intact" else folders[:1]:
        try:
            state, metrics = _read(folder, abstract)
        except Damaged as error:
            problems.append(f"checkpoint {folder.name} of {directory} is damaged ({error})")
            continue
        for problem in problems:
            log.warning("%s; continuing from checkpoint %s", problem, folder.name)
        return int(folder.name), state, metrics
    if problems:
        raise UserError(f"{problems[0]}; copy the run folder again, or delete that checkpoint")
    return None


def _folders(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns the numbered folders, the latest first."""
    numbered = [path for path in directory.glob("*") if path.name.isdigit() and path.is_dir()]
    return sorted(numbered, key=lambda path: int(path.name), reverse=True)


def _left_over(folder: pathlib.Path) -> bool:
    """Returns whether the folder is no checkpoint, but what an interrupted deletion left of one."""
    return not any((folder / name).is_file() for name in (_ORBAX_METADATA, CHECKSUMS))


def _checksums(folder: pathlib.Path) -> dict[str, str]:
    """Returns the SHA-256 of the files that are complete when checksums are written, by their path in the folder."""
    sums = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name not in (*_WRITTEN_LAST, CHECKSUMS):
            with path.open("rb") as file:
                sums[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def _write_checksums(directory: pathlib.Path) -> None:
    """Writes the checksums of the checkpoint that is being completed, and a copy of its metrics."""
    if processes.is_first():
        (folder,) = directory.glob("*.orbax-checkpoint-tmp")
        content = {"metrics": _read_json(folder / "metrics" / "metrics"), "sha256": _checksums(folder)}
        (folder / CHECKSUMS).write_text(json.dumps(content, indent=1))


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the content of a file, {} if there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_bytes())
        return content if isinstance(content, dict) else {}
    return {}


def _metrics(folder: pathlib.Path) -> list[dict[str, float]]:
    """Returns the readable copies of the metrics, of two: a damaged one must not make another checkpoint the best."""
    copies = [_read_json(folder / CHECKSUMS).get("metrics"), _read_json(folder / "metrics" / "metrics")]
    return [copy for copy in copies if isinstance(copy, dict) and isinstance(copy.get("accuracy"), float | int)]


def _read(folder: pathlib.Path, abstract: Any) -> tuple[Any, dict[str, float]]:
    """Returns state and metrics of a checkpoint if all of it is what was written, otherwise raises `Damaged`."""
    if not (folder / _ORBAX_METADATA).is_file():
        raise Damaged(f"{_ORBAX_METADATA} is missing")
    expected = _read_json(folder / CHECKSUMS).get("sha256")
    if (folder / CHECKSUMS).exists():
        found = _checksums(folder)
        if not isinstance(expected, dict):
            raise Damaged(f"{CHECKSUMS} cannot be read")
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise Damaged(f"{name} {'has changed' if name in found else 'is missing'}")
    else:
        log.warning("%s has no %s, like those of earlier versions: it may be damaged", folder, CHECKSUMS)
    copies = _metrics(folder)
    if not copies or any(copy != copies[0] for copy in copies):
        raise Damaged("its metrics have changed")
    try:
        context = orbax.Context()
        context.pytree.loading.partial_load = True
        with context:
            return orbax.load(folder.absolute(), abstract), copies[0]
    except (ValueError, OSError, KeyError) as error:
        raise Damaged(f"{type(error).__name__} in reading its arrays") from error
