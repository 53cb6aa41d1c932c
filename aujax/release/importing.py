"""A run folder from a released folder: complete, or not there at all."""

import contextlib
import hashlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from aujax import runs, weight_files
from aujax.config import method_options
from aujax.data.workers import track
from aujax.errors import UserError
from aujax.models import pretrained
from aujax.release import folders, options
from aujax.release.options import Translated


class Imported(NamedTuple):
    """A run folder made from a released one, and what was said about it."""

    run: pathlib.Path
    translated: Translated


def import_folder(source: pathlib.Path, run: pathlib.Path, *, backbone: str = "") -> Imported:
    """Makes the run folder of one released folder.

    `backbone` is the network the weights belong to, "" for the published one. What does not fit is a UserError, and
    then there is no run folder.
    """
    translated = _translate(source, backbone)
    return _write(source, run, translated)


def import_all(
    sources: Sequence[pathlib.Path], out: pathlib.Path, *, backbone: str = ""
) -> tuple[list[Imported], list[UserError]]:
    """Makes `out/METHOD-DATASET-au` (or `-no_au`) of each released folder; returns those made, and the mistakes."""
    imported, mistakes = [], []
    for source in track(sources, len(sources), "Importing"):
        try:
            translated = _translate(source, backbone)
            imported.append(_write(source, out / _name(translated), translated))
        except UserError as error:
            about = "" if str(source) in str(error) else f"{source}: "
            mistakes.append(UserError(f"{about}{error}"))
    return imported, mistakes


def _translate(source: pathlib.Path, backbone: str) -> Translated:
    theirs = folders.read_options(source)
    try:
        return options.translate(theirs, backbone=backbone)
    except ValueError as error:
        raise UserError(f"{source / folders.OPTIONS}: {error}") from error


def _write(source: pathlib.Path, run: pathlib.Path, translated: Translated) -> Imported:
    config, weights = translated.config, source / folders.WEIGHTS
    tensors = weight_files.read(weights)
    try:
        variables = pretrained.from_reference(
            tensors,
            config.method,
            num_classes=options.CLASSES,
            backbone=config.backbone or None,
            options=method_options(config),
            image_size=config.input_size,
        )
    except ValueError as error:
        size = f"{folders.OPTIONS} has crop_size {config.input_size}"
        raise UserError(f"{weights}: {error}\n  ({size})") from error
    with _new_folder(run) as folder:
        about = _about(source, translated)
        runs.write_imported(folder, config, variables, about, dataset=translated.dataset or "unknown")
    return Imported(run, translated)


def _about(source: pathlib.Path, translated: Translated) -> dict[str, Any]:
    with (source / folders.WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"from": str(source.resolve()), "sha256": digest} | translated.told._asdict()


def _name(translated: Translated) -> str:
    dataset = re.sub(r"[^\w.-]", "_", translated.dataset) or "unknown"
    return f"{translated.method}-{dataset}-{'au' if translated.config.au_weight else 'no_au'}"


@contextlib.contextmanager
def _new_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder to write to that becomes `folder` if all goes well; if not, all is as it was before."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out: expected a new or empty folder, {folder} is not; choose another name")
    folder = folder.resolve()
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    missing = [parent for parent in folder.parents if not parent.exists()]
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(folder)
    except UserError:
        raise
    # ValueError: what a full disk is to the writer of checkpoints.
    except (OSError, ValueError) as error:
        raise UserError(f"--out: {folder} cannot be written ({error}); choose another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in missing:
            with contextlib.suppress(OSError):  # not empty, where all went well
                parent.rmdir()
