"""`python -m aujax.report RUN [RUN ...]`: compare evaluated runs in a Markdown page with figures."""

import argparse
import pathlib

import rich.console

from aujax.commandline import user_errors
from aujax.report import comparison


def main() -> None:
    """Write the report that the command line asks for, print its table and where it is."""
    parser = argparse.ArgumentParser(prog="python -m aujax.report", description=__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run folder: the --workdir of train.py and eval.py")
    parser.add_argument("--split", default="test", help="the evaluated split (default: %(default)s)")
    parser.add_argument(
        "--out", metavar="DIR", default="report", type=pathlib.Path, help="where (default: %(default)s)"
    )
    options = parser.parse_args()
    console = rich.console.Console()
    with user_errors("python -m aujax.report"):
        report = comparison.write(options.runs, split=options.split, out=options.out)
        console.print(report.table.console())
        for warning in report.warnings:
            console.print(f"Caution: {warning}", markup=False, highlight=False)
        console.print(f"report: {report.path}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
