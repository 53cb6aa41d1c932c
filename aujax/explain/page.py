"""The page of a batch of explanations: one self-contained HTML file.

Markup is in `templates/`. A page shows at most `_MAX_FACES` faces with images, because a video has many frames; its
charts over time and the tables of `tables` hold every face.
"""

import collections
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aujax import files
from aujax.codebook import ACTION_UNITS
from aujax.data.face_crops import Problem
from aujax.explain import tables
from aujax.explain.explanation import LOOKS, NEGLIGIBLE_DROP, Explanation
from aujax.explain.tables import ModelFacts
from aujax.report import html
from aujax.report.faces import missing_reason, overlay

PACKAGE = "aujax.explain"
_MAX_FACES = 100
# The regions with the largest drops, and those with the highest attention, in the short table of a face.
_TOP_REGIONS = 3


FaceKey = tuple[str, float | None, int]  # image, second and number of a face


class Collector:
    """Collects explanations, but only of as many as a page may show more than the outline, to bound the memory.

    These are the first and the last, and between them every second, fourth, eighth ... as they become more.
    """

    def __init__(self):
        self.explanations = []
        self._step = 1

    def add(self, explanation: Explanation) -> None:
        """Appends an explanation."""
        kept = self.explanations
        if len(kept) > 1 and (len(kept) - 1) % self._step:
            kept[-1] = kept[-1].outline()
        kept.append(explanation)
        if len(kept) > 2 * _MAX_FACES * self._step:
            self._step *= 2
            for i in range(self._step // 2, len(kept) - 1, self._step):
                kept[i] = kept[i].outline()

    def without_images(self) -> dict[FaceKey, int]:
        """Returns the faces that the page may show but whose images are missing, with their places in the list."""
        kept = self.explanations
        return {_key(kept[i]): i for i in range(0, len(kept), self._step) if not kept[i].aligned.size}

    def complete(self, explanation: Explanation, places: Mapping[FaceKey, int]) -> None:
        """Puts an explanation with its images into its place, if it has one."""
        if (place := places.get(_key(explanation))) is not None and place % self._step == 0:
            self.explanations[place] = explanation


def _key(explanation: Explanation) -> FaceKey:
    return explanation.image, explanation.second, explanation.face


def write(
    path: pathlib.Path, explanations: Sequence[Explanation], problems: Sequence[Problem], model: ModelFacts
) -> None:
    """Writes the page."""
    names = _short_names([explanation.image for explanation in explanations])
    explanations = [explanation._replace(image=name) for explanation, name in zip(explanations, names, strict=True)]
    with_images = np.flatnonzero([explanation.aligned.size > 0 for explanation in explanations])
    chosen = np.linspace(0, len(with_images) - 1, min(len(with_images), _MAX_FACES)).round().astype(int)
    faces = [_face(explanations[i], i + 1) for i in with_images[chosen].tolist()]
    evaluation = model.facts["evaluation"]
    accuracy = evaluation and tables.percent({**evaluation, "value": evaluation["accuracy"]})
    lines = problem_lines(problems)
    about_faces = {
        "faces": faces,
        "count": len(explanations),
        "au_titles": ACTION_UNITS,
        "aus": model.facts["aus"],
        "missing_reason": missing_reason,
        "overlay": overlay,
        "precision": model.precision_sentence,
        "problems": lines,
        "negligible": NEGLIGIBLE_DROP,
    }
    sections = [
        ("faces", "Faces", about_faces),
        ("overview", "Overview", about_faces),
        ("guide", "How to read this page", {"looks": LOOKS}),
        ("use", "Responsible use", {}),
        ("model", "The model", {**model.facts, "accuracy": accuracy}),
    ]
    title = f"Explanations of {len(explanations)} faces"
    if len(explanations) == 1:
        title = f"Explanation of {names[0]}"
    page = html.render_page(
        title,
        "explanations.html",
        sections,
        package=PACKAGE,
        evaluation=evaluation,
        accuracy=accuracy,
        explanations=explanations,
        num_problems=len(lines),
    )
    files.write(path, page)


def problem_lines(problems: Sequence[Problem]) -> list[str]:
    """Returns a line for each image that could not be explained, one for all frames of a video with the same reason.

    >>> problem_lines([Problem("a.mp4", "no face found", 0.0), Problem("a.mp4", "no face found", 0.5)])
    ['a.mp4: no face found in 2 frames, from 0.00 s to 0.50 s']
    """
    times = collections.defaultdict(list)
    for problem in problems:
        times[problem.image, problem.reason] += [] if problem.second is None else [problem.second]
    lines = []
    for (image, reason), seconds in times.items():
        when = ""
        if len(seconds) == 1:
            when = f" at {seconds[0]:.2f} s"
        elif seconds:
            when = f" in {len(seconds)} frames, from {seconds[0]:.2f} s to {seconds[-1]:.2f} s"
        lines.append(f"{image}: {reason}{when}")
    return lines


def _face(explanation: Explanation, number: int) -> dict[str, Any]:
    """Returns a face with its number and its regions, for its card and its row in the overview."""
    # The short table holds the regions with target AUs, the largest drops and the highest attention.
    by_drop = sorted(explanation.regions, key=lambda region: -region.probability_drop)
    by_attention = sorted(explanation.regions, key=lambda region: -region.attention_density)
    top = {region.aus for region in by_drop[:_TOP_REGIONS] + by_attention[:_TOP_REGIONS]}
    top |= {region.aus for region in explanation.regions if region.target_aus}
    return {
        "number": number,
        "explanation": explanation,
        "regions": [region for region in by_drop if region.aus in top],
        "other_regions": [region for region in by_drop if region.aus not in top],
    }


def _short_names(images: Sequence[str]) -> list[str]:
    """Returns the names without folders, or without the common folder if files in several folders have one name."""
    names = [os.path.basename(image) for image in images]
    if len(set(names)) == len(set(images)):
        return names
    try:
        folder = os.path.commonpath({os.path.dirname(image) for image in images})
    except ValueError:  # absolute and relative paths
        return list(images)
    return [os.path.relpath(image, folder) for image in images]
