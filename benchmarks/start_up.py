"""How long `train.py` takes to its first step: with an empty compilation cache, and again with a full one.

    python benchmarks/start_up.py [--smoke] [--data DIR] [-- any options of train.py]

Without --data a few synthetic faces are prepared. Each start is a process of its own, stopped when the step has been
compiled and the faces are in place. The default network is the tiny one; for another: -- --config=configs/faces.py
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import timing

ROOT = pathlib.Path(__file__).parents[1]
READY = ("all faces in device memory", "faces loaded from disk")  # what the loop prints before its first step


def seconds_to_first_step(cache: pathlib.Path, workdir: pathlib.Path, options: list[str]) -> float:
    """Returns how long a new process needs until the step is compiled and has its data."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONUNBUFFERED": "1"}
    started = time.perf_counter()
    command = [sys.executable, "train.py", f"--workdir={workdir}", *options]
    lines = []
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            lines.append(line)
            if line.startswith(READY):
                process.kill()
                return time.perf_counter() - started
    raise SystemExit("train.py ended before its first step:\n" + "".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="the smallest images: does it run at all?")
    parser.add_argument("--data", help="prepared data set (default: synthetic faces)")
    parser.add_argument("options", nargs="*", help="options of train.py, after --")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        data = given.data or place / "faces"
        if not given.data:
            sizes = ["--train=64", "--validation=16", "--test=16", "--size=64", "--jobs=1"]
            command = [sys.executable, "-m", "aujax.data.prepare", "synthetic", f"--out={data}", *sizes]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        small = ["--config.image_size=32", "--config.data.resize_size=36"] if given.smoke else []
        options = [f"--config.data.dir={data}", *small, *given.options]
        cold, warm = (seconds_to_first_step(place / "cache", place / name, options) for name in ("cold", "warm"))
        files = [file for file in (place / "cache").rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files) / 2**20
    print(f"{timing.machine()}; train.py {' '.join([*small, *given.options]) or 'as by default'}\n")
    print(f"first start  {cold:6.1f} s to the first step")
    print(f"second start {warm:6.1f} s ({warm / cold:.2f} of the first); the cache holds {size:.1f} MiB")


if __name__ == "__main__":
    main()
