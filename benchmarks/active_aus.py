"""Whether AU cues make a network rely on the action units that a face shows: drawn faces, whose active AUs are known.

    python benchmarks/active_aus.py --out RUNS [--seeds 3] [--faces 350] [--smoke]

Networks of configs/synthetic.py are trained without and with AU cues on two data sets: drawn faces, and the same faces
with a mark in the background of most training faces that gives the expression away. On test faces, which never have the
mark, the regions of the active AUs are occluded one by one, and as large regions elsewhere on the face. Drops of the
predicted probability are shares of the drop when everything is imputed, averaged by label. A run that was measured is
not trained again.
"""

import argparse
import pathlib

import timing

from aujax import cli
from aujax.report.tables import with_interval
from aujax.results import METRICS, compare, schema

SHORTCUTS = (0.0, 0.9)
WEIGHTS = (0.0, 4.0)
SHOWN = (
    "accuracy", "att_cos", "active_drop_normalised", "active_control_drop_normalised", "active_over_control_normalised",
)  # fmt: skip


def measure(data: pathlib.Path, workdir: pathlib.Path, weight: float, seed: int, options: argparse.Namespace) -> None:
    """Trains and evaluates a run, unless that was done."""
    if (workdir / "eval" / "test" / schema.FAITHFULNESS).exists():
        return
    train = [f"--config.data.dir={data}", f"--config.au_weight={weight:g}", f"--config.seed={seed}"]
    if options.smoke:
        train += ["--config.epochs=1", "--config.image_size=32", "--config.data.resize_size=36"]
    cli.main(["train", "--config=synthetic", f"--workdir={workdir}", *train])
    faithfulness = ["--faithfulness", f"--faithfulness-faces={options.faces}"]
    cli.main(["eval", f"--workdir={workdir}", "--split=validation"])
    cli.main(["eval", f"--workdir={workdir}", "--split=test", *faithfulness])


def main() -> None:
    """Trains, measures and prints a table per data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for data sets and runs")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each row (default: 3)")
    parser.add_argument("--faces", type=int, default=350, help="test faces that are occluded (default: 350)")
    parser.add_argument("--smoke", action="store_true", help="one short training without and with cues, to try it out")
    options = parser.parse_args()
    if options.smoke:
        options.seeds, options.faces = 1, 14
    for shortcut in SHORTCUTS[-1:] if options.smoke else SHORTCUTS:
        folder = options.out / f"shortcut={shortcut:g}"
        sizes = ["--train=70", "--validation=14", "--test=28", "--size=48"] if options.smoke else []
        if not (folder / "faces").exists():
            cli.main(["prepare", "synthetic", f"--out={folder / 'faces'}", f"--shortcut={shortcut:g}", *sizes])
        runs = []
        for weight in WEIGHTS:
            for seed in range(options.seeds):
                runs.append(folder / f"au_weight={weight:g},seed={seed}")
                measure(folder / "faces", runs[-1], weight, seed, options)
        opened, _ = schema.open_runs(runs, "test", same_faces=True)
        comparison = compare.compare(opened)
        (contrast,) = comparison.contrasts
        print(f"\n{timing.machine()}; {options.seeds} seeds, shortcut in {shortcut:.0%} of the training faces")
        print(f"{'':<45}{'without cues':>28}{'with':>28}{'difference':>28}")
        for key in SHOWN:
            metric = METRICS[key]
            target = "label" if metric.normalised else ""
            sides = (compare.over_seeds(side, key, target=target).mean for side in (contrast.before, contrast.after))
            cells = [with_interval(side, metric.unit) for side in sides]
            cells.append(with_interval(comparison.difference(contrast, key), metric.unit, signed=True))
            print(f"{metric.title:<45}" + "".join(f"{cell:>28}" for cell in cells))


if __name__ == "__main__":
    main()
