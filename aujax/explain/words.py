"""An explanation in words: where the network looks, what it rests on, and what stands against trusting that."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from aujax.explain.explanation import Region

# What lies where an action unit is drawn, by FACS number.
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
_Remarks = dict[tuple[int, ...], str]  # on regions without a listed unit
# Attention in a region, in units of the picture's average, from which on the network is said to look there.
LOOKS = 1.3
# Loss of probability below which hiding is said to change hardly anything.
HARDLY = 0.03
_ALIKE = 0.01  # difference of two effects that is none
_NAMED = 2  # places that a sentence can hold
_TURNED = 20.0  # degrees
_SMALL = 25.0  # pixels between the eyes
_LITTLE = 0.15  # the same, in sides of the picture that the network gets; aligned by five points it is 0.31
_HALF = 0.5  # of the attention outside the face, however little of the picture the face is
_ENLARGED = 1.5
_UNSURE = 0.5
_CLOSE = 0.1
# The nose tip's height above the line of the outer eye corners, in halves of that line, in adult faces.
_NOSE = 0.9


def units(numbers: Sequence[int]) -> str:
    """Returns FACS numbers as they are written in a sentence.

    >>> units((23, 24))
    'AU23/24'
    """
    return f"AU{'/'.join(map(str, numbers))}"


def sentence(
    expression: str,
    probability: float,
    regions: Sequence[Region],
    *,
    flat: Sequence[str],
    control: float | None,
    lists: bool,
) -> str:
    """Returns what the network sees, where it looks and what it rests on.

    `control` is the loss of probability by hiding as much elsewhere, `lists` whether the codebook lists action units
    for the expression: without a list nothing is said to be missing from it.
    """
    start = f"{expression} {probability:.2f}"
    if not regions:
        return f"{start}: without landmarks in the picture nothing can be said about action units."
    looked = [] if "attention" in flat else _looked_at(regions)
    remarks = {region.aus: f", not listed for {expression}" if lists else "" for region in regions}
    looks = " and ".join(_named(region, remarks) for region in looked)
    remarks |= {region.aus: "" for region in looked}  # what has been said once
    if looked:
        looks = f"the model looks at {looks}"
    else:
        looks = f"its attention {'has no pattern' if 'attention' in flat else 'stands out at no action unit'}"
    return f"{start}: {looks}; {_rests(regions, probability, control, remarks)}."


def _looked_at(regions: Sequence[Region]) -> list[Region]:
    seen: dict[str, Region] = {}
    for region in sorted(regions, key=lambda region: -region.density):
        if region.density >= LOOKS:
            seen.setdefault(region.place, region)
    return list(seen.values())[:_NAMED]


def _rests(regions: Sequence[Region], probability: float, control: float | None, remarks: _Remarks) -> str:
    best, *others = sorted(regions, key=lambda region: -region.effect)
    if best.effect < HARDLY:
        return "hiding any single action unit's region hardly lowers it"
    alike = [best, *(region for region in others[:1] if best.effect - region.effect < _ALIKE)]
    names = " or ".join(_named(region, remarks) for region in alike)
    words = f"hiding {names} lowers it most, to {max(probability - best.effect, 0):.2f}"
    if control is not None and control >= best.effect:
        words += f", no more than hiding as much elsewhere does ({max(probability - control, 0):.2f})"
    return words


def _named(region: Region, remarks: _Remarks) -> str:
    """Returns the place with its action units: those that are listed, or all of them with a remark."""
    if region.listed:
        return f"{region.place} ({units(region.listed)})"
    return f"{region.place} ({units(region.aus)}{remarks[region.aus]})"


def yaw(landmarks: Float[np.ndarray, "68 2"]) -> float:
    """Returns roughly how many degrees the face is turned to a side, from how far its nose tip is off the middle.

    Seen from the side by an angle a, the half width w between the outer eye corners becomes w cos a, and a nose tip
    that stands out by 0.9 w moves by 0.9 w sin a.
    """
    axis, nose = landmarks[45] - landmarks[36], landmarks[30] - landmarks[36]
    squared = float((axis**2).sum())
    place = 2 * float(nose @ axis) / squared - 1 if squared > 0 else 0.0
    return float(np.degrees(np.arctan(abs(place) / _NOSE)))


def warnings(
    *,
    landmarks: Float[np.ndarray, "68 2"] | None,
    enlargement: float,
    filled: float | None,
    left_out: int,
    probabilities: dict[str, float],
    flat: Sequence[str],
    outside: tuple[float, float] | None,
    regions: Sequence[Region],
) -> list[str]:
    """Returns what stands against trusting an explanation, in sentences.

    `filled` is the distance between the eyes in sides of the network's picture, None without landmarks; `left_out` is
    the number of other faces in the photograph that are not explained; `outside` are the shares of the attention and
    of the picture that lie outside the face.
    """
    found = []
    if landmarks is None:
        found.append("no landmarks: the picture was taken as it is, and no action unit can be placed")
    else:
        found += _about_the_face(landmarks, filled)
    if enlargement > _ENLARGED:
        found.append(
            f"the face is smaller than what the model was made for: it was enlarged {enlargement:.1f} times, which "
            "adds no detail"
        )
    if left_out:
        found.append(f"{left_out + 1} faces in the photograph: this is the most prominent one")
    found += _about_the_answer(probabilities)
    found += [f"the {_MAPS[name]} has no pattern: it does not say where the model looks" for name in flat]
    if outside is not None and "attention" not in flat and outside[0] >= min(outside[1], _HALF):
        found.append(
            f"{100 * outside[0]:.0f} % of the attention lies outside the face: what decides may be there, and not at "
            "action units"
        )
    return found + _about_the_attention(regions)


_MAPS = {"attention": "attention", "cam": "class activation map"}


def _about_the_face(landmarks: Float[np.ndarray, "68 2"], filled: float | None) -> list[str]:
    turned = yaw(landmarks)
    eyes = float(np.hypot(*(landmarks[42:48].mean(0) - landmarks[36:42].mean(0))))
    found = []
    if turned > _TURNED:
        found.append(f"the face is turned to a side by some {turned:.0f} degrees: landmarks and regions are less exact")
    if eyes < _SMALL:
        found.append(f"the face is small: {eyes:.0f} pixels between the eyes, {_SMALL:.0f} or more are wanted")
    if filled is not None and filled < _LITTLE:
        found.append(
            f"the face is a small part of the picture that the model gets: {100 * filled:.0f} % of its width lie "
            "between the eyes, 31 % with --align=five-point; take that unless the model was trained on such pictures"
        )
    return found


def _about_the_attention(regions: Sequence[Region]) -> list[str]:
    """Returns a warning where the place that is looked at most is not one that the answer rests on, but another is."""
    looked = max(regions, key=lambda region: region.density, default=None)
    strongest = max((region.effect for region in regions), default=0.0)
    if looked is None or looked.density < LOOKS or looked.effect >= HARDLY or strongest < HARDLY:
        return []
    return [
        f"the model looks most at {looked.place} ({units(looked.listed or looked.aus)}), but hiding that hardly lowers "
        "the answer: where it looks is not what decides here"
    ]


def _about_the_answer(probabilities: dict[str, float]) -> list[str]:
    (first, high), *others = sorted(probabilities.items(), key=lambda item: -item[1])
    if not others or (high >= _UNSURE and high - others[0][1] >= _CLOSE):
        return []
    second, low = others[0]
    return [f"the model is not sure: {first} {high:.2f}, {second} {low:.2f}"]
