"""What a run's decisions depend on, from faithfulness.json and faithfulness.csv, in tables and words."""

import shlex

import fake_runs
import pytest

from aujax import statistics
from aujax.errors import UserError
from aujax.report import evaluations, intervals, interventions, reliance


def opened(*folders):
    return evaluations.open_runs(folders, "test")


def measured_interventions(tmp_path, after):
    weights = {"without": 0.0, "with": after}
    folders = [fake_runs.make_run(tmp_path / name, au_weight=w, faithfulness=True) for name, w in weights.items()]
    return [interventions.read(run) for run in opened(*folders)]


def test_stronger_own_units_are_a_yes_with_both_tests(tmp_path):
    before, after = measured_interventions(tmp_path, 4.0)
    found = reliance.measure(before, after)
    assert found.over_others.difference.value == pytest.approx(0.12, abs=0.02)
    assert "The network trained with AU cues relies more on the codebook's AUs.**" in reliance.verdict(found)
    others, control = (flipped(test) for test in (found.over_others, found.over_control))
    assert "relies less" in reliance.verdict(found._replace(over_others=others, over_control=control))


def test_runs_that_differ_in_more_are_called_by_their_names(tmp_path):
    options = {"without": {"au_weight": 0.0}, "with": {"au_weight": 4.0, "optimizer": {"learning_rate": 0.5}}}
    folders = [fake_runs.make_run(tmp_path / name, faithfulness=True, **each) for name, each in options.items()]
    words = reliance.answer(*map(interventions.read, opened(*folders)))
    assert "`with` relies more on the codebook's AUs than `without`." in words
    assert "trained with AU cues" not in words


def test_several_seeds_are_put_together(tmp_path):
    folders = [
        fake_runs.make_run(tmp_path / f"{weight}-{seed}", au_weight=weight, seed=seed, faithfulness=True)
        for seed in (0, 1, 2)
        for weight in (0.0, 4.0)
    ]
    runs = opened(*folders)
    pairs = [tuple(map(interventions.read, pair)) for pair in evaluations.pairs(runs)]
    (words,) = reliance.over_seeds(pairs)
    leads = [reliance.measure(*pair).over_others.difference.value for pair in pairs]
    assert words.startswith("Over 3 seeds of **0.0-0** and **4.0-0**, the lead of the own AUs over all others")
    assert f"changes by {intervals.points(statistics.over_seeds(leads).mean)} points" in words
    assert reliance.over_seeds(pairs[:1]) == []


def test_faces_that_took_part_are_counted_and_the_others_explained(tmp_path):
    (found, _) = measured_interventions(tmp_path, 4.0)
    # Faces 0 to 4 show Happiness to all, 5 has no landmarks, 6 no control, 7 shows Fear, 8 and 9 one person Anger.
    predicted = ["Happiness"] * 7 + ["Fear", "Anger", "Anger"]

    def change(row):
        face = int(row["index"])
        cells = {"predicted": predicted[face]} if face < len(predicted) else {}
        cells |= dict.fromkeys(interventions.REGIONS, "0.1")
        empty = [name for name in row if name.startswith("AU")] + [*interventions.REGIONS] if face == 5 else ["control"]
        return [row | cells | (dict.fromkeys(empty, "") if face in (5, 6) else {})] if face < len(predicted) else []

    fake_runs.change_rows(found.run.folder, change, of="faithfulness")
    fake_runs.change_rows(found.run.folder, lambda row: [row | {"group": f"person {min(8, int(row['index']))}"}])
    (run,) = opened(found.run.folder)
    again = interventions.read(run)
    assert interventions.how(again).startswith("On 8 faces of 7 people, one action unit's")
    assert "Of the 10 drawn faces, 1 without landmarks and 1 without own AUs" in interventions.how(again)
    assert interventions.behind(again).endswith("expression: Happiness 5; Fear 1; Anger 2 of 1 people.")
    assert "the drops of Fear, Anger, which" in interventions.few(again)


