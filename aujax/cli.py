"""The command `aujax VERB`. `train.py`, `eval.py` and `python -m aujax.report`, `.explain`, ... call `main` as well."""

import argparse
import contextlib
import ctypes
import difflib
import importlib
import importlib.metadata
import importlib.util
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from aujax import __version__
from aujax.errors import UserError, nearest

MISTAKE = 2  # exit statuses
INTERRUPTED = 130

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


class Verb(NamedTuple):
    """A command: its line in the help, and the module and names of the two functions that define it.

    The module is imported only when the verb is used, so that `aujax --help` is instant.
    """

    summary: str
    module: str
    add_arguments: str = "add_arguments"  # (parser) -> None
    run: str = "run"  # (parsed arguments) -> None
    interrupted: str = "stopped"
    trains: bool = False


_CONTINUES = "stopped; the same command continues from here"
VERBS = {
    "prepare": Verb("make a data set: landmarks, splits, records", "aujax.data.prepare", interrupted=_CONTINUES),
    "train": Verb(
        "train a classifier, or continue an interrupted training",
        "aujax.cli",
        "add_train_arguments",
        "train",
        trains=True,
    ),
    "eval": Verb("evaluate a run: accuracy, maps, faithfulness", "aujax.cli", "add_eval_arguments", "evaluate_run"),
    "report": Verb("write pages, tables and figures of evaluated runs", "aujax.report.__main__"),
    "explain": Verb("explain the faces in photographs and videos", "aujax.explain.__main__", interrupted=_CONTINUES),
    "sweep": Verb(
        "train and evaluate runs that differ in a few options", "aujax.sweep", interrupted=_CONTINUES, trains=True
    ),
    "release": Verb("import the authors' released models, export weights", "aujax.release.__main__"),
}


