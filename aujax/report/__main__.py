"""`aujax report KIND RUN [RUN ...]`: pages, tables and figures of evaluated run folders."""

import argparse
import pathlib
import sys

import rich.console

from aujax import cli
from aujax.report import page, paper, tables

KINDS = {
    "page": "an HTML page about a run, or comparing several",
    "table1": "the paper's Table 1: accuracy and CAM-COS by method, beside the published numbers",
    "table2": "Table 2: ATT-COS by method",
    "table3": "Table 3: by aligned layers (configs/sweep_layers.py)",
    "figure4": "Fig. 4: faces with their maps, without and with AU cues",
    "figure5": "Fig. 5: by the weight of alignment (configs/sweep_lambda.py)",
    "figure6": "Fig. 6 to 9: mean maps by expression, without and with AU cues",
    "figure10": "Fig. 10 and 11: confusion, and cosines by expression and layer",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `aujax report`."""
    kinds = "\n".join(f"  {name:<10}{text}" for name, text in KINDS.items())
    parser.description = f"Write pages, tables and figures of evaluated runs.\n\nkinds:\n{kinds}"
    parser.add_argument("kind", metavar="KIND", choices=list(KINDS), help="what to write, see below")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run folder, or a folder of runs")
    parser.add_argument("--split", default="test", help="the evaluated split (default: %(default)s)")
    parser.add_argument(
        "--out", metavar="DIR", default="report", type=pathlib.Path, help="output folder (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> None:
    """Writes what was asked for and prints the paths; of a comparison also its main table, before that of the page."""
    console = rich.console.Console(soft_wrap=True, markup=False, highlight=False)
    if options.kind != "page":
        paths = paper.WRITERS[options.kind](options.kind, options.runs, options.split, options.out)
        console.print(*(f"written: {path}" for path in paths), sep="\n")
        return
    comparison, (page_path, *paths) = page.compare_and_write(options.runs, options.split, options.out)
    for path in paths:
        console.print(f"written: {path}")
    if table := tables.idea_table(comparison):
        console.print(table.console(), soft_wrap=False)
    console.print(f"page: {page_path}")


if __name__ == "__main__":
    cli.main(["report", *sys.argv[1:]])
