"""Memory and time by slope, and what follows for AffectNet's 283,901 faces and an hour of video.

    python benchmarks/scale.py [--smoke] [--parts write,page] [--faces 1000,10000] [--full]

Each part runs at two sizes, each time in a new process: resident memory at the peak beyond that before the work, and
seconds. Slopes are the difference of both sizes by face, and extrapolated. With `--full` the full size is run as well.

    prepare   `aujax prepare` of images of 64 x 64 pixels with a file of landmarks
    evaluate  `aujax eval` of a tiny network on these faces
    explain   `aujax explain` of a video with that network, whole frames without landmarks
    detect    the faces of 1 frame in 100 of a video found by dlib, in as many processes as there are processors
    write     the tables of an evaluation with the scores of a ResNet-50, random, through the writers of `aujax.results`
    page      the page of that evaluation
"""

import argparse
import concurrent.futures
import contextlib
import csv
import io
import multiprocessing
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import faces as landmarked
import numpy as np
import timing

FULL = 283_901  # training faces of AffectNet with seven expressions
HOUR = 108_000  # frames of a video of an hour, 30 a second
SIZE = 64  # pixels

Work = Callable[[], object]


class Cost(NamedTuple):
    """Peak of resident memory beyond that before the work, MiB, and seconds."""

    mib: float
    seconds: float


def make_run(folder: pathlib.Path) -> None:
    """Trains a tiny network for one epoch, FOLDER/run, and uses it once, so that its programs are in JAX's cache."""
    from aujax import cli

    size = f"--size={SIZE}"
    cli.main(["prepare", "synthetic", f"--out={folder / 'drawn'}", "--train=14", "--validation=7", "--test=7", size])
    options = {"data.dir": folder / "drawn", "image_size": SIZE, "data.resize_size": SIZE, "epochs": 1}
    options["data.batch_size"] = 7
    options = [f"--config.{name}={value}" for name, value in options.items()]
    cli.main(["train", "--config=synthetic", f"--workdir={folder / 'run'}", *options])
    cli.main(["eval", f"--workdir={folder / 'run'}"])
    explain(folder / "first", 32)()


def prepare(folder: pathlib.Path, faces: int) -> Work:
    """Returns the work of preparing images of noise; they are written here."""
    from aujax import cli
    from aujax.codebook import EXPRESSIONS

    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    with (folder / "images" / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "expression", "split"])
        for face in range(faces):
            name = f"{face:06}.jpg"
            cv2.imwrite(str(folder / "images" / name), rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8))
            table.writerow([name, EXPRESSIONS[face % len(EXPRESSIONS)], "train" if face >= 7 else "test"])
    np.save(folder / "landmarks.npy", landmarked.random_faces(faces) * (SIZE / landmarked.CANVAS))
    options = [f"--source={folder / 'images'}", f"--landmarks={folder / 'landmarks.npy'}", "--validation=0"]
    return lambda: cli.main(["prepare", "folder", f"--out={folder / 'faces'}", *options])


def evaluate(folder: pathlib.Path, faces: int) -> Work:
    """Returns the work of evaluating the run on the faces that `prepare` prepared."""
    from aujax import cli

    shutil.copytree(folder.parent / "run", folder / "run", dirs_exist_ok=True)
    options = [f"--workdir={folder / 'run'}", f"--data-dir={folder / 'faces'}", "--split=train"]
    return lambda: cli.main(["eval", *options])


def _video(folder: pathlib.Path, frames: int) -> pathlib.Path:
    """Returns a video of a drawn face, 30 frames a second."""
    from aujax.data.synthetic import draw_face

    path = folder / "video.avi"
    folder.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (320, 240))
    image = np.full((240, 320, 3), 128, np.uint8)
    image[40:200, 80:240] = draw_face(0, 1, size=160).image[..., ::-1]
    for _ in range(frames):
        writer.write(image)
    writer.release()
    return path


def explain(folder: pathlib.Path, faces: int) -> Work:
    """Returns the work of explaining a video of that many frames."""
    from aujax import cli

    options = [f"--workdir={folder.parent / 'run'}", f"--out={folder / 'explained'}", "--landmarks=none"]
    video = str(_video(folder, faces))
    return lambda: cli.main(["explain", video, *options, "--align=none"])


