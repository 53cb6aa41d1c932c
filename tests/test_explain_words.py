"""What is said about a face, and what it is warned of."""

import functools

import numpy as np
import pytest

from aujax.data import photos
from aujax.explain import page, words
from aujax.explain.explanation import Region


def region(aus, *, listed=(), attention=0.1, effect=0.0, area=0.1):
    return Region(aus, words.PLACES[aus[0]], listed, area, attention, 0.1, effect)


say = functools.partial(words.sentence, "Happiness", 0.91, flat=(), control=None, lists=True)
LIPS = region((12, 15), listed=(12,), attention=0.4, effect=0.3)
CHEEKS = region((6,), listed=(6,), attention=0.3, effect=0.05)


def test_sentence_names_where_the_model_looks_and_what_it_rests_on():
    expected = (
        "Happiness 0.91: the model looks at the lip corners (AU12) and the cheeks (AU6); "
        "hiding the lip corners (AU12) lowers it most, to 0.61."
    )
    assert say([CHEEKS, LIPS]) == expected


@pytest.mark.parametrize(
    ("regions", "options", "words_expected"),
    [
        ([LIPS], {"flat": ("attention",)}, "its attention has no pattern; hiding the lip"),
        (
            [region((6,), effect=0.3)],
            {},
            "its attention stands out at no action unit; hiding the cheeks (AU6, not",
        ),
        ([LIPS._replace(effect=0.02)], {}, "hiding any single action unit's region hardly lowers it."),
        ([LIPS._replace(effect=-0.3)], {}, "hiding any single action unit's region hardly lowers it."),
        ([LIPS], {"control": 0.4}, "to 0.61, no more than hiding as much elsewhere does (0.51)."),
        ([LIPS], {"control": 0.1}, "lowers it most, to 0.61."),
        (
            [LIPS._replace(listed=())],
            {},
            "looks at the lip corners (AU12/15, not listed for Happiness); hiding the",
        ),
        ([LIPS._replace(listed=())], {"lists": False}, "looks at the lip corners (AU12/15); hiding"),
        ([LIPS, CHEEKS._replace(effect=0.299)], {}, "hiding the lip corners (AU12) or the cheeks (AU6) lowers it most"),
        ([], {}, "Happiness 0.91: without landmarks in the picture nothing can be said about action units."),
    ],
    ids=["flat", "nowhere", "hardly", "raised", "control", "less control", "unlisted", "no list", "alike", "none"],
)
def test_sentence_says_no_more_than_was_measured(regions, options, words_expected):
    assert words_expected in say(regions, **options)


def seen_from_the_side(degrees):
    """Landmarks of a head, 60 pixels between the outer eye corners, turned about the upright axis."""
    landmarks = np.zeros((68, 2), np.float32)
    angle = np.radians(degrees)
    for point, (x, z) in {**dict.fromkeys(range(36, 42), (-30, 0)), **dict.fromkeys(range(42, 48), (30, 0))}.items():
        landmarks[point] = 100 + x * np.cos(angle) + z * np.sin(angle), 100
    landmarks[30] = 100 + 0.9 * 30 * np.sin(angle), 130
    return landmarks


@pytest.mark.parametrize("degrees", [-40, 0, 25])
def test_yaw_is_that_of_a_turned_head(degrees):
    assert words.yaw(seen_from_the_side(degrees)) == pytest.approx(abs(degrees), abs=0.1)


GOOD = {
    "landmarks": seen_from_the_side(0),
    "enlargement": 1.0,
    "filled": 0.31,
    "left_out": 0,
    "probabilities": {"Happiness": 0.9, "Neutral": 0.1},
    "flat": (),
    "outside": (0.1, 0.6),
    "regions": (LIPS, CHEEKS),
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"landmarks": seen_from_the_side(30)}, "turned to a side by some 30 degrees"),
        ({"landmarks": seen_from_the_side(0) / 3}, "the face is small: 20 pixels between the eyes"),
        ({"enlargement": 2.0}, "enlarged 2.0 times"),
        ({"filled": 0.05}, "a small part of the picture that the model gets: 5 % of its width"),
        ({"left_out": 2}, "3 faces in the photograph: this is the most prominent one"),
        ({"probabilities": {"Fear": 0.4, "Anger": 0.3, "Neutral": 0.3}}, "not sure: Fear 0.40, Anger 0.30"),
        ({"probabilities": {"Fear": 0.52, "Anger": 0.48}}, "not sure: Fear 0.52, Anger 0.48"),
        ({"flat": ("attention",), "outside": (1.0, 0.6)}, "the attention has no pattern"),
        ({"flat": ("cam",)}, "the class activation map has no pattern"),
        ({"outside": (0.7, 0.6)}, "70 % of the attention lies outside the face"),
        ({"outside": (0.55, 0.8)}, "55 % of the attention lies outside the face"),
        (
            {"regions": (LIPS._replace(effect=0.0), CHEEKS)},
            "looks most at the lip corners (AU12), but hiding that hardly",
        ),
        ({"landmarks": None, "outside": None, "regions": ()}, "no landmarks: the picture was taken as it is"),
    ],
)
def test_each_reason_for_care_is_told_and_no_other(change, expected):
    assert words.warnings(**GOOD) == []
    assert (
        words.warnings(**GOOD | {"regions": (LIPS._replace(effect=0.0),)}) == []
    )  # nor does the answer rest elsewhere
    (told,) = words.warnings(**{**GOOD, **change})
    assert expected in told


def test_reason_of_many_frames_is_told_once():
    seen = [("a.mp4", 0.0), ("a.mp4", 0.5), ("b.mp4", 0.5), ("c.jpg", None)]
    assert page.told([photos.Problem(photo, "no face found", second) for photo, second in seen]) == [
        "a.mp4: no face found in 2 frames, from 0.00 s to 0.50 s",
        "b.mp4: no face found at 0.50 s",
        "c.jpg: no face found",
    ]
