"""Faces with their maps in HTML: one card per face or expression, small pictures that wrap on a narrow screen.

Maps are drawn in the colours of `sheet.HEAT`; those of a face each on their own scale, averages on that from 0 to 1.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from aujax.report import markup, overlays, sheet
from aujax.report.evaluations import Evaluation

Maps = Mapping[str, np.ndarray]
SCALE = (
    '<p class="note">Colours: lowest <span class="scale" role="img" aria-label="dark violet to yellow"></span> '
    "highest, within each picture: they compare places in one picture, not pictures with each other.</p>"
)
SCALE_OF_MEANS = (
    '<p class="note">Colours: 0 <span class="scale" role="img" aria-label="dark violet to yellow"></span> 1, the same '
    "everywhere. Every face's map was taken to 0–1 before the average.</p>"
)
_SIDE = 96  # pixels per side of an average


class Picture(NamedTuple):
    """A small picture in HTML, and what stands below it."""

    content: str
    caption: str


class Card(NamedTuple):
    """A heading and its pictures, in one or more groups with words above ("": none)."""

    heading: str
    groups: Sequence[tuple[str, Sequence[Picture]]]


def cards(found: Sequence[Card], *, level: int) -> str:
    """Returns a grid of cards, whose headings have that level: small ones at 4, wide ones at 3, below a section's."""
    items = []
    for card in found:
        groups = "".join(_group(words, pictures) for words, pictures in card.groups)
        items.append(f'<li><h{level}>{markup.inline(card.heading)}</h{level}><div class="groups">{groups}</div></li>')
    return f'<ul class="faces{" wide" if level == 3 else ""}">{"".join(items)}</ul>'


def _group(words: str, pictures: Sequence[Picture]) -> str:
    figures = "".join(
        f"<figure>{one.content}<figcaption>{markup.inline(one.caption)}</figcaption></figure>" for one in pictures
    )
    return f'<div><p class="verdict">{markup.inline(words)}</p><div class="pictures">{figures}</div></div>'


def right_and_wrong(evaluation: Evaluation) -> dict[str, str]:
    """Returns cards of the gallery's faces by heading: wrong ones and right ones, the surest first."""
    faces = rows(evaluation.maps(), "gallery")
    right = faces["expression"] == faces["predicted"]
    by_confidence = np.argsort(-faces["probability"], kind="stable")
    found = {}
    for title, where in (("Wrong, the surest first", ~right), ("Right, from sure to unsure", right)):
        places = [place for place in by_confidence.tolist() if where[place]]
        found[title] = cards([_card(evaluation, faces, place) for place in places], level=4) if places else ""
    return {title: content for title, content in found.items() if content}


def fixed_sample(evaluation: Evaluation) -> str:
    """Returns cards of the first face of each expression in the fixed sample."""
    faces = rows(evaluation.maps(), "sample")
    _, first = np.unique(faces["expression"], return_index=True)
    return cards([_card(evaluation, faces, place) for place in first.tolist()], level=4)


def side_by_side(shown: Sequence[Evaluation]) -> str:
    """Returns cards of the first face of each expression that all fixed samples hold, with every run's maps; or ""."""
    samples = [rows(one.maps(), "sample") for one in shown]
    common = list(set.intersection(*(set(sample["index"].tolist()) for sample in samples)))
    first, found = samples[0], []
    for expression in np.unique(first["expression"]):
        here = np.flatnonzero((first["expression"] == expression) & np.isin(first["index"], common))
        for place in here[:1].tolist():
            true = shown[0].metrics["expressions"][expression]
            groups: list[tuple[str, Sequence[Picture]]] = [("", _face(first, place, true))]
            for one, sample in zip(shown, samples, strict=True):
                row = int(np.flatnonzero(sample["index"] == first["index"][place])[0])
                groups.append((f"**{one.name}**: {_said(one, sample, row)}", _read(one, sample, row, true)))
            found.append(Card(true, groups))
    return cards(found, level=3) if found else ""


