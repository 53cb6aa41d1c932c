"""`python -m aujax.report KIND RUN [RUN ...] --out DIR`: pages, tables and figures from evaluated run folders."""

import argparse
import pathlib
from collections.abc import Callable, Sequence

import rich.console

from aujax.commandline import user_errors
from aujax.report import page, paper_figures, paper_tables, weight_curves

# What can be made: from run folders, the evaluated split and the folder to write into to the paths of what was
# written; and a line of help.
Kind = Callable[[Sequence[str], str, pathlib.Path], list[pathlib.Path]]
KINDS: dict[str, tuple[Kind, str]] = {
    "page": (page.write, "one HTML page: of a run, or of several compared"),
    "table1": (paper_tables.table1, "the paper's Table 1: accuracy and CAM-COS by method, published beside ours"),
    "table2": (paper_tables.table2, "Table 2: ATT-COS by method"),
    "table3": (paper_tables.table3, "Table 3: by the layers that alignment pulls on (configs/sweep_layers.py)"),
    "figure4": (paper_figures.figure4, "Fig. 4: faces with their maps, without and with AU cues"),
    "figure5": (weight_curves.figure5, "Fig. 5: by the weight of alignment (configs/sweep_lambda.py)"),
    "figure6": (paper_figures.figure6, "Fig. 6 to 9: average maps by expression, without and with AU cues"),
    "figure10": (paper_figures.figure10, "Fig. 10 and 11: confusion, and cosines by expression and layer"),
}


def main() -> None:
    """Write what the command line asks for and print where it is."""
    kinds = "\n".join(f"  {name:<10}{words}" for name, (_, words) in KINDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m aujax.report",
        description=__doc__,
        epilog=f"kinds:\n{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", metavar="KIND", choices=list(KINDS), help="what to make, see below")
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="a run folder, the --workdir of train.py and eval.py, or a folder of runs",
    )
    parser.add_argument("--split", default="test", help="the evaluated split (default: %(default)s)")
    parser.add_argument(
        "--out", metavar="DIR", default="report", type=pathlib.Path, help="where (default: %(default)s)"
    )
    options = parser.parse_args()
    console = rich.console.Console()
    with user_errors("python -m aujax.report"):
        make, _ = KINDS[options.kind]
        for path in make(options.runs, options.split, options.out):
            console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
