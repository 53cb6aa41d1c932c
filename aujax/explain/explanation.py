"""The explanation of one face, its summary in a sentence, and the reasons not to rely on it.

Boxes (left, top, right, bottom) and landmarks are pixels of the photograph. Maps are float32 (h, w) at the network's
own resolution over the aligned face, not normalised. Images are RGB uint8.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

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
_FLOOR = 1e-8

Landmarks = Float[np.ndarray, "68 2"]
Map = Float[np.ndarray, "_ _"]
Pixels = UInt8[np.ndarray, "_ _ 3"]


_NO_PIXELS, _NO_MAP = np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), np.float32)


class Region(NamedTuple):
    """The region of one or several action units (AUs) on the face, and what the network does with it.

    Attributes:
      aus: FACS numbers of the action units that share exactly this region.
      place: the region's name, such as "the lip corners".
      target_aus: those of `aus` that the codebook lists for the predicted expression.
      area: the fraction of the image that the region covers.
      attention: the fraction of the attention, counted from its minimum, inside the region.
      cam: the same for the CAM of the predicted expression; None for a method without CAM.
      probability_drop: the drop of the predicted expression's probability when the region is occluded; negative for a
        rise.
    """

    aus: tuple[int, ...]
    place: str
    target_aus: tuple[int, ...]
    area: float
    attention: float
    cam: float | None
    probability_drop: float

    @property
    def attention_density(self) -> float:
        """The mean attention in the region, relative to the mean of the image."""
        return self.attention / max(self.area, _FLOOR)

    @property
    def cam_density(self) -> float | None:
        """The mean CAM in the region, relative to the mean of the image."""
        return None if self.cam is None else self.cam / max(self.area, _FLOOR)


class Explanation(NamedTuple):
    """The explanation of one face.

    Attributes:
      image: the path of the photograph or video, "image 1" for the first array.
      second: the time in a video; None for a photograph.
      face: the rank among the `faces` detected in the photograph, from 1, the most prominent first.
      faces: the number of detected faces.
      box: the bounding box of the face.
      landmarks: the 68 landmarks; None if there are none.
      thumbnail: the face and its surroundings.
      aligned: the aligned face, which the network gets at its input size.
      expression: the predicted expression.
      probability: of the predicted expression.
      probabilities: of every expression, in the codebook's order.
      attention: of the layer that the AU alignment acts on.
      cam: the class activation map of the predicted expression; None for a method without CAM.
      au_map: of the predicted expression, in [0, 1]; None without landmarks or target AUs.
      degenerate: those of "attention" and "cam" that are constant or not finite.
      regions: of every action unit inside the image, by FACS number; () without landmarks.
      control_drop: the mean drop of the probability when equal areas elsewhere are occluded; None without regions to
        compare with.
      attention_outside: the fraction of the attention outside the face; None without landmarks.
      text: a summary in one sentence.
      warnings: the reasons not to rely on this explanation.
    """

    image: str
    second: float | None
    face: int
    faces: int
    box: tuple[float, float, float, float]
    landmarks: Landmarks | None
    thumbnail: Pixels
    aligned: Pixels
    expression: str
    probability: float
    probabilities: dict[str, float]
    attention: Map
    cam: Map | None
    au_map: Map | None
    degenerate: tuple[str, ...]
    regions: tuple[Region, ...]
    control_drop: float | None
    attention_outside: float | None
    text: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The image's name, the time in a video, and the face's number if there are several."""
        time = "" if self.second is None else f" at {self.second:.2f} s"
        number = f", face {self.face} of {self.faces}" if self.faces > 1 else ""
        return f"{self.image}{time}{number}"

    @property
    def strongest(self) -> Region | None:
        """The region whose occlusion lowers the predicted probability most."""
        return max(self.regions, key=lambda region: region.probability_drop, default=None)

    def without_images(self) -> "Explanation":
        """Returns the explanation with empty images and maps, to save memory: its row of the tables is the same."""
        return self._replace(thumbnail=_NO_PIXELS, aligned=_NO_PIXELS, attention=_NO_MAP, cam=None, au_map=None)

    def outline(self) -> "Explanation":
        """Returns what a chart over time needs, about 1 kB."""
        return self.without_images()._replace(landmarks=None, degenerate=(), regions=(), text="", warnings=())


def outline_of(data: Mapping[str, Any]) -> Explanation:
    """Returns the outline of an explanation in a table, an object of explanations.json."""
    fields = {name: data[name] for name in ("image", "second", "face", "faces", "probability", "probabilities")}
    missing = dict.fromkeys(("landmarks", "cam", "au_map", "control_drop", "attention_outside"))
    return Explanation(
        **fields, **missing, box=tuple(data["box"]), thumbnail=_NO_PIXELS, aligned=_NO_PIXELS, attention=_NO_MAP,
        expression=data["predicted"], degenerate=(), regions=(),
    )  # fmt: skip


def au_names(numbers: Sequence[int]) -> str:
    """Returns FACS numbers as they are written in a sentence.

    >>> au_names((23, 24))
    'AU23/24'
    """
    return f"AU{'/'.join(map(str, numbers))}"