def detect(folder: pathlib.Path, faces: int) -> Work:
    """Returns the work of detecting the faces of every hundredth frame of a video."""
    from aujax.data import face_crops, workers

    jobs, video = workers.processors(), _video(folder, faces)

    def work() -> None:
        with workers.process_pool(jobs) as pool:
            find = face_crops.face_finder("dlib", [video], pool=pool)
            options = {"select": "one", "align": "five-point", "size": SIZE, "every": 100, "jobs": jobs}
            for _ in face_crops.load_faces([video], find=find, **options):
                pass

    return work


def write(folder: pathlib.Path, faces: int) -> Work:
    """Returns the work of writing an evaluation with the scores that `eval.py` computes for a ResNet-50."""
    return lambda: _write(folder / "written", faces)


def _write(folder: pathlib.Path, faces: int) -> None:
    from aujax import files
    from aujax.codebook import EXPRESSIONS
    from aujax.results import schema, summary
    from aujax.results.registry import ATTENTION, BASELINE, BASELINE_MAPS, CAM, by_topic
    from aujax.results.schema import ScoreKey

    directory = folder / "eval" / "test"
    directory.mkdir(parents=True)
    data = {"dir": "data/faces", "fingerprint": "e" * 64, "about": {"name": "affectnet", "source": "", "terms": ""}}
    config = {"method": "CAM", "au_weight": 1.0, "seed": 0, "model_selection": "validation", "data": data}
    files.write_json(folder / "config.json", config)
    files.write_json(folder / "manifest.json", {"data": data})
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


def page(folder: pathlib.Path, faces: int) -> Work:
    """Returns the work of writing the page of the evaluation that `write` wrote."""
    from aujax.report import page

    return lambda: page.write([folder / "written"], "test", folder / "report")


PARTS: dict[str, Callable[[pathlib.Path, int], Work]] = {
    part.__name__: part for part in (prepare, evaluate, explain, detect, write, page)
}
NEEDED = {"evaluate": "prepare", "page": "write"}


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns what a function returns in a new process, which prints nothing."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_quietly, function, *arguments).result()


def _quietly(function: Callable[..., Any], *arguments: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments)


def measure(part: str, folder: pathlib.Path, faces: int) -> Cost:
    """Returns the cost of a part."""
    work = PARTS[part](folder, faces)
    before = _resident("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak
    start = time.perf_counter()
    work()
    return Cost(_resident("VmHWM") - before, time.perf_counter() - start)


def _resident(field: str) -> float:
    """Returns a number of Linux's /proc/self/status in MiB."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few faces: does it run at all?")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--faces", default="1000,10000", help="the two sizes (default: 1000,10000)")
    parser.add_argument("--full", action="store_true", help=f"also run {FULL:,} faces")
    options = parser.parse_args()
    small, large = (32, 64) if options.smoke else map(int, options.faces.split(","))
    parts = options.parts.split(",")
    if missing := [f"{NEEDED[part]} before {part}" for part in parts if NEEDED.get(part, part) not in parts]:
        parser.error(f"--parts: expected {', '.join(missing)}")
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        if {"evaluate", "explain"} & set(parts):
            in_process(make_run, folder)
        costs = {}
        for size in (small, large, *([FULL] if options.full else [])):
            for part in parts:
                costs[part, size] = in_process(measure, part, folder / str(size), size)
    print(f"{timing.machine()}\n")
    print(f"{'part':<10}{'faces':>10}{'peak MiB':>10}{'seconds':>10}{'kB a face':>12}{'ms a face':>12}   extrapolated")
    for part in parts:
        first, second = costs[part, small], costs[part, large]
        slope = Cost(*((b - a) / (large - small) for a, b in zip(first, second, strict=True)))
        target = HOUR if part in ("explain", "detect") else FULL
        peak, seconds = (max(b, b + rate * (target - large)) for b, rate in zip(second, slope, strict=True))
        end = (
            f"{slope.mib * 1048.576:>12.2f}{slope.seconds * 1e3:>12.2f}   {target:,}: {peak:,.0f} MiB, {seconds:,.0f} s"
        )
        lines.append(f"{part:<10}{small:>10,}{first.mib:>10,.0f}{first.seconds:>10.1f}")
        lines.append(f"{part:<10}{large:>10,}{second.mib:>10,.0f}{second.seconds:>10.1f}{end}")
        if options.full:
            lines.append(f"{part:<10}{FULL:>10,}{costs[part, FULL].mib:>10,.0f}{costs[part, FULL].seconds:>10.1f}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
