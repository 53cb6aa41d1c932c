"""The figures of evaluations: from the metrics and maps that `eval.py` writes to PNG or SVG files."""

import itertools
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Integer

from aujax.report import charts, evaluations
from aujax.report.evaluations import Evaluation, Path
from aujax.report.panels import Column, Means, class_means, panels

Maps = Mapping[str, np.ndarray]
_Kind = TypeVar("_Kind", Column, Means)
_WIDTH = 17  # letters that fit above a picture


def draw_evaluation(directory: Path) -> list[pathlib.Path]:
    """Draw the figures of one evaluation from its metrics.json and maps.npz into `directory`/figures.

    Returns the paths of panels.png, class_means.png, confusion.png and cosines.png.
    """
    evaluation, figures = evaluations.read(directory), pathlib.Path(directory) / "figures"
    return [
        *([panel] if (panel := faces([evaluation], figures / "panels.png")) else []),
        means([evaluation], figures / "class_means.png"),
        confusion(evaluation, figures / "confusion.png"),
        cosines(evaluation, figures / "cosines.png"),
    ]


def faces(shown: Sequence[Evaluation], path: Path) -> pathlib.Path | None:
    """Draw face, AU map, attention and CAM for faces of the sample; several evaluations stand side by side.

    One face of each expression is drawn, two for a single evaluation: the first of those that all samples hold, so
    not picked by how well they came out. Returns the path of the picture, None where the samples share no face.
    """
    alone, maps = len(shown) == 1, [one.maps() for one in shown]
    first = maps[0]
    common = set.intersection(*(set(each["sample/index"].tolist()) for each in maps))
    rows = np.flatnonzero(np.isin(first["sample/index"], list(common)))
    rows = rows[choose(first["sample/expression"][rows], each=2 if alone else 1)]
    if not len(rows):
        return None
    samples = [_sample(each, first["sample/index"][rows]) for each in maps]
    au_map = Column("Action-unit\nmap", samples[0]["au_map"], samples[0]["has_map"])
    columns = [au_map, *_by_kind(shown, [_columns(*each) for each in zip(shown, samples, strict=True)])]
    headings = [_heading(shown, samples, row) for row in range(len(rows))]
    title = f"{shown[0].name}: where the network looks" if alone else "Where the networks look"
    return panels(samples[0]["image"], columns, headings, path, title=title, across=2 if alone else 1)


def means(shown: Sequence[Evaluation], path: Path) -> pathlib.Path:
    """Draw the average AU map, attention and CAM of every expression; return the path of the picture."""
    maps = [one.maps() for one in shown]
    rows = [Means("Action-unit\nmap", maps[0]["class_mean/au_map"], maps[0]["class_map_count"])]
    rows += _by_kind(shown, [_means(*each) for each in zip(shown, maps, strict=True)])
    title = (
        f"{shown[0].name}: average maps by true expression" if len(shown) == 1 else "Average maps by true expression"
    )
    return class_means(rows, shown[0].metrics["expressions"], path, title=title)


def confusion(evaluation: Evaluation, path: Path) -> pathlib.Path:
    """Draw the confusion matrix; return the path of the picture."""
    metrics = evaluation.metrics
    title = f"{evaluation.name}: {100 * metrics['cl']:.1f} % of {metrics['num_examples']} faces recognised"
    title += f"\n{evaluation.label}"
    return charts.confusion(metrics["confusion_matrix"], metrics["expressions"], path, title=title)


def cosines(evaluation: Evaluation, path: Path) -> pathlib.Path:
    """Draw the cosines by expression and layer; return the path of the picture."""
    title = f"{evaluation.name}: agreement with the action-unit map\n{evaluation.label}"
    return charts.cosines(evaluation.metrics, path, title=title)


def choose(expressions: Integer[np.ndarray, " faces"], *, each: int) -> Integer[np.ndarray, " chosen"]:
    """Returns the places of the first `each` faces of every expression.

    >>> print(choose(np.array([2, 0, 0, 2, 0]), each=2))
    [1 2 0 3]
    """
    places = [np.flatnonzero(expressions == expression)[:each] for expression in np.unique(expressions)]
    return np.concatenate(places) if places else np.zeros(0, int)


def _sample(maps: Maps, index: Integer[np.ndarray, " faces"]) -> Maps:
    """The sample's arrays of these faces, in this order, by name without "sample/"."""
    place = {face: row for row, face in enumerate(maps["sample/index"].tolist())}
    rows = [place[face] for face in index.tolist()]
    return {name.removeprefix("sample/"): value[rows] for name, value in maps.items() if name.startswith("sample/")}


def _columns(evaluation: Evaluation, sample: Maps) -> list[Column]:
    """Attention of the reported layer and, where the method has one, CAM."""
    columns = [Column(f"Attention\n({evaluation.layer})", sample["attention"])]
    return columns + ([Column("Class activation\nmap", sample["cam"])] if "cam" in sample else [])


def _means(evaluation: Evaluation, maps: Maps) -> list[Means]:
    """The averages of the same kinds of maps."""
    layer, counts = evaluation.layer, maps["class_count"]
    rows = [Means(f"Attention\n({layer})", maps[f"class_mean/attention/{layer}"], counts)]
    return rows + ([Means("Class activation\nmap", maps["class_mean/cam"], counts)] if "class_mean/cam" in maps else [])


def _by_kind(shown: Sequence[Evaluation], kinds: Sequence[Sequence[_Kind]]) -> list[_Kind]:
    """All attentions, then all CAMs; the title says whose it is where there are several evaluations."""
    if len(shown) > 1:
        names = ["/\n".join(textwrap.fill(part, _WIDTH) for part in one.name.split("/")) for one in shown]
        kinds = [
            [kind._replace(title=f"{kind.title}\n{name}") for kind in row]
            for name, row in zip(names, kinds, strict=True)
        ]
    return [kind for row in itertools.zip_longest(*kinds) for kind in row if kind is not None]


def _heading(shown: Sequence[Evaluation], samples: Sequence[Maps], row: int) -> str:
    """The true expression of a face and, for each evaluation, how it was recognised."""
    names = shown[0].metrics["expressions"]
    true = int(samples[0]["expression"][row])
    words = []
    for one, sample in zip(shown, samples, strict=True):
        predicted = int(sample["predicted"][row])
        verdict = "recognised" if true == predicted else f"taken for {names[predicted]} (wrong)"
        words.append(verdict if len(shown) == 1 else f"{one.name}: {verdict}")
    return f"{names[true]} – {';   '.join(words)}"
