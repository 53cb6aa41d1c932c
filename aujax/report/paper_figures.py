"""The paper's figures of maps and matrices from run folders, without beside with action-unit (AU) cues: PNG and SVG.

Figure 4: faces with their AU map, attention and CAM. Figure 6 (with 7 to 9): the averages by expression, of all faces.
Figure 10 (with 11): confusion, and cosines by expression and layer. A pair of runs is equal in all but the alignment.
"""

import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from aujax.errors import UserError
from aujax.report import experiments, figures
from aujax.report.evaluations import EvaluatedRun, Evaluation, Path
from aujax.report.output import make_folder

SUFFIXES = (".png", ".svg")
Draw = Callable[[pathlib.Path], pathlib.Path | None]


def figure4(folders: Sequence[Path], split: str, out: pathlib.Path) -> list[pathlib.Path]:
    """Draw faces with their AU map, attention and CAM for every pair of runs; return the paths."""
    drawn = {
        path: lambda to, shown=shown: figures.faces(shown, to)
        for path, shown in _pairs(folders, split, out / "figure4")
    }
    return save(drawn)


def figure6(folders: Sequence[Path], split: str, out: pathlib.Path) -> list[pathlib.Path]:
    """Draw the average AU map, attention and CAM of every expression for every pair of runs; return the paths."""
    drawn = {
        path: lambda to, shown=shown: figures.means(shown, to)
        for path, shown in _pairs(folders, split, out / "figure6")
    }
    return save(drawn)


def figure10(folders: Sequence[Path], split: str, out: pathlib.Path) -> list[pathlib.Path]:
    """Draw the confusion matrix and the class x layer cosines of every run; return the paths."""
    drawn: dict[pathlib.Path, Draw] = {}
    for data in experiments.open_all(folders, split).data_sets:
        for run in data.runs:
            named = run.evaluation._replace(name=f"{run.name} on {data.name}")
            path = out / f"figure10-{_slug(data.name, run.name)}"
            drawn[path.with_name(f"{path.name}-confusion")] = lambda to, one=named: figures.confusion(one, to)
            drawn[path.with_name(f"{path.name}-cosines")] = lambda to, one=named: figures.cosines(one, to)
    return save(drawn)


def save(drawn: Mapping[pathlib.Path, Draw]) -> list[pathlib.Path]:
    """Draw each figure as PNG and as SVG; return the paths, all PNG files first."""
    for path in drawn:
        make_folder(path.parent)
    found = [draw(path.with_name(path.name + suffix)) for suffix in SUFFIXES for path, draw in drawn.items()]
    if not all(found):
        raise UserError("the runs share no face in their samples (maps.npz); evaluate them again with eval.py")
    return [path for path in found if path]


def _pairs(folders: Sequence[Path], split: str, path: pathlib.Path) -> Iterator[tuple[pathlib.Path, list[Evaluation]]]:
    """Yields the path of a figure, and the evaluations without and with AU cues to draw in it."""
    shown = experiments.open_all(folders, split)
    pairs = [(data.name, *pair) for data in shown.data_sets for pair in data.pairs()]
    if not pairs:
        raise UserError(
            f"{path.name}: expected a run without AU cues (--config.au_weight=0) and one with them that are equal "
            f"otherwise, got {', '.join(run.name for data in shown.data_sets for run in data.runs)}"
        )
    for name, without, aligned in pairs:
        own = path if len(pairs) == 1 else path.with_name(f"{path.name}-{_slug(name, aligned.name)}")
        yield own, [_case(without, "without AU"), _case(aligned, "with AU")]


def _case(run: EvaluatedRun, words: str) -> Evaluation:
    return run.evaluation._replace(name=f"{words} ({run.metrics['protocol']})")


def _slug(*names: str) -> str:
    """Returns names as a part of a file's name."""
    return re.sub(r"[^\w.+=,-]+", "-", "-".join(names))
