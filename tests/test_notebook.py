import os
import pathlib
import re
from unittest import mock

import nbclient
import nbformat
import pytest
from released_folders import imported_run

from aujax import codebook, metrics, runs
from aujax.data import feed

NOTEBOOKS = pathlib.Path(__file__).parents[1] / "notebooks"
PERCENT = r"(-?\d+\.\d)%"


def execute(name: str, caches: pathlib.Path, variables: dict[str, str]) -> nbformat.NotebookNode:
    """Returns the notebook after executing its cells in order."""
    variables = variables | {key: str(caches / key) for key in ("IPYTHONDIR", "MPLCONFIGDIR", "JUPYTER_RUNTIME_DIR")}
    with pytest.MonkeyPatch.context() as environment:
        for key, value in variables.items():
            environment.setenv(key, value)
        notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
        resources = {"metadata": {"path": str(NOTEBOOKS)}}
        return nbclient.NotebookClient(notebook, timeout=120, resources=resources).execute()


@pytest.fixture(scope="module")
def inspected(tiny_run: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    """inspect_attention.ipynb, executed on a tiny run."""
    return execute("inspect_attention.ipynb", tmp_path_factory.mktemp("caches"), {"AUJAX_RUN": str(tiny_run)})


@pytest.fixture(scope="module")
def plugged(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    """plug_into_your_training.ipynb, executed."""
    return execute("plug_into_your_training.ipynb", tmp_path_factory.mktemp("caches"), {})


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list:
    """Returns the displayed outputs of this MIME type."""
    displayed = (output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))
    return [data[kind] for data in displayed if kind in data]


def printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(output["text"] for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output)


def numbers(pattern: str, notebook: nbformat.NotebookNode) -> list[float]:
    """Returns the numbers in the only line that matches the pattern."""
    (match,) = re.findall(f"^{pattern}$", printed(notebook), re.MULTILINE)
    return [float(number) for number in ([match] if isinstance(match, str) else match)]


def test_notebook_shows_the_face_its_maps_and_the_effects_of_occlusion(inspected):
    assert len(outputs(inspected, "image/png")) == 7


def test_notebook_shows_every_activation_by_name_and_shape(inspected):
    text = printed(inspected)
    for name in ("layer1", "layer2", "layer3", "layer4", "layer5"):
        assert re.search(rf"^{name} +\(1, \d+, \d+, \d+\)$", text, re.MULTILINE), name
    assert len(outputs(inspected, "text/html")) >= 3  # treescope: the variables, the activations, the channels


def test_notebook_names_the_action_units_of_the_face(inspected):
    assert "AU12 Lip corner puller" in printed(inspected)


def test_notebook_compares_with_a_constant_map(inspected):
    assert re.search(r"cosine of a constant map: 0\.\d\d", printed(inspected))


def test_notebook_scores_lie_between_those_of_a_constant_map_and_of_the_au_map_itself(inspected):
    columns = r" +(-?\d\.\d\d)" * len(metrics.SCORES)
    constant, best, cam = (
        dict(zip(metrics.SCORES, numbers(name + columns, inspected), strict=True))
        for name in ("a constant map", "the AU map itself", "CAM")
    )
    assert constant == dict.fromkeys(metrics.SCORES, 0) | {"auc": 0.5}
    assert best.pop("energy") > 0.8  # the rims of the ellipses lie outside the region
    assert best.pop("mean_iou") > 0.5
    assert set(best.values()) == {1}
    assert all(-1 <= cam[name] <= 1 for name in cam)


def test_notebook_compares_with_the_action_units_of_the_predicted_expression(inspected):
    text = printed(inspected)
    (expression,) = re.findall(r"^predicted: (\w+), ", text, re.MULTILINE)
    (listed,) = re.findall(r"^its action units in the codebook: (.+)$", text, re.MULTILINE)
    units = codebook.FACS.aus[expression]
    assert listed == (", ".join(f"AU{unit}" for unit in units) or "none")
    means = re.findall(r"^  (?:target AUs|control regions) +(\S+)$", text, re.MULTILINE)
    assert [mean == "none" for mean in means] == [not units] * 2


def test_notebook_reports_one_probability_for_the_whole_face(inspected):
    (whole,) = numbers(f"whole face: {PERCENT}", inspected)
    bars = re.findall(rf"^[A-Z][a-z]+ +{PERCENT} █*$", printed(inspected), re.MULTILINE)
    assert max(map(float, bars)) == pytest.approx(whole, abs=0.11)
    assert re.search(rf"^predicted: \w+, {whole:.1f}%$", printed(inspected), re.MULTILINE)


def test_notebook_occludes_the_regions_with_the_largest_drops(inspected):
    (whole,) = numbers(f"whole face: {PERCENT}", inspected)
    occluded = re.findall(rf"^without AU.+: {PERCENT}, a drop of (-?\d+\.\d) points$", printed(inspected), re.MULTILINE)
    after, drops = zip(*((float(probability), float(drop)) for probability, drop in occluded), strict=True)
    assert len(drops) == 3
    assert list(drops) == sorted(drops, reverse=True)
    assert [whole - probability for probability in after] == pytest.approx(drops, abs=0.16)  # three rounded numbers


def test_notebook_curves_of_all_orderings_meet_at_the_original_and_at_the_fully_occluded_image(inspected):
    (whole,) = numbers(f"whole face: {PERCENT}", inspected)
    lines = rf"^(deletion|insertion) +(.+?) +area \d\.\d{{3}}, from {PERCENT} to {PERCENT}$"
    curves = {(kind, name): ends for kind, name, *ends in re.findall(lines, printed(inspected), re.MULTILINE)}
    assert {name for _, name in curves} == {"attention (layer5)", "CAM", "random ordering"}
    (blank,) = {end for (kind, _), (_, end) in curves.items() if kind == "deletion"}
    for (kind, _), ends in curves.items():
        assert ends == ([f"{whole:.1f}", blank] if kind == "deletion" else [blank, f"{whole:.1f}"])


def test_cues_move_the_attention_of_another_network_to_the_action_units(plugged):
    (without,), (with_cues,), (constant,) = (
        numbers(rf"{name} .*  (\d\.\d\d)", plugged) for name in ("without cues", "with cues", "constant map")
    )
    assert with_cues > without + 0.1
    assert with_cues > constant + 0.2


def test_another_network_learns_to_classify_with_and_without_cues(plugged):
    # Chance is 14 % for seven expressions; the 95 % interval for 210 faces is 5 points wide to either side.
    for name in ("without cues", "with cues"):
        (accuracy,) = numbers(rf"{name} +(\d+)%.*", plugged)
        assert accuracy > 25, name


def test_cues_reach_a_network_that_returns_logits_only(plugged):
    before, after = numbers(r"cosine, one pass over the faces: (\d\.\d\d) -> (\d\.\d\d)", plugged)
    assert after > before + 0.1


def test_notebook_shows_faces_with_the_attention_of_both_networks(plugged):
    assert len(outputs(plugged, "image/png")) == 1


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_stored_notebook_has_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)


def test_notebook_opens_an_imported_run_with_a_data_set_of_ones_own(tiny_data, tmp_path, monkeypatch):
    """Its cells `load_run` and `open_data`, without a kernel: an imported run names no data set."""
    monkeypatch.setenv("AUJAX_RUN", str(imported_run(tmp_path)))
    monkeypatch.setenv("AUJAX_DATA", str(tiny_data))
    names = {"os": os, "load_run": runs.load_run, "open_data": runs.open_data, "feed": feed, "plt": mock.MagicMock()}
    notebook = nbformat.read(NOTEBOOKS / "inspect_attention.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.source.startswith(("run = ", "faces = ")):
            exec(cell.source, names)
    assert names["face"].image.shape == (32, 32, 3)
