"""The page of explanations, in a real browser."""

import browser
import numpy as np
import pytest

from aujax import codebook
from aujax.data.photos import Problem
from aujax.explain import page, words
from aujax.explain.background import Background, Record
from aujax.explain.explanation import Explanation, Region

PHONE, DESK = 390, 1200
BOOK = codebook.FACS
FACES = 250


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    program = browser.find()
    if program is None:
        pytest.skip("no Chromium is installed; on Debian: apt-get install chromium")
    opened = browser.Browser(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def explanation(number):
    """A frame of a video whose name is to be escaped and does not break."""
    groups, pattern = BOOK.same_region(BOOK.all_aus), np.arange(16, dtype=np.float32).reshape(4, 4)
    expression = BOOK.expressions[number % 2]
    picture = np.full((32, 32, 3), number, np.uint8)
    return Explanation(
        photo=f"folder/{'holiday_' * 12}<b>&.mp4",
        second=number / 10,
        face=1,
        faces=1,
        box=(0.0, 0.0, 32.0, 32.0),
        landmarks=np.zeros((68, 2), np.float32),
        crop=picture,
        picture=picture,
        expression=expression,
        probability=0.5,
        probabilities=dict.fromkeys(BOOK.expressions, 0.1) | {expression: 0.5},
        attention=pattern,
        cam=pattern,
        au_map=pattern / 15,
        flat=(),
        regions=tuple(Region(aus, words.PLACES[aus[0]], (), 0.1, 0.2, 0.1, 0.01 * aus[0]) for aus in groups),
        control=0.1,
        outside=0.1,
        text=f"{expression} 0.50: hiding the mouth lowers it most.",
        warnings=("the face is turned",),
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "explanations.html"
    facts = {"aus": {name: list(numbers) for name, numbers in BOOK.aus.items()}}
    records = dict.fromkeys(BOOK.expressions, Record(8, 10))
    about = Background(facts, [f"Model: `runs/{'a_long_name_' * 12}`."], records)
    video = page.Thinned()
    for number in range(FACES):
        video.add(explanation(number))
    page.write(path, video.all, [Problem("bad.jpg", "no image")], about)
    return path


def test_page_loads_without_errors_and_asks_for_nothing_else(chromium, report):
    chromium.open(report, width=DESK)
    assert chromium.told() == []
    assert chromium.asked_for() == {report.resolve().as_uri()}


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_page_does_not_scroll_sideways(chromium, report, width):
    chromium.open(report, width=width)
    chromium.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width


def test_long_video_is_shown_by_a_hundred_of_its_faces(chromium, report):
    chromium.open(report, width=DESK)
    numbers = chromium.evaluate("Array.from(document.querySelectorAll('article'), (one) => one.id)")
    assert len(set(numbers)) == 100
    assert (numbers[0], numbers[-1]) == ("face-1", f"face-{FACES}")
    assert f"shows 100 of the {FACES} faces" in chromium.evaluate("document.body.textContent")
    lines = "Array.from(document.querySelectorAll('polyline'), (one) => one.points.numberOfItems)"
    assert chromium.evaluate(lines) == [FACES, FACES]


def test_every_picture_is_drawn_and_every_link_leads_somewhere(chromium, report):
    chromium.open(report, width=DESK)
    pictures = chromium.evaluate("Array.from(document.images, (one) => [one.alt, one.naturalWidth])")
    assert len(pictures) == 400
    assert all(alt and width for alt, width in pictures)
    links = "Array.from(document.querySelectorAll('a[href^=\"#\"]'))"
    lost = "(one) => !document.getElementById(one.getAttribute('href').slice(1))"
    assert chromium.evaluate(f"{links}.filter({lost}).length") == 0


def test_names_are_read_aloud_as_they_are(chromium, report):
    chromium.open(report, width=DESK)
    labels = chromium.evaluate("Array.from(document.querySelectorAll('[aria-label]'), (one) => one.ariaLabel)")
    assert any("<b>&.mp4" in label for label in labels)
    assert not any("&amp;" in label or "&lt;" in label for label in labels)
