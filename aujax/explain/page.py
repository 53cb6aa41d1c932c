"""The page of a batch of explanations: one HTML file that needs nothing from outside itself."""

import html
import importlib.resources
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from aujax.data.photos import Problem
from aujax.explain import words
from aujax.explain.background import RESPONSIBLE_USE, Background
from aujax.explain.card import card, change
from aujax.explain.explanation import Explanation
from aujax.explain.timeline import timeline
from aujax.report import markup

_MOST = 100  # faces that a page shows: a video has more frames than anyone looks at
_SCALE = '<span class="scale" role="img" aria-label="from blue over green to yellow"></span>'
_READING = (
    "**Probability** is the model's own, over the expressions it knows; it has no way to say that none of them fits.",
    f"**Attention** shows where the model looks: low {_SCALE} high, each map from its own least to its own largest "
    "value. **CAM** (class activation map) shows which places speak for the predicted expression.",
    f"**Attention there** is how strong it is in the region of an action unit (AU), compared with the whole picture: "
    f"2.0× is twice the average, and from {words.LOOKS}× on it counts as looking there. Regions overlap.",
    "**Change when hidden** is what happens to the probability of the predicted expression when that region is blurred "
    "until it shows nothing. A strong change says that the answer rests on it. It counts as far as it exceeds the "
    "change by hiding as much elsewhere.",
    "**Listed** are the action units by which experts tell the predicted expression, as the model's codebook has them. "
    "An answer that rests on other units need not be wrong, but is not what the list would lead one to expect.",
    "Some action units share one place, such as AU12 and AU15 at the lip corners: no map can tell them apart.",
)


def write(
    path: pathlib.Path, explanations: Sequence[Explanation], problems: Sequence[Problem], background: Background
) -> None:
    """Writes the page, with at most 100 of the faces with pictures, evenly spaced; charts of videos have them all."""
    names = _short([one.photo for one in explanations])
    called = [one._replace(photo=name).name for one, name in zip(explanations, names, strict=True)]
    rows = [(place + 1, explanations[place], called[place]) for place in _shown(explanations)]
    cards = [
        card(
            one,
            name,
            number=number,
            record=background.records.get(one.expression),
            listed=background.facts["aus"][one.expression],
        )
        for number, one, name in rows
    ]
    count = f"{len(explanations)} face{'s' if len(explanations) > 1 else ''}"
    use = "".join(f"<li>{markup.inline(line)}</li>" for line in RESPONSIBLE_USE)
    opening = [f'<div class="caution"><strong>Before you read this.</strong><ul>{use}</ul></div>']
    reading = "".join(f"<li>{_inline(line)}</li>" for line in _READING)
    overview = [
        *_left_out(len(rows), len(explanations)),
        _overview(rows),
        *_timelines(explanations, names),
        *_problems(problems),
    ]
    sections = [
        markup.Section("overview", "Overview", overview),
        markup.Section("faces", "Faces", cards),
        markup.Section("reading", "How to read this", [f"<ul>{reading}</ul>"]),
        markup.Section("model", "The model", [markup.bullets(background.lines)]),
    ]
    style = importlib.resources.files("aujax.explain").joinpath("page.css").read_text(encoding="utf-8")
    page = markup.document(f"What the model sees in {count}", opening, sections, style=style)
    path.write_text(page, encoding="utf-8")


