"""The run behind explanations, and how its faces are found and brought into the form that it was trained on."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aujax import codebook, run_files
from aujax.data import builders, detection, photos
from aujax.data.landmarks import read_landmarks
from aujax.data.photos import Finder
from aujax.errors import UserError
from aujax.runs import Run, load_run

# Whether a face is warped by five points, by the name of the option; None: as the run's data were prepared.
ALIGNMENTS = {"run": None, "five-point": True, "none": False}


class Model(NamedTuple):
    """A run with its folder, if it has one, and the temperature that divides its logits."""

    run: Run
    workdir: pathlib.Path | None
    temperature: float


def open_model(run: Run | str | pathlib.Path) -> Model:
    """Returns the run, loaded from its folder where that is given, with the temperature in calibration.json."""
    if isinstance(run, Run):
        return Model(run, None, 1.0)
    workdir, temperature = pathlib.Path(run), 1.0
    fitted = workdir / run_files.CALIBRATION
    loaded = load_run(workdir)
    if fitted.is_file():
        remedy = "evaluate the validation split again with eval.py"
        content = run_files.read_json(fitted, remedy=remedy)
        temperature = content.get("temperature", 1.0)
        if not isinstance(temperature, int | float) or not 0 < temperature < np.inf:
            raise UserError(f"{fitted}: expected a temperature above 0, got {temperature!r}; {remedy}")
    return Model(loaded, workdir, float(temperature))


def finder(landmarks: str, *, names: Sequence[str], model_file: str = "") -> Finder:
    """Returns how faces are found: by "dlib", "none" at all, or from a file of landmarks for the photographs `names`.

    `model_file` is dlib's 68-point predictor, "" the one that is installed.
    """
    if landmarks == "dlib":
        return photos.by_dlib(detection.find_model(model_file))
    return photos.whole if landmarks == "none" else photos.as_given(read_landmarks(pathlib.Path(landmarks), names))


def is_warped(model: Model, align: str, choose: str) -> bool:
    """Returns whether faces are warped by five points; without alignment there is only one face in a photograph."""
    if align not in ALIGNMENTS:
        raise UserError(f"--align: expected one of {', '.join(ALIGNMENTS)}, got {align!r}")
    if choose not in photos.CHOICES:
        raise UserError(f"--faces: expected one of {', '.join(photos.CHOICES)}, got {choose!r}")
    warped = ALIGNMENTS[align]
    if warped is None:
        warped = _prepared_with(model.run) != "none"
    if not warped and choose != "one":
        raise UserError(
            f"--faces={choose}: the whole photograph is what this model gets, so it has one face; use "
            "--align=five-point to cut each face out"
        )
    return warped


def _prepared_with(run: Run) -> str:
    """Returns the alignment with which the run's data were prepared; five-point where they are not to be found."""
    try:
        return builders.open_faces(run.config.data.dir).about.get("align", "none") if run.config.data.dir else ""
    except UserError:
        return ""


def action_units(model: Model) -> tuple[int, ...]:
    """Returns the FACS numbers that the run's codebook places on the face."""
    return codebook.load(model.run.config.codebook).all_aus
