"""Batches of decoded faces, read ahead by Grain, in an order that is a function of seed and epoch alone."""

from collections.abc import Iterator, Sequence

import grain
import jax
import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from aujax.codebook import rescale_landmarks
from aujax.data import images
from aujax.data.batch import Batch
from aujax.data.images import Pixels
from aujax.data.landmarks import Landmarks
from aujax.data.store import FaceSource, Record
from aujax.errors import UserError


def epoch_order(seed: int, epoch: int, count: int) -> Int[np.ndarray, " count"]:
    """Returns the rows of a split in the order in which this epoch visits them."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def batches(
    source: FaceSource,
    order: Int[np.ndarray, " faces"],
    *,
    batch_size: int,
    size: int,
    threads: int,
) -> Iterator[Batch]:
    """Yields this process's part of every batch, with images resized to (size, size).

    The last batch is padded with the first faces of the order, marked as not valid. Each thread makes whole batches; at
    most twice as many batches as threads are kept in memory.
    """
    rows, valid = batch_rows(order, batch_size)
    part = np.array_split(np.arange(batch_size), jax.process_count())[jax.process_index()]
    rows, valid = rows[:, part].reshape(-1), valid[:, part].reshape(-1)

    def face(position: int) -> Batch:
        row = int(rows[position])
        return decoded(source[row], row, size)._replace(valid=valid[position])

    dataset = grain.MapDataset.range(len(rows)).map(face).batch(len(part), batch_fn=stack)
    yield from dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))


def num_batches(faces: int, batch_size: int) -> int:
    """Returns the number of batches in one pass over the faces, including a partial last one."""
    return -(-faces // batch_size)


def batch_rows(
    order: Int[np.ndarray, " faces"], batch_size: int
) -> tuple[Int[np.ndarray, "batches batch"], Bool[np.ndarray, "batches batch"]]:
    """Returns the rows of each batch and which are valid: the last batch is padded with the first rows of the order."""
    rows = np.resize(order, (num_batches(len(order), batch_size), batch_size))
    return rows, (np.arange(rows.size) < len(order)).reshape(rows.shape)


def decoded(record: Record, row: int, size: int) -> Batch:
    """Returns one face, without a batch axis, resized to (size, size) with its landmarks scaled along.

    Raises:
      UserError: the image cannot be decoded.
    """
    try:
        image = images.decode(record["image"])
    except ValueError as error:
        raise UserError(
            f"face {record['id']!r} of the prepared data set cannot be decoded ({error}); prepare the data set again"
        ) from error
    landmarks = record["landmarks"] if record["has_landmarks"] else None
    return example(image, landmarks, size, expression=record["expression"], row=row)


def example(pixels: Pixels, landmarks: Landmarks | None, size: int, *, expression: int = 0, row: int = 0) -> Batch:
    """Returns one face, without a batch axis, resized to (size, size) with its landmarks scaled along."""
    height, width = pixels.shape[:2]
    if (height, width) != (size, size):
        # Pillow's kernel grows as the image is reduced (antialiasing), as for the images of the published models.
        pixels = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    if landmarks is None:
        scaled = np.zeros((68, 2), np.float32)
    else:
        scaled = rescale_landmarks(landmarks, np.array([size / width, size / height], np.float32))
    return Batch(
        image=pixels,
        landmarks=scaled,
        expression=np.asarray(expression, np.int32),
        index=np.asarray(row, np.int32),
        has_landmarks=np.asarray(landmarks is not None),
        valid=np.asarray(True),
    )


def stack(faces: Sequence[Batch]) -> Batch:
    """Returns faces without a batch axis as a batch."""
    return jax.tree.map(lambda *parts: np.stack(parts), *faces)
