"""Faces with their maps, as images for pages and figures.

Images are uint8 (height, width, 3), maps float (h, w) of any smaller or equal size and any range. A degenerate map, one
that is constant or not finite, is never drawn; the reason is displayed instead.
"""

import types
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from aujax.errors import UserError
from aujax.results.schema import EvaluatedRun

HEAT = "viridis"
_MEAN_SIDE = 96  # pixels per side of a mean map on a page
# Stored maps are float16, which keeps three digits: a smaller relative range is rounding.
_ROUNDING = 2e-3

Pixels = UInt8[np.ndarray, "height width 3"]
Map = Float[np.ndarray, "h w"]


class FaceImage(NamedTuple):
    """A small image of a page; without `pixels`, `reason` is shown in its place."""

    pixels: Pixels | None
    reason: str
    caption: str
    description: str


class ImageGroup(NamedTuple):
    """Images below the name of a run and whether it is right about the face; both may be empty."""

    name: str
    verdict: str
    images: list[FaceImage]


class Card(NamedTuple):
    """The images of one face, or of one expression."""

    heading: str
    groups: list[ImageGroup]


def matplotlib() -> types.ModuleType:
    """Returns matplotlib, which only figures and heat maps need."""
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        raise UserError('figures need matplotlib, which is not installed: pip install "aujax[report]"') from error
    return matplotlib


def is_degenerate(map_: Map) -> bool:
    """Returns whether a map is constant or not finite.

    >>> is_degenerate(np.ones((5, 5))), is_degenerate(np.eye(5))
    (True, False)
    """
    return missing_reason(map_) != ""


def missing_reason(map_: Map | None) -> str:
    """Returns why a map cannot be drawn, in a word or two; "" if it can.

    >>> missing_reason(np.full((2, 2), np.inf)), missing_reason(None)
    ('not finite', 'no map')
    """
    if map_ is None:
        return "no map"
    map_ = np.asarray(map_, np.float64)
    if not np.isfinite(map_).all():
        return "not finite"
    return "constant" if np.ptp(map_) <= _ROUNDING * np.abs(map_).max() else ""


