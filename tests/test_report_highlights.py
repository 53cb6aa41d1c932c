"""Leads of maps over noise, and how steady maps are, of several runs: from made-up files, by hand."""

import fake_runs
import numpy as np
import pytest

from aujax import statistics
from aujax.report import evaluations, highlights, intervals, interventions, page, seeds


def measured(tmp_path, *, weights=(0.0, 4.0), numbers=(0,)):
    folders = [
        fake_runs.make_run(tmp_path / f"{weight:g}-{seed}", au_weight=weight, seed=seed, faithfulness=True)
        for seed in numbers
        for weight in weights
    ]
    return [interventions.read(run) for run in evaluations.open_runs(folders, "test")]


def columns(found, *names):
    return [found.examples.numbers(name)[0] for name in names]


def test_lead_is_how_much_further_the_map_makes_it_fall_or_rise_than_noise(tmp_path):
    (found, _) = measured(tmp_path)
    row = highlights.leads([found]).rows[1]
    assert row[:2] == ["0-0", "CAM"]
    for cell, kind, sign in zip(row[2:], ("deletion", "insertion", "road"), (-1, 1, -1), strict=True):
        own, noise = columns(found, f"{kind}:cam", f"{kind}:random")
        assert cell.startswith(intervals.change(statistics.Interval(float((sign * (own - noise)).mean()), None, None)))


def test_leads_of_a_pair_differ_by_a_paired_test(tmp_path):
    before, after = measured(tmp_path)
    table = highlights.differences([(before, after)])
    assert [row[1] for row in table.rows[:3]] == ["Attention, Deletion", "Attention, Insertion", "Attention, ROAD"]
    leads = []
    for one in (before, after):
        noise, own = columns(one, "deletion:random", "deletion:attention/layer5")
        leads.append(noise - own)
    test = statistics.paired_macro_mean(*leads, np.zeros(len(leads[0]), int))
    assert table.rows[0][2:4] == [intervals.change(test.difference), f"{test.p_value:.3f}"]


def test_method_without_cam_has_the_attention_alone(tmp_path):
    before, after = measured(tmp_path)
    curves = {
        kind: {name: value for name, value in by_map.items() if name != "cam"} if kind != "fractions" else by_map
        for kind, by_map in after.content["curves"].items()
    }
    after = after._replace(content=after.content | {"curves": curves})
    assert list(highlights.maps_of(after)) == ["Attention"]
    assert len(highlights.differences([(before, after)]).rows) == 3


def test_steadiness_is_of_the_answer_and_of_every_map(tmp_path):
    (found, _) = measured(tmp_path)
    rows = highlights.steadiness([found]).rows
    assert [row[1] for row in rows] == ["Answer (%)", "Attention", "CAM"]
    assert rows[0][2].startswith("95.0")
    assert rows[1][2:] == ["0.900 [0.900, 0.900]"] * 2 + ["0.400 [0.400, 0.400]"]


def test_seeds_have_the_mean_lead_and_its_students_interval(tmp_path):
    found = measured(tmp_path, numbers=(0, 1))
    by_folder = {one.run.folder: one for one in found}
    table = seeds.table([one.run for one in found], highlights.columns(by_folder))
    values = []
    for one in found[::2]:
        noise, own = columns(one, "deletion:random", "deletion:attention/layer5")
        values.append(float((noise - own).mean()))
    expected = statistics.over_seeds(values)
    assert table.rows[0][1] == seeds.Number(expected.mean, expected.deviation, 2).cosine()
    assert table.rows[0][-3].startswith("95.0")
    assert len(table.rows) == 3  # both settings, and their difference


def test_three_methods_are_compared_with_the_first(tmp_path):
    folders = [fake_runs.make_run(tmp_path / name, method=name, faithfulness=True) for name in ("CAM", "ADL", "PRM")]
    text = page.write(folders, "test", tmp_path / "out")[0].read_text("utf-8")
    assert "CAM → ADL" in text
    assert "CAM → PRM" in text
    assert "ADL → PRM" not in text


@pytest.mark.parametrize("kind", ["deletion", "insertion", "road"])
def test_map_that_is_noise_has_no_lead(tmp_path, kind):
    (found, _) = measured(tmp_path)
    folder = found.run.folder
    fake_runs.change_rows(folder, lambda row: [row | {f"{kind}:cam": row[f"{kind}:random"]}], of="faithfulness")
    row = highlights.leads([interventions.read(found.run)]).rows[1]
    assert row[2 + list(highlights.KINDS).index(kind)] == "+0.000 [+0.000, +0.000]"
