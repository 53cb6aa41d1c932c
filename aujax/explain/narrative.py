"""The text of an explanation: where the network looks, what its answer depends on, and reasons not to rely on it."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from aujax.explain.explanation import Region

# The part of the face where an action unit is drawn, by FACS number.
PLACES = {
    1: "the inner brows",
    2: "the outer brows",
    4: "the brows",
    5: "the upper eyelids",
    6: "the cheeks",
    7: "the eyelids",
    9: "the sides of the nose",
    10: "the upper lip",
    12: "the lip corners",
    14: "the cheeks beside the mouth",
    15: "the lip corners",
    16: "the lower lip",
    17: "the chin",
    20: "the skin below the lip corners",
    23: "the mouth",
    24: "the mouth",
    25: "the lips",
    26: "the mouth",
    27: "the mouth",
    43: "the eyes",
}
# The network looks at a region whose mean attention is at least this many times the image's.
LOOKS = 1.3
# A drop of probability below this is negligible, and two drops that differ by less than the second number are equal.
NEGLIGIBLE_DROP = 0.03
_EQUAL_DROPS = 0.01
# The number of regions that a sentence names.
_NAMED = 2

# Thresholds of the warnings. The face: its rotation in degrees, and the distance between the eyes in pixels of the
# photograph and in sides of the network's input, where it is 0.31 after alignment by five points.
_MAX_YAW = 20.0
_MIN_EYE_DISTANCE = 25.0
_MIN_EYE_FRACTION = 0.15
_MAX_ENLARGEMENT = 1.5
# The attention outside the face: more than half is too much, however small the face is in the image.
_MAX_OUTSIDE = 0.5
# The answer: its probability, and its lead over the second expression.
_MIN_PROBABILITY = 0.5
_MIN_LEAD = 0.1
# The height of the nose tip above the line between the outer eye corners, in halves of that line, in adult faces.
_NOSE_HEIGHT = 0.9
_MAP_NAMES = {"attention": "attention", "cam": "class activation map"}


def au_names(numbers: Sequence[int]) -> str:
    """Returns FACS numbers as they are written in a sentence.

    >>> au_names((23, 24))
    'AU23/24'
    """
    return f"AU{'/'.join(map(str, numbers))}"


def looked_at(regions: Sequence[Region]) -> list[Region]:
    """Returns the regions with the highest attention, at most two, one for each place."""
    by_place: dict[str, Region] = {}
    for region in sorted(regions, key=lambda region: -region.attention_density):
        if region.attention_density >= LOOKS:
            by_place.setdefault(region.place, region)
    return list(by_place.values())[:_NAMED]


def sentence(
    expression: str,
    probability: float,
    regions: Sequence[Region],
    *,
    degenerate: Sequence[str],
    control_drop: float | None,
    has_targets: bool,
) -> str:
    """Returns the prediction, where the network looks and what the prediction depends on, in one sentence.

    Args:
      expression: the predicted one.
      probability: of the predicted expression.
      regions: of the action units; () without landmarks.
      degenerate: the maps that are constant or not finite.
      control_drop: the drop of the probability when equal areas elsewhere are occluded.
      has_targets: whether the codebook lists action units for the expression; without a list, no action unit is
        called unlisted.
    """
    start = f"{expression} {probability:.2f}"
    if not regions:
        return f"{start}: without landmarks, action units cannot be located."
    mentioned: set[tuple[int, ...]] = set()

    def name(region: Region) -> str:
        """Returns the place with its target AUs; if it has none, the first mention says so."""
        if region.target_aus:
            return f"{region.place} ({au_names(region.target_aus)})"
        remark = f", not listed for {expression}" if has_targets and region.aus not in mentioned else ""
        mentioned.add(region.aus)
        return f"{region.place} ({au_names(region.aus)}{remark})"

    if "attention" in degenerate:
        looks = "its attention map is degenerate"
    elif places := [name(region) for region in looked_at(regions)]:
        looks = f"the model looks at {' and '.join(places)}"
    else:
        looks = "its attention is not concentrated on any action unit"

    best, *others = sorted(regions, key=lambda region: -region.probability_drop)
    drop = best.probability_drop
    if drop < NEGLIGIBLE_DROP:
        return f"{start}: {looks}; hiding the region of any single action unit hardly lowers it."
    names = name(best)
    if others and drop - others[0].probability_drop < _EQUAL_DROPS:
        names = f"{names} or {name(others[0])}"
    depends = f"hiding {names} lowers it most, to {max(probability - drop, 0):.2f}"
    if control_drop is not None and control_drop >= drop:
        depends += f", no more than hiding equal areas elsewhere ({max(probability - control_drop, 0):.2f})"
    return f"{start}: {looks}; {depends}."


def yaw(landmarks: Float[np.ndarray, "68 2"]) -> float:
    """Returns an estimate of the head's rotation to a side in degrees, from the offset of the nose tip.

    Rotation by an angle a shrinks the half distance w between the outer eye corners to w cos a, and moves a nose tip
    of height 0.9 w by 0.9 w sin a.
    """
    axis = landmarks[45] - landmarks[36]
    nose = landmarks[30] - landmarks[36]
    squared = float((axis**2).sum())
    offset = 2 * float(nose @ axis) / squared - 1 if squared > 0 else 0.0
    return float(np.degrees(np.arctan(abs(offset) / _NOSE_HEIGHT)))


def warnings(
    *,
    landmarks: Float[np.ndarray, "68 2"] | None,
    enlargement: float,
    eye_fraction: float | None,
    unselected: int,
    probabilities: Mapping[str, float],
    degenerate: Sequence[str],
    outside: tuple[float, float] | None,
    regions: Sequence[Region],
) -> list[str]:
    """Returns the reasons not to rely on an explanation, as sentences without capital and full stop.

    Args:
      landmarks: in pixels of the photograph.
      enlargement: pixels of the network's input per pixel of the photograph.
      eye_fraction: the distance between the eyes in sides of the network's input; None without landmarks.
      unselected: the number of other faces in the photograph that are not explained.
      probabilities: of every expression.
      degenerate: the maps that are constant or not finite.
      outside: the fractions of the attention and of the image outside the face; None without landmarks.
      regions: of the action units; () without landmarks.
    """
    found = []
    if landmarks is None:
        found.append("no landmarks: the whole image was used, and action units cannot be located")
    else:
        angle = yaw(landmarks)
        if angle > _MAX_YAW:
            found.append(f"the face is turned sideways by about {angle:.0f} degrees: its regions are less exact")
        eyes = float(np.hypot(*(landmarks[42:48].mean(0) - landmarks[36:42].mean(0))))
        if eyes < _MIN_EYE_DISTANCE:
            found.append(
                f"the face is small: {eyes:.0f} pixels between the eyes, at least {_MIN_EYE_DISTANCE:.0f} are needed "
                "for exact regions"
            )
        if eye_fraction is not None and eye_fraction < _MIN_EYE_FRACTION:
            found.append(
                f"the face is a small part of the model's input: {100 * eye_fraction:.0f} % of its width are between "
                "the eyes, 31 % with --align=five-point; use that unless the model was trained on such images"
            )
    if enlargement > _MAX_ENLARGEMENT:
        found.append(
            f"the face is smaller than the model's input: it was enlarged {enlargement:.1f} times, which adds no detail"
        )
    if unselected:
        found.append(f"{unselected + 1} faces in the photograph: this is the most prominent one")

    (first, high), *others = sorted(probabilities.items(), key=lambda item: -item[1])
    if others:
        second, low = others[0]
        if high < _MIN_PROBABILITY or high - low < _MIN_LEAD:
            found.append(f"the model is uncertain: {first} {high:.2f}, {second} {low:.2f}")

    for name in degenerate:
        found.append(f"the {_MAP_NAMES[name]} is constant or not finite: it does not show where the model looks")
    if outside is not None and "attention" not in degenerate:
        attention, area = outside
        if attention >= min(area, _MAX_OUTSIDE):
            found.append(
                f"{100 * attention:.0f} % of the attention is outside the face: the answer may depend on something "
                "other than action units"
            )

    # The answer depends on some region, but not on the one with the highest attention.
    strongest = max((region.probability_drop for region in regions), default=0.0)
    if strongest >= NEGLIGIBLE_DROP:
        looked = max(regions, key=lambda region: region.attention_density)
        if looked.attention_density >= LOOKS and looked.probability_drop < NEGLIGIBLE_DROP:
            found.append(
                f"the model looks most at {looked.place} ({au_names(looked.target_aus or looked.aus)}), but hiding "
                "that region hardly lowers the probability: here attention does not show what the answer depends on"
            )
    return found
