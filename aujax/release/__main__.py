"""The authors' released models in, and ours out: run folders from released folders, and safetensors from run folders.

  python -m aujax.release import RELEASED --out RUN
  python -m aujax.release export RUN --out FILE.safetensors

RELEASED is one folder with model.pt and config_model.yaml, or one that has such folders below it; then RUN gets a run
folder for each. `eval.py --workdir=RUN --data_dir=DIR` evaluates it. See docs/released_weights.md.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import rich.console
import rich.table

from aujax.commandline import user_errors
from aujax.errors import UserError
from aujax.release import folders
from aujax.release.exporting import NAMES, export
from aujax.release.importing import Imported, import_all, import_folder

PROGRAM = "python -m aujax.release"


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line says; 0 on success, else `SystemExit`: 2 for a mistake, 130 for Ctrl-C."""
    options = _parser().parse_args(argv)
    with user_errors(f"{PROGRAM} {options.command}"):
        if options.command == "export":
            export(options.run, options.out, names=options.names, which=options.checkpoint)
            print(f"{options.out}: the weights of {options.run}")
        else:
            _import(options.released, options.out, backbone=options.backbone, verbose=options.verbose)
    return 0


def _import(released: pathlib.Path, out: pathlib.Path, *, backbone: str, verbose: bool) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={out}: expected a new or empty folder; choose another name")
    sources = folders.find(released)
    if sources == [released]:
        imported, mistakes = [import_folder(released, out, backbone=backbone)], []
    else:
        imported, mistakes = import_all(sources, out, backbone=backbone)
    if imported:
        _print(imported, verbose=verbose)
    if mistakes:
        each = "\n".join(str(error) for error in mistakes)
        raise UserError(
            f"{len(mistakes)} of {len(sources)} released folders were not imported; mend each, and import it alone:\n"
            f"{each}"
        )


def _print(imported: Sequence[Imported], *, verbose: bool) -> None:
    """Prints a table of the run folders and, below it, what of the released options has no place in them."""
    console = rich.console.Console(highlight=False, markup=False, soft_wrap=True)
    table = rich.table.Table(
        *(rich.table.Column(name, overflow="fold") for name in ("run", "method", "data", "AU cues"))
    )
    for run, (config, _, dataset, _) in imported:
        cues = f"weight {config.au_weight:g}" if config.au_weight else "none"
        table.add_row(str(run), config.method, dataset, cues)
    console.print(table)
    told = [one.translated.told for one in imported]
    groups = {
        "These options change what the network computes, so its numbers will differ from the published ones": "reading",
        "These options matter only where the network is trained again": "training",
        "These options are not known here; look whether they matter": "unknown",
    }
    for heading, field in groups.items():
        _list(console, heading, [getattr(one, field) for one in told], imported)
    unused = sorted({name for one in told for name in one.unused})
    console.print(f"{len(unused)} other options say nothing about network or training; manifest.json lists them.")
    if verbose:
        console.print(f"  {', '.join(unused)}")
    console.print(f"Evaluate: python eval.py --workdir={imported[0].run} --data_dir=DIR --split=test")


def _list(
    console: rich.console.Console, heading: str, lines: Sequence[Sequence[str]], imported: Sequence[Imported]
) -> None:
    """Prints each line once, with the runs that it is about where these are not all."""
    owners: dict[str, list[str]] = {}
    for one, of_one in zip(imported, lines, strict=True):
        for line in of_one:
            owners.setdefault(line, []).append(one.run.name)
    if owners:
        console.print(f"{heading}:")
    for line, names in owners.items():
        console.print(f"  {line}" + (f" ({', '.join(names)})" if len(names) < len(imported) else ""))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    child = commands.add_parser("import", help="make run folders of released folders")
    child.add_argument("released", metavar="RELEASED", type=pathlib.Path, help="a released folder, or one of several")
    child.add_argument("--out", required=True, metavar="RUN", type=pathlib.Path, help="run folder to make; must be new")
    child.add_argument(
        "--backbone",
        default="",
        metavar="NAME",
        help="network the weights belong to, such as resnet18; default: the published one",
    )
    child.add_argument("--verbose", action="store_true", help="list the options that say nothing, too")
    child = commands.add_parser("export", help="write the weights of a run folder as safetensors")
    child.add_argument("run", metavar="RUN", type=pathlib.Path, help="a run folder, trained here or imported")
    child.add_argument("--out", required=True, metavar="FILE", type=pathlib.Path, help="FILE.safetensors, a new file")
    child.add_argument(
        "--names",
        choices=NAMES,
        default=NAMES[0],
        help="our paths, or the names and layouts of the authors' PyTorch models (default: %(default)s)",
    )
    child.add_argument("--checkpoint", choices=("best", "latest"), default="best", help="default: %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