def test_the_top_unit_and_the_sanity_of_maps_have_intervals(tmp_path):
    (found, _) = measured_interventions(tmp_path, 4.0)
    row = {"predicted": "Fear", "top_in_codebook": "0", "chance_in_codebook": "0.4", "randomisation:head:cam": "0"}
    changed = [row, row | {"top_in_codebook": "1", "randomisation:head:cam": "0.5"}]
    fake_runs.change_rows(found.run.folder, lambda old: [old | changed[int(old["index"]) % 2]], of="faithfulness")
    again = interventions.read(*opened(found.run.folder))
    top, chance = interventions.top_intervals(again)
    assert top.value == 0.5
    assert 0.25 < top.low < 0.45
    assert chance == pytest.approx((0.4, 0.4, 0.4))
    assert f"on {intervals.percent(top)} % of the faces the AU" in interventions.top_unit(again)
    head = interventions.randomisation(again).rows[0]
    assert head[-1].startswith("0.250 [0.1")
    assert interventions.stability(again).rows[1][-1] == "95.0 [95.0, 95.0]"


def flipped(test):
    value, low, high = test.difference
    return test._replace(difference=statistics.Interval(-value, -high, -low))


def test_difference_that_may_be_chance_is_left_open(tmp_path):
    before, after = measured_interventions(tmp_path, 4.0)
    found = reliance.measure(before, after)
    unsure = found.over_control._replace(difference=statistics.Interval(0.1, -0.1, 0.3))
    assert "No difference" in reliance.verdict(found._replace(over_control=unsure))


def test_missing_interventions_are_none_and_damaged_ones_named(tmp_path):
    folder = fake_runs.make_run(tmp_path / "run")
    (run,) = opened(folder)
    assert interventions.read(run) is None
    (folder / "eval/test/faithfulness.json").write_text('{"aus": []}')
    with pytest.raises(UserError, match=r"lacks num_examples.*--faithfulness"):
        interventions.read(run)


def test_interventions_that_were_measured_differently_are_not_compared(tmp_path):
    before, after = measured_interventions(tmp_path, 4.0)
    other = after._replace(content=after.content | {"filling": "mean"})
    assert "different fillings" in reliance.answer(before, other)
    assert f"`{interventions.command(after.run)}`" in reliance.answer(before, other)
    assert reliance.answer(before, after) == reliance.verdict(reliance.measure(before, after))


def test_drops_of_regions_are_those_of_the_summary(tmp_path):
    for found in measured_interventions(tmp_path, 4.0):
        # Three faces of different expressions, of which one has no control.
        rows = [("Fear", "0.1", "0.2", "0.3"), ("Anger", "0.5", "0.6", "0.7"), ("Fear", "0.9", "0.9", "")]
        names = ("predicted", *interventions.REGIONS)
        fake_runs.change_rows(
            found.run.folder,
            lambda row, rows=rows, names=names: (
                [row | dict(zip(names, rows[int(row["index"])], strict=True))] if int(row["index"]) < 3 else []
            ),
            of="faithfulness",
        )
        again = interventions.read(found.run)
        values = [interventions.region_interval(again, name).value for name in interventions.REGIONS]
        assert values == pytest.approx([0.3, 0.4, 0.5])


def test_interventions_on_other_weights_or_faces_are_left_out(tmp_path):
    folder = fake_runs.make_run(tmp_path / "run", faithfulness=True)
    (run,) = opened(folder)
    assert interventions.read(run) is not None
    fake_runs.change_metrics(folder, checkpoint={"step": 60, "epoch": 3, "which": "latest"})
    (run,) = opened(folder)
    assert interventions.read(run) is None
    words = interventions.missing(run)
    assert "those of step 40 instead of step 60" in words
    quoted = shlex.quote(str(folder))
    assert f"`python eval.py --workdir={quoted} --split=test --checkpoint=latest --faithfulness`" in words
    fake_runs.change_metrics(folder, checkpoint=fake_runs.CHECKPOINT, data={"dir": "faces", "fingerprint": "another"})
    assert interventions.read(*opened(folder)) is None
    fake_runs.change_metrics(folder, data={"dir": "faces", "fingerprint": "eeee"})
    assert interventions.read(*opened(folder)) is not None
    fake_runs.change_rows(folder, lambda row: [row | {"index": "99" + row["index"]}], of="faithfulness")
    (run,) = opened(folder)
    assert interventions.read(run) is None
    assert "other faces" in interventions.missing(run)
