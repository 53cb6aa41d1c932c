"""The numbers of the paper, for the tables that set ours beside them.

Belharbi et al., Guided Interpretable Facial Expression Recognition via Spatial Action Unit Cues, FG 2024
(arXiv:2402.00281), Tables 1 to 3: one training each, no intervals, the epoch chosen on the test set (protocol
"paper"), CNNs with a ResNet-50, CL in percent. Of Fig. 5 only a drawing is published; the points at lambda 0 and 4
are those of Table 1.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

SOURCE = "Belharbi et al., FG 2024"
FACES = {"RAF-DB": 3068, "AffectNet": 3500}  # of the test splits
RAFDB, AFFECTNET = FACES


class Result(NamedTuple):
    """Accuracy in percent, and the cosines of CAM and of the attention; None where nothing is published."""

    cl: float | None
    cam: float | None
    attention: float | None


def _pair(cl: str, cam: str, attention: str) -> tuple[Result, Result]:
    """Returns the results without and with AU cues, from "88.20 88.95" and so on."""
    columns = [list(map(float, words.split())) or [None, None] for words in (cl, cam, attention)]
    without, aligned = zip(*columns, strict=True)
    return Result(*without), Result(*aligned)


# By data set and method: without and with AU cues (Tables 1 and 2).
RESULTS = {
    RAFDB: {
        "CAM": _pair("88.20 88.95", "0.55 0.70", "0.57 0.85"),
        "WILDCAT": _pair("88.26 88.85", "0.52 0.69", "0.47 0.85"),
        "GradCAM": _pair("88.39 88.85", "0.55 0.74", "0.63 0.85"),
        "GradCAM++": _pair("87.84 89.14", "0.60 0.82", "0.52 0.87"),
        "ACoL": _pair("87.94 88.68", "0.54 0.67", "0.46 0.84"),
        "PRM": _pair("88.13 88.88", "0.48 0.59", "0.43 0.85"),
        "ADL": _pair("87.45 88.65", "0.50 0.63", "0.51 0.85"),
        "CutMix": _pair("88.39 88.59", "0.55 0.57", "0.51 0.80"),
        "LayerCAM": _pair("87.90 88.88", "0.60 0.84", "0.52 0.86"),
        "TS-CAM": _pair("86.70 88.00", "0.58 0.71", "0.55 0.88"),
        "APViT": _pair("91.00 91.03", "", "0.38 0.85"),
    },
    AFFECTNET: {
        "CAM": _pair("60.88 62.37", "0.56 0.69", "0.64 0.82"),
        "WILDCAT": _pair("59.88 61.62", "0.62 0.80", "0.61 0.81"),
        "GradCAM": _pair("60.77 62.08", "0.53 0.75", "0.65 0.82"),
        "GradCAM++": _pair("60.22 62.45", "0.66 0.83", "0.65 0.82"),
        "ACoL": _pair("58.28 61.48", "0.55 0.65", "0.60 0.81"),
        "PRM": _pair("57.77 60.97", "0.52 0.75", "0.55 0.82"),
        "ADL": _pair("57.88 61.25", "0.54 0.66", "0.65 0.83"),
        "CutMix": _pair("58.74 59.88", "0.56 0.58", "0.57 0.82"),
        "LayerCAM": _pair("60.77 62.45", "0.66 0.83", "0.65 0.82"),
        "TS-CAM": _pair("58.99 59.54", "0.57 0.58", "0.48 0.79"),
        "APViT": _pair("60.62 62.28", "", "0.45 0.84"),
    },
}
METHODS = tuple(RESULTS[RAFDB])
# CAM on RAF-DB by aligned layers (Table 3; ATT-COS: Table 2); (): without AU cues.
LAYERS = {
    (): Result(88.20, 0.55, 0.57),
    ("layer1",): Result(88.52, 0.58, None),
    ("layer2",): Result(88.26, 0.57, None),
    ("layer3",): Result(88.39, 0.56, None),
    ("layer4",): Result(88.62, 0.61, None),
    ("layer5",): Result(88.95, 0.70, 0.85),
    ("layer4", "layer5"): Result(88.78, 0.67, None),
    ("layer3", "layer4", "layer5"): Result(88.78, 0.67, None),
    ("layer2", "layer3", "layer4", "layer5"): Result(88.55, 0.67, None),
    ("layer1", "layer2", "layer3", "layer4", "layer5"): Result(88.46, 0.67, None),
}
# CAM on RAF-DB by the weight of alignment.
WEIGHTS = {0.0: RESULTS[RAFDB]["CAM"][0], 4.0: RESULTS[RAFDB]["CAM"][1]}


def data_set(data: Mapping[str, Any]) -> str:
    """Returns the name of a data set from what metrics.json says of it: the paper's name, or that of its source.

    >>> data_set({"dir": "data/faces", "about": {"name": "rafdb", "source": "RAF-DB/basic"}})
    'RAF-DB'
    """
    about = data.get("about", {})
    kind = about.get("name", "")
    # The authors' folds of both data sets come in folders named after them.
    words = pathlib.PurePath(about.get("folds", "")).name if kind == "folds" else kind
    known = {"rafdb": RAFDB, "raf-db": RAFDB, "affectnet": AFFECTNET}
    return known.get(words.lower()) or (pathlib.PurePath(about.get("source") or data["dir"]).name)