def enlarge(map_: Map, size: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """Returns a map at `size` (height, width), bilinear between the centres of its cells.

    >>> print(enlarge(np.array([[0.0, 1.0]]), (1, 4)))
    [[0.   0.25 0.75 1.  ]]
    """
    image = Image.fromarray(np.asarray(map_, np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def heat(map_: Map) -> Pixels:
    """Returns a map from 0 to 1 in colours from blue over green to yellow."""
    colours = matplotlib().colormaps[HEAT](np.clip(map_, 0, 1))[..., :3]
    return (255 * colours).round().astype(np.uint8)


def grayscale(image: Pixels) -> Pixels:
    """Returns an image without its colours, so that those of a map are the only ones."""
    luminance = (image @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
    return np.repeat(luminance[..., None], 3, axis=-1)


def overlay(image: Pixels, map_: Map) -> Pixels:
    """Returns the grayscale image under the min-max normalised map, which is more opaque where it is higher."""
    map_ = np.asarray(map_, np.float32)
    normalized = enlarge((map_ - map_.min()) / (map_.max() - map_.min()), image.shape[:2])
    opacity = (0.25 + 0.5 * normalized.clip(0, 1))[..., None]
    return (grayscale(image) * (1 - opacity) + heat(normalized) * opacity).round().astype(np.uint8)


def _faces_of(run: EvaluatedRun, kind: str) -> dict[str, np.ndarray]:
    """Returns the arrays of the faces in maps.npz, `kind` "sample/" or "gallery/"."""
    return {name.removeprefix(kind): array for name, array in run.maps.items() if name.startswith(kind)}


def side_by_side(runs: Sequence[EvaluatedRun], *, each: int = 1) -> list[Card]:
    """Returns the first `each` faces of every expression that all fixed samples hold, with the maps of every run."""
    samples = [_faces_of(run, "sample/") for run in runs]
    shared = set.intersection(*(set(sample["face"].tolist()) for sample in samples))
    first = samples[0]
    cards = []
    for expression in np.unique(first["expression"]):
        members = [face for face in first["face"][first["expression"] == expression].tolist() if face in shared]
        for face in members[:each]:
            # The samples may hold the same faces in another order.
            cards.append(_face_card(runs, samples, [sample["face"].tolist().index(face) for sample in samples]))
    return cards


def gallery(run: EvaluatedRun) -> dict[str, list[Card]]:
    """Returns the cards of the faces that were selected by result, by title."""
    faces = _faces_of(run, "gallery/")
    by_probability = np.argsort(-faces["probability"], kind="stable")
    correct = (faces["expression"] == faces["predicted"])[by_probability]
    rows_by_title = {
        "Wrong predictions, the most confident first": by_probability[~correct].tolist(),
        "Correct predictions, from confident to uncertain": by_probability[correct].tolist(),
    }
    return {title: [_face_card([run], [faces], [row]) for row in rows] for title, rows in rows_by_title.items() if rows}


def class_means(runs: Sequence[EvaluatedRun]) -> list[Card]:
    """Returns a card per expression: the mean AU map, and the mean attention and CAM of every run."""
    alone = len(runs) == 1
    maps = runs[0].maps
    cards = []
    for number, expression in enumerate(runs[0].expressions):
        faces, mapped = int(maps["class_count"][number]), int(maps["class_map_count"][number])
        au_map = maps["class_mean/au_map"][number] if mapped else None
        groups = [ImageGroup("", "", [_map_image(au_map, "AU map", f"{expression}: mean AU map")])]
        for run in runs:
            if not alone:
                groups.append(ImageGroup(run.name, "", []))
            for name, kind in run.metadata["maps"].items():
                if name in ("cam", run.layer) or (alone and kind == "attention"):
                    mean = run.maps[f"class_mean/{name}"][number] if faces else None
                    caption = "CAM" if name == "cam" else f"attention {name}"
                    description = f"{expression}: mean {caption}, {run.name}"
                    groups[-1].images.append(_map_image(mean, caption, description))
        cards.append(Card(f"{expression} ({faces} faces, {mapped} with an AU map)", groups))
    return cards


def _face_card(runs: Sequence[EvaluatedRun], samples: Sequence[dict[str, np.ndarray]], rows: Sequence[int]) -> Card:
    """Returns the card of a face in a row of each run's sample: AU map, reported attention and CAM of the label."""
    faces, row = samples[0], rows[0]
    face, image, label = faces["face"][row], faces["image"][row], runs[0].expressions[faces["expression"][row]]
    au_map = faces["au_map"][row] if faces["has_map"][row] else None
    heading = label
    images = [
        FaceImage(image, "", f"face {face}", f"face {face}, labelled {label}"),
        _map_image(au_map, "AU map", f"AU map of {label} on face {face}", face=image),
    ]
    groups = [ImageGroup("", "", images)]
    for run, sample, row in zip(runs, samples, rows, strict=True):
        predicted = run.expressions[sample["predicted"][row]]
        if len(runs) > 1:
            verdict = "correct" if predicted == label else f"predicted {predicted} (wrong)"
            groups.append(ImageGroup(run.name, verdict, []))
        else:
            heading += "" if predicted == label else f", predicted {predicted}"
            heading += f": {sample['probability'][row]:.2f}" if "probability" in sample else ""
        for name, caption, text in (
            ("attention", f"attention {run.layer}", f"attention of {run.layer}"),
            ("cam", "CAM", f"CAM of {label}"),
        ):
            if name in sample:
                description = f"{text} on face {face}, {run.name}"
                groups[-1].images.append(_map_image(sample[name][row], caption, description, face=sample["image"][row]))
    return Card(heading, groups)


def _map_image(map_: Map | None, caption: str, description: str, *, face: Pixels | None = None) -> FaceImage:
    """Returns a map over its face, min-max normalised, or alone in the colours of its values from 0 to 1."""
    reason = missing_reason(map_)
    if map_ is None or reason:
        return FaceImage(None, reason, caption, description)
    pixels = heat(enlarge(map_, (_MEAN_SIDE, _MEAN_SIDE))) if face is None else overlay(face, map_)
    return FaceImage(pixels, "", caption, description)
