"""Memory and time at two sizes, their slope, and what follows for AffectNet's 283,901 faces and an hour of video.

    python benchmarks/scale.py [--smoke] [--parts write,page] [--faces 1000,10000] [--full]

Each part runs at each size in a new process; its peak of resident memory counts from after the imports. The slope,
peaks and seconds of the larger size minus those of the smaller by face, is extrapolated to the full size. With
`--full` that size is run as well.

    write     the tables of an evaluation, through the writers of `aujax.results`: random scores, no network
    page      the page of that evaluation
"""

import argparse
import multiprocessing
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import timing

FULL = 283_901  # training faces of AffectNet with seven expressions


class Cost(NamedTuple):
    """Peak of resident memory beyond that before the work, MiB, and seconds."""

    mib: float
    seconds: float


def write(folder: pathlib.Path, faces: int) -> None:
    """Writes an evaluation with the scores that `eval.py` computes for a ResNet-50."""
    from aujax.codebook import EXPRESSIONS
    from aujax.results import schema, summary
    from aujax.results.registry import ATTENTION, BASELINE, BASELINE_MAPS, CAM, by_topic
    from aujax.results.schema import ScoreKey

    directory = folder / "eval" / "test"
    directory.mkdir(parents=True)
    data = {"dir": "data/faces", "fingerprint": "e" * 64, "about": {"name": "affectnet", "source": "", "terms": ""}}
    config = {"method": "CAM", "au_weight": 1.0, "seed": 0, "model_selection": "validation", "data": data}
    schema.write_json(folder / "config.json", config)
    schema.write_json(folder / "manifest.json", {"data": data})
    (folder / "log.jsonl").write_text("")
    layers = [f"layer{n}" for n in range(1, 6)]
    maps = dict.fromkeys(layers, ATTENTION) | {CAM: CAM} | dict.fromkeys(BASELINE_MAPS, BASELINE)
    scored = [name for name in maps if name != "class_mean_au_map"]
    keys = [ScoreKey(row.key, name, target) for row in by_topic("maps") for target in row.targets for name in scored]
    keys += [ScoreKey("degenerate", name) for name in (*layers, CAM)]
    rng = np.random.default_rng(0)
    with schema.ScoreWriter(directory / schema.SCORES) as writer:
        for rows in np.array_split(np.arange(faces), -(-faces // 64)):
            values = rng.random((len(keys), len(rows)), np.float32)
            writer.add(rows, dict(zip(keys, values, strict=True)))
        writer.add(np.arange(faces), {ScoreKey("cosine", "class_mean_au_map", "label"): rng.random(faces)})
    labels = rng.integers(len(EXPRESSIONS), size=faces)
    logits = rng.normal(size=(faces, len(EXPRESSIONS))) + 2.0 * np.eye(len(EXPRESSIONS))[labels]
    known = {"gender": ("female", "male"), "age": ("0-3", "4-19", "20-39", "40-69", "70+")}
    records = [
        {"id": f"train/{face:06}.jpg", "subject_id": "",
         "attributes": {name: values[face % len(values)] for name, values in known.items()}}
        for face in range(faces)
    ]  # fmt: skip
    columns = {
        "face": np.arange(faces), "expression": labels, "predicted": logits.argmax(1), "probability": rng.random(faces),
        "has_map": labels > 0, "has_predicted_map": logits.argmax(1) > 0, "att_cos": rng.random(faces, np.float32),
        "cam_cos": rng.random(faces, np.float32), "logits": np.float32(logits), "degenerate": np.full(faces, ""),
    }  # fmt: skip
    metadata = {name: config[name] for name in ("model_selection", "method", "au_weight", "seed", "data")}
    metadata |= {
        "split": "test", "codebook": "FACS", "expressions": list(EXPRESSIONS), "attention_layer": "layer5",
        "maps": maps, "checkpoint": {"step": 1, "epoch": 1, "which": "best"}, "versions": {},
        "temperature": {"value": None, "problem": "No temperature was fitted."},
    }  # fmt: skip
    table = schema.face_table(columns, EXPRESSIONS, records)
    summary.write_evaluation(directory, metadata, table, _few_maps(columns, layers))


def _few_maps(columns: dict[str, Any], layers: list[str]) -> dict[str, np.ndarray]:
    """Returns a sample and a gallery of random maps, and means; the maps of all faces are left out."""
    rng = np.random.default_rng(0)
    chosen = np.arange(24)
    arrays: dict[str, np.ndarray] = {"class_count": np.bincount(columns["expression"], minlength=7)}
    arrays["class_map_count"] = arrays["class_count"] * (np.arange(7) > 0)
    for kind in ("sample", "gallery"):
        own = {name: columns[name][chosen] for name in ("face", "expression", "predicted", "probability", "has_map")}
        own |= {"image": rng.integers(0, 256, (24, 224, 224, 3), np.uint8), "au_map": rng.random((24, 224, 224))}
        own |= {name: rng.random((24, 28, 28)) for name in ("attention", "cam")}
        arrays |= {f"{kind}/{name}": value for name, value in own.items()}
    means = {"au_map": (7, 224, 224), "cam": (7, 28, 28)} | dict.fromkeys(layers, (7, 28, 28))
    return arrays | {f"class_mean/{name}": rng.random(shape) for name, shape in means.items()}


def page(folder: pathlib.Path, faces: int) -> None:
    """Writes the page of the evaluation that `write` wrote."""
    from aujax.report import page

    page.write([folder], "test", folder / "report")


PARTS: dict[str, Callable[[pathlib.Path, int], None]] = {"write": write, "page": page}


def measure(part: str, folder: pathlib.Path, faces: int) -> Cost:
    """Returns the cost of a part in a new process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_here, args=(sender, part, folder, faces))
    process.start()
    sender.close()
    cost = receiver.recv()
    process.join()
    return cost


def _measure_here(sender: Any, part: str, folder: pathlib.Path, faces: int) -> None:
    import aujax.report.page  # noqa: F401  # imports are not counted

    before = _resident("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak
    start = time.perf_counter()
    PARTS[part](folder, faces)
    sender.send(Cost(_resident("VmHWM") - before, time.perf_counter() - start))


def _resident(field: str) -> float:
    """Returns a number of Linux's /proc/self/status in MiB."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few faces: does it run at all?")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--faces", default="1000,10000", help="the two sizes (default: 1000,10000)")
    parser.add_argument("--full", action="store_true", help=f"also run {FULL:,} faces")
    options = parser.parse_args()
    sizes = [100, 200] if options.smoke else [int(size) for size in options.faces.split(",")]
    sizes += [FULL] if options.full else []
    print(timing.machine())
    print(f"{'part':<10}{'faces':>10}{'peak MiB':>12}{'seconds':>10}")
    costs: dict[str, list[Cost]] = {part: [] for part in options.parts.split(",")}
    with tempfile.TemporaryDirectory() as temporary:
        for size in sizes:
            for part in costs:
                cost = measure(part, pathlib.Path(temporary) / str(size), size)
                costs[part].append(cost)
                print(f"{part:<10}{size:>10,}{cost.mib:>12.0f}{cost.seconds:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
