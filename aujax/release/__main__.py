"""Makes run folders from the authors' released models, and safetensors files from run folders.

  aujax release import RELEASED --out RUN
  aujax release export RUN --out FILE.safetensors

RELEASED is a folder with model.pt and config_model.yaml, or a folder with such folders below it; RUN then gets a run
folder for each. `aujax eval --workdir=RUN --data-dir=DIR` evaluates a run folder. See docs/released_weights.md.
"""

import argparse
import pathlib
import sys

import rich.console
import rich.progress
import rich.table

from aujax import cli
from aujax.errors import UserError
from aujax.release import folders

# Each part of `Unmapped` that is listed, with its heading.
_HEADINGS = {
    "inference": "These options change what the network computes, so its numbers will differ from the published ones",
    "training": "These options matter only if the network is trained again",
    "unknown": "These options are not known to aujax; check whether they matter",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the commands `import` and `export` and their options."""
    path = pathlib.Path
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    command = commands.add_parser("import", help="make run folders from released folders")
    command.add_argument("released", metavar="RELEASED", type=path, help="a released folder, or one with several below")
    command.add_argument("--out", required=True, metavar="RUN", type=path, help="run folder to make; must be new")
    command.add_argument("--backbone", default="", metavar="NAME", help="such as resnet18; default: the published one")
    command.add_argument("--verbose", action="store_true", help="also list the ignored options")
    command = commands.add_parser("export", help="write the weights of a run folder as safetensors")
    command.add_argument("run", metavar="RUN", type=path, help="a run folder, trained here or imported")
    command.add_argument("--out", required=True, metavar="FILE", type=path, help="FILE.safetensors, a new file")
    command.add_argument(
        "--names",
        choices=folders.NAMES,
        default=folders.NAMES[0],
        help="our paths, or the names and layouts of the authors' PyTorch models (default: %(default)s)",
    )
    command.add_argument("--checkpoint", choices=("best", "latest"), default="best", help="default: %(default)s")


def run(options: argparse.Namespace) -> None:
    """Imports or exports, as the parsed options specify."""
    if options.command == "export":
        folders.export(options.run, options.out, names=options.names, which=options.checkpoint)
        print(f"{options.out}: the weights of {options.run}")
        return
    folders.check_new(options.out)
    sources = folders.find(options.released)
    below = sources != [options.released]
    imported = []
    mistakes = []
    for source in rich.progress.track(
        sources, "Importing", console=rich.console.Console(stderr=True), disable=not below
    ):
        try:
            imported.append(folders.import_folder(source, options.out, backbone=options.backbone, below=below))
        except UserError as error:
            if not below:
                raise
            mistakes.append(str(error) if str(source) in str(error) else f"{source}: {error}")
    if imported:
        _print(imported, verbose=options.verbose)
    if mistakes:
        heading = (
            f"{len(mistakes)} of {len(sources)} released folders were not imported; fix each, and import it alone:"
        )
        raise UserError("\n".join([heading, *mistakes]))


def _print(imported, *, verbose):
    """Prints a table of the run folders and the released options that their configurations do not express."""
    console = rich.console.Console(highlight=False, markup=False, soft_wrap=True)
    table = rich.table.Table(
        *(rich.table.Column(name, overflow="fold") for name in ("run", "method", "data", "AU cues"))
    )
    for run, (config, _, dataset, _) in imported:
        table.add_row(str(run), config.method, dataset, f"weight {config.au_weight:g}" if config.au_weight else "none")
    console.print(table)
    for field, heading in _HEADINGS.items():
        # Each line is printed once, with the runs that it is about if these are not all.
        runs_of_line: dict[str, list[str]] = {}
        for run, translated in imported:
            for line in getattr(translated.unmapped, field):
                runs_of_line.setdefault(line, []).append(run.name)
        if runs_of_line:
            console.print(f"{heading}:")
        for line, names in runs_of_line.items():
            console.print(f"  {line}" + (f" ({', '.join(names)})" if len(names) < len(imported) else ""))
    ignored = sorted({name for _, translated in imported for name in translated.unmapped.ignored})
    console.print(
        f"{len(ignored)} other options describe neither the network nor its training; manifest.json lists them."
    )
    if verbose:
        console.print(f"  {', '.join(ignored)}")
    console.print(f"Evaluate: aujax eval --workdir={imported[0].run} --data-dir=DIR --split=test")


if __name__ == "__main__":
    cli.main(["release", *sys.argv[1:]])
