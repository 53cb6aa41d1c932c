import pathlib
import re

import nbclient
import nbformat
import pytest

NOTEBOOK = pathlib.Path(__file__).parents[1] / "notebooks" / "inspect_attention.ipynb"


@pytest.fixture(scope="module")
def executed(tiny_run: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    """The notebook after its cells ran, in their order, on a tiny run."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    caches = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AUJAX_RUN", str(tiny_run))
        for name in ("IPYTHONDIR", "MPLCONFIGDIR", "JUPYTER_RUNTIME_DIR"):
            environment.setenv(name, str(caches / name))
        return nbclient.NotebookClient(
            notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
        ).execute()


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list:
    """What the cells showed, as this MIME type."""
    shown = (output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))
    return [data[kind] for data in shown if kind in data]


def printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(output["text"] for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output)


def test_notebook_shows_the_face_its_au_map_the_attention_and_other_readouts(executed):
    assert len(outputs(executed, "image/png")) == 4


def test_notebook_shows_every_activation_by_name_and_shape(executed):
    text = printed(executed)
    for name in ("layer1", "layer2", "layer3", "layer4", "layer5"):
        assert re.search(rf"^{name} +\(1, \d+, \d+, \d+\)$", text, re.MULTILINE), name
    assert len(outputs(executed, "text/html")) >= 3  # treescope: the variables, the activations, the channels


def test_notebook_names_the_action_units_of_the_face(executed):
    assert "AU12 Lip corner puller" in printed(executed)


def test_notebook_compares_with_a_flat_map(executed):
    assert re.search(r"cosine of a flat map: 0\.\d\d", printed(executed))


def test_stored_notebook_has_no_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
