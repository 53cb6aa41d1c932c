"""Pages as files: complete, self-contained, with every part and the commands for what is missing."""

import base64
import doctest
import hashlib
import os
import pathlib
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser

import evaluated_runs
import numpy as np
import pytest
from evaluated_runs import make_run

from aujax import cli
from aujax.errors import UserError
from aujax.report import faces, html, page, paper, tables
from aujax.results import compare

WITHOUT_END = ("meta", "link", "img", "br")


class Outline(HTMLParser):
    """Checks that tags are closed in order; keeps ids, links, headings and the addresses of resources."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[int] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag not in WITHOUT_END:
            self.open.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if tag == "a" else []
        self.headings += [int(tag[1])] if re.fullmatch(r"h\d", tag) else []
        self.addresses += [attributes[name] for name in ("src", "href") if name in attributes and tag != "a"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def write(runs, out) -> str:
    return page.write(runs, "test", out)[0].read_text("utf-8")


def text_of(markup: str) -> str:
    """Returns the text between the tags, with single blanks."""
    return " ".join(re.sub(r"<[^>]+>", " ", markup).split())


@pytest.fixture(scope="module")
def pages(two_runs, tmp_path_factory) -> dict[str, str]:
    """The page of a run, and the page that compares two."""
    out = tmp_path_factory.mktemp("out")
    return {name: write(runs, out / "a b" / name) for name, runs in (("run", two_runs[1:]), ("comparison", two_runs))}


@pytest.mark.parametrize("name", ["run", "comparison"])
def test_page_is_well_formed_and_self_contained(pages, name):
    outline = Outline(pages[name])
    assert outline.open == []
    assert len(set(outline.ids)) == len(outline.ids)
    assert {link.removeprefix("#") for link in outline.links} <= set(outline.ids)
    assert all(address.startswith("data:") for address in outline.addresses)
    assert "://" not in pages[name]
    assert outline.headings[0] == 1
    assert all(low <= high + 1 for high, low in zip(outline.headings, outline.headings[1:], strict=False))


@pytest.mark.parametrize("name", ["run", "comparison"])
def test_split_and_model_selection_are_in_the_caption_of_every_table_of_numbers(pages, name):
    captions = re.findall(r"<caption><span>(.*?)</span></caption>", pages[name])
    without = [caption for caption in captions if "test split, checkpoint selected on validation" not in caption]
    assert {caption.split()[0] for caption in without} == {"Codebook", "The"}
    assert len(captions) > 6


def test_page_of_a_run_has_all_its_parts(pages, two_runs):
    markup = pages["run"]
    metadata = evaluated_runs.open_test(two_runs[1]).metadata
    assert f"<b>{100 * metadata['accuracy']:.1f}</b> Accuracy (%)" in markup
    assert f"<b>{metadata['att_cos']:.3f}</b> ATT-COS (layer5)" in markup
    text = text_of(markup)
    for part in (
        "evaluated on 28 faces of the test split; 24 of them have an action-unit (AU) map",
        "does not exceed that of" if metadata["att_cos"] < 0.8144 else "exceeds that of every",
        "uniform map 0.471, centred Gaussian 0.552, all action units 0.723, mean AU map of the true expression 0.814.",
        "AU12 lip corner puller",
        "Wrong predictions, the most confident first",
        "calibrated 1.250",
        "By gender, with 95 % intervals",
        "Target AUs (points)",
        "Faces behind the drops, by predicted expression: Happiness ",
        "fewer than 5 subjects are behind the drops of",
        "AU12 = AU15",
        "moved within the face to where they overlap them least",
        "Faces predicted as Neutral have no target AUs",
        "at 5 shares of the image",
        "a new head leaves every attention unchanged",
        "Left out: age",
        "AI Act, Article 5(1)(f)",
        "Nobody is shown.",  # terms of the data set
        "Landmarks. Drawn with the faces.",
        "fingerprint eeee",
        "python 3.11.0, jax 0.10.2",
        "best: step 40, epoch 2",
        "The temperature was fitted on the validation split",
        "accuracy on the validation split",  # the operating point
        "aujax report page",
    ):
        assert part in text, part


def test_comparison_opens_with_the_table_that_shows_the_idea(pages, two_runs):
    markup = pages["comparison"]
    assert markup.index("Without AU cues") < markup.index("Inconclusive" if "Inconclusive" in markup else "Yes:")
    assert markup.index("Without AU cues") < markup.index("<section")
    text = text_of(markup)
    for part in (
        "2 trained classifiers, evaluated on the same 28 faces",
        "without → with",
        "Faces",
        "Yes: the network trained with AU cues relies more on the codebook",
        "another seed would give other numbers",
        "Accept at least",
        "By gender, with 95 % intervals",
        "Centred Gaussian",
    ):
        assert part in text, part
    assert "Model card" not in text


def test_faces_come_first_of_all_sections(pages):
    for markup in pages.values():
        assert re.search(r'<h2 id="(\w+)"', markup)[1] == "faces"


@pytest.mark.usefixtures("blank_figures")
def test_missing_measurements_come_with_their_commands(tmp_path):
    run = make_run(tmp_path / "run", attributes=False)
    text = text_of(write([run], tmp_path / "out"))
    command = f"aujax eval --workdir={shlex.quote(str(run))}"
    assert f"{command} --split=test --faithfulness" in text
    assert f"{command} --split=validation,test" in text
    assert "The data have no attributes of the subjects" in text


@pytest.mark.usefixtures("blank_figures")
def test_page_of_the_validation_split_explains_why_nothing_is_calibrated(tmp_path):
    run = make_run(tmp_path / "run", splits=("validation",))
    markup = page.write([run], "validation", tmp_path / "out")[0].read_text("utf-8")
    assert "cannot be evaluated on it: see the test split" in markup


@pytest.mark.usefixtures("blank_figures")
def test_terms_that_are_not_known_are_to_be_asked_for(tmp_path):
    run = make_run(tmp_path / "run", about={"name": "folder"})
    text = text_of(write([run], tmp_path / "out"))
    assert "The licence of the data is not known: ask whoever prepared them." in text
    assert "terms of use of the landmark detector are not known" in text


@pytest.mark.usefixtures("blank_figures")
def test_runs_on_other_data_or_unreadable_ones_are_skipped_with_a_warning(tmp_path, caplog):
    runs = [make_run(tmp_path / f"runs/{weight:g}", au_weight=weight) for weight in (0.0, 4.0)]
    other = make_run(tmp_path / "other", evaluated_on="ffff")
    markup = write([tmp_path / "runs", other, tmp_path / "nothing"], tmp_path / "out")
    assert f"Comparison: {runs[0].name}, {runs[1].name}" in markup
    first, second = caplog.messages
    assert "different data (fingerprints eeee and ffff)" in first
    assert "nothing: no such run folder" in second


@pytest.mark.usefixtures("blank_figures")
def test_method_without_cam_has_a_page(tmp_path):
    markup = write([make_run(tmp_path / "run", has_cam=False, faithfulness=True)], tmp_path / "out")
    assert "<b>–</b> CAM-COS" in markup
    assert "<figcaption>CAM" not in markup
    run = evaluated_runs.open_test(tmp_path / "run")
    assert tables.results_table([run]).rows[0][-1] == "–"


@pytest.mark.usefixtures("blank_figures")
def test_degenerate_maps_are_reported(tmp_path):
    def all_degenerate(content):
        content.scores[evaluated_runs.ScoreKey("degenerate", "layer5")][:] = 1

    run = make_run(tmp_path / "run", edit=all_degenerate)
    text = text_of(write([run], tmp_path / "out"))
    assert "Caution. run: Degenerate maps, constant or not finite: the attention at layer5 of 28 of 28 faces." in text


@pytest.mark.usefixtures("blank_figures")
def test_names_are_escaped(tmp_path):
    markup = write([make_run(tmp_path / "<b>&run", faithfulness=True)], tmp_path / "out")
    assert "<b>&run" not in markup
    assert "<title>Evaluation of &lt;b&gt;&amp;run</title>" in markup


def test_names_of_layers_are_escaped_in_the_gallery():
    macro = html.template_environment("aujax.report").get_template("face_cards.html").module
    image = faces.FaceImage(None, "no map", "attention <i>layer</i>", "")
    markup = macro.face_cards([faces.Card("Fear", [faces.ImageGroup("", "", [image])])], 4)
    assert "&lt;i&gt;layer" in markup


@pytest.mark.usefixtures("blank_figures")
def test_report_is_not_written_over_a_file(tmp_path, two_runs):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="--out: expected a folder"):
        page.write(two_runs, "test", tmp_path / "out")


@pytest.mark.usefixtures("blank_figures")
def test_outputs_that_cannot_be_written_are_reported_before_the_work(tmp_path, two_runs, monkeypatch):
    (tmp_path / "taken" / "report.html").mkdir(parents=True)
    with pytest.raises(UserError, match=r"report\.html, but there is a folder of that name"):
        page.write(two_runs, "test", tmp_path / "taken")
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["report.html"]
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "closed")  # root may write everywhere
    with pytest.raises(UserError, match="closed, but it is not allowed"):
        page.write(two_runs, "test", tmp_path / "closed")


def test_only_the_script_of_the_page_may_run(pages):
    for markup in pages.values():
        script = markup.partition("<script>")[2].partition("</script>")[0]
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in markup
        assert markup.count("<script") == 1


def test_rules_of_a_page_come_after_those_of_all_pages():
    template = "{% extends 'base.html' %}{% block style %}.own { color: red; }{% endblock %}"
    markup = html.template_environment("aujax.report").from_string(template).render(title="T", sections=[])
    rules = markup.partition("<style>")[2].partition("</style>")[0]
    assert len(rules) > 1000
    assert rules.rstrip().endswith(".own { color: red; }")


def test_report_needs_neither_jax_nor_matplotlib_to_start():
    code = "import sys, aujax.report.__main__; print([n for n in ('jax', 'flax', 'matplotlib') if n in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


@pytest.mark.usefixtures("blank_figures")
def test_command_ends_with_the_table_and_the_path_of_the_page(two_runs, tmp_path, capsys):
    out = tmp_path / "out"
    cli.main(["report", "page", *map(str, two_runs), f"--out={out}"])
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"page: {out / 'report.html'}"
    written = [pathlib.Path(line.removeprefix("written: ")) for line in lines if line.startswith("written: ")]
    assert {"comparison.csv", "training.svg"} <= {path.name for path in written}
    assert all(path.is_file() for path in written)
    table = " ".join(" ".join(lines[len(written) :]).split())
    assert table.startswith("Without With")
    assert "Difference baseline" in table
    assert "0.814" in table


@pytest.mark.usefixtures("blank_figures")
def test_command_about_one_run_prints_no_table(two_runs, tmp_path, capsys):
    cli.main(["report", "page", str(two_runs[0]), f"--out={tmp_path}"])
    assert all(line.startswith(("written: ", "page: ")) for line in capsys.readouterr().out.splitlines())


@pytest.mark.usefixtures("blank_figures")
def test_command_ends_with_status_2_after_a_mistake(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["report", "page", str(tmp_path / "nowhere")])
    assert "no such run folder" in capsys.readouterr().err


@pytest.mark.parametrize("module", [faces, html, paper, tables], ids=lambda module: module.__name__)
def test_examples_in_docstrings_are_right(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.usefixtures("blank_figures")
def test_figures_of_other_reports_in_the_folder_are_kept(two_runs, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.svg").write_text("mine")
    written = page.write(two_runs[:1], "test", tmp_path)
    assert tmp_path / "figures" / "mine.svg" not in written
    assert (tmp_path / "figures" / "mine.svg").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures", "report.html"]


@pytest.mark.usefixtures("blank_figures")
def test_tables_of_a_comparison_are_written_beside_its_page(two_runs, tmp_path):
    paths = page.write(two_runs, "test", tmp_path)
    assert (tmp_path / "comparison.csv") in paths
    header = (tmp_path / "comparison.csv").read_text().splitlines()[0]
    assert header.split(",") == list(compare.TEST_COLUMNS)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.usefixtures("blank_figures")
def test_page_says_when_subjects_repeat(tmp_path, count):
    def repeat(content):
        evaluated_runs.repeat_faces(content, named=True)

    runs = [make_run(tmp_path / name, faithfulness=True, edit=repeat) for name in ("a", "b")[:count]]
    text = text_of(write(runs, tmp_path / "out"))
    assert "56 faces of 28 subjects of the test split" in text
    assert "intervals and tests resample subjects, with all their faces." in text


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.usefixtures("blank_figures")
def test_faithfulness_of_other_weights_is_not_shown(tmp_path, count):
    runs = [make_run(tmp_path / name, faithfulness=True) for name in ("a", "b")[:count]]
    for run in runs:
        evaluated_runs.change_json(run, checkpoint={"step": 60, "epoch": 3, "which": "latest"})
    text = text_of(write(runs, tmp_path / "out"))
    assert text.count("those of step 40 instead of step 60") == count
    command = f"aujax eval --workdir={shlex.quote(str(runs[0]))} --split=test --checkpoint=latest --faithfulness"
    assert command in text
    assert "Mean probability drop" not in text


def test_every_figure_of_a_run_names_split_and_model_selection(two_runs, tmp_path):
    figures = [path for path in page.write(two_runs[1:], "test", tmp_path)[1:] if path.suffix == ".svg"]
    assert {path.stem for path in figures} >= {"probability_drops", "perturbation", "reliability", "coverage"}
    for path in figures:
        assert path.stem == "training" or "test split, checkpoint selected on validation" in path.read_text("utf-8")


@pytest.mark.usefixtures("blank_figures")
def test_three_methods_are_compared_with_the_first(tmp_path):
    runs = [make_run(tmp_path / name, method=name, faithfulness=True) for name in ("CAM", "ADL", "PRM")]
    text = text_of(write(runs, tmp_path / "out"))
    assert "CAM → ADL" in text
    assert "CAM → PRM" in text
    assert "ADL → PRM" not in text


@pytest.mark.usefixtures("blank_figures")
def test_samples_without_a_shared_face_are_reported(tmp_path, two_runs):
    other = make_run(tmp_path / "other")
    evaluated_runs.change_maps(other, sample__face=np.arange(14) + 1000)
    assert "none can be shown side by side" in write([two_runs[0], other], tmp_path / "out")


@pytest.mark.usefixtures("blank_figures")
def test_seeds_of_both_settings_are_one_comparison(seed_runs, tmp_path):
    runs = [seed_runs / f"au_weight={weight},seed={seed}" for weight in (0, 4) for seed in (0, 1)]
    text = text_of(write(runs, tmp_path))
    assert "Trainings that differ in their seed alone" in text
    assert "Over 2 seeds of au_weight=0,seed=0 and au_weight=4,seed=0 , the difference of the normalised drops" in text
    assert "mean ± standard deviation are given" in text
    assert (tmp_path / "seeds.csv").is_file()
