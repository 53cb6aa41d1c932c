"""The summary of an explanation and its warnings."""

import numpy as np
import pytest

from aujax.explain import explanation
from aujax.explain.explanation import Explanation, Region


def region(aus, *, target_aus=(), attention=0.1, drop=0.0, area=0.1):
    return Region(aus, explanation.PLACES[aus[0]], target_aus, area, attention, 0.1, drop)


def seen_from_the_side(degrees):
    """Landmarks of a head, 60 pixels between the outer eye corners, turned about the upright axis."""
    landmarks = np.zeros((68, 2), np.float32)
    angle = np.radians(degrees)
    for point, (x, z) in {**dict.fromkeys(range(36, 42), (-30, 0)), **dict.fromkeys(range(42, 48), (30, 0))}.items():
        landmarks[point] = 100 + x * np.cos(angle) + z * np.sin(angle), 100
    landmarks[30] = 100 + 0.9 * 30 * np.sin(angle), 130
    return landmarks


LIPS = region((12, 15), target_aus=(12,), attention=0.4, drop=0.3)
CHEEKS = region((6,), target_aus=(6,), attention=0.3, drop=0.05)
# Without warnings.
GOOD = Explanation(
    image="a.jpg",
    second=None,
    face=1,
    faces=1,
    box=(0.0, 0.0, 1.0, 1.0),
    landmarks=seen_from_the_side(0),
    thumbnail=np.zeros((1, 1, 3), np.uint8),
    aligned=np.zeros((1, 1, 3), np.uint8),
    expression="Happiness",
    probability=0.91,
    probabilities={"Happiness": 0.91, "Neutral": 0.09},
    attention=np.eye(2, dtype=np.float32),
    cam=None,
    au_map=None,
    degenerate=(),
    regions=(LIPS, CHEEKS),
    control_drop=None,
    attention_outside=0.1,
)
MEASURED = {"enlargement": 1.0, "eye_fraction": 0.31, "unselected": 0, "area_outside": 0.6}


def test_sentence_names_the_most_attributed_region_and_the_one_the_answer_depends_on():
    sentence = (
        "Happiness 0.91: the model looks at the lip corners (AU12) and the cheeks (AU6); "
        "hiding the lip corners (AU12) lowers the probability most, to 0.61."
    )
    assert explanation.sentence(GOOD, has_targets=True) == sentence


@pytest.mark.parametrize(
    ("regions", "options", "expected"),
    [
        ([LIPS], {"degenerate": ("attention",)}, "its attention map is degenerate; hiding the lip"),
        (
            [region((6,), drop=0.3)],
            {},
            "its attention is not concentrated on any action unit; hiding the cheeks (AU6, not",
        ),
        (
            [LIPS._replace(probability_drop=0.02)],
            {},
            "hiding the region of any single action unit hardly lowers the probability.",
        ),
        (
            [LIPS._replace(probability_drop=-0.3)],
            {},
            "hiding the region of any single action unit hardly lowers the probability.",
        ),
        ([LIPS], {"control_drop": 0.4}, "to 0.61, no more than hiding equal areas elsewhere (0.51)."),
        ([LIPS], {"control_drop": 0.1}, "lowers the probability most, to 0.61."),
        (
            [LIPS._replace(target_aus=())],
            {},
            "looks at the lip corners (AU12/15, not listed for Happiness); hiding the",
        ),
        ([LIPS._replace(target_aus=())], {"has_targets": False}, "looks at the lip corners (AU12/15); hiding"),
        (
            [LIPS, CHEEKS._replace(probability_drop=0.299)],
            {},
            "hiding the lip corners (AU12) or the cheeks (AU6) lowers the probability most",
        ),
        ([], {}, "Happiness 0.91: without landmarks, action units cannot be located."),
    ],
    ids=[
        "degenerate",
        "nowhere",
        "hardly",
        "raised",
        "control",
        "less control",
        "unlisted",
        "no list",
        "alike",
        "none",
    ],
)
def test_sentence_claims_no_more_than_was_measured(regions, options, expected):
    options = {"has_targets": True} | options
    has_targets = options.pop("has_targets")
    face = GOOD._replace(regions=tuple(regions), **options)
    assert expected in explanation.sentence(face, has_targets=has_targets)


@pytest.mark.parametrize("degrees", [-40, 0, 25])
def test_yaw_is_that_of_a_turned_head(degrees):
    assert explanation.yaw(seen_from_the_side(degrees)) == pytest.approx(abs(degrees), abs=0.1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"landmarks": seen_from_the_side(30)}, "turned sideways by about 30 degrees"),
        ({"landmarks": seen_from_the_side(0) / 3}, "the face is small: 20 pixels between the eyes"),
        ({"enlargement": 2.0}, "enlarged 2.0 times"),
        ({"eye_fraction": 0.05}, "a small part of the model's input: 5 % of its width"),
        ({"unselected": 2}, "3 faces in the photograph: this is the most prominent one"),
        ({"probabilities": {"Fear": 0.4, "Anger": 0.3, "Neutral": 0.3}}, "uncertain: Fear 0.40, Anger 0.30"),
        ({"probabilities": {"Fear": 0.52, "Anger": 0.48}}, "uncertain: Fear 0.52, Anger 0.48"),
        ({"degenerate": ("attention",), "attention_outside": 1.0}, "the attention is constant or not finite"),
        ({"degenerate": ("cam",)}, "the class activation map is constant or not finite"),
        ({"attention_outside": 0.7}, "70 % of the attention is outside the face"),
        ({"attention_outside": 0.55, "area_outside": 0.8}, "55 % of the attention is outside the face"),
        (
            {"regions": (LIPS._replace(probability_drop=0.0), CHEEKS)},
            "looks most at the lip corners (AU12), but hiding that region hardly",
        ),
        ({"landmarks": None, "attention_outside": None, "regions": ()}, "no landmarks: the whole image was used"),
    ],
)
def test_each_problem_gives_its_warning_and_no_other(change, expected):
    assert explanation.warnings(GOOD, **MEASURED) == []
    measured = {name: change.get(name, value) for name, value in MEASURED.items()}
    face = GOOD._replace(**{name: value for name, value in change.items() if name not in MEASURED})
    (warning,) = explanation.warnings(face, **measured)
    assert expected in warning


def test_no_warning_where_the_answer_depends_on_no_region():
    face = GOOD._replace(regions=(LIPS._replace(probability_drop=0.0),))  # nor does the answer depend on others
    assert explanation.warnings(face, **MEASURED) == []
