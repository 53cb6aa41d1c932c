"""`aujax report page`: one HTML file about a run, or about several on the same faces."""

import pathlib
import tempfile
from collections.abc import Sequence

from aujax.report import html, sections
from aujax.results import compare, schema
from aujax.results.compare import Comparison

NAME = "report.html"


def write(folders: Sequence[str | pathlib.Path], split: str, out: pathlib.Path) -> list[pathlib.Path]:
    """Writes OUT/report.html, its figures, and the tables of tests and seeds; returns the paths, the page first."""
    _, paths = compare_and_write(folders, split, out)
    return paths


def compare_and_write(
    folders: Sequence[str | pathlib.Path], split: str, out: pathlib.Path
) -> tuple[Comparison, list[pathlib.Path]]:
    """Writes as `write` and returns the comparison, which may be of one run, as well.

    Unreadable runs, and runs that were evaluated on other faces than the first, are skipped with a warning.

    Raises:
      UserError: no run is left, or `out` cannot be written; both before anything is computed.
    """
    runs, _ = schema.open_runs(folders, split, same_faces=True)
    html.make_folder(out, NAME, compare.TESTS, compare.SEEDS)
    html.make_folder(out / "figures")
    comparison = compare.compare(runs)
    # Drawn in a temporary folder, because `figures` may hold those of other reports.
    with tempfile.TemporaryDirectory(dir=out) as temporary:
        drawn = pathlib.Path(temporary)
        shared = sections.opening(comparison)
        parts = []
        for name, title, variables in sections.SECTIONS:
            data = variables(comparison, drawn)
            if data is not None:
                parts.append(html.Section(name, title, f"{name}.html", shared | data))
        page = out / NAME
        page.write_text(html.render_page(template="page.html", sections=parts, **shared), encoding="utf-8")
        figures = [path.replace(out / "figures" / path.name) for path in sorted(drawn.iterdir())]
    return comparison, [page, *comparison.write(out), *figures]
