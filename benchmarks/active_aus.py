"""Whether AU cues make a network rely on the action units that a face shows: drawn faces, whose active AUs are known.

    python benchmarks/active_aus.py --out RUNS [--seeds 3] [--faces 350] [--smoke]

Networks of configs/synthetic.py are trained without and with AU cues on two data sets: drawn faces, and the same faces
with a mark in the background of most training faces that gives the expression away. On test faces, which never have the
mark, the regions of the active AUs are occluded one by one, and as large regions elsewhere on the face. Drops of the
predicted probability are shares of the drop when everything is imputed, averaged by label. Below them, how much better
attention and the baseline orderings rank pixels than a random order does. Intervals are Student's over the seeds, p is
that of the paired t-test; all numbers of each seed are in RUNS/shortcut=*/values.csv. A run that was measured is not
trained again.
"""

import argparse
import pathlib

import numpy as np
import pandas as pd
import timing
from scipy import stats

from aujax import cli
from aujax.report.tables import map_title, with_interval
from aujax.results import METRICS, schema, statistics
from aujax.results.schema import ScoreKey

SHORTCUTS = (0.0, 0.9)
WEIGHTS = (0.0, 4.0)
ACTIVE = [
    ScoreKey(f"active_{name}", target="label")
    for name in ("drop_normalised", "control_drop_normalised", "over_control_normalised", "over_control")
]
GAINS = [
    ScoreKey(f"{kind}_gain_normalised", name, "predicted")
    for name in ("attention", "centred_gaussian", "label_au_map")
    for kind in ("deletion", "insertion", "road")
]
SHOWN = (
    *(ScoreKey(name) for name in ("accuracy", "att_cos", "cam_cos")),
    *ACTIVE,
    ScoreKey("full_drop", target="predicted", condition="occlusion"),
    *GAINS,
)


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
        values = {}
        for weight in WEIGHTS:
            for seed in range(options.seeds):
                run = folder / f"au_weight={weight:g},seed={seed}"
                measure(folder / "faces", run, weight, seed, options)
                opened = schema.open_run(run, "test")
                values[weight, seed] = [opened.interval(**key._asdict()).value for key in SHOWN]
        rows = pd.MultiIndex.from_tuples(SHOWN, names=ScoreKey._fields)
        table = pd.DataFrame(values, index=rows, dtype=float).rename_axis(columns=["au_weight", "seed"])
        table.to_csv(folder / "values.csv")
        print(f"\n{timing.machine()}; {options.seeds} seeds, shortcut in {shortcut:.0%} of the training faces")
        print(f"{'':<84}{'without cues':>28}{'with':>28}{'difference':>28}{'p':>8}")
        for key, row in zip(SHOWN, table.to_numpy(), strict=True):
            metric = METRICS[key.metric]
            before, after = row.reshape(len(WEIGHTS), -1)
            cells = [
                with_interval(statistics.over_seeds(numbers.tolist()).mean, metric.unit, signed=signed)
                for numbers, signed in ((before, False), (after, False), (after - before, True))
            ]
            p_value = stats.ttest_rel(after, before).pvalue if options.seeds > 1 else np.nan
            title = (f"{map_title(key.map)}: " if key.map else "") + f"{metric.title} ({metric.unit})"
            print(f"{title:<84}" + "".join(f"{cell:>28}" for cell in cells) + f"{p_value:>8.3f}")


if __name__ == "__main__":
    main()