_WORKDIR: Any = {"required": True, "type": pathlib.Path, "metavar": "RUN", "help": "folder of the run"}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UserError`s, with the nearest option for one that does not exist."""

    def __init__(self, **options: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raises the message, in place of printing the usage."""
        raise UserError(message)

    def option_names(self) -> set[str]:
        """Returns all options, with those of subcommands."""
        names = set(self._option_string_actions)
        for action in self._actions:
            if isinstance(action.choices, dict):  # subcommands by name
                names.update(*(child.option_names() for child in action.choices.values()))
        return names


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command; ends the process with status 2 after a mistake, and with 130 after Ctrl-C.

    Args:
      argv: the verb and its arguments; default: those of the process.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        verbs = "\n".join(f"  {name:<9}{verb.summary}" for name, verb in VERBS.items())
        print(
            "usage: aujax COMMAND [--option=VALUE ...]\n\n"
            "Facial-expression classifiers whose attention agrees with facial action units.\n\n"
            f"commands:\n{verbs}\n\n"
            "aujax COMMAND --help shows the options of a command; aujax --version the version."
        )
        return
    name = argv[0]
    if name == "--version":
        print(f"aujax {__version__}")
        return
    with user_errors("aujax"):
        if name not in VERBS:
            raise UserError(f"expected a command, got {name!r}. {nearest(name, VERBS)}")
    verb = VERBS[name]
    if verb.trains:
        keep_freed_memory()
    with user_errors(f"aujax {name}", interrupted=verb.interrupted):
        module = importlib.import_module(verb.module)
        parser = Parser(prog=f"aujax {name}", description=module.__doc__)
        getattr(module, verb.add_arguments)(parser)
        known = parser.option_names()
        given = []
        for argument in argv[1:]:  # before argparse reports that another option is missing
            option, equals, value = argument.partition("=")
            if option.startswith("--") and not option.startswith("--config."):
                option = option.replace("_", "-")  # --data_dir is accepted for --data-dir
            given.append(f"{option}{equals}{value}")
            if option.startswith("--") and option not in known:
                # --epochs is meant as --config.epochs, --momentum as --config.optimizer.momentum.
                similar = sorted(name for name in known if name.rpartition(".")[2] == option.lstrip("-"))
                similar = similar or difflib.get_close_matches(option, known, n=1)
                suggestion = f". Did you mean {' or '.join(similar)}?" if similar else ""
                raise UserError(f"{option}: no such option{suggestion}")
        arguments, unknown = parser.parse_known_args(given)
        if unknown:
            raise UserError(f"expected options that begin with --, got {unknown[0]!r}; did you mean --{unknown[0]}?")
        getattr(module, verb.run)(arguments)


@contextlib.contextmanager
def user_errors(program: str, *, interrupted: str = "stopped") -> Iterator[None]:
    """Ends the process with status 2 on a `UserError` and 130 on Ctrl-C, after a message on standard error.

    Args:
      program: the command, named in the message.
      interrupted: the message for Ctrl-C, such as what was kept.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}\n{program} --help shows the options.", file=sys.stderr)
        raise SystemExit(MISTAKE) from None
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def keep_freed_memory() -> None:
    """Makes this process keep the memory that it frees, if it computes on a CPU; to be called before NumPy is imported.

    XLA allocates a program's temporary memory anew in each call. By default glibc returns it to the operating system in
    between, which clears every page again: a fifth of the time of a small network's training step. After the import
    nothing is changed, because NumPy's threads already allocate in their own way.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    accelerator = importlib.metadata.entry_points(group="jax_plugins") or importlib.util.find_spec("libtpu")
    if hasattr(libc, "mallopt") and not accelerator and "numpy" not in sys.modules:
        # One arena for all threads, no `mmap`, and no trimming: the options of glibc's <malloc.h>.
        for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1)):
            libc.mallopt(option, value)


def keep_compiled_programs() -> None:
    """Stores the programs that JAX compiles in the user's cache folder, so that a second start is fast.

    A folder that JAX is already configured with stays. With several processes nothing is changed: only process 0
    writes the cache, and where the others cannot read it they would compile while process 0 waits for them.
    """
    import jax  # not needed by `aujax prepare`

    options: Any = jax.config
    if not options.jax_compilation_cache_dir and jax.process_count() == 1:
        cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        options.update("jax_compilation_cache_dir", str(pathlib.Path(cache) / "aujax" / "jax"))


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `aujax train`."""
    from aujax import config

    parser.description = (
        "Train a classifier as configured; an interrupted training in the same folder is continued.\n\n"
        "  aujax train --config=faces --config.data.dir=DIR --workdir=RUN"
    )
    parser.add_argument(
        "--config",
        default="synthetic",
        metavar="FILE",
        help="file with the options, or the name of a shipped one, such as faces or faces:small (default: synthetic)",
    )
    parser.add_argument("--workdir", **_WORKDIR)
    _add_process_arguments(parser)
    config.add_arguments(parser)


def _add_process_arguments(parser):
    from aujax import processes
    from aujax.data.sources import whole_number

    several = parser.add_argument_group("several processes")
    several.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes, as SLURM, Open MPI, Kubernetes or a TPU's metadata describe them",
    )
    several.add_argument("--coordinator", default="", metavar="HOST:PORT", help="address of process 0")
    several.add_argument("--num-processes", type=int, default=0, metavar="N", help="number of processes")
    several.add_argument("--process-id", type=int, default=-1, metavar="I", help="index of this process, from 0")
    several.add_argument(
        "--join-timeout",
        type=whole_number(1),
        default=processes.JOIN_TIMEOUT,
        metavar="SECONDS",
        help="time to wait for the other processes at the start (default: %(default)s)",
    )
    several.add_argument(
        "--lost-after",
        type=whole_number(3),
        default=processes.LOST_AFTER,
        metavar="SECONDS",
        help="time without a sign of life after which a process is lost (default: %(default)s)",
    )


def _join_processes(options):
    """Joins the other processes if the options describe some."""
    from aujax import processes

    if options.distributed or options.coordinator or options.num_processes or options.process_id >= 0:
        processes.join(
            coordinator=options.coordinator,
            count=options.num_processes,
            index=options.process_id,
            join_timeout=options.join_timeout,
            lost_after=options.lost_after,
        )


def train(options: argparse.Namespace) -> None:
    """Trains a classifier, alone or as one of several processes."""
    from aujax import config, processes
    from aujax.training.loop import train_and_evaluate

    interrupted = f"stopped; run the same command to continue {options.workdir}"
    with processes.watched(), user_errors("aujax train", interrupted=interrupted):
        configured = config.with_changes(config.file_options(options.config), config.changes(options))
        _join_processes(options)
        keep_compiled_programs()
        train_and_evaluate(configured, options.workdir)


def split_names(text: str) -> list[str]:
    """Returns the names in "validation,test", each once; an empty one is an argument error."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names of splits, such as validation,test, got {text!r}")
    return list(dict.fromkeys(names))


def add_eval_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `aujax eval`."""
    from aujax import occlusion
    from aujax.data.sources import whole_number

    parser.description = (
        "Evaluate a run: write RUN/eval/SPLIT/ and print the table.\n\n"
        "  aujax eval --workdir=RUN --split=validation,test\n\n"
        "The split validation also fits the temperature that calibrates the run's probabilities. With --faithfulness\n"
        "parts of the faces are occluded and classified again, which takes about a hundred times as long."
    )
    parser.add_argument("--workdir", **_WORKDIR)
    parser.add_argument(
        "--split",
        type=split_names,
        default=["test"],
        metavar="SPLIT,...",
        help="splits of the data set to evaluate, such as validation,test (default: test)",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="prepared data set (default: the one the run was trained on)")
    parser.add_argument(
        "--checkpoint",
        choices=("best", "latest"),
        default="best",
        help="best by validation accuracy, or the latest (default: %(default)s)",
    )
    parser.add_argument(
        "--maps",
        choices=("all", "sample"),
        default="all",
        help="the maps of all faces in maps.npz, 40 kB a face for a ResNet-50, or those of a sample (default: all)",
    )
    parser.add_argument("--faithfulness", action="store_true", help="also measure which parts the network uses")
    parser.add_argument(
        "--imputation",
        "--filling",
        choices=list(occlusion.IMPUTATIONS),
        default="blur",
        help="what replaces occluded parts (default: %(default)s)",
    )
    parser.add_argument(
        "--faithfulness-faces",
        type=whole_number(1),
        metavar="N",
        help="number of faces sampled for --faithfulness (default: all)",
    )
    _add_process_arguments(parser)


def evaluate_run(options: argparse.Namespace) -> None:
    """Evaluates a run on each split, alone or as one of several processes: writes files and figures, prints numbers."""
    import jax

    from aujax import processes, runs
    from aujax.evaluation import evaluate, faithfulness
    from aujax.report import plots, tables
    from aujax.results import schema

    with processes.watched(), user_errors("aujax eval", interrupted="stopped"):
        _join_processes(options)
        keep_compiled_programs()
        run = runs.load_run(options.workdir, which=options.checkpoint)
        faces = runs.open_data(run, options.data_dir)
        if jax.process_count() > 1:
            asked = ("split", "maps", "faithfulness", "faithfulness_faces", "imputation")
            facts = {f"--{name.replace('_', '-')}": getattr(options, name) for name in asked}
            processes.check_agreement(facts | {"checkpoint": run.checkpoint, "fingerprint": faces.fingerprint})
        for split in options.split:
            faces.source(split)  # a split that does not exist is reported before the first one is evaluated
        # Validation first: it fits the temperature with which the others are reported.
        for split in sorted(options.split, key=lambda name: name != "validation"):
            evaluate.evaluate(run, faces, options.workdir, split, all_maps=options.maps == "all")
            if options.faithfulness:
                temperature, problem = None, ""
                if processes.is_first():  # which has just written it, if the split is validation
                    temperature, problem = runs.temperature(run, options.workdir, fingerprint=faces.fingerprint)
                if problem:
                    print(f"faithfulness: of uncalibrated probabilities. {problem}")
                faithfulness.evaluate_faithfulness(
                    run,
                    faces,
                    options.workdir,
                    split,
                    imputation=options.imputation,
                    temperature=processes.broadcast(temperature or 1.0),
                    limit=options.faithfulness_faces,
                )
            if processes.is_first():
                evaluated = schema.open_run(options.workdir, split)
                tables.print_evaluation(evaluated)
                plots.draw_evaluation(evaluated)


if __name__ == "__main__":
    main()
