"""Milliseconds per 224 x 224 AU map: aujax, batched, against the released code's way of drawing on one CPU core.

    python benchmarks/au_maps.py [--smoke] [--device]

All run in this process on the same core, in turns, so that a busy machine slows all alike; times per image are
medians over the turns, and "faster" is the ratio of two of them. With --device aujax draws on JAX's default device.
"""

import argparse
import functools
import os
import statistics
import sys

if "--device" not in sys.argv:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"

import cv2
import jax
import numpy as np
import timing
from faces import random_faces
from released_au_maps import EXPRESSION_AUS, released_map

from aujax import au_maps, codebook

SIZE = (224, 224)
BOOKS = (codebook.FACS, codebook.REFERENCE)


def batched(book: codebook.Codebook, faces: np.ndarray, labels: np.ndarray):
    """Returns the work of drawing one map per face in one call."""
    draw = jax.jit(jax.vmap(functools.partial(au_maps.au_map, size=SIZE, codebook=book)))
    faces, labels = jax.device_put((faces, labels))
    return lambda: jax.block_until_ready(draw(faces, labels))


def one_by_one(faces: np.ndarray, expression: str):
    """Returns the work of drawing one map per face as the released code does."""
    return lambda: [released_map(face, EXPRESSION_AUS[expression], SIZE) for face in faces]


def measure(expression: str, batch: int, repeats: int) -> tuple[float, ...]:
    """Returns milliseconds per image of the released way, of FACS and of REFERENCE."""
    faces = random_faces(batch)
    labels = np.full(batch, codebook.EXPRESSIONS.index(expression), np.int32)
    works = one_by_one(faces, expression), *(batched(book, faces, labels) for book in BOOKS)
    return tuple(seconds * 1e3 / batch for seconds in timing.in_turns(works, repeats))


def print_row(name: str, released: float, facs: float, reference: float) -> None:
    """Prints one line of the table."""
    ratios = f"{released / facs:>11.1f}x {released / reference:>15.1f}x"
    print(f"{name:<12}{released:>9.2f} {facs:>9.3f} {reference:>11.3f}{ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="two expressions, small batches: does it run at all?")
    parser.add_argument("--device", action="store_true", help="draw on JAX's default device, 2,048 faces at a time")
    options = parser.parse_args()
    smoke = options.smoke
    batch, repeats = (4, 2) if smoke else (2048 if options.device else 64, 9)
    cv2.setNumThreads(1)
    print(f"{timing.machine()}, OpenCV {cv2.__version__}; batches of {batch}, median of {repeats} turns\n")
    print("ms per image  released     FACS   REFERENCE  FACS faster  REFERENCE faster")
    rows = [(name, measure(name, batch, repeats)) for name in list(EXPRESSION_AUS)[: 2 if smoke else None]]
    for name, times in rows:
        print_row(name, *times)
    means = [statistics.mean(column) for column in zip(*(times for _, times in rows), strict=True)]
    print_row("mean", *means)
    print("maps a second" + "".join(f"{1e3 / mean:>12,.0f}" for mean in means))


if __name__ == "__main__":
    main()
