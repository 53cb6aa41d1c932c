"""The page about one run or several: a single HTML file that asks for nothing from outside itself."""

import pathlib
import tempfile
from collections.abc import Sequence

from aujax.report import comparison, evaluations, markup, output, run_page
from aujax.report.evaluations import Path

NAME = "report.html"


def write(folders: Sequence[Path], split: str, out: Path) -> list[pathlib.Path]:
    """Write OUT/report.html about the runs' evaluations on `split`; return its path, then those of its figures.

    A run of which something is missing, or that was evaluated on other faces than the first, is told and left out. That
    nothing is left, and an `out` that cannot be written into, is a UserError, before anything is computed.
    """
    kept, _ = evaluations.usable(folders, split, same_faces=True)
    runs = evaluations.open_runs(kept, split)
    out = pathlib.Path(out)
    figures = out / "figures"
    output.make_folder(out, NAME)
    output.make_folder(figures)
    # Drawn aside, for the folder may hold figures of other reports.
    with tempfile.TemporaryDirectory(dir=out) as aside:
        drawn = pathlib.Path(aside)
        parts = run_page.content(runs[0], drawn) if len(runs) == 1 else comparison.content(runs, drawn)
        written = [path.replace(figures / path.name) for path in sorted(drawn.iterdir())]
    page = out / NAME
    page.write_text(markup.document(*parts), encoding="utf-8")
    return [page, *written]
