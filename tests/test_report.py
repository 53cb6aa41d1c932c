"""The pages as files; what they hold in detail is tested where it is made, how they behave in test_page_in_browser."""

import base64
import doctest
import hashlib
import html.parser
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import fake_runs
import pytest

from aujax.errors import UserError
from aujax.report import __main__ as command
from aujax.report import (
    changes,
    figures,
    gallery,
    intervals,
    interventions,
    markup,
    overlays,
    page,
    people,
    seeds,
    tables,
)

FULL = {"splits": ("test", "validation"), "faithfulness": True}
WITHOUT_END = ("meta", "link", "img", "br")


class Outline(html.parser.HTMLParser):
    """Checks that tags are closed in order, and keeps ids, links, headings and what tags ask for."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[int] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag not in WITHOUT_END:
            self.open.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" else []
        self.headings += [int(tag[1])] if re.fullmatch(r"h\d", tag) else []
        self.addresses += [found[name] for name in ("src", "href") if name in found and tag != "a"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    root = tmp_path_factory.mktemp("two runs")
    weights = {"without": 0.0, "with": 4.0}
    return [fake_runs.make_run(root / name, au_weight=weight, **FULL) for name, weight in weights.items()]


@pytest.fixture(scope="module")
def pages(two_runs, tmp_path_factory) -> dict[str, str]:
    """The page of a run and that of the comparison."""
    out = tmp_path_factory.mktemp("out")
    shown = {"run": two_runs[1:], "comparison": two_runs}
    return {name: page.write(runs, "test", out / "a b" / name)[0].read_text("utf-8") for name, runs in shown.items()}


@pytest.mark.parametrize("name", ["run", "comparison"])
def test_page_is_whole_and_holds_all_it_needs(pages, name):
    outline = Outline(pages[name])
    assert outline.open == []
    assert len(set(outline.ids)) == len(outline.ids)
    assert {link.removeprefix("#") for link in outline.links} <= set(outline.ids)
    assert all(address.startswith("data:") for address in outline.addresses)
    assert "://" not in pages[name]
    assert outline.headings[0] == 1
    assert all(low <= high + 1 for high, low in zip(outline.headings, outline.headings[1:], strict=False))


@pytest.mark.parametrize("name", ["run", "comparison"])
def test_protocol_stands_beside_every_table_of_numbers(pages, name):
    captions = re.findall(r"<caption><span>(.*?)</span></caption>", pages[name])
    without = [caption for caption in captions if "protocol heldout" not in caption]
    assert {caption.split()[0] for caption in without} == {"Codebook", "The"}
    assert len(captions) > 6


def test_page_of_a_run_has_all_its_parts(pages, two_runs):
    text, metrics = pages["run"], json.loads((two_runs[1] / "eval/test/metrics.json").read_text())
    assert f"<b>{100 * metrics['cl']:.1f}</b>" in text
    assert f"<b>{metrics['att_cos']['layer5']:.3f}</b>" in text
    for words in (
        "28 faces from the split <code>test</code>; 24 of them have an action-unit (AU) map",
        "AU12 lip corner puller",
        "Wrong, the surest first",
        "after temperature",
        "By gender, with 95 % intervals",
        "Drop of the probability (points)",
        "Faces behind the drops, by predicted expression: Happiness ",
        "fewer than 5 people are behind the drops of",
        "AU12 = AU15",
        "moved within the face to where it covers least of the expression's AU map",
        "Faces predicted as Neutral have no own AUs",
        "at 5 shares of the picture",
        "a new head leaves all attention as it was",
        "Left out: <code>age</code>",
        "AI Act, Article 5(1)(f)",
        "The faces show no real person.",  # the terms of the data set
        "They come with the data, under the same terms.",  # those of the landmarks
        "fingerprint <code>eeee</code>",
        "python 3.11.0, jax 0.10.2",
        "best: step 40, epoch 2",
    ):
        assert words in text


def test_comparison_has_all_its_parts(pages):
    text = pages["comparison"]
    for words in (
        "From <strong>without</strong> to <strong>with</strong>, accuracy goes",
        "without → with",
        "Faces side by side",
        "The network trained with AU cues relies more",
        "another seed would differ",
        "Surest 90 % (%)",
        "By gender, with 95 % intervals",
        "Gaussian in the middle",
    ):
        assert words in text


def test_what_was_not_measured_comes_with_its_command(tmp_path):
    run = fake_runs.make_run(tmp_path / "run", attributes=False)
    text = page.write([run], "test", tmp_path / "out")[0].read_text("utf-8")
    assert f"eval.py --workdir={shlex.quote(str(run))} --split=test --faithfulness" in text
    assert f"eval.py --workdir={shlex.quote(str(run))} --split=validation" in text
    assert "The data say nothing of the people" in text


def test_runs_on_other_data_or_broken_ones_are_told_and_the_others_compared(tmp_path, caplog):
    runs = [fake_runs.make_run(tmp_path / f"runs/{weight:g}", au_weight=weight) for weight in (0.0, 4.0)]
    other = fake_runs.make_run(tmp_path / "other", evaluated_on="ffff")
    text = page.write([tmp_path / "runs", other, tmp_path / "nothing"], "test", tmp_path / "out")[0].read_text("utf-8")
    assert f"Comparison: {runs[0].name}, {runs[1].name}" in text
    first, second = caplog.messages
    assert "different data (fingerprints eeee and ffff)" in first
    assert "nothing: no such run folder" in second


def test_method_without_cam_has_a_page(tmp_path):
    run = fake_runs.make_run(tmp_path / "run")
    scores = json.loads((run / "eval/test/metrics.json").read_text())["map_scores"]
    without = {of: {name: row for name, row in maps.items() if name != "cam"} for of, maps in scores.items()}
    fake_runs.change_metrics(run, cam_cos=None, cam_without_pattern=None, map_scores=without)
    fake_runs.change_maps(run, sample__cam=None, gallery__cam=None, class_mean__cam=None)
    text = page.write([run], "test", tmp_path / "out")[0].read_text("utf-8")
    assert "CAM-COS<b>–</b>" in text
    assert "<figcaption>CAM" not in text


def test_maps_without_a_pattern_are_said_in_the_page(tmp_path):
    run = fake_runs.make_run(tmp_path / "run")
    fake_runs.change_metrics(run, cam_without_pattern=0, att_without_pattern={"layer4": 0, "layer5": 28})
    text = page.write([run], "test", tmp_path / "out")[0].read_text("utf-8")
    assert "<strong>Caution.</strong> run: Maps without a pattern" in text


def test_names_are_escaped(tmp_path):
    run = fake_runs.make_run(tmp_path / "<b>&run", **FULL)
    text = page.write([run], "test", tmp_path / "out")[0].read_text("utf-8")
    assert "<b>&run" not in text
    assert "<title>Report of the run &lt;b&gt;&amp;run</title>" in text


def test_report_is_not_written_over_a_file(tmp_path, two_runs):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="--out: expected a folder"):
        page.write(two_runs, "test", tmp_path / "out")


def test_what_cannot_be_written_is_told_before_the_work(tmp_path, two_runs, monkeypatch):
    (tmp_path / "taken" / "report.html").mkdir(parents=True)
    with pytest.raises(UserError, match=r"report\.html, but there is a folder of that name"):
        page.write(two_runs, "test", tmp_path / "taken")
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["report.html"]
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "closed")  # root may write everywhere
    with pytest.raises(UserError, match="closed, but it is not allowed"):
        page.write(two_runs, "test", tmp_path / "closed")


def test_only_the_pages_own_script_may_run(pages):
    for text in pages.values():
        script = text.partition("<script>")[2].partition("</script>")[0]
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in text
        assert text.count("<script") == 1


def test_names_of_layers_are_escaped_in_the_gallery():
    picture = gallery.Picture("", "attention <i>layer</i>")
    assert "&lt;i&gt;layer" in gallery.cards([gallery.Card("Fear", [("", [picture])])], level=4)


def test_report_needs_no_jax():
    code = "import sys, aujax.report.__main__; print([n for n in ('jax', 'flax', 'matplotlib') if n in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_command_prints_the_paths(two_runs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["report", "page", *map(str, two_runs), f"--out={out}"])
    command.main()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"written: {out / 'report.html'}"
    assert all(pathlib.Path(line.removeprefix("written: ")).is_file() for line in printed)


def test_command_ends_with_status_2_on_a_mistake(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report", "page", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "no such run folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "module",
    [changes, figures, intervals, interventions, markup, overlays, people, seeds, tables],
    ids=lambda m: m.__name__,
)
def test_examples_in_the_docstrings_are_right(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_figures_of_other_reports_in_the_folder_are_left_alone(two_runs, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.svg").write_text("mine")
    written = page.write(two_runs[:1], "test", tmp_path)
    assert tmp_path / "figures" / "mine.svg" not in written
    assert (tmp_path / "figures" / "mine.svg").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures", "report.html"]


@pytest.mark.parametrize("count", [1, 2])
def test_page_says_when_people_repeat(tmp_path, count):
    runs = [fake_runs.make_run(tmp_path / name, faithfulness=True) for name in ("a", "b")[:count]]
    for run in runs:
        fake_runs.repeat_faces(run, named=True)
    text = page.write(runs, "test", tmp_path / "out")[0].read_text("utf-8")
    assert "56 faces of 28 people from the split" in text
    assert "intervals and tests draw people, with all their faces." in text


@pytest.mark.parametrize("count", [1, 2])
def test_interventions_on_other_weights_are_not_mixed_into_the_page(tmp_path, count):
    runs = [fake_runs.make_run(tmp_path / name, faithfulness=True) for name in ("a", "b")[:count]]
    for run in runs:
        fake_runs.change_metrics(run, checkpoint={"step": 60, "epoch": 3, "which": "latest"})
    text = page.write(runs, "test", tmp_path / "out")[0].read_text("utf-8")
    assert text.count("those of step 40 instead of step 60") == count
    quoted = shlex.quote(str(runs[0]))
    assert f"eval.py --workdir={quoted} --split=test --checkpoint=latest --faithfulness" in text
    assert "Mean drop" not in text


def test_rules_of_a_page_of_its_own_come_last():
    text = markup.document("Title", [], [], style=".mine { color: red; }\n")
    rules = text.partition("<style>")[2].partition("</style>")[0]
    assert len(rules) > 1000
    assert rules.endswith("\n.mine { color: red; }\n")


def test_every_figure_of_a_run_says_of_which_split_and_protocol_it_is(tmp_path):
    run = fake_runs.make_run(tmp_path / "run", au_weight=4.0, splits=("test", "validation"), faithfulness=True)
    figures = page.write([run], "test", tmp_path / "out")[1:]
    assert {path.stem for path in figures} >= {"interventions", "removals", "reliability", "coverage"}
    for path in figures:
        assert path.stem == "training" or "split test, protocol heldout" in path.read_text("utf-8"), path.name
