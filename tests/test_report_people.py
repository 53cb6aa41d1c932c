"""Faces of one person are not independent: every interval and test of the report draws people."""

import re

import fake_runs
import pytest

from aujax import statistics
from aujax.report import (
    changes,
    confidence,
    evaluations,
    groups,
    intervals,
    interventions,
    people,
    reliance,
    seeds,
)


def opened(*folders):
    return evaluations.open_runs(folders, "test")


def test_second_picture_of_a_person_tells_nothing_new(tmp_path):
    """Every face twice: as one person's, intervals are those of the faces once; as anybody's, they are narrower."""
    options = {"au_weight": 4.0, "faithfulness": True}
    once, twice, unknown = (fake_runs.make_run(tmp_path / name, **options) for name in ("once", "twice", "unknown"))
    fake_runs.repeat_faces(twice, named=True)
    fake_runs.repeat_faces(unknown, named=False)
    found = [_intervals(folder) for folder in (once, twice, unknown)]
    for name in found[0]:
        single, named, anonymous = (each[name] for each in found)
        assert named.value == pytest.approx(single.value), name
        # A share of independent faces has Wilson's interval, of people who repeat the bootstrap's.
        assert named.high - named.low == pytest.approx(single.high - single.low, rel=0.25), name
        assert anonymous.high - anonymous.low < 0.9 * (named.high - named.low), name


def _intervals(folder):
    """Every interval of the tables of one run."""
    (run,) = opened(folder)
    one = intervals.measure(run)
    found = {name: getattr(one, name) for name in ("accuracy", "mean_class", "macro_f1", "attention", "cam")}
    numbers = seeds.accuracy([run]), seeds.cam_cosine([run]), seeds.attention_cosine([run], "layer5")
    found |= {f"seeds {place}": number.interval for place, number in enumerate(numbers)}
    drops = interventions.read(run)
    found |= {name: interventions.region_interval(drops, name) for name in interventions.REGIONS}
    by_gender = groups.table(one, "gender")
    (female,) = [row for row in by_gender.rows if row[0] == "female"]
    found |= {f"female {place}": _interval(cell) for place, cell in enumerate(female[-8:-4])}
    assert [female[2]] * ("People" in by_gender.header) == ["21"] * people.repeat(one.examples.people)
    return found


def _interval(cell):
    return statistics.Interval(*(float(number) for number in re.findall(r"[\d.]+", cell)))


def test_second_picture_of_a_person_is_no_further_proof_of_a_difference(tmp_path):
    found = []
    for name, named in (("once", None), ("twice", True), ("unknown", False)):
        folders = [fake_runs.make_run(tmp_path / name / str(w), au_weight=w, faithfulness=True) for w in (0.0, 4.0)]
        if named is not None:
            for folder in folders:
                fake_runs.repeat_faces(folder, named=named)
        runs = opened(*folders)
        tests = dict(changes.measure(*map(intervals.measure, runs)).tests)
        lead = reliance.measure(*map(interventions.read, runs))
        found.append(tests | {"others": lead.over_others, "control": lead.over_control})
    for name, once in found[0].items():
        widths = [each[name].difference.high - each[name].difference.low for each in found]
        assert widths[1] == pytest.approx(widths[0], rel=0.2), name
        assert widths[2] < 0.9 * widths[1], name
        assert found[1][name].p_value == pytest.approx(once.p_value), name


@pytest.mark.parametrize(
    ("groups_of", "words"),
    [
        (["", ""], "The data do not say who is on which face"),
        (["ann", "bob"], "No two faces are known to be of one person"),
        (["ann", "ann"], "intervals and tests draw people, with all their faces."),
        (["ann", "ann", ""], "with all their faces; those of nobody known (1) count as a person each."),
    ],
)
def test_what_is_drawn_is_said(tmp_path, groups_of, words):
    folder = fake_runs.make_run(tmp_path / "run")
    fake_runs.change_rows(
        folder,
        lambda row: [row | {"group": groups_of[int(row["index"])]}] if int(row["index"]) < len(groups_of) else [],
    )
    assert words in people.consequence(opened(folder)[0].evaluation.examples())


def test_shares_of_some_faces_have_the_intervals_of_their_people(tmp_path):
    folder = fake_runs.repeat_faces(fake_runs.make_run(tmp_path / "run", splits=("test", "validation")), named=True)
    (run,) = opened(folder)
    one = intervals.measure(run)
    rows, fitted = one.examples, confidence.versions(one)[1]

    def share(where, people):
        return intervals.percent(
            statistics.accuracy_interval(rows.correct[where], people=rows.people[where] if people else None)
        )

    for number, expression in enumerate(rows.expressions):
        of_people, of_faces = (share(rows.expression == number, people) for people in (True, None))
        assert of_people != of_faces
        assert intervals.by_expression(one).rows[number][:4:3] == [expression, of_people]
    words = confidence.certainty(fitted, 0.6)
    threshold = float(re.search(r"probability of ([\d.]+)", words)[1])
    answered = fitted.probabilities().max(1) >= threshold - 5e-4
    assert 2 < answered.sum() < len(rows)
    assert f"{share(answered, True)} % of them" in words
