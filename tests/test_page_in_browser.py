"""Pages of one run and of a comparison, in a real browser.

The page of a real evaluation is opened in test_evaluate_faithfulness.py.
"""

import evaluated_runs
import pytest

from aujax.report import page

PHONE, DESK = 390, 1200
CONTROLS = 'a[href], button, summary, input, [tabindex="0"]'


@pytest.fixture(scope="module", params=["run", "comparison"])
def report(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    options = {"splits": ("test", "validation"), "faithfulness": True}
    runs = [evaluated_runs.make_run(root / "a_run_with_a_long_name", au_weight=4.0, **options)]
    if request.param == "comparison":
        runs.insert(0, evaluated_runs.make_run(root / "without", **options))
    return page.write(runs, "test", root / "out")[0]


def test_page_loads_without_errors_and_requests_nothing_else(chromium, report):
    chromium.open(report, width=DESK)
    assert chromium.messages() == []
    assert chromium.requested() == {report.resolve().as_uri()}


def test_every_figure_is_drawn_and_has_a_description(chromium, report):
    chromium.open(report, width=DESK)
    pictures = chromium.evaluate("Array.from(document.images, (one) => [one.alt, one.naturalWidth])")
    assert len(pictures) > 50
    assert all(alt and width for alt, width in pictures)


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_page_does_not_scroll_sideways(chromium, report, width):
    chromium.open(report, width=width)
    chromium.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width


def test_every_control_is_reached_by_tab_and_shows_it(chromium, report):
    chromium.open(report, width=PHONE)
    chromium.evaluate(f"window.controls = Array.from(document.querySelectorAll('{CONTROLS}'), (one) => one)")
    wanted = chromium.evaluate("controls.map((one, n) => one.checkVisibility() ? n : -1).filter((n) => n >= 0)")
    reached = []
    for _ in range(len(wanted)):
        chromium.press("Tab")
        place, outline = chromium.evaluate(
            "[controls.indexOf(document.activeElement), getComputedStyle(document.activeElement).outlineStyle]"
        )
        assert outline == "solid"
        reached.append(place)
    assert len(wanted) > 40
    assert reached == wanted


def test_column_sorts_by_keyboard_with_what_is_missing_last(chromium, report):
    chromium.open(report, width=DESK)
    heads = "Array.from(document.querySelectorAll('thead th'))"
    find = f"{heads}.find((one) => one.textContent.startsWith('ATT-COS (layer5)'))"
    chromium.evaluate(f"window.head = {find}; head.querySelector('button').focus()")
    orders = {}
    for _ in range(2):
        chromium.press("Enter")
        cells = "Array.from(head.closest('table').tBodies[0].rows, (row) => row.cells[head.cellIndex].textContent)"
        orders[chromium.evaluate("head.getAttribute('aria-sort')")] = chromium.evaluate(cells)
    for direction, order in orders.items():
        known = [float(cell.split()[0]) for cell in order if cell != "–"]
        assert len(set(known)) > 4
        assert known == sorted(known, reverse=direction == "descending")
        assert order[len(known) :] == ["–"] * (len(order) - len(known))
    assert list(orders) == ["ascending", "descending"]


def test_negative_differences_and_small_p_values_sort_as_numbers(chromium, report):
    chromium.open(report, width=DESK)
    words = ["+0.5 [+0.1, +0.9]", "−2.5 [−4.0, −1.0]", "0.001", "< 0.001", "10.0", "9.0"]
    assert chromium.evaluate(f"{words}.map(number)") == [0.5, -2.5, 0.001, 0.001, 10.0, 9.0]


def test_groups_that_are_too_small_stay_last_in_both_directions(chromium, report):
    chromium.open(report, width=DESK)
    cells = "['too few', '9.0', '10.0'].map((one) => `<tr><td>${one}</td></tr>`).join('')"
    made = f"window.made = document.createElement('table'); made.innerHTML = '<tbody>' + {cells} + '</tbody>'"
    chromium.evaluate(f"{made}; 0")
    order = "Array.from(made.rows, (row) => row.textContent)"
    assert chromium.evaluate(f"sort(made, 0, 1), {order}") == ["9.0", "10.0", "too few"]
    assert chromium.evaluate(f"sort(made, 0, -1), {order}") == ["10.0", "9.0", "too few"]
