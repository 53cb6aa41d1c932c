"""The page of explanations: its content, and its behaviour in a browser."""

import re

import numpy as np
import pytest

from aujax import codebook
from aujax.data.face_crops import Problem
from aujax.explain import page
from aujax.explain.explanation import PLACES, Explanation, Region
from aujax.explain.tables import ModelFacts

PHONE, DESK = 390, 1200
BOOK = codebook.FACS
FACES = 250
EVALUATION = {"split": "test", "model_selection": "validation", "num_examples": 9}
EVALUATION |= {"accuracy": 0.5, "low": 0.0, "high": 1.0, "chance": 0.25}
FACTS = {
    "workdir": f"runs/{'a_long_name_' * 12}",
    "method": "CAM",
    "au_weight": 4.0,
    "input_size": 64,
    "codebook": "FACS",
    "aus": {name: list(numbers) for name, numbers in BOOK.aus.items()},
    "attention_layer": "layer5",
    "temperature": 1.5,
    "alignment": "five-point unless cropped",
    "training_data": "faces",
    "notes": ["A `note`."],
    "aujax": "0",
    "evaluation": EVALUATION,
}


def explanation(number):
    """A frame of a video with a long name of one word that has to be escaped."""
    pattern = np.arange(16, dtype=np.float32).reshape(4, 4)
    expression = BOOK.expressions[number % 2]
    image = np.full((32, 32, 3), number, np.uint8)
    regions = []
    for aus in BOOK.same_region(BOOK.all_aus):
        regions.append(Region(aus, PLACES[aus[0]], (), 0.1, 0.2, 0.1, 0.01 * aus[0]))
    return Explanation(
        image=f"folder/{'holiday_' * 12}<b>&.mp4",
        second=number / 10,
        face=1,
        faces=1,
        box=(0.0, 0.0, 32.0, 32.0),
        landmarks=np.zeros((68, 2), np.float32),
        thumbnail=image,
        aligned=image,
        expression=expression,
        probability=0.5,
        probabilities=dict.fromkeys(BOOK.expressions, 0.1) | {expression: 0.5},
        attention=pattern,
        cam=pattern,
        au_map=pattern / 15,
        degenerate=(),
        regions=tuple(regions),
        control_drop=0.1,
        attention_outside=0.1,
        text=f"{expression} 0.50: hiding the mouth lowers it most.",
        warnings=("the face is turned",),
    )


@pytest.fixture
def write(tmp_path):
    """Writes a page of explanations and returns its HTML."""

    def write(explanations, *, problems=(), **facts):
        path = tmp_path / "page.html"
        page.write(path, explanations, problems, ModelFacts(FACTS | facts, {}))
        return path.read_text()

    return write


def test_long_video_keeps_the_images_of_a_few_hundred_of_its_faces():
    collector = page.Collector()
    for number in range(1000):
        collector.add(explanation(0)._replace(second=float(number)))
    assert [kept.second for kept in collector.explanations] == list(range(1000))
    with_images = [i for i, kept in enumerate(collector.explanations) if kept.aligned.size]
    assert with_images == [*range(0, 999, 8), 999]


def test_page_of_a_method_without_cam_has_no_column_for_it(write):
    with_cam = explanation(0)
    without = with_cam._replace(cam=None, regions=tuple(region._replace(cam=None) for region in with_cam.regions))
    assert "CAM there" in write([with_cam])
    assert "CAM there" not in write([without])


@pytest.mark.parametrize(("drop", "expected"), [(0.351, "−0.35"), (-0.2, "+0.20"), (0.004, "0.00")])
def test_change_is_the_negative_drop_with_its_sign(write, drop, expected):
    face = explanation(0)
    html = write([face._replace(regions=(face.regions[0]._replace(probability_drop=drop),), control_drop=None)])
    assert f'aria-hidden="true"></span>{expected}</td>' in html


def test_degenerate_map_is_not_drawn(write):
    html = write([explanation(0)._replace(attention=np.full((4, 4), np.nan), cam=np.ones((4, 4)), au_map=None)])
    assert re.findall('<div class="none">([^<]*)</div>', html) == ["no map", "not finite", "constant"]