class Thinned:
    """The explanations of a video as they come, of which so many keep their pictures as the page may need.

    The first and the last do, and between them every second, fourth, eighth ... the longer it gets.
    """

    def __init__(self):
        self.all: list[Explanation] = []
        self._step = 1

    def add(self, one: Explanation) -> None:
        """Takes the next one."""
        last = len(self.all) - 1
        if last > 0 and last % self._step:
            self.all[last] = self.all[last].without_pictures()
        self.all.append(one)
        if len(self.all) > 2 * _MOST * self._step:
            self._step *= 2
            for place in range(self._step // 2, len(self.all) - 1, self._step):
                self.all[place] = self.all[place].without_pictures()


def _shown(explanations: Sequence[Explanation]) -> list[int]:
    """Returns which of the faces the page shows, the first and the last of those with pictures among them."""
    places = np.flatnonzero([one.picture.size > 0 for one in explanations])
    return places[np.linspace(0, len(places) - 1, min(len(places), _MOST)).round().astype(int)].tolist()


def _left_out(shown: int, count: int) -> list[str]:
    if shown == count:
        return []
    words = f"This page shows {shown} of the {count} faces, evenly spaced, by their numbers among all"
    return [markup.paragraph(f"{words}; `explanations.json` and `explanations.csv` hold every face.")]


def _inline(line: str) -> str:
    """Returns words as HTML, with the scale of the heat colours where it is meant."""
    return _SCALE.join(markup.inline(part) for part in line.split(_SCALE))


def _overview(faces: Sequence[tuple[int, Explanation, str]]) -> str:
    """Returns the table of the faces, each with its number and its name."""
    columns = ("Face", "Photograph", "Sees", "Probability", "Rests most on", "Change when hidden", "Warnings")
    right = {"Face", "Probability", "Change when hidden", "Warnings"}
    header = "".join(f'<th scope="col"{_side(name in right)}>{name}</th>' for name in columns)
    rows = []
    for number, one, name in faces:
        best = one.strongest
        rests = best is not None and best.effect >= words.HARDLY
        place = f"{words.units(best.listed or best.aus)}, {best.place.removeprefix('the ')}" if best and rests else "–"
        cells = (
            f'<td class="number">{number}</td>'
            f'<th scope="row"><a href="#face-{number}">{html.escape(name)}</a></th>'
            f"<td>{html.escape(one.expression)}</td>"
            f'<td class="number">{one.probability:.2f}</td><td>{html.escape(place)}</td>'
            f'<td class="number">{change(best) if best and rests else "–"}</td>'
            f'<td class="number">{len(one.warnings)}</td>'
        )
        rows.append(f"<tr>{cells}</tr>")
    table = f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return markup.scrolling(table, label="All faces")


def _timelines(explanations: Sequence[Explanation], names: Sequence[str]) -> list[str]:
    """Returns a chart of each video with several frames, of the most prominent face in each."""
    frames: dict[str, list[Explanation]] = {}
    for one, name in zip(explanations, names, strict=True):
        if one.second is not None and one.face == 1:
            frames.setdefault(name, []).append(one)
    return [timeline(found, name) for name, found in frames.items() if len(found) > 1]


def _side(right: bool) -> str:
    return ' class="number"' if right else ""


def _problems(problems: Sequence[Problem]) -> list[str]:
    if not problems:
        return []
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in told(problems))
    return [markup.heading("Not explained"), f"<ul>{lines}</ul>"]


def told(problems: Sequence[Problem]) -> list[str]:
    """Returns a line for each photograph that could not be explained, one for all frames with the same reason.

    >>> told([Problem("a.mp4", "no face found", 0.0), Problem("a.mp4", "no face found", 0.5)])
    ['a.mp4: no face found in 2 frames, from 0.00 s to 0.50 s']
    """
    found: dict[tuple[str, str], list[float]] = {}
    for one in problems:
        seconds = found.setdefault((one.photo, one.reason), [])
        if one.second is not None:
            seconds.append(one.second)
    lines = []
    for (photo, reason), seconds in found.items():
        span = f" at {seconds[0]:.2f} s" if seconds else ""
        if len(seconds) > 1:
            span = f" in {len(seconds)} frames, from {seconds[0]:.2f} s to {seconds[-1]:.2f} s"
        lines.append(f"{photo}: {reason}{span}")
    return lines


def _short(photos: Sequence[str]) -> list[str]:
    """Returns the names without their folders, or where files are called alike without those common to all."""
    if len({os.path.basename(photo) for photo in photos}) == len(set(photos)):
        return [os.path.basename(photo) for photo in photos]
    folders = {os.path.dirname(photo) for photo in photos}
    common = os.path.commonpath(folders) if len({os.path.isabs(folder) for folder in folders}) == 1 else ""
    return [os.path.relpath(photo, common) if common else photo for photo in photos]
