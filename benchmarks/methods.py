"""Every method, trained for a short while without and with AU cues on one data set: the table of docs/methods.md.

    python benchmarks/methods.py --data DIR --out RUNS [--smoke] [--methods CAM,PRM,...]

DIR is a prepared data set with landmarks. Networks are the tiny ones, images 80 px, 12 epochs, AU cues of weight 4,
everything else as in configs/faces.py:small. Rows that differ in their read-out alone are trained once. A run
that exists is not trained again.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil

import timing

from aujax import cli, methods
from aujax.config import Config, DataConfig, OptimizerConfig
from aujax.evaluation import evaluate
from aujax.training.loop import train_and_evaluate

# Narrower than published, as its network is.
OPTIONS = {"ACoL": "channels=128"}
WEIGHTS = (0.0, 4.0)


def config(row: methods.Method, au_weight: float, data: str, *, smoke: bool) -> Config:
    """Returns the options of one run."""
    epochs = 1 if smoke else 12
    return Config(
        method=row.name,
        method_options=OPTIONS.get(row.name, ""),
        backbone=timing.SMALL[row.backbone],
        image_size=32 if smoke else 80,
        au_weight=au_weight,
        epochs=epochs,
        validate_every=epochs,
        data=DataConfig(dir=data, resize_size=36 if smoke else 88),
        optimizer=OptimizerConfig(learning_rate=0.05, warmup_epochs=1.0, clip_norm=5.0),
    )


def run(row: methods.Method, au_weight: float, options: argparse.Namespace) -> dict:
    """Returns the metrics of a row on the test split, after training it or a row that trains alike."""
    workdir = options.out / f"{row.name.replace('/', '-')}-au{au_weight:g}"
    wanted = config(row, au_weight, options.data, smoke=options.smoke)
    first = next(other for other in methods.METHODS.values() if other.training == row.training)
    if first is not row:
        run(first, au_weight, options)
        shutil.copytree(options.out / f"{first.name}-au{au_weight:g}", workdir, dirs_exist_ok=True)
        (workdir / "config.json").write_text(json.dumps(dataclasses.asdict(wanted), indent=1))
    metrics = workdir / "eval" / "test" / "metrics.json"
    if not metrics.exists() or json.loads(metrics.read_text())["method"] != row.name:
        train_and_evaluate(wanted, workdir)
        evaluate.evaluate_run(workdir, "test")
    return json.loads(metrics.read_text())


def line(row: methods.Method, results: list[dict]) -> str:
    """Returns a line of the table."""
    columns = (
        [f"{100 * result['accuracy']:.1f}" for result in results],
        [f"{result['att_cos']:.2f}" for result in results],
        ["-" if row.readout is None else f"{result['cam_cos']:.2f}" for result in results],
    )
    return f"| {row.name} | " + " | ".join(" -> ".join(column) for column in columns) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="prepared data set")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder for the runs")
    parser.add_argument("--smoke", action="store_true", help="one epoch on tiny images: does it run at all?")
    parser.add_argument("--methods", default=",".join(methods.METHODS), help="rows to train (default: all)")
    options = parser.parse_args()
    with cli.user_errors("python benchmarks/methods.py"):
        table(options)


def table(options: argparse.Namespace) -> None:
    """Trains what is missing and prints the table."""
    rows = [methods.method(name) for name in options.methods.split(",")]
    lines = [line(row, [run(row, weight, options) for weight in WEIGHTS]) for row in rows]
    print(f"{timing.machine()}; {options.data}")
    print("| method | accuracy (%) | ATT-COS | CAM-COS |\n| --- | --- | --- | --- |\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
