"""Pages from templates: text is escaped, one script may run, and everything is inside one file."""

import base64
import builtins
import hashlib
import re

import jinja2
import numpy as np
import pytest

from aujax.errors import UserError
from aujax.report import html


@pytest.fixture
def render():
    """Renders a template that is given as text, with the macros at hand."""

    def render(template, **data):
        source = "{% import 'macros.html' as macros %}" + template
        return html.template_environment("aujax.report").from_string(source).render(data)

    return render


def test_text_is_escaped_and_its_marks_become_elements(render):
    assert render("{{ text | rich_text }}", text="a < `b<` **c & `d`**") == (
        "a &lt; <code>b&lt;</code> <strong>c &amp; </strong><strong><code>d</code></strong>"
    )
    assert render("{{ text }}", text="<b>") == "&lt;b&gt;"
    assert render('<p title="{{ text | plain_text }}">', text='"`a`"') == '<p title="&#34;a&#34;">'


def test_table_has_caption_row_headers_numbers_on_the_right_and_intervals_below(render):
    rows = [("a_b & <c> `x`", "1.0 [0.5, 1.5]"), ("d", "–")]
    table = render("{{ macros.table('By **run**', ['Run', 'CAM-COS'], rows) }}", rows=rows)
    assert '<th scope="row">a_b &amp; &lt;c&gt; <code>x</code></th>' in table
    assert "<caption><span>By <strong>run</strong></span></caption>" in table
    assert 'tabindex="0" aria-label="By run"' in table
    assert '<td class="number">1.0 <small>[0.5, 1.5]</small></td>' in table
    assert '<td class="number">–</td>' in table
    assert '<th scope="col" class="number short">CAM-COS</th>' in table


def test_page_admits_its_one_script_and_forbids_everything_else():
    page = html.render_page("A & B", "base.html", [])
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page
    assert "<h1>A &amp; B</h1>" in page
    assert "<nav" not in page


def test_section_sees_its_own_data_alone(monkeypatch):
    environment = html.template_environment("aujax.report")
    templates = jinja2.DictLoader({"own.html": "{{ own }}", "foreign.html": "{{ foreign }}"})
    monkeypatch.setattr(environment, "loader", jinja2.ChoiceLoader([templates, environment.loader]))
    page = html.render_page("T", "base.html", [("own", "**One**", {"own": "<i>"})])
    assert '<li><a href="#own"><strong>One</strong></a></li>' in page
    assert '<section aria-labelledby="own">\n<h2 id="own"><strong>One</strong></h2>\n&lt;i&gt;\n</section>' in page
    with pytest.raises(jinja2.UndefinedError, match="'foreign' is undefined"):
        html.render_page("T", "base.html", [("foreign", "A", {})], foreign="page's")


def test_images_are_embedded(render, tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    image = render("{{ macros.image(pixels, 'A `b`', 'A & `b`') }}", pixels=pixels)
    assert '<img src="data:image/jpeg;base64,/9j/' in image
    assert 'alt="A &amp; b" width="6" height="4"' in image
    path = tmp_path / "a.svg"
    path.write_text("<svg/>")
    assert html.image_file(path) == "data:image/svg+xml;base64,PHN2Zy8+"


def test_missing_jinja2_is_a_user_error(monkeypatch):
    original = builtins.__import__

    def without_jinja2(name, *arguments):
        if name == "jinja2":
            raise ImportError
        return original(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_jinja2)
    with pytest.raises(UserError, match=r'pip install "aujax\[report\]"'):
        html.template_environment.__wrapped__("aujax.report")
