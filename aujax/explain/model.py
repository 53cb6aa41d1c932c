"""The run behind explanations, and how its faces are found and brought into the form that it was trained on."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from aujax import codebook, run_files
from aujax.data import detectors, photos, store
from aujax.data.landmarks import read_landmarks
from aujax.data.photos import Finder
from aujax.errors import UserError
from aujax.runs import Run, load_run, temperature

# Whether a face is warped by five points, by the name of the option; None: as the run's data were prepared.
ALIGNMENTS = {"run": None, "five-point": True, "none": False}


class Model(NamedTuple):
    """A run with its folder, if it has one, and the temperature that divides its logits.

    `notes` are sentences on why a file of the folder was left aside.
    """

    run: Run
    workdir: pathlib.Path | None
    temperature: float
    notes: tuple[str, ...] = ()


def open_model(run: Run | str | pathlib.Path) -> Model:
    """Returns the run, loaded from its folder where that is given, with the temperature in calibration.json.

    A temperature that was fitted to another checkpoint or to other data is left aside, and a note says so.
    """
    if isinstance(run, Run):
        return Model(run, None, 1.0)
    workdir = pathlib.Path(run)
    loaded = load_run(workdir)
    if not (workdir / run_files.CALIBRATION).is_file():
        return Model(loaded, workdir, 1.0)
    found = temperature(loaded, workdir, fingerprint=loaded.manifest["data"].get("fingerprint"))
    if found.value is None:
        words = f"Probabilities are not calibrated. {found.problem} Evaluate the validation split again with eval.py."
        return Model(loaded, workdir, 1.0, (words,))
    return Model(loaded, workdir, found.value)


def finder(landmarks: str, *, names: Sequence[str], model_file: str = "") -> Finder:
    """Returns how faces are found: by "dlib", "none" at all, or from a file of landmarks for the photographs `names`.

    `model_file` is dlib's 68-point predictor, "" the one that is installed.
    """
    if landmarks not in detectors.DETECTORS:
        return photos.as_given(read_landmarks(pathlib.Path(landmarks), names))
    detector = detectors.DETECTORS[landmarks].load(model_file)
    return photos.whole if detector is None else photos.by_detector(detector)


def is_warped(model: Model, align: str, choose: str) -> bool:
    """Returns whether faces are warped by five points; without alignment there is only one face in a photograph."""
    if align not in ALIGNMENTS:
        raise UserError(f"--align: expected one of {', '.join(ALIGNMENTS)}, got {align!r}")
    if choose not in photos.CHOICES:
        raise UserError(f"--faces: expected one of {', '.join(photos.CHOICES)}, got {choose!r}")
    warped = ALIGNMENTS[align]
    if warped is None:
        warped = _prepared(model.run).get("align", "none") != "none" or keeps_cut_out(model, align)
    if not warped and choose != "one":
        raise UserError(
            f"--faces={choose}: the whole photograph is what this model gets, so it has one face; use "
            "--align=five-point to cut each face out"
        )
    return warped


def keeps_cut_out(model: Model, align: str) -> bool:
    """Returns whether a photograph that a face fills is taken whole, although others are warped by five points.

    So it is with data of faces that were cut out beforehand and are stored as they came. Each has
    margins of its own: RAF-DB's crops are tighter than the five-point template, which is that of the released folds.
    Such a crop is taken as it is, and the template stands in for all of them where a face must be cut out.
    """
    about = _prepared(model.run) if align == "run" else {}
    return about.get("align") == "none" and about.get("cropped", False)


def _prepared(run: Run) -> dict[str, Any]:
    """Returns how the run's data were prepared; by five points where they are not to be found."""
    try:
        return store.open_faces(run.config.data.dir).about if run.config.data.dir else {"align": "five-point"}
    except UserError:
        return {"align": "five-point"}


def action_units(model: Model) -> tuple[int, ...]:
    """Returns the FACS numbers that the run's codebook places on the face."""
    return codebook.load(model.run.config.codebook).all_aus
