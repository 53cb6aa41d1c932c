"""Self-contained HTML pages, rendered from Jinja2 templates.

All markup is in `templates/`; Python passes data to it. A page is one file: styles, the one script and all images are
embedded, and its Content-Security-Policy forbids every request and every other script. Text is escaped automatically.
In texts that pass the filter `rich_text`, `code` is written between backticks and **strong** text between stars.
"""

import base64
import functools
import hashlib
import io
import mimetypes
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from aujax.errors import UserError
from aujax.report import tables
from aujax.results import compare, schema
from aujax.results.registry import BASELINE_MAPS, METRICS

if TYPE_CHECKING:
    import jinja2


# A part of a page: the id that links use, its title, and the variables of its template, which has the name of the id.
Section = tuple[str, str, Mapping[str, Any]]


def render_page(
    title: str, template: str, sections: Sequence[Section], *, package: str = "aujax.report", **data: Any
) -> str:
    """Returns an HTML page.

    Args:
      title: the title and main heading of the page.
      template: extends base.html; its blocks see `data`.
      sections: each template is rendered with the data of its own section alone.
      package: where templates are searched before those of `aujax.report`.
      data: the variables of `template`.
    """
    environment = template_environment(package)
    rendered = []
    for name, heading, variables in sections:
        content = environment.get_template(f"{name}.html").render(variables)
        rendered.append({"id": name, "title": heading, "content": content})
    return environment.get_template(template).render(title=title, sections=rendered, **data)


def sentences(name: str, *arguments: Any) -> list[str]:
    """Returns the paragraphs of a text of templates/sentences.txt; [] if it does not apply."""
    macro = getattr(template_environment("aujax.report").get_template("sentences.txt").module, name)
    paragraphs = str(macro(*arguments)).split("¶")
    # Only line breaks become blanks: names of folders may hold several blanks.
    return [re.sub(r"\s*\n\s*", " ", text.strip()) for text in paragraphs if text.strip()]


def sentence(name: str, *arguments: Any) -> str:
    """Returns a text of templates/sentences.txt as one paragraph, "" if it does not apply."""
    return " ".join(sentences(name, *arguments))


@functools.cache
def template_environment(package: str) -> "jinja2.Environment":
    """Returns the Jinja2 environment for the templates of a package and those of `aujax.report`.

    Raises:
      UserError: Jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise UserError('reports need Jinja2, which is not installed: pip install "aujax[report]"') from error
    loaders = [jinja2.PackageLoader(name) for name in dict.fromkeys((package, "aujax.report"))]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=lambda name: not (name or "").endswith(".txt"),  # plain text is escaped where a page shows it
        undefined=jinja2.StrictUndefined,  # a variable without a value is an error, not an empty text
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own = (_spans, plain_text, _split_interval, jpeg, image_file, schema.interval_of)
    of_tables = ("number", "with_interval", "p_value", "heading", "option", "degenerate_sentence")
    environment.filters |= {function.__name__.lstrip("_"): function for function in own}
    environment.filters |= {name: getattr(tables, name) for name in of_tables} | {"thousands": "{:,}".format}
    environment.globals |= {"sentence": sentence, "sentences": sentences, "option": tables.option, "zip": zip}
    environment.globals |= {"compare": compare, "METRICS": METRICS, "BASELINE_MAPS": BASELINE_MAPS}
    # A macro is a filter that writes markup, so that no tag is written in Python.
    environment.filters["rich_text"] = environment.get_template("rich_text.html").module.rich_text  # type: ignore
    # The policy admits this script by its hash, so text in the page cannot become another one.
    script = pathlib.Path(__file__).parent.joinpath("templates", "page.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    environment.globals |= {"script": script, "script_hash": base64.b64encode(digest).decode()}
    return environment


def plain_text(text: str) -> str:
    """Returns a text without the marks of code and strong text, for attributes.

    >>> plain_text("a `b` **c**")
    'a b c'
    """
    return re.sub(r"[`*]", "", text)


def jpeg(pixels: UInt8[np.ndarray, "height width 3"]) -> str:
    """Returns an image as the data URI of a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="jpeg", quality=85)
    return _data_uri("image/jpeg", buffer.getvalue())


def image_file(path: pathlib.Path) -> str:
    """Returns the image in an SVG, PNG or JPEG file as a data URI."""
    return _data_uri(mimetypes.guess_type(path.name)[0], path.read_bytes())


def _data_uri(media_type: str | None, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _spans(text: str) -> Iterator[tuple[bool, bool, str]]:
    """Yields the parts of a text with marks, as (is it strong, is it code, text).

    >>> list(_spans("a **b** `c`"))
    [(False, False, 'a '), (True, False, 'b'), (False, False, ' '), (False, True, 'c')]
    """
    for i, outer in enumerate(re.split(r"\*\*([^*]+)\*\*", text)):
        for j, inner in enumerate(re.split(r"`([^`]+)`", outer)):
            if inner:
                yield i % 2 == 1, j % 2 == 1, inner


def _split_interval(cell: str) -> tuple[str, str]:
    """Returns the text of a table's cell without the interval that ends it, and the interval or "".

    >>> _split_interval("−2.5 [−4.0, −1.0]"), _split_interval("–")
    (('−2.5', '[−4.0, −1.0]'), ('–', ''))
    """
    match = re.fullmatch(r"(.*) (\[[^]]*\])", cell)
    return (match[1], match[2]) if match else (cell, "")


def make_folder(folder: pathlib.Path, *names: str) -> None:
    """Makes a folder and its parents.

    Args:
      folder: to be made.
      names: of the files that will be written into it.

    Raises:
      UserError: the folder cannot be made, or a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out: expected a folder to write into, but {folder} cannot be made ({error.strerror}); "
            "choose another folder"
        ) from error
    for path in (folder, *(folder / name for name in names)):
        if path != folder and path.is_dir():
            raise UserError(f"--out: expected to write {path}, but there is a folder of that name; move it away")
        if path.exists() and not os.access(path, os.W_OK):
            raise UserError(f"--out: expected to write into {path}, but it is not allowed; choose another folder")
