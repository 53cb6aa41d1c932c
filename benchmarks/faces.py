"""Faces for benchmarks that need no data set: 68 landmarks, (x, y) pixels, and images of random ones."""

import numpy as np

from aujax.data.batch import Batch

CANVAS = 224  # pixels a side of the image that the landmarks of `random_faces` belong to

# A frontal face: the centres of brows, eyes, nose and mouth decide the ellipses, so straight lines will do.
_LINES = (
    *((32, 90, 112, 200, 9), (127, 197, 192, 90, 8), (50, 76, 94, 78, 5), (130, 78, 174, 76, 5)),
    *((112, 90, 112, 126, 4), (96, 136, 128, 136, 5), (60, 94, 88, 98, 4), (79, 102, 69, 102, 2)),
    *((136, 94, 164, 98, 4), (155, 102, 145, 102, 2), (82, 164, 142, 164, 7), (137, 170, 86, 170, 5)),
    *((94, 164, 130, 164, 5), (124, 167, 99, 167, 3)),
)


def random_faces(count: int) -> np.ndarray:
    """Returns (count, 68, 2) landmarks of faces of different size, place and roll, on a canvas of 224 x 224."""
    face = np.concatenate([np.linspace(line[:2], line[2:4], line[4]) for line in _LINES])
    face[[51, 57], 1] += (-13, 13)  # open mouth
    rng = np.random.default_rng(0)
    roll, scale = rng.uniform(-0.2, 0.2, count), rng.uniform(0.8, 1.1, count)
    turn = scale * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    faces = np.einsum("pj,ijn->npi", face - 112, turn) + 112 + rng.uniform(-8, 8, (count, 1, 2))
    return faces.astype(np.float32)


def batch(count: int, size: int) -> Batch:
    """Returns faces with random pixels, each expression in turn, in images of (size, size)."""
    return Batch(
        image=np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8),
        landmarks=(random_faces(count) + 0.5) * np.float32(size / CANVAS) - 0.5,
        expression=np.arange(count, dtype=np.int32) % 7,
        index=np.arange(count, dtype=np.int32),
        has_landmarks=np.ones(count, bool),
        valid=np.ones(count, bool),
    )