def means(shown: Sequence[Evaluation]) -> str:
    """Returns a card per expression: the average AU map, and the average attention and CAM of every evaluation."""
    found, maps = [], [one.maps() for one in shown]
    for number, expression in enumerate(shown[0].metrics["expressions"]):
        count, mapped = int(maps[0]["class_count"][number]), int(maps[0]["class_map_count"][number])
        drawn = maps[0]["class_mean/au_map"][number] if mapped else None
        groups = [("", [Picture(_mean(drawn, f"{expression}: average AU map"), "AU map")])]
        for one, each in zip(shown, maps, strict=True):
            layers = one.metrics["att_cos"] if len(shown) == 1 else [one.layer]
            pictures = []
            for name in [*(f"attention/{layer}" for layer in layers), "cam"]:
                if f"class_mean/{name}" in each:
                    words = "CAM" if name == "cam" else f"attention {name.removeprefix('attention/')}"
                    drawn = each[f"class_mean/{name}"][number] if count else None
                    pictures.append(Picture(_mean(drawn, f"{expression}: average {words}, {one.name}"), words))
            if len(shown) == 1:
                groups = [("", [*groups[0][1], *pictures])]
            else:
                groups.append((f"**{one.name}**", pictures))
        found.append(Card(f"{expression} ({count} faces, {mapped} with an AU map)", groups))
    return cards(found, level=3)


def rows(maps: Maps, kind: str) -> Maps:
    """Returns the arrays of maps.npz that belong to "sample" or "gallery", by name without it."""
    return {name.removeprefix(f"{kind}/"): value for name, value in maps.items() if name.startswith(f"{kind}/")}


def _card(evaluation: Evaluation, faces: Maps, place: int) -> Card:
    names = evaluation.metrics["expressions"]
    true, predicted = names[faces["expression"][place]], names[faces["predicted"][place]]
    heading = true if true == predicted else f"{true}, taken for {predicted}"
    if "probability" in faces:
        heading += f": {faces['probability'][place]:.2f}"
    return Card(heading, [("", [*_face(faces, place, true), *_read(evaluation, faces, place, true)])])


def _face(faces: Maps, place: int, true: str) -> list[Picture]:
    """The face itself, and its AU map."""
    index, image = faces["index"][place], faces["image"][place]
    au_map = faces["au_map"][place] if faces["has_map"][place] else None
    return [
        Picture(markup.picture(image, f"face {index}, labelled {true}"), f"face {index}"),
        Picture(overlay(image, au_map, f"AU map of {true} on face {index}"), "AU map"),
    ]


def _read(evaluation: Evaluation, faces: Maps, place: int, true: str) -> list[Picture]:
    """The attention and, where there is one, the CAM."""
    index, image, found = faces["index"][place], faces["image"][place], []
    for name, words in (("attention", f"attention of {evaluation.layer}"), ("cam", f"CAM of {true}")):
        if name in faces:
            alternative = f"{words} on face {index}, {evaluation.name}"
            caption = "CAM" if name == "cam" else f"attention {evaluation.layer}"
            found.append(Picture(overlay(image, faces[name][place], alternative), caption))
    return found


def _said(evaluation: Evaluation, faces: Maps, row: int) -> str:
    right = faces["expression"][row] == faces["predicted"][row]
    return "right" if right else f"{evaluation.metrics['expressions'][faces['predicted'][row]]} (wrong)"


def overlay(image: UInt8[np.ndarray, "height width 3"], map_: Float[np.ndarray, "h w"] | None, alternative: str) -> str:
    """Returns the map over the grey face, or an empty frame with the word for why there is none."""
    if words := overlays.why_not(map_):
        return _frame(words, alternative)
    assert map_ is not None
    return markup.picture(overlays.overlay(image, map_), alternative)


def _mean(map_: Float[np.ndarray, "h w"] | None, alternative: str) -> str:
    if words := overlays.why_not(map_):
        return _frame(words, alternative)
    assert map_ is not None
    heat = overlays.enlarged(map_, (_SIDE, _SIDE)).clip(0, 1)
    pixels = (sheet.matplotlib().colormaps[sheet.HEAT](heat)[..., :3] * 255).round().astype(np.uint8)
    return markup.picture(pixels, alternative)


def _frame(words: str, alternative: str) -> str:
    label = markup.attribute(f"{alternative}: {words}")
    return f'<div class="none" role="img" aria-label="{label}">{markup.inline(words)}</div>'
