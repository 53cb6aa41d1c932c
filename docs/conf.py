"""Sphinx configuration of the documentation site: `make docs` writes docs/_build/html.

Warnings are errors, and nothing is fetched from a network. Before the pages are read, `_generated/` is filled:
notebooks and documents from outside this folder are copied there (Sphinx reads no others); the tables of options,
metrics and result files and the list of modules of the API reference are written from the package. The notebooks and
the guides with `{code-cell}` blocks are executed; an exception in one of them fails the build. The examples in
docstrings are run by tests/test_docstrings.py.
"""

import os
import pathlib
import re
import shutil
import sys

from sphinx.application import Sphinx

DOCS = pathlib.Path(__file__).parent
ROOT = DOCS.parent
GENERATED = DOCS / "_generated"
sys.path[:0] = [str(ROOT), str(DOCS)]

import api_reference  # noqa: E402, beside this file
import generated_tables  # noqa: E402

import aujax  # noqa: E402

project = "aujax"
author = "the authors of aujax"
version = release = aujax.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
templates_path = ["_templates"]
# A name in single backticks becomes a link where it names an object of this reference, and is code otherwise.
default_role = "py:obj"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_timeout = 240
nb_execution_raise_on_error = True
nb_merge_streams = True

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
# Annotations are taken from the source by api_reference: evaluated, a jaxtyping annotation fills several lines.
autodoc_typehints = "none"
maximum_signature_line_length = 90
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the signature shows the types of the fields
# `Evaluation` in a docstring may be the class of two modules; the link then goes to the first of them.
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = f"aujax {version}"
html_show_sourcelink = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
pygments_style = "default"


def copy_documents() -> None:
    """Copies the notebooks, and the documents of the repository's root with their links adjusted, to `_generated/`."""
    notebooks = GENERATED / "notebooks"
    notebooks.mkdir(parents=True, exist_ok=True)
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        shutil.copyfile(notebook, notebooks / notebook.name)
    names = {name: name.lower() for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")}
    for name, copy in names.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        for document, document_copy in names.items():
            text = text.replace(f"]({document}", f"]({document_copy}")
        text = text.replace("](docs/", "](../")
        text = re.sub(r"\]\((?=(aujax|benchmarks|configs|tests)/)", "](../../", text)
        (GENERATED / copy).write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Registers what runs before the pages are read, and the rendering of signatures and docstrings."""
    os.environ.setdefault("AUJAX_RUN", str(ROOT / "runs" / "demo" / "with_au"))
    copy_documents()
    generated_tables.write(GENERATED)
    api_reference.write_pages(aujax, GENERATED / "api")
    api_reference.setup(app)