def sentence(explanation: Explanation, *, has_targets: bool) -> str:
    """Returns the prediction, where the network looks and what the prediction depends on, in one sentence.

    Args:
      explanation: `text` and `warnings` are not used.
      has_targets: whether the codebook lists action units for the expression; without a list, no action unit is
        called unlisted.
    """
    expression = explanation.expression
    probability = explanation.probability
    start = f"{expression} {probability:.2f}"
    if not explanation.regions:
        return f"{start}: without landmarks, action units cannot be located."
    mentioned = set()

    def name(region: Region) -> str:
        """Returns the place with its target AUs; if it has none, that is noted at the first mention."""
        if region.target_aus:
            return f"{region.place} ({au_names(region.target_aus)})"
        remark = f", not listed for {expression}" if has_targets and region.aus not in mentioned else ""
        mentioned.add(region.aus)
        return f"{region.place} ({au_names(region.aus)}{remark})"

    # The regions with the highest attention, one for each place.
    attended = {}
    for region in sorted(explanation.regions, key=lambda region: -region.attention_density):
        if region.attention_density >= LOOKS:
            attended.setdefault(region.place, region)
    if "attention" in explanation.degenerate:
        looks = "its attention map is degenerate"
    elif attended:
        looks = "the model looks at " + " and ".join(map(name, list(attended.values())[:_NAMED]))
    else:
        looks = "its attention is not concentrated on any action unit"

    best, *others = sorted(explanation.regions, key=lambda region: -region.probability_drop)
    drop = best.probability_drop
    if drop < NEGLIGIBLE_DROP:
        return f"{start}: {looks}; hiding the region of any single action unit hardly lowers the probability."
    names = name(best)
    if others and drop - others[0].probability_drop < _EQUAL_DROPS:
        names = f"{names} or {name(others[0])}"
    depends = f"hiding {names} lowers the probability most, to {max(probability - drop, 0):.2f}"
    control_drop = explanation.control_drop
    if control_drop is not None and control_drop >= drop:
        depends += f", no more than hiding equal areas elsewhere ({max(probability - control_drop, 0):.2f})"
    return f"{start}: {looks}; {depends}."


def yaw(landmarks: Landmarks) -> float:
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
    explanation: Explanation,
    *,
    enlargement: float,
    eye_fraction: float | None,
    unselected: int,
    area_outside: float,
) -> list[str]:
    """Returns the reasons not to rely on an explanation, as sentences without capital and full stop.

    Args:
      explanation: `text` and `warnings` are not used.
      enlargement: pixels of the network's input per pixel of the photograph.
      eye_fraction: the distance between the eyes in sides of the network's input; None without landmarks.
      unselected: the number of other faces in the photograph that are not explained.
      area_outside: the fraction of the image outside the face.
    """
    messages = []
    landmarks = explanation.landmarks
    if landmarks is None:
        messages.append("no landmarks: the whole image was used, and action units cannot be located")
    else:
        angle = yaw(landmarks)
        if angle > _MAX_YAW:
            messages.append(f"the face is turned sideways by about {angle:.0f} degrees: its regions are less exact")
        eyes = float(np.hypot(*(landmarks[42:48].mean(0) - landmarks[36:42].mean(0))))
        if eyes < _MIN_EYE_DISTANCE:
            messages.append(
                f"the face is small: {eyes:.0f} pixels between the eyes, at least {_MIN_EYE_DISTANCE:.0f} are needed "
                "for exact regions"
            )
    if eye_fraction is not None and eye_fraction < _MIN_EYE_FRACTION:
        messages.append(
            f"the face is a small part of the model's input: {100 * eye_fraction:.0f} % of its width are between "
            "the eyes, 31 % with --align=five-point; use that unless the model was trained on such images"
        )
    if enlargement > _MAX_ENLARGEMENT:
        messages.append(
            f"the face is smaller than the model's input: it was enlarged {enlargement:.1f} times, which adds no detail"
        )
    if unselected:
        messages.append(f"{unselected + 1} faces in the photograph: this is the most prominent one")

    (first, high), *others = sorted(explanation.probabilities.items(), key=lambda item: -item[1])
    if others:
        second, low = others[0]
        if high < _MIN_PROBABILITY or high - low < _MIN_LEAD:
            messages.append(f"the model is uncertain: {first} {high:.2f}, {second} {low:.2f}")

    for name in explanation.degenerate:
        messages.append(f"the {_MAP_NAMES[name]} is constant or not finite: it does not show where the model looks")
    outside = explanation.attention_outside
    if outside is not None and "attention" not in explanation.degenerate and outside >= min(area_outside, _MAX_OUTSIDE):
        messages.append(
            f"{100 * outside:.0f} % of the attention is outside the face: the answer may depend on something other "
            "than action units"
        )

    # The answer depends on some region, but not on the one with the highest attention.
    strongest = explanation.strongest
    if strongest and strongest.probability_drop >= NEGLIGIBLE_DROP:
        attended = max(explanation.regions, key=lambda region: region.attention_density)
        if attended.attention_density >= LOOKS and attended.probability_drop < NEGLIGIBLE_DROP:
            messages.append(
                f"the model looks most at {attended.place} ({au_names(attended.target_aus or attended.aus)}), but "
                "hiding that region hardly lowers the probability: here attention does not show what the answer "
                "depends on"
            )
    return messages