@pytest.mark.parametrize(
    ("evaluation", "expected"),
    [
        (EVALUATION, "which had no part in the selection of the checkpoint"),
        (EVALUATION | {"model_selection": "test"}, "on which the checkpoint was selected"),
        (None, "This checkpoint was not evaluated on a test split"),
    ],
)
def test_page_says_how_reliable_the_model_is(write, evaluation, expected):
    html = write([explanation(0)], evaluation=evaluation)
    assert expected in html
    accuracy = "correct for 50 % (95 % interval 0 to 100 %) of the 9 images"
    assert (accuracy in html) == ("would be correct for 25 %" in html) == (evaluation is not None)


def test_video_has_a_chart_with_a_line_for_each_predicted_expression(write):
    probabilities = dict.fromkeys(BOOK.expressions, 0.0)
    frames = []
    for second, changes in ((2.0, {"Happiness": 1.0}), (4.0, {"Sadness": 0.5, "Happiness": 0.25})):
        frame = explanation(0)._replace(
            image="a&b.mp4",
            second=second,
            expression=max(changes, key=changes.get),
            probabilities=probabilities | changes,
        )
        frames.append(frame)
    html = write(frames)
    assert html.count("over time in a&amp;b.mp4") == 3  # once escaped, in each place
    # From the left edge at 2 s to the right one at 4 s; probability 1 is at 0, the top, and 0 at 200.
    assert re.findall(r'<polyline [^>]*points="([^"]*)"', html) == ["0.0,0.0 720.0,150.0", "0.0,200.0 720.0,100.0"]


def test_one_reason_of_many_frames_gives_one_line():
    frames = [("a.mp4", 0.0), ("a.mp4", 0.5), ("b.mp4", 0.5), ("c.jpg", None)]
    assert page.problem_lines([Problem(image, "no face found", second) for image, second in frames]) == [
        "a.mp4: no face found in 2 frames, from 0.00 s to 0.50 s",
        "b.mp4: no face found at 0.50 s",
        "c.jpg: no face found",
    ]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "explanations.html"
    collector = page.Collector()
    for number in range(FACES):
        collector.add(explanation(number))
    precision = {"correct": 8, "count": 10, "value": 0.8, "low": 0.49, "high": 0.943}
    model = ModelFacts(FACTS, dict.fromkeys(BOOK.expressions, precision))
    page.write(path, collector.explanations, [Problem("bad.jpg", "no image")], model)
    return path


def test_page_loads_without_errors_and_requests_nothing_else(chromium, report):
    chromium.open(report, width=DESK)
    assert chromium.messages() == []
    assert chromium.requested() == {report.resolve().as_uri()}


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_page_does_not_scroll_sideways(chromium, report, width):
    chromium.open(report, width=width)
    chromium.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width


def test_page_of_a_long_video_shows_a_hundred_of_its_faces(chromium, report):
    chromium.open(report, width=DESK)
    numbers = chromium.evaluate("Array.from(document.querySelectorAll('article'), (one) => one.id)")
    assert len(set(numbers)) == 100
    assert (numbers[0], numbers[-1]) == ("face-1", f"face-{FACES}")
    assert f"shows 100 of the {FACES} faces" in chromium.evaluate("document.body.textContent")
    lines = "Array.from(document.querySelectorAll('polyline'), (one) => one.points.numberOfItems)"
    assert chromium.evaluate(lines) == [FACES, FACES]


def test_every_image_is_drawn_and_every_link_has_a_target(chromium, report):
    chromium.open(report, width=DESK)
    images = chromium.evaluate("Array.from(document.images, (one) => [one.alt, one.naturalWidth])")
    assert len(images) == 400
    assert all(alt and width for alt, width in images)
    links = "Array.from(document.querySelectorAll('a[href^=\"#\"]'))"
    lost = "(one) => !document.getElementById(one.getAttribute('href').slice(1))"
    assert chromium.evaluate(f"{links}.filter({lost}).length") == 0


def test_accessible_names_are_escaped_once(chromium, report):
    chromium.open(report, width=DESK)
    labels = chromium.evaluate("Array.from(document.querySelectorAll('[aria-label]'), (one) => one.ariaLabel)")
    assert any("<b>&.mp4" in label for label in labels)
    assert not any("&amp;" in label or "&lt;" in label for label in labels)
